"""The read model of promise search: stock near a place, joined with its store, its variant and its holds. It stores nothing."""

from collections.abc import Iterable, Sequence

from services.commerce.catalog.repository import CatalogRepository
from services.commerce.discovery import geo_queries, rules
from services.commerce.discovery.rules import UNAVAILABLE_MAX, NearbyStock, PromiseSearch, distance_metres
from services.commerce.stock.repository import STORES, StockRepository, stock_not_found
from services.commerce.stock.rules import Point, Stock, Store, stock_id
from services.kit.mongo.codec import to_struct

STORES_MAX = 1_000
"""A search looks at the stock of at most this many stores, the nearest ones."""
STOCK_MAX = 50
"""A search looks at most at this many pieces of available stock in stores that can serve."""


class NearbyStockRepository:
    """Finds stock in every store, whatever the caller's scope: promises are public."""

    def __init__(self, catalog: CatalogRepository, stocks: StockRepository) -> None:
        self.catalog, self.stocks = catalog, stocks

    async def find_nearest(self, search: PromiseSearch) -> list[NearbyStock]:
        """Returns the nearest stock that matches the search.

        It has three parts, each with its own limit, so that none displaces another: available stock of stores that can serve, stock
        there that is entirely held, and stock of stores that cannot serve now.
        """
        variants = await self.catalog.find_matching_variants(search.text, search.attributes)
        if not variants:
            return []
        stores = await self._find_stores(search)
        serving, not_serving = rules.partition_stores(search, stores.values())
        available = await self._find_stock(search, serving, variants, available=True, limit=STOCK_MAX)
        held = await self._find_stock(search, serving, variants, available=False, limit=UNAVAILABLE_MAX)
        unreachable = await self._find_stock(search, not_serving, variants, available=True, limit=UNAVAILABLE_MAX)
        held_until = await self.stocks.find_held_until([stock.id for stock in held]) if held else {}
        nearby = []
        for stock in (*available, *held, *unreachable):
            store, metres = stores[stock.store_id]
            nearby.append(NearbyStock(stock, store, variants[stock.variant_id], metres, held_until.get(stock.id)))
        return nearby

    async def load(self, store_id: str, variant_id: str, near: Point) -> NearbyStock:
        """Returns one store's stock of one variant. `NotFound` if the store has no stock of it or no position."""
        variant = (await self.catalog.find_variants([variant_id])).get(variant_id)
        store = (await self.stocks.find_stores([store_id])).get(store_id)
        if variant is None or store is None or store.position is None:
            raise stock_not_found(store_id, variant_id)
        stock = await self.stocks.stocks.unscoped.load(stock_id(store_id, variant_id))
        return NearbyStock(stock, store, variant, distance_metres(near, store.position))

    async def _find_stores(self, search: PromiseSearch) -> dict[str, tuple[Store, int]]:
        """Returns the nearest stores with their distances in metres, by id."""
        pipeline = geo_queries.stores_pipeline(search.near, search.radius_metres, limit=STORES_MAX)
        found = await self.stocks.database.aggregate(STORES, pipeline)
        return {document["_id"]: (to_struct(document, Store), round(document["metres"])) async for document in found}

    async def _find_stock(
        self, search: PromiseSearch, store_ids: Sequence[str], variant_ids: Iterable[str], *, available: bool, limit: int
    ) -> list[Stock]:
        if not store_ids:
            return []
        pipeline = geo_queries.stock_pipeline(
            search.near, search.radius_metres, store_ids, list(variant_ids), available=available, limit=limit
        )
        return [to_struct(document, Stock) async for document in await self.stocks.database.aggregate(STORES, pipeline)]
