"""A service's gRPC server: health, reflection, the first gate, deadlines, refusals, one log line and one span per call."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import Default as default_pool
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from services.kit import access, channel, clock, ids, status, telemetry
from services.kit.errors import Refusal
from services.kit.logs import logger

Register = tuple[Callable[[Any, grpc.aio.Server], None], Any]
"""A generated `add_…Servicer_to_server` and the servicer it adds."""
CALLS_MAX = 512
"""Calls in progress at once; further ones are answered RESOURCE_EXHAUSTED by the transport."""


KEEPALIVE = [("grpc.http2.min_ping_interval_without_data_ms", channel.KEEPALIVE_MS // 2), ("grpc.keepalive_permit_without_calls", 1)]
"""Our own channels ping while they are idle, which a server takes for an attack unless told."""


def descriptor_of(servicer: object) -> ServiceDescriptor:
    """The service a servicer serves, found by its generated base class; every rpc of it must be built."""
    for base in type(servicer).__mro__:
        if base.__module__.endswith("_pb2_grpc") and base.__name__.endswith("Servicer"):
            module = base.__module__.removesuffix("_pb2_grpc").replace(".", "/") + ".proto"
            service = default_pool().FindFileByName(module).services_by_name[base.__name__.removesuffix("Servicer")]
            missing = [method.name for method in service.methods if getattr(type(servicer), method.name) is getattr(base, method.name)]
            if missing:
                raise ValueError(f"{service.full_name} declares rpcs that {type(servicer).__name__} does not have: {', '.join(missing)}")
            return service
    raise TypeError(f"{type(servicer).__name__} has no generated base class")


class Calls(grpc.aio.ServerInterceptor):
    """What happens around each call of our own services; health and reflection pass untouched."""

    def __init__(self, gate: access.Gate, services: Iterable[ServiceDescriptor]) -> None:
        self.gate = gate
        self.methods = {f"/{service.full_name}/{method.name}": method for service in services for method in service.methods}
        self.wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        if details.method in self.wrapped:
            return self.wrapped[details.method]
        handler = await continuation(details)
        method = self.methods.get(details.method)
        if handler is None or method is None:
            return handler
        self.wrapped[details.method] = grpc.unary_unary_rpc_method_handler(
            self._around(method, handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return self.wrapped[details.method]

    def _around(self, method: MethodDescriptor, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        async def call(request: Message, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            started, code, reason = time.perf_counter(), "OK", ""
            metadata = context.invocation_metadata() or ()
            trace_context = telemetry.context_from({key: value for key, value in metadata if isinstance(value, str)})
            with telemetry.TRACER.start_as_current_span(method.full_name, context=trace_context):
                try:
                    await self._enter(method, request, context, metadata)
                    return await behaviour(request, context)
                except Refusal as refusal:
                    refused = status.to_status(refusal)
                    code, reason = status.CODES[type(refusal)].name, refusal.reason
                    await context.abort_with_status(rpc_status.to_status(refused))
                except asyncio.CancelledError:
                    code = "CANCELLED"
                    raise
                except Exception:
                    code, bug = "INTERNAL", ids.new("bug")
                    telemetry.BUGS.labels(method.full_name).inc()
                    logger().exception("bug", rpc=method.full_name, bug=bug)
                    await context.abort_with_status(
                        rpc_status.to_status(status_pb2.Status(code=grpc.StatusCode.INTERNAL.value[0], message=f"internal error {bug}"))
                    )
                finally:
                    seconds = time.perf_counter() - started
                    telemetry.CALLS.labels(method.full_name, code).observe(seconds)
                    logger().debug("call", rpc=method.full_name, code=code, reason=reason, milliseconds=round(seconds * 1000, 2))

        return call

    async def _enter(self, method: MethodDescriptor, request: Message, context: grpc.aio.ServicerContext[Any, Any], metadata: Any) -> None:
        """Sets who calls, their clock and the time left, which the call's own task carries from here on."""
        if (left := context.time_remaining()) is not None:
            channel.deadline.set(time.monotonic() + left)
        principal = self.gate.principal(metadata)
        if principal is not None and principal.clock_offset:
            clock.offset.set(timedelta(seconds=principal.clock_offset))
        access.current.set(await self.gate.admit(method, principal, request))


class Server:
    """The server of one process; `await start()` answers the port it listens at."""

    def __init__(self, servicers: Iterable[Register], gate: access.Gate, *, drain_seconds: float) -> None:
        servicers = list(servicers)
        services = [descriptor_of(servicer) for _, servicer in servicers]
        access.check_rules(services)
        self.drain_seconds = drain_seconds
        options = [*channel.LIMITS, *KEEPALIVE, ("grpc.so_reuseport", 0)]
        self.server = grpc.aio.server(interceptors=[Calls(gate, services)], options=options, maximum_concurrent_rpcs=CALLS_MAX)
        for add, servicer in servicers:
            add(servicer, self.server)
        self.health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        names = [service.full_name for service in services]
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], self.server)

    async def start(self, listen: str) -> int:
        """Begins to answer; health says SERVING. OSError when the address is taken."""
        try:
            port = self.server.add_insecure_port(listen)
        except RuntimeError as error:
            raise OSError(f"cannot listen at {listen}: {error}") from None
        await self.server.start()
        await self.health.set("", health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self) -> None:
        """Takes no more calls (health says NOT_SERVING) and lets those in progress end, for at most `drain_seconds`."""
        await self.health.enter_graceful_shutdown()
        await self.server.stop(self.drain_seconds)
