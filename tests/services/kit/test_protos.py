"""Conventions of all protos, and their agreement with the services. The descriptors give the cases, so that new protos are tested too."""

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
"""Rpcs with these verbs change nothing; each other rpc is a write."""
REPEATABLE = {
    "quanyu.events.v1.EventInboxService.Deliver",  # idempotent by the sequence of each event
    "quanyu.events.v1.EventOutboxService.ReplayParkedEvents",  # a repeat changes nothing, as its description says
}
"""These writes need no request_id."""


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


def personal_fields(message: Any, path: str = "", inside: tuple[str, ...] = ()) -> list[str]:
    """Returns the paths of the personal fields in a message, including nested ones."""
    found = []
    for field in message.fields:
        field_path = f"{path}{field.name}"
        if field.GetOptions().Extensions[access_pb2.personal]:
            found.append(field_path)
        if (inner := field.message_type) is not None and inner.full_name not in inside:
            found += personal_fields(inner, f"{field_path}.", (*inside, inner.full_name))
    return found


def test_descriptors_are_found() -> None:
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
"""All reasons of all enums in the protos."""


@pytest.mark.parametrize("method", RPCS, ids=lambda method: method.full_name)
def test_declared_reasons_exist_and_are_declared_once(method: MethodDescriptor) -> None:
    reasons = reasons_of(method)
    assert len(set(reasons)) == len(reasons)
    assert set(reasons) <= REASONS_OF_ALL


def test_rpcs_that_pass_refusals_on_declare_them() -> None:
    passed_on = {
        "quanyu.commerce.v1.OrderService.PlaceOrder": [
            "quanyu.district.v1.WalletService.LockCoupons", "quanyu.commerce.v1.StockService.HoldStock",
        ],
        "quanyu.commerce.v1.DiscoveryService.HoldPromise": ["quanyu.commerce.v1.StockService.HoldStock"],
    }  # fmt: skip
    named = {method.full_name: set(reasons_of(method)) for method in RPCS}
    assert all(named[called] <= named[name] for name, names in passed_on.items() for called in names)


def test_nested_personal_fields_are_found() -> None:
    assert "outreaches.text" in personal_fields(default_pool().FindMessageTypeByName("quanyu.member.v1.ListInboxResponse"))


# Writes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", WRITES, ids=lambda method: method.full_name)
def test_write_has_a_request_id_as_first_field(method: MethodDescriptor) -> None:
    fields = method.input_type.fields_by_name
    if method.full_name in REPEATABLE:
        assert "request_id" not in fields
        return
    assert "request_id" in fields, "a write without a request_id cannot be repeated safely"
    assert (fields["request_id"].number, fields["request_id"].type) == (1, fields["request_id"].TYPE_STRING)


def test_reads_take_no_request_id() -> None:
    assert [method.full_name for method in RPCS if method not in WRITES and "request_id" in method.input_type.fields_by_name] == []


@pytest.mark.parametrize("method", WRITES, ids=lambda method: method.full_name)
def test_answer_of_a_write_has_no_personal_field(method: MethodDescriptor) -> None:
    """The bytes of the answer are stored in the idempotency record."""
    assert personal_fields(method.output_type) == []


# Streams --------------------------------------------------------------------------------------------------------------


def test_watch_rpcs_stream_with_cursors() -> None:
    assert [method for method in RPCS if method.client_streaming] == []
    watching = [method for method in RPCS if method.name.startswith("Watch")]
    assert watching and watching == [method for method in RPCS if method.server_streaming]
    for method in watching:
        after, cursor = method.input_type.fields_by_name["after"], method.output_type.fields_by_name["cursor"]
        assert after.type == cursor.type == after.TYPE_STRING, method.full_name


# Events ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_event_has_a_route_and_no_personal_field(kind: str) -> None:
    body = events_pb2.Event.DESCRIPTOR.fields_by_name[kind].message_type
    assert personal_fields(body) == []
    route = route_of(kind)
    assert route.publisher in SERVICES
    assert set(route.subscribers) <= set(SERVICES) - {route.publisher} and route.subscribers
    assert body.fields_by_name[route.key].type == body.fields_by_name[route.key].TYPE_STRING


@pytest.mark.parametrize("name", SERVICES)
async def test_service_handles_the_events_of_its_routes(name: str, settings: Settings) -> None:
    keys = new_keys()
    own = {"signing_key": keys.signing_setting(name), "secret_keys": keys.secret_key, "hash_keys": keys.hash_key}
    runtime = Runtime.build(name, msgspec.structs.replace(settings, **own))
    try:
        handled = set(import_module(f"services.{name}.__main__").define(runtime).events)
    finally:
        await runtime.close()
    assert handled == {kind for kind in KINDS if name in route_of(kind).subscribers}


# Rules and protos agree --------------------------------------------------------------------------------


def _use_cases() -> list[tuple[str, str]]:
    """Returns (scenario, use case) for each package of a service."""
    root = Path(next(iter(services.__path__)))
    return [(scenario, one.name) for scenario in SERVICES for one in pkgutil.iter_modules([str(root / scenario)]) if one.ispkg]


USE_CASES = _use_cases()


USE_CASES_OF_PROTOS = {
    (scenario, Path(file.name).stem) for file in FILES if file.services_by_name and (scenario := file.package.split(".")[1]) in SERVICES
}


def test_use_case_of_a_proto_has_a_package() -> None:
    assert set(USE_CASES) >= USE_CASES_OF_PROTOS


REASONS = {
    enum.full_name: (enum, file.package.split(".")[1], Path(file.name).stem)
    for file in FILES
    for enum in file.enum_types_by_name.values()
    if enum.name.endswith("Reason") and enum.name.lower() == f"{Path(file.name).stem.replace('_', '')}reason"
}


def test_use_case_of_a_proto_has_reasons() -> None:
    assert {(scenario, use_case) for _, scenario, use_case in REASONS.values()} == USE_CASES_OF_PROTOS


@pytest.mark.parametrize("name", REASONS)
def test_reasons_generated_from_proto_match_it(name: str) -> None:
    enum, scenario, use_case = REASONS[name]
    prefix = f"{use_case.upper()}_REASON_"
    labels = {value.name for value in enum.values}
    assert all(label.startswith(prefix) for label in labels)
    declared = {label.removeprefix(prefix) for label in labels} - {"UNSPECIFIED"}
    assert set(import_module(f"services.{scenario}.{use_case}.enums").Reason) == declared


def _stored_enums() -> list[type[StrEnum]]:
    """Returns the enums of all use cases whose values have the form of proto labels: upper case, with a prefix."""
    found: dict[str, type[StrEnum]] = {}
    for scenario, use_case in USE_CASES:
        package = import_module(f"services.{scenario}.{use_case}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for _, item in inspect.getmembers(import_module(module.name), inspect.isclass):
                if issubclass(item, StrEnum) and item.__name__ != "Reason" and item.__module__.startswith("services."):
                    found[f"{item.__module__}.{item.__qualname__}"] = item
    return [item for _, item in sorted(found.items()) if all(value.isupper() and "_" in value for value in item)]


STORED_ENUMS = _stored_enums()


def test_stored_enums_are_found() -> None:
    assert len(STORED_ENUMS) > 25


@pytest.mark.parametrize("item", STORED_ENUMS, ids=lambda item: f"{item.__module__}.{item.__name__}")
def test_stored_enum_has_labels_of_one_proto_enum(item: type[StrEnum]) -> None:
    assert any(set(item) <= labels for labels in ENUMS.values()), sorted(item)
