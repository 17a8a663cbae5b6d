"""PackService, with a running member service that checks consents."""

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
from services.kit.mongo.codec import to_documents
from tests.services.conftest import OPERATOR, ServiceHarness, Start
from tests.services.district.test_matching import link, order_summary, orders_imported_event
from tests.services.district.world import World, brand_operator, consumer_grants, list_plan_stages, new_id
from tests.services.lists import assert_batch_equals_lists, count_documents_read, fetch_first_pages

BOUGHT, NEW = packs_pb2.PICK_KIND_BOUGHT_BEFORE, packs_pb2.PICK_KIND_NEW_TO_YOU
SPENT, MISSING = packs_pb2.DECLINE_REASON_BUDGET_SPENT, packs_pb2.DECLINE_REASON_CONSENT_MISSING
NOW = datetime(2026, 11, 22, 13, 40, tzinfo=UTC)


class District(World):
    """A district service with a running member service."""

    member: ServiceHarness

    async def register_with_consents(self, consumer_id: str, *brand_ids: str) -> None:
        """Registers a consumer who consents to district coupons of these brands."""
        consents = [
            identity_pb2.ImportedConsent(
                brand_id=brand_id, purpose=consent_pb2.PURPOSE_DISTRICT_COUPONS, granted=True, touchpoint=touch_pb2.TOUCHPOINT_APP
            )
            for brand_id in brand_ids
        ]
        row = identity_pb2.ImportedConsumer(consumer_id=consumer_id, consents=consents)
        request = identity_pb2.ImportConsumersRequest(request_id=new_id(), brand_id="brd_0", consumers=[row])
        answer = await identity_pb2_grpc.IdentityServiceStub(self.member.channel_as(OPERATOR)).ImportConsumers(request)
        assert not answer.rejects

    async def withdraw_consent(self, consumer_id: str, brand_id: str) -> None:
        stub = consent_pb2_grpc.ConsentServiceStub(self.member.channel_as(*consumer_grants(consumer_id)))
        request = consent_pb2.SetConsentRequest(
            request_id=new_id(), consumer_id=consumer_id, brand_id=brand_id, purpose=consent_pb2.PURPOSE_DISTRICT_COUPONS,
            touchpoint=touch_pb2.TOUCHPOINT_APP,
        )  # fmt: skip
        await stub.SetConsent(request)

    async def import_orders(self, consumer_id: str, *orders: tuple[str, int]) -> None:
        """Imports orders, each given as a brand and the number of weeks since then."""
        orders_before_now = [order_summary(consumer_id, brand_id, paid_at=NOW - timedelta(weeks=weeks)) for brand_id, weeks in orders]
        (delivery,) = await self.running.deliver(orders_imported_event(*orders_before_now), source="commerce")
        assert delivery.state == events_pb2.DELIVERY_STATE_APPLIED

    async def get_budget(self, brand_id: str) -> campaigns_pb2.Budget:
        answer = await self.campaigns().ListBudgets(campaigns_pb2.ListBudgetsRequest(brand_id=brand_id))
        return answer.budgets[0]


@pytest.fixture
async def world(start: Start) -> District:
    """Sanlitun at 21:40 with a campaign of eight brands with 100 coupons each."""
    running = await start("member", "district")
    world = District(running["district"])
    world.member = running["member"]
    world.set_clock(NOW)
    await world.create_district()
    await world.create_campaign()
    for n in range(8):
        await world.join_campaign(f"brd_{n}")
    return world


BRANDS = [f"brd_{n}" for n in range(8)]


async def test_pack_has_most_bought_brands_with_reasons(world: District) -> None:
    await world.register_with_consents("con_anna", *BRANDS)
    await world.import_orders("con_anna", ("brd_5", 1), ("brd_5", 14), ("brd_2", 26), ("brd_7", 2), ("brd_2", 30), ("brd_elsewhere", 0))
    visit = await world.enter("con_anna")
    pack = await world.claim(visit)
    assert [entry.brand_id for entry in pack.entries][:3] == ["brd_5", "brd_7", "brd_2"]
    assert len(pack.entries) == 6
    best = pack.entries[0].reason
    assert (best.kind, best.purchase_count) == (BOUGHT, 2)
    assert best.last_purchase_at.ToDatetime(tzinfo=UTC) == NOW - timedelta(weeks=1)
    assert best.decayed_frequency == pytest.approx(0.5 ** (1 / 13) + 0.5 ** (14 / 13), rel=1e-4)
    assert {entry.reason.kind for entry in pack.entries[3:]} == {NEW}
    assert {entry.reason.purchase_count for entry in pack.entries[3:]} == {0}
    assert not pack.declined
    coupons = await world.get_coupons(*(entry.coupon_id for entry in pack.entries))
    assert len(coupons) == 6
    for entry in pack.entries:
        coupon = coupons[entry.coupon_id]
        assert (coupon.brand_id, coupon.pack_id, coupon.value, coupon.consumer_id) == (entry.brand_id, pack.id, entry.value, "con_anna")
        assert coupon.state == wallet_pb2.COUPON_STATE_ISSUED
        assert (await world.get_budget(entry.brand_id)).issued == 1


async def test_pack_lists_brands_without_budget_or_consent(world: District) -> None:
    await world.register_with_consents("con_first", *BRANDS)
    await world.import_orders("con_first", ("brd_rare", 1))
    await world.join_campaign("brd_rare", 1)
    await world.register_with_consents("con_greedy", "brd_rare")
    assert [entry.brand_id for entry in (await world.claim(await world.enter("con_greedy"))).entries] == ["brd_rare"]
    await world.register_with_consents("con_anna", *BRANDS[1:], "brd_rare")
    await world.import_orders("con_anna", ("brd_rare", 1), ("brd_rare", 2), ("brd_0", 3), ("brd_3", 4))
    pack = await world.claim(await world.enter("con_anna"))
    assert [(item.brand_id, item.reason) for item in pack.declined] == [("brd_rare", SPENT), ("brd_0", MISSING)]
    assert pack.entries[0].brand_id == "brd_3"
    assert len(pack.entries) == 6
    assert (await world.get_budget("brd_0")).issued == (await world.get_budget("brd_rare")).issued - 1 == 0


async def test_withdrawn_consent_excludes_the_brand(world: District) -> None:
    await world.register_with_consents("con_anna", "brd_1", "brd_2")
    await world.withdraw_consent("con_anna", "brd_1")
    pack = await world.claim(await world.enter("con_anna"))
    assert [entry.brand_id for entry in pack.entries] == ["brd_2"]
    assert ("brd_1", MISSING) in [(item.brand_id, item.reason) for item in pack.declined]


async def test_claim_without_consents_or_campaign_is_refused(world: District) -> None:
    visit = await world.enter("con_stranger")
    with pytest.raises(Exhausted) as refused:
        await world.claim(visit)
    assert refused.value.reason == "NOTHING_TO_GIVE"
    assert refused.value.metadata["consent_missing"] == "8"
    await world.create_district("dst_quiet")
    with pytest.raises(Conflict) as quiet:
        await world.claim(await world.enter("con_stranger", "dst_quiet"))
    assert quiet.value.reason == "NO_CAMPAIGN"


async def test_repeated_claim_on_same_day_returns_same_pack(world: District) -> None:
    await world.register_with_consents("con_anna", *BRANDS)
    visit = await world.enter("con_anna")
    packs = await asyncio.gather(*(world.claim(visit, f"r{n % 5}") for n in range(15)))
    assert all(pack == packs[0] for pack in packs)
    await world.import_orders("con_anna", *((brand, 0) for brand in BRANDS))
    world.advance_clock(timedelta(hours=1))
    assert await world.claim(visit) == packs[0]
    await world.leave(visit)
    assert await world.claim(visit) == packs[0]
    again = await world.enter("con_anna")
    assert await world.claim(again) == packs[0]
    assert sum([(await world.get_budget(brand)).issued for brand in BRANDS]) == 6
    with pytest.raises(Conflict) as reused:
        await world.claim(again, "r0")
    assert reused.value.reason == "REQUEST_ID_REUSED"
    world.advance_clock(timedelta(hours=2))
    tomorrow = await world.enter("con_anna")
    next_pack = await world.claim(tomorrow)
    assert next_pack.id != packs[0].id
    assert (packs[0].day, next_pack.day) == ("2026-11-22", "2026-11-23")


async def test_claim_on_ended_visit_is_refused(world: District) -> None:
    await world.register_with_consents("con_anna", *BRANDS)
    left = await world.enter("con_anna")
    await world.leave(left)
    forgotten = await world.enter("con_anna")
    world.advance_clock(timedelta(hours=3))
    for visit in (left, forgotten):
        with pytest.raises(Conflict) as refused:
            await world.claim(visit)
        assert refused.value.reason == "VISIT_OVER"


async def test_linked_consumers_share_pack_and_affinities(world: District) -> None:
    await world.register_with_consents("con_anna", *BRANDS)
    await world.register_with_consents("con_card", *BRANDS)
    await world.import_orders("con_anna", ("brd_1", 1))
    await world.import_orders("con_card", ("brd_1", 2), ("brd_6", 1), ("brd_6", 3), ("brd_6", 4))
    await link(world.running, "con_anna", "con_card")
    anna = await world.enter("con_anna")
    assert await world.enter("con_card") == anna
    pack = await world.claim(anna)
    assert [(entry.brand_id, entry.reason.purchase_count) for entry in pack.entries][:2] == [("brd_6", 3), ("brd_1", 2)]
    both = world.packs(*consumer_grants("con_anna", "con_card"))
    request = packs_pb2.ClaimPackRequest(request_id=new_id(), consumer_id="con_card", visit_id=anna.id)
    assert (await both.ClaimPack(request)).pack == pack
    listed = await both.ListPacks(packs_pb2.ListPacksRequest(consumer_id="con_card", page=PageRequest(first=5)))
    assert list(listed.packs) == [pack]


async def test_visit_left_event_has_unspent_coupons(world: District) -> None:
    await world.register_with_consents("con_anna", *BRANDS[:3])
    await world.create_venue()
    visit = await world.enter("con_anna")
    pack = await world.claim(visit)
    spent = pack.entries[0]
    await world.lock("ord_1", "con_anna", [spent.coupon_id], **{spent.brand_id: 50_000})
    await world.confirm("ord_1")
    await world.leave(visit)
    (left,) = [event.visit_left for event in await world.running.published_events() if event.WhichOneof("body") == "visit_left"]
    assert [coupon.coupon_id for coupon in left.unspent] == [entry.coupon_id for entry in pack.entries[1:]]
    assert left.unspent[0].value == pack.entries[1].value
    assert left.unspent[0].expires_at == pack.entries[1].expires_at
    (coupon,) = (await world.wallet(OPERATOR).BatchGetCoupons(wallet_pb2.BatchGetCouponsRequest(ids=[left.unspent[0].coupon_id]))).coupons
    assert (left.unspent[0].name, left.unspent[0].minimum_spend) == (coupon.name, coupon.minimum_spend)


async def test_packs_are_visible_only_to_their_consumer(world: District) -> None:
    await world.register_with_consents("con_anna", *BRANDS)
    visit = await world.enter("con_anna")
    pack = await world.claim(visit)
    own = world.packs(*consumer_grants("con_anna"))
    assert (await own.GetPack(packs_pb2.GetPackRequest(id=pack.id))).pack == pack
    assert list((await own.BatchGetPacks(packs_pb2.BatchGetPacksRequest(ids=[pack.id]))).packs) == [pack]
    other = world.packs(*consumer_grants("con_ben"))
    with pytest.raises(NotFound) as missing:
        await other.GetPack(packs_pb2.GetPackRequest(id=pack.id))
    assert missing.value.reason == "PACK_NOT_FOUND"
    assert not (await other.BatchGetPacks(packs_pb2.BatchGetPacksRequest(ids=[pack.id]))).packs
    with pytest.raises(NotFound):
        await other.ClaimPack(packs_pb2.ClaimPackRequest(request_id=new_id(), consumer_id="con_ben", visit_id=visit.id))
    for grants in (consumer_grants("con_ben"), (brand_operator("brd_0"),)):
        with pytest.raises(Denied):
            await world.packs(*grants).ListPacks(packs_pb2.ListPacksRequest(consumer_id="con_anna"))


async def test_batch_lists_of_packs_equal_single_lists(district: ServiceHarness) -> None:
    world, rpc, people = World(district), "PackService.BatchListPacks", ["con_anna", "con_card", "con_ben", "con_none"]
    days = [("con_anna", 1), ("con_card", 2), ("con_anna", 3), ("con_ben", 1)]
    packs = [
        Pack(
            id=f"pck_{number}", consumer_id=consumer_id, district_id="dst_sanlitun", visit_id="vis_1", day=f"2026-11-0{day}",
            issued_at=NOW - timedelta(days=9 - day), entries=(),
        )
        for number, (consumer_id, day) in enumerate(days)
    ]  # fmt: skip
    await district.database["packs"].insert_many(to_documents(packs))
    await link(district, "con_anna", "con_card")
    counts = await assert_batch_equals_lists(world.packs(), rpc, "consumer_id", people)
    assert counts == {"con_anna": 3, "con_card": 3, "con_ben": 1}
    assert (
        await count_documents_read(district.database, "packs", fetch_first_pages(world.packs(), rpc, "consumer_id", people, 1)) == 2 * 2 + 1
    )
    own = await fetch_first_pages(world.packs(*consumer_grants("con_card")), rpc, "consumer_id", people, 5)
    assert {key: [pack.id for pack in packs] for key, (packs, _) in own.items()} == {"con_card": ["pck_2", "pck_1", "pck_0"]}
    with pytest.raises(Denied):
        await fetch_first_pages(world.packs(brand_operator("brd_0")), rpc, "consumer_id", people, 5)


async def test_claim_is_unavailable_while_member_is_down(district: ServiceHarness) -> None:
    world = World(district)
    await world.create_district()
    await world.create_campaign()
    await world.join_campaign("brd_0")
    visit = await world.enter("con_anna")
    with pytest.raises(Unavailable):
        await world.claim(visit)
    assert await district.database["coupons"].count_documents({}) == 0


async def test_frequent_queries_use_and_sort_by_index(district: ServiceHarness) -> None:
    packs = district.database["packs"]
    plan = (await list_plan_stages(packs.find({"consumer_id": {"$in": ["con_a", "con_b"]}}).sort([("issued_at", -1), ("_id", 1)]))).split()
    assert "IXSCAN" in plan
    assert not {"COLLSCAN", "SORT"} & set(plan)
    assert "COLLSCAN" not in await list_plan_stages(packs.find({"_id": {"$in": ["pck_a", "pck_b"]}}))
