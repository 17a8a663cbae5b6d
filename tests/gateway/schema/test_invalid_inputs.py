"""Invalid inputs: a refusal names the field in the client's spelling, and only fields that the input has."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from graphql import get_named_type, is_input_object_type

from tests.gateway.conftest import Gateway, Open
from tests.gateway.schema_operations import OperationGenerator
from tests.gateway.small_world import build, new_key

ENDING = re.compile(r"cancel|release|dismiss|revoke|unbind|unlink|leave|move|complete")
"""Mutations that end something run last."""
INVALID_VALUES: Mapping[str, tuple[Any, ...]] = {
    "ID": ("😀", "str_ a", "brd_😀", "stf_😀"),
    "String": ("\0", "  ", "a\u202eb", "字" * 3_000),
    "Int": (-1, 2**31 - 1),
    "Long": (-1, 10**15),
    "Float": (999.0,),
    "Decimal": ("-1", "0.0001", "1" + "0" * 15),
    "DateTime": ("1970-01-01T00:00:00Z", "9999-01-01T00:00:00Z"),
}
"""Values of each type that almost no field accepts."""
IDS = {
    "brand": ["brd_a"], "store": ["str_a1"], "org_unit": ["unt_a"], "unit": ["unt_a"], "staff": ["stf_guide"], "consumer": ["con_anna"],
    "linked_consumer": ["con_bea"],
    "variant": ["var_40"], "product": ["prd_shirt"], "district": ["dst_d"], "campaign": ["cmp_c"],
    "hold": ["hld_x"], "order": ["ord_x"], "grant": ["grt_x"],
    "visit": ["vis_x"], "coupon": ["cpn_x"], "task": ["tsk_x"], "outreach": ["out_x"], "venue": ["ven_x"],
}  # fmt: skip
CALLERS = {"sendOutreach": "stf_guide"}
NAMES = {"name", "nameEn", "zh", "en", "displayName", "title"}
"""Fields with a text that people choose, which must not be empty."""
OMITTED = {"hireStaff": "orgUnitId", "moveStaff": "orgUnitId", "placeOrder": "holdId"}
"""Of two exclusive fields, the one that is left out."""


def paths(kind: Any) -> set[str]:
    """Returns the paths of all fields of an input type, without list indexes."""
    found = set()
    for name, field in kind.fields.items():
        inner = get_named_type(field.type)
        found |= {name} | ({f"{name}.{path}" for path in paths(inner)} if is_input_object_type(inner) else set())
    return found


def invalid_inputs(kind: Any, given: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the input with one field, at any depth, left out or invalid."""
    for name, value in given.items():
        inner = get_named_type(kind.fields[name].type)
        if is_input_object_type(inner):
            part = value[0] if isinstance(value, list) else value
            for path, wrong in invalid_inputs(inner, part):
                yield f"{name}.{path}", given | {name: [wrong] if isinstance(value, list) else wrong}
            if isinstance(value, list):
                yield name, given | {name: []}
                yield name, given | {name: value * 501}
        for wrong in INVALID_VALUES.get(inner.name, ()):
            yield name, given | {name: [wrong] if isinstance(value, list) else wrong}
        if kind.fields[name].type == inner:
            yield f"without {name}", {each: kept for each, kept in given.items() if each != name}


@pytest.fixture
async def gateway(open_gateway: Open) -> Gateway:
    gateway = await open_gateway("organization", "commerce", "member", "district")
    await build(gateway)
    return gateway


async def test_refusal_names_a_field_of_the_input(gateway: Gateway) -> None:
    schema = gateway.app.state.executor.core
    generator = OperationGenerator(schema, datetime.now(UTC))
    whole = {name: given for name, _, given in generator.mutations({"own": IDS})}
    assert not generator.unknown
    wrong_paths, refused = [], 0
    for name, given in sorted(whole.items(), key=lambda one: bool(ENDING.search(one[0]))):
        kind: Any = get_named_type(schema.mutation_type.fields[name].args["input"].type)
        known, noun = paths(kind), name[0].upper() + name[1:]
        query = f"mutation($input:{noun}Input!){{{name}(input:$input){{__typename ...on InvalidInput{{field message}}}}}}"
        given.pop(OMITTED.get(name), None)
        for path, wrong in invalid_inputs(kind, given):
            keyed = {} if path == "idempotencyKey" else {"idempotencyKey": new_key()}
            answer = (await gateway.data(query, {"input": wrong | keyed}, subject=CALLERS.get(name, "operator")))[name]
            if answer["__typename"] == "InvalidInput":
                refused += 1
                if re.sub(r"\.\d+", "", answer["field"] or "") not in known:
                    wrong_paths.append((name, path, answer))
            elif path.rpartition(".")[2] in NAMES:
                wrong_paths.append((name, path, answer))
    assert wrong_paths == []
    assert refused > 300
