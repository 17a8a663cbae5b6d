"""Subscriptions before the real services: what happens is told, to whom it may be told, and nothing of it is missed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from services.local.token import clock_offset
from tests.gateway import world
from tests.gateway.conftest import Open
from tests.gateway.serving import SECONDS_MAX, Served, Socket, serving
from tests.gateway.world import NEAR, key

DAYTIME = clock_offset(12 * 60, ZoneInfo("Asia/Shanghai"), datetime.now(UTC))
"""Nobody is written to at night."""


@asynccontextmanager
async def small_world(open_gateway: Open) -> AsyncIterator[Served]:
    gateway = await open_gateway("member", "commerce", "district", "organization")
    await world.build(gateway)
    async with serving(gateway) as served:
        yield served


class Listening:
    """Tells when the services listen for those who subscribed: what happens from then on is told."""

    def __init__(self, served: Served) -> None:
        self.calls: asyncio.Queue[Any] = asyncio.Queue()
        clients = served.gateway.app.state.clients
        follow = clients.follow

        def tapped(request: Any) -> Any:
            call = follow(request)
            self.calls.put_nowait(call)
            return call

        clients.follow = tapped

    async def __call__(self) -> None:
        """Waits for the next subscription's service."""
        async with asyncio.timeout(SECONDS_MAX):
            call = await self.calls.get()
            await call.initial_metadata()


async def do(served: Served, mutation: str, given: dict[str, Any], *, who: str, fields: str) -> Any:
    """Carries a mutation out, with a key of its own."""
    return await world.do(served.gateway, mutation, given | {"idempotencyKey": key()}, who=who, offset=DAYTIME, fields=fields)


async def place(served: Served, who: str) -> str:
    """The id of an order that somebody has placed."""
    wanted = {"variantId": "var_40", "storeId": "str_a1", "quantity": 1}
    hold = (await do(served, "holdStock", wanted, who=who, fields="hold { id }"))["hold"]["id"]
    placing = {"holdIds": [hold], "touchpoint": "MINI_PROGRAM"}
    return str((await do(served, "placeOrder", placing, who=who, fields="order { id }"))["order"]["id"])


async def pay(served: Served, order: str, who: str) -> None:
    paying = {"orderId": order, "method": "SANDBOX", "sandboxToken": "approve"}
    await do(served, "payOrder", paying, who=who, fields="order { id }")


async def write(served: Served, text: str) -> str:
    """The id of a message that the guide wrote to Anna."""
    writing = {"consumerId": "con_anna", "brandId": "brd_a", "text": text}
    return str((await do(served, "sendOutreach", writing, who="stf_guide", fields="outreach { id }"))["outreach"]["id"])


async def leave(served: Served) -> None:
    """Anna leaves the district with empty hands, which becomes a task of her guide."""
    entering = {"districtId": "dst_d", "touchpoint": "MINI_PROGRAM", "position": NEAR}
    visit = (await do(served, "enterDistrict", entering, who="con_anna", fields="visit { id }"))["visit"]["id"]
    await do(served, "claimPack", {"visitId": visit}, who="con_anna", fields="pack { id }")
    await do(served, "leaveDistrict", {"visitId": visit}, who="con_anna", fields="visit { id }")


async def until(found: Callable[[Any], bool], socket: Socket, name: str) -> Any:
    """The first event that is meant; states in between may be told or not."""
    async with asyncio.timeout(SECONDS_MAX):
        while not found(event := next(iter((await socket.next(name)).values()))):
            pass
        return event


async def test_an_order_is_followed_until_it_is_paid(open_gateway: Open) -> None:
    async with small_world(open_gateway) as served, served.socket("con_anna") as anna, served.socket("con_bea") as bea:
        order = await place(served, "con_anna")
        name = await anna.subscribe("follow_order", {"id": order})
        now = (await anna.next(name))["orderChanged"]
        assert (now["order"]["id"], now["order"]["state"], now["order"]["store"]["id"]) == (order, "PLACED", "str_a1")
        async with served.stream("follow_order", {"id": order}, who="con_anna") as stream:
            assert (await stream.next())["orderChanged"] == now
            await pay(served, order, "con_anna")
            paid = await until(lambda event: event["order"]["state"] == "PAID", anna, name)
            while (event := (await stream.next())["orderChanged"]["order"])["state"] != "PAID":
                pass
            assert event == paid["order"]

        again = await anna.subscribe("follow_order", {"id": order, "after": now["cursor"]})
        assert (await until(lambda event: event["order"]["state"] == "PAID", anna, again))["order"]["paidAt"]
        silent = await anna.subscribe("follow_order", {"id": order, "after": paid["cursor"]})
        for stranger, code in (("con_bea", "ORDER_NOT_FOUND"), ("", "UNAUTHENTICATED")):
            async with served.stream("follow_order", {"id": order}, who=stranger) as stream:
                told = await stream.heard()
                assert [error["extensions"]["code"] for error in told[1]["errors"]] == [code]
        assert await bea.error(await bea.subscribe("follow_order", {"id": order})) == "ORDER_NOT_FOUND"
        assert await anna.error(await anna.subscribe("follow_order", {"id": order, "after": "nonsense"})) == "INVALID_CURSOR"
        await anna.say(type="complete", id=silent)
        await anna.quiet()


async def test_a_guides_tasks_are_told_as_they_come_and_change(open_gateway: Open) -> None:
    async with small_world(open_gateway) as served:
        listening = Listening(served)
        async with served.socket("stf_guide") as guide, served.socket("con_bea") as bea:
            name = await guide.subscribe("follow_tasks", {"staffId": "stf_guide"})
            await listening()
            assert await bea.error(await bea.subscribe("follow_tasks", {"staffId": "stf_guide"}))
            await leave(served)
            born = await until(lambda event: event["task"]["state"] == "OPEN", guide, name)
            assert born["task"]["consumer"]["id"] == "con_anna"
            assert await guide.error(await guide.subscribe("subscription { taskChanged { cursor } }")) == "SUBJECT_REQUIRED"
        # Nobody listens now.
        await do(served, "acknowledgeTask", {"taskId": born["task"]["id"]}, who="stf_guide", fields="task { id }")
        async with served.socket("stf_guide") as guide:
            name = await guide.subscribe("follow_tasks", {"staffId": "stf_guide", "after": born["cursor"]})
            seen = await until(lambda event: event["task"]["state"] == "ACKNOWLEDGED", guide, name)
            assert seen["task"]["id"] == born["task"]["id"]


async def test_a_message_comes_to_whom_it_was_written(open_gateway: Open) -> None:
    async with small_world(open_gateway) as served, served.socket("con_bea") as bea:
        listening = Listening(served)
        theirs = await bea.subscribe("follow_inbox")
        await listening()
        async with served.socket("con_anna") as anna:
            name = await anna.subscribe("follow_inbox")
            await listening()
            written = await write(served, "你好")
            first = await until(lambda event: event["message"]["id"] == written, anna, name)
        missed = await write(served, "到了")
        async with served.socket("con_anna") as anna:
            name = await anna.subscribe("follow_inbox", {"after": first["cursor"]})
            event = await until(lambda event: event["message"]["id"] == missed, anna, name)
            assert (event["message"]["text"], event["message"]["staff"]["id"], event["unread"]) == ("到了", "stf_guide", 2)
        for consumer in ("con_anna", "con_nobody"):
            prying = f'subscription {{ messageReceived(consumerId: "{consumer}") {{ cursor }} }}'
            assert await bea.error(await bea.subscribe(prying)) == "NOT_PERMITTED"
        await bea.say(type="complete", id=theirs)
        await bea.quiet()
