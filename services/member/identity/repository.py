"""Collections of consumers, identities and links. All documents of a person are written together, with the fields that they share."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from pymongo import ASCENDING, DESCENDING, IndexModel, ReplaceOne, UpdateMany, UpdateOne

from quanyu.member.v1 import identity_pb2
from services.kit import ids
from services.kit.enums import ScopeKind
from services.kit.errors import Refusal, field_prefix
from services.kit.mongo.change_streams import WatchedCollection
from services.kit.mongo.client import Document, Session
from services.kit.mongo.codec import to_document, to_struct
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.runtime.runtime import Runtime
from services.kit.security.caller import current_caller
from services.kit.security.encryption import FieldEncryption
from services.kit.transactions.unit_of_work import UnitOfWork
from services.member.identity import rules
from services.member.identity.enums import IdentityKind
from services.member.identity.registration import EncryptedIdentity, EncryptedRegistration, PersonRegistry, RegistrationResult
from services.member.identity.rules import BoundGuide, Consumer, Identity, Link, NewIdentity, Registration

LINKS_SHOWN_MAX = 100
"""A list of a person's links contains at most this many, the latest ones."""


class People(Struct, frozen=True):
    """The people of some consumers. An id that is not registered is a person of one consumer."""

    person_ids: Mapping[str, str]
    consumer_ids: Mapping[str, list[str]]

    def find_person(self, consumer_id: str) -> str:
        """Returns the id of a consumer's person."""
        return self.person_ids.get(consumer_id, consumer_id)

    def list_consumer_ids(self, consumer_id: str) -> list[str]:
        """Returns all consumer ids of a consumer's person."""
        return self.consumer_ids.get(self.find_person(consumer_id), [consumer_id])


class ConsumerRepository:
    """The consumers of the installation, with their identities and links."""

    def __init__(self, runtime: Runtime) -> None:
        self.encryption: FieldEncryption = runtime.encryption
        self.consumers = ScopedCollection(
            runtime.database,
            "consumers",
            noun="CONSUMER",
            struct=Consumer,
            scopes={
                ScopeKind.CONSUMER: "_id",
                ScopeKind.BRAND: "known_to",
                ScopeKind.STORE: "served.store_id",
                ScopeKind.STAFF: "served.staff_id",
            },
            indexes=[IndexModel([("person_id", ASCENDING)])],
        )
        self.identities = ScopedCollection(
            runtime.database,
            "identities",
            noun="IDENTITY",
            struct=Identity,
            message=identity_pb2.Identity,
            scopes={ScopeKind.CONSUMER: "consumer_id", ScopeKind.BRAND: "brand_ids"},
            indexes=[
                IndexModel([("hash", ASCENDING)], unique=True, partialFilterExpression={"stands": True}),
                IndexModel([("consumer_id", ASCENDING), ("created_at", ASCENDING)]),
            ],
        )
        # The consumers of a person change only if a link is made or undone.
        self.link_changes = WatchedCollection("links", keys=("consumer_id", "linked_consumer_id"), kinds=("insert", "update"))
        self.links = ScopedCollection(
            runtime.database,
            "links",
            noun="LINK",
            struct=Link,
            message=identity_pb2.Link,
            scopes={ScopeKind.CONSUMER: ("consumer_id", "linked_consumer_id")},
            indexes=[
                IndexModel([("consumer_id", ASCENDING), ("linked_at", DESCENDING)]),
                IndexModel([("linked_consumer_id", ASCENDING), ("linked_at", DESCENDING)]),
            ],
        )

    # people ----------------------------------------------------------------------------------------------------------

    async def find_people(self, consumer_ids: Iterable[str], session: Session = None) -> People:
        """Returns the people of these consumers, regardless of the caller's scope."""
        query = {"_id": {"$in": sorted(set(consumer_ids))}}
        cursor = self.consumers.collection.find(query, {"person_id": 1}, session=session)
        person_ids = {document["_id"]: document["person_id"] async for document in cursor}
        members: dict[str, list[str]] = {}
        query = {"person_id": {"$in": sorted(set(person_ids.values()))}}
        async for document in self.consumers.collection.find(query, {"person_id": 1}, session=session):
            members.setdefault(document["person_id"], []).append(document["_id"])
            person_ids[document["_id"]] = document["person_id"]
        return People(person_ids, members)

    async def list_consumer_ids(self, consumer_id: str) -> list[str]:
        """Returns all consumer ids of a consumer's person, regardless of the caller's scope."""
        return (await self.find_people([consumer_id])).list_consumer_ids(consumer_id)

    async def list_members(self, person_ids: Iterable[str], session: Session = None) -> list[Consumer]:
        """Returns all consumers of these people, regardless of the caller's scope."""
        cursor = self.consumers.collection.find({"person_id": {"$in": sorted(set(person_ids))}}, session=session)
        return [to_struct(document, Consumer) async for document in cursor]

    async def get_known(self, id: str, brand_id: str, session: Session = None) -> Consumer:
        """Returns a consumer that the brand knows or the caller is; raises `NotFound` (CONSUMER_NOT_FOUND) otherwise."""
        found = await self.find_known([id], brand_id, session)
        if id not in found:
            raise rules.consumer_not_found(id)
        return found[id]

    async def find_known(self, ids: Iterable[str], brand_id: str, session: Session = None) -> dict[str, Consumer]:
        """Returns, by id, those of these consumers that the brand knows or the caller is.

        An operator or a service finds every consumer.
        """
        cursor = self.consumers.collection.find({"_id": {"$in": sorted(set(ids))}}, session=session)
        consumers = [to_struct(document, Consumer) async for document in cursor]
        return {one.id: one for one in consumers if brand_id in one.known_to or current_caller().can_reach(ScopeKind.CONSUMER, one.id)}

    async def find_reachable_person_ids(self, ids: Iterable[str]) -> dict[str, str]:
        """Returns the person of each of these consumers within the caller's scope."""
        query = self.consumers.restrict({"_id": {"$in": sorted(set(ids))}})
        cursor = self.consumers.collection.find(query, {"person_id": 1})
        return {document["_id"]: document["person_id"] async for document in cursor}

    async def get_reachable(self, id: str, session: Session = None) -> Consumer:
        """Returns a consumer within the caller's scope; raises `NotFound` (CONSUMER_NOT_FOUND) otherwise."""
        document = await self.consumers.collection.find_one(self.consumers.restrict({"_id": id}), session=session)
        if document is None:
            raise rules.consumer_not_found(id)
        return to_struct(document, Consumer)

    async def find_served_brands(self, consumer_ids: Iterable[str]) -> dict[str, set[str]]:
        """Returns, for each consumer, the brands that bound the consumer to the caller or to the caller's store."""
        reader = current_caller()
        if reader.is_unrestricted or not (reader.reach.get(ScopeKind.STORE) or reader.reach.get(ScopeKind.STAFF)):
            return {}
        query = self.consumers.restrict({"_id": {"$in": sorted(set(consumer_ids))}})
        brands: dict[str, set[str]] = {}
        async for document in self.consumers.collection.find(query, {"served": 1}):
            for guide in document.get("served", []):
                if reader.can_reach(ScopeKind.STORE, guide["store_id"]) or reader.can_reach(ScopeKind.STAFF, guide["staff_id"]):
                    brands.setdefault(document["_id"], set()).add(guide["brand_id"])
        return brands

    async def restrict_to_readable(
        self, collection: ScopedCollection[Any], queries: Mapping[str, Document], members: Mapping[str, Sequence[str]]
    ) -> dict[str, Document]:
        """Returns queries, each for the documents of one person, restricted to what the caller may read.

        `members` has all consumer ids of each person, by the key of the query. The collection is scoped by brand and consumer; the results
        are for the collection `unscoped`. The person reads all of their documents. Staff read those of the brands that bound the person
        to them or to their store. For other callers the scope applies.
        """
        served = await self.find_served_brands({id for ids in members.values() for id in ids})
        own = current_caller().reach.get(ScopeKind.BRAND, frozenset())
        restricted = {}
        for key, query in queries.items():
            brands = [served[id] for id in members[key] if id in served]
            if is_self(members[key]):
                restricted[key] = query
            elif brands:
                restricted[key] = {"$and": [query, {"brand_id": {"$in": sorted(own.union(*brands))}}]}
            else:
                restricted[key] = collection.restrict(query)
        return restricted

    # registration ----------------------------------------------------------------------------------------------------

    def encrypt_registration(self, registration: Registration, brand_id: str) -> EncryptedRegistration:
        """Returns a registration with hashed and encrypted personal values; raises `Invalid` for a bad identity."""
        name = self.encryption.encrypt(registration.display_name) if registration.display_name else None
        identities: list[EncryptedIdentity] = []
        for index, identity in enumerate(registration.identities):
            with field_prefix(f"identities[{index}]"):
                identities.append(self.encrypt_identity(identity, brand_id))
        return EncryptedRegistration(registration, identities, name)

    def encrypt_identity(self, identity: NewIdentity, brand_id: str) -> EncryptedIdentity:
        """Returns an identity with look-up hashes and ciphertext; raises a refusal if it is bad or the caller may not supply it."""
        rules.check_kind(identity.kind, is_unrestricted=current_caller().is_unrestricted)
        normalized = rules.normalize(identity, brand_id)
        hashes = self.encryption.hash_with_all_keys(normalized.kind, normalized.hash_input)
        return EncryptedIdentity(normalized, hashes, self.encryption.encrypt(normalized.value))

    async def register(
        self, uow: UnitOfWork, entries: Sequence[EncryptedRegistration], brand_id: str, *, keeps_ids: bool = False
    ) -> list[RegistrationResult | Refusal]:
        """Registers one entry after the other, each on the state that the earlier ones left; returns a refusal in place of a bad one.

        `keeps_ids`: see `PersonRegistry.register`.
        """
        named_ids = [entry.registration.consumer_id for entry in entries if entry.registration.consumer_id]
        registry = await self._load_registry(uow, [identity for entry in entries for identity in entry.identities], named_ids)
        results: list[RegistrationResult | Refusal] = []
        is_unrestricted = uow.caller.is_unrestricted
        for entry in entries:
            try:
                result = registry.register(
                    entry, brand_id, uow.at, is_unrestricted=is_unrestricted, new_id=ids.new, keeps_id=keeps_ids
                )  # fmt: skip
                results.append(result)
            except Refusal as refusal:
                results.append(refusal)
        await self._save(uow, registry)
        return results

    async def sign_up(self, uow: UnitOfWork, entry: EncryptedRegistration, brand_id: str) -> RegistrationResult:
        """Finds the consumer of a store's registration if the brand knows the consumer, unchanged; creates a consumer otherwise.

        Neither the result nor the written documents show whether other brands know the consumer.
        """
        sought = [replace(one, identity=replace(one.identity, is_identifying=True)) for one in entry.identities]
        registry = await self._load_registry(uow, sought, [])
        if found := registry.find_known(sought, brand_id):
            return RegistrationResult(found.person_id, found.id, False, [])
        identities = [replace(one, identity=rules.remove_proof(one.identity)) for one in entry.identities]
        new = replace(entry, identities=identities)
        result = registry.register(new, brand_id, uow.at, is_unrestricted=False, new_id=ids.new)
        await self._save(uow, registry)
        return result

    async def add_identity(self, uow: UnitOfWork, consumer_id: str, identity: EncryptedIdentity, brand_id: str) -> tuple[str, bool]:
        """Adds an identity to a consumer; returns its id and whether it is new."""
        registry = await self._load_registry(uow, [identity], [consumer_id])
        result = registry.add_identity(consumer_id, identity, brand_id, uow.at, ids.new)
        await self._save(uow, registry)
        return result

    async def _load_registry(self, uow: UnitOfWork, identities: Sequence[EncryptedIdentity], named_ids: Sequence[str]) -> PersonRegistry:
        """Loads the complete people that these identities and consumer ids may belong to."""
        hashes = sorted({hash for one in identities if one.identity.is_identifying for hash in one.hashes})
        query = {"hash": {"$in": hashes}, "stands": True}
        owners = self.identities.collection.find(query, {"consumer_id": 1}, session=uow.session)
        consumer_ids = {document["consumer_id"] async for document in owners} | set(named_ids)
        persons = self.consumers.collection.find({"_id": {"$in": sorted(consumer_ids)}}, {"person_id": 1}, session=uow.session)
        consumers = await self.list_members([document["person_id"] async for document in persons], uow.session)
        query = {"consumer_id": {"$in": sorted(consumer.id for consumer in consumers)}}
        cursor = self.identities.collection.find(query, session=uow.session)
        return PersonRegistry(consumers, [to_struct(document, Identity) async for document in cursor])

    async def _save(self, uow: UnitOfWork, registry: PersonRegistry) -> None:
        consumers, identities = registry.list_changes()
        for collection, changed in ((self.consumers, consumers), (self.identities, identities)):
            if changed:
                operations = [_build_replacement(to_document(one)) for one in changed]
                await collection.collection.bulk_write(operations, ordered=False, session=uow.session)

    # changes of people -----------------------------------------------------------------------------------------------

    async def save_people(self, uow: UnitOfWork, consumers: Sequence[Consumer], parents: rules.Parents | None = None) -> list[Consumer]:
        """Saves all consumers of complete people after `parents` or a consumer changed; returns them with derived fields.

        Unchanged documents are written too, so that concurrent writers of a person conflict.
        """
        changed = rules.derive_shared_fields(consumers, parents)
        operations = [_build_replacement(to_document(consumer)) for consumer in changed]
        await self.consumers.collection.bulk_write(operations, ordered=False, session=uow.session)
        return changed

    async def record_first_interactions(self, uow: UnitOfWork, brand_ids: Mapping[str, set[str]], people: People) -> None:
        """Records that consumers had their first interaction with brands; these brands know them from then on."""
        operations: list[UpdateOne | UpdateMany] = []
        for id, brands in brand_ids.items():
            each = {"$each": sorted(brands)}
            operations.append(UpdateOne({"_id": id}, {"$addToSet": {"met_ids": each, "known_to": each}, "$inc": {"version": 1}}))
            if len(people.list_consumer_ids(id)) > 1:
                operations.append(UpdateMany({"person_id": people.find_person(id)}, {"$addToSet": {"known_to": each}}))
        if operations:
            await self.consumers.collection.bulk_write(operations, session=uow.session)

    async def save_guides(self, uow: UnitOfWork, guides: Mapping[str, Sequence[BoundGuide]], brand_id: str) -> None:
        """Saves the guides of consumers for a brand; an empty sequence removes them."""
        people = await self.find_people(guides, uow.session)
        consumers = await self.list_members({people.find_person(id) for id in guides}, uow.session)
        if consumers:
            changed = [rules.replace_guides(one, brand_id, guides[one.id]) if one.id in guides else one for one in consumers]
            await self.save_people(uow, changed)

    # look-up ---------------------------------------------------------------------------------------------------------

    async def find_by_identity(self, identity: NewIdentity) -> str | None:
        """Returns the consumer of an identity of a cross-brand kind."""
        normalized = rules.normalize(identity, "")
        query = {"hash": {"$in": self.encryption.hash_with_all_keys(normalized.kind, normalized.hash_input)}, "stands": True}
        document: Document | None = await self.identities.collection.find_one(query, {"consumer_id": 1})
        return document["consumer_id"] if document else None

    async def list_links(self, people: Mapping[str, Sequence[str]]) -> dict[str, list[Document]]:
        """Returns the latest links of each person, regardless of the caller's scope. `people` has all consumer ids by person."""
        queries: dict[str, Document] = {
            person: {"$or": [{"consumer_id": {"$in": ids}}, {"linked_consumer_id": {"$in": ids}}]} for person, ids in people.items()
        }
        found = await self.links.unscoped.first_pages(queries, LINKS_SHOWN_MAX, order=[("linked_at", -1), ("_id", -1)])
        return {person: links for person, (links, _) in found.items()}

    async def list_identities(self, consumer_ids: Iterable[str], kind: IdentityKind | None = None) -> list[Identity]:
        """Returns the identities of these consumers, oldest first, regardless of the caller's scope."""
        ids = sorted(set(consumer_ids))
        query: dict[str, Any] = {"consumer_id": {"$in": ids}}
        if kind is not None:
            query["kind"] = kind
        cursor = self.identities.collection.find(query).sort([("created_at", 1), ("_id", 1)]).limit(len(ids) * rules.IDENTITIES_MAX)
        return [to_struct(document, Identity) async for document in cursor]


def is_self(consumer_ids: Iterable[str]) -> bool:
    """True if the caller is the person with these consumer ids; one id that the caller reaches is enough."""
    return not current_caller().reach.get(ScopeKind.CONSUMER, frozenset()).isdisjoint(consumer_ids)


def _build_replacement(document: Document) -> ReplaceOne[Document]:
    """Returns the write of a document's next version: even an unchanged document conflicts with concurrent writers."""
    return ReplaceOne({"_id": document["_id"]}, document | {"version": document["version"] + 1}, upsert=True)
