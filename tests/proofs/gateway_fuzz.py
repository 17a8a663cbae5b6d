"""20,000 requests made by chance from good ones, before real services: none is answered as if something had gone wrong with us. For ten of
them there are a conversation over a WebSocket and an event stream, made in the same way.

The good ones are the whole walk through a small world, so that what is changed of them reaches deep: ids, cursors, amounts, tokens, bytes.
"""

import asyncio
import json
import random
import re
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import httpx
from msgspec import Struct, field
from rich.table import Table

from gateway.http.request import EVENT_STREAM, JSON
from services.local.folder import RunningProcess
from services.local.keys import Keys
from services.local.token import bearer
from tests.gateway import world
from tests.gateway.conftest import FAULTS, GRAPHQL, Gateway
from tests.gateway.serving import operation
from tests.gateway.test_operations import run_story
from tests.proofs._conversations import BUGS, CHANGES, QUIET_SECONDS, conversation, talked
from tests.proofs._mutations import MUTATIONS, Asked, mutated
from tests.suite import with_suite

REQUESTS, SEED, AT_ONCE = 20_000, 20_260, 16
CONVERSATIONS_SHARE = 10
FOLLOWED = ("follow_order", "follow_tasks", "follow_inbox")
STREAMS = "event streams"
DEADLINE_SECONDS = 10.0
IDLE_SECONDS_MAX = 1.0
"""A connection is given up long before the gateway ends it: else a request may just miss it."""
FINE = frozenset({200, 400, 401, 403, 405, 406, 408, 413, 415, 431})
INSIDE = re.compile(
    r"Traceback|File \"|\.py\b|site-packages|grpc|pymongo|mongodb|msgspec|127\.0\.0\.1|[a-z](?:Error|Exception)\b|0x[0-9a-f]{6}"
)
"""What would tell of the insides of ours."""
CURSOR = re.compile(r'"endCursor":"([^"]+)"')
EVENT = re.compile(r"^data: (.+)$", re.MULTILINE)
SHOWN_MAX = 20


class Remote(Gateway):
    """A gateway that runs as a process; it keeps what it was asked."""

    def __init__(self, url: str, keys: Keys) -> None:
        self.keys, self.called = keys, []
        limits = httpx.Limits(keepalive_expiry=IDLE_SECONDS_MAX)
        self.http = httpx.AsyncClient(base_url=url, timeout=2 * DEADLINE_SECONDS, trust_env=False, limits=limits)
        self.asked: dict[str, Asked] = {}

    async def post(self, body: Any, *, who: str = "", offset: float = 0.0, headers: dict[str, str] | None = None) -> httpx.Response:
        token = bearer(self.keys.tokens, who, clock_offset=offset) if who else ""
        self.asked.setdefault(str(body), Asked(body, token))
        return await super().post(body, who=who, offset=offset, headers=headers)

    async def turn_pages(self) -> None:
        """Asks every list again for one item only, and for what comes after it: a good request with a cursor of its own."""
        for asked in list(self.asked.values()):
            if "$after" not in asked.body["query"] or asked.body["query"].lstrip().startswith("subscription"):
                continue
            first = asked.body | {"variables": (asked.body["variables"] or {}) | {"first": 1}}
            headers = {"accept": GRAPHQL} | ({"authorization": f"Bearer {asked.token}"} if asked.token else {})
            answer = await self.http.post("/graphql", json=first, headers=headers)
            for cursor in CURSOR.findall(answer.text):
                second = first | {"variables": first["variables"] | {"after": cursor}}
                self.asked.setdefault(str(second), Asked(second, asked.token))


class Seen(Struct):
    """What came of all of them."""

    statuses: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in (*MUTATIONS, STREAMS, *CHANGES)})
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)


async def run(uri: str) -> Table:
    """Full size."""
    return await nothing_breaks(uri, REQUESTS, SEED)


async def nothing_breaks(uri: str, requests: int, seed: int) -> Table:
    """Asserts the invariant; a table of the answers."""

    async def fuzzed(processes: dict[str, RunningProcess], keys: Keys) -> Seen:
        gateway = Remote(f"http://{processes['gateway'].address}", keys)
        async with gateway.http:
            await world.build(gateway)
            await run_story(gateway)
            await gateway.turn_pages()
            return await _fuzzed(gateway, requests, random.Random(seed))

    unbounded = {"rate_principal": 0.0, "rate_tenant": 0.0, "rate_address": 0.0}
    started = time.perf_counter()
    seen = await with_suite(uri, fuzzed, gateway=True, deadline_seconds=DEADLINE_SECONDS, **unbounded)
    assert not seen.wrong, f"seed {seed}: {len(seen.wrong)} answers, of which\n" + "\n".join(seen.wrong[:SHOWN_MAX])
    assert seen.slowest < DEADLINE_SECONDS
    return _table(seen, f"gateway: {requests:,} requests by chance, seed {seed}, {time.perf_counter() - started:.0f} s")


async def _fuzzed(gateway: Remote, requests: int, chance: random.Random) -> Seen:
    seen, good = Seen(), list(gateway.asked.values())
    drawn = iter([mutated(chance.choice(good), good, chance) for _ in range(requests)])

    async def asking() -> None:
        for name, asked in drawn:
            await _tried(gateway, name, asked, seen)

    good_streams = good + followed(good)
    talks = iter([conversation(good_streams, chance) for _ in range(requests // CONVERSATIONS_SHARE)])
    streams = iter([mutated(chance.choice(good_streams), good_streams, chance)[1] for _ in range(requests // CONVERSATIONS_SHARE)])

    async def talking() -> None:
        for name, parts in talks:
            await _talked(gateway, name, parts, seen)

    async def listening() -> None:
        for asked in streams:
            await _listened(gateway, asked, seen)

    await asyncio.gather(*(asking() for _ in range(AT_ONCE)))
    await asyncio.gather(*(talking() for _ in range(AT_ONCE)), *(listening() for _ in range(AT_ONCE)))
    assert (await gateway.http.get("/health")).status_code == 200
    assert (await gateway.http.get("/ready")).status_code == 200, "a service is gone"
    return seen


def followed(good: list[Asked]) -> list[Asked]:
    """Subscriptions to what the others speak of, by whoever asked for it."""
    found = []
    for asked in good:
        for value in (asked.body["variables"] or {}).values():
            if isinstance(value, str) and value.startswith(("ord_", "stf_")):
                name = FOLLOWED[value.startswith("stf_")]
                found.append(Asked({"query": operation(name), "variables": {"id": value, "staffId": value}}, asked.token))
        found.append(Asked({"query": operation(FOLLOWED[2]), "variables": {}}, asked.token))
    return found


def _headers(asked: Asked, accept: str) -> dict[str, bytes]:
    headers = {"accept": accept, "content-type": "application/json"} | asked.headers
    if asked.token:
        headers["authorization"] = f"Bearer {asked.token}"
    return {each: value.encode("utf-8", "surrogatepass") for each, value in headers.items()}


async def _talked(gateway: Remote, name: str, parts: list[bytes], seen: Seen) -> None:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(2 * DEADLINE_SECONDS):
            heard = await talked(gateway.http.base_url.netloc.decode(), parts)
    except TimeoutError:
        seen.wrong.append(f"{name}: nobody hangs up: {parts}"[:2_000])
        return
    seen.slowest = max(seen.slowest, time.perf_counter() - started)
    ended = "reset" if heard.reset else str(heard.code or "ended") if heard.status == 101 else str(heard.status)
    seen.statuses[name][ended] += 1
    told = [json.loads(text) for text in heard.texts]
    bodies = [{"errors": each["payload"]} if each["type"] == "error" else each.get("payload") or {} for each in told]
    said = "\n".join((heard.head.partition("\r\n\r\n")[2], *heard.texts, heard.reason))
    if found := INSIDE.search(said):
        why = f"it says {found.group()}"
    elif heard.code in BUGS or heard.status >= 500:
        why = "a bug"
    elif heard.status == 101 and not (heard.code or heard.left or heard.reset):
        why = "it hangs up without a word"
    else:
        why = _faults(bodies)
    if why:
        seen.wrong.append(f"{name}: {why}: {ended} {said[:600]}\n  to {parts}"[:2_000])


async def _listened(gateway: Remote, asked: Asked, seen: Seen) -> None:
    """A stream for as long as it says something."""
    started, body = time.perf_counter(), b""
    sent = {"headers": _headers(asked, EVENT_STREAM)} | ({} if asked.get else {"content": asked.content()})
    address = f"/graphql?{asked.address()}" if asked.get else "/graphql"
    try:
        async with gateway.http.stream("GET" if asked.get else "POST", address, **sent) as answer:  # type: ignore[arg-type]
            seen.slowest = max(seen.slowest, time.perf_counter() - started)
            with suppress(TimeoutError):
                parts = answer.aiter_raw()
                while True:
                    async with asyncio.timeout(QUIET_SECONDS):
                        body += await anext(parts)
    except StopAsyncIteration:
        pass
    except httpx.HTTPError as broken:
        seen.wrong.append(f"{STREAMS}: {broken!r} to {asked}"[:2_000])
        return
    whole = httpx.Response(answer.status_code, headers=answer.headers, content=body)
    seen.statuses[STREAMS][_kind(whole)] += 1
    if why := _wrong(whole):
        seen.wrong.append(f"{STREAMS}: {why}: {whole.status_code} {whole.text[:600]}\n  to {asked.content()[:1_400]!r}")


async def _tried(gateway: Remote, name: str, asked: Asked, seen: Seen) -> None:
    headers = _headers(asked, GRAPHQL)
    started = time.perf_counter()
    try:
        if asked.get:
            answer = await gateway.http.get(f"/graphql?{asked.address()}", headers=headers)
        else:
            answer = await gateway.http.post("/graphql", content=asked.content(), headers=headers)
    except httpx.HTTPError as broken:
        seen.wrong.append(f"{name}: {broken!r} to {asked}"[:2_000])
        return
    seen.slowest = max(seen.slowest, time.perf_counter() - started)
    seen.statuses[name][_kind(answer)] += 1
    if why := _wrong(answer):
        seen.wrong.append(f"{name}: {why}: {answer.status_code} {answer.text[:600]}\n  to {asked.content()[:1_400]!r}")


def _kind(answer: httpx.Response) -> str:
    if answer.status_code != 200:
        return str(answer.status_code)
    return "200, with errors" if b'"errors":[' in answer.content else "200"


def _wrong(answer: httpx.Response) -> str:
    """Why an answer is not one that a bad request deserves; empty when it is."""
    if answer.status_code not in FINE:
        return "status"
    if found := INSIDE.search(answer.text):
        return f"it says {found.group()}"
    media = answer.headers.get("content-type", "").partition(";")[0]
    if media not in (JSON, GRAPHQL, EVENT_STREAM):
        return "" if answer.status_code in (400, 405) else "no JSON"
    texts = EVENT.findall(answer.text) if media == EVENT_STREAM else [answer.text]
    bodies = [json.loads(text) for text in texts]
    if answer.status_code != 200 and any("data" in body for body in bodies):
        return "data beside a refusal"
    return _faults(bodies)


def _faults(bodies: list[Any]) -> str:
    """The codes of these answers, where one of them is nobody's fault but ours; else empty."""
    codes = {error["extensions"]["code"] for body in bodies for error in body.get("errors", ())}
    return f"{codes}" if codes & FAULTS else ""


def _table(seen: Seen, title: str) -> Table:
    table = Table("what was changed", "answered", title=title, caption=f"the slowest took {seen.slowest * 1000:.0f} ms")
    for name, counts in seen.statuses.items():
        table.add_row(name, ", ".join(f"{count:,} x {kind}" for kind, count in sorted(counts.items())))
    return table
