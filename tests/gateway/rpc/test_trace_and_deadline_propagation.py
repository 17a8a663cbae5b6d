"""Propagation to the services: the trace of a request and the remaining time of its operation, by both executors."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import pytest

from gateway.rpc.clients import rpc_of
from quanyu.organization.v1.chart_pb2 import BatchGetBrandsRequest, BatchGetBrandsResponse, BatchGetOrgUnitsRequest
from services.kit.errors import Unavailable
from services.kit.observability import telemetry
from services.kit.rpc import channel
from tests.gateway.conftest import Gateway, Open
from tests.gateway.live_gateway import serve

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLERS = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
BRAND = '{ brand(id: "brd_a") { id headquarters { id } } }'
CONDITIONS = [f"c{number}" for number in range(5)]
OPERATIONS = {
    "the engine": BRAND,
    "graphql-core": f"query ({' '.join(f'${name}: Boolean = true' for name in CONDITIONS)}) {{"
    + " ".join(f"{name}: __typename @include(if: ${name})" for name in CONDITIONS)
    + BRAND.removeprefix("{"),
}
"""An operation with two levels of rpcs for each executor. The engine compiles no operation with that many conditions."""
CALL_SECONDS = 0.3


class RecordingServices(grpc.GenericRpcHandler):
    """Services with one brand, which they return after `CALL_SECONDS`. They record the trace and the time of each call."""

    def __init__(self) -> None:
        self.traces: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        path = handler_call_details.method  # type: ignore[attr-defined]
        if not path.startswith("/quanyu."):
            return None

        async def answer(request: bytes, context: Any) -> bytes:
            name = path.rpartition("/")[2]
            self.traces[name] = str(dict(context.invocation_metadata()).get("traceparent", ""))
            self.seconds[name] = context.time_remaining()
            if path != rpc_of(BatchGetBrandsRequest).path:
                return b""
            await asyncio.sleep(CALL_SECONDS)
            brand = {"id": "brd_a", "headquarters_org_unit_id": "unt_brd_a"}
            return BatchGetBrandsResponse(brands=[brand]).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def serve_recording(open_gateway: Open, **changes: Any) -> AsyncIterator[tuple[Gateway, RecordingServices]]:
    recording, server = RecordingServices(), grpc.aio.server()
    server.add_generic_rpc_handlers((recording,))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield await open_gateway(organization_address=address, **changes), recording
    finally:
        await server.stop(None)


BRANDS, UNITS = (rpc_of(request).method.name for request in (BatchGetBrandsRequest, BatchGetOrgUnitsRequest))


@pytest.mark.parametrize("executor", OPERATIONS)
async def test_trace_of_a_request_reaches_the_services(open_gateway: Open, executor: str) -> None:
    async with serve_recording(open_gateway) as (gateway, recording):
        answer = await gateway.post({"query": OPERATIONS[executor]}, headers=CALLERS)
        assert answer.json()["data"]["brand"]["id"] == "brd_a", answer.text
        assert {name: trace.split("-")[1] for name, trace in recording.traces.items()} == {BRANDS: TRACE, UNITS: TRACE}
        await gateway.post({"query": OPERATIONS[executor]})
        assert set(recording.traces.values()) == {""}, "a request without a trace starts none"


async def test_trace_of_streams_and_sockets_reaches_services(open_gateway: Open) -> None:
    async with serve_recording(open_gateway) as (gateway, recording):
        await gateway.post({"query": BRAND}, headers=CALLERS | {"accept": "text/event-stream"})
        assert recording.traces[BRANDS].split("-")[1] == TRACE
        recording.traces.clear()
        async with serve(gateway) as served, served.socket(additional_headers=CALLERS) as socket:
            await socket.send(type="connection_init")
            assert await socket.receive() == {"type": "connection_ack"}
            await socket.next(await socket.subscribe(BRAND))
        assert recording.traces[BRANDS].split("-")[1] == TRACE


@pytest.mark.parametrize("executor", OPERATIONS)
async def test_rpc_has_the_remaining_time_of_its_operation(open_gateway: Open, executor: str) -> None:
    async with serve_recording(open_gateway, deadline_seconds=10.0) as (gateway, recording):
        await gateway.post({"query": OPERATIONS[executor]})
        assert recording.seconds[BRANDS] < 10.0
        assert recording.seconds[UNITS] < recording.seconds[BRANDS] - CALL_SECONDS * 0.9


class Spans:
    """A stand-in for the tracer of a deployment."""

    def __init__(self) -> None:
        self.attributes: dict[str, object] = {}

    @contextmanager
    def start_as_current_span(self, name: str, **_: object) -> Iterator["Spans"]:
        self.attributes["name"] = name
        yield self

    def set_attribute(self, name: str, value: object) -> None:
        self.attributes[name] = value


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("executor", OPERATIONS)
async def test_error_id_is_an_attribute_of_the_trace(alone: Gateway, monkeypatch: pytest.MonkeyPatch, executor: str, accept: str) -> None:
    spans = Spans()
    monkeypatch.setattr(telemetry, "TRACER", spans)
    monkeypatch.setattr(telemetry, "is_tracing", lambda: True)
    answer = await alone.post({"query": OPERATIONS[executor]}, headers={"accept": accept})
    assert spans.attributes["name"] == "graphql"
    assert f'"id":"{spans.attributes["quanyu.operation_id"]}"' in answer.text


async def test_expired_deadline_prevents_the_call() -> None:
    channel.deadline.set(time.monotonic() + channel.RESPONSE_MARGIN_SECONDS / 2)
    with pytest.raises(Unavailable, match="DEADLINE_EXCEEDED"):
        channel.remaining_seconds(10.0)
    channel.deadline.set(time.monotonic() + 5.0)
    assert 4.0 < channel.remaining_seconds(10.0) < 5.0
    assert channel.remaining_seconds(1.0) == 1.0
