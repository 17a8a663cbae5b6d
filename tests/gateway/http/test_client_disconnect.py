"""Client disconnects: a query ends with its client, a mutation and a notice are executed to their end."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from gateway.http.endpoint import CLIENT_CLOSED_REQUEST
from tests.gateway.conftest import Open
from tests.gateway.live_gateway import SECONDS_MAX, LiveGateway, serve, wait_until
from tests.gateway.silent_services import SilentServices, serve_silent

QUERY = "{ offers(first: 1) { nodes { id } } }"
LEVELS = '{ brand(id: "brd_a") { id } offers(first: 1) { nodes { id } } order(id: "ord_a") { id } }'
MUTATION = 'mutation { cancelOrder(input: {idempotencyKey: "k", orderId: "ord_1"}) { __typename } }'


def encode_post(query: str, accept: str = "application/json") -> bytes:
    body = json.dumps({"query": query})
    head = f"POST /graphql HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return f"{head}\r\n\r\n{body}".encode()


@asynccontextmanager
async def silent_gateway(open_gateway: Open, **changes: Any) -> AsyncIterator[tuple[LiveGateway, SilentServices]]:
    """A listening gateway in front of services that do not answer."""
    async with serve_silent() as (silent, address):
        gateway = await open_gateway(commerce_address=address, organization_address=address, **changes)
        async with serve(gateway) as served:
            yield served, silent


async def send_and_disconnect(served: LiveGateway, silent: SilentServices, sent: bytes, rpcs: int = 1) -> set[str]:
    """Sends bytes, disconnects once the services are called, and waits for the gateway to notice. Returns the rpcs."""
    host, _, port = served.address.partition(":")
    async with asyncio.timeout(SECONDS_MAX):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        called = {await silent.called.get() for _ in range(rpcs)}
        writer.transport.abort()
        await wait_until(lambda: not served.server.server_state.connections)
    return called


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_query_ends_when_its_client_disconnects(open_gateway: Open, accept: str, capfd: pytest.CaptureFixture[str]) -> None:
    async with silent_gateway(open_gateway, operations_max=1) as (served, silent), asyncio.timeout(SECONDS_MAX):
        called = await send_and_disconnect(served, silent, encode_post(LEVELS, accept), rpcs=3)
        assert {await silent.cancelled.get() for _ in range(3)} == called == {"BatchGetBrands", "SearchOffers", "BatchGetOrders"}
        async with httpx.AsyncClient(base_url=f"http://{served.address}", trust_env=False) as http:
            assert (await http.post("/graphql", json={"query": "{ __typename }"})).status_code == 200, "its slot is free"
        assert not any(bulkhead.waiting for bulkhead in served.gateway.app.state.clients.bulkheads.values())
    log = "".join(capfd.readouterr())
    assert "Traceback" not in log
    if accept == "application/json":
        assert str(CLIENT_CLOSED_REQUEST) in log


async def test_running_query_of_a_pipeline_ends_on_disconnect(open_gateway: Open) -> None:
    async with silent_gateway(open_gateway) as (served, silent), asyncio.timeout(SECONDS_MAX):
        host, _, port = served.address.partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(encode_post(QUERY) * 3)
        assert await silent.called.get() == "SearchOffers"
        (connection,) = served.server.server_state.connections
        connection.transport.abort()
        assert await silent.cancelled.get() == "SearchOffers"
        await wait_until(lambda: not served.server.server_state.tasks)
        assert silent.called.empty(), "the others are not executed"
        writer.close()


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_mutation_completes_after_its_client_disconnects(open_gateway: Open, accept: str) -> None:
    async with silent_gateway(open_gateway) as (served, silent), asyncio.timeout(SECONDS_MAX):
        assert await send_and_disconnect(served, silent, encode_post(MUTATION, accept)) == {"CancelOrder"}
        assert served.gateway.app.state.slots.used == 1
        silent.released.set()
        assert await silent.completed.get() == "CancelOrder"
        await wait_until(lambda: not served.server.server_state.tasks)
        assert silent.cancelled.empty()
        assert served.gateway.app.state.slots.used == 0


async def test_websocket_disconnect_ends_queries_but_not_mutations(open_gateway: Open) -> None:
    async with silent_gateway(open_gateway) as (served, silent), asyncio.timeout(SECONDS_MAX):
        async with served.socket() as socket:
            await socket.send(type="connection_init")
            await socket.receive()
            await socket.subscribe(QUERY)
            await socket.subscribe(MUTATION)
            assert {await silent.called.get() for _ in range(2)} == {"SearchOffers", "CancelOrder"}
            socket.opened.transport.abort()
        assert await silent.cancelled.get() == "SearchOffers"
        await wait_until(lambda: not served.gateway.app.state.lifetimes.lifetimes)
        silent.released.set()
        assert await silent.completed.get() == "CancelOrder"
        assert silent.cancelled.empty()
        await wait_until(lambda: not served.gateway.app.state.runner.operation_slots.used)


async def test_webhook_completes_after_its_client_disconnects(open_gateway: Open) -> None:
    signed = "webhook-id: msg_1\r\nwebhook-timestamp: 1\r\nwebhook-signature: v1,AAAA"
    notice = f"POST /webhooks/payments/sandbox HTTP/1.1\r\nhost: x\r\n{signed}\r\ncontent-length: 2\r\n\r\n{{}}".encode()
    async with silent_gateway(open_gateway) as (served, silent), asyncio.timeout(SECONDS_MAX):
        assert await send_and_disconnect(served, silent, notice) == {"TakePaymentNotice"}
        silent.released.set()
        assert await silent.completed.get() == "TakePaymentNotice"
        assert silent.cancelled.empty()
