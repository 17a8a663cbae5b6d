"""Property test: `problems` and msgspec agree on all values, for generated structs of the types that services use."""

import math
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct, defstruct, inspect

from services.kit.values.validation import ENGLISH, VISIBLE_LINE_PATTERN, message, problems


class Colour(StrEnum):
    WHITE = "COLOUR_WHITE"
    RED = "COLOUR_RED"


class Named(Struct):
    """A struct with a rule over its fields."""

    zh: Annotated[str, Meta(max_length=2)] = ""
    en: str = ""

    def __post_init__(self) -> None:
        if not self.zh and not self.en:
            raise ValueError("set zh, en or both")


def lengths(type_: Any) -> st.SearchStrategy[Any]:
    return st.builds(lambda least, most: Annotated[type_, Meta(min_length=least, max_length=most)], st.integers(0, 2), st.integers(1, 3))


def numbers(type_: Any) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda low, high, least, most: Annotated[type_, Meta(**{low: least, high: most})],
        st.sampled_from(["ge", "gt"]), st.sampled_from(["le", "lt"]), st.integers(-3, 1), st.integers(0, 3),
    )  # fmt: skip


PATTERNS = [Annotated[str, Meta(pattern=pattern, max_length=4)] for pattern in (VISIBLE_LINE_PATTERN, r"^\d{2}\Z", r"^$|a")]
HASHABLE = st.one_of(st.sampled_from([str, Colour, *PATTERNS]), lengths(str))
LEAVES = st.one_of(
    HASHABLE,
    numbers(int),
    numbers(float),
    st.sampled_from([int, float, bool, bytes, date, datetime, timedelta, Named, Literal["a", "b"], Literal[1, 2]]),
    st.just(Annotated[datetime, Meta(tz=True)]),
)


def composites(types: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    arrays = types.flatmap(lambda each: st.sampled_from([list[each], tuple[each, ...], tuple[each, int]]))
    sets = HASHABLE.map(lambda each: frozenset[each])
    mappings = st.builds(lambda key, value: dict[key, value], HASHABLE, types)
    bounded = st.one_of(types.map(lambda each: tuple[each, ...]), mappings).flatmap(lengths)
    return st.one_of(arrays, sets, mappings, bounded, types.map(lambda each: each | None), structs(types))


def structs(types: st.SearchStrategy[Any]) -> st.SearchStrategy[type[Struct]]:
    required, optional = st.dictionaries(st.sampled_from("ab"), types), st.dictionaries(st.sampled_from("cd"), types)
    return st.builds(
        lambda must, may: defstruct("Generated", [*must.items(), *((name, type_, None) for name, type_ in may.items())]), required, optional
    )


STRUCTS = structs(st.recursive(LEAVES, composites, max_leaves=4))
TEXTS = st.sampled_from(["", "a", "b", "12", "12\n", "ab\u2028", " ", "新宿", "aaaa", "aaaaa", *Colour, "COLOUR_BLUE", "2026-11-23", "P1D"])
INTEGERS = st.one_of(st.integers(-4, 4), st.sampled_from([2**63, 2**70, -(2**70)]))
FLOATS = st.sampled_from([math.nan, math.inf, 0.5, -3.0, 1.0, 3.0])
TIMES = st.sampled_from([date(2026, 1, 1), datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC), timedelta(1)])
SCALARS = st.one_of(st.none(), st.booleans(), INTEGERS, FLOATS, TEXTS, TIMES, st.sampled_from([b"", b"x", Named("x")]))
VALUES = st.recursive(
    SCALARS,
    lambda values: st.one_of(
        st.lists(values, max_size=4),
        st.lists(values, max_size=4).map(tuple),
        st.frozensets(TEXTS, max_size=4),
        st.dictionaries(st.sampled_from(["a", "b", "c", "d", "zh", "en", "", "12", "COLOUR_RED", 1]), values, max_size=4),
    ),
    max_leaves=8,
)


def values_like(info: Any) -> st.SearchStrategy[Any]:
    """Generates values of the type's shape, so that often only one part is invalid; one part in ten may be any value."""
    made: st.SearchStrategy[Any]
    match info:
        case inspect.StructType():
            required = {field.encode_name: values_like(field.type) for field in info.fields if field.required}
            optional = {field.encode_name: values_like(field.type) for field in info.fields if not field.required}
            made = st.fixed_dictionaries(required, optional=optional)
        case inspect.UnionType():
            made = st.one_of(*map(values_like, info.types))
        case inspect.TupleType():
            made = st.tuples(*map(values_like, info.item_types))
        case inspect.CollectionType():
            made = st.lists(values_like(info.item_type), max_size=4)
        case inspect.DictType():
            made = st.dictionaries(TEXTS, values_like(info.value_type), max_size=4)
        case inspect.IntType():
            made = INTEGERS
        case inspect.FloatType():
            made = st.one_of(FLOATS, INTEGERS)
        case inspect.DateType() | inspect.DateTimeType() | inspect.TimeDeltaType():
            made = TIMES
        case inspect.StrType() | inspect.EnumType() | inspect.LiteralType():
            made = TEXTS
        case _:
            made = SCALARS
    return st.integers(0, 9).flatmap(lambda chance: VALUES if chance == 9 else made)


@given(st.data())
@settings(deadline=None)
def test_problems_exist_exactly_when_msgspec_fails(data: st.DataObject) -> None:
    struct = data.draw(STRUCTS)
    value = data.draw(values_like(inspect.type_info(struct)))
    try:
        msgspec.convert(value, struct)
        converts = True
    except msgspec.ValidationError:
        converts = False
    found = problems(value, struct)
    assert converts == (not found), found
    assert all(message(problem, ENGLISH) for problem in found)
