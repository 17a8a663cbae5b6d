"""The gRPC servicer of promise search."""

from typing import Any

from msgspec.structs import asdict, replace

from quanyu.commerce.v1 import discovery_pb2, discovery_pb2_grpc
from services.commerce.discovery import rules
from services.commerce.discovery.repository import NearbyStockRepository
from services.commerce.discovery.rules import HoldRequest, SearchRequest
from services.commerce.stock.repository import StockRepository
from services.kit.mongo.codec import request_fields, to_builtins, to_struct
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.idempotency import IdempotencyKey


class DiscoveryServicer(discovery_pb2_grpc.DiscoveryServiceServicer):
    def __init__(self, runtime: Runtime, stocks: StockRepository, nearby_stock: NearbyStockRepository) -> None:
        self.clock, self.stocks, self.nearby_stock = runtime.clock, stocks, nearby_stock

    async def SearchPromises(self, request: discovery_pb2.SearchPromisesRequest, context: Any) -> discovery_pb2.SearchPromisesResponse:
        search = rules.build_search(self.clock(), **asdict(to_struct(request_fields(request), SearchRequest)))
        promises, unavailable = rules.find_promises(search, await self.nearby_stock.find_nearest(search))
        return discovery_pb2.SearchPromisesResponse(promises=to_builtins(promises), unavailable=to_builtins(unavailable))

    async def HoldPromise(self, request: discovery_pb2.HoldPromiseRequest, context: Any) -> discovery_pb2.HoldPromiseResponse:
        key = IdempotencyKey.from_request(request)
        hold_request = to_struct(request_fields(request), HoldRequest)
        at = self.clock()
        destination = rules.require_point(hold_request.destination, "destination")
        nearby = await self.nearby_stock.load(hold_request.store_id, hold_request.variant_id, destination)
        return await self.stocks.hold(
            key,
            at,
            store_id=hold_request.store_id,
            variant_id=hold_request.variant_id,
            quantity=hold_request.quantity,
            consumer_id=hold_request.consumer_id,
            needed_by=hold_request.needed_by,
            promise=lambda stock: rules.make_promise(replace(nearby, stock=stock), hold_request.method, at, hold_request.needed_by),
            answer=lambda hold: discovery_pb2.HoldPromiseResponse(hold=hold),
            answer_type=discovery_pb2.HoldPromiseResponse,
        )
