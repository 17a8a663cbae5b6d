"""ConsentService: consents and their changes."""

import asyncio

import pytest

from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.member.v1 import consent_pb2 as pb
from quanyu.member.v1 import identity_pb2
from services.kit import clock
from services.kit.errors import Conflict, Denied, Invalid, NotFound
from services.kit.mongo import pagination
from services.member.consent import rules
from tests.services.lists import assert_batch_equals_lists, count_documents_read, fetch_first_pages
from tests.services.member.conftest import SERVICE, brand_operator, consumer_grants, guide_grants, new_request_id, store_manager


def consent_request(consumer_id, granted=True, brand_id="brd_1", purpose=pb.PURPOSE_OUTREACH, **more):
    return pb.SetConsentRequest(
        request_id=new_request_id(), consumer_id=consumer_id, brand_id=brand_id, purpose=purpose, granted=granted, **more
    )  # fmt: skip


async def check_granted(world, consumer_id, *brand_ids, purpose=pb.PURPOSE_OUTREACH):
    request = pb.CheckConsentsRequest(consumer_id=consumer_id, brand_ids=brand_ids, purpose=purpose)
    return list((await world.client(SERVICE).consent.CheckConsents(request)).brand_ids)


async def test_latest_consent_counts_and_changes_are_kept(world):
    id = await world.register()
    assert await check_granted(world, id, "brd_1", "brd_2") == []
    own = world.client(*consumer_grants(id)).consent
    await own.SetConsent(consent_request(id, touchpoint="TOUCHPOINT_MINI_PROGRAM"))
    await own.SetConsent(consent_request(id, brand_id="brd_2"))
    assert await check_granted(world, id, "brd_2", "brd_1", "brd_3") == ["brd_2", "brd_1"]
    assert await check_granted(world, id, "brd_1", purpose=pb.PURPOSE_DISTRICT_COUPONS) == []
    await world.client(brand_operator("brd_1"), subject="operator of 1").consent.SetConsent(consent_request(id, granted=False))
    assert await check_granted(world, id, "brd_1", "brd_2") == ["brd_2"]
    latest = await own.ListConsents(pb.ListConsentsRequest(consumer_id=id))
    assert [(one.brand_id, one.granted, one.recorded_by) for one in latest.consents] == [
        ("brd_1", False, "operator of 1"),
        ("brd_2", True, "tester"),
    ]
    changes = await world.client(brand_operator("brd_1")).consent.ListConsentChanges(pb.ListConsentChangesRequest(consumer_id=id))
    assert [one.granted for one in changes.consents] == [False, True]
    assert changes.consents[1].touchpoint == 2


async def test_only_brand_staff_and_consumer_set_consents(world):
    id = await world.register()
    for grants, more in (
        ([brand_operator("brd_1")], {}),
        ([store_manager("str_1")], {"store_id": "str_1"}),
        (guide_grants("stf_1", "str_1"), {"store_id": "str_1"}),
    ):
        await world.client(*grants).consent.SetConsent(consent_request(id, **more))
    refused = [
        (consumer_grants("con_other"), {}),
        ([brand_operator("brd_2")], {}),
        ([store_manager("str_2")], {"store_id": "str_2"}),
        ([store_manager("str_2")], {"store_id": "str_1"}),
        (guide_grants("stf_1", "str_1"), {}),
    ]
    for grants, more in refused:
        with pytest.raises(Denied):
            await world.client(*grants).consent.SetConsent(consent_request(id, **more))
    with pytest.raises(NotFound, match="CONSUMER_NOT_FOUND"):
        await world.client(brand_operator("brd_2")).consent.SetConsent(consent_request(id, brand_id="brd_2"))
    with pytest.raises(Denied):
        await world.client(*consumer_grants(id)).consent.CheckConsents(pb.CheckConsentsRequest(consumer_id=id))


async def test_linked_consumers_share_consents(world):
    first, second = await world.register(), await world.register()
    await world.consent(second)
    await world.consent(first, granted=False)
    link = identity_pb2.LinkConsumersRequest(
        request_id=new_request_id(), consumer_id=first, linked_consumer_id=second, evidence=["IDENTITY_KIND_PHONE"]
    )  # fmt: skip
    await world.operator.identity.LinkConsumers(link)
    assert await check_granted(world, second, "brd_1") == []
    await world.consent(second)
    assert await check_granted(world, first, "brd_1") == ["brd_1"]
    assert len((await world.operator.consent.ListConsents(pb.ListConsentsRequest(consumer_id=first))).consents) == 1


async def test_imported_consents_date_from_consumer_creation(world):
    brands = [f"brd_{n:02}" for n in range(30)]
    row = identity_pb2.ImportedConsumer(
        consumer_id="con_1", consents=[identity_pb2.ImportedConsent(brand_id=id, purpose="PURPOSE_OUTREACH", granted=True) for id in brands]
    )
    row.created_at.FromJsonString("2025-01-01T00:00:00Z")
    request = identity_pb2.ImportConsumersRequest(request_id=new_request_id(), brand_id="brd_00", consumers=[row])
    await world.operator.identity.ImportConsumers(request)
    assert await check_granted(world, "con_1", *brands) == brands
    found, after = [], ""
    while True:
        page = PageRequest(first=7, after=after)
        answer = await world.operator.consent.ListConsents(pb.ListConsentsRequest(consumer_id="con_1", page=page))
        found += [one.brand_id for one in answer.consents]
        if not answer.page.has_next_page:
            break
        after = answer.page.end_cursor
    assert found == brands
    await world.consent("con_1", "brd_00", granted=False)
    again = identity_pb2.ImportConsumersRequest(request_id=new_request_id(), brand_id="brd_00", consumers=[row])
    await world.operator.identity.ImportConsumers(again)
    assert "brd_00" not in await check_granted(world, "con_1", *brands)


@pytest.mark.parametrize("brand_id", ["", "shop", "brd_", "brd_a.b", "str_1", "brd_" + "x" * 65])
async def test_consent_for_malformed_brand_id_is_refused(world, brand_id):
    id = await world.register()
    with pytest.raises(Invalid) as refused:
        await world.client(*consumer_grants(id)).consent.SetConsent(consent_request(id, brand_id=brand_id))
    assert refused.value.metadata["field"] == "brand_id"
    row = identity_pb2.ImportedConsumer(consumer_id=id, consents=[{"brand_id": brand_id, "purpose": "PURPOSE_OUTREACH"}])
    request = identity_pb2.ImportConsumersRequest(request_id=new_request_id(), brand_id="brd_1", consumers=[row])
    (reject,) = (await world.operator.identity.ImportConsumers(request)).rejects
    assert (reject.index, reject.reason) == (0, "INVALID_FIELD")
    assert await world.database["consents"].count_documents({}) == 0


def imported_consumer(consumer_id, brand_ids):
    consents = [identity_pb2.ImportedConsent(brand_id=id, purpose="PURPOSE_OUTREACH", granted=True) for id in brand_ids]
    return identity_pb2.ImportedConsumer(consumer_id=consumer_id, consents=consents)


async def fill_consents(world, consumer_id, count):
    """Imports consents for `count` brands; returns the brands."""
    brands = [f"brd_{n:03}" for n in range(count)]
    rows = [imported_consumer(consumer_id, brands[start : start + 250]) for start in range(0, count, 250)]
    answer = await world.operator.identity.ImportConsumers(
        identity_pb2.ImportConsumersRequest(request_id=new_request_id(), brand_id="brd_000", consumers=rows)
    )
    assert not answer.rejects
    return brands


async def test_limit_of_consented_brands_is_exact_under_concurrency(world):
    brands = await fill_consents(world, "con_1", rules.BRANDS_MAX - 1)
    own = world.client(*consumer_grants("con_1")).consent
    new = [consent_request("con_1", brand_id=f"brd_new{n}") for n in range(4)]
    answers = await asyncio.gather(*(own.SetConsent(request) for request in new), return_exceptions=True)
    refused = [one for one in answers if isinstance(one, Conflict)]
    assert [one.reason for one in refused] == ["TOO_MANY_CONSENTS"] * 3
    assert len(await world.database["consents"].distinct("brand_id", {"consumer_id": "con_1"})) == rules.BRANDS_MAX
    # A consent of a recorded brand can always be withdrawn, and another purpose can be added.
    await own.SetConsent(consent_request("con_1", brand_id=brands[0], granted=False))
    await own.SetConsent(consent_request("con_1", brand_id=brands[0], purpose=pb.PURPOSE_DISTRICT_COUPONS))


async def test_import_beyond_limit_rejects_only_that_consumer(world):
    await fill_consents(world, "con_1", rules.BRANDS_MAX)
    rows = [imported_consumer("con_1", ["brd_new"]), imported_consumer("con_2", ["brd_new"])]
    request = identity_pb2.ImportConsumersRequest(request_id=new_request_id(), brand_id="brd_000", consumers=rows)
    answer = await world.operator.identity.ImportConsumers(request)
    assert [(one.index, one.reason) for one in answer.rejects] == [(0, "TOO_MANY_CONSENTS")]
    assert (list(answer.consumer_ids), answer.created, answer.found) == (["con_1", "con_2"], 1, 1)
    assert [await check_granted(world, id, "brd_new") for id in ("con_1", "con_2")] == [[], ["brd_new"]]


async def test_all_consents_of_a_person_are_listed(world):
    """The person has more consents than one query of a collection returns; none is left out."""
    pairs = [(f"con_{n}", f"brd_{n}_{m}") for n in range(21) for m in range(rules.BRANDS_MAX)]
    await world.register(consumer_id="con_0")
    await world.database["consumers"].insert_many(
        [{"_id": f"con_{n}", "person_id": "con_0", "linked_to_id": "con_0", "created_at": clock.now()} for n in range(1, 21)]
    )
    await world.database["consents"].insert_many(
        [
            {
                "_id": f"{id}:{brand_id}:PURPOSE_OUTREACH", "word_id": "cns_0", "consumer_id": id, "brand_id": brand_id,
                "purpose": "PURPOSE_OUTREACH", "granted": True, "at": clock.now(), "recorded_by": "tester",
            }
            for id, brand_id in pairs
        ]
    )  # fmt: skip
    *_, before_last, last = sorted(brand_id for _, brand_id in pairs)
    page = PageRequest(after=pagination.encode_cursor("consents", [before_last, "PURPOSE_OUTREACH"]))
    answer = await world.operator.consent.ListConsents(pb.ListConsentsRequest(consumer_id="con_0", page=page))
    assert [one.brand_id for one in answer.consents] == [last]


async def test_batch_lists_of_consents_equal_single_lists(world):
    first, second, other = [await world.register() for _ in range(3)]
    for id, brand_id in ((first, "brd_1"), (first, "brd_3"), (second, "brd_1"), (second, "brd_2"), (other, "brd_2")):
        await world.consent(id, brand_id)
    await world.consent(second, "brd_1", granted=False)
    await world.operator.consent.SetConsent(consent_request(first, brand_id="brd_2", purpose=pb.PURPOSE_DISTRICT_COUPONS))
    link = identity_pb2.LinkConsumersRequest(
        request_id=new_request_id(), consumer_id=first, linked_consumer_id=second, evidence=["IDENTITY_KIND_PHONE"]
    )  # fmt: skip
    await world.operator.identity.LinkConsumers(link)
    keys, rpc = [first, second, other, "con_none"], "ConsentService.BatchListConsents"
    for grants, found in (
        ([SERVICE], {first: 4, second: 4, other: 1}),
        ([brand_operator("brd_2")], {first: 2, second: 2, other: 1}),
        (consumer_grants(second), {first: 4, second: 4}),
        ([brand_operator("brd_9")], {}),
    ):
        assert await assert_batch_equals_lists(world.client(*grants).consent, rpc, "consumer_id", keys) == found
    only = await assert_batch_equals_lists(world.operator.consent, rpc, "consumer_id", keys, brand_id="brd_2")
    assert only == {first: 2, second: 2, other: 1}
    assert (
        await count_documents_read(
            world.database, "consents", fetch_first_pages(world.operator.consent, rpc, "consumer_id", [first, other], 1)
        )
        <= 2 * 2 + 1
    )
