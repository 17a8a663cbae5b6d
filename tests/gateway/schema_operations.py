"""Operations generated from the schema: every field within reach, with the ids of values sides in every argument.

New fields, arguments, inputs and types are included automatically. An argument that names a new noun needs ids of it
(`tests/services/worlds`).
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

from tests.services.worlds.requests import AFTER, ENUMS, NUMBERS, PRODUCT_MAX, SAME_AS, SKIPPED, TEXTS, fresh_id

DEPTH, CALLS_MAX, NODES_MAX = 2, 20, 100
"""Generated selections nest this many levels of objects without pages, make this many calls, and request this many nodes."""
Ids = Mapping[str, Sequence[str]]
Choice = Mapping[str, str]
"""The side of each id, by argument or by the path of an input field."""
VALUES = {"Boolean": True, "Float": 116.4551, "Decimal": "10.00"}
COUNTS = {"change": 100_000}
"""Large enough to change every count of a tenant visibly."""
FLOATS = {"longitude": 116.4551, "latitude": 39.9341}


def snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def noun_of_argument(name: str, type_name: str) -> str:
    """Returns the noun of an id argument: `storeId` names a store, `id` the type of its field."""
    if name in ("id", "ids"):
        return snake_case(type_name)
    noun = snake_case(name).removesuffix("s").removesuffix("_id")
    return SAME_AS.get(noun, noun)


class OperationGenerator:
    """Generates operations of a schema at a time, from ids.

    `reached`: the fields that were selected. `unknown`: the arguments whose nouns have no ids.
    """

    def __init__(self, schema: GraphQLSchema, at: datetime) -> None:
        self.schema, self.at = schema, at
        self.reached: set[tuple[str, str]] = set()
        self.unknown: set[str] = set()

    # reading -----------------------------------------------------------------------------------------------------------

    def queries(self, sides: Mapping[str, Ids]) -> Iterator[tuple[str, str]]:
        """Yields documents by field of the query, with every choice of ids for its arguments."""
        assert self.schema.query_type is not None
        first = next(iter(sides.values()))
        for name, field in self.schema.query_type.fields.items():
            if name not in ("node", "nodes"):
                type_name, calls = get_named_type(field.type), list(dict.fromkeys(self._calls(name, field, sides)))
                fragment = f"fragment f on {type_name.name}{self._selection(type_name, first, DEPTH)}"
                for start in range(0, len(calls), CALLS_MAX):
                    aliased = (f"a{number}:{call}{{...f}}" for number, call in enumerate(calls[start : start + CALLS_MAX]))
                    yield name, "{" + " ".join(aliased) + "}" + fragment
        all_ids = list(dict.fromkeys(id for ids in sides.values() for of in ids.values() for id in of))
        parts = [all_ids[start : start + NODES_MAX] for start in range(0, len(all_ids), NODES_MAX)]
        calls = [f"one:node(id:{json.dumps(all_ids[0])})", *(f"a{n}:nodes(ids:{json.dumps(part)})" for n, part in enumerate(parts))]
        for kind in self.schema.get_implementations(self.schema.type_map["Node"]).objects:  # type: ignore[arg-type]
            fragment = f"fragment f on {kind.name}{self._selection(kind, first, DEPTH - 1)}"
            yield f"nodes of {kind.name}", "{" + " ".join(f"{call}{{__typename ...f}}" for call in calls) + "}" + fragment
        self.reached |= {("Query", name) for name in self.schema.query_type.fields}

    def subscriptions(self, sides: Mapping[str, Ids]) -> Iterator[tuple[str, str]]:
        """Yields documents by field of the subscription, each with one root field."""
        assert self.schema.subscription_type is not None
        for name, field in self.schema.subscription_type.fields.items():
            selected = self._selection(get_named_type(field.type), next(iter(sides.values())), DEPTH)
            self.reached.add(("Subscription", name))
            for call in dict.fromkeys(self._calls(name, field, sides)):
                yield name, f"subscription{{{call}{selected}}}"

    def _calls(self, name: str, field: GraphQLField, sides: Mapping[str, Ids]) -> Iterator[str]:
        """Yields the field with every choice of ids; each id of a side is used once."""
        type_name = get_named_type(field.type).name
        names = [each for each, argument in field.args.items() if _is_id(argument)]
        required = {each for each in names if is_required_argument(field.args[each])}
        alone = [{each: side} for each in names for side in sides if required <= {each}]
        for choice in [*list_choices(names, sides), *alone]:
            for number in range(max((len(self._ids(sides[side], each, type_name)) for each, side in choice.items()), default=1)):
                yield self._call(name, field, choice, sides, number)

    def _call(self, name: str, field: GraphQLField, choice: Choice, sides: Mapping[str, Ids], number: int) -> str:
        type_name = get_named_type(field.type).name
        values = {}
        for each, argument in field.args.items():
            if _is_id(argument):
                ids = self._ids(sides[choice[each]], each, type_name) if each in choice else ()
                if ids:
                    values[each] = json.dumps(ids[number % len(ids)])
            elif is_required_argument(argument) or each in TEXTS:
                values[each] = format_literal(self._value(each, argument, "Query", {}, {}, ()))
        return name + (f"({','.join(f'{each}:{text}' for each, text in values.items())})" if values else "")

    def _selection(self, kind: Any, ids: Ids, depth: int) -> str:
        """Returns the selection of all fields of a type, to this depth."""
        if is_abstract_type(kind):
            members = self.schema.get_possible_types(kind)
            return "{__typename " + " ".join(f"...on {each.name}{self._selection(each, ids, depth)}" for each in members) + "}"
        parts = ["__typename"]
        for name, field in kind.fields.items():
            inner = get_named_type(field.type)
            page = name in ("nodes", "edges", "node", "pageInfo") and kind.name.endswith(("Connection", "Edge"))
            if is_composite_type(inner) and not (depth or page):
                continue
            self.reached.add((kind.name, name))
            below = 0 if name in ("edges", "node") else depth - (not page)
            call = self._call(name, field, dict.fromkeys(field.args, ""), {"": ids}, 0)
            parts.append(f"{name}_{kind.name}:{call}" + (self._selection(inner, ids, below) if is_composite_type(inner) else ""))
        return "{" + " ".join(parts) + "}"

    # writing -----------------------------------------------------------------------------------------------------------

    def mutations(self, sides: Mapping[str, Ids]) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yields a document and its input by mutation, with every choice of ids."""
        assert self.schema.mutation_type is not None
        for name, field in self.schema.mutation_type.fields.items():
            kind: Any = get_named_type(field.args["input"].type)
            noun = snake_case(kind.name.removesuffix("Input")).partition("_")[2]
            text = f"mutation($input:{kind.name}!){{{name}(input:$input){self._selection(get_named_type(field.type), {}, DEPTH)}}}"
            self.reached.add(("Mutation", name))
            for choice in list_choices([".".join(path) for path in self._id_paths(kind, ())], sides):
                yield name, text, self._input(kind, choice, sides, (), noun)

    def owner_mutations(self, ids: Ids) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yields mutations of an owner: with all ids or the first of each noun, and without each optional part."""
        assert self.schema.mutation_type is not None
        for name, text, values in self.mutations({"all": ids, "first": {noun: of[:1] for noun, of in ids.items()}}):
            yield name, text, values
            kind: Any = get_named_type(self.schema.mutation_type.fields[name].args["input"].type)
            for part in values:
                field = kind.fields[part]
                if not is_required_input_field(field) and (_is_id(field) or is_input_object_type(get_named_type(field.type))):
                    yield name, text, {each: value for each, value in values.items() if each != part}

    def _id_paths(self, kind: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, field in kind.fields.items():
            inner = get_named_type(field.type)
            if _is_id(field):
                yield (*path, name)
            elif is_input_object_type(inner) and snake_case(name) not in SKIPPED:
                yield from self._id_paths(inner, (*path, name))

    def _input(self, kind: Any, choice: Choice, sides: Mapping[str, Ids], path: tuple[str, ...], type_name: str) -> dict[str, Any]:
        wanted = {name: field for name, field in kind.fields.items() if snake_case(name) not in SKIPPED}
        found = {name: self._value(name, field, kind.name, choice, sides, (*path, name), type_name) for name, field in wanted.items()}
        return {name: value for name, value in found.items() if value is not None}

    def _value(
        self, name: str, field: Any, owner: str, choice: Choice, sides: Mapping[str, Ids], path: tuple[str, ...], type_name: str = ""
    ) -> Any:
        """Returns the value of an argument or of an input field; None: it is left out."""
        named, listed = get_named_type(field.type), is_list_type(get_nullable_type(field.type))
        if _is_id(field):
            side = choice.get(".".join(path))
            ids = list(self._ids(sides[side], name, type_name)) if side else []
            return (ids if listed else ids[0]) if ids else None
        if is_input_object_type(named):
            value = self._input(named, choice, sides, path, snake_case(named.name).removesuffix("_input").removeprefix("new_"))
        else:
            value = self._leaf(name, named, owner)
        return [value] if listed else value

    def _ids(self, ids: Ids, name: str, type_name: str) -> Sequence[str]:
        """Returns the ids for an argument or an input field."""
        noun = noun_of_argument(name, type_name)
        if ids and noun not in ids:
            self.unknown.add(f"{name} of {type_name} names a {noun!r}")
        return ids.get(noun, ())

    def _leaf(self, name: str, named: Any, owner: str) -> Any:
        known = snake_case(name)
        if is_enum_type(named):
            return list(named.values)[ENUMS.get(f"{owner.removesuffix('Input')}Request.{known}", 1) - 1]
        if named.name == "DateTime":
            return (self.at + AFTER.get(known, timedelta())).isoformat()
        if named.name == "Float":
            return FLOATS[name]
        if named.name in ("Int", "Long"):
            return COUNTS.get(known) or NUMBERS.get(known, 1)
        days = {"month": f"{self.at:%Y-%m}", "from_day": f"{self.at:%Y-%m-%d}", "until_day": f"{self.at:%Y-%m-%d}"}
        texts = {**TEXTS, **days, "idempotency_key": fresh_id("key_")}
        return VALUES.get(named.name) or texts.get(known, known)


def _is_id(values: GraphQLArgument | GraphQLInputField) -> bool:
    return get_named_type(values.type).name == "ID"


def list_choices(names: Sequence[str], sides: Mapping[str, Ids]) -> list[Choice]:
    """Returns every combination of sides; for many ids, only combinations in which one id differs."""
    if len(names) <= PRODUCT_MAX:
        return [dict(zip(names, mix, strict=True)) for mix in product(sides, repeat=len(names))]
    alike = [dict.fromkeys(names, side) for side in sides]
    return alike + [whole | {name: side} for whole in alike for name in names for side in sides if whole[name] != side]


def format_literal(value: Any) -> str:
    """Returns a value as GraphQL text. Enums are not supported, because no required argument has one."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{format_literal(inner)}" for name, inner in value.items()) + "}"
    return json.dumps(value)


def list_fields(schema: GraphQLSchema) -> set[tuple[str, str]]:
    """Returns all fields of the graph without introspection."""
    kinds = [kind for kind in schema.type_map.values() if is_object_type(kind) and not kind.name.startswith("__")]
    return {(kind.name, name) for kind in kinds for name in kind.fields}
