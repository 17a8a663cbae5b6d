"""Seeding of the world of two tenants: fills four running services through their rpcs, as the people concerned, and by events.

Ash and birch share the retailer elm, which sells goods of both brands in one order, a consumer that both brands know (`con_common`), and a
district in which both give coupons.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from zoneinfo import ZoneInfo

from quanyu.commerce.v1 import orders_pb2, stock_pb2
from quanyu.common.v1.touch_pb2 import TOUCHPOINT_MINI_PROGRAM, TOUCHPOINT_STORE
from services.kit.security.principals import Grant
from services.kit.transactions.outbox import DELIVERIES
from tests.services.conftest import ServiceHarness
from tests.services.worlds.rpcs import Person, Suite
from tests.services.worlds.sides import OPERATOR, Side
from tests.services.worlds.streams import StartCursors, find_start_cursors

ZONE = "Asia/Shanghai"
SANLITUN = {"longitude": 116.4551, "latitude": 39.9341}
COMMON, COMMON_TWIN = "con_common", "con_common_twin"
EVENTS_SECONDS_MAX = 30.0
PRICES = {"ash": 1_000_003, "birch": 2_000_029}
request_numbers = count()


def new_request_id() -> str:
    return f"req_{next(request_numbers)}"


def seconds_until_noon() -> float:
    """Returns the seconds from now to noon of this day in Shanghai, when shops are open and no day ends soon."""
    now = datetime.now(UTC)
    return (now.astimezone(ZoneInfo(ZONE)).replace(hour=12, minute=0, second=0) - now).total_seconds()


def yuan(minor: int) -> dict[str, Any]:
    return {"minor": minor, "currency": "CNY"}


class World:
    """The suite with both tenants. `common` has the shared ids, by noun."""

    def __init__(self, services: Mapping[str, ServiceHarness]) -> None:
        self.suite = Suite(services, seconds_until_noon())
        self.at = datetime.now(UTC) + timedelta(seconds=self.suite.offset)
        self.ash, self.birch, self.oak = Side("ash"), Side("birch"), Side("oak", brand="ash")
        self.common: dict[str, list[str]] = {
            "relation": [f"rel_{COMMON}_brd_ash", f"rel_{COMMON}_brd_birch"],
            "consumer": [COMMON],
            "linked_consumer": [COMMON_TWIN],
            "brand": ["rtl_elm"],
            "store": ["str_elm"],
            "district": ["dst_common"],
            "campaign": ["cmp_common"],
        }
        self.person = Person("con_common", "common", (Grant("ROLE_CONSUMER", "SCOPE_KIND_CONSUMER", COMMON),))
        self.start_cursors: StartCursors = {}

    async def do(self, name: str, person: Person = OPERATOR, /, **fields: Any) -> Any:
        return await self.suite.do(name, person, **fields)

    async def write(self, name: str, person: Person = OPERATOR, /, **fields: Any) -> Any:
        return await self.suite.do(name, person, request_id=new_request_id(), **fields)

    async def wait_for_events(self) -> None:
        """Waits until all services have delivered their events."""
        async with asyncio.timeout(EVENTS_SECONDS_MAX):
            for service in self.suite.services.values():
                while await service.database[DELIVERIES].find_one({}, {"_id": 1}):  # noqa: ASYNC110 - the relay has no signal for it
                    await asyncio.sleep(0.02)

    async def seed(self) -> None:
        """Makes everything, in the order of the dependencies."""
        self.start_cursors = await find_start_cursors(self.suite, [self.ash.ids, self.birch.ids, self.oak.ids, self.common], self.at)
        await self._tenants()
        await self.wait_for_events()
        for side in (self.ash, self.birch):
            await self._catalog(side)
        for side in (self.ash, self.birch, self.oak):
            await self._members(side)
        await self._shared_consumer()
        await self._districts()
        for side in (self.ash, self.birch, self.oak):
            await self._stock(side)
        await self.wait_for_events()
        for side in (self.ash, self.birch, self.oak):
            await self._activity(side)
        await self._shared_activity()
        await self.wait_for_events()
        await self._collect_results()

    # organization ----------------------------------------------------------------------------------------------------

    async def _tenants(self) -> None:
        for brand, kind in (("brd_ash", 1), ("brd_birch", 1), ("rtl_elm", 2)):
            await self.write("ChartService.CreateBrand", brand_id=brand, kind=kind, name={"en": brand}, zone=ZONE, currency="CNY")
        for side in (self.ash, self.birch, self.oak):
            unit = {"kind": 3, "parent_id": f"unt_brd_{side.brand}", "name": {"en": side.text("north")}}
            await self.write("ChartService.CreateOrgUnit", org_unit_id=side.org_unit, **unit)
            await self._store(side.store, side.org_unit)
            side.add_ids("org_unit", f"unt_{side.store}")
            guide, manager, supervisor, operator = side.ids["staff"]
            headquarters = f"unt_brd_{side.brand}"
            for staff, place in ((guide, {"store_id": side.store}), (manager, {"store_id": side.store}),
                                 (supervisor, {"org_unit_id": side.org_unit}), (operator, {"org_unit_id": headquarters})):  # fmt: skip
                await self.write("ChartService.HireStaff", staff_id=staff, name=side.text(f"name of {staff}"), title="", **place)
            granted = await self.write("ChartService.GrantRole", staff_id=guide, role=2, kind=4, scope_id=side.store)
            side.add_ids("grant", granted.grant.id)
            online, offline = side.number(8_100_000_017 + side.serial), side.number(8_200_000_017 + side.serial)
            side.number(online + offline)
            target = {"month": f"{self.at:%Y-%m}", "online_minor": online, "offline_minor": offline}
            await self.write("TargetService.SetTarget", org_unit_id=side.org_unit, **target)
        await self._store("str_elm", "unt_rtl_elm")

    async def _store(self, id: str, parent_id: str) -> None:
        hours = {"opens_minute": 8 * 60, "closes_minute": 22 * 60, "delivers": True}
        await self.write("ChartService.CreateStore", store_id=id, kind=1, parent_id=parent_id, name={"en": id}, position=SANLITUN, **hours)

    # commerce --------------------------------------------------------------------------------------------------------

    async def _catalog(self, side: Side) -> None:
        variant = {"variant_id": side.variant, "attributes": {"size": "40"}, "price": yuan(PRICES[side.brand])}
        product = {"product_id": side.product, "name": {"en": f"{side.brand} shirt"}, "category": "shirt", "variants": [variant]}
        await self.write("CatalogService.CreateProduct", side.people["ROLE_BRAND_OPERATOR"], brand_id=side.brand_id, product=product)

    async def _stock(self, side: Side) -> None:
        # The levels are so far apart that no adjustment of one reaches another.
        on_hand = side.number(7_310_000 + 20_000 * side.serial)
        manager = side.people["ROLE_STORE_MANAGER"]
        await self.write("StockService.SetStock", manager, store_id=side.store, variant_id=side.variant, on_hand=on_hand, safety=1)
        if side.brand == side.name:
            await self.write("StockService.SetStock", store_id="str_elm", variant_id=side.variant, on_hand=900, safety=0)

    async def _order(self, caller: Person, consumer_id: str, store_id: str, lines: dict[str, int], **more: Any) -> Any:
        placed = await self.write(
            "OrderService.PlaceOrder", caller, consumer_id=consumer_id, store_id=store_id, touchpoint=TOUCHPOINT_MINI_PROGRAM,
            lines=[{"variant_id": id, "quantity": quantity} for id, quantity in lines.items()], **more,
        )  # fmt: skip
        return placed.order

    async def _pay(self, caller: Person, order_id: str) -> None:
        pay = {"method": orders_pb2.PAYMENT_METHOD_SANDBOX, "sandbox_token": "approve"}
        await self.write("OrderService.PayOrder", caller, order_id=order_id, **pay)

    # member ----------------------------------------------------------------------------------------------------------

    async def _members(self, side: Side) -> None:
        brand = {"brand_id": side.brand_id}
        for number, id in enumerate((side.consumer, side.linked_consumer)):
            identities = [
                {"kind": 1, "value": f"138000{side.serial}{number}{side.serial}71", "verified": True},
                {"kind": 4, "value": side.text(f"card {number}")},
            ]
            await self.write(
                "IdentityService.RegisterConsumer", side.people["ROLE_SERVICE"], consumer_id=id, identities=identities,
                display_name=side.text("Li"), sizes={"shirt": side.text("size")}, preferences={"colour": side.text("white")}, **brand,
            )  # fmt: skip
        pair = {"consumer_id": side.consumer, "linked_consumer_id": side.linked_consumer}
        await self.write(
            "IdentityService.LinkConsumers", side.people["ROLE_SERVICE"], evidence=[1], note=side.text("note"), **pair
        )  # fmt: skip
        await self._member(side, side.consumer)

    async def _member(self, side: Side, consumer_id: str) -> None:
        """Makes consents, a binding and an interaction of a consumer with a brand."""
        both = {"consumer_id": consumer_id, "brand_id": side.brand_id}
        for purpose in (2, 3):
            consent = {"purpose": purpose, "granted": True, "touchpoint": TOUCHPOINT_STORE}
            await self.write("ConsentService.SetConsent", side.people["ROLE_GUIDE"], store_id=side.store, **consent, **both)
        await self.write("OutreachService.BindConsumer", side.people["ROLE_SERVICE"], staff_id=side.staff, **both)
        await self.write(
            "RelationService.RecordInteraction", side.people["ROLE_SERVICE"], kind=9, touchpoint=TOUCHPOINT_STORE,
            ref=side.text("question"), **both,
        )  # fmt: skip

    async def _outreach(self, side: Side, consumer_id: str, **more: Any) -> str:
        both = {"consumer_id": consumer_id, "brand_id": side.brand_id, "staff_id": side.staff}
        sent = await self.write("OutreachService.SendOutreach", side.people["ROLE_GUIDE"], text=side.text("hello"), **both, **more)
        return str(sent.outreach_id)

    async def _shared_consumer(self) -> None:
        """Ash registers and links two ids of the shared consumer; then birch registers the consumer too."""
        for side, id in ((self.ash, COMMON), (self.ash, COMMON_TWIN), (self.birch, "")):
            phone = "13900002222" if id == COMMON_TWIN else "13900001111"
            identities = [{"kind": 1, "value": phone, "verified": True}, {"kind": 4, "value": side.text(f"common card {id}")}]
            await self.write(
                "IdentityService.RegisterConsumer", side.people["ROLE_SERVICE"], consumer_id=id, brand_id=side.brand_id,
                identities=identities, display_name=side.text("common name"), sizes={"shirt": side.text("common size")},
            )  # fmt: skip
            if id == COMMON_TWIN:
                pair = {"consumer_id": COMMON, "linked_consumer_id": COMMON_TWIN}
                linked = await self.write(
                    "IdentityService.LinkConsumers", side.people["ROLE_SERVICE"], evidence=[1], note=side.text("note"), **pair
                )
                self.common["link"] = [linked.link_id]
        for side in (self.ash, self.birch):
            await self._member(side, COMMON)

    # district --------------------------------------------------------------------------------------------------------

    async def _districts(self) -> None:
        for name, brands in (("ash", ["ash"]), ("birch", ["birch"]), ("common", ["ash", "birch"])):
            district, campaign = f"dst_{name}", f"cmp_{name}"
            border = {"position": SANLITUN, "zone": ZONE, "geofence": {"radius_metres": 900}}
            await self.write("PlaceService.CreateDistrict", id=district, name=district, **border)
            venue = {"id": f"ven_{name}", "kind": 1, "name": f"ven_{name}", "position": SANLITUN}
            await self.write("PlaceService.CreateVenue", district_id=district, venue=venue)
            dates = {"starts_at": self.at - timedelta(days=1), "ends_at": self.at + timedelta(days=30)}
            await self.write("CampaignService.CreateCampaign", id=campaign, district_id=district, name=campaign, **dates)
            for side in (self.ash, self.birch):
                if side.name in brands:
                    terms = {"name": "coupon", "value": yuan(500), "minimum_spend": yuan(500), "validity_days": 7}
                    total = side.number(6_600_000 + 10 * len(brands) + side.serial)
                    joined = await self.write(
                        "CampaignService.JoinCampaign", side.people["ROLE_BRAND_OPERATOR"], campaign_id=campaign, brand_id=side.brand_id,
                        terms=terms, total=total,
                    )  # fmt: skip
                    side.add_ids("budget", joined.budget.id)
        self.oak.ids["district"] = ["dst_common"]

    async def _visit(self, caller: Person, consumer_id: str, district_id: str) -> tuple[str, Any]:
        """Enters a district, claims the pack and leaves."""
        entered = await self.write(
            "PlaceService.EnterDistrict", caller, consumer_id=consumer_id, district_id=district_id, touchpoint=TOUCHPOINT_MINI_PROGRAM
        )
        claimed = await self.write("PackService.ClaimPack", caller, consumer_id=consumer_id, visit_id=entered.visit.id)
        await self.write("PlaceService.LeaveDistrict", caller, visit_id=entered.visit.id)
        return entered.visit.id, claimed.pack

    # activity --------------------------------------------------------------------------------------------------------

    async def _activity(self, side: Side) -> None:
        caller = side.people["ROLE_CONSUMER"]
        visit, pack = await self._visit(caller, side.consumer, side.district)
        coupons = [entry.coupon_id for entry in pack.entries if entry.brand_id == side.brand_id]
        open_visit = await self.write(
            "PlaceService.EnterDistrict", caller, consumer_id=side.consumer, district_id=side.district, touchpoint=TOUCHPOINT_MINI_PROGRAM
        )
        side.add_ids("visit", open_visit.visit.id, visit)
        side.add_ids("pack", pack.id)
        side.add_ids("coupon", *coupons)
        side.add_ids("outreach", await self._outreach(side, side.consumer))
        held = await self.write(
            "StockService.HoldStock", caller, store_id=side.store, variant_id=side.variant, quantity=3, consumer_id=side.consumer
        )
        side.add_ids("hold", held.hold.id)
        delivered = {
            "method": stock_pb2.METHOD_INSTANT_DELIVERY,
            "destination": {"address": side.text("street"), "recipient": "x", "phone": "13800000000"},
        }
        price, quantity = PRICES[side.brand], 6 + side.serial
        paid = await self._order(caller, side.consumer, side.store, {side.variant: quantity}, **delivered)
        await self._pay(caller, paid.id)
        unpaid = await self._order(caller, side.consumer, side.store, {side.variant: quantity + 10}, **delivered)
        side.add_ids("order", unpaid.id, paid.id)
        side.number(price * quantity)
        side.number(price * (quantity + 10))

    async def _shared_activity(self) -> None:
        """Makes orders of both brands' goods at elm, a visit with coupons of both, and purchases after the outreach of a guide."""
        self.common["order"] = [await self._mixed(21)]
        visit, pack = await self._visit(self.person, COMMON, "dst_common")
        self.common |= {"visit": [visit], "pack": [pack.id]}
        for side in (self.ash, self.birch):
            side.add_ids("coupon", *(entry.coupon_id for entry in pack.entries if entry.brand_id == side.brand_id))
        await self.wait_for_events()
        for side, other in ((self.ash, self.birch), (self.birch, self.ash)):
            side.add_ids("outreach", await self._outreach(side, COMMON))
            await self.wait_for_events()
            quantity = 30 + other.serial
            bought = await self._order(self.person, COMMON, other.store, {other.variant: quantity})
            await self._pay(self.person, bought.id)
            other.add_ids("order", bought.id)
            other.number(quantity * PRICES[other.brand])
            self.common["order"].append(await self._mixed(40 + other.serial))

    async def _mixed(self, quantity: int) -> str:
        """Places an order of both brands' goods at elm. Neither brand may see the amount of the other one, nor the total."""
        lines = {side.variant: quantity + side.serial for side in (self.ash, self.birch)}
        order = await self._order(self.person, COMMON, "str_elm", lines)
        await self._pay(self.person, order.id)
        paid = {side: side.number(lines[side.variant] * PRICES[side.brand]) for side in (self.ash, self.birch)}
        for side in paid:
            side.number(sum(paid.values()))
        return str(order.id)

    async def _collect_results(self) -> None:
        """Collects the tasks, which only events create, and the remaining stock levels."""
        sides = (self.ash, self.birch, self.oak)
        async for document in self.suite.services["organization"].database["tasks"].find({}).sort("created_at", 1):
            next(side for side in sides if document["store_id"] == side.store).add_ids("task", document["_id"])
        async for document in self.suite.services["commerce"].database["stock"].find({"store_id": {"$in": [side.store for side in sides]}}):
            next(side for side in sides if document["store_id"] == side.store).number(document["on_hand"])


async def seed_world(services: Mapping[str, ServiceHarness]) -> World:
    """Seeds the world and waits for all events."""
    world = World(services)
    await world.seed()
    return world
