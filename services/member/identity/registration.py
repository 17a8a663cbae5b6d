"""Registering people, in memory and pure: what an entry changes depends on who holds its identities already."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from services.kit.errors import Conflict
from services.member.identity import rules
from services.member.identity.enums import IdentityKind, Reason
from services.member.identity.rules import Claim, Consumer, Identity, Profile, Registration

NewId = Callable[[str], str]
"""A fresh id of a prefix."""


class Given(Struct, frozen=True):
    """A claim with its look-up hashes (the current key's first) and its ciphertext."""

    claim: Claim
    hashes: list[str]
    value: bytes


class Entry(Struct, frozen=True):
    """A registration whose personal values are hashed and encrypted."""

    registration: Registration
    given: Sequence[Given]
    name: bytes | None = None


class Entered(Struct, frozen=True):
    """Where an entry went: the consumer that stands for the person, the row that took it, and whether that is somebody new.

    `linked_to_id`: the row is new, and linked to this one of somebody who was there, by what `evidence` is.
    """

    person_id: str
    consumer_id: str
    created: bool
    identity_ids: list[str]
    linked_to_id: str = ""
    evidence: list[IdentityKind] = []


class Book:
    """The people that entries may touch: rows of whole people, and all their identities. What is refused changes nothing."""

    def __init__(self, consumers: Iterable[Consumer], identities: Iterable[Identity]) -> None:
        self.consumers = {consumer.id: consumer for consumer in consumers}
        self.identities = {identity.id: identity for identity in identities}
        self.before = (dict(self.consumers), dict(self.identities))
        self.standing = {identity.hash: identity.id for identity in self.identities.values() if identity.stands}
        self.members: dict[str, set[str]] = {}
        for consumer in self.consumers.values():
            self.members.setdefault(consumer.person_id, set()).add(consumer.id)
        self.held: dict[str, dict[str, str]] = {}
        for identity in self.identities.values():
            self.held.setdefault(identity.consumer_id, {})[identity.hash] = identity.id

    def enter(self, entry: Entry, brand_id: str, at: datetime, *, everywhere: bool, new_id: NewId, linking: bool = False) -> Entered:
        """Registers or finds the person of an entry for a brand. `everywhere`: the caller may name consumers the brand does not know, and
        hear of them.

        `linking`: an id of the entry's own is kept. If its identities find somebody else, it is linked to them: what else the brand has
        under that id, orders and bindings, would mean nobody otherwise.
        """
        row, named = entry.registration, entry.registration.consumer_id
        held_by = [self.identities[id].consumer_id for given in entry.given if (id := self._standing(given))]
        people = {id: self.consumers[id].person_id for id in (*held_by, named) if id in self.consumers}
        target = rules.holder(named, held_by, people, everywhere=everywhere)
        if target is not None and not held_by and not everywhere and brand_id not in self.consumers[target].known_to:
            raise Conflict(Reason.CONSUMER_ID_TAKEN, "this consumer id is in use")
        id = named if linking and named else target or named or new_id("con")
        linked_to = target if target is not None and id not in self.consumers else None
        if linked_to and len(self.members[people[linked_to]]) >= rules.LINKED_MAX:
            raise rules.too_many_linked()
        evidence = list(dict.fromkeys(given.claim.kind for given in entry.given if self._standing(given))) if linked_to else []
        identities = self._identities(id, entry.given, brand_id, row.created_at or at, new_id)
        person_id = people[linked_to] if linked_to else id
        consumer = self.consumers.get(id) or Consumer(id, person_id, row.created_at or at, linked_to)
        profiles = consumer.profiles
        if entry.name or row.sizes or row.preferences:
            profiles = rules.merged(profiles, Profile(brand_id, entry.name, row.sizes, row.preferences))
        self._put(replace(consumer, profiles=profiles, brand_ids=_with(consumer.brand_ids, brand_id)), identities)
        identity_ids = [identity.id for identity in identities]
        return Entered(self.consumers[id].person_id, id, target is None, identity_ids, linked_to or "", evidence)

    def known(self, sought: Sequence[Given], brand_id: str) -> Consumer | None:
        """The consumer for whom one of these stands, of those the brand knows. IDENTITIES_DISAGREE when they are different people."""
        holders = [self.consumers[self.identities[id].consumer_id] for given in sought if (id := self._standing(given))]
        of_brand = {one.id: one.person_id for one in holders if brand_id in one.known_to}
        found = rules.holder("", of_brand, of_brand, everywhere=False)
        return self.consumers[found] if found else None

    def add(self, consumer_id: str, given: Given, brand_id: str, at: datetime, new_id: NewId) -> tuple[str, bool]:
        """Adds an identity to a consumer; its id and whether it is new. IDENTITY_TAKEN when it stands for another person."""
        consumer = self.consumers[consumer_id]
        if id := self._standing(given):
            holder = self.consumers[self.identities[id].consumer_id]
            if holder.person_id != consumer.person_id:
                raise Conflict(Reason.IDENTITY_TAKEN, "this identity stands for another person; link them if they are one")
        (identity,) = self._identities(consumer_id, [given], brand_id, at, new_id)
        created = identity.id not in self.identities
        self._put(replace(consumer, brand_ids=_with(consumer.brand_ids, brand_id)), [identity])
        return identity.id, created

    def changed(self) -> tuple[list[Consumer], list[Identity]]:
        """The rows that are new or differ from what the book began with, people arranged."""
        consumers, identities = self.before
        rows = [row for id, row in self.consumers.items() if row != consumers.get(id)]
        return rows, [row for id, row in self.identities.items() if row != identities.get(id)]

    def _identities(self, id: str, all_given: Sequence[Given], brand_id: str, at: datetime, new_id: NewId) -> list[Identity]:
        """The identities as they stand after these were given for consumer `id`; those it or its person holds gain the brand."""
        after: dict[str, Identity] = {}
        for given in all_given:
            held = self._standing(given) or next((self.held.get(id, {}).get(hash) for hash in given.hashes), None)
            earlier = after.get(given.hashes[0]) or (self.identities[held] if held else None)
            claim = given.claim
            if earlier is None:
                earlier = Identity(
                    new_id("idn"), id, claim.kind, claim.namespace, given.hashes[0], given.value, claim.verified, claim.stands, [], at
                )  # fmt: skip
            after[given.hashes[0]] = replace(
                earlier,
                brand_ids=_with(earlier.brand_ids, brand_id),
                verified=earlier.verified or claim.verified,
                stands=earlier.stands or claim.stands,
            )
        new = [identity for identity in after.values() if identity.id not in self.identities]
        if len(self.held.get(id, {})) + len(new) > rules.IDENTITIES_MAX:
            raise Conflict(Reason.TOO_MANY_IDENTITIES, f"a consumer has at most {rules.IDENTITIES_MAX} identities")
        return list(after.values())

    def _standing(self, given: Given) -> str | None:
        """The identity that means the same as a claim that stands, under any key; what does not stand means nobody."""
        if not given.claim.stands:
            return None
        return next((self.standing[hash] for hash in given.hashes if hash in self.standing), None)

    def _put(self, consumer: Consumer, identities: Sequence[Identity]) -> None:
        for identity in identities:
            self.identities[identity.id] = identity
            self.held.setdefault(identity.consumer_id, {})[identity.hash] = identity.id
            if identity.stands:
                self.standing[identity.hash] = identity.id
        self.consumers[consumer.id] = consumer
        members = self.members.setdefault(consumer.person_id, set())
        members.add(consumer.id)
        self.consumers |= {row.id: row for row in rules.arranged([self.consumers[id] for id in members])}


def _with(ids: Sequence[str], id: str) -> list[str]:
    return [*ids] if id in ids else [*ids, id]
