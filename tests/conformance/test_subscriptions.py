"""Subscriptions by the clients `graphql-ws` and `graphql-sse`, against a gateway on a port and real services."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from services.kit.runtime.runtime import SERVICES
from services.local.mongod import free_port
from tests.conformance.node import HERE
from tests.gateway import small_world
from tests.gateway.conftest import OPERATIONS, Gateway, Open, keys, open_gateway, start
from tests.gateway.live_gateway import serve
from tests.gateway.small_world import new_key

__all__ = ["keys", "open_gateway", "start"]

SECONDS_MAX = 30.0
ANNA = "con_anna"
FOLLOWED = (OPERATIONS / "follow_order.graphql").read_text()

PAYING = "mutation ($input: PayOrderInput!) { payOrder(input: $input) { ... on PayOrderPayload { order { state } } } }"
PAID = {"PAYING", "PAID"}
"""The states after payment begins. `PAYING` is so short that a subscription may skip it."""
WAYS = ("ws", "sse")


class Client:
    """A client process that runs one operation."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def told(self) -> dict[str, Any]:
        """Returns the next event that the client reports."""
        assert self.process.stdout is not None
        async with asyncio.timeout(SECONDS_MAX):
            return json.loads(await self.process.stdout.readline())  # type: ignore[no-any-return]

    async def next(self) -> Any:
        """Returns the data of the next result. The socket may close and open before it."""
        while "next" not in (event := await self.told()):
            assert event.keys() & {"opened", "closed"}, event
        assert "errors" not in event["next"], event
        return event["next"]["data"]

    async def last(self) -> dict[str, Any]:
        """Returns the event that ends the operation."""
        while not (event := await self.told()).keys() & {"failed", "completed"}:
            assert event.keys() & {"opened", "closed", "next"}, event
        return event

    async def states(self) -> set[str]:
        """Returns the states of an order until it is paid, always with `PAYING`."""
        seen = {"PAYING"}
        while "PAID" not in seen:
            seen.add((await self.next())["orderChanged"]["order"]["state"])
        return seen

    async def refused(self) -> str:
        """Returns the code of an error. One client reports it in a result, the other in place of a result."""
        while not (event := await self.told()).keys() & {"next", "failed"}:
            assert "opened" in event, event
        (error,) = (event.get("next") or event["failed"])["errors"]
        return str(error["extensions"]["code"])

    def dispose(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")


@asynccontextmanager
async def client(node: str, way: str, address: str, token: str, query: str, variables: Any = None) -> AsyncIterator[Client]:
    command = [node, "subscriptions.mjs", way, f"http://{address}/graphql", token, query, json.dumps(variables or {})]
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(*command, cwd=HERE, limit=2**20, **pipes)
    try:
        yield Client(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def placed(gateway: Gateway) -> str:
    """Places an order of Anna's and returns its id."""
    lines = [{"variantId": "var_40", "quantity": 1}]
    given = {"idempotencyKey": new_key(), "storeId": "str_a1", "lines": lines, "touchpoint": "STORE"}
    answer = await small_world.mutate(gateway, "placeOrder", given, subject=ANNA, fields="order { id }")
    return str(answer["order"]["id"])


def payment(order: str) -> dict[str, str]:
    return {"idempotencyKey": new_key(), "orderId": order, "method": "SANDBOX", "sandboxToken": "approve"}


@pytest.fixture
async def shop(open_gateway: Open) -> Gateway:
    """A gateway with all services and the small world, with stock for all orders."""
    gateway = await open_gateway(*SERVICES)
    await small_world.build(gateway)
    await small_world.mutate(gateway, "setStock", {"idempotencyKey": new_key(), "storeId": "str_a1", "variantId": "var_40", "onHand": 9})
    return gateway


async def test_client_resumes_order_after_its_last_cursor(node: str, shop: Gateway) -> None:
    async with serve(shop) as served:
        for way in WAYS:
            order = await placed(shop)
            async with client(node, way, served.address, shop.token(ANNA), FOLLOWED, {"id": order}) as following:
                event = (await following.next())["orderChanged"]
                assert event["order"]["state"] == "PLACED"
                following.dispose()
                assert await following.last() == {"completed": True}
                assert await following.process.wait() == 0
            async with asyncio.timeout(SECONDS_MAX):
                while shop.app.state.runner.subscription_slots.used:  # noqa: ASYNC110 - nothing signals a free slot
                    await asyncio.sleep(0.01)
            known = {"id": order, "after": event["cursor"]}
            async with client(node, way, served.address, shop.token(ANNA), FOLLOWED, known) as following:
                await small_world.mutate(shop, "payOrder", payment(order), subject=ANNA)
                assert await following.states() == PAID


async def test_client_reconnects_after_gateway_restart(node: str, shop: Gateway, open_gateway: Open) -> None:
    settings = shop.app.state.clients.settings
    successor = await open_gateway(**{f"{service}_address": getattr(settings, f"{service}_address") for service in SERVICES})
    address, order = f"127.0.0.1:{free_port()}", await placed(shop)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(node, way, address, shop.token(ANNA), FOLLOWED, {"id": order})) for way in WAYS]
        async with serve(shop, address):
            for following in clients:
                assert (await following.next())["orderChanged"]["order"]["state"] == "PLACED"
        async with serve(successor, address):
            for following in clients:
                assert (await following.next())["orderChanged"]["order"]["state"] == "PLACED"
            await small_world.mutate(successor, "payOrder", payment(order), subject=ANNA)
            for following in clients:
                assert await following.states() == PAID


async def test_client_gets_one_answer_or_refusal(node: str, shop: Gateway) -> None:
    bea = shop.token("con_bea")
    async with serve(shop) as served:
        for way in WAYS:
            order = await placed(shop)
            for query, variables, data in (
                ("{ viewer { consumer { id } } }", {}, {"viewer": {"consumer": {"id": ANNA}}}),
                (PAYING, {"input": payment(order)}, {"payOrder": {"order": {"state": "PAID"}}}),
            ):
                async with client(node, way, served.address, shop.token(ANNA), query, variables) as asking:
                    assert await asking.next() == data
                    assert await asking.last() == {"completed": True}
            for query, code in ((FOLLOWED, "ORDER_NOT_FOUND"), ("subscription { nothing }", "BAD_REQUEST")):
                async with client(node, way, served.address, bea, query, {"id": order}) as asking:
                    assert await asking.refused() == code, way
        async with client(node, "ws", served.address, "no.such.token", FOLLOWED, {"id": order}) as stranger:
            assert (await stranger.told())["closed"] == 4403
        async with client(node, "sse", served.address, "no.such.token", FOLLOWED, {"id": order}) as stranger:
            assert (await stranger.last())["failed"]["status"] == 401
