"""Tests that all names that are stored or sent between processes equal the committed table `stored_names.toml`.

The names come from the real objects: what each service defines, descriptors, and the kit's constants.
"""

import asyncio
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from msgspec import inspect

from quanyu.commerce.v1 import orders_pb2
from services.commerce.stock.hold_quota import HOLDERS
from services.district.matching.repository import COLLECTION as AFFINITY
from services.kit import errors
from services.kit.descriptors import full_name
from services.kit.events import inbox
from services.kit.mongo import lease
from services.kit.projections import scopes
from services.kit.rpc import status
from services.kit.runtime.runtime import SERVICES, Runtime
from services.kit.security.caller import Caller, caller_context
from services.kit.settings import Settings
from services.kit.transactions import idempotency
from services.kit.transactions.idempotency import IdempotencyKey
from services.kit.transactions.outbox import BODIES, DELIVERIES, KEYS, route_of
from services.kit.values.event import Event
from services.local.keys import new_keys
from tests.services.kit.test_protos import RPCS

FILE = Path(__file__).with_name("stored_names.toml")
AT = datetime(2026, 1, 1, tzinfo=UTC)
ADVICE = """
A name that is stored or sent has changed: databases and running processes still use the old one.
If you did not intend this, restore the name. If you did:
1. Write a migration of the stored documents, or state in the commit why none is needed.
2. Keep the old name readable while processes of both versions run.
3. Run `python -m tests.services.test_stored_names` and commit stored_names.toml.
"""
Section = Mapping[str, Any]


async def names() -> dict[str, Section]:
    """Collects the sections of the table."""
    collections: dict[str, Section] = {}
    for service in SERVICES:
        keys = new_keys()
        settings = Settings(signing_key=keys.signing_setting(service), secret_keys=keys.secret_key, hash_keys=keys.hash_key)
        runtime = Runtime.build(service, settings)
        for collection in import_module(f"services.{service}.__main__").define(runtime).collections:
            paths = sorted(set(_paths(inspect.type_info(collection.struct), "")))
            collections[f"collections.{service}.{collection.name}"] = {"noun": collection.noun, "fields": paths}
        await runtime.close()
    kit = (idempotency.COLLECTION, inbox.COLLECTION, DELIVERIES, KEYS, lease.COLLECTION, scopes.COLLECTION, HOLDERS, AFFINITY)
    return {
        "idempotency": _idempotency(),
        "refusals": {code: status.CODES[kind].name for code, kind in errors.BY_CODE.items()},
        "collections": {"without_struct": sorted(kit)},
        **collections,
        **{f"events.{kind}": _event(kind) for kind in BODIES},
    }


def _idempotency() -> Section:
    """Returns the format of an id, the fields of a record, and the rpcs whose names are part of ids."""
    request = orders_pb2.PlaceOrderRequest(request_id="REQUEST_ID")
    token = caller_context.set(Caller(id="CALLER"))
    key, of_step = IdempotencyKey.from_request(request), IdempotencyKey.from_request(request, step="coupons")
    caller_context.reset(token)
    guard = idempotency.IdempotencyGuard(database=None)  # type: ignore[arg-type]
    guard.record(key, AT, orders_pb2.PlaceOrderResponse())
    guard.record(of_step, AT, errors.Conflict("REASON"))
    answer, refusal = guard.written
    return {
        "ids": [key.id, of_step.id],
        "fields": sorted(answer.keys() | refusal.keys()),
        "refusal_fields": sorted(refusal["refusal"]),
        "rpcs": sorted(full_name(method) for method in RPCS if "request_id" in method.input_type.fields_by_name),
    }


def _event(kind: str) -> Section:
    route = route_of(kind)
    return {
        "key": route.key,
        "publisher": route.publisher,
        "subscribers": sorted(route.subscribers),
        "fields": sorted(field.name for field in BODIES[kind].fields),
    }


def _paths(info: Any, path: str) -> Iterator[str]:
    """Yields the dotted paths of a struct's values, through lists, maps and optional values."""
    match info:
        case inspect.StructType():
            for field in info.fields:
                yield from _paths(field.type, f"{path}.{field.encode_name}" if path else field.encode_name)
        case inspect.UnionType():
            for each in info.types:
                yield from () if isinstance(each, inspect.NoneType) else _paths(each, path)
        case inspect.CollectionType():
            yield from _paths(info.item_type, path)
        case inspect.DictType():
            yield from _paths(info.value_type, path)
        case inspect.Metadata():
            yield from _paths(info.type, path)
        case _:
            yield path


def render(sections: Mapping[str, Section]) -> str:
    """Writes sections as TOML, one value a line."""
    blocks = []
    for title, section in sections.items():
        lines = [f"{name} = {_value(value)}" for name, value in section.items()]
        blocks.append("\n".join([f"[{title}]", *lines]))
    return "# Written by `python -m tests.services.test_stored_names`; see there before you change it.\n\n" + "\n\n".join(blocks) + "\n"


def _value(value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return "[\n" + "".join(f'    "{each}",\n' for each in value) + "]"


def differences(pinned: Any, found: Any, path: str = "") -> list[str]:
    """Returns the differences of two parsed tables."""
    if isinstance(pinned, dict) and isinstance(found, dict):
        keys = sorted(pinned.keys() | found.keys())
        return [line for key in keys for line in differences(pinned.get(key), found.get(key), f"{path}.{key}" if path else key)]
    if isinstance(pinned, list) and isinstance(found, list):
        removed, added = sorted(set(pinned) - set(found)), sorted(set(found) - set(pinned))
        return [f"{path}: - {each}" for each in removed] + [f"{path}: + {each}" for each in added]
    return [] if pinned == found else [f"{path}: {pinned} -> {found}"]


async def test_stored_names_equal_the_committed_table() -> None:
    found = tomllib.loads(render(await names()))
    changed = differences(tomllib.loads(FILE.read_text()), found)
    assert not changed, "\n".join(["", *changed, ADVICE])


def test_refusal_codes_are_unique() -> None:
    assert len(errors.BY_CODE) == len(errors.FAMILY) == len(status.CODES)


@pytest.mark.parametrize("kind", BODIES)
def test_event_kind_has_exactly_one_struct(kind: str) -> None:
    publisher = route_of(kind).publisher
    import_module(f"services.{publisher}.__main__")
    structs = [each for each in Event.__subclasses__() if each.kind == kind and each.__module__.startswith("services.")]
    assert [each.__module__.split(".")[1] for each in structs] == [publisher]


if __name__ == "__main__":
    FILE.write_text(render(asyncio.run(names())))
    sys.stdout.write(f"wrote {FILE}\n")
