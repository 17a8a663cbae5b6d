"""What goes with each call to a service: the caller's trace, and what is left of the operation's time; whichever way it is executed."""

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
from tests.gateway.serving import serving

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLERS = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
BRAND = '{ brand(id: "brd_a") { id headquarters { id } } }'
CONDITIONS = [f"c{number}" for number in range(5)]
WAYS = {
    "the engine": BRAND,
    "graphql-core": f"query ({' '.join(f'${name}: Boolean = true' for name in CONDITIONS)}) {{"
    + " ".join(f"{name}: __typename @include(if: ${name})" for name in CONDITIONS)
    + BRAND.removeprefix("{"),
}
"""The same two levels of calls; what depends on many conditions is not compiled."""
TOOK_SECONDS = 0.3


class Hearing(grpc.GenericRpcHandler):
    """An organization with one brand, which is told after `TOOK_SECONDS`: it remembers what came with each call."""

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
            await asyncio.sleep(TOOK_SECONDS)
            brand = {"id": "brd_a", "headquarters_org_unit_id": "unt_brd_a"}
            return BatchGetBrandsResponse(brands=[brand]).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def heard(open_gateway: Open, **changes: Any) -> AsyncIterator[tuple[Gateway, Hearing]]:
    hearing, server = Hearing(), grpc.aio.server()
    server.add_generic_rpc_handlers((hearing,))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield await open_gateway(organization_address=address, **changes), hearing
    finally:
        await server.stop(None)


BRANDS, UNITS = (rpc_of(request).method.name for request in (BatchGetBrandsRequest, BatchGetOrgUnitsRequest))


@pytest.mark.parametrize("way", WAYS)
async def test_a_callers_trace_goes_on_to_the_services(open_gateway: Open, way: str) -> None:
    async with heard(open_gateway) as (gateway, hearing):
        answer = await gateway.post({"query": WAYS[way]}, headers=CALLERS)
        assert answer.json()["data"]["brand"]["id"] == "brd_a", answer.text
        assert {name: trace.split("-")[1] for name, trace in hearing.traces.items()} == {BRANDS: TRACE, UNITS: TRACE}
        await gateway.post({"query": WAYS[way]})
        assert set(hearing.traces.values()) == {""}, "without one there is none"


async def test_it_goes_on_over_event_streams_and_sockets_too(open_gateway: Open) -> None:
    async with heard(open_gateway) as (gateway, hearing):
        await gateway.post({"query": BRAND}, headers=CALLERS | {"accept": "text/event-stream"})
        assert hearing.traces[BRANDS].split("-")[1] == TRACE
        hearing.traces.clear()
        async with serving(gateway) as served, served.socket(additional_headers=CALLERS) as socket:
            await socket.say(type="connection_init")
            assert await socket.heard() == {"type": "connection_ack"}
            await socket.next(await socket.subscribe(BRAND))
        assert hearing.traces[BRANDS].split("-")[1] == TRACE


@pytest.mark.parametrize("way", WAYS)
async def test_each_call_has_what_those_before_it_have_left(open_gateway: Open, way: str) -> None:
    async with heard(open_gateway, deadline_seconds=10.0) as (gateway, hearing):
        await gateway.post({"query": WAYS[way]})
        assert hearing.seconds[BRANDS] < 10.0
        assert hearing.seconds[UNITS] < hearing.seconds[BRANDS] - TOOK_SECONDS * 0.9


class Spans:
    """A tracer of a deployment's, as far as the gateway uses one."""

    def __init__(self) -> None:
        self.attributes: dict[str, object] = {}

    @contextmanager
    def start_as_current_span(self, name: str, **_: object) -> Iterator["Spans"]:
        self.attributes["name"] = name
        yield self

    def set_attribute(self, name: str, value: object) -> None:
        self.attributes[name] = value


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("way", WAYS)
async def test_the_id_of_an_error_finds_its_trace(alone: Gateway, monkeypatch: pytest.MonkeyPatch, way: str, accept: str) -> None:
    spans = Spans()
    monkeypatch.setattr(telemetry, "TRACER", spans)
    monkeypatch.setattr(telemetry, "traced", lambda: True)
    answer = await alone.post({"query": WAYS[way]}, headers={"accept": accept})
    assert spans.attributes["name"] == "graphql"
    assert f'"id":"{spans.attributes["quanyu.operation_id"]}"' in answer.text


async def test_nobody_is_asked_when_there_is_no_time_left() -> None:
    channel.deadline.set(time.monotonic() + channel.HAND_ON_MARGIN_SECONDS / 2)
    with pytest.raises(Unavailable, match="DEADLINE_EXCEEDED"):
        channel.remaining(10.0)
    channel.deadline.set(time.monotonic() + 5.0)
    assert 4.0 < channel.remaining(10.0) < 5.0
    assert channel.remaining(1.0) == 1.0
