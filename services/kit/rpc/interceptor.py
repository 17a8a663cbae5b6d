"""gRPC server interceptor: authorization, deadline, clock offset and trace of each call.

It converts refusals to a status, logs unknown exceptions with an id, and writes one log line and one measurement per call.
"""

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
from services.kit.security.caller import caller_context

CALLS_MAX = 512
"""A process serves at most this many unary calls at once."""


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """Wraps each rpc of the suite's services; health and reflection are not wrapped."""

    def __init__(self, authorizer: authorization.Authorizer, services: Iterable[ServiceDescriptor], streams: Streams) -> None:
        self.authorizer, self.streams = authorizer, streams
        self.limit = ConcurrencyLimit(CALLS_MAX, "TOO_MANY_CALLS", "This service serves too many calls at the moment. Try again.")
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
            behaviour = self._wrap(method, self.streams.wrap(handler.unary_stream), self.streams.limit)
            self.wrapped[details.method] = grpc.unary_stream_rpc_method_handler(behaviour, **codecs)
        else:
            behaviour = self._wrap(method, handler.unary_unary, self.limit)
            self.wrapped[details.method] = grpc.unary_unary_rpc_method_handler(behaviour, **codecs)
        return self.wrapped[details.method]

    def _wrap(self, method: MethodDescriptor, behaviour: Callable[[Any, Any], Awaitable[Any]], limit: ConcurrencyLimit) -> Any:
        async def call(request: Message, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            started, code, reason = time.perf_counter(), "OK", ""
            metadata = context.invocation_metadata() or ()
            trace_context = telemetry.extract_context({key: value for key, value in metadata if isinstance(value, str)})
            with telemetry.TRACER.start_as_current_span(method.full_name, context=trace_context):
                try:
                    with limit:
                        await self._set_context(method, request, context, metadata)
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
                        rpc_status.to_status(
                            status_pb2.Status(code=grpc.StatusCode.INTERNAL.value[0], message=f"Internal error {bug}. Report this id.")
                        )
                    )
                finally:
                    seconds = time.perf_counter() - started
                    telemetry.CALLS.labels(method.full_name, code).observe(seconds)
                    logger().debug("call", rpc=method.full_name, code=code, reason=reason, milliseconds=round(seconds * 1000, 2))

        return call

    async def _set_context(
        self, method: MethodDescriptor, request: Message, context: grpc.aio.ServicerContext[Any, Any], metadata: Any
    ) -> None:
        """Sets caller, clock offset and deadline in the context of the call's task; `Denied` if the caller may not call this rpc."""
        if (left := context.time_remaining()) is not None:
            channel.deadline.set(time.monotonic() + left)
        principal = self.authorizer.read_principal(metadata)
        if principal is not None and principal.clock_offset:
            clock.offset.set(timedelta(seconds=principal.clock_offset))
        caller_context.set(await self.authorizer.authorize(method, principal, request))
