"""Who is who: identities stand for consumers, and links make several consumers one person without mixing what belongs to each.

Links form a forest: a consumer is linked to at most one other, a person is a tree, the root stands for it. Undoing a link cuts one edge,
so that everything is as it was. What a person's rows share (`known_to`, `served`) is derived anew from what each row owns.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

from services.kit import ids
from services.kit.errors import Conflict, Denied, Invalid, NotFound, under
from services.kit.values.event import Event
from services.kit.values.phones import e164
from services.kit.values.validation import WRITTEN
from services.member.identity.enums import IdentityKind, Reason

IDENTITIES_MAX = 50
LINKED_MAX = 50


ACROSS_BRANDS = frozenset({IdentityKind.PHONE, IdentityKind.UNION_ID, IdentityKind.OIDC_SUBJECT})
"""What means the same person whoever says it; the other kinds mean it only to the brand that supplied them."""
NEEDS_NAMESPACE = frozenset({IdentityKind.OPEN_ID, IdentityKind.UNION_ID, IdentityKind.OIDC_SUBJECT})

Name = Annotated[str, Meta(max_length=100, pattern=WRITTEN)]
Short = Annotated[str, Meta(max_length=100)]
BrandId = Annotated[str, Meta(pattern=ids.shape("(brd|rtl)"))]
ConsumerId = Annotated[str, Meta(pattern=ids.shape("con", length_max=96, further=".", empty=True))]
Trait = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,100}\Z")]
Traits = Annotated[dict[Trait, Short], Meta(max_length=50)]


class NewIdentity(Struct, frozen=True):
    """An identity as it was given."""

    kind: IdentityKind
    value: Annotated[str, Meta(min_length=1, max_length=200)]
    namespace: Short = ""
    verified: bool = False


class NewConsent(Struct, frozen=True):
    """As much of a consent that comes with a consumer as matters here: whose it is, and that it is one."""

    brand_id: BrandId
    purpose: str


class Registration(Struct, frozen=True):
    """A consumer to register or to find."""

    identities: Annotated[list[NewIdentity], Meta(max_length=20)] = []
    consumer_id: ConsumerId = ""
    display_name: Name = ""
    sizes: Traits = {}
    preferences: Traits = {}
    consents: Annotated[list[NewConsent], Meta(max_length=300)] = []
    created_at: datetime | None = None


class Claim(Struct, frozen=True):
    """An identity in its one usual writing. `hashed` is what is hashed; one that `stands` is held by one consumer only."""

    kind: IdentityKind
    namespace: str
    value: str
    hashed: str
    verified: bool
    stands: bool


class Identity(Struct, frozen=True):
    """A recorded identity; `value` is ciphertext."""

    id: str
    consumer_id: str
    kind: IdentityKind
    namespace: str
    hash: str
    value: bytes
    verified: bool
    stands: bool
    brand_ids: list[str]
    created_at: datetime
    version: int = 1


class Profile(Struct, frozen=True):
    """What one brand knows of a consumer; the name is ciphertext."""

    brand_id: str
    display_name: bytes | None = None
    sizes: dict[str, str] = {}
    preferences: dict[str, str] = {}


class Served(Struct, frozen=True):
    """Who looks after a consumer for a brand."""

    brand_id: str
    staff_id: str
    store_id: str


class Consumer(Struct, frozen=True):
    """A consumer's row: what it owns, and what all rows of one person share."""

    id: str
    person_id: str
    created_at: datetime
    linked_to_id: str | None = None
    brand_ids: list[str] = []
    """Brands that supplied an identity or registered the consumer."""
    met_ids: list[str] = []
    """Brands the consumer had an interaction with under this id."""
    bound: list[Served] = []
    """Who looks after the consumer under this id."""
    profiles: list[Profile] = []
    known_to: list[str] = []
    """Shared by the person's rows: the union of `brand_ids` and `met_ids`."""
    served: list[Served] = []
    """Shared by the person's rows: the union of `bound`."""
    version: int = 1


class Link(Struct, frozen=True):
    """That two consumers are one person, by which evidence, and whether it was undone."""

    id: str
    consumer_id: str
    linked_consumer_id: str
    evidence: Annotated[list[IdentityKind], Meta(min_length=1, max_length=10)]
    linked_at: datetime
    linked_by: str
    note: Annotated[str, Meta(max_length=200)] = ""
    undone_at: datetime | None = None
    undone_by: str | None = None
    version: int = 1


class ConsumerLinked(Event, frozen=True):
    kind = "consumer_linked"
    consumer_id: str
    linked_consumer_id: str


class ConsumerUnlinked(Event, frozen=True):
    kind = "consumer_unlinked"
    consumer_id: str
    linked_consumer_id: str


# identities ----------------------------------------------------------------------------------------------------------


def claim(given: NewIdentity, brand_id: str) -> Claim:
    """What `given` by a brand claims; `Invalid` for a phone that cannot exist or a namespace that is missing."""
    namespace, value = given.namespace.strip(), given.value.strip()
    if given.kind is IdentityKind.PHONE:
        with under("value"):
            namespace, value = "", e164(value)
    elif not value or (given.kind in NEEDS_NAMESPACE and not namespace):
        raise Invalid(Reason.INVALID_FIELD, "give a value, and the namespace it is unique in", field="namespace" if value else "value")
    owner = "" if given.kind in ACROSS_BRANDS else brand_id
    stands = given.verified or given.kind is not IdentityKind.PHONE
    return Claim(given.kind, namespace, value, f"{owner}\0{namespace}\0{value}", given.verified, stands)


def unproved(claim: Claim) -> Claim:
    """The claim as a store makes it, who proves nothing: what would mean a person to every brand means nobody yet."""
    return replace(claim, verified=False, stands=False) if claim.kind in ACROSS_BRANDS else claim


def may_give(kind: IdentityKind, *, everywhere: bool) -> None:
    """`Denied` for what signs people in, unless the installation states it: whoever gives it could be anybody they know."""
    if kind is IdentityKind.OIDC_SUBJECT and not everywhere:
        raise Denied(Reason.SUBJECT_NOT_YOURS, "whom a sign-in stands for is stated by the installation, not by a brand")


def whole(kind: IdentityKind, value: str) -> str:
    """A value as its owner writes it: Chinese phones without the country code."""
    return value.removeprefix("+86") if kind is IdentityKind.PHONE else value


def masked(kind: IdentityKind, value: str) -> str:
    """A value that others recognise but cannot use: 138****1234."""
    value = whole(kind, value)
    if kind is IdentityKind.PHONE and len(value) >= 10:
        return f"{value[:3]}****{value[-4:]}"
    return f"****{value[-4:]}" if len(value) >= 8 else "****"


def holder(consumer_id: str, held_by: Iterable[str], person_of: Mapping[str, str], *, everywhere: bool) -> str | None:
    """The consumer to whom a registration belongs: the first of those its identities stand for and of the one it names.

    None when it is somebody new. `Conflict` when they are different people; who they are is told to a caller who reaches `everywhere`
    only, since some may be other brands' consumers. `person_of` has every known consumer.
    """
    found = [*held_by, *([consumer_id] if consumer_id in person_of else [])]
    if len({person_of[id] for id in found}) > 1:
        who: dict[str, Any] = {"consumer_ids": sorted(found)} if everywhere else {}
        raise Conflict(Reason.IDENTITIES_DISAGREE, "these identities stand for different people; link them first", **who)
    return found[0] if found else None


def merged(profiles: Sequence[Profile], new: Profile) -> list[Profile]:
    """The profiles with what a brand says now: given values replace earlier ones of the same brand, others stay."""
    old = next((profile for profile in profiles if profile.brand_id == new.brand_id), Profile(new.brand_id))
    newest = Profile(
        new.brand_id, new.display_name or old.display_name, old.sizes | new.sizes, old.preferences | new.preferences
    )  # fmt: skip
    return [*(profile for profile in profiles if profile.brand_id != new.brand_id), newest]


# people --------------------------------------------------------------------------------------------------------------

Parents = Mapping[str, str | None]
"""Consumer id -> the consumer it is linked to; None: it stands for itself."""


def person_of(parents: Parents, id: str) -> str:
    """The consumer that stands for the person `id` belongs to."""
    while (parent := parents[id]) is not None:
        id = parent
    return id


def link(parents: Parents, id: str, linked_id: str) -> dict[str, str | None]:
    """`linked_id` and all below it belong to the person of `id` from now on. `parents` holds both people whole."""
    person = person_of(parents, id)
    if person_of(parents, linked_id) == person:
        raise Conflict(Reason.SAME_PERSON, "these consumers are one person already")
    if (parent := parents[linked_id]) is not None:
        raise Conflict(Reason.ALREADY_LINKED, "this consumer is linked to another one; link that one, or undo it first", consumer_id=parent)
    if len(parents) > LINKED_MAX:
        raise too_many_linked()
    return {**parents, linked_id: id}


def too_many_linked() -> Conflict:
    """A person is as many consumers as may be."""
    return Conflict(Reason.TOO_MANY_LINKED, f"one person consists of at most {LINKED_MAX} consumers")


def unlink(parents: Parents, id: str, linked_id: str) -> dict[str, str | None]:
    """`linked_id` stands for itself again, with all below it."""
    if parents.get(linked_id) != id:
        raise Conflict(Reason.NOT_LINKED, "these consumers are not linked to one another")
    return {**parents, linked_id: None}


def decides(rows: Iterable[Consumer], reaches: Callable[[str], bool]) -> bool:
    """Whether every brand that registered one of these consumers lies within the caller's scope."""
    return all(reaches(brand_id) for row in rows for brand_id in row.brand_ids)


def may_link(rows: Iterable[Consumer], reaches: Callable[[str], bool]) -> None:
    """`Denied` unless the caller decides on all of these consumers."""
    if not decides(rows, reaches):
        raise Denied(Reason.LINK_NOT_YOURS, "another brand registered one of them; the installation's operator decides")


def arranged(rows: Sequence[Consumer], parents: Parents | None = None) -> list[Consumer]:
    """The rows of whole people after `parents` changed (or after a row did): person and shared fields as they follow from each row."""
    parents = {row.id: row.linked_to_id for row in rows} if parents is None else parents
    people = {row.id: person_of(parents, row.id) for row in rows}
    members = {person: [row for row in rows if people[row.id] == person] for person in set(people.values())}
    known = {person: sorted({id for row in all_rows for id in (*row.brand_ids, *row.met_ids)}) for person, all_rows in members.items()}
    served = {person: [one for row in all_rows for one in row.bound] for person, all_rows in members.items()}
    return [
        replace(row, linked_to_id=parents[row.id], person_id=people[row.id], known_to=known[people[row.id]], served=served[people[row.id]])
        for row in rows
    ]


def served_by(row: Consumer, brand_id: str, served: Sequence[Served]) -> Consumer:
    """The row once these look after the consumer for a brand."""
    return replace(row, bound=[*(one for one in row.bound if one.brand_id != brand_id), *served])


def ids_of(person_id: str, rows: Iterable[Consumer]) -> list[str]:
    """All consumer ids of a person, the one that stands for it first."""
    return [person_id, *sorted(row.id for row in rows if row.person_id == person_id and row.id != person_id)]


# what a caller sees --------------------------------------------------------------------------------------------------


class Viewer(Struct, frozen=True):
    """Who looks at a person: everybody's brands (`brands` None), or those of some brands. The person sees values whole."""

    brands: frozenset[str] | None = None
    self_: bool = False

    def sees(self, brand_ids: Iterable[str]) -> bool:
        """Whether something that these brands supplied may be seen."""
        return self.brands is None or not self.brands.isdisjoint(brand_ids)


def viewer(rows: Sequence[Consumer], *, everywhere: bool, consumers: Iterable[str], brands: Iterable[str], stores: Iterable[str],
           staff: Iterable[str]) -> Viewer:  # fmt: skip
    """How somebody who reaches these consumers, brands, stores and staff sees the person of `rows`.

    Staff see what the brand knows for which they, or their store, look after the person.
    """
    if not {row.id for row in rows}.isdisjoint(consumers):
        return Viewer(self_=True)
    if everywhere:
        return Viewer()
    stores, staff = frozenset(stores), frozenset(staff)
    bound = (one for row in rows for one in row.bound)
    return Viewer(frozenset(brands) | {one.brand_id for one in bound if one.store_id in stores or one.staff_id in staff})


def seen_profile(rows: Sequence[Consumer], viewer: Viewer, first: str) -> Profile:
    """What `viewer` may know of the person: profiles of the brands they may see, later ones over earlier, those of row `first` over all."""
    seen = Profile("")
    for row in sorted(rows, key=lambda row: (row.id == first, row.created_at, row.id)):
        for profile in row.profiles:
            if viewer.sees([profile.brand_id]):
                name = profile.display_name or seen.display_name
                seen = Profile("", name, seen.sizes | profile.sizes, seen.preferences | profile.preferences)
    return seen


def missing(consumer_id: str) -> NotFound:
    """There is no such consumer for this caller."""
    return NotFound(Reason.CONSUMER_NOT_FOUND, "there is no such consumer for you", consumer_id=consumer_id)
