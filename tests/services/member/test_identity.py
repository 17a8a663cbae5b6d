"""IdentityService: registration, links, imports, and the visibility of consumers."""

import asyncio
from datetime import UTC, timedelta

import pytest

from quanyu.member.v1 import identity_pb2 as pb
from quanyu.member.v1 import outreach_pb2
from services.kit import clock
from services.kit.errors import Conflict, Denied, Invalid, NotFound
from services.member.identity.repository import ConsumerRepository
from tests.services.lists import count_queries
from tests.services.member.conftest import OPERATOR, SERVICE, brand_operator, consumer_grants, guide_grants, new_request_id, store_manager

PHONE, OPEN_ID, CARD, OIDC = (
    pb.IDENTITY_KIND_PHONE,
    pb.IDENTITY_KIND_OPEN_ID,
    pb.IDENTITY_KIND_CARD,
    pb.IDENTITY_KIND_OIDC_SUBJECT,
)


def register_request(*identities, brand_id="brd_1", **more):
    return pb.RegisterConsumerRequest(request_id=new_request_id(), brand_id=brand_id, identities=identities, **more)


def phone_identity(value, verified=True):
    return pb.NewIdentity(kind=PHONE, value=value, verified=verified)


def link_request(id, linked_id):
    return pb.LinkConsumersRequest(request_id=new_request_id(), consumer_id=id, linked_consumer_id=linked_id, evidence=[PHONE])


async def test_verified_phone_finds_across_brands_card_within(world):
    first_brand, second_brand = world.client(brand_operator("brd_1")).identity, world.client(brand_operator("brd_2")).identity
    first = await first_brand.RegisterConsumer(register_request(phone_identity("138 1234 1234"), pb.NewIdentity(kind=CARD, value="A1")))
    assert first.created
    again = await second_brand.RegisterConsumer(register_request(phone_identity("+8613812341234"), brand_id="brd_2"))
    assert (again.consumer_id, again.created) == (first.consumer_id, False)
    by_card = await first_brand.RegisterConsumer(register_request(pb.NewIdentity(kind=CARD, value="A1")))
    assert (by_card.consumer_id, by_card.created) == (first.consumer_id, False)
    other_card = await second_brand.RegisterConsumer(register_request(pb.NewIdentity(kind=CARD, value="A1"), brand_id="brd_2"))
    assert other_card.consumer_id != first.consumer_id
    unverified = await first_brand.RegisterConsumer(register_request(phone_identity("13812341234", verified=False)))
    assert unverified.created


async def test_concurrent_registrations_create_one_consumer(world):
    client = world.client(brand_operator("brd_1")).identity
    request = register_request(phone_identity("13900001111"))
    answers = await asyncio.gather(*(client.RegisterConsumer(request) for _ in range(10)))
    assert len({answer.consumer_id for answer in answers}) == 1 and all(answer.created for answer in answers)
    answers = await asyncio.gather(*(client.RegisterConsumer(register_request(phone_identity("13900002222"))) for _ in range(10)))
    assert len({answer.consumer_id for answer in answers}) == 1 and sum(answer.created for answer in answers) == 1


async def test_conflicting_identities_and_ids_are_refused(world):
    first, second = await world.register("13900000001"), await world.register("13900000002")
    client = world.client(brand_operator("brd_1")).identity
    for stub, details in ((client, {}), (world.operator.identity, {"consumer_ids": str(sorted([first, second]))})):
        with pytest.raises(Conflict, match="IDENTITIES_DISAGREE") as refused:
            await stub.RegisterConsumer(register_request(phone_identity("13900000001"), phone_identity("13900000002")))
        # The refusal does not name the consumers to a brand: they may be other brands' consumers.
        assert refused.value.metadata == details
    with pytest.raises(Conflict, match="IDENTITY_TAKEN"):
        await client.AddIdentity(
            pb.AddIdentityRequest(request_id=new_request_id(), consumer_id=first, brand_id="brd_1", identity=phone_identity("13900000002"))
        )
    with pytest.raises(Conflict, match="CONSUMER_ID_TAKEN"):
        await world.client(brand_operator("brd_2")).identity.RegisterConsumer(
            register_request(pb.NewIdentity(kind=CARD, value="x"), brand_id="brd_2", consumer_id=second)
        )
    with pytest.raises(Invalid, match="INVALID_PHONE"):
        await client.RegisterConsumer(register_request(phone_identity("12")))
    for name in ("", "sh\x00irt", "s" * 101):
        with pytest.raises(Invalid, match="sizes"):
            await client.RegisterConsumer(register_request(phone_identity("13900000003"), sizes={name: "40"}))
    with pytest.raises(Denied):
        await client.RegisterConsumer(register_request(phone_identity("13900000003"), brand_id="brd_2"))


async def sign_up(world, *identities, staff=("stf_1", "str_1"), brand_id="brd_1", **more):
    """Registers and binds a consumer as a guide; returns the response, the visible consumer and the visible identities."""
    client = world.client(*guide_grants(*staff))
    response = await client.identity.RegisterConsumer(register_request(*identities, brand_id=brand_id, store_id=staff[1], **more))
    id = response.consumer_id
    bind = outreach_pb2.BindConsumerRequest(request_id=new_request_id(), consumer_id=id, brand_id=brand_id, staff_id=staff[0])
    await client.outreach.BindConsumer(bind)
    visible = (await client.identity.GetConsumer(pb.GetConsumerRequest(id=id))).consumer
    listed = (await client.identity.ListIdentities(pb.ListIdentitiesRequest(consumer_id=id))).identities
    return response, visible, [(one.kind, one.shown, one.verified) for one in listed]


async def test_guide_registration_hides_other_brands_consumers(world):
    await world.register("13900000001", brand_id="brd_2", display_name="Li Na")
    for value, verified in (("13900000001", True), ("13900000001", False), ("13900000002", True)):
        earliest = clock.now()
        answer, visible, identities = await sign_up(world, phone_identity(value, verified), display_name="小李", sizes={"shirt": "40"})
        assert answer.created and visible.created_at.ToDatetime(UTC) >= earliest - timedelta(milliseconds=1)
        assert (visible.person_id, list(visible.consumer_ids)) == (answer.consumer_id, [answer.consumer_id])
        assert (visible.display_name, dict(visible.sizes)) == ("小李", {"shirt": "40"})
        assert identities == [(PHONE, f"139****000{value[-1]}", False)]
    response = await world.client(brand_operator("brd_2")).identity.RegisterConsumer(
        register_request(phone_identity("13900000002"), brand_id="brd_2")
    )
    assert response.created, "an identity from a store identifies no person"


async def test_guide_registration_finds_known_consumer_unchanged(world):
    id = await world.register("13900000001", display_name="Li Na")
    before = [document async for document in world.database["identities"].find()]
    card = pb.NewIdentity(kind=CARD, value="B-1", verified=True)
    answer, visible, identities = await sign_up(world, phone_identity("13900000001", False), card, display_name="Mallory")
    assert (answer.consumer_id, answer.created, visible.display_name) == (id, False, "Li Na")
    assert identities == [(PHONE, "139****0001", True)]
    assert [document async for document in world.database["identities"].find()] == before
    await world.register("13900000002")
    with pytest.raises(Conflict, match="IDENTITIES_DISAGREE") as refused:
        await sign_up(world, phone_identity("13900000001"), phone_identity("13900000002"))
    assert refused.value.metadata == {}


async def test_store_registers_only_for_its_brand(world):
    for refused, more in (("NOT_PERMITTED", {"store_id": "str_2"}), ("NOT_PERMITTED", {}), ("BRAND_NOT_YOURS", {"brand_id": "brd_2"})):
        values = {"store_id": "str_1"} | more if more.get("brand_id") else more
        for grants in (guide_grants("stf_1", "str_1"), [store_manager("str_1")]):
            with pytest.raises(Denied, match=refused):
                await world.client(*grants).identity.RegisterConsumer(register_request(phone_identity("13900000009"), **values))
    with pytest.raises(Invalid, match="not allowed for stores"):
        await sign_up(world, phone_identity("13900000009"), consumer_id="con_mine")
    with pytest.raises(Denied, match="SUBJECT_NOT_YOURS"):
        await sign_up(world, pb.NewIdentity(kind=OIDC, namespace="https://id.example", value="s"))


async def test_callers_see_only_their_part_of_a_consumer(world):
    id = await world.register("13812341234", display_name="Li Na", sizes={"shirt": "40"})
    await world.client(brand_operator("brd_2")).identity.RegisterConsumer(
        register_request(
            phone_identity("13812341234"), pb.NewIdentity(kind=CARD, value="CARD-778899"), brand_id="brd_2", display_name="Lina"
        )
    )

    async def get_consumer(*grants):
        return (await world.client(*grants).identity.GetConsumer(pb.GetConsumerRequest(id=id))).consumer

    own, first, second = (
        await get_consumer(*consumer_grants(id)),
        await get_consumer(brand_operator("brd_1")),
        await get_consumer(brand_operator("brd_2")),
    )
    assert (own.phone, own.sizes["shirt"]) == ("13812341234", "40")
    assert (first.display_name, first.phone, dict(first.sizes)) == ("Li Na", "138****1234", {"shirt": "40"})
    assert (second.display_name, second.phone, dict(second.sizes)) == ("Lina", "138****1234", {})
    for grants in ([brand_operator("brd_3")], consumer_grants("con_other"), guide_grants("stf_1", "str_1")):
        with pytest.raises(NotFound, match="CONSUMER_NOT_FOUND"):
            await get_consumer(*grants)
        batch = await world.client(*grants).identity.BatchGetConsumers(pb.BatchGetConsumersRequest(ids=[id]))
        assert not batch.consumers
    kinds = {}
    for name, grants in {"first": [brand_operator("brd_1")], "second": [brand_operator("brd_2")], "own": consumer_grants(id)}.items():
        listed = await world.client(*grants).identity.ListIdentities(pb.ListIdentitiesRequest(consumer_id=id))
        kinds[name] = [(one.kind, one.shown, list(one.brand_ids)) for one in listed.identities]
    assert kinds["first"] == [(PHONE, "138****1234", ["brd_1"])]
    assert kinds["second"] == [(PHONE, "138****1234", ["brd_2"]), (CARD, "****8899", ["brd_2"])]
    assert kinds["own"] == [(PHONE, "13812341234", ["brd_1", "brd_2"]), (CARD, "CARD-778899", ["brd_2"])]


async def test_personal_values_are_stored_encrypted(world):
    await world.register("13812341234", display_name="Li Na")
    for name in await world.database.raw.list_collection_names():
        async for document in world.database[name].find():
            assert "13812341234" not in str(document) and "Li Na" not in str(document), name


async def test_link_makes_one_person_and_unlink_restores_both(world):
    first = await world.register("13900000001", display_name="Li Na")
    second = await world.register("13900000002", brand_id="brd_2")
    identity = world.operator.identity
    before = [await identity.GetConsumer(pb.GetConsumerRequest(id=id)) for id in (first, second)]
    linked = await identity.LinkConsumers(link_request(first, second))
    assert linked.consumer_id == first
    resolved = await world.client(SERVICE).identity.ResolveConsumer(pb.ResolveConsumerRequest(subject=second))
    assert (resolved.consumer_id, list(resolved.consumer_ids)) == (first, [first, second])
    # A brand that knows one of them finds the person under either id, and still sees only its own data.
    visible = (await world.client(brand_operator("brd_2")).identity.GetConsumer(pb.GetConsumerRequest(id=first))).consumer
    assert (visible.person_id, visible.display_name, visible.phone) == (first, "", "139****0002")
    links = await identity.ListLinks(pb.ListLinksRequest(consumer_id=second))
    assert [(one.consumer_id, one.linked_consumer_id, one.linked_by) for one in links.links] == [(first, second, "operator")]
    with pytest.raises(Conflict, match="SAME_PERSON"):
        await identity.LinkConsumers(link_request(second, first))
    await identity.UnlinkConsumers(pb.UnlinkConsumersRequest(request_id=new_request_id(), consumer_id=first, linked_consumer_id=second))
    assert [await identity.GetConsumer(pb.GetConsumerRequest(id=id)) for id in (first, second)] == before
    with pytest.raises(NotFound):
        await world.client(brand_operator("brd_2")).identity.GetConsumer(pb.GetConsumerRequest(id=first))
    links = await identity.ListLinks(pb.ListLinksRequest(consumer_id=second))
    assert links.links[0].undone_by == "operator"
    events = [event.WhichOneof("body") for event in await world.member.published_events()]
    assert events == ["consumer_linked", "consumer_unlinked"]


async def test_batch_lists_of_identities_equal_single_lists(world):
    first, second = await world.register("13900000001"), await world.register("13900000002")
    other, unlinked = await world.register("13900000003", brand_id="brd_2"), await world.register("13900000004", brand_id="brd_2")
    for id, linked_id in ((first, second), (first, other)):
        await world.operator.identity.LinkConsumers(link_request(id, linked_id))
    ids, link_count = [first, second, other, unlinked, "con_none"], 0
    for grants in ([brand_operator("brd_1")], [brand_operator("brd_2")], [brand_operator("brd_3")], consumer_grants(second)):
        identity = world.client(*grants).identity
        identities, links = {}, {}
        for id in ids:
            try:
                identities[id] = (await identity.ListIdentities(pb.ListIdentitiesRequest(consumer_id=id))).identities
                links[id] = (await identity.ListLinks(pb.ListLinksRequest(consumer_id=id))).links
            except NotFound:
                pass
        listed = await identity.BatchListIdentities(pb.BatchListIdentitiesRequest(consumer_ids=[*ids, *ids]))
        assert {one.consumer_id: one.identities for one in listed.consumers} == identities
        listed_links = await identity.BatchListLinks(pb.BatchListLinksRequest(consumer_ids=[*ids, *ids]))
        assert {one.consumer_id: one.links for one in listed_links.consumers} == links
        assert len(listed.consumers) == len(listed_links.consumers) == len(identities)
        link_count += sum(map(len, links.values()))
    assert link_count
    for call, request in (("BatchListIdentities", pb.BatchListIdentitiesRequest), ("BatchListLinks", pb.BatchListLinksRequest)):

        async def list_batch(consumer_ids, call=call, request=request):
            await getattr(world.operator.identity, call)(request(consumer_ids=consumer_ids))

        made = [await count_queries(world.database, ("consumers", "identities", "links"), list_batch(some)) for some in ([first], ids)]
        assert made == [3, 3]
        with pytest.raises(Invalid, match="BATCH_TOO_LARGE"):
            await list_batch([f"con_{number}" for number in range(101)])


async def test_consumers_linked_during_a_read_are_found(world, monkeypatch):
    first, second = await world.register("13900000001"), await world.register("13900000002")
    find, links = ConsumerRepository.find_reachable_person_ids, [link_request(first, second)]

    async def find_then_link(self, ids):
        found = await find(self, ids)
        while links:
            await world.operator.identity.LinkConsumers(links.pop())
        return found

    monkeypatch.setattr(ConsumerRepository, "find_reachable_person_ids", find_then_link)
    listed = await world.operator.identity.BatchListIdentities(pb.BatchListIdentitiesRequest(consumer_ids=[first, second]))
    assert not links
    assert [len(one.identities) for one in listed.consumers] == [2, 2], "both are one person now"


async def test_links_of_equal_time_are_listed_latest_first(world):
    first, *others = [await world.register(f"1390000000{number}") for number in range(4)]
    for other in others:
        await world.operator.identity.LinkConsumers(link_request(first, other))
    await world.database["links"].update_many({}, {"$set": {"linked_at": clock.now()}})
    listed = await world.operator.identity.ListLinks(pb.ListLinksRequest(consumer_id=first))
    assert [one.linked_consumer_id for one in listed.links] == others[::-1]


async def test_brand_links_only_consumers_it_alone_registered(world):
    first, second = await world.register(), await world.register("13900000002")
    client = world.client(brand_operator("brd_1")).identity
    await world.client(brand_operator("brd_2")).identity.RegisterConsumer(register_request(phone_identity("13900000002"), brand_id="brd_2"))
    with pytest.raises(Denied, match="LINK_NOT_YOURS"):
        await client.LinkConsumers(link_request(first, second))
    with pytest.raises(NotFound):
        await world.client(brand_operator("brd_2")).identity.LinkConsumers(link_request(second, first))
    third = await world.register()
    assert (await client.LinkConsumers(link_request(first, third))).consumer_id == first


async def test_concurrent_links_never_form_a_cycle(world):
    first, second, third = [await world.register() for _ in range(3)]
    requests = [link_request(first, second), link_request(second, third), link_request(third, first), link_request(second, first)]
    answers = await asyncio.gather(*(world.operator.identity.LinkConsumers(one) for one in requests), return_exceptions=True)
    assert all(isinstance(one, Conflict | pb.LinkConsumersResponse) for one in answers)
    resolved = [
        await world.client(SERVICE).identity.ResolveConsumer(pb.ResolveConsumerRequest(subject=id)) for id in (first, second, third)
    ]
    assert len({one.consumer_id for one in resolved}) == 1


async def test_sign_in_subject_is_resolved_by_issuer(world):
    subject = pb.NewIdentity(kind=OIDC, namespace="https://login.example", value="con_sub", verified=True)
    id = (await world.operator.identity.RegisterConsumer(register_request(subject))).consumer_id
    service = world.client(SERVICE).identity
    found = await service.ResolveConsumer(pb.ResolveConsumerRequest(issuer="https://login.example", subject="con_sub"))
    assert list(found.consumer_ids) == [id]
    for issuer, name in (("https://other.example", "con_sub"), ("", "con_sub"), ("https://login.example", id)):
        with pytest.raises(NotFound, match="CONSUMER_NOT_FOUND"):
            await service.ResolveConsumer(pb.ResolveConsumerRequest(issuer=issuer, subject=name))


async def test_brand_may_not_add_sign_in_subjects(world):
    """The brand could otherwise sign in as any consumer it knows and see other brands' data."""
    id, client = await world.register(), world.client(brand_operator("brd_1")).identity
    subject = pb.NewIdentity(kind=OIDC, namespace="https://login.example", value="me", verified=True)
    for request in (register_request(subject), register_request(subject, consumer_id=id)):
        with pytest.raises(Denied, match="SUBJECT_NOT_YOURS"):
            await client.RegisterConsumer(request)
    with pytest.raises(Denied, match="SUBJECT_NOT_YOURS"):
        await client.AddIdentity(pb.AddIdentityRequest(request_id=new_request_id(), consumer_id=id, brand_id="brd_1", identity=subject))
    rows = [pb.ImportedConsumer(consumer_id=id, identities=[subject])]
    answer = await client.ImportConsumers(pb.ImportConsumersRequest(request_id=new_request_id(), brand_id="brd_1", consumers=rows))
    assert [one.reason for one in answer.rejects] == ["SUBJECT_NOT_YOURS"]


async def test_import_registers_valid_rows_and_reports_rejects(world):
    known = await world.register("13900000009")
    rows = [pb.ImportedConsumer(consumer_id=f"con_{n:03}", sizes={"shirt": str(n)}) for n in range(200)]
    rows += [
        pb.ImportedConsumer(identities=[phone_identity("13900000009")], display_name="known"),
        pb.ImportedConsumer(identities=[phone_identity("1")]),
        pb.ImportedConsumer(),
        pb.ImportedConsumer(consumer_id="con_x", consents=[pb.ImportedConsent(brand_id="brd_2", purpose="PURPOSE_OUTREACH")]),
        pb.ImportedConsumer(consumer_id="con_y", identities=[phone_identity("13900000010")]),
        pb.ImportedConsumer(consumer_id="con_z", identities=[phone_identity("13900000010")]),
    ]
    request = pb.ImportConsumersRequest(request_id=new_request_id(), brand_id="brd_1", consumers=rows)
    client = world.client(brand_operator("brd_1")).identity
    answer = await client.ImportConsumers(request)
    assert (answer.created, answer.found) == (201, 2)
    assert answer.consumer_ids[200] == known and list(answer.consumer_ids[204:]) == ["con_y", "con_y"]
    assert [(one.index, one.reason) for one in answer.rejects] == [
        (201, "INVALID_PHONE"),
        (202, "INVALID_FIELD"),
        (203, "BRAND_NOT_YOURS"),
    ]
    assert await client.ImportConsumers(request) == answer
    repeated = pb.ImportConsumersRequest(request_id=new_request_id(), brand_id="brd_1", consumers=rows)
    assert (await client.ImportConsumers(repeated)).created == 0
    visible = await world.client(OPERATOR).identity.BatchGetConsumers(pb.BatchGetConsumersRequest(ids=[f"con_{n:03}" for n in range(200)]))
    assert len(visible.consumers) == 200
    assert all(one.message for one in answer.rejects)


async def test_import_keeps_ids_and_links_existing_consumers(world):
    """Orders and bindings of the same import use these ids, so that they must stay valid."""
    existing = await world.register("13900000009", display_name="Li Na")
    rows = [
        pb.ImportedConsumer(
            consumer_id="con_mine",
            identities=[phone_identity("13900000009"), pb.NewIdentity(kind=CARD, value="CARD-445566")],
            display_name="Lina",
            consents=[pb.ImportedConsent(brand_id="brd_2", purpose="PURPOSE_OUTREACH", granted=True, touchpoint="TOUCHPOINT_STORE")],
        ),
        pb.ImportedConsumer(consumer_id="con_second", identities=[pb.NewIdentity(kind=CARD, value="CARD-445566")]),
    ]
    client = world.client(brand_operator("brd_2")).identity
    for _ in range(2):
        request = pb.ImportConsumersRequest(request_id=new_request_id(), brand_id="brd_2", consumers=rows)
        answer = await client.ImportConsumers(request)
        assert (answer.created, answer.found, list(answer.consumer_ids)) == (0, 2, [existing, existing])
    imported = (await client.GetConsumer(pb.GetConsumerRequest(id="con_mine"))).consumer
    assert (imported.person_id, imported.display_name, imported.phone) == (existing, "Lina", "139****0009")
    assert list(imported.consumer_ids) == [existing, "con_mine", "con_second"]
    links = (await world.operator.identity.ListLinks(pb.ListLinksRequest(consumer_id=existing))).links
    assert {(one.consumer_id, one.linked_consumer_id, tuple(one.evidence)) for one in links} == {
        (existing, "con_mine", (PHONE,)),
        ("con_mine", "con_second", (CARD,)),
    }
    events = [event.consumer_linked for event in await world.member.published_events() if event.WhichOneof("body") == "consumer_linked"]
    assert {(one.consumer_id, one.linked_consumer_id) for one in events} == {(existing, "con_mine"), ("con_mine", "con_second")}
    await world.operator.identity.UnlinkConsumers(
        pb.UnlinkConsumersRequest(request_id=new_request_id(), consumer_id=existing, linked_consumer_id="con_mine")
    )
    alone = (await world.operator.identity.GetConsumer(pb.GetConsumerRequest(id=existing))).consumer
    assert (alone.display_name, list(alone.consumer_ids)) == ("Li Na", [existing])
    apart = (await client.GetConsumer(pb.GetConsumerRequest(id="con_second"))).consumer
    assert (apart.person_id, apart.display_name) == ("con_mine", "Lina")
