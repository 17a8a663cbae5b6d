"""What all protos keep to, and that the services say the same: found from the descriptors, so that what comes is held to it by itself."""

import inspect
import pkgutil
import re
from collections.abc import Iterator
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import Default as default_pool

import quanyu
import services
from quanyu.access.v1 import access_pb2
from quanyu.events.v1 import events_pb2
from services.kit.runtime.runtime import SERVICES, Runtime
from services.kit.security.authorization import check_rules, reasons_of
from services.kit.settings import Settings
from services.kit.transactions.outbox import route_of
from services.local.keys import new_keys

READS = re.compile(r"(Get|BatchGet|List|BatchList|Search|Check|Resolve|Watch)(?=[A-Z])")
"""The verbs of rpcs that change nothing; every other rpc is a write."""
REPEATABLE = {
    "quanyu.events.v1.EventInboxService.Deliver",  # once by the sequence of each event
    "quanyu.events.v1.EventOutboxService.ReplayParkedEvents",  # says of itself that repeating is harmless
}
"""Writes that need no request_id."""


def _files() -> list[Any]:
    root = Path(next(iter(quanyu.__path__)))
    names = sorted(str(path.relative_to(root.parent)) for path in root.rglob("*_pb2.py"))
    for name in names:
        import_module(name.removesuffix(".py").replace("/", "."))
    return [default_pool().FindFileByName(name.replace("_pb2.py", ".proto")) for name in names]


FILES = _files()
ALL_SERVICES: list[ServiceDescriptor] = [service for file in FILES for service in file.services_by_name.values()]
RPCS: list[MethodDescriptor] = [method for service in ALL_SERVICES for method in service.methods]
WRITES = [method for method in RPCS if not READS.match(method.name)]
KINDS = [field.name for field in events_pb2.Event.DESCRIPTOR.oneofs_by_name["body"].fields]


def enums(message: Descriptor) -> Iterator[EnumDescriptor]:
    yield from message.enum_types
    for nested in message.nested_types:
        yield from enums(nested)


ENUMS: dict[str, set[str]] = {
    enum.full_name: {value.name for value in enum.values}
    for file in FILES
    for enum in [*file.enum_types_by_name.values(), *(one for message in file.message_types_by_name.values() for one in enums(message))]
}


def personal(message: Any, path: str = "", inside: tuple[str, ...] = ()) -> list[str]:
    """The paths of personal fields in a message, nested ones included."""
    found = []
    for field in message.fields:
        where = f"{path}{field.name}"
        if field.GetOptions().Extensions[access_pb2.personal]:
            found.append(where)
        if (inner := field.message_type) is not None and inner.full_name not in inside:
            found += personal(inner, f"{where}.", (*inside, inner.full_name))
    return found


def test_there_is_something_to_look_at() -> None:
    assert len(RPCS) > 90 and len(WRITES) > 30 and len(KINDS) > 10 and len(ENUMS) > 40


def test_every_rpc_declares_a_usable_rule() -> None:
    check_rules(ALL_SERVICES)


REASONS_OF_ALL = {
    value.name.removeprefix(enum.values[0].name.removesuffix("UNSPECIFIED"))
    for file in FILES
    for enum in file.enum_types_by_name.values()
    if enum.name.endswith("Reason")
    for value in enum.values
}
"""The reasons that some enum of the protos has."""


@pytest.mark.parametrize("method", RPCS, ids=lambda method: method.full_name)
def test_declared_reasons_exist_and_are_declared_once(method: MethodDescriptor) -> None:
    reasons = reasons_of(method)
    assert len(set(reasons)) == len(reasons)
    assert set(reasons) <= REASONS_OF_ALL


def test_rpcs_that_pass_refusals_on_declare_them() -> None:
    passing = {
        "quanyu.commerce.v1.OrderService.PlaceOrder": [
            "quanyu.district.v1.WalletService.LockCoupons", "quanyu.commerce.v1.StockService.HoldStock",
        ],
        "quanyu.commerce.v1.DiscoveryService.HoldPromise": ["quanyu.commerce.v1.StockService.HoldStock"],
    }  # fmt: skip
    named = {method.full_name: set(reasons_of(method)) for method in RPCS}
    assert all(named[called] <= named[name] for name, names in passing.items() for called in names)


def test_personal_fields_are_found_however_deep() -> None:
    assert "outreaches.text" in personal(default_pool().FindMessageTypeByName("quanyu.member.v1.ListInboxResponse"))


# Writes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", WRITES, ids=lambda method: method.full_name)
def test_a_write_is_once_by_its_first_field(method: MethodDescriptor) -> None:
    fields = method.input_type.fields_by_name
    if method.full_name in REPEATABLE:
        assert "request_id" not in fields
        return
    assert "request_id" in fields, "a write without a request_id cannot be repeated safely"
    assert (fields["request_id"].number, fields["request_id"].type) == (1, fields["request_id"].TYPE_STRING)


def test_reads_take_no_request_id() -> None:
    assert [method.full_name for method in RPCS if method not in WRITES and "request_id" in method.input_type.fields_by_name] == []


@pytest.mark.parametrize("method", WRITES, ids=lambda method: method.full_name)
def test_no_answer_of_a_write_carries_personal_data(method: MethodDescriptor) -> None:
    """The answer's bytes are stored in the idempotency record."""
    assert personal(method.output_type) == []


# Streams --------------------------------------------------------------------------------------------------------------


def test_what_watches_streams_and_goes_on_by_cursors() -> None:
    assert [method for method in RPCS if method.client_streaming] == []
    watching = [method for method in RPCS if method.name.startswith("Watch")]
    assert watching and watching == [method for method in RPCS if method.server_streaming]
    for method in watching:
        after, cursor = method.input_type.fields_by_name["after"], method.output_type.fields_by_name["cursor"]
        assert after.type == cursor.type == after.TYPE_STRING, method.full_name


# Events ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_event_carries_no_personal_data_and_travels_by_a_route_that_exists(kind: str) -> None:
    body = events_pb2.Event.DESCRIPTOR.fields_by_name[kind].message_type
    assert personal(body) == []
    way = route_of(kind)
    assert way.publisher in SERVICES
    assert set(way.subscribers) <= set(SERVICES) - {way.publisher} and way.subscribers
    assert body.fields_by_name[way.key].type == body.fields_by_name[way.key].TYPE_STRING


@pytest.mark.parametrize("name", SERVICES)
async def test_a_service_hears_exactly_what_the_routes_say(name: str, settings: Settings) -> None:
    keys = new_keys()
    own = {"signing_key": keys.signing_setting(name), "secret_keys": keys.secret_key, "hash_keys": keys.hash_key}
    runtime = Runtime.build(name, msgspec.structs.replace(settings, **own))
    try:
        heard = set(import_module(f"services.{name}.__main__").define(runtime).events)
    finally:
        await runtime.close()
    assert heard == {kind for kind in KINDS if name in route_of(kind).subscribers}


# Rules and protos speak the same words --------------------------------------------------------------------------------


def _use_cases() -> list[tuple[str, str]]:
    """(scenario, use case) of every package of a service."""
    root = Path(next(iter(services.__path__)))
    return [(scenario, one.name) for scenario in SERVICES for one in pkgutil.iter_modules([str(root / scenario)]) if one.ispkg]


USE_CASES = _use_cases()


SPOKEN = {
    (scenario, Path(file.name).stem) for file in FILES if file.services_by_name and (scenario := file.package.split(".")[1]) in SERVICES
}


def test_every_use_case_on_the_wire_is_one_of_the_services() -> None:
    assert set(USE_CASES) >= SPOKEN


REASONS = {
    enum.full_name: (enum, file.package.split(".")[1], Path(file.name).stem)
    for file in FILES
    for enum in file.enum_types_by_name.values()
    if enum.name.endswith("Reason") and enum.name.lower() == f"{Path(file.name).stem.replace('_', '')}reason"
}


def test_every_use_case_on_the_wire_has_its_reasons() -> None:
    assert {(scenario, use_case) for _, scenario, use_case in REASONS.values()} == SPOKEN


@pytest.mark.parametrize("name", REASONS)
def test_reasons_generated_from_proto_match_it(name: str) -> None:
    enum, scenario, use_case = REASONS[name]
    prefix = f"{use_case.upper()}_REASON_"
    labels = {value.name for value in enum.values}
    assert all(label.startswith(prefix) for label in labels)
    declared = {label.removeprefix(prefix) for label in labels} - {"UNSPECIFIED"}
    assert set(import_module(f"services.{scenario}.{use_case}.enums").Reason) == declared


def _stored() -> list[type[StrEnum]]:
    """The enums of all use cases whose values are written like the labels of protos: upper case, one prefix."""
    found: dict[str, type[StrEnum]] = {}
    for scenario, use_case in USE_CASES:
        package = import_module(f"services.{scenario}.{use_case}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for _, item in inspect.getmembers(import_module(module.name), inspect.isclass):
                if issubclass(item, StrEnum) and item.__name__ != "Reason" and item.__module__.startswith("services."):
                    found[f"{item.__module__}.{item.__qualname__}"] = item
    return [item for _, item in sorted(found.items()) if all(value.isupper() and "_" in value for value in item)]


STORED = _stored()


def test_enums_are_stored_by_the_labels_of_the_protos() -> None:
    assert len(STORED) > 25


@pytest.mark.parametrize("item", STORED, ids=lambda item: f"{item.__module__}.{item.__name__}")
def test_what_is_stored_is_a_label_of_one_enum(item: type[StrEnum]) -> None:
    assert any(set(item) <= labels for labels in ENUMS.values()), sorted(item)
