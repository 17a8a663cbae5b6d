"""gRPC server of a service: its own servicers behind the interceptor, health and reflection."""

from collections.abc import Callable, Iterable
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pool import Default as default_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.kit.rpc import channel
from services.kit.rpc.interceptor import CALLS_MAX, ServerInterceptor
from services.kit.rpc.streams import StreamBounds, Streams
from services.kit.security import authorization

Register = tuple[Callable[[Any, grpc.aio.Server], None], Any]
"""A generated `add_…Servicer_to_server` and the servicer it adds."""
OTHERS_MAX = 512
"""The transport admits this many more calls: health checks (a stream per channel), reflection, and ended streams that are still unread."""

KEEPALIVE = [("grpc.http2.min_ping_interval_without_data_ms", channel.KEEPALIVE_MS // 2), ("grpc.keepalive_permit_without_calls", 1)]
"""The channels of the suite send pings while idle; by default a server takes these for an attack."""


def descriptor_of(servicer: object) -> ServiceDescriptor:
    """Returns the service of a servicer by its generated base class. ValueError if the servicer lacks one of its rpcs."""
    for base in type(servicer).__mro__:
        if base.__module__.endswith("_pb2_grpc") and base.__name__.endswith("Servicer"):
            module = base.__module__.removesuffix("_pb2_grpc").replace(".", "/") + ".proto"
            service = default_pool().FindFileByName(module).services_by_name[base.__name__.removesuffix("Servicer")]
            missing = [method.name for method in service.methods if getattr(type(servicer), method.name) is getattr(base, method.name)]
            if missing:
                raise ValueError(f"{type(servicer).__name__} lacks rpcs of {service.full_name}: {', '.join(missing)}. Implement them.")
            return service
    raise TypeError(f"{type(servicer).__name__} has no generated base class. Derive it from one.")


class Server:
    """The server of one process; `await start()` returns its port."""

    def __init__(
        self, servicers: Iterable[Register], authorizer: authorization.Authorizer, *, drain_seconds: float, bounds: StreamBounds
    ) -> None:
        servicers = list(servicers)
        services = [descriptor_of(servicer) for _, servicer in servicers]
        authorization.check_rules(services)
        self.drain_seconds, self.streams = drain_seconds, Streams(bounds)
        # Calls and streams have their own limits, which refuse with a reason. The limit of the transport must never apply first: when
        # another replica stops, all its streams arrive here at once, and the transport would drop some of them without a reason.
        calls_max = CALLS_MAX + self.streams.bounds.streams_max + OTHERS_MAX
        pending = [(f"grpc.server.max_pending_requests{kind}", calls_max) for kind in ("", "_hard_limit")]
        options = [*channel.LIMITS, *KEEPALIVE, *pending, ("grpc.so_reuseport", 0)]
        self.server = grpc.aio.server(
            interceptors=[ServerInterceptor(authorizer, services, self.streams)], options=options, maximum_concurrent_rpcs=calls_max
        )
        for add, servicer in servicers:
            add(servicer, self.server)
        self.health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        names = [service.full_name for service in services]
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], self.server)

    async def start(self, listen: str) -> int:
        """Starts serving, with health status SERVING. OSError if the address is in use."""
        try:
            port = self.server.add_insecure_port(listen)
        except RuntimeError as error:
            raise OSError(f"Cannot listen at {listen}: {error}. Choose another address.") from None
        await self.server.start()
        await self.health.set("", health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self) -> None:
        """Rejects new calls (health status NOT_SERVING), ends streams and waits up to `drain_seconds` for calls in progress."""
        await self.health.enter_graceful_shutdown()
        self.streams.stop()
        await self.server.stop(self.drain_seconds)
