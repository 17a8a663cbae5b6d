"""Phone numbers as people write them."""

import phonenumbers

from services.kit.errors import Invalid

DEFAULT_REGION = "CN"
INVALID_PHONE = "INVALID_PHONE"


def e164(written: str) -> str:
    """A phone number as E.164; without a country code it is a Chinese one. `Invalid` INVALID_PHONE when no such number can exist."""
    try:
        number = phonenumbers.parse(written, DEFAULT_REGION)
    except phonenumbers.NumberParseException:
        number = None
    if number is None or not phonenumbers.is_possible_number(number):
        raise Invalid(INVALID_PHONE, "there can be no such phone number")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
