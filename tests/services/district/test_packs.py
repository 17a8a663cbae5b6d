"""Packs through the rpcs, with the member service answering for consents."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from quanyu.common.v1 import touch_pb2
from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.district.v1 import campaigns_pb2, packs_pb2, wallet_pb2
from quanyu.events.v1 import events_pb2
from quanyu.member.v1 import consent_pb2, consent_pb2_grpc, identity_pb2, identity_pb2_grpc
from services.district.packs.rules import Pack
from services.kit.errors import Conflict, Denied, Exhausted, NotFound, Unavailable
from services.kit.mongo.codec import as_documents
from tests.services.conftest import OPERATOR, Running, Start
from tests.services.district.test_matching import imported, link, order
from tests.services.district.world import World, brand_operator, consumer, fresh, plan_of
from tests.services.lists import first_pages, rows_read, says_the_same_of_each

BOUGHT, NEW = packs_pb2.PICK_KIND_BOUGHT_BEFORE, packs_pb2.PICK_KIND_NEW_TO_YOU
SPENT, MISSING = packs_pb2.DECLINE_REASON_BUDGET_SPENT, packs_pb2.DECLINE_REASON_CONSENT_MISSING
NOW = datetime(2026, 11, 22, 13, 40, tzinfo=UTC)


class District(World):
    """The world with a member service beside it."""

    member: Running

    async def consenting(self, consumer_id: str, *brand_ids: str) -> None:
        """Registers a consumer who lets these brands match them in districts."""
        consents = [
            identity_pb2.ImportedConsent(
                brand_id=brand_id, purpose=consent_pb2.PURPOSE_DISTRICT_COUPONS, granted=True, touchpoint=touch_pb2.TOUCHPOINT_APP
            )
            for brand_id in brand_ids
        ]
        row = identity_pb2.ImportedConsumer(consumer_id=consumer_id, consents=consents)
        request = identity_pb2.ImportConsumersRequest(request_id=fresh(), brand_id="brd_0", consumers=[row])
        answer = await identity_pb2_grpc.IdentityServiceStub(self.member.channel_as(OPERATOR)).ImportConsumers(request)
        assert not answer.rejects

    async def takes_back(self, consumer_id: str, brand_id: str) -> None:
        stub = consent_pb2_grpc.ConsentServiceStub(self.member.channel_as(*consumer(consumer_id)))
        request = consent_pb2.SetConsentRequest(
            request_id=fresh(), consumer_id=consumer_id, brand_id=brand_id, purpose=consent_pb2.PURPOSE_DISTRICT_COUPONS,
            touchpoint=touch_pb2.TOUCHPOINT_APP,
        )  # fmt: skip
        await stub.SetConsent(request)

    async def bought(self, consumer_id: str, *orders: tuple[str, int]) -> None:
        """Orders of a brand, so many weeks ago."""
        told = [order(consumer_id, brand_id, paid_at=NOW - timedelta(weeks=weeks)) for brand_id, weeks in orders]
        (delivery,) = await self.running.deliver(imported(*told), source="commerce")
        assert delivery.state == events_pb2.DELIVERY_STATE_APPLIED

    async def budget(self, brand_id: str) -> campaigns_pb2.Budget:
        answer = await self.campaigns().ListBudgets(campaigns_pb2.ListBudgetsRequest(brand_id=brand_id))
        return answer.budgets[0]


@pytest.fixture
async def here(start: Start) -> District:
    """Sanlitun at 21:40 with a campaign of eight brands, 100 coupons each."""
    running = await start("member", "district")
    here = District(running["district"])
    here.member = running["member"]
    here.at(NOW)
    await here.found()
    await here.stage()
    for n in range(8):
        await here.join(f"brd_{n}")
    return here


BRANDS = [f"brd_{n}" for n in range(8)]


async def test_the_pack_holds_what_the_consumer_buys_most_and_says_why(here: District) -> None:
    await here.consenting("con_anna", *BRANDS)
    await here.bought("con_anna", ("brd_5", 1), ("brd_5", 14), ("brd_2", 26), ("brd_7", 2), ("brd_2", 30), ("brd_elsewhere", 0))
    visit = await here.enter("con_anna")
    pack = await here.claim(visit)
    assert [entry.brand_id for entry in pack.entries][:3] == ["brd_5", "brd_7", "brd_2"]
    assert len(pack.entries) == 6
    best = pack.entries[0].reason
    assert (best.kind, best.purchase_count) == (BOUGHT, 2)
    assert best.last_purchase_at.ToDatetime(tzinfo=UTC) == NOW - timedelta(weeks=1)
    assert best.decayed_frequency == pytest.approx(0.5 ** (1 / 13) + 0.5 ** (14 / 13), rel=1e-4)
    assert {entry.reason.kind for entry in pack.entries[3:]} == {NEW}
    assert {entry.reason.purchase_count for entry in pack.entries[3:]} == {0}
    assert not pack.declined
    coupons = await here.coupons(*(entry.coupon_id for entry in pack.entries))
    assert len(coupons) == 6
    for entry in pack.entries:
        coupon = coupons[entry.coupon_id]
        assert (coupon.brand_id, coupon.pack_id, coupon.value, coupon.consumer_id) == (entry.brand_id, pack.id, entry.value, "con_anna")
        assert coupon.state == wallet_pb2.COUPON_STATE_ISSUED
        assert (await here.budget(entry.brand_id)).issued == 1


async def test_a_spent_budget_and_a_missing_consent_are_refused_visibly(here: District) -> None:
    await here.consenting("con_first", *BRANDS)
    await here.bought("con_first", ("brd_rare", 1))
    await here.join("brd_rare", 1)
    await here.consenting("con_greedy", "brd_rare")
    assert [entry.brand_id for entry in (await here.claim(await here.enter("con_greedy"))).entries] == ["brd_rare"]
    await here.consenting("con_anna", *BRANDS[1:], "brd_rare")
    await here.bought("con_anna", ("brd_rare", 1), ("brd_rare", 2), ("brd_0", 3), ("brd_3", 4))
    pack = await here.claim(await here.enter("con_anna"))
    assert [(item.brand_id, item.reason) for item in pack.declined] == [("brd_rare", SPENT), ("brd_0", MISSING)]
    assert pack.entries[0].brand_id == "brd_3"
    assert len(pack.entries) == 6
    assert (await here.budget("brd_0")).issued == (await here.budget("brd_rare")).issued - 1 == 0


async def test_a_consent_taken_back_counts_from_then_on(here: District) -> None:
    await here.consenting("con_anna", "brd_1", "brd_2")
    await here.takes_back("con_anna", "brd_1")
    pack = await here.claim(await here.enter("con_anna"))
    assert [entry.brand_id for entry in pack.entries] == ["brd_2"]
    assert ("brd_1", MISSING) in [(item.brand_id, item.reason) for item in pack.declined]


async def test_without_any_consent_or_campaign_there_is_no_pack(here: District) -> None:
    visit = await here.enter("con_stranger")
    with pytest.raises(Exhausted) as refused:
        await here.claim(visit)
    assert refused.value.reason == "NOTHING_TO_GIVE"
    assert refused.value.metadata["consent_missing"] == "8"
    await here.found("dst_quiet")
    with pytest.raises(Conflict) as quiet:
        await here.claim(await here.enter("con_stranger", "dst_quiet"))
    assert quiet.value.reason == "NO_CAMPAIGN"


async def test_asked_again_the_same_day_it_is_the_same_pack(here: District) -> None:
    await here.consenting("con_anna", *BRANDS)
    visit = await here.enter("con_anna")
    packs = await asyncio.gather(*(here.claim(visit, f"r{n % 5}") for n in range(15)))
    assert all(pack == packs[0] for pack in packs)
    await here.bought("con_anna", *((brand, 0) for brand in BRANDS))
    here.later(timedelta(hours=1))
    assert await here.claim(visit) == packs[0]
    await here.leave(visit)
    assert await here.claim(visit) == packs[0]
    again = await here.enter("con_anna")
    assert await here.claim(again) == packs[0]
    assert sum([(await here.budget(brand)).issued for brand in BRANDS]) == 6
    with pytest.raises(Conflict) as reused:
        await here.claim(again, "r0")
    assert reused.value.reason == "REQUEST_ID_REUSED"
    here.later(timedelta(hours=2))
    tomorrow = await here.enter("con_anna")
    fresh_pack = await here.claim(tomorrow)
    assert fresh_pack.id != packs[0].id
    assert (packs[0].day, fresh_pack.day) == ("2026-11-22", "2026-11-23")


async def test_a_visit_that_is_over_gives_no_pack(here: District) -> None:
    await here.consenting("con_anna", *BRANDS)
    left = await here.enter("con_anna")
    await here.leave(left)
    forgotten = await here.enter("con_anna")
    here.later(timedelta(hours=3))
    for visit in (left, forgotten):
        with pytest.raises(Conflict) as refused:
            await here.claim(visit)
        assert refused.value.reason == "VISIT_OVER"


async def test_a_person_has_one_pack_under_all_ids_matched_by_what_all_of_them_bought(here: District) -> None:
    await here.consenting("con_anna", *BRANDS)
    await here.consenting("con_card", *BRANDS)
    await here.bought("con_anna", ("brd_1", 1))
    await here.bought("con_card", ("brd_1", 2), ("brd_6", 1), ("brd_6", 3), ("brd_6", 4))
    await link(here.running, "con_anna", "con_card")
    anna = await here.enter("con_anna")
    assert await here.enter("con_card") == anna
    pack = await here.claim(anna)
    assert [(entry.brand_id, entry.reason.purchase_count) for entry in pack.entries][:2] == [("brd_6", 3), ("brd_1", 2)]
    both = here.packs(*consumer("con_anna", "con_card"))
    request = packs_pb2.ClaimPackRequest(request_id=fresh(), consumer_id="con_card", visit_id=anna.id)
    assert (await both.ClaimPack(request)).pack == pack
    listed = await both.ListPacks(packs_pb2.ListPacksRequest(consumer_id="con_card", page=PageRequest(first=5)))
    assert list(listed.packs) == [pack]


async def test_who_leaves_takes_the_unspent_coupons_along(here: District) -> None:
    await here.consenting("con_anna", *BRANDS[:3])
    await here.settle()
    visit = await here.enter("con_anna")
    pack = await here.claim(visit)
    spent = pack.entries[0]
    await here.lock("ord_1", "con_anna", [spent.coupon_id], **{spent.brand_id: 50_000})
    await here.confirm("ord_1")
    await here.leave(visit)
    (left,) = [event.visit_left for event in await here.running.events_told() if event.WhichOneof("body") == "visit_left"]
    assert [coupon.coupon_id for coupon in left.unspent] == [entry.coupon_id for entry in pack.entries[1:]]
    assert left.unspent[0].value == pack.entries[1].value
    assert left.unspent[0].expires_at == pack.entries[1].expires_at
    (row,) = (await here.wallet(OPERATOR).BatchGetCoupons(wallet_pb2.BatchGetCouponsRequest(ids=[left.unspent[0].coupon_id]))).coupons
    assert (left.unspent[0].name, left.unspent[0].minimum_spend) == (row.name, row.minimum_spend)


async def test_a_pack_is_the_consumers_alone(here: District) -> None:
    await here.consenting("con_anna", *BRANDS)
    visit = await here.enter("con_anna")
    pack = await here.claim(visit)
    mine = here.packs(*consumer("con_anna"))
    assert (await mine.GetPack(packs_pb2.GetPackRequest(id=pack.id))).pack == pack
    assert list((await mine.BatchGetPacks(packs_pb2.BatchGetPacksRequest(ids=[pack.id]))).packs) == [pack]
    other = here.packs(*consumer("con_ben"))
    with pytest.raises(NotFound) as missing:
        await other.GetPack(packs_pb2.GetPackRequest(id=pack.id))
    assert missing.value.reason == "PACK_NOT_FOUND"
    assert not (await other.BatchGetPacks(packs_pb2.BatchGetPacksRequest(ids=[pack.id]))).packs
    with pytest.raises(NotFound):
        await other.ClaimPack(packs_pb2.ClaimPackRequest(request_id=fresh(), consumer_id="con_ben", visit_id=visit.id))
    for grants in (consumer("con_ben"), (brand_operator("brd_0"),)):
        with pytest.raises(Denied):
            await here.packs(*grants).ListPacks(packs_pb2.ListPacksRequest(consumer_id="con_anna"))


async def test_the_first_packs_of_several_persons_are_those_of_each_within_scope(district: Running) -> None:
    world, rpc, people = World(district), "PackService.BatchListPacks", ["con_anna", "con_card", "con_ben", "con_none"]
    days = [("con_anna", 1), ("con_card", 2), ("con_anna", 3), ("con_ben", 1)]
    rows = [
        Pack(
            id=f"pck_{number}", consumer_id=consumer_id, district_id="dst_sanlitun", visit_id="vis_1", day=f"2026-11-0{day}",
            issued_at=NOW - timedelta(days=9 - day), entries=(),
        )
        for number, (consumer_id, day) in enumerate(days)
    ]  # fmt: skip
    await district.database["packs"].insert_many(as_documents(rows))
    await link(district, "con_anna", "con_card")
    everybodys = await says_the_same_of_each(world.packs(), rpc, "consumer_id", people)
    assert everybodys == {"con_anna": 3, "con_card": 3, "con_ben": 1}
    assert await rows_read(district.database, "packs", first_pages(world.packs(), rpc, "consumer_id", people, 1)) == 2 * 2 + 1
    mine = await first_pages(world.packs(*consumer("con_card")), rpc, "consumer_id", people, 5)
    assert {key: [pack.id for pack in packs] for key, (packs, _) in mine.items()} == {"con_card": ["pck_2", "pck_1", "pck_0"]}
    with pytest.raises(Denied):
        await first_pages(world.packs(brand_operator("brd_0")), rpc, "consumer_id", people, 5)


async def test_a_claim_is_not_answered_by_guess_when_member_is_away(district: Running) -> None:
    world = World(district)
    await world.found()
    await world.stage()
    await world.join("brd_0")
    visit = await world.enter("con_anna")
    with pytest.raises(Unavailable):
        await world.claim(visit)
    assert await district.database["coupons"].count_documents({}) == 0


async def test_hot_queries_walk_an_index(district: Running) -> None:
    packs = district.database["packs"]
    plan = (await plan_of(packs.find({"consumer_id": {"$in": ["con_a", "con_b"]}}).sort([("issued_at", -1), ("_id", 1)]))).split()
    assert "IXSCAN" in plan
    assert not {"COLLSCAN", "SORT"} & set(plan)
    assert "COLLSCAN" not in await plan_of(packs.find({"_id": {"$in": ["pck_a", "pck_b"]}}))
