"""A running district service with stubs and requests for operators, brands, consumers and other services."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from quanyu.common.v1 import touch_pb2
from quanyu.common.v1.money_pb2 import Money
from quanyu.common.v1.point_pb2 import Point
from quanyu.district.v1 import (
    campaigns_pb2,
    campaigns_pb2_grpc,
    packs_pb2,
    packs_pb2_grpc,
    places_pb2,
    places_pb2_grpc,
    wallet_pb2,
    wallet_pb2_grpc,
)
from services.kit import clock
from services.kit.security.caller import Caller, caller_context
from services.kit.security.principals import INSTALLATION, SERVICE, Grant
from tests.services.conftest import OPERATOR, ServiceHarness

BRAND, DISTRICT, CONSUMER = "SCOPE_KIND_BRAND", "SCOPE_KIND_DISTRICT", "SCOPE_KIND_CONSUMER"
COMMERCE = Grant(SERVICE, INSTALLATION)
SANLITUN = Point(longitude=116.4551, latitude=39.9341)
numbers = count()


def new_id(prefix: str = "req") -> str:
    """Returns an unused id."""
    return f"{prefix}_{next(numbers)}"


def brand_operator(brand_id: str) -> Grant:
    return Grant("ROLE_BRAND_OPERATOR", BRAND, brand_id)


def district_operator(district_id: str) -> Grant:
    return Grant("ROLE_DISTRICT_OPERATOR", DISTRICT, district_id)


def consumer_grants(*consumer_ids: str) -> tuple[Grant, ...]:
    """Returns the grants of a person with these consumer ids."""
    return tuple(Grant("ROLE_CONSUMER", CONSUMER, id) for id in consumer_ids)


def fen(minor: int) -> Money:
    return Money(minor=minor, currency="CNY")


class World:
    """The requests of tests to a running district service. Each call is a new request unless `request_id` is set."""

    def __init__(self, running: ServiceHarness) -> None:
        self.running, self.offset = running, 0.0

    def set_clock(self, moment: datetime) -> None:
        """Sets the clock of all later calls; it continues from there."""
        self.offset = (moment - datetime.now(moment.tzinfo)).total_seconds()

    def advance_clock(self, by: timedelta) -> None:
        self.offset += by.total_seconds()

    def places(self, *grants: Grant) -> places_pb2_grpc.PlaceServiceStub:
        return places_pb2_grpc.PlaceServiceStub(self._channel(grants))

    def campaigns(self, *grants: Grant) -> campaigns_pb2_grpc.CampaignServiceStub:
        return campaigns_pb2_grpc.CampaignServiceStub(self._channel(grants))

    def packs(self, *grants: Grant) -> packs_pb2_grpc.PackServiceStub:
        return packs_pb2_grpc.PackServiceStub(self._channel(grants))

    def wallet(self, *grants: Grant) -> wallet_pb2_grpc.WalletServiceStub:
        return wallet_pb2_grpc.WalletServiceStub(self._channel(grants))

    def _channel(self, grants: tuple[Grant, ...]) -> Any:
        subject = "|".join(f"{grant.role}:{grant.id}" for grant in grants)
        return self.running.channel_as(*(grants or (OPERATOR,)), subject=subject or "operator", offset=self.offset)

    async def create_district(self, id: str = "dst_sanlitun", name: str = "三里屯") -> places_pb2.District:
        request = places_pb2.CreateDistrictRequest(
            request_id=new_id(), id=id, name=name, name_en="Sanlitun", position=SANLITUN, zone="Asia/Shanghai",
            geofence=places_pb2.Geofence(radius_metres=800),
        )  # fmt: skip
        return (await self.places().CreateDistrict(request)).district

    async def create_venue(self, store_id: str = "str_here", district_id: str = "dst_sanlitun") -> None:
        """Makes a store a venue of the district."""
        venue = places_pb2.NewVenue(kind=places_pb2.VENUE_KIND_STORE, name="店", position=SANLITUN, store_id=store_id)
        request = places_pb2.CreateVenueRequest(request_id=new_id(), district_id=district_id, venue=venue)
        await self.places(district_operator(district_id)).CreateVenue(request)

    async def create_campaign(self, id: str = "cmp_november", district_id: str = "dst_sanlitun") -> campaigns_pb2.Campaign:
        at = clock.now() + timedelta(seconds=self.offset)
        request = campaigns_pb2.CreateCampaignRequest(
            request_id=new_id(), id=id, district_id=district_id, name="十一月", starts_at=at - timedelta(days=1),
            ends_at=at + timedelta(days=30),
        )  # fmt: skip
        return (await self.campaigns(district_operator(district_id)).CreateCampaign(request)).campaign

    async def join_campaign(
        self, brand_id: str, total: int = 100, *, campaign_id: str = "cmp_november", value: int = 3_000, minimum: int = 10_000
    ) -> campaigns_pb2.Budget:
        terms = campaigns_pb2.CouponTerms(name="满100减30", value=fen(value), minimum_spend=fen(minimum), validity_days=7)
        request = campaigns_pb2.JoinCampaignRequest(
            request_id=new_id(), campaign_id=campaign_id, brand_id=brand_id, terms=terms, total=total
        )
        return (await self.campaigns(brand_operator(brand_id)).JoinCampaign(request)).budget

    async def enter(self, consumer_id: str, district_id: str = "dst_sanlitun", **more: Any) -> places_pb2.Visit:
        request = places_pb2.EnterDistrictRequest(
            request_id=more.pop("request_id", "") or new_id(), consumer_id=consumer_id, district_id=district_id,
            touchpoint=touch_pb2.TOUCHPOINT_MINI_PROGRAM, **more,
        )  # fmt: skip
        return (await self.places(*consumer_grants(consumer_id)).EnterDistrict(request)).visit

    async def leave(self, visit: places_pb2.Visit, request_id: str = "") -> places_pb2.Visit:
        request = places_pb2.LeaveDistrictRequest(request_id=request_id or new_id(), visit_id=visit.id)
        return (await self.places(*consumer_grants(visit.consumer_id)).LeaveDistrict(request)).visit

    async def claim(self, visit: places_pb2.Visit, request_id: str = "") -> packs_pb2.Pack:
        request = packs_pb2.ClaimPackRequest(request_id=request_id or new_id(), consumer_id=visit.consumer_id, visit_id=visit.id)
        return (await self.packs(*consumer_grants(visit.consumer_id)).ClaimPack(request)).pack

    async def lock(
        self, order_id: str, consumer_id: str, coupon_ids: list[str], request_id: str = "", store_id: str = "str_here", **amounts: int
    ) -> list[wallet_pb2.CouponDiscount]:
        lines = [wallet_pb2.CouponLine(brand_id=brand_id, amount=fen(minor)) for brand_id, minor in amounts.items()]
        request = wallet_pb2.LockCouponsRequest(
            request_id=request_id or new_id(), order_id=order_id, consumer_id=consumer_id, coupon_ids=coupon_ids, lines=lines,
            store_id=store_id,
        )  # fmt: skip
        return list((await self.wallet(COMMERCE).LockCoupons(request)).discounts)

    async def confirm(self, order_id: str, request_id: str = "") -> list[str]:
        request = wallet_pb2.ConfirmCouponsRequest(request_id=request_id or new_id(), order_id=order_id)
        return list((await self.wallet(COMMERCE).ConfirmCoupons(request)).coupon_ids)

    async def roll_back(self, order_id: str, request_id: str = "") -> list[str]:
        request = wallet_pb2.RollbackCouponsRequest(request_id=request_id or new_id(), order_id=order_id)
        return list((await self.wallet(COMMERCE).RollbackCoupons(request)).coupon_ids)

    async def get_coupons(self, *ids: str) -> dict[str, wallet_pb2.Coupon]:
        answer = await self.wallet().BatchGetCoupons(wallet_pb2.BatchGetCouponsRequest(ids=ids))
        return {coupon.id: coupon for coupon in answer.coupons}


async def list_plan_stages(find: Any) -> str:
    """Returns the stages of a query's winning plan, outermost first, separated by blanks."""
    explained = await find.explain()
    stages: list[str] = []

    def collect(stage: dict[str, Any]) -> None:
        stages.append(stage["stage"])
        for inner in [stage["inputStage"]] if "inputStage" in stage else stage.get("inputStages", []):
            collect(inner)

    collect(explained["queryPlanner"]["winningPlan"])
    return " ".join(stages)


@contextmanager
def acting_as(caller: Caller) -> Iterator[None]:
    """Runs the block as this caller, for tests that call repositories directly."""
    token = caller_context.set(caller)
    try:
        yield
    finally:
        caller_context.reset(token)
