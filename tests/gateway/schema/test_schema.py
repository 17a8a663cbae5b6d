"""The schema: its committed copy, its descriptions, and its agreement with the protos and the front ends' operations."""

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
from gateway.schema.references import ReferenceField
from gateway.schema.rpc_fields import MutationField, RpcField
from gateway.schema.subscription_fields import SubscriptionField
from gateway.schema.types import ENUMS, NODE_TYPES, MessageField
from quanyu.common.v1 import money_pb2
from services.kit.security import authorization
from tests.gateway.conftest import OPERATIONS
from tests.gateway.graph import CORE, TYPES, declared_fields, proto_files


def test_schema_equals_committed_copy() -> None:
    committed = (resources.files("gateway") / "schema.graphql").read_text()
    assert committed == schema.print_schema(), "run python -m gateway.graph > gateway/schema.graphql"


def test_schema_is_valid() -> None:
    assert validate_schema(CORE) == []


@pytest.mark.parametrize("type_", TYPES.values(), ids=str)
def test_type_and_its_fields_have_descriptions(type_: GraphQLNamedType) -> None:
    assert type_.description
    if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType | GraphQLInputObjectType):
        fields: dict[str, Any] = dict(type_.fields)
        bare = [name for name, field in fields.items() if not field.description]
        bare += [f"{name}({arg})" for name, field in fields.items() for arg, of in getattr(field, "args", {}).items() if not of.description]
        assert bare == []
    if isinstance(type_, GraphQLEnumType):
        assert [name for name, value in type_.values.items() if not value.description] == []


@pytest.mark.parametrize("path", sorted(OPERATIONS.glob("*.graphql")), ids=lambda path: path.stem)
def test_front_end_operation_is_valid_and_commented(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# ")
    assert validate(CORE, parse(text)) == []


def test_object_types_fit_their_messages() -> None:
    for where, field in declared_fields(MessageField):
        if field.owner is None:
            continue
        proto: FieldDescriptor = field.owner.fields_by_name[field.python_name]
        if proto.enum_type is not None:
            assert field.annotation_info.name == ENUMS[proto.enum_type.full_name], where
        elif proto.message_type is not None and not proto.message_type.GetOptions().map_entry:
            if proto.message_type.full_name == "google.protobuf.Timestamp":
                assert field.annotation_info.name == "DateTime", where
            else:
                type_: Any = TYPES[field.annotation_info.name]
                assert type_.is_type_of(_message_of(proto), None), where


def _message_of(field: FieldDescriptor) -> Any:
    assert field.message_type is not None
    return GetMessageClass(field.message_type)()


def test_reference_has_type_of_loaded_object() -> None:
    for where, field in declared_fields(ReferenceField):
        if field.loader.value_name:
            continue
        item = _message_of(field.loader.rpc.response.DESCRIPTOR.fields_by_name[field.loader.items])
        type_: Any = TYPES[field.annotation_info.name]
        assert type_.is_type_of(item, None), where


def test_field_calling_a_service_is_nullable() -> None:
    for type_ in TYPES.values():
        if isinstance(type_, GraphQLObjectType):
            for name, field in type_.fields.items():
                own = field.extensions["strawberry-definition"]
                if isinstance(own, RpcField | MutationField) or (isinstance(own, ReferenceField) and not own.annotation_info.is_list):
                    assert not isinstance(field.type, GraphQLNonNull), f"{type_.name}.{name}"


def test_type_with_id_prefix_is_node() -> None:
    node = CORE.type_map["Node"]
    assert isinstance(node, GraphQLInterfaceType)
    assert {type_.name for type_ in CORE.get_possible_types(node)} == {each.name for each in NODE_TYPES.values()}


SMALL_NUMBERS = re.compile(r"first|\w+Metres(Max)?|\w+Minute|\w+Days")
"""Fields and arguments of 32 bits: page sizes, distances, times of the day, and terms in days."""


def test_amounts_counts_and_versions_have_64_bits() -> None:
    small = set()
    for type_ in TYPES.values():
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType | GraphQLInputObjectType):
            for name, field in type_.fields.items():
                small |= {name} if get_named_type(field.type).name == "Int" else set()
                small |= {arg for arg, of in getattr(field, "args", {}).items() if get_named_type(of.type).name == "Int"}
    assert {name for name in small if not SMALL_NUMBERS.fullmatch(name)} == set()


def test_rpc_for_people_is_in_the_graph() -> None:
    """Bulk imports, events and rpcs for services only are exceptions. The graph uses the batch rpc in place of its `Get…` or `List…`."""
    fields = [field for kind in (RpcField, MutationField, SubscriptionField) for _, field in declared_fields(kind)]
    loaders = [field.loader for kind in (ReferenceField, NodeField) for _, field in declared_fields(kind) if field.loader is not None]
    loaders += [field.loader for field in fields if getattr(field, "loader", None) is not None]
    used = {each.rpc.method.full_name for each in (*fields, *loaders)}
    used |= {re.sub(r"BatchGet(\w+?)s?$", r"Get\1", name).replace(".BatchList", ".List") for name in used}
    missing = set()
    for service in (service for file in proto_files() for service in file.services_by_name.values() if file.package != "quanyu.events.v1"):
        for method in service.methods:
            internal = authorization.roles_of(method) == {"ROLE_SERVICE"}
            if not internal and not method.name.startswith("Import") and method.full_name not in used:
                missing.add(method.full_name)
    assert missing == set()


def test_message_without_rpc_is_refused() -> None:
    with pytest.raises(TypeError):
        rpc_of(money_pb2.Money)
