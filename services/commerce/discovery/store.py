"""What stands near a place: stock rows with their stores, variants and holds. Discovery keeps nothing of its own."""

from services.commerce.catalog.store import CatalogStore
from services.commerce.discovery.rules import Search, Shelf, distance_metres
from services.commerce.stock.rules import Point, stock_id
from services.commerce.stock.store import StockStore, missing

ROWS_MAX = 50
HELD_ROWS_MAX = 20


class Shelves:
    """Looks at the shelves of every store, whoever asks: promises are for everybody."""

    def __init__(self, catalog: CatalogStore, stocks: StockStore) -> None:
        self.catalog, self.stocks = catalog, stocks

    async def near(self, question: Search) -> list[Shelf]:
        """The nearest shelves with something of what is asked for: those it can be taken from, and those where others hold all of it."""
        variants = await self.catalog.matching(question.text, question.attributes)
        if not variants:
            return []
        free = await self.stocks.near(list(variants), question.near, question.radius_metres, limit=ROWS_MAX, free=True)
        held = await self.stocks.near(list(variants), question.near, question.radius_metres, limit=HELD_ROWS_MAX, free=False)
        until = await self.stocks.held_until([row.id for row, _ in held]) if held else {}
        stores = await self.stocks.known_stores(row.store_id for row, _ in (*free, *held))
        return [
            Shelf(row, stores[row.store_id], variants[row.variant_id], metres, until.get(row.id))
            for row, metres in (*free, *held)
            if row.store_id in stores
        ]

    async def one(self, store_id: str, variant_id: str, place: Point) -> Shelf:
        """One store's shelf of one variant; `NotFound` when it keeps none, or nobody knows where the store is."""
        variant = (await self.catalog.known([variant_id])).get(variant_id)
        store = (await self.stocks.known_stores([store_id])).get(store_id)
        if variant is None or store is None or store.position is None:
            raise missing(store_id, variant_id)
        row = await self.stocks.stocks.unscoped.load(stock_id(store_id, variant_id))
        return Shelf(row, store, variant, distance_metres(place, store.position))
