"""Rules of consent: the latest consent counts, by the time it was given and then by the order of recording."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from msgspec import Struct

from services.kit.errors import Conflict
from services.member.consent.enums import Purpose, Reason
from services.member.identity.rules import BrandId

BRANDS_MAX = 500
"""A consumer has consents for at most this many brands: as many as take part in one campaign."""


class Consent(Struct, frozen=True):
    """A consent that a consumer gave to a brand or withdrew from it."""

    id: str
    """The id of the change in `consent_changes`; consumer, brand and purpose in `consents`."""
    word_id: str
    """The id of the change: a later recording has a greater one."""
    consumer_id: str
    brand_id: BrandId
    purpose: Purpose
    granted: bool
    at: datetime
    recorded_by: str
    touchpoint: str = "TOUCHPOINT_UNSPECIFIED"
    version: int = 1


class ConsentedBrands(Struct, frozen=True):
    """The brands for which a consumer (`id`) has consents, given or withdrawn."""

    id: str
    brand_ids: frozenset[str] = frozenset()


def add_brands(before: ConsentedBrands, brand_ids: Iterable[str]) -> ConsentedBrands:
    """Returns the consumer's brands with these added. Raises `Conflict` (TOO_MANY_CONSENTS) above BRANDS_MAX."""
    brands = before.brand_ids | frozenset(brand_ids)
    if len(brands) > BRANDS_MAX:
        message = f"A consumer has consents for at most {BRANDS_MAX} brands, given or withdrawn. Change the consent of one of these brands."
        raise Conflict(Reason.TOO_MANY_CONSENTS, message, consumer_id=before.id)
    return ConsentedBrands(before.id, brands)


def build_consent_id(consent: Consent) -> str:
    """Returns the id of the latest consent of a consumer, brand and purpose."""
    return f"{consent.consumer_id}:{consent.brand_id}:{consent.purpose}"


def select_latest_by_id(consents: Iterable[Consent]) -> dict[str, Consent]:
    """Returns the latest consent of each consumer, brand and purpose, by `build_consent_id`, whatever the order of `consents`."""
    latest: dict[str, Consent] = {}
    for consent in consents:
        id = build_consent_id(consent)
        if id not in latest or is_later(consent, latest[id]):
            latest[id] = consent
    return latest


def select_latest(consents: Iterable[Consent]) -> dict[tuple[str, Purpose], Consent]:
    """Returns the latest consent of one person for each brand and purpose, over all consumer ids of the person."""
    latest: dict[tuple[str, Purpose], Consent] = {}
    for consent in consents:
        key = (consent.brand_id, consent.purpose)
        if key not in latest or is_later(consent, latest[key]):
            latest[key] = consent
    return latest


def is_later(consent: Consent, other: Consent) -> bool:
    """True if `consent` counts rather than `other`."""
    return (consent.at, consent.word_id) > (other.at, other.word_id)


def filter_granted(consents: Iterable[Consent], brand_ids: Sequence[str], purpose: Purpose) -> list[str]:
    """Returns those of `brand_ids`, in their order, for which the person's latest consent grants `purpose`."""
    latest = select_latest(consents)
    return [id for id in brand_ids if (consent := latest.get((id, purpose))) and consent.granted]
