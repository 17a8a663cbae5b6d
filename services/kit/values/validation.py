"""Validation errors: finds every constraint of a struct that a value violates, and words the message for the client.

msgspec decides whether a value is valid, and stops at the first violation with a text for programmers. Only then this module walks
the value beside the struct's own metadata: `problems({"quantity": 0}, HoldRequest)` has the path `quantity`, GREATER_OR_EQUAL and 1.
"""

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import inspect

from services.kit.errors import Invalid

VISIBLE_LINE_PATTERN = r"^(?:|(?=.*[^\s\u200b-\u200f\u2060\ufeff])[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+)\Z"
"""The pattern of names that people write: empty, or one line with a visible character.

Control characters and marks of the writing direction are not allowed, since they make one name look like another.
"""
CHOICE_CHARACTERS_MAX = 100
"""A message repeats at most this many characters of a value that is no choice."""
INDEX = re.compile(r"\[[^]]*\]")


class Violation(StrEnum):
    """The kind of constraint that a value violates."""

    MISSING = "MISSING"
    TYPE = "TYPE"
    CHOICE = "CHOICE"
    EMPTY = "EMPTY"
    MIN_CHARACTERS = "MIN_CHARACTERS"
    MAX_CHARACTERS = "MAX_CHARACTERS"
    MIN_ENTRIES = "MIN_ENTRIES"
    MAX_ENTRIES = "MAX_ENTRIES"
    VISIBLE_LINE = "VISIBLE_LINE"
    PATTERN = "PATTERN"
    GREATER_OR_EQUAL = "GREATER_OR_EQUAL"
    GREATER = "GREATER"
    LESS_OR_EQUAL = "LESS_OR_EQUAL"
    LESS = "LESS"
    TIME_ZONE = "TIME_ZONE"
    INVARIANT = "INVARIANT"


ENGLISH: Mapping[Violation, str] = {
    Violation.MISSING: "The {name} is missing. Set it.",
    Violation.TYPE: "The {name} must be of type {limit}.",
    Violation.CHOICE: "{limit} is not a known {name}. Choose another one.",
    Violation.EMPTY: "The {name} must not be empty.",
    Violation.MIN_CHARACTERS: "The {name} must have at least {limit} characters.",
    Violation.MAX_CHARACTERS: "The {name} must have at most {limit} characters.",
    Violation.MIN_ENTRIES: "The {name} must have at least {limit} entries.",
    Violation.MAX_ENTRIES: "The {name} must have at most {limit} entries.",
    Violation.VISIBLE_LINE: "The {name} must be one line of visible characters.",
    Violation.PATTERN: "The {name} must match {limit}",
    Violation.GREATER_OR_EQUAL: "The {name} must be {limit} or more.",
    Violation.GREATER: "The {name} must be more than {limit}.",
    Violation.LESS_OR_EQUAL: "The {name} must be {limit} or less.",
    Violation.LESS: "The {name} must be less than {limit}.",
    Violation.TIME_ZONE: "The {name} must have a time zone.",
    Violation.INVARIANT: "The {name} is not valid: {limit}.",
}
"""The message of each violation; a table of another language has the same keys and placeholders."""


class Problem(NamedTuple):
    """One violation: the path of the value, like `lines[0].unit_price`, and the limit, which for a CHOICE is the value itself."""

    path: str
    violation: Violation
    limit: Any = None


def invalid(value: Any, struct: type[Any]) -> Invalid:
    """Returns the refusal of a value that msgspec does not convert to this struct: its first problem.

    The metadata are `field`, which is the path, `violation` and, if there is one, `limit`: the gateway words them in other languages.
    """
    first = problems(value, struct)[0]
    limit = {} if first.limit is None else {"limit": first.limit}
    return Invalid("INVALID_FIELD", message(first, ENGLISH), field=first.path, violation=first.violation, **limit)


def message(problem: Problem, texts: Mapping[Violation, str]) -> str:
    """Words a problem in the language of these texts."""
    return texts[problem.violation].format(name=_name(problem.path), limit=problem.limit)


def problems(value: Any, struct: Any) -> list[Problem]:
    """Finds all problems of a value, in the order of the fields; none exactly when `msgspec.convert` takes the value."""
    return list(_problems(value, _info(struct), ""))


@cache
def _info(struct: Any) -> inspect.Type:
    return inspect.type_info(struct)


LEAVES: Mapping[type[inspect.Type], Any] = {
    inspect.AnyType: Any,
    inspect.NoneType: None,
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.StrType: str,
    inspect.BytesType: bytes,
    inspect.DateType: date,
    inspect.DateTimeType: datetime,
    inspect.TimeDeltaType: timedelta,
}
"""The Python type of each type without parts."""
NUMBERS: tuple[tuple[str, Violation, Callable[[Any, Any], bool]], ...] = (
    ("ge", Violation.GREATER_OR_EQUAL, operator.ge),
    ("gt", Violation.GREATER, operator.gt),
    ("le", Violation.LESS_OR_EQUAL, operator.le),
    ("lt", Violation.LESS, operator.lt),
)
"""The bounds of a number, each with the comparison that a number within it passes; NaN passes none."""


def _problems(value: Any, info: Any, path: str) -> Iterator[Problem]:
    match info:
        case inspect.Metadata():
            yield from _problems(value, info.type, path)
        case inspect.UnionType():
            yield from _of_union(value, info, path)
        case inspect.StructType() if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            yield from _of_struct(value, info, path)
        case inspect.DictType() if isinstance(value, dict):
            yield from _of_length(value, info, path, Violation.MIN_ENTRIES, Violation.MAX_ENTRIES)
            for key, item in value.items():
                yield from _problems(key, info.key_type, path)
                yield from _problems(item, info.value_type, f"{path}[...]")
        case inspect.TupleType() if isinstance(value, list | tuple) and len(value) == len(info.item_types):
            for index, (item, item_type) in enumerate(zip(value, info.item_types, strict=True)):
                yield from _problems(item, item_type, f"{path}[{index}]")
        case inspect.CollectionType() if isinstance(value, list | tuple | set | frozenset):
            yield from _of_length(value, info, path, Violation.MIN_ENTRIES, Violation.MAX_ENTRIES)
            for index, item in enumerate(value):
                yield from _problems(item, info.item_type, f"{path}[{index}]")
        case inspect.EnumType() | inspect.LiteralType():
            choices = info.cls if isinstance(info, inspect.EnumType) else Literal[tuple(info.values)]
            if not _converts(value, choices):
                yield Problem(path, Violation.CHOICE, str(value)[:CHOICE_CHARACTERS_MAX])
        case inspect.DictType() | inspect.TupleType() | inspect.CollectionType():
            yield Problem(path, Violation.TYPE, _shown(info))
        case _:
            yield from _of_leaf(value, info, path)


def _of_union(value: Any, info: inspect.UnionType, path: str) -> Iterator[Problem]:
    """The problems with the only type beside None; of several such types one must take the value."""
    found = [list(_problems(value, each, path)) for each in info.types]
    if all(found):
        others = [each for each, type_ in zip(found, info.types, strict=True) if not isinstance(type_, inspect.NoneType)]
        yield from others[0] if len(others) == 1 else [Problem(path, Violation.TYPE, " or ".join(map(_shown, info.types)))]


def _of_struct(value: dict[str, Any], info: inspect.StructType, path: str) -> Iterator[Problem]:
    found: list[Problem] = []
    for field in info.fields:
        at = f"{path}.{field.encode_name}" if path else field.encode_name
        if field.encode_name in value:
            found += _problems(value[field.encode_name], field.type, at)
        elif field.required:
            found.append(Problem(at, Violation.MISSING))
    yield from found
    if not found and hasattr(info.cls, "__post_init__"):
        try:
            msgspec.convert(value, info.cls)
        except msgspec.ValidationError as error:
            yield Problem(path, Violation.INVARIANT, error.__cause__)


def _of_leaf(value: Any, info: Any, path: str) -> Iterator[Problem]:
    try:
        value = msgspec.convert(value, info.cls if isinstance(info, inspect.StructType | inspect.CustomType) else LEAVES[type(info)])
    except msgspec.ValidationError:
        yield Problem(path, Violation.TYPE, _shown(info))
        return
    match info:
        case inspect.IntType() | inspect.FloatType():
            for name, violation, holds in NUMBERS:
                if (limit := getattr(info, name)) is not None and not holds(value, limit):
                    yield Problem(path, violation, limit)
        case inspect.StrType():
            yield from _of_length(value, info, path, Violation.MIN_CHARACTERS, Violation.MAX_CHARACTERS)
            if info.pattern is not None and not re.search(info.pattern, value):
                visible = info.pattern == VISIBLE_LINE_PATTERN
                yield Problem(path, Violation.VISIBLE_LINE) if visible else Problem(path, Violation.PATTERN, info.pattern)
        case inspect.DateTimeType() if info.tz and value.tzinfo is None:
            yield Problem(path, Violation.TIME_ZONE)


def _of_length(value: Any, info: Any, path: str, least: Violation, most: Violation) -> Iterator[Problem]:
    if info.min_length is not None and len(value) < info.min_length:
        yield Problem(path, Violation.EMPTY) if info.min_length == 1 else Problem(path, least, info.min_length)
    if info.max_length is not None and len(value) > info.max_length:
        yield Problem(path, most, info.max_length)


def _converts(value: Any, type_: Any) -> bool:
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError:
        return False
    return True


def _shown(info: Any) -> str:
    """Names the type that a value must have: `int`, `datetime`, `list`."""
    return type(info).__name__.removesuffix("Type").lower()


def _name(path: str) -> str:
    """Names a value by the last part of its path that clients know.

    `lines[0].unit_price`, and `lines[0].unit_price.minor` of Money, are the unit price. The minor units of a Money without a path before
    them are its amount.
    """
    known = INDEX.sub("", path).removesuffix(".minor").rpartition(".")[2]
    return "amount" if known == "minor" else known.replace("_", " ") or "value"
