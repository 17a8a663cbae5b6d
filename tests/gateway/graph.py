"""The declared fields of the graph, and the protos behind them."""

from importlib import import_module, resources
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from graphql import GraphQLObjectType, specified_scalar_types

from gateway.graph import schema

CORE = schema.build()._schema
TYPES = {name: type_ for name, type_ in CORE.type_map.items() if not name.startswith("__") and name not in specified_scalar_types}


def declared_fields(kind: type[Any]) -> list[tuple[str, Any]]:
    """Returns all fields of the graph of this kind, each with its place."""
    found = []
    for type_ in TYPES.values():
        if isinstance(type_, GraphQLObjectType):
            for name, field in type_.fields.items():
                definition = field.extensions["strawberry-definition"]
                if isinstance(definition, kind):
                    found.append((f"{type_.name}.{name}", definition))
    return found


def proto_files() -> list[Any]:
    """Returns the descriptors of all proto files of the suite."""
    set_ = FileDescriptorSet.FromString((resources.files("quanyu") / "descriptors.binpb").read_bytes())
    return [import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2").DESCRIPTOR for file in set_.file]


def proto_reasons() -> set[str]:
    """Returns every reason of the protos, without its prefix."""
    found = set()
    for file in proto_files():
        for enum in file.enum_types_by_name.values():
            first = enum.values_by_number[0].name
            if enum.name.endswith("Reason") and first.endswith("_REASON_UNSPECIFIED"):
                found |= {value.name.removeprefix(first.removesuffix("UNSPECIFIED")) for value in enum.values if value.number}
    return found
