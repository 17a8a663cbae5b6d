"""How often, and how many at once: who asks too much waits, nobody else does, and nothing grows by it."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.sessions import Session
from gateway.execution.pipeline import UNCOMPILED_WEIGHT, USUAL_CALLS
from gateway.http.load_shedding import RETRY_AFTER_SECONDS, LoadSheddingMiddleware
from gateway.limits.deadline import Deadline
from gateway.limits.rate_limit import BUCKETS_MAX, BURST_SECONDS, RateLimiter, RateLimits, charge
from gateway.observability import coalesced_log
from gateway.rpc.bulkhead import SILENT_SECONDS_MAX
from gateway.rpc.clients import WAITING_SHARE
from services.kit.errors import Conflict, Exhausted, Overloaded, Refusal
from services.kit.security.principals import Principal
from services.kit.settings import Settings
from tests.gateway import world
from tests.gateway.conftest import Open
from tests.gateway.serving import SECONDS_MAX, serving, until

ASKED = {"query": "{ __typename }"}


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@given(st.integers(1, 500), st.lists(st.floats(0, 3), max_size=200))
def test_never_more_than_the_rate_and_a_burst(rate: int, waits: list[float]) -> None:
    clock = Clock()
    buckets = RateLimiter(rate, clock)
    taken = 0
    for seconds in waits:
        clock.now += seconds
        while taken < 5_000 and buckets.admit("a") == 0:
            taken += 1
    assert taken <= rate * (clock.now - 1_000.0 + BURST_SECONDS) + 1


@given(st.integers(1, 500), st.floats(0, 100))
def test_after_the_wait_that_it_says_there_is_one_more(rate: int, weight: float) -> None:
    clock = Clock()
    buckets = RateLimiter(rate, clock)
    buckets.charge("a", weight * rate)
    if wait := buckets.admit("a"):
        clock.now += wait + 1e-6
        assert buckets.admit("a") == 0
    assert buckets.admit("b") == 0


def test_more_work_is_paid_from_now_on_and_not_out_of_the_time_before() -> None:
    clock = Clock()
    buckets = RateLimiter(10, clock)
    buckets.admit("a")
    clock.now += 3_600.0
    buckets.charge("a", 10 * (BURST_SECONDS + 1))
    assert buckets.admit("a") > 1


def test_a_rate_of_0_is_no_bound() -> None:
    buckets = RateLimiter(0)
    buckets.charge("a", 1e9)
    assert buckets.admit("a") == 0
    assert not buckets.full_at


def test_buckets_are_bounded() -> None:
    buckets = RateLimiter(1.0)
    for number in range(BUCKETS_MAX + 500):
        assert buckets.admit(str(number)) == 0
    assert len(buckets.full_at) == BUCKETS_MAX


def session(id: str, tenant_id: str = "") -> Session:
    return Session(Principal(id), tenant_id=tenant_id)


def test_each_person_each_tenant_and_each_address_has_its_own() -> None:
    kept = RateLimits(Settings(rate_principal=1.0, rate_tenant=2.0, rate_address=1.0))

    def admitted(asking: Session, address: str = "10.0.0.1") -> int:
        count = 0
        try:
            while count < 100:
                kept.admit(asking, address)
                count += 1
        except Overloaded as refused:
            assert refused.reason == "RATE_LIMITED"
            assert refused.retryable
            assert refused.retry_after is not None
        return count

    burst = round(BURST_SECONDS)
    assert admitted(session("stf_1", "brd_a")) == burst
    assert admitted(session("stf_2", "brd_a")) == burst
    assert admitted(session("stf_3", "brd_a")) == 0, "the tenant has had four"
    assert admitted(session("stf_4", "brd_b")) == burst
    assert admitted(session("con_1")) == burst
    assert admitted(Session()) == burst
    assert admitted(Session(), "10.0.0.2") == burst
    assert admitted(Session(), "2001:db8::1") == burst
    assert admitted(Session(), "2001:db8::ffff:2") == 0, "the same network of 64 bits"
    assert admitted(Session(), "::ffff:10.0.0.2") == 0, "the same address, written as one of IPv6"
    assert admitted(Session(), "::ffff:10.0.0.3") == burst


def test_work_that_was_more_than_thought_is_paid_later() -> None:
    kept = RateLimits(Settings(rate_address=10.0))
    charge(kept.admit(Session(), "10.0.0.1"), 500.0)
    with pytest.raises(Overloaded) as refused:
        kept.admit(Session(), "10.0.0.1")
    assert refused.value.retry_after is not None
    assert 45 < refused.value.retry_after.total_seconds() < 50


async def test_who_asks_too_often_is_told_when_to_come_back(open_gateway: Open) -> None:
    gateway = await open_gateway(rate_address=0.05)
    statuses = [(await gateway.post(ASKED)).status_code for _ in range(3)]
    refused = await gateway.post(ASKED)
    assert 200 not in statuses[1:]
    assert refused.status_code == 429
    assert 18 <= int(refused.headers["retry-after"]) <= 3600
    (error,) = refused.json()["errors"]
    assert (error["extensions"]["code"], error["extensions"]["retryable"]) == ("RATE_LIMITED", True)
    assert "data" not in refused.json()


async def test_staff_are_counted_for_the_tenant_they_work_for(open_gateway: Open) -> None:
    gateway = await open_gateway("organization", rate_tenant=50.0)
    name = {"zh": "甲", "en": "A"}
    await world.do(gateway, "createBrand", {"brandId": "brd_a", "kind": "BRAND", "name": name, "zone": "Asia/Shanghai", "currency": "CNY"})
    store = {"storeId": "str_a", "kind": "STORE", "parentId": "unt_brd_a", "name": name, "position": world.NEAR}
    await world.do(gateway, "createStore", store | {"opensMinute": 0, "closesMinute": 1440})
    for staff in ("stf_one", "stf_two"):
        await world.do(gateway, "hireStaff", {"staffId": staff, "storeId": "str_a", "name": "Gu"})
    tenants: RateLimiter = gateway.app.state.rates.tenants
    assert not tenants.full_at, "the operator works for no tenant"
    for staff in ("stf_one", "stf_two"):
        assert (await gateway.post(ASKED, who=staff)).status_code == 200
    assert list(tenants.full_at) == ["brd_a"]
    tenants.charge("brd_a", 10_000)
    assert {(await gateway.post(ASKED, who=staff)).status_code for staff in ("stf_one", "stf_two")} == {429}


async def test_tokens_that_are_not_in_order_are_counted_too(open_gateway: Open) -> None:
    gateway = await open_gateway(rate_address=0.5)
    sent = [await gateway.post(ASKED, headers={"authorization": f"Bearer {number}"}) for number in range(3)]
    assert [each.status_code for each in sent] == [401, 429, 429]


async def counting(open_gateway: Open) -> Callable[..., Awaitable[float]]:
    """`await taken(query, a=True)`: as how many operations it counts, asked by an address that has asked for nothing."""
    gateway = await open_gateway(rate_address=100.0)
    clock = Clock()
    buckets: RateLimiter = gateway.app.state.rates.addresses
    buckets.clock = clock

    async def taken(query: str, **variables: Any) -> float:
        clock.now += 100
        await gateway.post({"query": query, "variables": variables})
        return (next(iter(buckets.full_at.values())) - clock.now) * buckets.per_second

    return taken


async def test_a_new_document_is_counted_by_what_it_takes(open_gateway: Open) -> None:
    taken = await counting(open_gateway)
    query = "{ viewer { staff { id name brand { id } } } }"
    assert await taken(query) > 1.1
    assert await taken(query) == pytest.approx(1)


async def test_operations_above_the_limit_are_shed(
    open_gateway: Open, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(coalesced_log, "WINDOW_SECONDS", 0.2)
    gateway = await open_gateway(operations_max=5)
    gateway.app.state.clients.bulkheads["organization"].waiting_max = 5
    arrived, gate = asyncio.Event(), asyncio.Event()
    under_way = 0

    async def slow(request: Any) -> Any:
        nonlocal under_way
        under_way += 1
        if under_way == 5:
            arrived.set()
        await gate.wait()
        raise Overloaded("SLOW")

    gateway.app.state.clients.call = slow
    query = {"query": '{ brand(id: "brd_a") { id } }'}
    asking = [asyncio.create_task(gateway.post(query)) for _ in range(5)]
    await arrived.wait()
    refused = await asyncio.gather(*(gateway.post(query) for _ in range(50)))
    assert {each.status_code for each in refused} == {503}
    assert {each.headers["retry-after"] for each in refused} == {str(RETRY_AFTER_SECONDS)}
    assert not any("connection" in each.headers for each in refused), "a new connection costs more than another refusal"
    told = [each.json()["errors"][0]["extensions"] for each in refused]
    ids = {each.pop("id") for each in told}
    assert told == [{"code": "OVERLOADED", "retryable": True}] * 50
    assert under_way == 5
    assert (await gateway.http.get("/health")).status_code == 200
    gate.set()
    assert {(await each).status_code for each in asking} == {200}
    assert (await gateway.post(ASKED)).status_code == 200, "recovered at once"
    await until(lambda: not load_shedding(gateway.app).log.count)
    lines = [line for line in capfd.readouterr().out.splitlines() if "operations shed" in line]
    assert len(lines) == len(ids) < 5, "one line tells of many"
    assert all(any(id in line for line in lines) for id in ids)
    assert sum(int(re.search(r"count=.*?(\d+)", line)[1]) for line in lines) == 50  # type: ignore[index]


async def test_whoever_is_not_known_is_counted_before_anybody_is_asked_who_they_are(open_gateway: Open) -> None:
    gateway = await open_gateway(rate_address=0.5)
    sent = [await gateway.post(ASKED, who="con_nobody") for _ in range(4)]
    assert [each.status_code for each in sent] == [503, 429, 429, 429]
    assert len(gateway.called) == 1


async def test_more_work_than_usual_counts_as_more_than_one(open_gateway: Open) -> None:
    taken = await counting(open_gateway)
    fields = " ".join(f"a{number}: offers(first: 1) {{ nodes {{ id }} }}" for number in range(15))
    counted = [await taken(f"{{ {fields} }}") for _ in range(3)]
    assert counted[1:] == [pytest.approx(15 / USUAL_CALLS, rel=0.1)] * 2


async def test_a_plan_more_is_counted_by_what_it_takes_and_what_is_not_compiled_as_much_more(open_gateway: Open) -> None:
    taken = await counting(open_gateway)
    fields = " ".join(f"a{number}: offers(first: 1) {{ nodes {{ id }} }}" for number in range(5))
    query = f"query ($a: Boolean!) {{ {fields} b: __typename @include(if: $a) }}"
    new, again, other, other_again = [await taken(query, a=a) for a in (True, True, False, False)]
    assert again == other_again == pytest.approx(1)
    assert other > 1.1 and new > other
    names = "abcde"
    many = f"query ({' '.join(f'${name}: Boolean!' for name in names)}) {{ {fields} "
    many += " ".join(f"{name}: __typename @include(if: ${name})" for name in names) + " }"
    await taken(many, **dict.fromkeys(names, True))
    assert await taken(many, **dict.fromkeys(names, True)) == pytest.approx(UNCOMPILED_WEIGHT * 5 / USUAL_CALLS, rel=0.1)


async def test_a_slow_service_costs_its_own_fields_and_no_place_of_others(open_gateway: Open) -> None:
    gateway = await open_gateway(operations_max=4 * WAITING_SHARE)
    full, gate = asyncio.Event(), asyncio.Event()
    clients = gateway.app.state.clients
    bulkhead = clients.bulkheads["commerce"]

    async def slow(request: Any) -> Any:
        if clients.rpc(type(request))[0] == "commerce":
            if bulkhead.waiting == bulkhead.waiting_max:
                full.set()
            await gate.wait()
        raise Overloaded("SLOW")

    clients.call = slow
    hanging = {"query": "{ a: offers(first: 1) { nodes { id } } b: offers(first: 2) { nodes { id } } }"}
    asking = [asyncio.create_task(gateway.post(hanging)) for _ in range(bulkhead.waiting_max)]
    await full.wait()
    bulkhead.answered_at -= SILENT_SECONDS_MAX
    both = (await gateway.post({"query": '{ offers(first: 1) { nodes { id } } brand(id: "brd_a") { id } }'})).json()
    codes = {error["path"][0]: error["extensions"]["code"] for error in both["errors"]}
    assert codes == {"offers": "SERVICE_OVERLOADED", "brand": "SLOW"}
    gate.set()
    assert {(await each).status_code for each in asking} == {200}
    assert not bulkhead.waiting


@pytest.mark.parametrize("refusal", [Conflict("NO"), Exhausted("NO"), Overloaded("NO")], ids=lambda refusal: type(refusal).__name__)
async def test_a_service_that_refuses_is_heard(open_gateway: Open, refusal: Refusal) -> None:
    gateway = await open_gateway(operations_max=4 * WAITING_SHARE)
    clients, full, gate = gateway.app.state.clients, asyncio.Event(), asyncio.Event()
    bulkhead = clients.bulkheads["commerce"]

    async def refusing(request: Any) -> Any:
        if request.page.first == 1:
            if bulkhead.waiting == bulkhead.waiting_max - 1:
                full.set()
            await gate.wait()
        raise refusal

    clients.call = refusing
    asking = [
        asyncio.create_task(gateway.post({"query": "{ offers(first: 1) { nodes { id } } }"})) for _ in range(bulkhead.waiting_max - 1)
    ]
    await full.wait()
    for silent in (0.0, SILENT_SECONDS_MAX):
        bulkhead.answered_at -= silent
        refused = (await gateway.post({"query": "{ offers(first: 2) { nodes { id } } }"})).json()
        assert refused["errors"][0]["extensions"]["code"] == "NO"
    assert bulkhead.answered_at > time.monotonic() - SILENT_SECONDS_MAX
    gate.set()
    await asyncio.gather(*asking)


async def test_many_at_once_after_a_silence_in_which_nobody_asked_are_answered(open_gateway: Open) -> None:
    gateway = await open_gateway(operations_max=4 * WAITING_SHARE)
    clients, came, gate = gateway.app.state.clients, asyncio.Event(), asyncio.Event()
    bulkhead = clients.bulkheads["commerce"]
    many = bulkhead.waiting_max + 4

    async def slow(request: Any) -> Any:
        if bulkhead.waiting == many:
            came.set()
        await gate.wait()
        raise Overloaded("SLOW")

    clients.call = slow
    bulkhead.answered_at = time.monotonic() - 3_600
    asking = [asyncio.create_task(gateway.post({"query": "{ offers(first: 1) { nodes { id } } }"})) for _ in range(many)]
    async with asyncio.timeout(SECONDS_MAX):
        await came.wait()
    gate.set()
    assert {(await each).json()["errors"][0]["extensions"]["code"] for each in asking} == {"SLOW"}


async def test_incomplete_bodies_hold_no_slot(open_gateway: Open) -> None:
    gateway = await open_gateway(operations_max=3)
    asked = json.dumps(ASKED).encode()
    head = b"POST /graphql HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(asked)
    assert (await gateway.post(ASKED)).status_code == 200
    async with serving(gateway) as served, asyncio.timeout(SECONDS_MAX):
        host, _, port = served.address.partition(":")
        slow = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        for _, writer in slow:
            writer.write(head + asked[:5])
        await until(lambda: load_shedding(gateway.app).incomplete_bytes == 15)
        async with httpx.AsyncClient(base_url=f"http://{served.address}", trust_env=False) as http:
            quick = await asyncio.gather(*(http.post("/graphql", json=ASKED) for _ in range(3)))
            assert {each.status_code for each in quick} == {200}
        for reader, writer in slow:
            writer.write(asked[5:])
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()


def load_shedding(app: Any) -> LoadSheddingMiddleware:
    """Returns that middleware of the application."""
    inner = app.middleware_stack
    while not isinstance(inner, LoadSheddingMiddleware):
        inner = inner.app
    return inner


async def test_operation_after_its_deadline_is_answered_with_504(open_gateway: Open) -> None:
    gateway = await open_gateway(deadline_seconds=0.2)

    async def never(request: Any) -> Any:
        await asyncio.Event().wait()

    gateway.app.state.clients.call = never
    answer = await gateway.post({"query": '{ brand(id: "brd_a") { id } }'})
    assert answer.status_code == 504
    (error,) = answer.json()["errors"]
    assert error["extensions"] == {"code": "DEADLINE_EXCEEDED", "retryable": True, "id": error["extensions"]["id"]}
    assert "data" not in answer.json()


def test_rates_are_settings() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"rate_principal": "-1"}, Settings, strict=False)


async def test_deadline_raises_timeout_for_expired_tasks_only() -> None:
    deadline = Deadline(0.05)
    with pytest.raises(TimeoutError):
        await deadline.run(never_ends())
    task = asyncio.create_task(deadline.run(never_ends()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    both = asyncio.create_task(deadline.run(never_ends()))
    await asyncio.sleep(0)
    deadline.expires_at[both] = 0.0
    deadline._expire(both.get_loop())
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both
    assert await deadline.run(asyncio.sleep(0, "done")) == "done"
    several = await asyncio.gather(*(deadline.run(never_ends()) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in several] == [TimeoutError] * 3
    assert not deadline.expires_at
    assert not deadline.expired


async def never_ends() -> None:
    await asyncio.Event().wait()
