"""IdentityService: registers, links and shows consumers. Reads return what the caller may see of a person; writes return ids only."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from quanyu.member.v1 import identity_pb2, identity_pb2_grpc
from services.kit import ids
from services.kit.enums import ScopeKind
from services.kit.errors import Invalid, Refusal, field_prefix
from services.kit.mongo.client import Document
from services.kit.mongo.codec import project, request_fields, to_document, to_struct
from services.kit.mongo.scoped_collection import BATCH_MAX
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.security.caller import current_caller
from services.kit.transactions.unit_of_work import UnitOfWork, transactional
from services.member.identity import rules
from services.member.identity.enums import IdentityKind, Reason
from services.member.identity.registration import EncryptedRegistration, RegistrationResult
from services.member.identity.repository import ConsumerRepository
from services.member.identity.rules import Consumer, ConsumerLinked, ConsumerUnlinked, Identity, Link, NewIdentity, Registration
from services.member.store_projection import StoreProjection

READ_ATTEMPTS_MAX = 3
"""People that are linked during a read are read at most this often; consumers that are still incomplete are left out."""
IMPORT_ROWS_MAX = 500
"""An import contains at most this many consumers."""
REMARK_FIELDS = ("note", "linked_by", "undone_by")
"""These fields of a link are visible only to callers who may decide on the link."""

ImportListener = Callable[[UnitOfWork, Sequence[tuple[str, identity_pb2.ImportedConsumer]]], Awaitable[Mapping[str, Refusal]]]
"""Another use case's part of an import of (consumer id, imported consumer); returns its refusals by consumer id."""
PeopleListener = Callable[[UnitOfWork, Mapping[str, list[str]]], Awaitable[None]]
"""Another use case's part of a link or unlink; receives all consumer ids of each changed person."""


class IdentityServicer(identity_pb2_grpc.IdentityServiceServicer):
    """The servicer. Its listeners are use cases of higher layers that write in the same transaction; the wiring passes them in."""

    def __init__(
        self,
        runtime: Runtime,
        consumers: ConsumerRepository,
        stores: StoreProjection,
        *,
        on_import: ImportListener,
        on_people_change: PeopleListener,
    ) -> None:
        self.transactions, self.consumers, self.stores = runtime.transactions, consumers, stores
        self.on_import, self.on_people_change = on_import, on_people_change

    @transactional
    async def RegisterConsumer(
        self, request: identity_pb2.RegisterConsumerRequest, uow: UnitOfWork
    ) -> identity_pb2.RegisterConsumerResponse:  # fmt: skip
        registration = to_struct(request_fields(request), Registration)
        if not registration.identities:
            raise Invalid(Reason.INVALID_FIELD, "`identities` must not be empty. Give at least one identity.", field="identities")
        entry = self.consumers.encrypt_registration(registration, request.brand_id)
        result: RegistrationResult | Refusal
        if uow.caller.can_reach(ScopeKind.BRAND, request.brand_id):
            (result,) = await self.consumers.register(uow, [entry], request.brand_id)
        else:
            await self.stores.require_brand(request.brand_id, request.store_id, uow.session)
            if registration.consumer_id:
                message = "`consumerId` is not allowed for stores. Leave it out: the consumer gets a new id."
                raise Invalid(Reason.INVALID_FIELD, message, field="consumer_id")
            result = await self.consumers.sign_up(uow, entry, request.brand_id)
        if isinstance(result, Refusal):
            raise result
        return identity_pb2.RegisterConsumerResponse(consumer_id=result.person_id, created=result.created)

    @transactional
    async def AddIdentity(self, request: identity_pb2.AddIdentityRequest, uow: UnitOfWork) -> identity_pb2.AddIdentityResponse:
        consumer = await self.consumers.get_known(request.consumer_id, request.brand_id, uow.session)
        with field_prefix("identity"):
            identity = self.consumers.encrypt_identity(to_struct(request_fields(request.identity), NewIdentity), request.brand_id)
        id, created = await self.consumers.add_identity(uow, consumer.id, identity, request.brand_id)
        return identity_pb2.AddIdentityResponse(identity_id=id, created=created)

    @transactional
    async def ImportConsumers(
        self, request: identity_pb2.ImportConsumersRequest, uow: UnitOfWork
    ) -> identity_pb2.ImportConsumersResponse:  # fmt: skip
        if not 1 <= len(request.consumers) <= IMPORT_ROWS_MAX:
            raise Invalid(
                Reason.INVALID_FIELD, f"`consumers` must contain 1 to {IMPORT_ROWS_MAX} rows. Split a larger import.", field="consumers"
            )
        entries: dict[int, EncryptedRegistration] = {}
        results: dict[int, RegistrationResult | Refusal] = {}
        for index, consumer in enumerate(request.consumers):
            try:
                entries[index] = self._encrypt(consumer, request.brand_id)
            except Refusal as refusal:
                results[index] = refusal
        registered = await self.consumers.register(uow, list(entries.values()), request.brand_id, keeps_ids=True)
        results |= zip(entries, registered, strict=True)
        accepted = {index: result for index, result in results.items() if isinstance(result, RegistrationResult)}
        await self._record_links([result for result in accepted.values() if result.linked_to_id], uow)
        refusals = await self.on_import(uow, [(result.consumer_id, request.consumers[index]) for index, result in accepted.items()])
        results |= {index: refusals[result.consumer_id] for index, result in accepted.items() if result.consumer_id in refusals}
        return identity_pb2.ImportConsumersResponse(
            created=sum(result.created for result in accepted.values()),
            found=sum(not result.created for result in accepted.values()),
            consumer_ids=[accepted[index].person_id if index in accepted else "" for index in range(len(request.consumers))],
            rejects=[
                identity_pb2.ImportReject(index=index, reason=refusal.reason, message=refusal.message)
                for index, refusal in sorted(results.items())
                if isinstance(refusal, Refusal)
            ],
        )

    async def _record_links(self, results: Sequence[RegistrationResult], uow: UnitOfWork) -> None:
        """Saves and publishes the links of imported consumers to existing ones."""
        if not results:
            return
        for result in results:
            id, linked_id = result.linked_to_id, result.consumer_id
            link = Link(ids.new("lnk"), id, linked_id, result.evidence, uow.at, uow.caller.id, "Imported with the same identity.")
            await self.consumers.links.unscoped.insert(uow, link)
            uow.publish(ConsumerLinked(id, linked_id))
        people = await self.consumers.find_people([result.person_id for result in results], uow.session)
        persons = {result.person_id for result in results}
        await self.on_people_change(uow, {person: people.list_consumer_ids(person) for person in persons})

    def _encrypt(self, consumer: identity_pb2.ImportedConsumer, brand_id: str) -> EncryptedRegistration:
        registration = to_struct(request_fields(consumer), Registration)
        if not registration.identities and not registration.consumer_id:
            raise Invalid(Reason.INVALID_FIELD, "Give `consumerId` or at least one identity.", field="consumer_id")
        if not all(current_caller().can_reach(ScopeKind.BRAND, consent.brand_id) for consent in consumer.consents):
            raise Invalid(Reason.BRAND_NOT_YOURS, "A consent names a brand that you do not act for. Leave it out.", field="consents")
        return self.consumers.encrypt_registration(registration, brand_id)

    @transactional
    async def LinkConsumers(self, request: identity_pb2.LinkConsumersRequest, uow: UnitOfWork) -> identity_pb2.LinkConsumersResponse:
        consumers = await self._load_both(request.consumer_id, request.linked_consumer_id, uow)
        parents = rules.link({one.id: one.linked_to_id for one in consumers}, request.consumer_id, request.linked_consumer_id)
        link = to_struct(request_fields(request) | {"id": ids.new("lnk"), "linked_at": uow.at, "linked_by": uow.caller.id}, Link)
        await self.consumers.links.unscoped.insert(uow, link)
        persons = await self._save_people(uow, consumers, parents)
        uow.publish(ConsumerLinked(link.consumer_id, link.linked_consumer_id))
        return identity_pb2.LinkConsumersResponse(consumer_id=persons[link.linked_consumer_id], link_id=link.id)

    @transactional
    async def UnlinkConsumers(
        self, request: identity_pb2.UnlinkConsumersRequest, uow: UnitOfWork
    ) -> identity_pb2.UnlinkConsumersResponse:  # fmt: skip
        id, linked_id = request.consumer_id, request.linked_consumer_id
        consumers = await self._load_both(id, linked_id, uow)
        parents = rules.unlink({one.id: one.linked_to_id for one in consumers}, id, linked_id)
        links = self.consumers.links.unscoped
        query = {"consumer_id": id, "linked_consumer_id": linked_id, "undone_at": None}
        document = await links.collection.find_one(query, session=uow.session)
        link = to_struct(document, Link)
        note = "; ".join(part for part in (link.note, request.note) if part)
        await links.replace(uow, replace(link, undone_at=uow.at, undone_by=uow.caller.id, note=note))
        persons = await self._save_people(uow, consumers, parents)
        uow.publish(ConsumerUnlinked(id, linked_id))
        return identity_pb2.UnlinkConsumersResponse(consumer_id=persons[id], linked_consumer_id=linked_id)

    async def _load_both(self, id: str, linked_id: str, uow: UnitOfWork) -> list[Consumer]:
        """Returns all consumers of both people; raises `Denied` unless the caller may decide on their links."""
        persons = {(await self.consumers.get_reachable(one, uow.session)).person_id for one in (id, linked_id)}
        consumers = await self.consumers.list_members(persons, uow.session)
        rules.check_link_authority(consumers, _can_reach_brand)
        return consumers

    async def _save_people(self, uow: UnitOfWork, consumers: Sequence[Consumer], parents: rules.Parents) -> dict[str, str]:
        """Saves changed people, notifies the listener and returns the person of each consumer."""
        changed = await self.consumers.save_people(uow, consumers, parents)
        persons = {consumer.id: consumer.person_id for consumer in changed}
        await self.on_people_change(uow, {person: rules.list_consumer_ids(person, changed) for person in set(persons.values())})
        return persons

    async def ResolveConsumer(
        self, request: identity_pb2.ResolveConsumerRequest, context: Any
    ) -> identity_pb2.ResolveConsumerResponse:  # fmt: skip
        id: str | None = request.subject
        if request.issuer:
            id = await self.consumers.find_by_identity(NewIdentity(IdentityKind.OIDC_SUBJECT, request.subject, request.issuer, True))
        people = await self.consumers.find_people([id] if id else [])
        if id is None or id not in people.person_ids:
            raise rules.consumer_not_found("")
        person = people.find_person(id)
        others = sorted(set(people.list_consumer_ids(id)) - {person})
        return identity_pb2.ResolveConsumerResponse(consumer_id=person, consumer_ids=[person, *others])

    async def GetConsumer(self, request: identity_pb2.GetConsumerRequest, context: Any) -> identity_pb2.GetConsumerResponse:
        found = await self._find_visible([request.id])
        if not found:
            raise rules.consumer_not_found(request.id)
        return identity_pb2.GetConsumerResponse(consumer=found[0])

    async def BatchGetConsumers(
        self, request: identity_pb2.BatchGetConsumersRequest, context: Any
    ) -> identity_pb2.BatchGetConsumersResponse:  # fmt: skip
        return identity_pb2.BatchGetConsumersResponse(consumers=await self._find_visible(request.ids))

    async def _find_visible(self, consumer_ids: Sequence[str]) -> list[identity_pb2.Consumer]:
        """Returns those of these consumers within the caller's scope, as the caller may see them."""
        if len(consumer_ids) > BATCH_MAX:
            message = f"`ids` must contain at most {BATCH_MAX} ids. Split the request."
            raise Invalid("BATCH_TOO_LARGE", message, field="ids")
        persons, people = await self._find_reachable(consumer_ids)
        phones = await self.consumers.list_identities(people.consumers, IdentityKind.PHONE)
        for phone in sorted(phones, key=lambda phone: phone.verified):
            person = people.find_person(phone.consumer_id)
            if people.viewers[person].can_see(phone.brand_ids):
                people.phones[person] = self._format_value(phone, people.viewers[person])
        return [self._build_consumer(id, person, people) for id, person in persons.items()]

    async def _find_reachable(self, consumer_ids: Iterable[str]) -> tuple[dict[str, str], "VisiblePeople"]:
        """Returns the person of each consumer within the caller's scope, and these people completely."""
        wanted = list(consumer_ids)
        for _ in range(READ_ATTEMPTS_MAX):
            reachable = await self.consumers.find_reachable_person_ids(wanted)
            people = VisiblePeople(await self.consumers.list_members(reachable.values()))
            if reachable.keys() <= people.consumers.keys():  # otherwise a consumer was linked between the two queries
                break
        return {id: people.consumers[id].person_id for id in reachable if id in people.consumers}, people

    def _build_consumer(self, id: str, person: str, people: "VisiblePeople") -> identity_pb2.Consumer:
        members, viewer = people.members[person], people.viewers[person]
        profile = rules.merge_visible_profiles(members, viewer, id)
        values: dict[str, Any] = {
            "id": id,
            "person_id": person,
            "display_name": self.consumers.encryption.decrypt(profile.display_name) if profile.display_name else "",
            "phone": people.phones.get(person, ""),
            "sizes": profile.sizes,
            "preferences": profile.preferences,
            "created_at": people.consumers[id].created_at,
            "consumer_ids": rules.list_consumer_ids(person, members),
        }
        return identity_pb2.Consumer(**values)

    def _format_value(self, identity: Identity, viewer: rules.Viewer) -> str:
        """Returns an identity's value: unmasked for its person, masked for other viewers."""
        value = self.consumers.encryption.decrypt(identity.value)
        return (rules.format_value if viewer.is_person else rules.mask)(identity.kind, value)

    async def ListIdentities(
        self, request: identity_pb2.ListIdentitiesRequest, context: Any
    ) -> identity_pb2.ListIdentitiesResponse:  # fmt: skip
        found = await self._list_identities([request.consumer_id])
        return identity_pb2.ListIdentitiesResponse(identities=_require(request.consumer_id, found))

    async def BatchListIdentities(
        self, request: identity_pb2.BatchListIdentitiesRequest, context: Any
    ) -> identity_pb2.BatchListIdentitiesResponse:  # fmt: skip
        key, consumer_ids = batch_lists.selected_ids(request, "consumer_ids")
        found = await self._list_identities(consumer_ids)
        lists: list[Any] = [{key: id, "identities": identities} for id, identities in found.items()]
        return identity_pb2.BatchListIdentitiesResponse(consumers=lists)

    async def _list_identities(self, consumer_ids: Sequence[str]) -> dict[str, list[Any]]:
        """Returns the visible identities of each of these consumers within the caller's scope."""
        persons, people = await self._find_reachable(consumer_ids)
        visible: dict[str, list[Any]] = {person: [] for person in people.members}
        for identity in await self.consumers.list_identities(people.consumers):
            person = people.find_person(identity.consumer_id)
            if people.viewers[person].can_see(identity.brand_ids):
                visible[person].append(self._build_identity(identity, people.viewers[person]))
        return {id: visible[person] for id, person in persons.items()}

    def _build_identity(self, identity: Identity, viewer: rules.Viewer) -> Any:
        brands = [id for id in identity.brand_ids if viewer.can_see([id])]
        document = to_document(replace(identity, brand_ids=brands)) | {"shown": self._format_value(identity, viewer)}
        return project(document, identity_pb2.Identity.DESCRIPTOR)

    async def ListLinks(self, request: identity_pb2.ListLinksRequest, context: Any) -> identity_pb2.ListLinksResponse:
        found = await self._list_links([request.consumer_id])
        return identity_pb2.ListLinksResponse(links=_require(request.consumer_id, found))

    async def BatchListLinks(self, request: identity_pb2.BatchListLinksRequest, context: Any) -> identity_pb2.BatchListLinksResponse:
        key, consumer_ids = batch_lists.selected_ids(request, "consumer_ids")
        found = await self._list_links(consumer_ids)
        lists: list[Any] = [{key: id, "links": links} for id, links in found.items()]
        return identity_pb2.BatchListLinksResponse(consumers=lists)

    async def _list_links(self, consumer_ids: Sequence[str]) -> dict[str, list[Any]]:
        """Returns the visible links of each of these consumers within the caller's scope."""
        persons, people = await self._find_reachable(consumer_ids)
        links = await self.consumers.list_links({person: [member.id for member in members] for person, members in people.members.items()})
        if not current_caller().is_unrestricted:
            # An undone link may name a consumer outside the caller's scope; remarks are for callers who may decide on links.
            linked_ids = (id for found in links.values() for link in found for id in _list_linked_ids(link))
            reachable = await self.consumers.find_reachable_person_ids(linked_ids)
            for person, found in links.items():
                hidden = {} if rules.can_decide_links(people.members[person], _can_reach_brand) else dict.fromkeys(REMARK_FIELDS, "")
                links[person] = [link | hidden for link in found if reachable.keys() >= _list_linked_ids(link)]
        return {id: links.get(person, []) for id, person in persons.items()}


def _list_linked_ids(link: Document) -> set[str]:
    """Returns the two consumers of a link."""
    return {link["consumer_id"], link["linked_consumer_id"]}


def _require(consumer_id: str, found: Mapping[str, list[Any]]) -> list[Any]:
    """Returns the results of one consumer; raises `NotFound` (CONSUMER_NOT_FOUND) if there are none within the caller's scope."""
    if consumer_id not in found:
        raise rules.consumer_not_found(consumer_id)
    return found[consumer_id]


def _can_reach_brand(brand_id: str) -> bool:
    return current_caller().can_reach(ScopeKind.BRAND, brand_id)


class VisiblePeople:
    """Complete people: the members, the caller's view and the visible phone number of each."""

    def __init__(self, consumers: Iterable[Consumer]) -> None:
        self.consumers = {consumer.id: consumer for consumer in consumers}
        self.members: dict[str, list[Consumer]] = {}
        for consumer in self.consumers.values():
            self.members.setdefault(consumer.person_id, []).append(consumer)
        self.viewers = {person: _build_viewer(members) for person, members in self.members.items()}
        self.phones: dict[str, str] = {}

    def find_person(self, consumer_id: str) -> str:
        """Returns the id of a consumer's person."""
        return self.consumers[consumer_id].person_id


def _build_viewer(members: Sequence[Consumer]) -> rules.Viewer:
    reader = current_caller()
    reach = {kind: reader.reach.get(kind, frozenset()) for kind in (ScopeKind.CONSUMER, ScopeKind.BRAND, ScopeKind.STORE, ScopeKind.STAFF)}
    return rules.build_viewer(
        members,
        is_unrestricted=reader.is_unrestricted,
        consumers=reach[ScopeKind.CONSUMER],
        brands=reach[ScopeKind.BRAND],
        stores=reach[ScopeKind.STORE],
        staff=reach[ScopeKind.STAFF],
    )
