"""The commerce service: `python -m services.commerce`."""

from collections.abc import Awaitable, Callable

from pymongo.errors import PyMongoError

from quanyu.commerce.v1 import catalog_pb2_grpc, discovery_pb2_grpc, orders_pb2_grpc, stock_pb2_grpc
from services.commerce.catalog.repository import CatalogRepository
from services.commerce.catalog.rpc import CatalogServicer
from services.commerce.discovery.repository import NearbyStockRepository
from services.commerce.discovery.rpc import DiscoveryServicer
from services.commerce.events import handlers
from services.commerce.orders.checkout import Checkout
from services.commerce.orders.coupons import CouponClient
from services.commerce.orders.repository import OrderRepository
from services.commerce.orders.rpc import OrderServicer
from services.commerce.stock.repository import StockRepository
from services.commerce.stock.rpc import StockServicer
from services.kit.errors import Refusal
from services.kit.mongo.lease import Lease
from services.kit.observability.logs import logger
from services.kit.projections.persons import PersonProjection
from services.kit.runtime.process import main
from services.kit.runtime.runtime import Runtime, ServiceDefinition


def define(runtime: Runtime) -> ServiceDefinition:
    """Defines the service: catalog, stock, discovery and orders on one runtime."""
    persons, catalog = PersonProjection(runtime.database), CatalogRepository(runtime.database)
    stocks, orders = (
        StockRepository(runtime.database, runtime.group_commit, persons),
        OrderRepository(runtime.database, runtime.change_streams, persons),
    )
    checkout = Checkout(catalog, stocks, orders, CouponClient(lambda: runtime.channels.district))
    return ServiceDefinition(
        servicers=[
            (catalog_pb2_grpc.add_CatalogServiceServicer_to_server, CatalogServicer(runtime, catalog)),
            (stock_pb2_grpc.add_StockServiceServicer_to_server, StockServicer(runtime, catalog, stocks)),
            (
                discovery_pb2_grpc.add_DiscoveryServiceServicer_to_server,
                DiscoveryServicer(runtime, stocks, NearbyStockRepository(catalog, stocks)),
            ),
            (orders_pb2_grpc.add_OrderServiceServicer_to_server, OrderServicer(runtime, catalog, stocks, orders, checkout)),
        ],
        collections=[*catalog.collections, *stocks.collections, *orders.collections, persons.links],
        events=handlers(runtime, stocks, orders, persons),
        background=[_sweep_loop(runtime, "holds", stocks.sweep), _sweep_loop(runtime, "orders", checkout.sweep)],
    )


def _sweep_loop(runtime: Runtime, name: str, sweep: Callable[[], Awaitable[int]]) -> Callable[[], Awaitable[None]]:
    """Returns a background task that sweeps while this process holds the lease: until no work is left, then again at each renewal."""

    async def work() -> None:
        try:
            while await sweep():
                pass
        except (Refusal, PyMongoError) as error:
            logger().warning("sweep stopped", sweep=name, error=type(error).__name__)

    async def loop() -> None:
        await Lease(runtime.database, f"commerce:{name}").run_while_held(work)

    return loop


if __name__ == "__main__":
    main("commerce", define)
