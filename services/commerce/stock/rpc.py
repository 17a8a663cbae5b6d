"""Stock and holds over the wire."""

from typing import Any

from quanyu.commerce.v1 import stock_pb2, stock_pb2_grpc
from services.commerce.catalog.repository import CatalogRepository
from services.commerce.catalog.rules import Variant
from services.commerce.rejects import rejects_of
from services.commerce.stock import rules
from services.commerce.stock.enums import Reason
from services.commerce.stock.repository import StockRepository, row_of, with_available
from services.commerce.stock.rules import Stock, Store, stock_id
from services.kit.errors import Conflict, Invalid, NotFound, Refusal
from services.kit.mongo.codec import as_struct, fields
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.idempotency import IdempotencyKey
from services.kit.transactions.unit_of_work import UnitOfWork, transactional

ATTEMPTS_MAX = 5
"""Looks at a hold that others keep changing."""


class StockServicer(stock_pb2_grpc.StockServiceServicer):
    def __init__(self, runtime: Runtime, catalog: CatalogRepository, stocks: StockRepository) -> None:
        self.transactions, self.clock, self.catalog, self.stocks = runtime.transactions, runtime.clock, catalog, stocks

    async def BatchGetStocks(self, request: stock_pb2.BatchGetStocksRequest, context: Any) -> stock_pb2.BatchGetStocksResponse:
        rows = await self.stocks.stocks.batch(request.ids)
        return stock_pb2.BatchGetStocksResponse(stocks=[with_available(row) for row in rows])

    async def ListStocks(self, request: stock_pb2.ListStocksRequest, context: Any) -> stock_pb2.ListStocksResponse:
        query = _named(request, "store_id", "variant_id")
        rows, page = await self.stocks.stocks.page(query, request.page, order=[])
        return stock_pb2.ListStocksResponse(stocks=[with_available(row) for row in rows], page=page)

    async def BatchListStocks(self, request: stock_pb2.BatchListStocksRequest, context: Any) -> stock_pb2.BatchListStocksResponse:
        name, ids = batch_lists.asked(request, "store_ids", "variant_ids")
        found = await self.stocks.stocks.first_pages({id: {name: id} for id in ids}, request.first, order=[])
        shown = {id: ([with_available(row) for row in rows], page) for id, (rows, page) in found.items()}
        return stock_pb2.BatchListStocksResponse(lists=batch_lists.answered("key", "stocks", shown))

    async def SetStock(self, request: stock_pb2.SetStockRequest, context: Any) -> stock_pb2.SetStockResponse:
        level = _level(request)
        store, variant = await self._place(request.store_id, request.variant_id)
        return await self.stocks.set_level(IdempotencyKey.of(request), store, variant, level.on_hand, level.safety)

    async def AdjustStock(self, request: stock_pb2.AdjustStockRequest, context: Any) -> stock_pb2.AdjustStockResponse:
        if not 0 < abs(request.change) <= rules.COUNT_MAX:
            raise Invalid(Reason.INVALID_FIELD, f"1 to {rules.COUNT_MAX} pieces, more or less", field="change")
        await self.stocks.stocks.load(stock_id(request.store_id, request.variant_id), writing=True)
        return await self.stocks.adjust(IdempotencyKey.of(request), request.store_id, request.variant_id, request.change)

    @transactional
    async def ImportStock(self, request: stock_pb2.ImportStockRequest, uow: UnitOfWork) -> stock_pb2.ImportStockResponse:
        if not 0 < len(request.rows) <= rules.IMPORT_MAX:
            raise Invalid(Reason.INVALID_FIELD, f"1 to {rules.IMPORT_MAX} rows", field="rows")
        stores = await self.stocks.known_stores((row.store_id for row in request.rows), scoped=True)
        variants = await self.catalog.known(row.variant_id for row in request.rows)
        refused: dict[int, Refusal] = {}
        rows: dict[int, Stock] = {}
        seen: set[str] = set()
        for index, given in enumerate(request.rows):
            try:
                row = _imported(given, stores, variants)
                if row.id in seen:
                    raise Invalid(Reason.STOCK_REPEATED, "this import names the same store and variant twice")
                seen.add(row.id)
                rows[index] = row
            except Refusal as refusal:
                refused[index] = refusal
        refused |= await self.stocks.bring(uow, rows)
        rejects = rejects_of(refused, [stock_id(row.store_id, row.variant_id) for row in request.rows])
        return stock_pb2.ImportStockResponse(imported=len(request.rows) - len(rejects), rejects=rejects)

    async def HoldStock(self, request: stock_pb2.HoldStockRequest, context: Any) -> stock_pb2.HoldStockResponse:
        asked = as_struct(fields(request), rules.HoldAsked)
        return await self.stocks.hold(
            IdempotencyKey.of(request),
            self.clock(),
            store_id=asked.store_id,
            variant_id=asked.variant_id,
            quantity=asked.quantity,
            consumer_id=asked.consumer_id,
            needed_by=asked.needed_by,
            answer=lambda hold: stock_pb2.HoldStockResponse(hold=hold),
            answer_type=stock_pb2.HoldStockResponse,
        )

    async def ReleaseHold(self, request: stock_pb2.ReleaseHoldRequest, context: Any) -> stock_pb2.ReleaseHoldResponse:
        key: IdempotencyKey | None = IdempotencyKey.of(request)
        for _ in range(ATTEMPTS_MAX):
            hold = await self.stocks.holds.load(request.hold_id, writing=True)
            try:
                return await self.stocks.release(key, hold)
            except Conflict as refusal:
                if refusal.reason != "STATE_CHANGED":
                    raise
                # It ended or was ordered meanwhile: decided anew on what it is now.
                key = None
        raise Conflict("CONTENDED", "others keep changing this hold; look at it again")

    async def GetHold(self, request: stock_pb2.GetHoldRequest, context: Any) -> stock_pb2.GetHoldResponse:
        return stock_pb2.GetHoldResponse(hold=await self.stocks.holds.get(request.id))

    async def BatchGetHolds(self, request: stock_pb2.BatchGetHoldsRequest, context: Any) -> stock_pb2.BatchGetHoldsResponse:
        return stock_pb2.BatchGetHoldsResponse(holds=await self.stocks.holds.batch(request.ids))

    async def ListHolds(self, request: stock_pb2.ListHoldsRequest, context: Any) -> stock_pb2.ListHoldsResponse:
        holds, page = await self.stocks.held(_named(request, "consumer_id", "store_id"), request.page)
        return stock_pb2.ListHoldsResponse(holds=holds, page=page)

    async def BatchListHolds(self, request: stock_pb2.BatchListHoldsRequest, context: Any) -> stock_pb2.BatchListHoldsResponse:
        found = await self.stocks.first_held(*batch_lists.asked(request, "consumer_ids", "store_ids"), request.first)
        return stock_pb2.BatchListHoldsResponse(lists=batch_lists.answered("key", "holds", found))

    async def _place(self, store_id: str, variant_id: str) -> tuple[Store, Variant]:
        """The store, if the caller may write its stock, and the variant."""
        store = await self.stocks.stores.load(store_id, writing=True)
        return store, await self.catalog.variants.load(variant_id)


def _named(request: Any, *names: str) -> dict[str, str]:
    """The fields that a list is asked by: at least one of them."""
    query = {name: getattr(request, name) for name in names if getattr(request, name)}
    if not query:
        raise Invalid(Reason.INVALID_FIELD, f"name at least one of {', '.join(names)}", field=names[0])
    return query


def _level(given: Any) -> rules.Level:
    return as_struct({name: value for name, value in fields(given).items() if name in ("on_hand", "safety")}, rules.Level)


def _imported(given: stock_pb2.StockRow, stores: dict[str, Store], variants: dict[str, Variant]) -> Stock:
    level = _level(given)
    if given.store_id not in stores:
        raise NotFound(Reason.STORE_NOT_FOUND, "there is no such store for you", store_id=given.store_id)
    if given.variant_id not in variants:
        raise NotFound(Reason.VARIANT_NOT_FOUND, "there is no such variant", variant_id=given.variant_id)
    return row_of(stores[given.store_id], variants[given.variant_id], level.on_hand, level.safety)
