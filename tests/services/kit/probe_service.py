"""gRPC services for tests, declared at run time: rpcs with any rule, or none, and a request with the fields of FIELDS and LISTS."""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import Default as default_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from quanyu.access.v1 import access_pb2
from services.kit.rpc.server import descriptor_of

FIELDS = ("brand_id", "store_id", "org_unit_id", "consumer_id", "staff_id", "district_id", "colour_id")
LISTS = ("store_ids", "brand_ids")
module_numbers = count()


def make_service(
    rules: Mapping[str, access_pb2.Rule | None], streaming: Collection[str] = (), refuses: Sequence[str] = ()
) -> ServiceDescriptor:
    """Declares a service `ProbeService` with an rpc for each rule; None declares no rule.

    The rpcs in `streaming` return a stream. All rpcs declare the reasons of `refuses`.
    """
    module = f"tests/services/kit/probe{next(module_numbers)}"
    package = module.replace("/", ".")
    file = FileDescriptorProto(name=f"{module}.proto", package=package, syntax="proto3")
    file.dependency.append(access_pb2.DESCRIPTOR.name)
    make_request = file.message_type.add(name="Request")
    for number, name in enumerate((*FIELDS, *LISTS), 1):
        label = FieldDescriptorProto.LABEL_REPEATED if name in LISTS else FieldDescriptorProto.LABEL_OPTIONAL
        make_request.field.add(name=name, number=number, type=FieldDescriptorProto.TYPE_STRING, label=label)
    service = file.service.add(name="ProbeService")
    for name, rule in rules.items():
        method = service.method.add(name=name, input_type=f".{package}.Request", output_type=f".{package}.Request")
        method.server_streaming = name in streaming
        method.options.Extensions[access_pb2.refuses].reasons.extend(refuses)
        if rule is not None:
            method.options.Extensions[access_pb2.rule].CopyFrom(rule)
    default_pool().AddSerializedFile(file.SerializeToString())
    return default_pool().FindFileByName(file.name).services_by_name["ProbeService"]


def make_rpc(*roles: str, within: Sequence[str] = (), **more: Any) -> MethodDescriptor:
    """Declares an rpc with this rule."""
    rule = access_pb2.Rule(roles=[access_pb2.Role.Value(role) for role in roles], within=within, **more)
    return make_service({"Ask": rule}).methods_by_name["Ask"]


def make_request(method: MethodDescriptor, **fields: Any) -> Message:
    """Builds a request of an rpc."""
    return GetMessageClass(method.input_type)(**fields)


def make_servicer(service: ServiceDescriptor, *implemented: str, **behaviours: Callable[..., Any]) -> Any:
    """Builds a servicer with a base class like generated code. The `implemented` rpcs echo the request; `behaviours` replace them."""

    async def unimplemented(self: Any, make_request: Any, context: Any) -> None: ...

    module = service.file.name.removesuffix(".proto").replace("/", ".") + "_pb2_grpc"
    base = type("ProbeServiceServicer", (), {method.name: unimplemented for method in service.methods} | {"__module__": module})

    async def echo(self: Any, make_request: Any, context: Any) -> Any:
        return make_request

    return type("Probe", (base,), {**dict.fromkeys(implemented, echo), **behaviours})()


def add_servicer(make_servicer: Any, server: grpc.aio.Server) -> None:
    """Adds a servicer to a server, as generated code does."""
    service = descriptor_of(make_servicer)
    message = GetMessageClass(service.methods[0].input_type)
    handlers = {}
    for method in service.methods:
        handler = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        handlers[method.name] = handler(getattr(make_servicer, method.name), message.FromString, message.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))


def call_rpc(channel: grpc.aio.Channel, method: MethodDescriptor, make_request: Message) -> Any:
    """Starts a call of an rpc."""
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    path = f"/{method.containing_service.full_name}/{method.name}"
    return kind(path, type(make_request).SerializeToString, GetMessageClass(method.output_type).FromString)(make_request)
