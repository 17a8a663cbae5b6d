"""Promises over the wire."""

from typing import Any

from msgspec.structs import asdict, replace

from quanyu.commerce.v1 import discovery_pb2, discovery_pb2_grpc
from services.commerce.discovery import rules
from services.commerce.discovery.repository import ShelfRepository
from services.commerce.discovery.rules import Asked, HoldAsked
from services.commerce.stock.repository import StockRepository
from services.kit.mongo.codec import as_struct, builtins, fields
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.idempotency import IdempotencyKey


class DiscoveryServicer(discovery_pb2_grpc.DiscoveryServiceServicer):
    def __init__(self, runtime: Runtime, stocks: StockRepository, shelves: ShelfRepository) -> None:
        self.clock, self.stocks, self.shelves = runtime.clock, stocks, shelves

    async def SearchPromises(self, request: discovery_pb2.SearchPromisesRequest, context: Any) -> discovery_pb2.SearchPromisesResponse:
        asked = as_struct(fields(request), Asked)
        question = rules.search(self.clock(), **asdict(asked))
        promises, unavailable = rules.answer(question, await self.shelves.near(question))
        return discovery_pb2.SearchPromisesResponse(promises=builtins(promises), unavailable=builtins(unavailable))

    async def HoldPromise(self, request: discovery_pb2.HoldPromiseRequest, context: Any) -> discovery_pb2.HoldPromiseResponse:
        key = IdempotencyKey.of(request)
        asked = as_struct(fields(request), HoldAsked)
        at = self.clock()
        shelf = await self.shelves.one(asked.store_id, asked.variant_id, rules.place(asked.destination, "destination"))
        return await self.stocks.hold(
            key,
            at,
            store_id=asked.store_id,
            variant_id=asked.variant_id,
            quantity=asked.quantity,
            consumer_id=asked.consumer_id,
            needed_by=asked.needed_by,
            promise=lambda row: rules.promise(replace(shelf, stock=row), asked.method, at, asked.needed_by),
            answer=lambda hold: discovery_pb2.HoldPromiseResponse(hold=hold),
            answer_type=discovery_pb2.HoldPromiseResponse,
        )
