"""What stands is the newest word: by the time it was said, then by the order of recording."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from msgspec import Struct

from services.kit.errors import Conflict
from services.member.consent.enums import Purpose, Reason
from services.member.identity.rules import BrandId

BRANDS_MAX = 500
"""Brands for which a consumer may have words: as many as take part in one campaign."""


class Consent(Struct, frozen=True):
    """One word of a consumer to a brand. Word ids of later recordings are greater; what stands has an id of its own."""

    id: str
    word_id: str
    consumer_id: str
    brand_id: BrandId
    purpose: Purpose
    granted: bool
    at: datetime
    recorded_by: str
    touchpoint: str = "TOUCHPOINT_UNSPECIFIED"
    version: int = 1


class Addressed(Struct, frozen=True):
    """The brands for which a consumer (`id`) has words."""

    id: str
    brand_ids: frozenset[str] = frozenset()


def address(before: Addressed, brand_ids: Iterable[str]) -> Addressed:
    """The consumer with words for these brands too. `Conflict` TOO_MANY_CONSENTS when those would be too many."""
    brands = before.brand_ids | frozenset(brand_ids)
    if len(brands) > BRANDS_MAX:
        raise Conflict(
            Reason.TOO_MANY_CONSENTS, f"a consumer has consents for at most {BRANDS_MAX} brands, given or taken back", consumer_id=before.id
        )
    return Addressed(before.id, brands)


def standing_id(word: Consent) -> str:
    """The id of what stands for a consumer, brand and purpose."""
    return f"{word.consumer_id}:{word.brand_id}:{word.purpose}"


def by_place(words: Iterable[Consent]) -> dict[str, Consent]:
    """What stands, by `standing_id`. The order in which the words come does not matter."""
    stands: dict[str, Consent] = {}
    for word in words:
        place = standing_id(word)
        if place not in stands or is_newer(word, stands[place]):
            stands[place] = word
    return stands


def newest(words: Iterable[Consent]) -> dict[tuple[str, Purpose], Consent]:
    """What stands for one person, by brand and purpose, whichever of the person's consumers said it."""
    stands: dict[tuple[str, Purpose], Consent] = {}
    for word in words:
        place = (word.brand_id, word.purpose)
        if place not in stands or is_newer(word, stands[place]):
            stands[place] = word
    return stands


def is_newer(word: Consent, other: Consent) -> bool:
    return (word.at, word.word_id) > (other.at, other.word_id)


def granted(words: Iterable[Consent], brand_ids: Sequence[str], purpose: Purpose) -> list[str]:
    """Those of `brand_ids`, in their order, whose newest word for `purpose` is yes."""
    stands = newest(words)
    return [id for id in brand_ids if (word := stands.get((id, purpose))) and word.granted]
