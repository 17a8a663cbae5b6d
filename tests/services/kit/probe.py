"""Services that exist in tests only, declared at run time: rpcs with any rule, or none, over a request with the fields given."""

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
numbers = count()


def probe(rules: Mapping[str, access_pb2.Rule | None], streaming: Collection[str] = (), refuses: Sequence[str] = ()) -> ServiceDescriptor:
    """A service `ProbeService` with an rpc for each rule; None: it declares none. Those in `streaming` answer with a stream; all of them
    declare the reasons `refuses`."""
    module = f"tests/services/kit/probe{next(numbers)}"
    package = module.replace("/", ".")
    file = FileDescriptorProto(name=f"{module}.proto", package=package, syntax="proto3")
    file.dependency.append(access_pb2.DESCRIPTOR.name)
    request = file.message_type.add(name="Request")
    for number, name in enumerate((*FIELDS, *LISTS), 1):
        label = FieldDescriptorProto.LABEL_REPEATED if name in LISTS else FieldDescriptorProto.LABEL_OPTIONAL
        request.field.add(name=name, number=number, type=FieldDescriptorProto.TYPE_STRING, label=label)
    service = file.service.add(name="ProbeService")
    for name, rule in rules.items():
        method = service.method.add(name=name, input_type=f".{package}.Request", output_type=f".{package}.Request")
        method.server_streaming = name in streaming
        method.options.Extensions[access_pb2.refuses].reasons.extend(refuses)
        if rule is not None:
            method.options.Extensions[access_pb2.rule].CopyFrom(rule)
    default_pool().AddSerializedFile(file.SerializeToString())
    return default_pool().FindFileByName(file.name).services_by_name["ProbeService"]


def rpc(*roles: str, within: Sequence[str] = (), **more: Any) -> MethodDescriptor:
    """One rpc with such a rule."""
    rule = access_pb2.Rule(roles=[access_pb2.Role.Value(role) for role in roles], within=within, **more)
    return probe({"Ask": rule}).methods_by_name["Ask"]


def request(method: MethodDescriptor, **fields: Any) -> Message:
    """A request of that rpc."""
    return GetMessageClass(method.input_type)(**fields)


def servicer(service: ServiceDescriptor, *built: str, **behaviours: Callable[..., Any]) -> Any:
    """A servicer like those generated code has, with the rpcs that are `built`, to echo their request, or behave like this."""

    async def unbuilt(self: Any, request: Any, context: Any) -> None: ...

    module = service.file.name.removesuffix(".proto").replace("/", ".") + "_pb2_grpc"
    base = type("ProbeServiceServicer", (), {method.name: unbuilt for method in service.methods} | {"__module__": module})

    async def answer(self: Any, request: Any, context: Any) -> Any:
        return request

    return type("Probe", (base,), {**dict.fromkeys(built, answer), **behaviours})()


def add(servicer: Any, server: grpc.aio.Server) -> None:
    """What generated code does to add such a servicer to a server."""
    service = descriptor_of(servicer)
    message = GetMessageClass(service.methods[0].input_type)
    handlers = {}
    for method in service.methods:
        handler = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        handlers[method.name] = handler(getattr(servicer, method.name), message.FromString, message.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))


def called(channel: grpc.aio.Channel, method: MethodDescriptor, request: Message) -> Any:
    """The call of a probe's rpc."""
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    path = f"/{method.containing_service.full_name}/{method.name}"
    return kind(path, type(request).SerializeToString, GetMessageClass(method.output_type).FromString)(request)
