"""Fuzzing of the gateway: 20,000 random mutations of valid requests, in front of real services, cause no fault and no leak.

For every ten requests there are one WebSocket conversation and one event stream, mutated in the same way. The valid requests are the whole
story of the small world, so that their mutations reach deep: ids, cursors, amounts, tokens and bytes.
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
from tests.gateway import small_world
from tests.gateway.conftest import FAULTS, GRAPHQL, Gateway
from tests.gateway.live_gateway import operation_text
from tests.gateway.test_operations import run_story
from tests.proofs._conversations import CHANGES, INTERNAL_ERRORS, QUIET_SECONDS, converse, create_conversation
from tests.proofs._mutations import MUTATIONS, FuzzRequest, mutate_request
from tests.suite import with_suite

REQUESTS, SEED, CONCURRENCY = 20_000, 20_260, 16
CONVERSATIONS_SHARE = 10
FOLLOWED = ("follow_order", "follow_tasks", "follow_inbox")
STREAMS = "event streams"
DEADLINE_SECONDS = 10.0
IDLE_SECONDS_MAX = 1.0
"""The client closes an idle connection after this time, long before the gateway would."""
EXPECTED_STATUSES = frozenset({200, 400, 401, 403, 405, 406, 408, 413, 415, 431})
INTERNAL_TEXT = re.compile(
    r"Traceback|File \"|\.py\b|site-packages|grpc|pymongo|mongodb|msgspec|127\.0\.0\.1|[a-z](?:Error|Exception)\b|0x[0-9a-f]{6}"
)
"""Text that discloses the implementation."""
CURSOR = re.compile(r'"endCursor":"([^"]+)"')
EVENT = re.compile(r"^data: (.+)$", re.MULTILINE)
SHOWN_MAX = 20


class Remote(Gateway):
    """A gateway in another process. It records the valid requests."""

    def __init__(self, url: str, keys: Keys) -> None:
        self.keys, self.called = keys, []
        limits = httpx.Limits(keepalive_expiry=IDLE_SECONDS_MAX)
        self.http = httpx.AsyncClient(base_url=url, timeout=2 * DEADLINE_SECONDS, trust_env=False, limits=limits)
        self.requests: dict[str, FuzzRequest] = {}

    async def post(self, body: Any, *, subject: str = "", offset: float = 0.0, headers: dict[str, str] | None = None) -> httpx.Response:
        token = bearer(self.keys.tokens, subject, clock_offset=offset) if subject else ""
        self.requests.setdefault(str(body), FuzzRequest(body, token))
        return await super().post(body, subject=subject, offset=offset, headers=headers)

    async def turn_pages(self) -> None:
        """Requests the first item of every list and the page after it, which adds valid requests with cursors."""
        for request in list(self.requests.values()):
            if "$after" not in request.body["query"] or request.body["query"].lstrip().startswith("subscription"):
                continue
            first = request.body | {"variables": (request.body["variables"] or {}) | {"first": 1}}
            headers = {"accept": GRAPHQL} | ({"authorization": f"Bearer {request.token}"} if request.token else {})
            response = await self.http.post("/graphql", json=first, headers=headers)
            for cursor in CURSOR.findall(response.text):
                second = first | {"variables": first["variables"] | {"after": cursor}}
                self.requests.setdefault(str(second), FuzzRequest(second, request.token))


class FuzzResults(Struct):
    """The statuses of all requests, the slowest one, and the problems."""

    statuses: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in (*MUTATIONS, STREAMS, *CHANGES)})
    slowest: float = 0.0
    problems: list[str] = field(default_factory=list)


async def run(uri: str) -> Table:
    """Runs the proof at full size."""
    return await assert_nothing_breaks(uri, REQUESTS, SEED)


async def assert_nothing_breaks(uri: str, requests: int, seed: int) -> Table:
    """Asserts the invariant. Returns a table of the responses."""

    async def fuzz(processes: dict[str, RunningProcess], keys: Keys) -> FuzzResults:
        gateway = Remote(f"http://{processes['gateway'].address}", keys)
        async with gateway.http:
            await small_world.build(gateway)
            await run_story(gateway)
            await gateway.turn_pages()
            return await _fuzz(gateway, requests, random.Random(seed))

    unbounded = {"rate_principal": 0.0, "rate_tenant": 0.0, "rate_address": 0.0}
    started = time.perf_counter()
    results = await with_suite(uri, fuzz, gateway=True, deadline_seconds=DEADLINE_SECONDS, **unbounded)
    assert not results.problems, f"seed {seed}: {len(results.problems)} problems, of which\n" + "\n".join(results.problems[:SHOWN_MAX])
    assert results.slowest < DEADLINE_SECONDS
    return _table(results, f"gateway: {requests:,} mutated requests, seed {seed}, {time.perf_counter() - started:.0f} s")


async def _fuzz(gateway: Remote, requests: int, rng: random.Random) -> FuzzResults:
    results, valid = FuzzResults(), list(gateway.requests.values())
    mutated = iter([mutate_request(rng.choice(valid), valid, rng) for _ in range(requests)])

    async def send_requests() -> None:
        for name, request in mutated:
            await _check_request(gateway, name, request, results)

    stream_requests = valid + create_subscriptions(valid)
    conversations = iter([create_conversation(stream_requests, rng) for _ in range(requests // CONVERSATIONS_SHARE)])
    streams = iter([mutate_request(rng.choice(stream_requests), stream_requests, rng)[1] for _ in range(requests // CONVERSATIONS_SHARE)])

    async def run_conversations() -> None:
        for name, parts in conversations:
            await _check_conversation(gateway, name, parts, results)

    async def read_streams() -> None:
        for request in streams:
            await _check_stream(gateway, request, results)

    await asyncio.gather(*(send_requests() for _ in range(CONCURRENCY)))
    await asyncio.gather(*(run_conversations() for _ in range(CONCURRENCY)), *(read_streams() for _ in range(CONCURRENCY)))
    assert (await gateway.http.get("/health")).status_code == 200
    assert (await gateway.http.get("/ready")).status_code == 200, "a service is not ready"
    return results


def create_subscriptions(valid: list[FuzzRequest]) -> list[FuzzRequest]:
    """Returns subscriptions to the orders and staff that valid requests name, with the same tokens."""
    found = []
    for request in valid:
        for value in (request.body["variables"] or {}).values():
            if isinstance(value, str) and value.startswith(("ord_", "stf_")):
                name = FOLLOWED[value.startswith("stf_")]
                found.append(FuzzRequest({"query": operation_text(name), "variables": {"id": value, "staffId": value}}, request.token))
        found.append(FuzzRequest({"query": operation_text(FOLLOWED[2]), "variables": {}}, request.token))
    return found


def _headers(request: FuzzRequest, accept: str) -> dict[str, bytes]:
    headers = {"accept": accept, "content-type": "application/json"} | request.headers
    if request.token:
        headers["authorization"] = f"Bearer {request.token}"
    return {each: value.encode("utf-8", "surrogatepass") for each, value in headers.items()}


async def _check_conversation(gateway: Remote, name: str, parts: list[bytes], results: FuzzResults) -> None:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(2 * DEADLINE_SECONDS):
            transcript = await converse(gateway.http.base_url.netloc.decode(), parts)
    except TimeoutError:
        results.problems.append(f"{name}: no side closes the connection: {parts}"[:2_000])
        return
    results.slowest = max(results.slowest, time.perf_counter() - started)
    ended = "reset" if transcript.reset else str(transcript.code or "ended") if transcript.status == 101 else str(transcript.status)
    results.statuses[name][ended] += 1
    messages = [json.loads(text) for text in transcript.texts]
    bodies = [{"errors": each["payload"]} if each["type"] == "error" else each.get("payload") or {} for each in messages]
    received = "\n".join((transcript.head.partition("\r\n\r\n")[2], *transcript.texts, transcript.reason))
    if found := INTERNAL_TEXT.search(received):
        problem = f"it discloses {found.group()}"
    elif transcript.code in INTERNAL_ERRORS or transcript.status >= 500:
        problem = "an internal error"
    elif transcript.status == 101 and not (transcript.code or transcript.left or transcript.reset):
        problem = "it closes without a code"
    else:
        problem = _find_faults(bodies)
    if problem:
        results.problems.append(f"{name}: {problem}: {ended} {received[:600]}\n  to {parts}"[:2_000])


async def _check_stream(gateway: Remote, request: FuzzRequest, results: FuzzResults) -> None:
    """Reads a stream until it is silent."""
    started, body = time.perf_counter(), b""
    sent = {"headers": _headers(request, EVENT_STREAM)} | ({} if request.get else {"content": request.content()})
    address = f"/graphql?{request.query_string()}" if request.get else "/graphql"
    try:
        async with gateway.http.stream("GET" if request.get else "POST", address, **sent) as response:  # type: ignore[arg-type]
            results.slowest = max(results.slowest, time.perf_counter() - started)
            with suppress(TimeoutError):
                parts = response.aiter_raw()
                while True:
                    async with asyncio.timeout(QUIET_SECONDS):
                        body += await anext(parts)
    except StopAsyncIteration:
        pass
    except httpx.HTTPError as broken:
        results.problems.append(f"{STREAMS}: {broken!r} to {request}"[:2_000])
        return
    whole = httpx.Response(response.status_code, headers=response.headers, content=body)
    results.statuses[STREAMS][_status(whole)] += 1
    if problem := _find_problem(whole):
        results.problems.append(f"{STREAMS}: {problem}: {whole.status_code} {whole.text[:600]}\n  to {request.content()[:1_400]!r}")


async def _check_request(gateway: Remote, name: str, request: FuzzRequest, results: FuzzResults) -> None:
    headers = _headers(request, GRAPHQL)
    started = time.perf_counter()
    try:
        if request.get:
            response = await gateway.http.get(f"/graphql?{request.query_string()}", headers=headers)
        else:
            response = await gateway.http.post("/graphql", content=request.content(), headers=headers)
    except httpx.HTTPError as broken:
        results.problems.append(f"{name}: {broken!r} to {request}"[:2_000])
        return
    results.slowest = max(results.slowest, time.perf_counter() - started)
    results.statuses[name][_status(response)] += 1
    if problem := _find_problem(response):
        results.problems.append(f"{name}: {problem}: {response.status_code} {response.text[:600]}\n  to {request.content()[:1_400]!r}")


def _status(response: httpx.Response) -> str:
    if response.status_code != 200:
        return str(response.status_code)
    return "200, with errors" if b'"errors":[' in response.content else "200"


def _find_problem(response: httpx.Response) -> str:
    """Returns the problem of a response; empty if it is a correct response to an invalid request."""
    if response.status_code not in EXPECTED_STATUSES:
        return "status"
    if found := INTERNAL_TEXT.search(response.text):
        return f"it discloses {found.group()}"
    media = response.headers.get("content-type", "").partition(";")[0]
    if media not in (JSON, GRAPHQL, EVENT_STREAM):
        return "" if response.status_code in (400, 405) else "no JSON"
    texts = EVENT.findall(response.text) if media == EVENT_STREAM else [response.text]
    bodies = [json.loads(text) for text in texts]
    if response.status_code != 200 and any("data" in body for body in bodies):
        return "`data` in a refusal"
    return _find_faults(bodies)


def _find_faults(bodies: list[Any]) -> str:
    """Returns the codes of these responses if one of them is a fault; else empty."""
    codes = {error["extensions"]["code"] for body in bodies for error in body.get("errors", ())}
    return f"{codes}" if codes & FAULTS else ""


def _table(results: FuzzResults, title: str) -> Table:
    table = Table("mutation", "responses", title=title, caption=f"the slowest response took {results.slowest * 1000:.0f} ms")
    for name, counts in results.statuses.items():
        table.add_row(name, ", ".join(f"{count:,} x {kind}" for kind, count in sorted(counts.items())))
    return table
