"""Nobody follows what is a neighbour's: every subscription of the schema, over WebSockets, while something happens to what it names.

Birch's and oak's people, and nobody, subscribe with ash's ids, alone and beside their own. Then ash's people do something, and hear of it.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import grpc
import pytest
from websockets.exceptions import ConnectionClosed

from tests.gateway.asking import Ids
from tests.gateway.serving import SECONDS_MAX, Served, Socket, serving
from tests.gateway.test_access import Neighbour, Street, people, quiet, street, told
from tests.gateway.world import key
from tests.services.worlds.sides import Side
from tests.services.worlds.watching import own_of

__all__ = ["quiet", "street"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSED = {"UNAUTHENTICATED", "NOT_PERMITTED", "ORDER_NOT_FOUND", "STAFF_NOT_FOUND", "STORE_NOT_FOUND", "CONSUMER_NOT_FOUND"}
"""Why a neighbour's subscription ends, if it does not just stay silent."""
TOO_MUCH = "INVALID_FIELD"
"""Why one ends that names more than it may at once."""


class Follower:
    """Somebody with a socket, what they subscribed to and what they were told."""

    def __init__(self, who: Neighbour, socket: Socket) -> None:
        self.who, self.socket = who, socket
        self.asked: dict[str, tuple[str, str]] = {}
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.heard_more = asyncio.Condition()
        self.quiet = False

    async def subscribe(self, field: str, query: str) -> None:
        self.asked[await self.socket.subscribe(query)] = (field, query)

    async def listen(self) -> None:
        """Keeps whatever is said, until the socket is closed."""
        with suppress(ConnectionClosed):
            while True:
                message = json.loads(await self.socket.opened.recv())
                async with self.heard_more:
                    if message["type"] == "pong":
                        self.quiet = True
                    else:
                        payload = message.get("payload")
                        self.heard.append((message["id"], {"errors": payload} if message["type"] == "error" else payload or {}))
                    self.heard_more.notify_all()

    async def hear_all(self) -> None:
        """Returns when everything that was said to them so far has arrived."""
        self.quiet = False
        await self.socket.say(type="ping")
        async with asyncio.timeout(SECONDS_MAX), self.heard_more:
            await self.heard_more.wait_for(lambda: self.quiet)

    async def news(self) -> None:
        """Returns when something more was said."""
        async with self.heard_more:
            await self.heard_more.wait()

    def misheard(self) -> Iterator[str]:
        """Subscriptions that were refused for what they are, and not for whom they are about."""
        for id, body in self.heard:
            field, query = self.asked[id]
            for code in {error["extensions"]["code"] for error in body.get("errors", ())} - REFUSED:
                if code != TOO_MUCH or query.partition("{__typename")[0].count("Id:") < 2:
                    yield f"{field} is refused to {self.who.label} with {code}: {query[:200]}"

    def told(self, own: Any) -> Iterator[tuple[str, list[str]]]:
        """What of the target's own they were told, by the field that told it."""
        for id, body in self.heard:
            field, query = self.asked[id]
            if found := told(own, body, query):
                yield field, found


async def happen(street: Street, ash: Side) -> None:
    """Something of each kind that is followed."""
    guide, consumer = (Neighbour("ash's", subject, ash) for subject in (ash.ids["staff"][0], ash.consumer))
    writing = {"consumerId": ash.consumer, "brandId": ash.brand_id, "text": ash.text("come again")}
    for who, mutation, given in (
        (guide, "acknowledgeTask", {"taskId": ash.task}),
        (guide, "sendOutreach", writing | {"idempotencyKey": key()}),
        (consumer, "cancelOrder", {"orderId": ash.order, "idempotencyKey": key()}),
    ):
        noun = mutation[0].upper() + mutation[1:]
        query = f"mutation($input:{noun}Input!){{{mutation}(input:$input){{__typename ...on Refusal{{code message}}}}}}"
        answer = (await street.answer(who, query, {"input": given}))["data"][mutation]
        assert answer["__typename"] == f"{noun}Payload", answer


async def following(stack: AsyncExitStack, served: Served, who: Neighbour, offset: float) -> Follower:
    """Somebody whose socket is acknowledged."""
    socket = await stack.enter_async_context(served.socket())
    token = served.gateway.token(who.subject, clock_offset=offset) if who.subject else ""
    await socket.say(type="connection_init", payload={"authorization": f"Bearer {token}"} if token else {})
    assert await socket.heard() == {"type": "connection_ack"}
    follower = Follower(who, socket)
    listening = asyncio.create_task(follower.listen())
    stack.callback(listening.cancel)
    return follower


def tapped(street: Street) -> list[grpc.aio.UnaryStreamCall[Any, Any]]:
    """The streams that the gateway opens from now on."""
    clients, opened = street.gateway.app.state.clients, []
    follow = clients.follow

    def tap(request: Any) -> Any:
        opened.append(follow(request))
        return opened[-1]

    clients.follow = tap
    return opened


async def test_nobody_follows_what_is_anothers(street: Street) -> None:
    ash, offset = street.world.ash, street.world.suite.offset
    fields = set(street.asking.schema.subscription_type.fields)  # type: ignore[union-attr]
    opened = tapped(street)
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(serving(street.gateway))
        neighbours, rightful = [], []
        for side in (street.world.birch, street.world.oak):
            sides: dict[str, Ids] = {"target": ash.ids, "own": side.ids}
            for who in [Neighbour(f"nobody beside {side.name}", "", side), *people(side)]:
                neighbours.append(await following(stack, served, who, offset))
                for field, query in street.asking.subscriptions(sides):
                    await neighbours[-1].subscribe(field, query)
        for who in people(ash):
            rightful.append(await following(stack, served, who, offset))
            for field, query in street.asking.subscriptions({"target": ash.ids}):
                await rightful[-1].subscribe(field, query)
        for follower in (*neighbours, *rightful):
            await follower.hear_all()
        for call in opened:  # where they begin is said first
            with suppress(grpc.aio.AioRpcError):
                await call.initial_metadata()
        await happen(street, ash)

        own = await own_of(ash, street.world.birch, street.world)
        async with asyncio.timeout(SECONDS_MAX):
            while fields - {field for each in rightful for field, _ in each.told(own)}:
                await asyncio.wait([asyncio.create_task(each.news()) for each in rightful], return_when=asyncio.FIRST_COMPLETED)
        problems = []
        for each in neighbours:
            await each.hear_all()
            own = await own_of(ash, each.who.side, street.world)
            problems += [f"{field} tells {each.who.label} {found}" for field, found in each.told(own)]
            problems += each.misheard()
    assert not problems, "\n".join(problems[:30])
