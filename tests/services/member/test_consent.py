"""Consent through the running service."""

import asyncio

import pytest

from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.member.v1 import consent_pb2 as pb
from quanyu.member.v1 import identity_pb2
from services.kit import clock
from services.kit.errors import Conflict, Denied, Invalid, NotFound
from services.kit.mongo import pagination
from services.member.consent import rules
from tests.services.lists import first_pages, rows_read, says_the_same_of_each
from tests.services.member.conftest import SERVICE, brand, guide, manager, new_request, shopper


def said(consumer_id, granted=True, brand_id="brd_1", purpose=pb.PURPOSE_OUTREACH, **more):
    return pb.SetConsentRequest(
        request_id=new_request(), consumer_id=consumer_id, brand_id=brand_id, purpose=purpose, granted=granted, **more
    )  # fmt: skip


async def granted(town, consumer_id, *brand_ids, purpose=pb.PURPOSE_OUTREACH):
    request = pb.CheckConsentsRequest(consumer_id=consumer_id, brand_ids=brand_ids, purpose=purpose)
    return list((await town.speaker(SERVICE).consent.CheckConsents(request)).brand_ids)


async def test_the_newest_word_counts_and_all_are_kept(town):
    id = await town.registered()
    assert await granted(town, id, "brd_1", "brd_2") == []
    herself = town.speaker(*shopper(id)).consent
    await herself.SetConsent(said(id, touchpoint="TOUCHPOINT_MINI_PROGRAM"))
    await herself.SetConsent(said(id, brand_id="brd_2"))
    assert await granted(town, id, "brd_2", "brd_1", "brd_3") == ["brd_2", "brd_1"]
    assert await granted(town, id, "brd_1", purpose=pb.PURPOSE_DISTRICT_COUPONS) == []
    await town.speaker(brand("brd_1"), subject="operator of 1").consent.SetConsent(said(id, granted=False))
    assert await granted(town, id, "brd_1", "brd_2") == ["brd_2"]
    stands = await herself.ListConsents(pb.ListConsentsRequest(consumer_id=id))
    assert [(one.brand_id, one.granted, one.recorded_by) for one in stands.consents] == [
        ("brd_1", False, "operator of 1"),
        ("brd_2", True, "tester"),
    ]
    changes = await town.speaker(brand("brd_1")).consent.ListConsentChanges(pb.ListConsentChangesRequest(consumer_id=id))
    assert [one.granted for one in changes.consents] == [False, True]
    assert changes.consents[1].touchpoint == 2


async def test_who_may_speak_for_a_consumer(town):
    id = await town.registered()
    for grants, more in (
        ([brand("brd_1")], {}),
        ([manager("str_1")], {"store_id": "str_1"}),
        (guide("stf_1", "str_1"), {"store_id": "str_1"}),
    ):
        await town.speaker(*grants).consent.SetConsent(said(id, **more))
    refused = [
        (shopper("con_other"), {}),
        ([brand("brd_2")], {}),
        ([manager("str_2")], {"store_id": "str_2"}),
        ([manager("str_2")], {"store_id": "str_1"}),
        (guide("stf_1", "str_1"), {}),
    ]
    for grants, more in refused:
        with pytest.raises(Denied):
            await town.speaker(*grants).consent.SetConsent(said(id, **more))
    with pytest.raises(NotFound, match="CONSUMER_NOT_FOUND"):
        await town.speaker(brand("brd_2")).consent.SetConsent(said(id, brand_id="brd_2"))
    with pytest.raises(Denied):
        await town.speaker(*shopper(id)).consent.CheckConsents(pb.CheckConsentsRequest(consumer_id=id))


async def test_the_consents_of_linked_consumers_are_one_persons(town):
    first, second = await town.registered(), await town.registered()
    await town.consent(second)
    await town.consent(first, granted=False)
    link = identity_pb2.LinkConsumersRequest(
        request_id=new_request(), consumer_id=first, linked_consumer_id=second, evidence=["IDENTITY_KIND_PHONE"]
    )  # fmt: skip
    await town.operator.identity.LinkConsumers(link)
    assert await granted(town, second, "brd_1") == []
    await town.consent(second)
    assert await granted(town, first, "brd_1") == ["brd_1"]
    assert len((await town.operator.consent.ListConsents(pb.ListConsentsRequest(consumer_id=first))).consents) == 1


async def test_imported_consents_are_dated_like_their_consumer_and_pages_hold_all(town):
    brands = [f"brd_{n:02}" for n in range(30)]
    row = identity_pb2.ImportedConsumer(
        consumer_id="con_1", consents=[identity_pb2.ImportedConsent(brand_id=id, purpose="PURPOSE_OUTREACH", granted=True) for id in brands]
    )
    row.created_at.FromJsonString("2025-01-01T00:00:00Z")
    request = identity_pb2.ImportConsumersRequest(request_id=new_request(), brand_id="brd_00", consumers=[row])
    await town.operator.identity.ImportConsumers(request)
    assert await granted(town, "con_1", *brands) == brands
    found, after = [], ""
    while True:
        page = PageRequest(first=7, after=after)
        answer = await town.operator.consent.ListConsents(pb.ListConsentsRequest(consumer_id="con_1", page=page))
        found += [one.brand_id for one in answer.consents]
        if not answer.page.has_next_page:
            break
        after = answer.page.end_cursor
    assert found == brands
    await town.consent("con_1", "brd_00", granted=False)
    again = identity_pb2.ImportConsumersRequest(request_id=new_request(), brand_id="brd_00", consumers=[row])
    await town.operator.identity.ImportConsumers(again)
    assert "brd_00" not in await granted(town, "con_1", *brands)


@pytest.mark.parametrize("brand_id", ["", "shop", "brd_", "brd_a.b", "str_1", "brd_" + "x" * 65])
async def test_a_consent_is_for_what_can_be_a_brand(town, brand_id):
    id = await town.registered()
    with pytest.raises(Invalid) as refused:
        await town.speaker(*shopper(id)).consent.SetConsent(said(id, brand_id=brand_id))
    assert refused.value.metadata["field"] == "brand_id"
    row = identity_pb2.ImportedConsumer(consumer_id=id, consents=[{"brand_id": brand_id, "purpose": "PURPOSE_OUTREACH"}])
    request = identity_pb2.ImportConsumersRequest(request_id=new_request(), brand_id="brd_1", consumers=[row])
    (reject,) = (await town.operator.identity.ImportConsumers(request)).rejects
    assert (reject.index, reject.reason) == (0, "INVALID_FIELD")
    assert await town.database["consents"].count_documents({}) == 0


def brought(consumer_id, brand_ids):
    consents = [identity_pb2.ImportedConsent(brand_id=id, purpose="PURPOSE_OUTREACH", granted=True) for id in brand_ids]
    return identity_pb2.ImportedConsumer(consumer_id=consumer_id, consents=consents)


async def filled(town, consumer_id, count):
    """Consents for so many brands."""
    brands = [f"brd_{n:03}" for n in range(count)]
    rows = [brought(consumer_id, brands[start : start + 250]) for start in range(0, count, 250)]
    answer = await town.operator.identity.ImportConsumers(
        identity_pb2.ImportConsumersRequest(request_id=new_request(), brand_id="brd_000", consumers=rows)
    )
    assert not answer.rejects
    return brands


async def test_a_consumer_has_consents_for_so_many_brands_and_no_more_however_many_are_said_at_once(town):
    brands = await filled(town, "con_1", rules.BRANDS_MAX - 1)
    herself = town.speaker(*shopper("con_1")).consent
    new = [said("con_1", brand_id=f"brd_new{n}") for n in range(4)]
    answers = await asyncio.gather(*(herself.SetConsent(request) for request in new), return_exceptions=True)
    refused = [one for one in answers if isinstance(one, Conflict)]
    assert [one.reason for one in refused] == ["TOO_MANY_CONSENTS"] * 3
    assert len(await town.database["consents"].distinct("brand_id", {"consumer_id": "con_1"})) == rules.BRANDS_MAX
    # What was said to a brand can always be taken back, and another purpose be added.
    await herself.SetConsent(said("con_1", brand_id=brands[0], granted=False))
    await herself.SetConsent(said("con_1", brand_id=brands[0], purpose=pb.PURPOSE_DISTRICT_COUPONS))


async def test_who_has_too_many_consents_stands_in_nobodys_way(town):
    await filled(town, "con_1", rules.BRANDS_MAX)
    rows = [brought("con_1", ["brd_new"]), brought("con_2", ["brd_new"])]
    request = identity_pb2.ImportConsumersRequest(request_id=new_request(), brand_id="brd_000", consumers=rows)
    answer = await town.operator.identity.ImportConsumers(request)
    assert [(one.index, one.reason) for one in answer.rejects] == [(0, "TOO_MANY_CONSENTS")]
    assert (list(answer.consumer_ids), answer.created, answer.found) == (["con_1", "con_2"], 1, 1)
    assert [await granted(town, id, "brd_new") for id in ("con_1", "con_2")] == [[], ["brd_new"]]


async def test_every_consent_of_a_person_is_listed_however_many_there_are(town):
    """More than a table finds at once: nothing is left out in silence."""
    pairs = [(f"con_{n}", f"brd_{n}_{m}") for n in range(21) for m in range(rules.BRANDS_MAX)]
    await town.registered(consumer_id="con_0")
    await town.database["consumers"].insert_many(
        [{"_id": f"con_{n}", "person_id": "con_0", "linked_to_id": "con_0", "created_at": clock.now()} for n in range(1, 21)]
    )
    await town.database["consents"].insert_many(
        [
            {
                "_id": f"{id}:{brand_id}:PURPOSE_OUTREACH", "word_id": "cns_0", "consumer_id": id, "brand_id": brand_id,
                "purpose": "PURPOSE_OUTREACH", "granted": True, "at": clock.now(), "recorded_by": "tester",
            }
            for id, brand_id in pairs
        ]
    )  # fmt: skip
    *_, before_last, last = sorted(brand_id for _, brand_id in pairs)
    page = PageRequest(after=pagination.cursor("consents", [before_last, "PURPOSE_OUTREACH"]))
    answer = await town.operator.consent.ListConsents(pb.ListConsentsRequest(consumer_id="con_0", page=page))
    assert [one.brand_id for one in answer.consents] == [last]


async def test_the_first_consents_of_several_are_those_of_each_person(town):
    first, second, other = [await town.registered() for _ in range(3)]
    for id, brand_id in ((first, "brd_1"), (first, "brd_3"), (second, "brd_1"), (second, "brd_2"), (other, "brd_2")):
        await town.consent(id, brand_id)
    await town.consent(second, "brd_1", granted=False)
    await town.operator.consent.SetConsent(said(first, brand_id="brd_2", purpose=pb.PURPOSE_DISTRICT_COUPONS))
    link = identity_pb2.LinkConsumersRequest(
        request_id=new_request(), consumer_id=first, linked_consumer_id=second, evidence=["IDENTITY_KIND_PHONE"]
    )  # fmt: skip
    await town.operator.identity.LinkConsumers(link)
    asked, rpc = [first, second, other, "con_none"], "ConsentService.BatchListConsents"
    for grants, found in (
        ([SERVICE], {first: 4, second: 4, other: 1}),
        ([brand("brd_2")], {first: 2, second: 2, other: 1}),
        (shopper(second), {first: 4, second: 4}),
        ([brand("brd_9")], {}),
    ):
        assert await says_the_same_of_each(town.speaker(*grants).consent, rpc, "consumer_id", asked) == found
    only = await says_the_same_of_each(town.operator.consent, rpc, "consumer_id", asked, brand_id="brd_2")
    assert only == {first: 2, second: 2, other: 1}
    assert (
        await rows_read(town.database, "consents", first_pages(town.operator.consent, rpc, "consumer_id", [first, other], 1)) <= 2 * 2 + 1
    )
