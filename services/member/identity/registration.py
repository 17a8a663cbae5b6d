"""In-memory registration of consumers: pure decisions on the people that a batch may affect."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from services.kit.errors import Conflict
from services.member.identity import rules
from services.member.identity.enums import IdentityKind, Reason
from services.member.identity.rules import Consumer, Identity, NormalizedIdentity, Profile, Registration

NewId = Callable[[str], str]
"""Creates a new id with the given prefix."""


class EncryptedIdentity(Struct, frozen=True):
    """A normalized identity with its look-up hashes (that of the current key first) and its ciphertext."""

    identity: NormalizedIdentity
    hashes: list[str]
    ciphertext: bytes


class EncryptedRegistration(Struct, frozen=True):
    """A registration with hashed and encrypted personal values."""

    registration: Registration
    identities: Sequence[EncryptedIdentity]
    display_name: bytes | None = None


class RegistrationResult(Struct, frozen=True):
    """The person and the consumer of a registration, and whether the registration created the person.

    `linked_to_id` is set if the consumer is new and was linked to that consumer by this `evidence`.
    """

    person_id: str
    consumer_id: str
    created: bool
    identity_ids: list[str]
    linked_to_id: str = ""
    evidence: list[IdentityKind] = []


class PersonRegistry:
    """The complete people, with all their identities, that a batch may affect. A refused registration changes nothing."""

    def __init__(self, consumers: Iterable[Consumer], identities: Iterable[Identity]) -> None:
        self.consumers = {consumer.id: consumer for consumer in consumers}
        self.identities = {identity.id: identity for identity in identities}
        self.initial = (dict(self.consumers), dict(self.identities))
        self.identifying = {identity.hash: identity.id for identity in self.identities.values() if identity.stands}
        """The ids of identifying identities by hash."""
        self.members: dict[str, set[str]] = {}
        """The consumer ids of each person."""
        for consumer in self.consumers.values():
            self.members.setdefault(consumer.person_id, set()).add(consumer.id)
        self.identity_ids: dict[str, dict[str, str]] = {}
        """The identity ids of each consumer by hash."""
        for identity in self.identities.values():
            self.identity_ids.setdefault(identity.consumer_id, {})[identity.hash] = identity.id

    def register(
        self, entry: EncryptedRegistration, brand_id: str, at: datetime, *, is_unrestricted: bool, new_id: NewId, keeps_id: bool = False
    ) -> RegistrationResult:
        """Finds or creates the consumer of a registration for a brand.

        `is_unrestricted`: the caller may name consumers that the brand does not know, and refusals may name them. `keeps_id`: the consumer
        id of the registration is kept. If its identities find another consumer, the kept id is linked to that one. Orders and bindings
        of the brand that use the id then stay valid.
        """
        registration, named_id = entry.registration, entry.registration.consumer_id
        owner_ids = [self.identities[id].consumer_id for one in entry.identities if (id := self._find_identifying(one))]
        person_ids = {id: self.consumers[id].person_id for id in (*owner_ids, named_id) if id in self.consumers}
        target = rules.find_owner(named_id, owner_ids, person_ids, is_unrestricted=is_unrestricted)
        if target is not None and not owner_ids and not is_unrestricted and brand_id not in self.consumers[target].known_to:
            raise Conflict(Reason.CONSUMER_ID_TAKEN, "`consumerId` is in use. Choose another id, or leave it out.")
        id = named_id if keeps_id and named_id else target or named_id or new_id("con")
        linked_to = target if target is not None and id not in self.consumers else None
        if linked_to and len(self.members[person_ids[linked_to]]) >= rules.LINKED_MAX:
            raise rules.too_many_linked()
        evidence = list(dict.fromkeys(one.identity.kind for one in entry.identities if self._find_identifying(one))) if linked_to else []
        identities = self._merge_identities(id, entry.identities, brand_id, registration.created_at or at, new_id)
        person_id = person_ids[linked_to] if linked_to else id
        consumer = self.consumers.get(id) or Consumer(id, person_id, registration.created_at or at, linked_to)
        profiles = consumer.profiles
        if entry.display_name or registration.sizes or registration.preferences:
            profile = Profile(brand_id, entry.display_name, registration.sizes, registration.preferences)
            profiles = rules.merge_profile(profiles, profile)
        self._put(replace(consumer, profiles=profiles, brand_ids=_add(consumer.brand_ids, brand_id)), identities)
        identity_ids = [identity.id for identity in identities]
        return RegistrationResult(self.consumers[id].person_id, id, target is None, identity_ids, linked_to or "", evidence)

    def find_known(self, identities: Sequence[EncryptedIdentity], brand_id: str) -> Consumer | None:
        """Returns the consumer known to the brand to which one of these identities belongs.

        Raises `Conflict` (IDENTITIES_DISAGREE) if they find different people.
        """
        owners = [self.consumers[self.identities[id].consumer_id] for one in identities if (id := self._find_identifying(one))]
        person_ids = {owner.id: owner.person_id for owner in owners if brand_id in owner.known_to}
        found = rules.find_owner("", person_ids, person_ids, is_unrestricted=False)
        return self.consumers[found] if found else None

    def add_identity(self, consumer_id: str, new: EncryptedIdentity, brand_id: str, at: datetime, new_id: NewId) -> tuple[str, bool]:
        """Adds an identity to a consumer; returns its id and whether it is new.

        Raises `Conflict` (IDENTITY_TAKEN) if the identity belongs to another person.
        """
        consumer = self.consumers[consumer_id]
        if id := self._find_identifying(new):
            owner = self.consumers[self.identities[id].consumer_id]
            if owner.person_id != consumer.person_id:
                message = "This identity belongs to another person. Link the two people if they are one."
                raise Conflict(Reason.IDENTITY_TAKEN, message)
        (identity,) = self._merge_identities(consumer_id, [new], brand_id, at, new_id)
        created = identity.id not in self.identities
        self._put(replace(consumer, brand_ids=_add(consumer.brand_ids, brand_id)), [identity])
        return identity.id, created

    def list_changes(self) -> tuple[list[Consumer], list[Identity]]:
        """Returns the consumers and identities that are new or differ from the initial ones."""
        consumers, identities = self.initial
        changed = [consumer for id, consumer in self.consumers.items() if consumer != consumers.get(id)]
        return changed, [identity for id, identity in self.identities.items() if identity != identities.get(id)]

    def _merge_identities(
        self, consumer_id: str, supplied: Sequence[EncryptedIdentity], brand_id: str, at: datetime, new_id: NewId
    ) -> list[Identity]:
        """Returns the identities after a brand supplied these for a consumer; existing ones of the person gain the brand."""
        merged: dict[str, Identity] = {}
        own_ids = self.identity_ids.get(consumer_id, {})
        for one in supplied:
            existing_id = self._find_identifying(one) or next((own_ids.get(hash) for hash in one.hashes), None)
            earlier = merged.get(one.hashes[0]) or (self.identities[existing_id] if existing_id else None)
            new = one.identity
            if earlier is None:
                earlier = Identity(
                    id=new_id("idn"), consumer_id=consumer_id, kind=new.kind, namespace=new.namespace, hash=one.hashes[0],
                    value=one.ciphertext, verified=new.verified, stands=new.is_identifying, brand_ids=[], created_at=at,
                )  # fmt: skip
            merged[one.hashes[0]] = replace(
                earlier,
                brand_ids=_add(earlier.brand_ids, brand_id),
                verified=earlier.verified or new.verified,
                stands=earlier.stands or new.is_identifying,
            )
        created = [identity for identity in merged.values() if identity.id not in self.identities]
        if len(own_ids) + len(created) > rules.IDENTITIES_MAX:
            message = f"A consumer has at most {rules.IDENTITIES_MAX} identities. Use one of the existing identities."
            raise Conflict(Reason.TOO_MANY_IDENTITIES, message)
        return list(merged.values())

    def _find_identifying(self, supplied: EncryptedIdentity) -> str | None:
        """Returns the id of the equal identifying identity, hashed with any key; None if `supplied` is not identifying."""
        if not supplied.identity.is_identifying:
            return None
        return next((self.identifying[hash] for hash in supplied.hashes if hash in self.identifying), None)

    def _put(self, consumer: Consumer, identities: Sequence[Identity]) -> None:
        for identity in identities:
            self.identities[identity.id] = identity
            self.identity_ids.setdefault(identity.consumer_id, {})[identity.hash] = identity.id
            if identity.stands:
                self.identifying[identity.hash] = identity.id
        self.consumers[consumer.id] = consumer
        members = self.members.setdefault(consumer.person_id, set())
        members.add(consumer.id)
        self.consumers |= {one.id: one for one in rules.derive_shared_fields([self.consumers[id] for id in members])}


def _add(ids: Sequence[str], id: str) -> list[str]:
    """Returns the ids with `id` once."""
    return [*ids] if id in ids else [*ids, id]
