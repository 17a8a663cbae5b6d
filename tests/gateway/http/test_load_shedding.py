"""Load shedding: requests above the limit of concurrent operations get 503, and slow bodies take no slot."""

import asyncio
import json
import re
from typing import Any

import httpx
import pytest

from gateway.http.load_shedding import RETRY_AFTER_SECONDS, LoadSheddingMiddleware
from gateway.observability import coalesced_log
from services.kit.errors import Overloaded
from tests.gateway.conftest import Open
from tests.gateway.live_gateway import SECONDS_MAX, serve, wait_until

QUERY = {"query": "{ __typename }"}


def find_load_shedding(app: Any) -> LoadSheddingMiddleware:
    """Returns the middleware of an application."""
    inner = app.middleware_stack
    while not isinstance(inner, LoadSheddingMiddleware):
        inner = inner.app
    return inner


async def test_operations_above_the_limit_are_shed(
    open_gateway: Open, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(coalesced_log, "WINDOW_SECONDS", 0.2)
    gateway = await open_gateway(operations_max=5)
    gateway.app.state.clients.bulkheads["organization"].waiting_max = 5
    arrived, gate = asyncio.Event(), asyncio.Event()
    running = 0

    async def wait_and_fail(request: Any) -> Any:
        nonlocal running
        running += 1
        if running == 5:
            arrived.set()
        await gate.wait()
        raise Overloaded("SLOW")

    gateway.app.state.clients.call = wait_and_fail
    query = {"query": '{ brand(id: "brd_a") { id } }'}
    tasks = [asyncio.create_task(gateway.post(query)) for _ in range(5)]
    await arrived.wait()
    refused = await asyncio.gather(*(gateway.post(query) for _ in range(50)))
    assert {each.status_code for each in refused} == {503}
    assert {each.headers["retry-after"] for each in refused} == {str(RETRY_AFTER_SECONDS)}
    assert not any("connection" in each.headers for each in refused), "a rejected client keeps its connection"
    extensions = [each.json()["errors"][0]["extensions"] for each in refused]
    ids = {each.pop("id") for each in extensions}
    assert extensions == [{"code": "OVERLOADED", "retryable": True}] * 50
    assert running == 5
    assert (await gateway.http.get("/health")).status_code == 200
    gate.set()
    assert {(await each).status_code for each in tasks} == {200}
    assert (await gateway.post(QUERY)).status_code == 200, "the slots are free at once"
    await wait_until(lambda: not find_load_shedding(gateway.app).log.count)
    lines = [line for line in capfd.readouterr().out.splitlines() if "operations shed" in line]
    assert len(lines) == len(ids) < 5, "one line covers many refusals"
    assert all(any(id in line for line in lines) for id in ids)
    assert sum(int(re.search(r"count=.*?(\d+)", line)[1]) for line in lines) == 50  # type: ignore[index]


async def test_incomplete_bodies_hold_no_slot(open_gateway: Open) -> None:
    gateway = await open_gateway(operations_max=3)
    body = json.dumps(QUERY).encode()
    head = b"POST /graphql HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    assert (await gateway.post(QUERY)).status_code == 200
    async with serve(gateway) as served, asyncio.timeout(SECONDS_MAX):
        host, _, port = served.address.partition(":")
        slow = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        for _, writer in slow:
            writer.write(head + body[:5])
        await wait_until(lambda: find_load_shedding(gateway.app).incomplete_bytes == 15)
        async with httpx.AsyncClient(base_url=f"http://{served.address}", trust_env=False) as http:
            quick = await asyncio.gather(*(http.post("/graphql", json=QUERY) for _ in range(3)))
            assert {each.status_code for each in quick} == {200}
        for reader, writer in slow:
            writer.write(body[5:])
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
