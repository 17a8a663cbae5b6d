"""IdentityService. Reads answer what the caller may know of a person; writes answer ids only."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from quanyu.member.v1 import identity_pb2, identity_pb2_grpc
from services.kit import ids
from services.kit.enums import ScopeKind
from services.kit.errors import Invalid, Refusal, under
from services.kit.mongo.client import Document
from services.kit.mongo.codec import as_document, as_struct, fields, shaped
from services.kit.mongo.scoped_collection import BATCH_MAX
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.security.authorization import caller
from services.kit.transactions.unit_of_work import UnitOfWork, transactional
from services.member.identity import rules
from services.member.identity.enums import IdentityKind, Reason
from services.member.identity.registration import Entered, Entry
from services.member.identity.repository import ConsumerRepository
from services.member.identity.rules import Consumer, ConsumerLinked, ConsumerUnlinked, Identity, Link, NewIdentity, Registration
from services.member.store_projection import StoreProjection

READS_MAX = 3
"""Of people who are being linked meanwhile; who is not found whole then is left out."""
ROWS_MAX = 500
REMARKS = ("note", "linked_by", "undone_by")

Import = Callable[[UnitOfWork, Sequence[tuple[str, identity_pb2.ImportedConsumer]]], Awaitable[Mapping[str, Refusal]]]
"""What another use case takes from imported rows: (consumer id, row). It answers why it took nothing of some consumers, by id."""
Move = Callable[[UnitOfWork, Mapping[str, list[str]]], Awaitable[None]]
"""What another use case does when people change: person -> all its consumer ids."""


class IdentityServicer(identity_pb2_grpc.IdentityServiceServicer):
    """`imported` and `moved` are the use cases uphill that follow in the same write; the wiring hands them in."""

    def __init__(self, runtime: Runtime, consumers: ConsumerRepository, stores: StoreProjection, *, imported: Import, moved: Move) -> None:
        self.transactions, self.consumers, self.stores, self.imported, self.moved = runtime.transactions, consumers, stores, imported, moved

    @transactional
    async def RegisterConsumer(
        self, request: identity_pb2.RegisterConsumerRequest, uow: UnitOfWork
    ) -> identity_pb2.RegisterConsumerResponse:  # fmt: skip
        registration = as_struct(fields(request), Registration)
        if not registration.identities:
            raise Invalid(Reason.INVALID_FIELD, "give at least one identity", field="identities")
        entry = self.consumers.entry(registration, request.brand_id)
        if uow.caller.reaches(ScopeKind.BRAND, request.brand_id):
            (entered,) = await self.consumers.register(uow, [entry], request.brand_id)
        else:
            await self.stores.require_brand(request.brand_id, request.store_id, uow.session)
            if registration.consumer_id:
                raise Invalid(Reason.INVALID_FIELD, "leave it out: whom a store signs up gets a fresh id", field="consumer_id")
            entered = await self.consumers.sign_up(uow, entry, request.brand_id)
        if isinstance(entered, Refusal):
            raise entered
        return identity_pb2.RegisterConsumerResponse(consumer_id=entered.person_id, created=entered.created)

    @transactional
    async def AddIdentity(self, request: identity_pb2.AddIdentityRequest, uow: UnitOfWork) -> identity_pb2.AddIdentityResponse:
        consumer = await self.consumers.known(request.consumer_id, request.brand_id, uow.session)
        with under("identity"):
            given = self.consumers.given(as_struct(fields(request.identity), NewIdentity), request.brand_id)
        id, created = await self.consumers.add(uow, consumer.id, given, request.brand_id)
        return identity_pb2.AddIdentityResponse(identity_id=id, created=created)

    @transactional
    async def ImportConsumers(
        self, request: identity_pb2.ImportConsumersRequest, uow: UnitOfWork
    ) -> identity_pb2.ImportConsumersResponse:  # fmt: skip
        if not 1 <= len(request.consumers) <= ROWS_MAX:
            raise Invalid(Reason.INVALID_FIELD, f"give 1 to {ROWS_MAX} rows", field="consumers")
        entries: dict[int, Entry] = {}
        answers: dict[int, Entered | Refusal] = {}
        for index, row in enumerate(request.consumers):
            try:
                entries[index] = self._entry(row, request.brand_id)
            except Refusal as refusal:
                answers[index] = refusal
        registered = await self.consumers.register(uow, list(entries.values()), request.brand_id, linking=True)
        answers |= zip(entries, registered, strict=True)
        stand = {index: entered for index, entered in answers.items() if isinstance(entered, Entered)}
        await self._linked([entered for entered in stand.values() if entered.linked_to_id], uow)
        left_out = await self.imported(uow, [(entered.consumer_id, request.consumers[index]) for index, entered in stand.items()])
        answers |= {index: left_out[entered.consumer_id] for index, entered in stand.items() if entered.consumer_id in left_out}
        return identity_pb2.ImportConsumersResponse(
            created=sum(entered.created for entered in stand.values()),
            found=sum(not entered.created for entered in stand.values()),
            consumer_ids=[stand[index].person_id if index in stand else "" for index in range(len(request.consumers))],
            rejects=[
                identity_pb2.ImportReject(index=index, reason=refusal.reason, message=refusal.message)
                for index, refusal in sorted(answers.items())
                if isinstance(refusal, Refusal)
            ],
        )

    async def _linked(self, entries: Sequence[Entered], uow: UnitOfWork) -> None:
        """Keeps and tells the links of imported rows to who was there before."""
        if not entries:
            return
        for entry in entries:
            id, linked_id = entry.linked_to_id, entry.consumer_id
            link = Link(ids.new("lnk"), id, linked_id, entry.evidence, uow.at, uow.caller.id, "imported with the same identity")
            await self.consumers.links.unscoped.insert(uow, link)
            uow.publish(ConsumerLinked(id, linked_id))
        people = await self.consumers.people([entry.person_id for entry in entries], uow.session)
        await self.moved(uow, {person: people.ids_of(person) for person in {entry.person_id for entry in entries}})

    def _entry(self, row: identity_pb2.ImportedConsumer, brand_id: str) -> Entry:
        registration = as_struct(fields(row), Registration)
        if not registration.identities and not registration.consumer_id:
            raise Invalid(Reason.INVALID_FIELD, "give an id or an identity", field="consumer_id")
        if not all(caller().reaches(ScopeKind.BRAND, consent.brand_id) for consent in row.consents):
            raise Invalid(Reason.BRAND_NOT_YOURS, "a consent belongs to another brand", field="consents")
        return self.consumers.entry(registration, brand_id)

    @transactional
    async def LinkConsumers(self, request: identity_pb2.LinkConsumersRequest, uow: UnitOfWork) -> identity_pb2.LinkConsumersResponse:
        rows = await self._both(request.consumer_id, request.linked_consumer_id, uow)
        parents = rules.link({row.id: row.linked_to_id for row in rows}, request.consumer_id, request.linked_consumer_id)
        link = as_struct(fields(request) | {"id": ids.new("lnk"), "linked_at": uow.at, "linked_by": uow.caller.id}, Link)
        await self.consumers.links.unscoped.insert(uow, link)
        after = await self._rearranged(uow, rows, parents)
        uow.publish(ConsumerLinked(link.consumer_id, link.linked_consumer_id))
        return identity_pb2.LinkConsumersResponse(consumer_id=after[link.linked_consumer_id], link_id=link.id)

    @transactional
    async def UnlinkConsumers(
        self, request: identity_pb2.UnlinkConsumersRequest, uow: UnitOfWork
    ) -> identity_pb2.UnlinkConsumersResponse:  # fmt: skip
        id, linked_id = request.consumer_id, request.linked_consumer_id
        rows = await self._both(id, linked_id, uow)
        parents = rules.unlink({row.id: row.linked_to_id for row in rows}, id, linked_id)
        links = self.consumers.links.unscoped
        standing = {"consumer_id": id, "linked_consumer_id": linked_id, "undone_at": None}
        document = await links.collection.find_one(standing, session=uow.session)
        link = as_struct(document, Link)
        note = "; ".join(part for part in (link.note, request.note) if part)
        await links.replace(uow, replace(link, undone_at=uow.at, undone_by=uow.caller.id, note=note))
        after = await self._rearranged(uow, rows, parents)
        uow.publish(ConsumerUnlinked(id, linked_id))
        return identity_pb2.UnlinkConsumersResponse(consumer_id=after[id], linked_consumer_id=linked_id)

    async def _both(self, id: str, linked_id: str, uow: UnitOfWork) -> list[Consumer]:
        """All rows of both people, if the caller may decide on them."""
        persons = {(await self.consumers.reached(one, uow.session)).person_id for one in (id, linked_id)}
        rows = await self.consumers.rows(persons, uow.session)
        rules.may_link(rows, _reaches_brand)
        return rows

    async def _rearranged(self, uow: UnitOfWork, rows: Sequence[Consumer], parents: rules.Parents) -> dict[str, str]:
        """Writes people anew, has the use cases uphill follow, and answers consumer -> person."""
        after = await self.consumers.rearrange(uow, rows, parents)
        persons = {row.id: row.person_id for row in after}
        await self.moved(uow, {person: rules.ids_of(person, after) for person in set(persons.values())})
        return persons

    async def ResolveConsumer(
        self, request: identity_pb2.ResolveConsumerRequest, context: Any
    ) -> identity_pb2.ResolveConsumerResponse:  # fmt: skip
        id: str | None = request.subject
        if request.issuer:
            id = await self.consumers.by_identity(NewIdentity(IdentityKind.OIDC_SUBJECT, request.subject, request.issuer, True))
        people = await self.consumers.people([id] if id else [])
        if id is None or id not in people.persons:
            raise rules.missing("")
        person = people.person_of(id)
        others = sorted(set(people.ids_of(id)) - {person})
        return identity_pb2.ResolveConsumerResponse(consumer_id=person, consumer_ids=[person, *others])

    async def GetConsumer(self, request: identity_pb2.GetConsumerRequest, context: Any) -> identity_pb2.GetConsumerResponse:
        found = await self._seen([request.id])
        if not found:
            raise rules.missing(request.id)
        return identity_pb2.GetConsumerResponse(consumer=found[0])

    async def BatchGetConsumers(
        self, request: identity_pb2.BatchGetConsumersRequest, context: Any
    ) -> identity_pb2.BatchGetConsumersResponse:  # fmt: skip
        return identity_pb2.BatchGetConsumersResponse(consumers=await self._seen(request.ids))

    async def _seen(self, asked: Sequence[str]) -> list[identity_pb2.Consumer]:
        """Those of these consumers whom the caller reaches, as the caller may see them."""
        if len(asked) > BATCH_MAX:
            raise Invalid("BATCH_TOO_LARGE", f"ask for at most {BATCH_MAX} at a time", field="ids")
        reached, people = await self._reached(asked)
        phones = await self.consumers.identities_of(people.rows, IdentityKind.PHONE)
        for phone in sorted(phones, key=lambda one: one.verified):
            person = people.person_of(phone.consumer_id)
            if people.viewers[person].sees(phone.brand_ids):
                people.phones[person] = self._shown(phone, people.viewers[person])
        return [self._consumer(id, person, people) for id, person in reached.items()]

    async def _reached(self, asked: Iterable[str]) -> tuple[dict[str, str], "_People"]:
        """Those of these consumers whom the caller reaches, with the person each belongs to, and those people whole."""
        wanted = list(asked)
        for _ in range(READS_MAX):
            reached = await self.consumers.persons_within_reach(wanted)
            people = _People(await self.consumers.rows(reached.values()))
            if reached.keys() <= people.rows.keys():  # else somebody was linked between the two
                break
        return {id: people.rows[id].person_id for id in reached if id in people.rows}, people

    def _consumer(self, id: str, person: str, people: "_People") -> identity_pb2.Consumer:
        members, viewer = people.members[person], people.viewers[person]
        profile = rules.seen_profile(members, viewer, id)
        seen: dict[str, Any] = {
            "id": id,
            "person_id": person,
            "display_name": self.consumers.encryption.decrypt(profile.display_name) if profile.display_name else "",
            "phone": people.phones.get(person, ""),
            "sizes": profile.sizes,
            "preferences": profile.preferences,
            "created_at": people.rows[id].created_at,
            "consumer_ids": rules.ids_of(person, members),
        }
        return identity_pb2.Consumer(**seen)

    def _shown(self, identity: Identity, viewer: rules.Viewer) -> str:
        """An identity's value: whole for its person, masked for everybody else."""
        value = self.consumers.encryption.decrypt(identity.value)
        return (rules.whole if viewer.self_ else rules.masked)(identity.kind, value)

    async def ListIdentities(
        self, request: identity_pb2.ListIdentitiesRequest, context: Any
    ) -> identity_pb2.ListIdentitiesResponse:  # fmt: skip
        found = await self._identities([request.consumer_id])
        return identity_pb2.ListIdentitiesResponse(identities=_of_one(request.consumer_id, found))

    async def BatchListIdentities(
        self, request: identity_pb2.BatchListIdentitiesRequest, context: Any
    ) -> identity_pb2.BatchListIdentitiesResponse:  # fmt: skip
        key, asked = batch_lists.asked(request, "consumer_ids")
        found: list[Any] = [{key: id, "identities": rows} for id, rows in (await self._identities(asked)).items()]
        return identity_pb2.BatchListIdentitiesResponse(consumers=found)

    async def _identities(self, asked: Sequence[str]) -> dict[str, list[Any]]:
        """The identities of each of these consumers whom the caller reaches, as the caller may see them."""
        reached, people = await self._reached(asked)
        seen: dict[str, list[Any]] = {person: [] for person in people.members}
        for one in await self.consumers.identities_of(people.rows):
            person = people.person_of(one.consumer_id)
            if people.viewers[person].sees(one.brand_ids):
                seen[person].append(self._identity(one, people.viewers[person]))
        return {id: seen[person] for id, person in reached.items()}

    def _identity(self, identity: Identity, viewer: rules.Viewer) -> Any:
        brands = [id for id in identity.brand_ids if viewer.sees([id])]
        row = as_document(replace(identity, brand_ids=brands)) | {"shown": self._shown(identity, viewer)}
        return shaped(row, identity_pb2.Identity.DESCRIPTOR)

    async def ListLinks(self, request: identity_pb2.ListLinksRequest, context: Any) -> identity_pb2.ListLinksResponse:
        found = await self._links([request.consumer_id])
        return identity_pb2.ListLinksResponse(links=_of_one(request.consumer_id, found))

    async def BatchListLinks(self, request: identity_pb2.BatchListLinksRequest, context: Any) -> identity_pb2.BatchListLinksResponse:
        key, asked = batch_lists.asked(request, "consumer_ids")
        found: list[Any] = [{key: id, "links": rows} for id, rows in (await self._links(asked)).items()]
        return identity_pb2.BatchListLinksResponse(consumers=found)

    async def _links(self, asked: Sequence[str]) -> dict[str, list[Any]]:
        """The links of each of these consumers whom the caller reaches, as the caller may see them."""
        reached, people = await self._reached(asked)
        links = await self.consumers.links_of({person: [row.id for row in rows] for person, rows in people.members.items()})
        if not caller().everywhere:
            # An undone link may name somebody who is none of the caller's business, and remarks are for those who decide on links.
            known = await self.consumers.persons_within_reach(id for rows in links.values() for link in rows for id in _linked(link))
            for person, rows in links.items():
                hidden = {} if rules.decides(people.members[person], _reaches_brand) else dict.fromkeys(REMARKS, "")
                links[person] = [link | hidden for link in rows if known.keys() >= _linked(link)]
        return {id: links.get(person, []) for id, person in reached.items()}


def _linked(link: Document) -> set[str]:
    """The two consumers of a link."""
    return {link["consumer_id"], link["linked_consumer_id"]}


def _of_one(consumer_id: str, found: Mapping[str, list[Any]]) -> list[Any]:
    """What was found of one consumer; CONSUMER_NOT_FOUND when the caller does not reach them."""
    if consumer_id not in found:
        raise rules.missing(consumer_id)
    return found[consumer_id]


def _reaches_brand(brand_id: str) -> bool:
    return caller().reaches(ScopeKind.BRAND, brand_id)


class _People:
    """Rows by person, how the caller sees each, and the phone to show."""

    def __init__(self, rows: Iterable[Consumer]) -> None:
        self.rows = {row.id: row for row in rows}
        self.members: dict[str, list[Consumer]] = {}
        for row in self.rows.values():
            self.members.setdefault(row.person_id, []).append(row)
        self.viewers = {person: _viewer(members) for person, members in self.members.items()}
        self.phones: dict[str, str] = {}

    def person_of(self, id: str) -> str:
        return self.rows[id].person_id


def _viewer(rows: Sequence[Consumer]) -> rules.Viewer:
    who = caller()
    reach = {kind: who.reach.get(kind, frozenset()) for kind in (ScopeKind.CONSUMER, ScopeKind.BRAND, ScopeKind.STORE, ScopeKind.STAFF)}
    return rules.viewer(
        rows,
        everywhere=who.everywhere,
        consumers=reach[ScopeKind.CONSUMER],
        brands=reach[ScopeKind.BRAND],
        stores=reach[ScopeKind.STORE],
        staff=reach[ScopeKind.STAFF],
    )
