"""What happens around each call: the first gate, deadline, clock and trace, refusals as status, one log line and one measure at its end."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_status import rpc_status

from services.kit import clock, ids
from services.kit.errors import Refusal
from services.kit.observability import telemetry
from services.kit.observability.logs import logger
from services.kit.rpc import channel, status
from services.kit.rpc.streams import ConcurrencyLimit, Streams
from services.kit.security import authorization

CALLS_MAX = 512
"""Unary calls in progress at once."""


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """What happens around each call of our own services; health and reflection pass untouched."""

    def __init__(self, gate: authorization.Authorizer, services: Iterable[ServiceDescriptor], streams: Streams) -> None:
        self.gate, self.streams = gate, streams
        self.places = ConcurrencyLimit(CALLS_MAX, "TOO_MANY_CALLS", "this service has as much to do as it can carry; try again")
        self.methods = {f"/{service.full_name}/{method.name}": method for service in services for method in service.methods}
        self.wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        if details.method in self.wrapped:
            return self.wrapped[details.method]
        handler = await continuation(details)
        method = self.methods.get(details.method)
        if handler is None or method is None:
            return handler
        codecs = {"request_deserializer": handler.request_deserializer, "response_serializer": handler.response_serializer}
        if method.server_streaming:
            behaviour = self._around(method, self.streams.written(handler.unary_stream), self.streams.places)
            self.wrapped[details.method] = grpc.unary_stream_rpc_method_handler(behaviour, **codecs)
        else:
            behaviour = self._around(method, handler.unary_unary, self.places)
            self.wrapped[details.method] = grpc.unary_unary_rpc_method_handler(behaviour, **codecs)
        return self.wrapped[details.method]

    def _around(self, method: MethodDescriptor, behaviour: Callable[[Any, Any], Awaitable[Any]], places: ConcurrencyLimit) -> Any:
        async def call(request: Message, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            started, code, reason = time.perf_counter(), "OK", ""
            metadata = context.invocation_metadata() or ()
            trace_context = telemetry.context_from({key: value for key, value in metadata if isinstance(value, str)})
            with telemetry.TRACER.start_as_current_span(method.full_name, context=trace_context):
                try:
                    with places:
                        await self._enter(method, request, context, metadata)
                        return await behaviour(request, context)
                except Refusal as refusal:
                    refused = status.to_status(refusal)
                    code, reason = status.CODES[type(refusal)].name, refusal.reason
                    if not authorization.is_declared(method, reason):
                        logger().error("undeclared refusal", rpc=method.full_name, reason=reason)
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
        authorization.current.set(await self.gate.admit(method, principal, request))
