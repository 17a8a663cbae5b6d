"""Identity through the running service: who is found, who is who, and who sees what of whom."""

import asyncio
from datetime import UTC, timedelta

import pytest

from quanyu.member.v1 import identity_pb2 as pb
from quanyu.member.v1 import outreach_pb2
from services.kit import clock
from services.kit.errors import Conflict, Denied, Invalid, NotFound
from services.member.identity.repository import ConsumerRepository
from tests.services.lists import queries_made
from tests.services.member.conftest import OPERATOR, SERVICE, brand, guide, manager, new_request, shopper

PHONE, OPEN_ID, CARD, OIDC = (
    pb.IDENTITY_KIND_PHONE,
    pb.IDENTITY_KIND_OPEN_ID,
    pb.IDENTITY_KIND_CARD,
    pb.IDENTITY_KIND_OIDC_SUBJECT,
)


def register(*identities, brand_id="brd_1", **more):
    return pb.RegisterConsumerRequest(request_id=new_request(), brand_id=brand_id, identities=identities, **more)


def phone(value, verified=True):
    return pb.NewIdentity(kind=PHONE, value=value, verified=verified)


def link(id, linked_id):
    return pb.LinkConsumersRequest(request_id=new_request(), consumer_id=id, linked_consumer_id=linked_id, evidence=[PHONE])


async def test_a_verified_phone_finds_across_brands_a_card_only_within_its_brand(town):
    mine, theirs = town.speaker(brand("brd_1")).identity, town.speaker(brand("brd_2")).identity
    first = await mine.RegisterConsumer(register(phone("138 1234 1234"), pb.NewIdentity(kind=CARD, value="A1")))
    assert first.created
    again = await theirs.RegisterConsumer(register(phone("+8613812341234"), brand_id="brd_2"))
    assert (again.consumer_id, again.created) == (first.consumer_id, False)
    by_card = await mine.RegisterConsumer(register(pb.NewIdentity(kind=CARD, value="A1")))
    assert (by_card.consumer_id, by_card.created) == (first.consumer_id, False)
    other_card = await theirs.RegisterConsumer(register(pb.NewIdentity(kind=CARD, value="A1"), brand_id="brd_2"))
    assert other_card.consumer_id != first.consumer_id
    unverified = await mine.RegisterConsumer(register(phone("13812341234", verified=False)))
    assert unverified.created


async def test_one_request_registers_once_and_one_phone_belongs_to_one_consumer(town):
    speaker = town.speaker(brand("brd_1")).identity
    request = register(phone("13900001111"))
    answers = await asyncio.gather(*(speaker.RegisterConsumer(request) for _ in range(10)))
    assert len({answer.consumer_id for answer in answers}) == 1 and all(answer.created for answer in answers)
    answers = await asyncio.gather(*(speaker.RegisterConsumer(register(phone("13900002222"))) for _ in range(10)))
    assert len({answer.consumer_id for answer in answers}) == 1 and sum(answer.created for answer in answers) == 1


async def test_identities_of_two_people_are_refused_and_a_taken_id_too(town):
    first, second = await town.registered("13900000001"), await town.registered("13900000002")
    speaker = town.speaker(brand("brd_1")).identity
    for speaks, told in ((speaker, {}), (town.operator.identity, {"consumer_ids": str(sorted([first, second]))})):
        with pytest.raises(Conflict, match="IDENTITIES_DISAGREE") as refused:
            await speaks.RegisterConsumer(register(phone("13900000001"), phone("13900000002")))
        # A brand with two phone numbers is not told which consumers, maybe of other brands, they are.
        assert refused.value.metadata == told
    with pytest.raises(Conflict, match="IDENTITY_TAKEN"):
        await speaker.AddIdentity(
            pb.AddIdentityRequest(request_id=new_request(), consumer_id=first, brand_id="brd_1", identity=phone("13900000002"))
        )
    with pytest.raises(Conflict, match="CONSUMER_ID_TAKEN"):
        await town.speaker(brand("brd_2")).identity.RegisterConsumer(
            register(pb.NewIdentity(kind=CARD, value="x"), brand_id="brd_2", consumer_id=second)
        )
    with pytest.raises(Invalid, match="INVALID_PHONE"):
        await speaker.RegisterConsumer(register(phone("12")))
    for name in ("", "sh\x00irt", "s" * 101):
        with pytest.raises(Invalid, match="sizes"):
            await speaker.RegisterConsumer(register(phone("13900000003"), sizes={name: "40"}))
    with pytest.raises(Denied):
        await speaker.RegisterConsumer(register(phone("13900000003"), brand_id="brd_2"))


async def signed_up(town, *identities, staff=("stf_1", "str_1"), brand_id="brd_1", **more):
    """What a store's guide hears, and what they can see of the consumer once they look after them."""
    speaker = town.speaker(*guide(*staff))
    answer = await speaker.identity.RegisterConsumer(register(*identities, brand_id=brand_id, store_id=staff[1], **more))
    id = answer.consumer_id
    bind = outreach_pb2.BindConsumerRequest(request_id=new_request(), consumer_id=id, brand_id=brand_id, staff_id=staff[0])
    await speaker.outreach.BindConsumer(bind)
    seen = (await speaker.identity.GetConsumer(pb.GetConsumerRequest(id=id))).consumer
    listed = (await speaker.identity.ListIdentities(pb.ListIdentitiesRequest(consumer_id=id))).identities
    return answer, seen, [(one.kind, one.shown, one.verified) for one in listed]


async def test_a_guide_signs_up_a_shopper_and_cannot_tell_whether_others_know_them(town):
    await town.registered("13900000001", brand_id="brd_2", display_name="Li Na")
    for value, verified in (("13900000001", True), ("13900000001", False), ("13900000002", True)):
        earliest = clock.now()
        answer, seen, identities = await signed_up(town, phone(value, verified), display_name="小李", sizes={"shirt": "40"})
        assert answer.created and seen.created_at.ToDatetime(UTC) >= earliest - timedelta(milliseconds=1)
        assert (seen.person_id, list(seen.consumer_ids)) == (answer.consumer_id, [answer.consumer_id])
        assert (seen.display_name, dict(seen.sizes)) == ("小李", {"shirt": "40"})
        assert identities == [(PHONE, f"139****000{value[-1]}", False)]
    told = await town.speaker(brand("brd_2")).identity.RegisterConsumer(register(phone("13900000002"), brand_id="brd_2"))
    assert told.created, "what a store was told stands for nobody"


async def test_a_guide_finds_whom_the_brand_knows_and_changes_nothing(town):
    id = await town.registered("13900000001", display_name="Li Na")
    before = [row async for row in town.database["identities"].find()]
    card = pb.NewIdentity(kind=CARD, value="B-1", verified=True)
    answer, seen, identities = await signed_up(town, phone("13900000001", False), card, display_name="Mallory")
    assert (answer.consumer_id, answer.created, seen.display_name) == (id, False, "Li Na")
    assert identities == [(PHONE, "139****0001", True)]
    assert [row async for row in town.database["identities"].find()] == before
    await town.registered("13900000002")
    with pytest.raises(Conflict, match="IDENTITIES_DISAGREE") as refused:
        await signed_up(town, phone("13900000001"), phone("13900000002"))
    assert refused.value.metadata == {}


async def test_a_store_signs_up_for_its_own_brand_only_and_names_no_ids(town):
    for refused, more in (("NOT_PERMITTED", {"store_id": "str_2"}), ("NOT_PERMITTED", {}), ("BRAND_NOT_YOURS", {"brand_id": "brd_2"})):
        given = {"store_id": "str_1"} | more if more.get("brand_id") else more
        for grants in (guide("stf_1", "str_1"), [manager("str_1")]):
            with pytest.raises(Denied, match=refused):
                await town.speaker(*grants).identity.RegisterConsumer(register(phone("13900000009"), **given))
    with pytest.raises(Invalid, match="leave it out"):
        await signed_up(town, phone("13900000009"), consumer_id="con_mine")
    with pytest.raises(Denied, match="SUBJECT_NOT_YOURS"):
        await signed_up(town, pb.NewIdentity(kind=OIDC, namespace="https://id.example", value="s"))


async def test_each_sees_of_a_consumer_what_is_theirs_to_see(town):
    id = await town.registered("13812341234", display_name="Li Na", sizes={"shirt": "40"})
    await town.speaker(brand("brd_2")).identity.RegisterConsumer(
        register(phone("13812341234"), pb.NewIdentity(kind=CARD, value="CARD-778899"), brand_id="brd_2", display_name="Lina")
    )

    async def seen(*grants):
        return (await town.speaker(*grants).identity.GetConsumer(pb.GetConsumerRequest(id=id))).consumer

    herself, first, second = await seen(*shopper(id)), await seen(brand("brd_1")), await seen(brand("brd_2"))
    assert (herself.phone, herself.sizes["shirt"]) == ("13812341234", "40")
    assert (first.display_name, first.phone, dict(first.sizes)) == ("Li Na", "138****1234", {"shirt": "40"})
    assert (second.display_name, second.phone, dict(second.sizes)) == ("Lina", "138****1234", {})
    for grants in ([brand("brd_3")], shopper("con_other"), guide("stf_1", "str_1")):
        with pytest.raises(NotFound, match="CONSUMER_NOT_FOUND"):
            await seen(*grants)
        batch = await town.speaker(*grants).identity.BatchGetConsumers(pb.BatchGetConsumersRequest(ids=[id]))
        assert not batch.consumers
    kinds = {}
    for name, grants in {"first": [brand("brd_1")], "second": [brand("brd_2")], "herself": shopper(id)}.items():
        listed = await town.speaker(*grants).identity.ListIdentities(pb.ListIdentitiesRequest(consumer_id=id))
        kinds[name] = [(one.kind, one.shown, list(one.brand_ids)) for one in listed.identities]
    assert kinds["first"] == [(PHONE, "138****1234", ["brd_1"])]
    assert kinds["second"] == [(PHONE, "138****1234", ["brd_2"]), (CARD, "****8899", ["brd_2"])]
    assert kinds["herself"] == [(PHONE, "13812341234", ["brd_1", "brd_2"]), (CARD, "CARD-778899", ["brd_2"])]


async def test_nothing_personal_is_kept_in_the_clear(town):
    await town.registered("13812341234", display_name="Li Na")
    for name in await town.database.raw.list_collection_names():
        async for row in town.database[name].find():
            assert "13812341234" not in str(row) and "Li Na" not in str(row), name


async def test_a_link_makes_one_person_and_undoing_it_restores_both(town):
    first = await town.registered("13900000001", display_name="Li Na")
    second = await town.registered("13900000002", brand_id="brd_2")
    identity = town.operator.identity
    before = [await identity.GetConsumer(pb.GetConsumerRequest(id=id)) for id in (first, second)]
    linked = await identity.LinkConsumers(link(first, second))
    assert linked.consumer_id == first
    resolved = await town.speaker(SERVICE).identity.ResolveConsumer(pb.ResolveConsumerRequest(subject=second))
    assert (resolved.consumer_id, list(resolved.consumer_ids)) == (first, [first, second])
    # Whoever knows one of them finds the person under either id, and still sees only what is theirs.
    seen = (await town.speaker(brand("brd_2")).identity.GetConsumer(pb.GetConsumerRequest(id=first))).consumer
    assert (seen.person_id, seen.display_name, seen.phone) == (first, "", "139****0002")
    links = await identity.ListLinks(pb.ListLinksRequest(consumer_id=second))
    assert [(one.consumer_id, one.linked_consumer_id, one.linked_by) for one in links.links] == [(first, second, "operator")]
    with pytest.raises(Conflict, match="SAME_PERSON"):
        await identity.LinkConsumers(link(second, first))
    await identity.UnlinkConsumers(pb.UnlinkConsumersRequest(request_id=new_request(), consumer_id=first, linked_consumer_id=second))
    assert [await identity.GetConsumer(pb.GetConsumerRequest(id=id)) for id in (first, second)] == before
    with pytest.raises(NotFound):
        await town.speaker(brand("brd_2")).identity.GetConsumer(pb.GetConsumerRequest(id=first))
    links = await identity.ListLinks(pb.ListLinksRequest(consumer_id=second))
    assert links.links[0].undone_by == "operator"
    told = [event.WhichOneof("body") for event in await town.member.events_told()]
    assert told == ["consumer_linked", "consumer_unlinked"]


async def test_many_are_told_of_at_once_as_each_is(town):
    first, second = await town.registered("13900000001"), await town.registered("13900000002")
    other, theirs = await town.registered("13900000003", brand_id="brd_2"), await town.registered("13900000004", brand_id="brd_2")
    for id, linked_id in ((first, second), (first, other)):
        await town.operator.identity.LinkConsumers(link(id, linked_id))
    ids, told = [first, second, other, theirs, "con_none"], 0
    for grants in ([brand("brd_1")], [brand("brd_2")], [brand("brd_3")], shopper(second)):
        identity = town.speaker(*grants).identity
        held, links = {}, {}
        for id in ids:
            try:
                held[id] = (await identity.ListIdentities(pb.ListIdentitiesRequest(consumer_id=id))).identities
                links[id] = (await identity.ListLinks(pb.ListLinksRequest(consumer_id=id))).links
            except NotFound:
                pass
        several = await identity.BatchListIdentities(pb.BatchListIdentitiesRequest(consumer_ids=[*ids, *ids]))
        assert {one.consumer_id: one.identities for one in several.consumers} == held
        both = await identity.BatchListLinks(pb.BatchListLinksRequest(consumer_ids=[*ids, *ids]))
        assert {one.consumer_id: one.links for one in both.consumers} == links
        assert len(several.consumers) == len(both.consumers) == len(held)
        told += sum(map(len, links.values()))
    assert told
    for call, request in (("BatchListIdentities", pb.BatchListIdentitiesRequest), ("BatchListLinks", pb.BatchListLinksRequest)):

        async def ask(consumer_ids, call=call, request=request):
            await getattr(town.operator.identity, call)(request(consumer_ids=consumer_ids))

        made = [await queries_made(town.database, ("consumers", "identities", "links"), ask(some)) for some in ([first], ids)]
        assert made == [3, 3]
        with pytest.raises(Invalid, match="BATCH_TOO_LARGE"):
            await ask([f"con_{number}" for number in range(101)])


async def test_who_is_linked_while_many_are_read_is_found_all_the_same(town, monkeypatch):
    first, second = await town.registered("13900000001"), await town.registered("13900000002")
    reach, links = ConsumerRepository.persons_within_reach, [link(first, second)]

    async def linked_then(self, ids):
        found = await reach(self, ids)
        while links:
            await town.operator.identity.LinkConsumers(links.pop())
        return found

    monkeypatch.setattr(ConsumerRepository, "persons_within_reach", linked_then)
    several = await town.operator.identity.BatchListIdentities(pb.BatchListIdentitiesRequest(consumer_ids=[first, second]))
    assert not links
    assert [len(one.identities) for one in several.consumers] == [2, 2], "of one person by now"


async def test_of_links_of_the_same_moment_the_latest_comes_first(town):
    first, *others = [await town.registered(f"1390000000{number}") for number in range(4)]
    for other in others:
        await town.operator.identity.LinkConsumers(link(first, other))
    await town.database["links"].update_many({}, {"$set": {"linked_at": clock.now()}})
    listed = await town.operator.identity.ListLinks(pb.ListLinksRequest(consumer_id=first))
    assert [one.linked_consumer_id for one in listed.links] == others[::-1]


async def test_a_brand_links_only_whom_it_registered_alone(town):
    first, second = await town.registered(), await town.registered("13900000002")
    speaker = town.speaker(brand("brd_1")).identity
    await town.speaker(brand("brd_2")).identity.RegisterConsumer(register(phone("13900000002"), brand_id="brd_2"))
    with pytest.raises(Denied, match="LINK_NOT_YOURS"):
        await speaker.LinkConsumers(link(first, second))
    with pytest.raises(NotFound):
        await town.speaker(brand("brd_2")).identity.LinkConsumers(link(second, first))
    third = await town.registered()
    assert (await speaker.LinkConsumers(link(first, third))).consumer_id == first


async def test_two_links_at_once_never_make_a_circle(town):
    first, second, third = [await town.registered() for _ in range(3)]
    asked = [link(first, second), link(second, third), link(third, first), link(second, first)]
    answers = await asyncio.gather(*(town.operator.identity.LinkConsumers(one) for one in asked), return_exceptions=True)
    assert all(isinstance(one, Conflict | pb.LinkConsumersResponse) for one in answers)
    resolved = [
        await town.speaker(SERVICE).identity.ResolveConsumer(pb.ResolveConsumerRequest(subject=id)) for id in (first, second, third)
    ]
    assert len({one.consumer_id for one in resolved}) == 1


async def test_a_signed_in_subject_is_resolved_by_its_issuer_only(town):
    subject = pb.NewIdentity(kind=OIDC, namespace="https://login.example", value="con_sub", verified=True)
    id = (await town.operator.identity.RegisterConsumer(register(subject))).consumer_id
    service = town.speaker(SERVICE).identity
    found = await service.ResolveConsumer(pb.ResolveConsumerRequest(issuer="https://login.example", subject="con_sub"))
    assert list(found.consumer_ids) == [id]
    for issuer, who in (("https://other.example", "con_sub"), ("", "con_sub"), ("https://login.example", id)):
        with pytest.raises(NotFound, match="CONSUMER_NOT_FOUND"):
            await service.ResolveConsumer(pb.ResolveConsumerRequest(issuer=issuer, subject=who))


async def test_a_brand_does_not_say_whom_a_sign_in_stands_for(town):
    """It could sign in as anybody it knows, and see what other brands know of them."""
    id, speaker = await town.registered(), town.speaker(brand("brd_1")).identity
    subject = pb.NewIdentity(kind=OIDC, namespace="https://login.example", value="me", verified=True)
    for asked in (register(subject), register(subject, consumer_id=id)):
        with pytest.raises(Denied, match="SUBJECT_NOT_YOURS"):
            await speaker.RegisterConsumer(asked)
    with pytest.raises(Denied, match="SUBJECT_NOT_YOURS"):
        await speaker.AddIdentity(pb.AddIdentityRequest(request_id=new_request(), consumer_id=id, brand_id="brd_1", identity=subject))
    rows = [pb.ImportedConsumer(consumer_id=id, identities=[subject])]
    answer = await speaker.ImportConsumers(pb.ImportConsumersRequest(request_id=new_request(), brand_id="brd_1", consumers=rows))
    assert [one.reason for one in answer.rejects] == ["SUBJECT_NOT_YOURS"]


async def test_an_import_registers_what_can_be_and_names_the_rest(town):
    known = await town.registered("13900000009")
    rows = [pb.ImportedConsumer(consumer_id=f"con_{n:03}", sizes={"shirt": str(n)}) for n in range(200)]
    rows += [
        pb.ImportedConsumer(identities=[phone("13900000009")], display_name="known"),
        pb.ImportedConsumer(identities=[phone("1")]),
        pb.ImportedConsumer(),
        pb.ImportedConsumer(consumer_id="con_x", consents=[pb.ImportedConsent(brand_id="brd_2", purpose="PURPOSE_OUTREACH")]),
        pb.ImportedConsumer(consumer_id="con_y", identities=[phone("13900000010")]),
        pb.ImportedConsumer(consumer_id="con_z", identities=[phone("13900000010")]),
    ]
    request = pb.ImportConsumersRequest(request_id=new_request(), brand_id="brd_1", consumers=rows)
    speaker = town.speaker(brand("brd_1")).identity
    answer = await speaker.ImportConsumers(request)
    assert (answer.created, answer.found) == (201, 2)
    assert answer.consumer_ids[200] == known and list(answer.consumer_ids[204:]) == ["con_y", "con_y"]
    assert [(one.index, one.reason) for one in answer.rejects] == [
        (201, "INVALID_PHONE"),
        (202, "INVALID_FIELD"),
        (203, "BRAND_NOT_YOURS"),
    ]
    assert await speaker.ImportConsumers(request) == answer
    repeated = pb.ImportConsumersRequest(request_id=new_request(), brand_id="brd_1", consumers=rows)
    assert (await speaker.ImportConsumers(repeated)).created == 0
    seen = await town.speaker(OPERATOR).identity.BatchGetConsumers(pb.BatchGetConsumersRequest(ids=[f"con_{n:03}" for n in range(200)]))
    assert len(seen.consumers) == 200
    assert all(one.message for one in answer.rejects)


async def test_an_import_keeps_its_own_ids_and_links_them_to_who_is_there(town):
    """Orders and bindings of the same import name them: what they say must not mean nobody."""
    there = await town.registered("13900000009", display_name="Li Na")
    rows = [
        pb.ImportedConsumer(
            consumer_id="con_mine",
            identities=[phone("13900000009"), pb.NewIdentity(kind=CARD, value="CARD-445566")],
            display_name="Lina",
            consents=[pb.ImportedConsent(brand_id="brd_2", purpose="PURPOSE_OUTREACH", granted=True, touchpoint="TOUCHPOINT_STORE")],
        ),
        pb.ImportedConsumer(consumer_id="con_second", identities=[pb.NewIdentity(kind=CARD, value="CARD-445566")]),
    ]
    speaker = town.speaker(brand("brd_2")).identity
    for _ in range(2):
        request = pb.ImportConsumersRequest(request_id=new_request(), brand_id="brd_2", consumers=rows)
        answer = await speaker.ImportConsumers(request)
        assert (answer.created, answer.found, list(answer.consumer_ids)) == (0, 2, [there, there])
    mine = (await speaker.GetConsumer(pb.GetConsumerRequest(id="con_mine"))).consumer
    assert (mine.person_id, mine.display_name, mine.phone) == (there, "Lina", "139****0009")
    assert list(mine.consumer_ids) == [there, "con_mine", "con_second"]
    links = (await town.operator.identity.ListLinks(pb.ListLinksRequest(consumer_id=there))).links
    assert {(one.consumer_id, one.linked_consumer_id, tuple(one.evidence)) for one in links} == {
        (there, "con_mine", (PHONE,)),
        ("con_mine", "con_second", (CARD,)),
    }
    told = [event.consumer_linked for event in await town.member.events_told() if event.WhichOneof("body") == "consumer_linked"]
    assert {(one.consumer_id, one.linked_consumer_id) for one in told} == {(there, "con_mine"), ("con_mine", "con_second")}
    await town.operator.identity.UnlinkConsumers(
        pb.UnlinkConsumersRequest(request_id=new_request(), consumer_id=there, linked_consumer_id="con_mine")
    )
    alone = (await town.operator.identity.GetConsumer(pb.GetConsumerRequest(id=there))).consumer
    assert (alone.display_name, list(alone.consumer_ids)) == ("Li Na", [there])
    apart = (await speaker.GetConsumer(pb.GetConsumerRequest(id="con_second"))).consumer
    assert (apart.person_id, apart.display_name) == ("con_mine", "Lina")
