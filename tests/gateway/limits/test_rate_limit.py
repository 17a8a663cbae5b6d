"""Rate limits: bursts, charges for expensive work, and the accounts of principals, tenants and addresses."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.sessions import Session
from gateway.execution.pipeline import UNCOMPILED_WEIGHT, USUAL_CALLS
from gateway.limits.rate_limit import BUCKETS_MAX, BURST_SECONDS, RateLimiter, RateLimits, charge
from services.kit.errors import Overloaded
from services.kit.security.principals import Principal
from services.kit.settings import Settings
from tests.gateway import small_world
from tests.gateway.conftest import Open

QUERY = {"query": "{ __typename }"}


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@given(st.integers(1, 500), st.lists(st.floats(0, 3), max_size=200))
def test_rate_limiter_admits_at_most_rate_and_burst(rate: int, waits: list[float]) -> None:
    clock = Clock()
    buckets = RateLimiter(rate, clock)
    taken = 0
    for seconds in waits:
        clock.now += seconds
        while taken < 5_000 and buckets.admit("a") == 0:
            taken += 1
    assert taken <= rate * (clock.now - 1_000.0 + BURST_SECONDS) + 1


@given(st.integers(1, 500), st.floats(0, 100))
def test_returned_wait_admits_the_next_request(rate: int, weight: float) -> None:
    clock = Clock()
    buckets = RateLimiter(rate, clock)
    buckets.charge("a", weight * rate)
    if wait := buckets.admit("a"):
        clock.now += wait + 1e-6
        assert buckets.admit("a") == 0
    assert buckets.admit("b") == 0


def test_charge_takes_no_tokens_of_idle_time() -> None:
    clock = Clock()
    buckets = RateLimiter(10, clock)
    buckets.admit("a")
    clock.now += 3_600.0
    buckets.charge("a", 10 * (BURST_SECONDS + 1))
    assert buckets.admit("a") > 1


def test_rate_of_zero_is_unlimited() -> None:
    buckets = RateLimiter(0)
    buckets.charge("a", 1e9)
    assert buckets.admit("a") == 0
    assert not buckets.full_at


def test_buckets_are_bounded() -> None:
    buckets = RateLimiter(1.0)
    for number in range(BUCKETS_MAX + 500):
        assert buckets.admit(str(number)) == 0
    assert len(buckets.full_at) == BUCKETS_MAX


def create_session(id: str, tenant_id: str = "") -> Session:
    return Session(Principal(id), tenant_id=tenant_id)


def test_principals_tenants_and_addresses_have_own_buckets() -> None:
    rates = RateLimits(Settings(rate_principal=1.0, rate_tenant=2.0, rate_address=1.0))

    def count_admitted(session: Session, address: str = "10.0.0.1") -> int:
        count = 0
        try:
            while count < 100:
                rates.admit(session, address)
                count += 1
        except Overloaded as refused:
            assert refused.reason == "RATE_LIMITED"
            assert refused.retryable
            assert refused.retry_after is not None
        return count

    burst = round(BURST_SECONDS)
    assert count_admitted(create_session("stf_1", "brd_a")) == burst
    assert count_admitted(create_session("stf_2", "brd_a")) == burst
    assert count_admitted(create_session("stf_3", "brd_a")) == 0, "the bucket of the tenant is empty"
    assert count_admitted(create_session("stf_4", "brd_b")) == burst
    assert count_admitted(create_session("con_1")) == burst
    assert count_admitted(Session()) == burst
    assert count_admitted(Session(), "10.0.0.2") == burst
    assert count_admitted(Session(), "2001:db8::1") == burst
    assert count_admitted(Session(), "2001:db8::ffff:2") == 0, "the same network of 64 bits"
    assert count_admitted(Session(), "::ffff:10.0.0.2") == 0, "the same address, mapped to IPv6"
    assert count_admitted(Session(), "::ffff:10.0.0.3") == burst


def test_charged_work_delays_the_next_request() -> None:
    rates = RateLimits(Settings(rate_address=10.0))
    charge(rates.admit(Session(), "10.0.0.1"), 500.0)
    with pytest.raises(Overloaded) as refused:
        rates.admit(Session(), "10.0.0.1")
    assert refused.value.retry_after is not None
    assert 45 < refused.value.retry_after.total_seconds() < 50


async def test_exceeded_rate_is_429_with_retry_after(open_gateway: Open) -> None:
    gateway = await open_gateway(rate_address=0.05)
    statuses = [(await gateway.post(QUERY)).status_code for _ in range(3)]
    refused = await gateway.post(QUERY)
    assert 200 not in statuses[1:]
    assert refused.status_code == 429
    assert 18 <= int(refused.headers["retry-after"]) <= 3600
    (error,) = refused.json()["errors"]
    assert (error["extensions"]["code"], error["extensions"]["retryable"]) == ("RATE_LIMITED", True)
    assert "data" not in refused.json()


async def test_staff_requests_count_for_their_tenant(open_gateway: Open) -> None:
    gateway = await open_gateway("organization", rate_tenant=50.0)
    name = {"zh": "甲", "en": "A"}
    await small_world.mutate(
        gateway, "createBrand", {"brandId": "brd_a", "kind": "BRAND", "name": name, "zone": "Asia/Shanghai", "currency": "CNY"}
    )
    store = {"storeId": "str_a", "kind": "STORE", "parentId": "unt_brd_a", "name": name, "position": small_world.NEAR}
    await small_world.mutate(gateway, "createStore", store | {"opensMinute": 0, "closesMinute": 1440})
    for staff in ("stf_one", "stf_two"):
        await small_world.mutate(gateway, "hireStaff", {"staffId": staff, "storeId": "str_a", "name": "Gu"})
    tenants: RateLimiter = gateway.app.state.rates.tenants
    assert not tenants.full_at, "an operator has no tenant"
    for staff in ("stf_one", "stf_two"):
        assert (await gateway.post(QUERY, subject=staff)).status_code == 200
    assert list(tenants.full_at) == ["brd_a"]
    tenants.charge("brd_a", 10_000)
    assert {(await gateway.post(QUERY, subject=staff)).status_code for staff in ("stf_one", "stf_two")} == {429}


async def test_invalid_tokens_count_for_their_address(open_gateway: Open) -> None:
    gateway = await open_gateway(rate_address=0.5)
    sent = [await gateway.post(QUERY, headers={"authorization": f"Bearer {number}"}) for number in range(3)]
    assert [each.status_code for each in sent] == [401, 429, 429]


async def create_charge_meter(open_gateway: Open) -> Callable[..., Awaitable[float]]:
    """Returns a function that executes an operation and returns the number of operations that it is charged as."""
    gateway = await open_gateway(rate_address=100.0)
    clock = Clock()
    buckets: RateLimiter = gateway.app.state.rates.addresses
    buckets.clock = clock

    async def measure_charge(query: str, **variables: Any) -> float:
        clock.now += 100
        await gateway.post({"query": query, "variables": variables})
        return (next(iter(buckets.full_at.values())) - clock.now) * buckets.per_second

    return measure_charge


async def test_new_document_is_charged_for_its_validation(open_gateway: Open) -> None:
    measure_charge = await create_charge_meter(open_gateway)
    query = "{ viewer { staff { id name brand { id } } } }"
    assert await measure_charge(query) > 1.1
    assert await measure_charge(query) == pytest.approx(1)


async def test_unknown_subject_is_counted_before_services_are_called(open_gateway: Open) -> None:
    gateway = await open_gateway(rate_address=0.5)
    sent = [await gateway.post(QUERY, subject="con_nobody") for _ in range(4)]
    assert [each.status_code for each in sent] == [503, 429, 429, 429]
    assert len(gateway.called) == 1


async def test_expensive_operation_is_charged_again(open_gateway: Open) -> None:
    measure_charge = await create_charge_meter(open_gateway)
    fields = " ".join(f"a{number}: offers(first: 1) {{ nodes {{ id }} }}" for number in range(15))
    counted = [await measure_charge(f"{{ {fields} }}") for _ in range(3)]
    assert counted[1:] == [pytest.approx(15 / USUAL_CALLS, rel=0.1)] * 2


async def test_new_plans_and_uncompiled_operations_are_charged(open_gateway: Open) -> None:
    measure_charge = await create_charge_meter(open_gateway)
    fields = " ".join(f"a{number}: offers(first: 1) {{ nodes {{ id }} }}" for number in range(5))
    query = f"query ($a: Boolean!) {{ {fields} b: __typename @include(if: $a) }}"
    new, again, other, other_again = [await measure_charge(query, a=a) for a in (True, True, False, False)]
    assert again == other_again == pytest.approx(1)
    assert other > 1.1 and new > other
    names = "abcde"
    many = f"query ({' '.join(f'${name}: Boolean!' for name in names)}) {{ {fields} "
    many += " ".join(f"{name}: __typename @include(if: ${name})" for name in names) + " }"
    await measure_charge(many, **dict.fromkeys(names, True))
    assert await measure_charge(many, **dict.fromkeys(names, True)) == pytest.approx(UNCOMPILED_WEIGHT * 5 / USUAL_CALLS, rel=0.1)


def test_negative_rate_setting_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"rate_principal": "-1"}, Settings, strict=False)
