"""What stands is the newest word: by the time it was said, then by the order of recording."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum

from msgspec import Struct


class Reason(StrEnum):
    CONSUMER_NOT_FOUND = "CONSUMER_NOT_FOUND"
    BRAND_NOT_YOURS = "BRAND_NOT_YOURS"
    INVALID_FIELD = "INVALID_FIELD"


class Purpose(StrEnum):
    PERSONALIZATION = "PURPOSE_PERSONALIZATION"
    OUTREACH = "PURPOSE_OUTREACH"
    DISTRICT_COUPONS = "PURPOSE_DISTRICT_COUPONS"


class Consent(Struct, frozen=True):
    """One word of a consumer to a brand. Ids of later recordings are greater."""

    id: str
    consumer_id: str
    brand_id: str
    purpose: Purpose
    granted: bool
    at: datetime
    recorded_by: str
    touchpoint: str = "TOUCHPOINT_UNSPECIFIED"
    version: int = 1


def newest(words: Iterable[Consent]) -> dict[tuple[str, Purpose], Consent]:
    """What stands, by brand and purpose. The order in which the words come does not matter."""
    stands: dict[tuple[str, Purpose], Consent] = {}
    for word in words:
        key = (word.brand_id, word.purpose)
        if key not in stands or (word.at, word.id) > (stands[key].at, stands[key].id):
            stands[key] = word
    return stands


def granted(words: Iterable[Consent], brand_ids: Sequence[str], purpose: Purpose) -> list[str]:
    """Those of `brand_ids`, in their order, whose newest word for `purpose` is yes."""
    stands = newest(words)
    return [id for id in brand_ids if (word := stands.get((id, purpose))) and word.granted]
