"""Operations that ask for everything, made from the schema: every field within reach, with somebody's ids in every argument.

A new field, argument, input or type is asked for by itself; one that names a noun of its own needs ids of it (`tests/services/worlds`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import product
from typing import Any

from graphql import (
    GraphQLArgument,
    GraphQLField,
    GraphQLInputField,
    GraphQLSchema,
    get_named_type,
    get_nullable_type,
    is_abstract_type,
    is_composite_type,
    is_enum_type,
    is_input_object_type,
    is_list_type,
    is_object_type,
    is_required_argument,
    is_required_input_field,
)

from tests.services.worlds.requests import AFTER, ENUMS, NUMBERS, PRODUCT_MAX, SAME_AS, SKIPPED, TEXTS, fresh

DEPTH, CALLS_MAX, NODES_MAX = 2, 20, 100
"""Objects within objects, pages not counted."""
Ids = Mapping[str, Sequence[str]]
Sides = Mapping[str, str]
"""For each argument, or part of an input, that is an id: whose stands there."""
VALUES = {"Boolean": True, "Float": 116.4551, "Decimal": "10.00"}
COUNTS = {"change": 100_000}
"""No count of one tenant comes near another's by it."""
FLOATS = {"longitude": 116.4551, "latitude": 39.9341}


def snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def noun_of(name: str, thing: str) -> str:
    """The noun of an argument that is an id: `storeId` names a store, `id` the thing it finds."""
    if name in ("id", "ids"):
        return snake(thing)
    noun = snake(name).removesuffix("s").removesuffix("_id")
    return SAME_AS.get(noun, noun)


class Asking:
    """What can be asked of a schema, at a time, by somebody who has or knows ids.

    `reached` are the fields that were asked for, `unknown` the arguments that name what nobody has ids of.
    """

    def __init__(self, schema: GraphQLSchema, at: datetime) -> None:
        self.schema, self.at = schema, at
        self.reached: set[tuple[str, str]] = set()
        self.unknown: set[str] = set()

    # reading -----------------------------------------------------------------------------------------------------------

    def queries(self, sides: Mapping[str, Ids]) -> Iterator[tuple[str, str]]:
        """By the field of the query it begins with: documents with every choice of whose ids stand in its arguments."""
        assert self.schema.query_type is not None
        first = next(iter(sides.values()))
        for name, field in self.schema.query_type.fields.items():
            if name not in ("node", "nodes"):
                thing, calls = get_named_type(field.type), list(dict.fromkeys(self._calls(name, field, sides)))
                fragment = f"fragment f on {thing.name}{self._selected(thing, first, DEPTH)}"
                for start in range(0, len(calls), CALLS_MAX):
                    some = (f"a{number}:{call}{{...f}}" for number, call in enumerate(calls[start : start + CALLS_MAX]))
                    yield name, "{" + " ".join(some) + "}" + fragment
        everything = list(dict.fromkeys(id for ids in sides.values() for of in ids.values() for id in of))
        parts = [everything[start : start + NODES_MAX] for start in range(0, len(everything), NODES_MAX)]
        calls = [f"one:node(id:{json.dumps(everything[0])})", *(f"a{n}:nodes(ids:{json.dumps(part)})" for n, part in enumerate(parts))]
        for kind in self.schema.get_implementations(self.schema.type_map["Node"]).objects:  # type: ignore[arg-type]
            fragment = f"fragment f on {kind.name}{self._selected(kind, first, DEPTH - 1)}"
            yield f"nodes of {kind.name}", "{" + " ".join(f"{call}{{__typename ...f}}" for call in calls) + "}" + fragment
        self.reached |= {("Query", name) for name in self.schema.query_type.fields}

    def subscriptions(self, sides: Mapping[str, Ids]) -> Iterator[tuple[str, str]]:
        """By the field of the subscription: the same, each with one call, as subscriptions are."""
        assert self.schema.subscription_type is not None
        for name, field in self.schema.subscription_type.fields.items():
            selected = self._selected(get_named_type(field.type), next(iter(sides.values())), DEPTH)
            self.reached.add(("Subscription", name))
            for call in dict.fromkeys(self._calls(name, field, sides)):
                yield name, f"subscription{{{call}{selected}}}"

    def _calls(self, name: str, field: GraphQLField, sides: Mapping[str, Ids]) -> Iterator[str]:
        """The field with every choice of ids; each of a side's ids has its turn."""
        thing = get_named_type(field.type).name
        names = [each for each, argument in field.args.items() if _is_id(argument)]
        needed = {each for each in names if is_required_argument(field.args[each])}
        alone = [{each: side} for each in names for side in sides if needed <= {each}]
        for choice in [*choices(names, sides), *alone]:
            for number in range(max((len(self._ids(sides[side], each, thing)) for each, side in choice.items()), default=1)):
                yield self._call(name, field, choice, sides, number)

    def _call(self, name: str, field: GraphQLField, choice: Sides, sides: Mapping[str, Ids], number: int) -> str:
        thing = get_named_type(field.type).name
        given = {}
        for each, argument in field.args.items():
            if _is_id(argument):
                ids = self._ids(sides[choice[each]], each, thing) if each in choice else ()
                if ids:
                    given[each] = json.dumps(ids[number % len(ids)])
            elif is_required_argument(argument) or each in TEXTS:
                given[each] = literal(self._value(each, argument, "Query", {}, {}, ()))
        return name + (f"({','.join(f'{each}:{text}' for each, text in given.items())})" if given else "")

    def _selected(self, kind: Any, ids: Ids, depth: int) -> str:
        """Everything of a type, as deep as that."""
        if is_abstract_type(kind):
            members = self.schema.get_possible_types(kind)
            return "{__typename " + " ".join(f"...on {each.name}{self._selected(each, ids, depth)}" for each in members) + "}"
        parts = ["__typename"]
        for name, field in kind.fields.items():
            inner = get_named_type(field.type)
            page = name in ("nodes", "edges", "node", "pageInfo") and kind.name.endswith(("Connection", "Edge"))
            if is_composite_type(inner) and not (depth or page):
                continue
            self.reached.add((kind.name, name))
            below = 0 if name in ("edges", "node") else depth - (not page)
            call = self._call(name, field, dict.fromkeys(field.args, ""), {"": ids}, 0)
            parts.append(f"{name}_{kind.name}:{call}" + (self._selected(inner, ids, below) if is_composite_type(inner) else ""))
        return "{" + " ".join(parts) + "}"

    # writing -----------------------------------------------------------------------------------------------------------

    def mutations(self, sides: Mapping[str, Ids]) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """By the mutation: a document and its input with every choice of whose ids stand in it."""
        assert self.schema.mutation_type is not None
        for name, field in self.schema.mutation_type.fields.items():
            kind: Any = get_named_type(field.args["input"].type)
            noun = snake(kind.name.removesuffix("Input")).partition("_")[2]
            text = f"mutation($input:{kind.name}!){{{name}(input:$input){self._selected(get_named_type(field.type), {}, DEPTH)}}}"
            self.reached.add(("Mutation", name))
            for choice in choices([".".join(path) for path in self._id_paths(kind, ())], sides):
                yield name, text, self._filled(kind, choice, sides, (), noun)

    def rightful(self, ids: Ids) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """What somebody could ask for with their own ids: all of them or the first of each, and with one part left out that may be."""
        assert self.schema.mutation_type is not None
        for name, text, given in self.mutations({"all": ids, "first": {noun: of[:1] for noun, of in ids.items()}}):
            yield name, text, given
            kind: Any = get_named_type(self.schema.mutation_type.fields[name].args["input"].type)
            for part in given:
                field = kind.fields[part]
                if not is_required_input_field(field) and (_is_id(field) or is_input_object_type(get_named_type(field.type))):
                    yield name, text, {each: value for each, value in given.items() if each != part}

    def _id_paths(self, kind: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, field in kind.fields.items():
            inner = get_named_type(field.type)
            if _is_id(field):
                yield (*path, name)
            elif is_input_object_type(inner) and snake(name) not in SKIPPED:
                yield from self._id_paths(inner, (*path, name))

    def _filled(self, kind: Any, choice: Sides, sides: Mapping[str, Ids], path: tuple[str, ...], thing: str) -> dict[str, Any]:
        wanted = {name: field for name, field in kind.fields.items() if snake(name) not in SKIPPED}
        found = {name: self._value(name, field, kind.name, choice, sides, (*path, name), thing) for name, field in wanted.items()}
        return {name: value for name, value in found.items() if value is not None}

    def _value(
        self, name: str, field: Any, owner: str, choice: Sides, sides: Mapping[str, Ids], path: tuple[str, ...], thing: str = ""
    ) -> Any:
        """What stands in an argument or a part of an input; None: it is left out."""
        named, listed = get_named_type(field.type), is_list_type(get_nullable_type(field.type))
        if _is_id(field):
            side = choice.get(".".join(path))
            ids = list(self._ids(sides[side], name, thing)) if side else []
            return (ids if listed else ids[0]) if ids else None
        if is_input_object_type(named):
            value = self._filled(named, choice, sides, path, snake(named.name).removesuffix("_input").removeprefix("new_"))
        else:
            value = self._leaf(name, named, owner)
        return [value] if listed else value

    def _ids(self, ids: Ids, name: str, thing: str) -> Sequence[str]:
        """Somebody's ids for an argument or a part of an input."""
        noun = noun_of(name, thing)
        if ids and noun not in ids:
            self.unknown.add(f"{name} of {thing} names a {noun!r}")
        return ids.get(noun, ())

    def _leaf(self, name: str, named: Any, owner: str) -> Any:
        known = snake(name)
        if is_enum_type(named):
            return list(named.values)[ENUMS.get(f"{owner.removesuffix('Input')}Request.{known}", 1) - 1]
        if named.name == "DateTime":
            return (self.at + AFTER.get(known, timedelta())).isoformat()
        if named.name == "Float":
            return FLOATS[name]
        if named.name in ("Int", "Long"):
            return COUNTS.get(known) or NUMBERS.get(known, 1)
        days = {"month": f"{self.at:%Y-%m}", "from_day": f"{self.at:%Y-%m-%d}", "until_day": f"{self.at:%Y-%m-%d}"}
        texts = {**TEXTS, **days, "idempotency_key": fresh("key_")}
        return VALUES.get(named.name) or texts.get(known, known)


def _is_id(given: GraphQLArgument | GraphQLInputField) -> bool:
    return get_named_type(given.type).name == "ID"


def choices(names: Sequence[str], sides: Mapping[str, Ids]) -> list[Sides]:
    """Every combination of whose ids stand where; of many places, one apart at a time."""
    if len(names) <= PRODUCT_MAX:
        return [dict(zip(names, mix, strict=True)) for mix in product(sides, repeat=len(names))]
    alike = [dict.fromkeys(names, side) for side in sides]
    return alike + [whole | {name: side} for whole in alike for name in names for side in sides if whole[name] != side]


def literal(value: Any) -> str:
    """A value as a document has it. Enums are not asked for: no argument that is required has one."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{literal(inner)}" for name, inner in value.items()) + "}"
    return json.dumps(value)


def fields_of(schema: GraphQLSchema) -> set[tuple[str, str]]:
    """All fields of the graph, those of introspection left out."""
    kinds = [kind for kind in schema.type_map.values() if is_object_type(kind) and not kind.name.startswith("__")]
    return {(kind.name, name) for kind in kinds for name in kind.fields}
