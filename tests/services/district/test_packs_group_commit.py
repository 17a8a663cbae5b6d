"""Concurrent issuing of packs by two group commits on one database: exact budgets, complete packs, one pack a day."""

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
from services.kit.security.caller import SYSTEM, Caller
from services.kit.transactions.group_commit import GroupCommit
from services.kit.transactions.idempotency import IdempotencyKey
from tests.services.conftest import ServiceHarness
from tests.services.district.world import World, acting_as, new_id

NEW = PickReason(PickKind.NEW_TO_YOU)
DISTRICT = "dst_sanlitun"


class PackIssuer:
    """Issues packs with all consents granted, alternately through two group commits."""

    def __init__(self, district: ServiceHarness) -> None:
        runtime = district.runtime
        self.database, self.packs = runtime.database, PackRepository(runtime.database)
        self.group_commits = [runtime.group_commit, GroupCommit(runtime.database, runtime.outbox, runtime.clock)]
        self.budgets, self.visits = BudgetRepository(runtime.database), VisitRepository(runtime.database)

    async def claim(self, visit: places_pb2.Visit, number: int, *ids: str, first: int = 0) -> packs_pb2.Pack:
        """Claims a pack with the brands ranked by their ids, starting with the one at `first`."""
        with acting_as(SYSTEM):
            budgets = sorted(await self.budgets.find_running(DISTRICT, clock.now()), key=lambda budget: budget.brand_id)
            ranked = tuple(Candidate(budget.brand_id, NEW, (budget,), True) for budget in budgets[first:] + budgets[:first])
            claim = Claim(
                consumer_id=visit.consumer_id, person=Person(visit.consumer_id, frozenset({visit.consumer_id, *ids})),
                visit=await self.visits.load(visit.id), today=date.fromisoformat(visit.day), at=clock.now(), ranked=ranked,
            )  # fmt: skip
            request = packs_pb2.ClaimPackRequest(request_id=new_id(), consumer_id=visit.consumer_id, visit_id=visit.id)
            return (await self.packs.issue(self.group_commits[number % 2], IdempotencyKey.from_request(request), claim)).pack

    async def check_exact(self) -> None:
        """Checks that budgets count the existing coupons, within their totals, and that each coupon is in one pack."""
        coupons = await self.database["coupons"].find().to_list(None)
        budgets = await self.database["budgets"].find().to_list(None)
        assert Counter(coupon["brand_id"] for coupon in coupons) == Counter({b["brand_id"]: b["issued"] for b in budgets if b["issued"]})
        assert all(budget["issued"] <= budget["total"] for budget in budgets)
        packs = await self.database["packs"].find().to_list(None)
        assert sorted(entry["coupon_id"] for pack in packs for entry in pack["entries"]) == sorted(coupon["_id"] for coupon in coupons)


@pytest.fixture
async def issuer(world: World, district: ServiceHarness) -> PackIssuer:
    await world.create_campaign()
    return PackIssuer(district)


async def test_budgets_are_exact_under_concurrency(world: World, issuer: PackIssuer) -> None:
    totals = {f"brd_{n}": 5 + 3 * n for n in range(8)}
    for brand_id, total in totals.items():
        await world.join_campaign(brand_id, total)
    visits = await asyncio.gather(*(world.enter(f"con_{n}") for n in range(40)))
    claims = [issuer.claim(visit, n, first=n % 8) for n, visit in enumerate(visits)]
    answers = await asyncio.gather(*claims, return_exceptions=True)
    packs = [answer for answer in answers if isinstance(answer, packs_pb2.Pack)]
    refusals = [answer for answer in answers if not isinstance(answer, packs_pb2.Pack)]
    assert all(isinstance(refusal, Exhausted) and refusal.reason == "NOTHING_TO_GIVE" for refusal in refusals)
    await issuer.check_exact()
    # 124 coupons for 40 packs of six: all are issued, and late packs decline the brands that had none left.
    assert sum(len(pack.entries) for pack in packs) == sum(totals.values())
    assert any(item.reason == packs_pb2.DECLINE_REASON_BUDGET_SPENT for pack in packs for item in pack.declined)
    assert all(len({entry.brand_id for entry in pack.entries}) == len(pack.entries) for pack in packs)


async def test_concurrent_claims_of_linked_ids_issue_one_pack(world: World, issuer: PackIssuer) -> None:
    for n in range(8):
        await world.join_campaign(f"brd_{n}", 100)
    anna, card = await world.enter("con_anna"), await world.enter("con_card")
    claims = [issuer.claim((anna, card)[n % 3 == 0], n, "con_anna", "con_card", first=n % 8) for n in range(24)]
    packs = await asyncio.gather(*claims)
    assert len({pack.id for pack in packs}) == 1
    assert all(pack == packs[0] for pack in packs)
    await issuer.check_exact()
    assert await issuer.database["packs"].count_documents({}) == 1


async def test_concurrent_leave_and_claim_agree_on_unspent(world: World, issuer: PackIssuer, district: ServiceHarness) -> None:
    for n in range(3):
        await world.join_campaign(f"brd_{n}", 100)
    visits = await asyncio.gather(*(world.enter(f"con_{n}") for n in range(12)))
    both = [call for n, visit in enumerate(visits) for call in (issuer.claim(visit, n), world.leave(visit))]
    answers = await asyncio.gather(*both, return_exceptions=True)
    unspent = {
        event.visit_left.visit_id: len(event.visit_left.unspent)
        for event in await district.published_events()
        if event.WhichOneof("body") == "visit_left"
    }
    for visit, answer in zip(visits, answers[::2], strict=True):
        if isinstance(answer, packs_pb2.Pack):
            assert unspent[visit.id] == 3
        else:
            assert isinstance(answer, Conflict)
            assert (answer.reason, unspent[visit.id]) == ("VISIT_OVER", 0)
    assert not [answer for answer in answers[1::2] if isinstance(answer, Exception)]
    await issuer.check_exact()


async def test_pack_issued_event_is_published_once(world: World, issuer: PackIssuer, district: ServiceHarness) -> None:
    await world.join_campaign("brd_0")
    await world.join_campaign("brd_1")
    visit = await world.enter("con_anna")
    pack = await issuer.claim(visit, 0)
    assert await issuer.claim(visit, 1) == pack
    (event,) = [event.pack_issued for event in await district.published_events() if event.WhichOneof("body") == "pack_issued"]
    assert (event.pack_id, event.consumer_id, event.district_id) == (pack.id, "con_anna", DISTRICT)
    assert event.touchpoint == touch_pb2.TOUCHPOINT_MINI_PROGRAM
    assert [coupon.coupon_id for coupon in event.coupons] == [entry.coupon_id for entry in pack.entries]
    assert [coupon.value for coupon in event.coupons] == [entry.value for entry in pack.entries]
    assert [coupon.expires_at for coupon in event.coupons] == [entry.expires_at for entry in pack.entries]


async def test_refused_claim_writes_nothing(world: World, issuer: PackIssuer) -> None:
    await world.join_campaign("brd_0", 1)
    first, second = await world.enter("con_anna"), await world.enter("con_ben")
    assert len((await issuer.claim(first, 0)).entries) == 1
    with pytest.raises(Refusal) as refused:
        await issuer.claim(second, 1)
    assert (refused.value.reason, refused.value.metadata["budget_spent"]) == ("NOTHING_TO_GIVE", "1")
    await issuer.check_exact()
    assert not await issuer.database["packs"].find_one({"consumer_id": "con_ben"})


async def test_other_consumer_cannot_load_the_visit(world: World, issuer: PackIssuer) -> None:
    await world.join_campaign("brd_0")
    visit = await world.enter("con_anna")
    with acting_as(Caller(id="con_ben")), pytest.raises(Refusal) as refused:
        await issuer.visits.load(visit.id)
    assert refused.value.reason == "VISIT_NOT_FOUND"
