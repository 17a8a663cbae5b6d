"""The gRPC servicer of stock and holds."""

from typing import Any

from quanyu.commerce.v1 import stock_pb2, stock_pb2_grpc
from services.commerce.catalog.repository import CatalogRepository
from services.commerce.catalog.rules import Variant
from services.commerce.rejects import build_rejects
from services.commerce.stock import rules
from services.commerce.stock.enums import Reason
from services.commerce.stock.repository import StockRepository, new_stock, with_available
from services.commerce.stock.rules import Stock, Store, stock_id
from services.kit.errors import Conflict, Invalid, NotFound, Refusal
from services.kit.mongo.codec import request_fields, to_struct
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.idempotency import IdempotencyKey
from services.kit.transactions.unit_of_work import UnitOfWork, transactional

ATTEMPTS_MAX = 5
"""A release reads its hold at most this often while concurrent calls change it."""


class StockServicer(stock_pb2_grpc.StockServiceServicer):
    def __init__(self, runtime: Runtime, catalog: CatalogRepository, stocks: StockRepository) -> None:
        self.transactions, self.clock, self.catalog, self.stocks = runtime.transactions, runtime.clock, catalog, stocks

    async def BatchGetStocks(self, request: stock_pb2.BatchGetStocksRequest, context: Any) -> stock_pb2.BatchGetStocksResponse:
        stocks = await self.stocks.stocks.batch(request.ids)
        return stock_pb2.BatchGetStocksResponse(stocks=[with_available(stock) for stock in stocks])

    async def ListStocks(self, request: stock_pb2.ListStocksRequest, context: Any) -> stock_pb2.ListStocksResponse:
        query = _list_filter(request, "store_id", "variant_id")
        stocks, page = await self.stocks.stocks.page(query, request.page, order=[])
        return stock_pb2.ListStocksResponse(stocks=[with_available(stock) for stock in stocks], page=page)

    async def BatchListStocks(self, request: stock_pb2.BatchListStocksRequest, context: Any) -> stock_pb2.BatchListStocksResponse:
        name, ids = batch_lists.selected_ids(request, "store_ids", "variant_ids")
        found = await self.stocks.stocks.first_pages({id: {name: id} for id in ids}, request.first, order=[])
        pages = {id: ([with_available(stock) for stock in stocks], page) for id, (stocks, page) in found.items()}
        return stock_pb2.BatchListStocksResponse(lists=batch_lists.to_lists("key", "stocks", pages))

    async def SetStock(self, request: stock_pb2.SetStockRequest, context: Any) -> stock_pb2.SetStockResponse:
        level = _stock_level(request)
        store, variant = await self._load_store_and_variant(request.store_id, request.variant_id)
        return await self.stocks.set_level(IdempotencyKey.from_request(request), store, variant, level.on_hand, level.safety)

    async def AdjustStock(self, request: stock_pb2.AdjustStockRequest, context: Any) -> stock_pb2.AdjustStockResponse:
        if not 0 < abs(request.change) <= rules.COUNT_MAX:
            raise Invalid(Reason.INVALID_FIELD, f"`change` must be 1 to {rules.COUNT_MAX} pieces, or the negative of it.", field="change")
        await self.stocks.stocks.load(stock_id(request.store_id, request.variant_id), writing=True)
        return await self.stocks.adjust(IdempotencyKey.from_request(request), request.store_id, request.variant_id, request.change)

    @transactional
    async def ImportStock(self, request: stock_pb2.ImportStockRequest, uow: UnitOfWork) -> stock_pb2.ImportStockResponse:
        if not 0 < len(request.rows) <= rules.IMPORT_MAX:
            raise Invalid(Reason.INVALID_FIELD, f"An import must have 1 to {rules.IMPORT_MAX} rows.", field="rows")
        stores = await self.stocks.find_stores((row.store_id for row in request.rows), scoped=True)
        variants = await self.catalog.find_variants(row.variant_id for row in request.rows)
        refused: dict[int, Refusal] = {}
        rows: dict[int, Stock] = {}
        imported_ids: set[str] = set()
        for index, row in enumerate(request.rows):
            try:
                stock = _imported_stock(row, stores, variants)
                if stock.id in imported_ids:
                    message = "This import names the same store and variant twice. Remove one of the rows."
                    raise Invalid(Reason.STOCK_REPEATED, message)
                imported_ids.add(stock.id)
                rows[index] = stock
            except Refusal as refusal:
                refused[index] = refusal
        refused |= await self.stocks.import_levels(uow, rows)
        rejects = build_rejects(refused, [stock_id(row.store_id, row.variant_id) for row in request.rows])
        return stock_pb2.ImportStockResponse(imported=len(request.rows) - len(rejects), rejects=rejects)

    async def HoldStock(self, request: stock_pb2.HoldStockRequest, context: Any) -> stock_pb2.HoldStockResponse:
        hold_request = to_struct(request_fields(request), rules.HoldRequest)
        return await self.stocks.hold(
            IdempotencyKey.from_request(request),
            self.clock(),
            store_id=hold_request.store_id,
            variant_id=hold_request.variant_id,
            quantity=hold_request.quantity,
            consumer_id=hold_request.consumer_id,
            needed_by=hold_request.needed_by,
            answer=lambda hold: stock_pb2.HoldStockResponse(hold=hold),
            answer_type=stock_pb2.HoldStockResponse,
        )

    async def ReleaseHold(self, request: stock_pb2.ReleaseHoldRequest, context: Any) -> stock_pb2.ReleaseHoldResponse:
        key: IdempotencyKey | None = IdempotencyKey.from_request(request)
        for _ in range(ATTEMPTS_MAX):
            hold = await self.stocks.holds.load(request.hold_id, writing=True)
            try:
                return await self.stocks.release(key, hold)
            except Conflict as refusal:
                if refusal.reason != "STATE_CHANGED":
                    raise
                # The hold ended or was ordered since it was read. The next attempt decides on its current state.
                key = None
        raise Conflict("CONTENDED", "Concurrent calls keep changing this hold. Read it, then retry.")

    async def GetHold(self, request: stock_pb2.GetHoldRequest, context: Any) -> stock_pb2.GetHoldResponse:
        return stock_pb2.GetHoldResponse(hold=await self.stocks.holds.get(request.id))

    async def BatchGetHolds(self, request: stock_pb2.BatchGetHoldsRequest, context: Any) -> stock_pb2.BatchGetHoldsResponse:
        return stock_pb2.BatchGetHoldsResponse(holds=await self.stocks.holds.batch(request.ids))

    async def ListHolds(self, request: stock_pb2.ListHoldsRequest, context: Any) -> stock_pb2.ListHoldsResponse:
        holds, page = await self.stocks.list_holds(_list_filter(request, "consumer_id", "store_id"), request.page)
        return stock_pb2.ListHoldsResponse(holds=holds, page=page)

    async def BatchListHolds(self, request: stock_pb2.BatchListHoldsRequest, context: Any) -> stock_pb2.BatchListHoldsResponse:
        pages = await self.stocks.list_first_holds(*batch_lists.selected_ids(request, "consumer_ids", "store_ids"), request.first)
        return stock_pb2.BatchListHoldsResponse(lists=batch_lists.to_lists("key", "holds", pages))

    async def _load_store_and_variant(self, store_id: str, variant_id: str) -> tuple[Store, Variant]:
        """Returns the store and the variant. `NotFound` if one does not exist or the caller may not write the store's stock."""
        store = await self.stocks.stores.load(store_id, writing=True)
        return store, await self.catalog.variants.load(variant_id)


def _list_filter(request: Any, *names: str) -> dict[str, str]:
    """Returns the filter fields that the request sets. `Invalid` if it sets none of these."""
    query = {name: getattr(request, name) for name in names if getattr(request, name)}
    if not query:
        raise Invalid(Reason.INVALID_FIELD, f"The list has no filter. Set at least one of {', '.join(names)}.", field=names[0])
    return query


def _stock_level(message: Any) -> rules.StockLevel:
    return to_struct({name: value for name, value in request_fields(message).items() if name in ("on_hand", "safety")}, rules.StockLevel)


def _imported_stock(row: stock_pb2.StockRow, stores: dict[str, Store], variants: dict[str, Variant]) -> Stock:
    level = _stock_level(row)
    if row.store_id not in stores:
        raise NotFound(Reason.STORE_NOT_FOUND, "No such store, or you may not see it. Check the id.", store_id=row.store_id)
    if row.variant_id not in variants:
        raise NotFound(Reason.VARIANT_NOT_FOUND, "No such variant. Check the id.", variant_id=row.variant_id)
    return new_stock(stores[row.store_id], variants[row.variant_id], level.on_hand, level.safety)
