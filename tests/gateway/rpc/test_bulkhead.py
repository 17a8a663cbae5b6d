"""Bulkheads: a silent service fails its own fields only, and each answer of a service opens its bulkhead again."""

import asyncio
import time
from typing import Any

import pytest

from gateway.rpc.bulkhead import SILENT_SECONDS_MAX
from gateway.rpc.clients import WAITING_SHARE
from services.kit.errors import Conflict, Exhausted, Overloaded, Refusal
from tests.gateway.conftest import Open
from tests.gateway.live_gateway import SECONDS_MAX


async def test_silent_service_fails_its_own_fields_only(open_gateway: Open) -> None:
    gateway = await open_gateway(operations_max=4 * WAITING_SHARE)
    full, gate = asyncio.Event(), asyncio.Event()
    clients = gateway.app.state.clients
    bulkhead = clients.bulkheads["commerce"]

    async def wait_and_fail(request: Any) -> Any:
        if clients.find_callable(type(request))[0] == "commerce":
            if bulkhead.waiting == bulkhead.waiting_max:
                full.set()
            await gate.wait()
        raise Overloaded("SLOW")

    clients.call = wait_and_fail
    query = {"query": "{ a: offers(first: 1) { nodes { id } } b: offers(first: 2) { nodes { id } } }"}
    tasks = [asyncio.create_task(gateway.post(query)) for _ in range(bulkhead.waiting_max)]
    await full.wait()
    bulkhead.answered_at -= SILENT_SECONDS_MAX
    both = (await gateway.post({"query": '{ offers(first: 1) { nodes { id } } brand(id: "brd_a") { id } }'})).json()
    codes = {error["path"][0]: error["extensions"]["code"] for error in both["errors"]}
    assert codes == {"offers": "SERVICE_OVERLOADED", "brand": "SLOW"}
    gate.set()
    assert {(await each).status_code for each in tasks} == {200}
    assert not bulkhead.waiting


@pytest.mark.parametrize("refusal", [Conflict("NO"), Exhausted("NO"), Overloaded("NO")], ids=lambda refusal: type(refusal).__name__)
async def test_refusal_counts_as_answer_of_a_service(open_gateway: Open, refusal: Refusal) -> None:
    gateway = await open_gateway(operations_max=4 * WAITING_SHARE)
    clients, full, gate = gateway.app.state.clients, asyncio.Event(), asyncio.Event()
    bulkhead = clients.bulkheads["commerce"]

    async def wait_and_refuse(request: Any) -> Any:
        if request.page.first == 1:
            if bulkhead.waiting == bulkhead.waiting_max - 1:
                full.set()
            await gate.wait()
        raise refusal

    clients.call = wait_and_refuse
    tasks = [asyncio.create_task(gateway.post({"query": "{ offers(first: 1) { nodes { id } } }"})) for _ in range(bulkhead.waiting_max - 1)]
    await full.wait()
    for silent_seconds in (0.0, SILENT_SECONDS_MAX):
        bulkhead.answered_at -= silent_seconds
        refused = (await gateway.post({"query": "{ offers(first: 2) { nodes { id } } }"})).json()
        assert refused["errors"][0]["extensions"]["code"] == "NO"
    assert bulkhead.answered_at > time.monotonic() - SILENT_SECONDS_MAX
    gate.set()
    await asyncio.gather(*tasks)


async def test_burst_after_idle_time_is_answered(open_gateway: Open) -> None:
    gateway = await open_gateway(operations_max=4 * WAITING_SHARE)
    clients, came, gate = gateway.app.state.clients, asyncio.Event(), asyncio.Event()
    bulkhead = clients.bulkheads["commerce"]
    calls_max = bulkhead.waiting_max + 4

    async def wait_and_fail(request: Any) -> Any:
        if bulkhead.waiting == calls_max:
            came.set()
        await gate.wait()
        raise Overloaded("SLOW")

    clients.call = wait_and_fail
    bulkhead.answered_at = time.monotonic() - 3_600
    tasks = [asyncio.create_task(gateway.post({"query": "{ offers(first: 1) { nodes { id } } }"})) for _ in range(calls_max)]
    async with asyncio.timeout(SECONDS_MAX):
        await came.wait()
    gate.set()
    assert {(await each).json()["errors"][0]["extensions"]["code"] for each in tasks} == {"SLOW"}
