"""A service's gRPC server: health, reflection, and our own services behind `calls`."""

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
"""Health checks (one stream for each channel that is open), reflection, and streams that end but are not read."""

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


class Server:
    """The server of one process; `await start()` answers the port it listens at."""

    def __init__(
        self, servicers: Iterable[Register], gate: authorization.Authorizer, *, drain_seconds: float, bounds: StreamBounds
    ) -> None:
        servicers = list(servicers)
        services = [descriptor_of(servicer) for _, servicer in servicers]
        authorization.check_rules(services)
        self.drain_seconds, self.streams = drain_seconds, Streams(bounds)
        # Calls and streams have bounds of their own, with a reason; the transport's is only for what passes by those. Of those who come at
        # once it would drop some by chance: when another replica stops, all its streams come here.
        most = CALLS_MAX + self.streams.bounds.streams_max + OTHERS_MAX
        pending = [(f"grpc.server.max_pending_requests{kind}", most) for kind in ("", "_hard_limit")]
        options = [*channel.LIMITS, *KEEPALIVE, *pending, ("grpc.so_reuseport", 0)]
        self.server = grpc.aio.server(
            interceptors=[ServerInterceptor(gate, services, self.streams)], options=options, maximum_concurrent_rpcs=most
        )
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
        """Takes no more calls (health says NOT_SERVING), ends streams and lets calls in progress end, for at most `drain_seconds`."""
        await self.health.enter_graceful_shutdown()
        self.streams.stop()
        await self.server.stop(self.drain_seconds)
