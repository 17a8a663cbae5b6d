"""The commerce service: `python -m services.commerce`."""

from collections.abc import Awaitable, Callable

from pymongo.errors import PyMongoError

from quanyu.commerce.v1 import catalog_pb2_grpc, discovery_pb2_grpc, orders_pb2_grpc, stock_pb2_grpc
from services.commerce.catalog.repository import CatalogStore
from services.commerce.catalog.rpc import Catalog
from services.commerce.discovery.repository import Shelves
from services.commerce.discovery.rpc import Discovery
from services.commerce.events import handlers
from services.commerce.orders.checkout import Checkout
from services.commerce.orders.coupons import Wallet
from services.commerce.orders.repository import OrderStore
from services.commerce.orders.rpc import Orders
from services.commerce.stock.repository import StockStore
from services.commerce.stock.rpc import Stocks
from services.kit.errors import Refusal
from services.kit.mongo.lease import Lease
from services.kit.observability.logs import logger
from services.kit.projections.persons import Persons
from services.kit.runtime.process import main
from services.kit.runtime.runtime import House, Wiring


def wire(house: House) -> Wiring:
    """Catalog, stock, discovery and orders in one house."""
    persons, catalog = Persons(house.database), CatalogStore(house.database)
    stocks, orders = StockStore(house.database, house.lane, persons), OrderStore(house.database, house.watch, persons)
    checkout = Checkout(catalog, stocks, orders, Wallet(lambda: house.channels.district))
    return Wiring(
        servicers=[
            (catalog_pb2_grpc.add_CatalogServiceServicer_to_server, Catalog(house, catalog)),
            (stock_pb2_grpc.add_StockServiceServicer_to_server, Stocks(house, catalog, stocks)),
            (discovery_pb2_grpc.add_DiscoveryServiceServicer_to_server, Discovery(house, stocks, Shelves(catalog, stocks))),
            (orders_pb2_grpc.add_OrderServiceServicer_to_server, Orders(house, catalog, stocks, orders, checkout)),
        ],
        tables=[*catalog.tables, *stocks.tables, *orders.tables, persons.table],
        facts=handlers(house, stocks, orders, persons),
        background=[_sweeping(house, "holds", stocks.sweep), _sweeping(house, "orders", checkout.sweep)],
    )


def _sweeping(house: House, name: str, sweep: Callable[[], Awaitable[int]]) -> Callable[[], Awaitable[None]]:
    """A loop that sweeps while this process holds the lease, until nothing more can be done, then again at the next turn."""

    async def work() -> None:
        try:
            while await sweep():
                pass
        except (Refusal, PyMongoError) as error:
            logger().warning("sweeping stopped", sweep=name, error=type(error).__name__)

    async def loop() -> None:
        await Lease(house.database, f"commerce:{name}").keep(work)

    return loop


if __name__ == "__main__":
    main("commerce", wire)
