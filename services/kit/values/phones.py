"""Normalization of phone numbers to E.164."""

import phonenumbers

from services.kit.errors import Invalid

DEFAULT_REGION = "CN"
"""A number without a country code belongs to this region."""
INVALID_PHONE = "INVALID_PHONE"


def to_e164(written: str) -> str:
    """Converts a written phone number to E.164; without a country code it is Chinese. `Invalid` INVALID_PHONE if it is not possible."""
    try:
        number = phonenumbers.parse(written, DEFAULT_REGION)
    except phonenumbers.NumberParseException:
        number = None
    if number is None or not phonenumbers.is_possible_number(number):
        raise Invalid(INVALID_PHONE, "This is not a valid phone number.")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
