"""Subscriptions in front of real services: changes reach those who may see them, and a resumed subscription misses none."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from services.local.token import clock_offset
from tests.gateway import small_world
from tests.gateway.conftest import Open
from tests.gateway.live_gateway import SECONDS_MAX, LiveGateway, SocketClient, serve
from tests.gateway.small_world import NEAR, new_key

DAYTIME = clock_offset(12 * 60, ZoneInfo("Asia/Shanghai"), datetime.now(UTC))
"""The services send no outreach at night, so all mutations happen at noon."""


@asynccontextmanager
async def serve_small_world(open_gateway: Open) -> AsyncIterator[LiveGateway]:
    gateway = await open_gateway("member", "commerce", "district", "organization")
    await small_world.build(gateway)
    async with serve(gateway) as served:
        yield served


class StartedStreams:
    """The streams that the gateway has started, in order. A started stream delivers every later change."""

    def __init__(self, served: LiveGateway) -> None:
        self.calls: asyncio.Queue[Any] = asyncio.Queue()
        clients = served.gateway.app.state.clients
        follow = clients.follow

        def record_call(request: Any) -> Any:
            call = follow(request)
            self.calls.put_nowait(call)
            return call

        clients.follow = record_call

    async def wait(self) -> None:
        """Waits until the next stream has started."""
        async with asyncio.timeout(SECONDS_MAX):
            call = await self.calls.get()
            await call.initial_metadata()


async def mutate(served: LiveGateway, mutation: str, given: dict[str, Any], *, subject: str, fields: str) -> Any:
    """Executes a mutation with a new idempotency key."""
    return await small_world.mutate(
        served.gateway, mutation, given | {"idempotencyKey": new_key()}, subject=subject, offset=DAYTIME, fields=fields
    )


async def place_order(served: LiveGateway, subject: str) -> str:
    """Places an order and returns its id."""
    wanted = {"variantId": "var_40", "storeId": "str_a1", "quantity": 1}
    hold = (await mutate(served, "holdStock", wanted, subject=subject, fields="hold { id }"))["hold"]["id"]
    placing = {"holdIds": [hold], "touchpoint": "MINI_PROGRAM"}
    return str((await mutate(served, "placeOrder", placing, subject=subject, fields="order { id }"))["order"]["id"])


async def pay_order(served: LiveGateway, order: str, subject: str) -> None:
    paying = {"orderId": order, "method": "SANDBOX", "sandboxToken": "approve"}
    await mutate(served, "payOrder", paying, subject=subject, fields="order { id }")


async def send_outreach(served: LiveGateway, text: str) -> str:
    """Sends a message of the guide to Anna and returns its id."""
    writing = {"consumerId": "con_anna", "brandId": "brd_a", "text": text}
    return str((await mutate(served, "sendOutreach", writing, subject="stf_guide", fields="outreach { id }"))["outreach"]["id"])


async def leave_district(served: LiveGateway) -> None:
    """Lets Anna leave the district without a purchase, which creates a task of her guide."""
    entering = {"districtId": "dst_d", "touchpoint": "MINI_PROGRAM", "position": NEAR}
    visit = (await mutate(served, "enterDistrict", entering, subject="con_anna", fields="visit { id }"))["visit"]["id"]
    await mutate(served, "claimPack", {"visitId": visit}, subject="con_anna", fields="pack { id }")
    await mutate(served, "leaveDistrict", {"visitId": visit}, subject="con_anna", fields="visit { id }")


async def next_matching(condition: Callable[[Any], bool], socket: SocketClient, name: str) -> Any:
    """Returns the first event that meets the condition. The service may skip states in between."""
    async with asyncio.timeout(SECONDS_MAX):
        while not condition(event := next(iter((await socket.next(name)).values()))):
            pass
        return event


async def test_order_subscription_delivers_changes_until_paid(open_gateway: Open) -> None:
    async with serve_small_world(open_gateway) as served, served.socket("con_anna") as anna, served.socket("con_bea") as bea:
        order = await place_order(served, "con_anna")
        name = await anna.subscribe("follow_order", {"id": order})
        current = (await anna.next(name))["orderChanged"]
        assert (current["order"]["id"], current["order"]["state"], current["order"]["store"]["id"]) == (order, "PLACED", "str_a1")
        async with served.stream("follow_order", {"id": order}, subject="con_anna") as stream:
            assert (await stream.next())["orderChanged"] == current
            await pay_order(served, order, "con_anna")
            paid = await next_matching(lambda event: event["order"]["state"] == "PAID", anna, name)
            while (event := (await stream.next())["orderChanged"]["order"])["state"] != "PAID":
                pass
            assert event == paid["order"]

        again = await anna.subscribe("follow_order", {"id": order, "after": current["cursor"]})
        assert (await next_matching(lambda event: event["order"]["state"] == "PAID", anna, again))["order"]["paidAt"]
        silent = await anna.subscribe("follow_order", {"id": order, "after": paid["cursor"]})
        for stranger, code in (("con_bea", "ORDER_NOT_FOUND"), ("", "UNAUTHENTICATED")):
            async with served.stream("follow_order", {"id": order}, subject=stranger) as stream:
                event_data = await stream.receive()
                assert [error["extensions"]["code"] for error in event_data[1]["errors"]] == [code]
        assert await bea.error(await bea.subscribe("follow_order", {"id": order})) == "ORDER_NOT_FOUND"
        assert await anna.error(await anna.subscribe("follow_order", {"id": order, "after": "nonsense"})) == "INVALID_CURSOR"
        await anna.send(type="complete", id=silent)
        await anna.expect_silence()


async def test_task_subscription_delivers_new_and_changed_tasks(open_gateway: Open) -> None:
    async with serve_small_world(open_gateway) as served:
        started = StartedStreams(served)
        async with served.socket("stf_guide") as guide, served.socket("con_bea") as bea:
            name = await guide.subscribe("follow_tasks", {"staffId": "stf_guide"})
            await started.wait()
            assert await bea.error(await bea.subscribe("follow_tasks", {"staffId": "stf_guide"}))
            await leave_district(served)
            opened = await next_matching(lambda event: event["task"]["state"] == "OPEN", guide, name)
            assert opened["task"]["consumer"]["id"] == "con_anna"
            assert await guide.error(await guide.subscribe("subscription { taskChanged { cursor } }")) == "SUBJECT_REQUIRED"
        # No subscription is open now.
        await mutate(served, "acknowledgeTask", {"taskId": opened["task"]["id"]}, subject="stf_guide", fields="task { id }")
        async with served.socket("stf_guide") as guide:
            name = await guide.subscribe("follow_tasks", {"staffId": "stf_guide", "after": opened["cursor"]})
            acknowledged = await next_matching(lambda event: event["task"]["state"] == "ACKNOWLEDGED", guide, name)
            assert acknowledged["task"]["id"] == opened["task"]["id"]


async def test_inbox_subscription_delivers_own_messages_only(open_gateway: Open) -> None:
    async with serve_small_world(open_gateway) as served, served.socket("con_bea") as bea:
        started = StartedStreams(served)
        theirs = await bea.subscribe("follow_inbox")
        await started.wait()
        async with served.socket("con_anna") as anna:
            name = await anna.subscribe("follow_inbox")
            await started.wait()
            written = await send_outreach(served, "你好")
            first = await next_matching(lambda event: event["message"]["id"] == written, anna, name)
        missed = await send_outreach(served, "到了")
        async with served.socket("con_anna") as anna:
            name = await anna.subscribe("follow_inbox", {"after": first["cursor"]})
            event = await next_matching(lambda event: event["message"]["id"] == missed, anna, name)
            assert (event["message"]["text"], event["message"]["staff"]["id"], event["unread"]) == ("到了", "stf_guide", 2)
        for consumer in ("con_anna", "con_unknown"):
            foreign = f'subscription {{ messageReceived(consumerId: "{consumer}") {{ cursor }} }}'
            assert await bea.error(await bea.subscribe(foreign)) == "NOT_PERMITTED"
        await bea.send(type="complete", id=theirs)
        await bea.expect_silence()
