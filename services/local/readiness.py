"""Readiness probes: gRPC health for services, `GET /ready` for the gateway.

python -m services.local.readiness (grpc|http) HOST:PORT        exit status 0 if ready; the health check of a container
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

POLL_SECONDS = 0.05
ANSWER_SECONDS_MAX = 2.0

# A server that is starting refuses connections, and gRPC waits a second or more between its attempts by default.
OPTIONS = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]


async def is_serving(address: str) -> bool:
    """True if the gRPC server at `address` reports SERVING."""
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=ANSWER_SECONDS_MAX)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def is_answering(address: str) -> bool:
    """True if `GET /ready` at `address` returns 200."""
    async with httpx.AsyncClient(trust_env=False, timeout=ANSWER_SECONDS_MAX) as client:
        try:
            return (await client.get(f"http://{address}/ready")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False


PROBES: dict[str, Callable[[str], Coroutine[Any, Any, bool]]] = {"grpc": is_serving, "http": is_answering}


async def wait_until_ready(ready_by: str, address: str) -> None:
    """Returns when the process is ready. The caller limits the wait."""
    while not await PROBES[ready_by](address):  # noqa: ASYNC110 (the state of another process has no event)
        await asyncio.sleep(POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(not asyncio.run(PROBES[sys.argv[1]](sys.argv[2])))
