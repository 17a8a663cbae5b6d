"""Issuing packs under concurrency, with two processes' lanes on one database: budgets exact, packs whole, one a day."""

import asyncio
from collections import Counter
from datetime import date

import pytest

from quanyu.common.v1 import touch_pb2
from quanyu.district.v1 import packs_pb2, places_pb2
from services.district.campaigns.repository import BudgetRepository
from services.district.packs.enums import PickKind
from services.district.packs.repository import Claim, PackRepository
from services.district.packs.rules import Candidate, PickReason
from services.district.places.repository import VisitRepository
from services.kit import clock
from services.kit.errors import Conflict, Exhausted, Refusal
from services.kit.projections.persons import Person
from services.kit.security import authorization
from services.kit.security.authorization import Caller
from services.kit.transactions.group_commit import GroupCommit
from services.kit.transactions.idempotency import IdempotencyKey
from tests.services.conftest import Running
from tests.services.district.world import World, being, fresh

NEW = PickReason(PickKind.NEW_TO_YOU)
HERE = "dst_sanlitun"


class Issuing:
    """Claims with the consents given, through one of two lanes in turn."""

    def __init__(self, district: Running) -> None:
        runtime = district.runtime
        self.database, self.packs = runtime.database, PackRepository(runtime.database)
        self.lanes = [runtime.group_commit, GroupCommit(runtime.database, runtime.outbox, runtime.clock)]
        self.budgets, self.visits = BudgetRepository(runtime.database), VisitRepository(runtime.database)

    async def claim(self, visit: places_pb2.Visit, number: int, *ids: str, first: int = 0) -> packs_pb2.Pack:
        """Asks for the pack; the brands in the order of their ids, starting with the one at `first`."""
        with being(authorization.SYSTEM):
            budgets = sorted(await self.budgets.running(HERE, clock.now()), key=lambda budget: budget.brand_id)
            ranked = tuple(Candidate(budget.brand_id, NEW, (budget,), True) for budget in budgets[first:] + budgets[:first])
            claim = Claim(
                consumer_id=visit.consumer_id, person=Person(visit.consumer_id, frozenset({visit.consumer_id, *ids})),
                visit=await self.visits.load(visit.id), today=date.fromisoformat(visit.day), at=clock.now(), ranked=ranked,
            )  # fmt: skip
            request = packs_pb2.ClaimPackRequest(request_id=fresh(), consumer_id=visit.consumer_id, visit_id=visit.id)
            return (await self.packs.issue(self.lanes[number % 2], IdempotencyKey.of(request), claim)).pack

    async def recount(self) -> None:
        """Every budget has issued the coupons that exist of it, no more than it may, and every coupon is in one pack."""
        coupons = await self.database["coupons"].find().to_list(None)
        budgets = await self.database["budgets"].find().to_list(None)
        assert Counter(coupon["brand_id"] for coupon in coupons) == Counter({b["brand_id"]: b["issued"] for b in budgets if b["issued"]})
        assert all(budget["issued"] <= budget["total"] for budget in budgets)
        packs = await self.database["packs"].find().to_list(None)
        assert sorted(entry["coupon_id"] for pack in packs for entry in pack["entries"]) == sorted(coupon["_id"] for coupon in coupons)


@pytest.fixture
async def issuing(world: World, district: Running) -> Issuing:
    await world.stage()
    return Issuing(district)


async def test_budgets_are_exact_under_concurrency(world: World, issuing: Issuing) -> None:
    totals = {f"brd_{n}": 5 + 3 * n for n in range(8)}
    for brand_id, total in totals.items():
        await world.join(brand_id, total)
    visits = await asyncio.gather(*(world.enter(f"con_{n}") for n in range(40)))
    claims = [issuing.claim(visit, n, first=n % 8) for n, visit in enumerate(visits)]
    answers = await asyncio.gather(*claims, return_exceptions=True)
    packs = [answer for answer in answers if isinstance(answer, packs_pb2.Pack)]
    refusals = [answer for answer in answers if not isinstance(answer, packs_pb2.Pack)]
    assert all(isinstance(refusal, Exhausted) and refusal.reason == "NOTHING_TO_GIVE" for refusal in refusals)
    await issuing.recount()
    # 124 coupons for 40 packs of six: everything goes, and who comes late hears which brands had nothing left.
    assert sum(len(pack.entries) for pack in packs) == sum(totals.values())
    assert any(item.reason == packs_pb2.DECLINE_REASON_BUDGET_SPENT for pack in packs for item in pack.declined)
    assert all(len({entry.brand_id for entry in pack.entries}) == len(pack.entries) for pack in packs)


async def test_one_pack_a_day_however_many_ask_under_whatever_id_in_whatever_process(world: World, issuing: Issuing) -> None:
    for n in range(8):
        await world.join(f"brd_{n}", 100)
    anna, card = await world.enter("con_anna"), await world.enter("con_card")
    claims = [issuing.claim((anna, card)[n % 3 == 0], n, "con_anna", "con_card", first=n % 8) for n in range(24)]
    packs = await asyncio.gather(*claims)
    assert len({pack.id for pack in packs}) == 1
    assert all(pack == packs[0] for pack in packs)
    await issuing.recount()
    assert await issuing.database["packs"].count_documents({}) == 1


async def test_who_leaves_at_that_moment_leaves_with_the_pack_or_without_it(world: World, issuing: Issuing, district: Running) -> None:
    for n in range(3):
        await world.join(f"brd_{n}", 100)
    visits = await asyncio.gather(*(world.enter(f"con_{n}") for n in range(12)))
    both = [call for n, visit in enumerate(visits) for call in (issuing.claim(visit, n), world.leave(visit))]
    answers = await asyncio.gather(*both, return_exceptions=True)
    unspent = {
        event.visit_left.visit_id: len(event.visit_left.unspent)
        for event in await district.events_told()
        if event.WhichOneof("body") == "visit_left"
    }
    for visit, answer in zip(visits, answers[::2], strict=True):
        if isinstance(answer, packs_pb2.Pack):
            assert unspent[visit.id] == 3
        else:
            assert isinstance(answer, Conflict)
            assert (answer.reason, unspent[visit.id]) == ("VISIT_OVER", 0)
    assert not [answer for answer in answers[1::2] if isinstance(answer, Exception)]
    await issuing.recount()


async def test_the_pack_is_told_once_with_its_coupons(world: World, issuing: Issuing, district: Running) -> None:
    await world.join("brd_0")
    await world.join("brd_1")
    visit = await world.enter("con_anna")
    pack = await issuing.claim(visit, 0)
    assert await issuing.claim(visit, 1) == pack
    (event,) = [event.pack_issued for event in await district.events_told() if event.WhichOneof("body") == "pack_issued"]
    assert (event.pack_id, event.consumer_id, event.district_id) == (pack.id, "con_anna", HERE)
    assert event.touchpoint == touch_pb2.TOUCHPOINT_MINI_PROGRAM
    assert [coupon.coupon_id for coupon in event.coupons] == [entry.coupon_id for entry in pack.entries]
    assert [coupon.value for coupon in event.coupons] == [entry.value for entry in pack.entries]
    assert [coupon.expires_at for coupon in event.coupons] == [entry.expires_at for entry in pack.entries]


async def test_a_refused_claim_leaves_nothing(world: World, issuing: Issuing) -> None:
    await world.join("brd_0", 1)
    first, second = await world.enter("con_anna"), await world.enter("con_ben")
    assert len((await issuing.claim(first, 0)).entries) == 1
    with pytest.raises(Refusal) as refused:
        await issuing.claim(second, 1)
    assert (refused.value.reason, refused.value.metadata["budget_spent"]) == ("NOTHING_TO_GIVE", "1")
    await issuing.recount()
    assert not await issuing.database["packs"].find_one({"consumer_id": "con_ben"})


async def test_a_stranger_to_the_visit_gets_nothing(world: World, issuing: Issuing) -> None:
    await world.join("brd_0")
    visit = await world.enter("con_anna")
    with being(Caller(id="con_ben")), pytest.raises(Refusal) as refused:
        await issuing.visits.load(visit.id)
    assert refused.value.reason == "VISIT_NOT_FOUND"
