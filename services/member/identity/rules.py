"""Rules of consumer identity: identities belong to consumers, and links join several consumers into one person.

Links form a forest: a consumer is linked to at most one other, a person is a tree, and the root is the person's id. Undoing a link cuts
one edge and restores the state before. The fields that all documents of a person share (`known_to`, `served`) are derived from each.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

from services.kit import ids
from services.kit.errors import Conflict, Denied, Invalid, NotFound, field_prefix
from services.kit.values.event import Event
from services.kit.values.phones import to_e164
from services.kit.values.validation import VISIBLE_LINE_PATTERN
from services.member.identity.enums import IdentityKind, Reason

IDENTITIES_MAX = 50
"""A consumer has at most this many identities."""
LINKED_MAX = 50
"""A person consists of at most this many linked consumers."""
CROSS_BRAND_KINDS = frozenset({IdentityKind.PHONE, IdentityKind.UNION_ID, IdentityKind.OIDC_SUBJECT})
"""Identities of these kinds mean the same person to every brand; all other kinds are private to the brand that supplied them."""
NAMESPACED_KINDS = frozenset({IdentityKind.OPEN_ID, IdentityKind.UNION_ID, IdentityKind.OIDC_SUBJECT})
"""Identities of these kinds are unique only within a namespace, such as an app or an issuer."""

Name = Annotated[str, Meta(max_length=100, pattern=VISIBLE_LINE_PATTERN)]
Short = Annotated[str, Meta(max_length=100)]
BrandId = Annotated[str, Meta(pattern=ids.pattern("(brd|rtl)"))]
ConsumerId = Annotated[str, Meta(pattern=ids.pattern("con", length_max=96, extra=".", optional=True))]
Trait = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,100}\Z")]
Traits = Annotated[dict[Trait, Short], Meta(max_length=50)]


class NewIdentity(Struct, frozen=True):
    """An identity as a request contains it."""

    kind: IdentityKind
    value: Annotated[str, Meta(min_length=1, max_length=200)]
    namespace: Short = ""
    verified: bool = False


class NewConsent(Struct, frozen=True):
    """The part of an imported consent that identity checks: its brand and its purpose."""

    brand_id: BrandId
    purpose: str


class Registration(Struct, frozen=True):
    """A consumer to find or to create."""

    identities: Annotated[list[NewIdentity], Meta(max_length=20)] = []
    consumer_id: ConsumerId = ""
    display_name: Name = ""
    sizes: Traits = {}
    preferences: Traits = {}
    consents: Annotated[list[NewConsent], Meta(max_length=300)] = []
    created_at: datetime | None = None


class NormalizedIdentity(Struct, frozen=True):
    """An identity in canonical form."""

    kind: IdentityKind
    namespace: str
    value: str
    hash_input: str
    """The look-up hash is computed from this text; it contains the brand for kinds that are private to a brand."""
    verified: bool
    is_identifying: bool
    """True if the identity belongs to one consumer only and finds that consumer; false for an unverified phone number."""


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
    """True if the identity is identifying: a unique index allows one such identity for each hash."""
    brand_ids: list[str]
    created_at: datetime
    version: int = 1


class Profile(Struct, frozen=True):
    """The name, sizes and preferences that one brand supplied for a consumer; the name is ciphertext."""

    brand_id: str
    display_name: bytes | None = None
    sizes: dict[str, str] = {}
    preferences: dict[str, str] = {}


class BoundGuide(Struct, frozen=True):
    """A guide, with the guide's store, that a brand bound a consumer to."""

    brand_id: str
    staff_id: str
    store_id: str


class Consumer(Struct, frozen=True):
    """A consumer: fields of its own, and fields that all consumers of one person share."""

    id: str
    person_id: str
    created_at: datetime
    linked_to_id: str | None = None
    brand_ids: list[str] = []
    """The brands that registered the consumer or supplied an identity."""
    met_ids: list[str] = []
    """The brands with which the consumer had an interaction under this id."""
    bound: list[BoundGuide] = []
    """The guides that the consumer is bound to under this id."""
    profiles: list[Profile] = []
    known_to: list[str] = []
    """The brands that know the person: the union of `brand_ids` and `met_ids` over all consumers of the person."""
    served: list[BoundGuide] = []
    """The guides of the person: the union of `bound` over all consumers of the person."""
    version: int = 1


class Link(Struct, frozen=True):
    """The statement that two consumers are one person, with its evidence; an undone link stays on record."""

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


def normalize(identity: NewIdentity, brand_id: str) -> NormalizedIdentity:
    """Returns the canonical form of an identity that a brand supplied.

    Raises `Invalid` for an impossible phone number, an empty value or a missing namespace.
    """
    namespace, value = identity.namespace.strip(), identity.value.strip()
    if identity.kind is IdentityKind.PHONE:
        with field_prefix("value"):
            namespace, value = "", to_e164(value)
    elif not value:
        raise Invalid(Reason.INVALID_FIELD, "`value` must not be blank. Give the identifier itself.", field="value")
    elif identity.kind in NAMESPACED_KINDS and not namespace:
        message = "`namespace` is missing. Give the app or issuer in which the value is unique."
        raise Invalid(Reason.INVALID_FIELD, message, field="namespace")
    owner = "" if identity.kind in CROSS_BRAND_KINDS else brand_id
    is_identifying = identity.verified or identity.kind is not IdentityKind.PHONE
    return NormalizedIdentity(identity.kind, namespace, value, f"{owner}\0{namespace}\0{value}", identity.verified, is_identifying)


def remove_proof(identity: NormalizedIdentity) -> NormalizedIdentity:
    """Returns the identity as a store may record it: stores verify nothing, so cross-brand kinds identify no person yet."""
    return replace(identity, verified=False, is_identifying=False) if identity.kind in CROSS_BRAND_KINDS else identity


def check_kind(kind: IdentityKind, *, is_unrestricted: bool) -> None:
    """Raises `Denied` for a sign-in subject unless the caller is unrestricted: a brand could sign in as any consumer it knows."""
    if kind is IdentityKind.OIDC_SUBJECT and not is_unrestricted:
        message = "Only the installation's operator may add sign-in subjects. Ask the operator."
        raise Denied(Reason.SUBJECT_NOT_YOURS, message)


def format_value(kind: IdentityKind, value: str) -> str:
    """Returns an identity's value as its owner writes it: Chinese phone numbers without the country code."""
    return value.removeprefix("+86") if kind is IdentityKind.PHONE else value


def mask(kind: IdentityKind, value: str) -> str:
    """Returns a value that others recognise but cannot use: 138****1234."""
    value = format_value(kind, value)
    if kind is IdentityKind.PHONE and len(value) >= 10:
        return f"{value[:3]}****{value[-4:]}"
    return f"****{value[-4:]}" if len(value) >= 8 else "****"


def find_owner(consumer_id: str, owner_ids: Iterable[str], person_ids: Mapping[str, str], *, is_unrestricted: bool) -> str | None:
    """Returns the consumer of a registration: the first owner of its identities, else the consumer it names.

    Returns None if the registration is of a new consumer. `person_ids` maps every existing consumer to its person. Raises `Conflict` if
    they are different people. The refusal names them to an unrestricted caller only, since some may be other brands' consumers.
    """
    found = [*owner_ids, *([consumer_id] if consumer_id in person_ids else [])]
    if len({person_ids[id] for id in found}) > 1:
        details: dict[str, Any] = {"consumer_ids": sorted(found)} if is_unrestricted else {}
        message = "These identities belong to different people. Link these people first if they are one."
        raise Conflict(Reason.IDENTITIES_DISAGREE, message, **details)
    return found[0] if found else None


def merge_profile(profiles: Sequence[Profile], new: Profile) -> list[Profile]:
    """Returns the profiles after a brand supplied `new`: its values replace the brand's earlier ones, other values stay."""
    old = next((profile for profile in profiles if profile.brand_id == new.brand_id), Profile(new.brand_id))
    merged = Profile(
        new.brand_id, new.display_name or old.display_name, old.sizes | new.sizes, old.preferences | new.preferences
    )  # fmt: skip
    return [*(profile for profile in profiles if profile.brand_id != new.brand_id), merged]


# people --------------------------------------------------------------------------------------------------------------

Parents = Mapping[str, str | None]
"""Each consumer id mapped to the consumer it is linked to; None marks a root."""


def find_person(parents: Parents, id: str) -> str:
    """Returns the id of a consumer's person: the root of its tree."""
    while (parent := parents[id]) is not None:
        id = parent
    return id


def link(parents: Parents, id: str, linked_id: str) -> dict[str, str | None]:
    """Returns the forest after `linked_id`, with all consumers below it, joined the person of `id`.

    `parents` contains both people completely. Raises `Conflict` if they are one person or `linked_id` is linked, or for too many consumers.
    """
    person = find_person(parents, id)
    if find_person(parents, linked_id) == person:
        raise Conflict(Reason.SAME_PERSON, "These consumers are one person already. No further link is needed.")
    if (parent := parents[linked_id]) is not None:
        message = "`linkedConsumerId` is linked to another consumer. Link that consumer, or undo its link first."
        raise Conflict(Reason.ALREADY_LINKED, message, consumer_id=parent)
    if len(parents) > LINKED_MAX:
        raise too_many_linked()
    return {**parents, linked_id: id}


def too_many_linked() -> Conflict:
    """Returns the refusal of a link that would exceed LINKED_MAX."""
    message = f"A person consists of at most {LINKED_MAX} consumers. Undo a link that is not needed."
    return Conflict(Reason.TOO_MANY_LINKED, message)


def unlink(parents: Parents, id: str, linked_id: str) -> dict[str, str | None]:
    """Returns the forest after `linked_id`, with all consumers below it, became a person again. Raises `Conflict` without such a link."""
    if parents.get(linked_id) != id:
        message = "`linkedConsumerId` is not linked to `consumerId`. Look up the person's links."
        raise Conflict(Reason.NOT_LINKED, message)
    return {**parents, linked_id: None}


def can_decide_links(consumers: Iterable[Consumer], can_reach_brand: Callable[[str], bool]) -> bool:
    """True if every brand that registered one of these consumers is within the caller's scope."""
    return all(can_reach_brand(brand_id) for consumer in consumers for brand_id in consumer.brand_ids)


def check_link_authority(consumers: Iterable[Consumer], can_reach_brand: Callable[[str], bool]) -> None:
    """Raises `Denied` unless the caller may decide on links of these consumers."""
    if not can_decide_links(consumers, can_reach_brand):
        message = "Another brand registered one of these consumers. Ask the installation's operator to link or unlink them."
        raise Denied(Reason.LINK_NOT_YOURS, message)


def derive_shared_fields(consumers: Sequence[Consumer], parents: Parents | None = None) -> list[Consumer]:
    """Returns the consumers of complete people with person and shared fields derived again, after links or a consumer changed."""
    parents = {consumer.id: consumer.linked_to_id for consumer in consumers} if parents is None else parents
    people = {consumer.id: find_person(parents, consumer.id) for consumer in consumers}
    members: dict[str, list[Consumer]] = {}
    for consumer in consumers:
        members.setdefault(people[consumer.id], []).append(consumer)
    known_to = {person: sorted({id for one in group for id in (*one.brand_ids, *one.met_ids)}) for person, group in members.items()}
    served = {person: [guide for one in group for guide in one.bound] for person, group in members.items()}
    return [
        replace(one, linked_to_id=parents[one.id], person_id=person, known_to=known_to[person], served=served[person])
        for one, person in ((consumer, people[consumer.id]) for consumer in consumers)
    ]


def replace_guides(consumer: Consumer, brand_id: str, guides: Sequence[BoundGuide]) -> Consumer:
    """Returns the consumer with `guides` as the only guides of a brand."""
    return replace(consumer, bound=[*(guide for guide in consumer.bound if guide.brand_id != brand_id), *guides])


def list_consumer_ids(person_id: str, consumers: Iterable[Consumer]) -> list[str]:
    """Returns all consumer ids of a person, the person's own id first."""
    return [person_id, *sorted(one.id for one in consumers if one.person_id == person_id and one.id != person_id)]


# visibility ----------------------------------------------------------------------------------------------------------


class Viewer(Struct, frozen=True):
    """The view of a person: data of `brands` (None: of all brands). The person sees unmasked values."""

    brands: frozenset[str] | None = None
    is_person: bool = False

    def can_see(self, brand_ids: Iterable[str]) -> bool:
        """True if data that these brands supplied is visible."""
        return self.brands is None or not self.brands.isdisjoint(brand_ids)


def build_viewer(
    members: Sequence[Consumer], *, is_unrestricted: bool, consumers: Iterable[str], brands: Iterable[str], stores: Iterable[str],
    staff: Iterable[str],
) -> Viewer:  # fmt: skip
    """Returns how a caller who reaches these consumers, brands, stores and staff sees the person with these members.

    Staff see the data of those brands that bound the person to them or to their store.
    """
    if not {member.id for member in members}.isdisjoint(consumers):
        return Viewer(is_person=True)
    if is_unrestricted:
        return Viewer()
    stores, staff = frozenset(stores), frozenset(staff)
    guides = (guide for member in members for guide in member.bound)
    return Viewer(frozenset(brands) | {guide.brand_id for guide in guides if guide.store_id in stores or guide.staff_id in staff})


def merge_visible_profiles(members: Sequence[Consumer], viewer: Viewer, preferred_id: str) -> Profile:
    """Returns the visible profiles of a person merged into one: newer over older, those of consumer `preferred_id` over all."""
    merged = Profile("")
    for member in sorted(members, key=lambda member: (member.id == preferred_id, member.created_at, member.id)):
        for profile in member.profiles:
            if viewer.can_see([profile.brand_id]):
                name = profile.display_name or merged.display_name
                merged = Profile("", name, merged.sizes | profile.sizes, merged.preferences | profile.preferences)
    return merged


def consumer_not_found(consumer_id: str) -> NotFound:
    """Returns the refusal for a consumer that does not exist or is outside the caller's scope."""
    return NotFound(Reason.CONSUMER_NOT_FOUND, "No such consumer, or you may not see it. Check the id.", consumer_id=consumer_id)
