"""WalletService: coupons are locked, redeemed and rolled back, each by at most one order."""

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.district.v1 import wallet_pb2
from services.district.wallet import rules
from services.district.wallet.enums import CouponState
from services.district.wallet.repository import build_state_filter
from services.district.wallet.rules import Coupon
from services.kit import clock
from services.kit.errors import Conflict, Denied, Invalid, NotFound
from services.kit.mongo.codec import to_document
from services.kit.security.principals import Grant
from services.kit.values.event import Event
from services.kit.values.money import Money
from tests.services.conftest import ServiceHarness
from tests.services.district.world import BRAND, COMMERCE, World, brand_operator, consumer_grants, list_plan_stages, new_id
from tests.services.lists import assert_batch_equals_lists, count_documents_read, fetch_first_pages


async def insert_coupons(district: ServiceHarness, count: int = 3, **more: object) -> list[str]:
    """Inserts coupons of brands brd_0, brd_1 … as a pack issues them; returns their ids."""
    at = clock.now()
    coupons = [
        Coupon(
            id=new_id("cpn"), consumer_id="con_anna", brand_id=f"brd_{n}", campaign_id="cmp_a", district_id="dst_sanlitun", pack_id="pck_a",
            name="满100减30", value=Money("CNY", 3_000), minimum_spend=Money("CNY", 10_000), issued_at=at + timedelta(seconds=n),
            expires_at=at + timedelta(days=7),
        )
        for n in range(count)
    ]  # fmt: skip
    await district.database["coupons"].insert_many([to_document(msgspec.structs.replace(coupon, **more)) for coupon in coupons])
    return [coupon.id for coupon in coupons]


@pytest.fixture
async def world(world: World) -> World:
    """A district service with the district Sanlitun and the store of the orders."""
    await world.create_venue()
    return world


async def test_order_locks_redeems_and_rolls_back_coupons(world: World, district: ServiceHarness) -> None:
    one, two, _ = await insert_coupons(district)
    discounts = await world.lock("ord_1", "con_anna", [two, one], brd_0=50_000, brd_1=10_000)
    assert [(item.coupon_id, item.brand_id, item.amount.minor) for item in discounts] == [(two, "brd_1", 3_000), (one, "brd_0", 3_000)]
    held = await world.get_coupons(one, two)
    assert {(item.state, item.order_id) for item in held.values()} == {(wallet_pb2.COUPON_STATE_LOCKED, "ord_1")}
    assert sorted(await world.confirm("ord_1")) == sorted([one, two])
    assert sorted(await world.confirm("ord_1")) == sorted([one, two])
    spent = (await world.get_coupons(one))[one]
    assert spent.state == wallet_pb2.COUPON_STATE_REDEEMED
    assert spent.HasField("redeemed_at")
    assert sorted(await world.roll_back("ord_1")) == sorted([one, two])
    assert sorted(await world.roll_back("ord_1")) == sorted([one, two])
    back = (await world.get_coupons(one))[one]
    assert (back.state, back.order_id, back.rollback_count) == (wallet_pb2.COUPON_STATE_ISSUED, "", 1)
    assert not back.HasField("redeemed_at")
    assert not back.HasField("locked_at")
    with pytest.raises(Conflict) as gone:
        await world.confirm("ord_1")
    assert gone.value.reason == "LOCK_GONE"
    assert await world.lock("ord_1", "con_anna", [one], brd_0=50_000)


async def test_coupon_is_locked_only_in_its_district(world: World, district: ServiceHarness) -> None:
    one, two, _ = await insert_coupons(district)
    await world.create_district("dst_other")
    await world.create_venue("str_there", "dst_other")
    await world.create_venue("str_both", "dst_other")
    await world.create_venue("str_both")
    for store_id in ("str_there", "str_nowhere"):
        with pytest.raises(Conflict) as refused:
            await world.lock("ord_1", "con_anna", [one], store_id=store_id, brd_0=50_000)
        metadata = refused.value.metadata
        assert (refused.value.reason, metadata["coupon_id"], metadata["district_id"]) == ("STORE_NOT_IN_DISTRICT", one, "dst_sanlitun")
    with pytest.raises(Invalid) as nameless:
        await world.lock("ord_1", "con_anna", [one], store_id="", brd_0=50_000)
    assert nameless.value.metadata["field"] == "store_id"
    assert await world.lock("ord_1", "con_anna", [one], brd_0=50_000)
    assert await world.lock("ord_2", "con_anna", [two], store_id="str_both", brd_1=50_000)


async def test_repeated_lock_returns_the_same_discounts(world: World, district: ServiceHarness) -> None:
    one, two, _ = await insert_coupons(district)
    first = await world.lock("ord_1", "con_anna", [one], "r1", brd_0=50_000)
    assert await world.lock("ord_1", "con_anna", [one], "r1", brd_0=50_000) == first
    assert await world.lock("ord_1", "con_anna", [one], brd_0=50_000) == first
    for other, amount in ((two, 50_000), (one, 60_000)):
        with pytest.raises(Conflict) as refused:
            await world.lock("ord_1", "con_anna", [other], brd_0=amount, brd_1=50_000)
        assert refused.value.reason == "ORDER_LOCKED_OTHERWISE"
    await world.confirm("ord_1")
    assert await world.lock("ord_1", "con_anna", [one], brd_0=50_000) == first


async def test_lock_takes_all_coupons_or_none(world: World, district: ServiceHarness) -> None:
    one, two, three = await insert_coupons(district)
    await world.lock("ord_1", "con_anna", [three], brd_2=50_000)
    with pytest.raises(Conflict) as refused:
        await world.lock("ord_2", "con_anna", [one, two, three], brd_0=50_000, brd_1=50_000, brd_2=50_000)
    assert (refused.value.reason, refused.value.metadata["coupon_id"]) == ("COUPON_LOCKED", three)
    states = {id: coupon.state for id, coupon in (await world.get_coupons(one, two)).items()}
    assert set(states.values()) == {wallet_pb2.COUPON_STATE_ISSUED}
    with pytest.raises(NotFound) as foreign:
        await world.lock("ord_2", "con_ben", [one], brd_0=50_000)
    assert foreign.value.reason == "COUPON_NOT_FOUND"


async def test_concurrent_orders_lock_a_coupon_once(world: World, district: ServiceHarness) -> None:
    one, *_ = await insert_coupons(district)
    calls = [world.lock(f"ord_{n}", "con_anna", [one], brd_0=50_000) for n in range(12)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    won = [n for n, answer in enumerate(answers) if isinstance(answer, list)]
    assert len(won) == 1
    lost = [answer for answer in answers if not isinstance(answer, list)]
    assert {getattr(answer, "reason", answer) for answer in lost} == {"COUPON_LOCKED"}
    assert (await world.get_coupons(one))[one].order_id == f"ord_{won[0]}"


async def test_expired_lock_is_taken_over_completely(world: World, district: ServiceHarness) -> None:
    one, two, _ = await insert_coupons(district)
    world.set_clock(datetime.now(UTC))
    await world.lock("ord_1", "con_anna", [one, two], brd_0=50_000, brd_1=50_000)
    world.advance_clock(timedelta(minutes=44))
    with pytest.raises(Conflict):
        await world.lock("ord_2", "con_anna", [one], brd_0=50_000)
    world.advance_clock(timedelta(minutes=2))
    assert (await world.get_coupons(one))[one].state == wallet_pb2.COUPON_STATE_ISSUED
    await world.lock("ord_2", "con_anna", [one], brd_0=50_000)
    now = await world.get_coupons(one, two)
    assert (now[one].order_id, now[one].state) == ("ord_2", wallet_pb2.COUPON_STATE_LOCKED)
    assert (now[two].order_id, now[two].state) == ("", wallet_pb2.COUPON_STATE_ISSUED)
    with pytest.raises(Conflict) as refused:
        await world.confirm("ord_1")
    assert refused.value.reason == "LOCK_GONE"
    assert await world.confirm("ord_2") == [one]


async def test_late_confirmation_succeeds_without_takeover(world: World, district: ServiceHarness) -> None:
    one, *_ = await insert_coupons(district)
    world.set_clock(datetime.now(UTC))
    await world.lock("ord_1", "con_anna", [one], brd_0=50_000)
    world.advance_clock(timedelta(minutes=50))
    assert await world.confirm("ord_1") == [one]


async def test_order_without_lock_cannot_confirm(world: World) -> None:
    with pytest.raises(NotFound) as refused:
        await world.confirm("ord_none")
    assert refused.value.reason == "LOCK_NOT_FOUND"
    assert await world.roll_back("ord_none") == []


async def test_only_unrestricted_services_lock_coupons(world: World, district: ServiceHarness) -> None:
    one, *_ = await insert_coupons(district)
    lock = wallet_pb2.LockCouponsRequest(
        request_id=new_id(),
        order_id="ord_1",
        consumer_id="con_anna",
        coupon_ids=[one],
        lines=[{"brand_id": "brd_0", "amount": {"minor": 50_000, "currency": "CNY"}}],
    )
    for grant in (*consumer_grants("con_anna"), brand_operator("brd_0"), Grant("ROLE_SERVICE", BRAND, "brd_0")):
        with pytest.raises(Denied):
            await world.wallet(grant).LockCoupons(lock)
    assert (await world.get_coupons(one))[one].state == wallet_pb2.COUPON_STATE_ISSUED


async def test_coupons_are_listed_by_state_and_owner(world: World, district: ServiceHarness) -> None:
    ids = await insert_coupons(district, 5)
    (expired,) = await insert_coupons(district, 1, expires_at=clock.now() - timedelta(seconds=1))
    await world.lock("ord_1", "con_anna", [ids[0]], brd_0=50_000)
    await world.lock("ord_2", "con_anna", [ids[1]], brd_1=50_000)
    await world.confirm("ord_2")

    async def list_ids(*grants: Grant, **query: object) -> list[str]:
        answer = await world.wallet(*grants).ListCoupons(wallet_pb2.ListCouponsRequest(**query))  # type: ignore[arg-type]
        return [coupon.id for coupon in answer.coupons]

    own = {"consumer_id": "con_anna"}
    assert await list_ids(*consumer_grants("con_anna"), **own, state=wallet_pb2.COUPON_STATE_ISSUED) == [ids[4], ids[3], ids[2]]
    assert await list_ids(*consumer_grants("con_anna"), **own, state=wallet_pb2.COUPON_STATE_LOCKED) == [ids[0]]
    assert await list_ids(*consumer_grants("con_anna"), **own, state=wallet_pb2.COUPON_STATE_REDEEMED) == [ids[1]]
    assert await list_ids(*consumer_grants("con_anna"), **own, state=wallet_pb2.COUPON_STATE_EXPIRED) == [expired]
    assert set(await list_ids(*consumer_grants("con_anna"), **own)) == {*ids, expired}
    assert set(await list_ids(brand_operator("brd_0"), brand_id="brd_0")) == {ids[0], expired}
    first = await world.wallet(*consumer_grants("con_anna")).ListCoupons(
        wallet_pb2.ListCouponsRequest(consumer_id="con_anna", page=PageRequest(first=4))
    )
    rest = await world.wallet(*consumer_grants("con_anna")).ListCoupons(
        wallet_pb2.ListCouponsRequest(consumer_id="con_anna", page=PageRequest(first=4, after=first.page.end_cursor))
    )
    assert len({coupon.id for coupon in (*first.coupons, *rest.coupons)}) == 6
    for grants, query in ((consumer_grants("con_ben"), own), ((brand_operator("brd_1"),), {"brand_id": "brd_0"})):
        with pytest.raises(Denied):
            await list_ids(*grants, **query)
    for query in ({}, {"consumer_id": "con_anna", "brand_id": "brd_0"}):
        with pytest.raises(Invalid):
            await list_ids(COMMERCE, **query)
    neighbours = await world.wallet(brand_operator("brd_1")).BatchGetCoupons(wallet_pb2.BatchGetCouponsRequest(ids=ids))
    assert [coupon.id for coupon in neighbours.coupons] == [ids[1]]


async def test_batch_lists_of_coupons_equal_single_lists(world: World, district: ServiceHarness) -> None:
    await insert_coupons(district, 4)
    await insert_coupons(district, 2, consumer_id="con_ben", brand_id="brd_0")
    (card,) = await insert_coupons(district, 1, consumer_id="con_card", expires_at=clock.now() - timedelta(seconds=1))
    await district.deliver(ConsumerLinked("con_anna", "con_card"), source="member")
    rpc, people, everything = "WalletService.BatchListCoupons", ["con_anna", "con_card", "con_ben", "con_none"], world.wallet()
    assert await assert_batch_equals_lists(everything, rpc, "consumer_id", people) == {"con_anna": 5, "con_card": 5, "con_ben": 2}
    brands = ["brd_0", "brd_1", "brd_none"]
    assert await assert_batch_equals_lists(everything, rpc, "brand_id", brands) == {"brd_0": 4, "brd_1": 1}
    expired = await assert_batch_equals_lists(everything, rpc, "consumer_id", people, state=wallet_pb2.COUPON_STATE_EXPIRED)
    assert expired == {"con_anna": 1, "con_card": 1}
    for grants, by, keys, counts in (
        # A caller with one id of a person sees the coupons of all ids.
        (consumer_grants("con_card"), "consumer_id", people, {"con_card": 5}),
        (consumer_grants("con_ben", "con_anna"), "consumer_id", people, {"con_ben": 2, "con_anna": 5}),
        (consumer_grants("con_ben"), "brand_id", brands, {}),
        ((brand_operator("brd_1"),), "brand_id", brands, {"brd_1": 1}),
        ((brand_operator("brd_1"),), "consumer_id", people, {}),
    ):
        found = await fetch_first_pages(world.wallet(*grants), rpc, by, keys, 100)
        assert {key: len(coupons) for key, (coupons, _) in found.items()} == counts
    assert await count_documents_read(district.database, "coupons", fetch_first_pages(everything, rpc, "consumer_id", people, 1)) == 3 * 2
    (newest,), _ = (await fetch_first_pages(everything, rpc, "consumer_id", ["con_card"], 1, state=wallet_pb2.COUPON_STATE_EXPIRED))[
        "con_card"
    ]
    assert (newest.id, newest.state) == (card, wallet_pb2.COUPON_STATE_EXPIRED)
    for owners in ({}, {"consumer_ids": ["con_anna"], "brand_ids": ["brd_0"]}):
        with pytest.raises(Invalid, match="INVALID_FIELD"):
            await everything.BatchListCoupons(wallet_pb2.BatchListCouponsRequest(**owners))  # type: ignore[arg-type]


async def test_linked_person_locks_coupons_of_both_ids(world: World, district: ServiceHarness) -> None:
    one, two, _ = await insert_coupons(district)
    await district.database["coupons"].update_one({"_id": two}, {"$set": {"consumer_id": "con_card"}})
    await district.deliver(ConsumerLinked("con_anna", "con_card"), source="member")
    await world.lock("ord_1", "con_card", [one, two], brd_0=50_000, brd_1=50_000)
    await world.roll_back("ord_1")
    await district.deliver(ConsumerUnlinked("con_anna", "con_card"), source="member")
    with pytest.raises(NotFound):
        await world.lock("ord_1", "con_card", [one], brd_0=50_000)
    assert await world.lock("ord_1", "con_card", [two], brd_1=50_000)


class ConsumerLinked(Event, frozen=True):
    kind = "consumer_linked"
    consumer_id: str
    linked_consumer_id: str


class ConsumerUnlinked(Event, frozen=True):
    kind = "consumer_unlinked"
    consumer_id: str
    linked_consumer_id: str


minutes = st.integers(-120, 120)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(list(CouponState)), minutes, minutes), min_size=1, max_size=30))
async def test_state_filter_agrees_with_state_rule(district: ServiceHarness, coupons: list[tuple[CouponState, int, int]]) -> None:
    at = clock.now()
    stored = [
        Coupon(
            id=new_id("cpn"), consumer_id="con_anna", brand_id="brd_a", campaign_id="cmp_a", district_id="dst_a", pack_id="pck_a",
            name="券", value=Money("CNY", 1), minimum_spend=Money("CNY"), issued_at=at, expires_at=at + timedelta(minutes=expires),
            state=CouponState.ISSUED if state is CouponState.EXPIRED else state,
            locked_at=at + timedelta(minutes=locked) if state is CouponState.LOCKED else None,
        )
        for state, expires, locked in coupons
    ]  # fmt: skip
    collection = district.database["coupons"]
    await collection.delete_many({})
    await collection.insert_many([to_document(coupon) for coupon in stored])
    for state in CouponState:
        found = {document["_id"] async for document in collection.find(build_state_filter(state, at), {"_id": 1})}
        assert found == {coupon.id for coupon in stored if rules.compute_state(coupon, at) is state}


async def test_frequent_queries_use_and_sort_by_index(world: World, district: ServiceHarness) -> None:
    coupons = district.database["coupons"]
    for query in ({"consumer_id": {"$in": ["con_a", "con_b"]}}, {"consumer_id": "con_a"}, {"brand_id": "brd_a"}):
        filters = {"$and": [query, build_state_filter(CouponState.ISSUED, clock.now())]}
        plan = (await list_plan_stages(coupons.find(filters).sort([("issued_at", -1), ("_id", 1)]))).split()
        assert "IXSCAN" in plan
        assert not {"COLLSCAN", "SORT"} & set(plan)
