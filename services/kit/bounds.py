"""A value out of its bounds, told to a person: msgspec speaks to who wrote the struct, this to who filled it in."""

import re

from services.kit.errors import Invalid

WRITTEN = r"^(?:|(?=.*[^\s\u200b-\u200f\u2060\ufeff])[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+)\Z"
"""The pattern of every name that a person writes, or leaves empty: something of it is seen, and all of it stands on one line, in the order
in which it is written (marks that turn the direction of writing make one name look like another)."""
MISSING = re.compile(r"^Object missing required field `(?P<name>\w+)`$")
INDEX = re.compile(r"\[[^]]*\]")
SAYINGS = (
    (
        re.compile(re.escape(f"Expected `str` matching regex {WRITTEN!r}")),
        "write it in one line, in signs that are seen",
    ),
    (re.compile(r"^Expected `(?:str|array|object)` of length >= 1$"), "not empty"),
    (re.compile(r"^Expected `str` of length >= (\d+)$"), "at least {} characters"),
    (re.compile(r"^Expected `str` of length <= (\d+)$"), "at most {} characters"),
    (re.compile(r"^Expected `(?:array|object)` of length >= (\d+)$"), "at least {} entries"),
    (re.compile(r"^Expected `(?:array|object)` of length <= (\d+)$"), "at most {} entries"),
    (re.compile(r"^Expected `(?:int|float)` >= (\S+?)(?:\.0)?$"), "{} or more"),
    (re.compile(r"^Expected `(?:int|float)` <= (\S+?)(?:\.0)?$"), "{} at most"),
    (re.compile(r"^Expected `(?:int|float)` > (\S+?)(?:\.0)?$"), "more than {}"),
    (re.compile(r"^Expected `(?:int|float)` < (\S+?)(?:\.0)?$"), "less than {}"),
    (re.compile(r"^Expected `str` matching regex '(.*)'$"), "must match {}"),
    (re.compile(r"^Invalid enum value '(.*)'$"), "{} is none of the choices"),
)
"""What msgspec says, and what a person hears."""


def refused(error: str) -> Invalid:
    """The refusal of what msgspec's ValidationError says: `field` is where, `message` names it too."""
    text, _, where = error.partition(" - at ")
    field = where.rpartition("`$")[2].strip("`.")
    if missing := MISSING.match(text):
        name = missing["name"]
        return Invalid("INVALID_FIELD", f"give {_words(name)}", field=f"{field}.{name}" if field else name)
    for pattern, saying in SAYINGS:
        if found := pattern.match(text):
            text = saying.format(*(group.replace("\\\\", "\\") for group in found.groups()))
            break
    return Invalid("INVALID_FIELD", f"{_words(field)}: {text}" if field else text, field=field)


def _words(path: str) -> str:
    """The last part of a path that people know: `lines[0].unit_price`, and `lines[0].unit_price.minor` of Money, are the unit price.

    The minor units of a Money that is looked at alone are its amount.
    """
    known = INDEX.sub("", path).removesuffix(".minor").rpartition(".")[2]
    return "amount" if known == "minor" else known.replace("_", " ")
