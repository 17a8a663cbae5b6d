"""Fixtures of the commerce tests: a shop of one open store with one white shirt, and the grants of its callers."""

import secrets
from datetime import datetime
from typing import Any

import pytest

from quanyu.commerce.v1 import (
    catalog_pb2,
    catalog_pb2_grpc,
    discovery_pb2_grpc,
    orders_pb2,
    orders_pb2_grpc,
    stock_pb2,
    stock_pb2_grpc,
)  # fmt: skip
from quanyu.common.v1.money_pb2 import Money
from quanyu.common.v1.point_pb2 import Point
from quanyu.events.v1 import events_pb2
from services.kit import clock
from services.kit.security.principals import Grant
from tests.services.conftest import OPERATOR, ServiceHarness

HERE = Point(longitude=116.4550, latitude=39.9370)
"""The place of the consumer, near the store `str_near`."""


def consumer_grant(id: str = "con_a") -> Grant:
    return Grant("ROLE_CONSUMER", "SCOPE_KIND_CONSUMER", id)


def store_grant(id: str = "str_near", role: str = "ROLE_STORE_MANAGER") -> Grant:
    return Grant(role, "SCOPE_KIND_STORE", id)


def brand_grant(id: str = "brd_a") -> Grant:
    return Grant("ROLE_BRAND_OPERATOR", "SCOPE_KIND_BRAND", id)


def new_key() -> str:
    """Returns a request id that no other call has."""
    return secrets.token_hex(8)


class Shop:
    """The commerce service with stubs for any caller, and methods that set up its data."""

    def __init__(self, commerce: ServiceHarness) -> None:
        self.commerce = commerce
        self.database = commerce.database

    def channel(self, *grants: Grant, offset: float = 0.0) -> Any:
        subject = grants[0].id or "operator" if grants else "none"
        return self.commerce.channel_as(*grants, subject=subject, offset=offset)

    def catalog(self, *grants: Grant) -> Any:
        return catalog_pb2_grpc.CatalogServiceStub(self.channel(*(grants or (OPERATOR,))))

    def stock(self, *grants: Grant, offset: float = 0.0) -> Any:
        return stock_pb2_grpc.StockServiceStub(self.channel(*(grants or (OPERATOR,)), offset=offset))

    def discovery(self, *grants: Grant, offset: float = 0.0) -> Any:
        return discovery_pb2_grpc.DiscoveryServiceStub(self.channel(*grants, offset=offset))

    def orders(self, *grants: Grant, offset: float = 0.0) -> Any:
        return orders_pb2_grpc.OrderServiceStub(self.channel(*(grants or (OPERATOR,)), offset=offset))

    async def publish_store(self, id: str, brand_id: str = "brd_a", **changed: Any) -> None:
        """Publishes StoreChanged for a store that is always open, with these fields `changed`."""
        fields: dict[str, Any] = {
            "store_id": id, "brand_id": brand_id, "org_unit_ids": [f"unt_{brand_id}", f"unt_{id}"], "name": id, "zone": "Asia/Shanghai",
            "position": Point(longitude=116.4560, latitude=39.9380), "opens_minute": 0, "closes_minute": 1440, "delivers": True,
            "active": True,
        } | changed  # fmt: skip
        body = events_pb2.StoreChanged(**fields)
        event = events_pb2.Event(id=f"evt_{new_key()}", key=id, at=clock.now(), source="organization", store_changed=body)
        delivered = await self.commerce.deliver(event, source="organization")
        assert [item.state for item in delivered] == [events_pb2.DELIVERY_STATE_APPLIED], delivered
        self.commerce.runtime.scopes.evict()

    async def publish_visit(self, kind: str, at: datetime, **body: Any) -> None:
        """Publishes `visit_started`, `visit_left` or `outreach_sent` as of `at`."""
        source = "member" if kind == "outreach_sent" else "district"
        event: Any = events_pb2.Event(id=f"evt_{new_key()}", key=body["consumer_id"], at=at, source=source)
        getattr(event, kind).MergeFrom(type(getattr(event, kind))(**body))
        delivered = await self.commerce.deliver(event, source=source)
        assert [item.state for item in delivered] == [events_pb2.DELIVERY_STATE_APPLIED], delivered

    async def create_product(self, id: str = "shirt", brand_id: str = "brd_a", sizes: tuple[int, ...] = (40,), minor: int = 39_900) -> None:
        """Creates a white shirt: `prd_<id>` with the variants `var_<id>_<size>`."""
        variants = [
            catalog_pb2.NewVariant(
                variant_id=f"var_{id}_{size}", attributes={"size": str(size), "colour": "white"}, price=Money(minor=minor, currency="CNY")
            )
            for size in sizes
        ]
        new = catalog_pb2.NewProduct(
            product_id=f"prd_{id}", name=catalog_pb2.Text(zh="男士白衬衫", en="Men's white shirt"), category="shirt", variants=variants
        )
        await self.catalog().CreateProduct(catalog_pb2.CreateProductRequest(request_id=new_key(), brand_id=brand_id, product=new))

    async def set_stock(self, store_id: str = "str_near", variant_id: str = "var_shirt_40", on_hand: int = 1, safety: int = 0) -> None:
        await self.stock().SetStock(
            stock_pb2.SetStockRequest(request_id=new_key(), store_id=store_id, variant_id=variant_id, on_hand=on_hand, safety=safety)
        )

    async def hold(
        self, id: str = "con_a", store_id: str = "str_near", variant_id: str = "var_shirt_40", quantity: int = 1
    ) -> stock_pb2.Hold:
        answer = await self.stock(consumer_grant(id)).HoldStock(
            stock_pb2.HoldStockRequest(request_id=new_key(), store_id=store_id, variant_id=variant_id, quantity=quantity, consumer_id=id)
        )
        return answer.hold

    async def place_order(self, id: str = "con_a", quantity: int = 1, **more: Any) -> orders_pb2.Order:
        line = orders_pb2.NewLine(variant_id="var_shirt_40", quantity=quantity)
        fields = {"store_id": "str_near", "lines": [line]} | more
        answer = await self.orders(consumer_grant(id)).PlaceOrder(
            orders_pb2.PlaceOrderRequest(request_id=new_key(), consumer_id=id, **fields)
        )
        return answer.order

    async def levels(self, store_id: str = "str_near", variant_id: str = "var_shirt_40") -> dict[str, int]:
        """Returns the stored `on_hand` and `reserved` of a stock."""
        stock = await self.database["stock"].find_one({"_id": f"{store_id}:{variant_id}"})
        return {name: stock[name] for name in ("on_hand", "reserved")}

    async def check_reserved(self) -> None:
        """Asserts that each stock's `reserved` is the sum of its live holds."""
        out_of_bounds = {"$expr": {"$or": [{"$lt": ["$reserved", 0]}, {"$gt": ["$reserved", "$on_hand"]}]}}
        assert await self.database["stock"].find(out_of_bounds).to_list(None) == []
        holds = await self.database["holds"].find({"state": {"$in": ["HOLD_STATE_HELD", "HOLD_STATE_ORDERED"]}}).to_list(None)
        live: dict[str, int] = {}
        for hold in holds:
            live[hold["stock_id"]] = live.get(hold["stock_id"], 0) + hold["quantity"]
        stocks = await self.database["stock"].find({"reserved": {"$gt": 0}}).to_list(None)
        assert {stock["_id"]: stock["reserved"] for stock in stocks} == live


@pytest.fixture
async def shop(commerce: ServiceHarness) -> Shop:
    """Commerce with the store `str_near` of brd_a, which has one piece of `var_shirt_40`."""
    shop = Shop(commerce)
    await shop.publish_store("str_near")
    await shop.create_product()
    await shop.set_stock()
    return shop


async def plan_stages(collection: Any, query: dict[str, Any], sort: list[tuple[str, int]] | None = None) -> set[str]:
    """Returns the stages of the winning plan of a find."""
    cursor = collection.find(query)
    plan = await (cursor.sort(sort) if sort else cursor).explain()
    return stages_of(plan["queryPlanner"]["winningPlan"])


def stages_of(plan: Any) -> set[str]:
    """Returns all stages of a plan, at any depth."""
    if isinstance(plan, list):
        return {stage for item in plan for stage in stages_of(item)}
    if not isinstance(plan, dict):
        return set()
    return ({plan["stage"]} if isinstance(plan.get("stage"), str) else set()) | {
        stage for item in plan.values() for stage in stages_of(item)
    }
