"""What stands near a place: stock rows with their stores, variants and holds. Discovery keeps nothing of its own."""

from collections.abc import Iterable, Sequence

from services.commerce.catalog.repository import CatalogRepository
from services.commerce.discovery import geo_queries, rules
from services.commerce.discovery.rules import UNAVAILABLE_MAX, Search, Shelf, distance_metres
from services.commerce.stock.repository import STORES, StockRepository, missing
from services.commerce.stock.rules import Point, Stock, Store, stock_id
from services.kit.mongo.codec import as_struct

STORES_MAX = 1_000
ROWS_MAX = 50


class ShelfRepository:
    """Looks at the shelves of every store, whoever asks: promises are for everybody."""

    def __init__(self, catalog: CatalogRepository, stocks: StockRepository) -> None:
        self.catalog, self.stocks = catalog, stocks

    async def near(self, question: Search) -> list[Shelf]:
        """The nearest shelves with something of what is asked for, each kind with its own bound, so that none hides another.

        They are those it can be taken from, those where others hold all of it, and those of stores that cannot serve now.
        """
        variants = await self.catalog.matching(question.text, question.attributes)
        if not variants:
            return []
        stores = await self._stores(question)
        can, cannot = rules.serving(question, stores.values())
        free = await self._rows(question, can, variants, free=True, limit=ROWS_MAX)
        held = await self._rows(question, can, variants, free=False, limit=UNAVAILABLE_MAX)
        missed = await self._rows(question, cannot, variants, free=True, limit=UNAVAILABLE_MAX)
        until = await self.stocks.held_until([row.id for row in held]) if held else {}
        shelves = []
        for row in (*free, *held, *missed):
            store, metres = stores[row.store_id]
            shelves.append(Shelf(row, store, variants[row.variant_id], metres, until.get(row.id)))
        return shelves

    async def _stores(self, question: Search) -> dict[str, tuple[Store, int]]:
        """The nearest stores, with their distance in metres, by id."""
        pipeline = geo_queries.stores(question.near, question.radius_metres, limit=STORES_MAX)
        found = await self.stocks.database.aggregate(STORES, pipeline)
        return {row["_id"]: (as_struct(row, Store), round(row["metres"])) async for row in found}

    async def _rows(self, question: Search, store_ids: Sequence[str], variant_ids: Iterable[str], *, free: bool, limit: int) -> list[Stock]:
        if not store_ids:
            return []
        pipeline = geo_queries.rows(question.near, question.radius_metres, store_ids, list(variant_ids), free=free, limit=limit)
        return [as_struct(row, Stock) async for row in await self.stocks.database.aggregate(STORES, pipeline)]

    async def one(self, store_id: str, variant_id: str, place: Point) -> Shelf:
        """One store's shelf of one variant; `NotFound` when it keeps none, or nobody knows where the store is."""
        variant = (await self.catalog.known([variant_id])).get(variant_id)
        store = (await self.stocks.known_stores([store_id])).get(store_id)
        if variant is None or store is None or store.position is None:
            raise missing(store_id, variant_id)
        row = await self.stocks.stocks.unscoped.load(stock_id(store_id, variant_id))
        return Shelf(row, store, variant, distance_metres(place, store.position))
