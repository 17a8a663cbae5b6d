"""Services of the gateway's bench. All responses are prepared bytes, so that the bench measures the gateway.

python -m tests.bench.peers.services     prints its address
"""

import asyncio
import sys
from collections.abc import Iterable
from typing import Any

import grpc
import uvloop
from google.protobuf.message import Message

from gateway.rpc.clients import rpc_of
from quanyu.commerce.v1 import catalog_pb2, orders_pb2
from quanyu.common.v1.money_pb2 import Money
from quanyu.common.v1.page_pb2 import PageInfo
from quanyu.member.v1 import identity_pb2
from quanyu.organization.v1 import chart_pb2

OFFERS, ORDERS, VARIANTS = 50, 20, 3
CONSUMER = "con_01890000-0000-7000-8000-000000000001"


def offer(number: int) -> catalog_pb2.Offer:
    """Returns a shirt in three sizes."""
    made = catalog_pb2.Offer(
        id=f"ofr_01890000-0000-7000-8000-{number:012}",
        name=catalog_pb2.Text(zh=f"白衬衫 {number}", en=f"White shirt {number}"),
        category="shirt",
        price_from=Money(minor=39_900 + number, currency="CNY"),
        brand_id="brd_a",
    )
    for size in range(VARIANTS):
        made.goods.add(
            variant_id=f"var_01890000-0000-7000-8000-{number:06}{size:06}",
            price=Money(minor=39_900 + number, currency="CNY"),
            attributes={"size": str(39 + size), "colour": "white", "fit": "slim"},
        )
    return made


def order(number: int) -> orders_pb2.Order:
    """Returns a paid order of two shirts."""
    made = orders_pb2.Order(
        id=f"ord_01890000-0000-7000-8000-{number:012}",
        consumer_id=CONSUMER,
        state=orders_pb2.ORDER_STATE_PAID,
        total=Money(minor=79_800, currency="CNY"),
    )
    made.placed_at.FromSeconds(1_700_000_000 + number)
    for line in range(2):
        made.lines.add(quantity=1, offer_id=offer((number + line) % OFFERS).id, paid=Money(minor=39_900, currency="CNY"))
    return made


def offers(numbers: Iterable[int]) -> catalog_pb2.BatchGetOffersResponse:
    return catalog_pb2.BatchGetOffersResponse(offers=map(offer, numbers))


PAGE = PageInfo(end_cursor="next", has_next_page=True)
CONSUMERS = identity_pb2.BatchGetConsumersResponse(consumers=[identity_pb2.Consumer(id=CONSUMER, display_name="Anna")])
RESPONSES: dict[type[Message], Message] = {
    catalog_pb2.SearchOffersRequest: catalog_pb2.SearchOffersResponse(offers=map(offer, range(OFFERS)), page=PAGE),
    orders_pb2.ListOrdersRequest: orders_pb2.ListOrdersResponse(orders=map(order, range(ORDERS)), page=PAGE),
    identity_pb2.BatchGetConsumersRequest: CONSUMERS,
    chart_pb2.ResolveGrantsRequest: chart_pb2.ResolveGrantsResponse(),
}
SINGLE = catalog_pb2.BatchGetOffersRequest(ids=[offer(0).id]).SerializeToString()


def resolve_consumer(request: bytes) -> bytes:
    """Returns the consumer whose id is the subject of the token."""
    id = identity_pb2.ResolveConsumerRequest.FromString(request).subject
    return identity_pb2.ResolveConsumerResponse(consumer_id=id, consumer_ids=[id]).SerializeToString()  # type: ignore[no-any-return]


class ResponseHandler(grpc.GenericRpcHandler):
    """Returns the prepared response of each rpc."""

    def __init__(self) -> None:
        made = {rpc_of(request).path: answer.SerializeToString() for request, answer in RESPONSES.items()}
        one, all_of_orders = offers([0]).SerializeToString(), offers(range(ORDERS + 1)).SerializeToString()
        self.handlers = {path: self._handler(lambda _, answer=answer: answer) for path, answer in made.items()}
        path = rpc_of(catalog_pb2.BatchGetOffersRequest).path
        self.handlers[path] = self._handler(lambda request: one if request == SINGLE else all_of_orders)
        self.handlers[rpc_of(identity_pb2.ResolveConsumerRequest).path] = self._handler(resolve_consumer)

    @staticmethod
    def _handler(respond: Any) -> Any:
        async def handle(request: bytes, context: Any) -> bytes:
            return respond(request)  # type: ignore[no-any-return]

        return grpc.unary_unary_rpc_method_handler(handle)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self.handlers.get(details.method)


async def main() -> None:
    """Serves until the process is killed."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((ResponseHandler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"127.0.0.1:{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(main())
