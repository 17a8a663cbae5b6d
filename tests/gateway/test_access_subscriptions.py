"""Access of subscriptions: no subscription of the schema discloses data of another tenant.

The people of birch and oak, and anonymous clients, subscribe with ash's ids, alone and beside their own. Then ash's people change their
data and receive the events.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import grpc
import pytest
from websockets.exceptions import ConnectionClosed

from tests.gateway.live_gateway import SECONDS_MAX, LiveGateway, SocketClient, serve
from tests.gateway.schema_operations import Ids
from tests.gateway.small_world import new_key
from tests.gateway.test_access import Actor, Street, find_disclosed, list_people, quiet, street
from tests.services.worlds.sides import Side
from tests.services.worlds.watching import find_own_data

__all__ = ["quiet", "street"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSED = {"UNAUTHENTICATED", "NOT_PERMITTED", "ORDER_NOT_FOUND", "STAFF_NOT_FOUND", "STORE_NOT_FOUND", "CONSUMER_NOT_FOUND"}
"""The codes that may end the subscription of a foreign actor; otherwise it stays silent."""
INVALID_COMBINATION = "INVALID_FIELD"
"""The code that ends a subscription with too many ids at once."""


class Follower:
    """An actor with a socket, its subscriptions and the messages that it received."""

    def __init__(self, actor: Actor, socket: SocketClient) -> None:
        self.actor, self.socket = actor, socket
        self.subscriptions: dict[str, tuple[str, str]] = {}
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.changed = asyncio.Condition()
        self.has_pong = False

    async def subscribe(self, field: str, query: str) -> None:
        self.subscriptions[await self.socket.subscribe(query)] = (field, query)

    async def listen(self) -> None:
        """Records all messages until the socket is closed."""
        with suppress(ConnectionClosed):
            while True:
                message = json.loads(await self.socket.opened.recv())
                async with self.changed:
                    if message["type"] == "pong":
                        self.has_pong = True
                    else:
                        payload = message.get("payload")
                        self.received.append((message["id"], {"errors": payload} if message["type"] == "error" else payload or {}))
                    self.changed.notify_all()

    async def receive_all(self) -> None:
        """Returns when all messages that were sent so far have arrived."""
        self.has_pong = False
        await self.socket.send(type="ping")
        async with asyncio.timeout(SECONDS_MAX), self.changed:
            await self.changed.wait_for(lambda: self.has_pong)

    async def wait_for_message(self) -> None:
        """Returns when another message has arrived."""
        async with self.changed:
            await self.changed.wait()

    def unexpected_refusals(self) -> Iterator[str]:
        """Yields the subscriptions that were refused for another reason than access."""
        for id, body in self.received:
            field, query = self.subscriptions[id]
            for code in {error["extensions"]["code"] for error in body.get("errors", ())} - REFUSED:
                if code != INVALID_COMBINATION or query.partition("{__typename")[0].count("Id:") < 2:
                    yield f"{field} is refused to {self.actor.label} with {code}: {query[:200]}"

    def disclosures(self, own: Any) -> Iterator[tuple[str, list[str]]]:
        """Yields the values of the target that it received, by field."""
        for id, body in self.received:
            field, query = self.subscriptions[id]
            if found := find_disclosed(own, body, query):
                yield field, found


async def change_data(street: Street, ash: Side) -> None:
    """Changes one object of each kind that has subscriptions."""
    guide, consumer = (Actor("ash's", subject, ash) for subject in (ash.ids["staff"][0], ash.consumer))
    outreach = {"consumerId": ash.consumer, "brandId": ash.brand_id, "text": ash.text("come again")}
    for actor, mutation, given in (
        (guide, "acknowledgeTask", {"taskId": ash.task}),
        (guide, "sendOutreach", outreach | {"idempotencyKey": new_key()}),
        (consumer, "cancelOrder", {"orderId": ash.order, "idempotencyKey": new_key()}),
    ):
        noun = mutation[0].upper() + mutation[1:]
        query = f"mutation($input:{noun}Input!){{{mutation}(input:$input){{__typename ...on Refusal{{code message}}}}}}"
        answer = (await street.answer(actor, query, {"input": given}))["data"][mutation]
        assert answer["__typename"] == f"{noun}Payload", answer


async def connect_follower(stack: AsyncExitStack, served: LiveGateway, actor: Actor, offset: float) -> Follower:
    """Returns a follower with an initialised socket."""
    socket = await stack.enter_async_context(served.socket())
    token = served.gateway.token(actor.subject, clock_offset=offset) if actor.subject else ""
    await socket.send(type="connection_init", payload={"authorization": f"Bearer {token}"} if token else {})
    assert await socket.receive() == {"type": "connection_ack"}
    follower = Follower(actor, socket)
    listening = asyncio.create_task(follower.listen())
    stack.callback(listening.cancel)
    return follower


def record_streams(street: Street) -> list[grpc.aio.UnaryStreamCall[Any, Any]]:
    """Returns a list to which the gateway's new streams are added."""
    clients, opened = street.gateway.app.state.clients, []
    follow = clients.follow

    def record_call(request: Any) -> Any:
        opened.append(follow(request))
        return opened[-1]

    clients.follow = record_call
    return opened


async def test_subscription_discloses_no_foreign_data(street: Street) -> None:
    ash, offset = street.world.ash, street.world.suite.offset
    fields = set(street.generator.schema.subscription_type.fields)  # type: ignore[union-attr]
    opened = record_streams(street)
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(serve(street.gateway))
        foreign, owners = [], []
        for side in (street.world.birch, street.world.oak):
            sides: dict[str, Ids] = {"target": ash.ids, "own": side.ids}
            for actor in [Actor(f"anonymous beside {side.name}", "", side), *list_people(side)]:
                foreign.append(await connect_follower(stack, served, actor, offset))
                for field, query in street.generator.subscriptions(sides):
                    await foreign[-1].subscribe(field, query)
        for actor in list_people(ash):
            owners.append(await connect_follower(stack, served, actor, offset))
            for field, query in street.generator.subscriptions({"target": ash.ids}):
                await owners[-1].subscribe(field, query)
        for follower in (*foreign, *owners):
            await follower.receive_all()
        for call in opened:  # the initial metadata is sent when a stream starts
            with suppress(grpc.aio.AioRpcError):
                await call.initial_metadata()
        await change_data(street, ash)

        own = await find_own_data(ash, street.world.birch, street.world)
        async with asyncio.timeout(SECONDS_MAX):
            while fields - {field for each in owners for field, _ in each.disclosures(own)}:
                await asyncio.wait([asyncio.create_task(each.wait_for_message()) for each in owners], return_when=asyncio.FIRST_COMPLETED)
        problems = []
        for each in foreign:
            await each.receive_all()
            own = await find_own_data(ash, each.actor.side, street.world)
            problems += [f"{field} discloses to {each.actor.label} {found}" for field, found in each.disclosures(own)]
            problems += each.unexpected_refusals()
    assert not problems, "\n".join(problems[:30])
