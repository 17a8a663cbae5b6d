"""Descriptor lookups: the rpc that takes a request message. Names of rpcs come from here and not from Python classes."""

from functools import cache
from typing import Any

from google.protobuf.descriptor import MethodDescriptor


@cache
def method_of(request: Any) -> MethodDescriptor:
    """Returns the one rpc that takes messages of this descriptor. TypeError if no rpc does, or more than one."""
    methods: list[MethodDescriptor] = [
        method for service in request.file.services_by_name.values() for method in service.methods if method.input_type is request
    ]
    if len(methods) != 1:
        found = ", ".join(map(full_name, methods)) or "no rpc"
        raise TypeError(f"{request.full_name} is the request of {found}. It must be the request of exactly one rpc.")
    return methods[0]


def full_name(method: MethodDescriptor) -> str:
    """Returns the rpc's full name as gRPC writes it: `quanyu.commerce.v1.OrderService/PlaceOrder`."""
    return f"{method.containing_service.full_name}/{method.name}"
