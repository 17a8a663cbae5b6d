"""The schema is golden, described, and true to the protos and to the front ends' operations."""

import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLNonNull,
    GraphQLObjectType,
    get_named_type,
    parse,
    validate,
    validate_schema,
)

from gateway.graph import schema
from gateway.rpc.clients import rpc_of
from gateway.schema.nodes import NodeField
from gateway.schema.references import EdgeField
from gateway.schema.rpc_fields import CallField, MutationField
from gateway.schema.subscription_fields import FollowField
from gateway.schema.types import ENUMS, NODES, MessageField
from quanyu.common.v1 import money_pb2
from services.kit.security import authorization
from tests.gateway.conftest import OPERATIONS
from tests.gateway.graph import CORE, TYPES, declared, files


def test_the_schema_is_the_golden_one() -> None:
    golden = (resources.files("gateway") / "schema.graphql").read_text()
    assert golden == schema.printed(), "run python -m gateway.graph > gateway/schema.graphql"


def test_the_schema_is_valid() -> None:
    assert validate_schema(CORE) == []


@pytest.mark.parametrize("type_", TYPES.values(), ids=str)
def test_everything_is_described(type_: GraphQLNamedType) -> None:
    assert type_.description
    if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType | GraphQLInputObjectType):
        fields: dict[str, Any] = dict(type_.fields)
        bare = [name for name, field in fields.items() if not field.description]
        bare += [f"{name}({arg})" for name, field in fields.items() for arg, of in getattr(field, "args", {}).items() if not of.description]
        assert bare == []
    if isinstance(type_, GraphQLEnumType):
        assert [name for name, value in type_.values.items() if not value.description] == []


@pytest.mark.parametrize("path", sorted(OPERATIONS.glob("*.graphql")), ids=lambda path: path.stem)
def test_the_front_ends_operations_are_valid_and_say_whose_they_are(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# ")
    assert validate(CORE, parse(text)) == []


def test_views_are_true_to_their_messages() -> None:
    for where, field in declared(MessageField):
        if field.owner is None:
            continue
        proto: FieldDescriptor = field.owner.fields_by_name[field.python_name]
        if proto.enum_type is not None:
            assert field.wanted.name == ENUMS[proto.enum_type.full_name], where
        elif proto.message_type is not None and not proto.message_type.GetOptions().map_entry:
            if proto.message_type.full_name == "google.protobuf.Timestamp":
                assert field.wanted.name == "DateTime", where
            else:
                view: Any = TYPES[field.wanted.name]
                assert view.is_type_of(_message_of(proto), None), where


def _message_of(field: FieldDescriptor) -> Any:
    assert field.message_type is not None
    return GetMessageClass(field.message_type)()


def test_edges_lead_to_what_their_batch_finds() -> None:
    for where, field in declared(EdgeField):
        if field.through.value:
            continue
        item = _message_of(field.through.rpc.response.DESCRIPTOR.fields_by_name[field.through.items])
        view: Any = TYPES[field.wanted.name]
        assert view.is_type_of(item, None), where


def test_whatever_asks_a_service_may_fail_alone() -> None:
    for type_ in TYPES.values():
        if isinstance(type_, GraphQLObjectType):
            for name, field in type_.fields.items():
                own = field.extensions["strawberry-definition"]
                if isinstance(own, CallField | MutationField) or (isinstance(own, EdgeField) and not own.wanted.many):
                    assert not isinstance(field.type, GraphQLNonNull), f"{type_.name}.{name}"


def test_every_type_with_an_id_of_its_own_prefix_is_a_node() -> None:
    node = CORE.type_map["Node"]
    assert isinstance(node, GraphQLInterfaceType)
    assert {type_.name for type_ in CORE.get_possible_types(node)} == {each.name for each in NODES.values()}


MEASURES = re.compile(r"first|\w+Metres(Max)?|\w+Minute|\w+Days")
"""What is of 32 bits: pages, distances, times of the day and terms."""


def test_amounts_counts_and_versions_are_never_of_32_bits() -> None:
    small = set()
    for type_ in TYPES.values():
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType | GraphQLInputObjectType):
            for name, field in type_.fields.items():
                small |= {name} if get_named_type(field.type).name == "Int" else set()
                small |= {arg for arg, of in getattr(field, "args", {}).items() if get_named_type(of.type).name == "Int"}
    assert {name for name in small if not MEASURES.fullmatch(name)} == set()


def test_every_rpc_of_the_walk_for_people_is_in_the_graph() -> None:
    """All but bulk imports, what only services may call, and events. A `Get…` or `List…` beside its batch is reached by the latter."""
    fields = [field for kind in (CallField, MutationField, FollowField) for _, field in declared(kind)]
    batches = [field.through for kind in (EdgeField, NodeField) for _, field in declared(kind) if field.through is not None]
    batches += [field.first for field in fields if getattr(field, "first", None) is not None]
    used = {each.rpc.method.full_name for each in (*fields, *batches)}
    used |= {re.sub(r"BatchGet(\w+?)s?$", r"Get\1", name).replace(".BatchList", ".List") for name in used}
    missing = set()
    for service in (service for file in files() for service in file.services_by_name.values() if file.package != "quanyu.events.v1"):
        for method in service.methods:
            internal = authorization.roles_of(method) == {"ROLE_SERVICE"}
            if not internal and not method.name.startswith("Import") and method.full_name not in used:
                missing.add(method.full_name)
    assert missing == set()


def test_a_request_belongs_to_one_rpc() -> None:
    with pytest.raises(TypeError):
        rpc_of(money_pb2.Money)
