"""Wallet rules: at most one order redeems a coupon, and discounts stay within their bounds."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.district.wallet import rules
from services.district.wallet.enums import CouponState
from services.district.wallet.rules import Coupon, Lock, LockRequest, LockState, LockTerms, OrderLine
from services.kit.errors import Conflict, Invalid, NotFound, Refusal
from services.kit.mongo.codec import validate
from services.kit.values.money import Money

AT = datetime(2026, 11, 22, 13, 40, tzinfo=UTC)
OWNERS = frozenset({"con_a", "con_b"})


def coupon(number: int, *, brand: str = "", days: int = 7, value: int = 3_000, minimum: int = 10_000, owner: str = "con_a") -> Coupon:
    return Coupon(
        id=f"cpn_{number}", consumer_id=owner, brand_id=brand or f"brd_{number}", campaign_id="cmp_a", district_id="dst_a", pack_id="pck_a",
        name="券", value=Money("CNY", value), minimum_spend=Money("CNY", minimum), issued_at=AT, expires_at=AT + timedelta(days=days),
    )  # fmt: skip


def build_lines(**amounts: int) -> list[OrderLine]:
    return [OrderLine(brand, Money("CNY", minor)) for brand, minor in amounts.items()]


def build_terms(coupon_ids: list[str], of: list[OrderLine]) -> LockTerms:
    return rules.build_terms(validate(LockRequest("str_a", tuple(coupon_ids), tuple(of))))


def lock(
    order: str, terms: LockTerms, held: dict[str, Coupon], owners: frozenset[str] = OWNERS, at: datetime = AT
) -> tuple[Lock, list[Coupon]]:
    """Locks coupons for an order of a store in the coupons' district."""
    return rules.lock(order, terms, held, owners=owners, district_ids=("dst_a", "dst_b"), at=at)


amounts = st.dictionaries(
    st.sampled_from(["brd_0", "brd_1", "brd_2"]), st.lists(st.integers(0, 30_000), min_size=1, max_size=3), min_size=1
)


@given(amounts, st.integers(1, 40_000), st.integers(0, 20_000))
def test_discount_is_positive_and_within_brand_lines(sums: dict[str, list[int]], value: int, minimum: int) -> None:
    terms = build_terms(["cpn_0"], [OrderLine(brand, Money("CNY", minor)) for brand, minors in sums.items() for minor in minors])
    total = sum(sums.get("brd_0", []))
    own = coupon(0, value=value, minimum=minimum)
    if total == 0 or total < minimum:
        with pytest.raises(Conflict) as refused:
            rules.compute_discount(own, terms.amounts)
        assert refused.value.reason == ("NO_LINE_OF_BRAND" if total == 0 else "MINIMUM_SPEND_MISSED")
    else:
        assert 0 < rules.compute_discount(own, terms.amounts).amount.minor == min(value, total)


@pytest.mark.parametrize(
    ("held", "coupon_ids", "of", "reason"),
    [
        ([coupon(0)], ["cpn_9"], OWNERS, "COUPON_NOT_FOUND"),
        ([coupon(0)], ["cpn_0"], frozenset({"con_x"}), "COUPON_NOT_FOUND"),
        ([coupon(0), coupon(1, brand="brd_0")], ["cpn_0", "cpn_1"], OWNERS, "BRAND_TWICE"),
        ([coupon(0, days=0)], ["cpn_0"], OWNERS, "COUPON_EXPIRED"),
        ([msgspec.structs.replace(coupon(0), district_id="dst_c")], ["cpn_0"], OWNERS, "STORE_NOT_IN_DISTRICT"),
        ([coupon(3)], ["cpn_3"], OWNERS, "NO_LINE_OF_BRAND"),
        ([coupon(0, minimum=50_001)], ["cpn_0"], OWNERS, "MINIMUM_SPEND_MISSED"),
        ([msgspec.structs.replace(coupon(0), value=Money("USD", 1))], ["cpn_0"], OWNERS, "CURRENCY_DIFFERS"),
    ],
)
def test_unspendable_coupon_is_refused_with_its_id(held: list[Coupon], coupon_ids: list[str], of: frozenset[str], reason: str) -> None:
    terms = build_terms(coupon_ids, build_lines(brd_0=50_000, brd_1=50_000))
    with pytest.raises((Conflict, NotFound)) as refused:
        lock("ord_a", terms, {item.id: item for item in held}, of)
    assert refused.value.reason == reason
    assert refused.value.metadata["coupon_id"] in coupon_ids


def test_person_spends_coupons_of_all_consumer_ids() -> None:
    held = {item.id: item for item in (coupon(0, owner="con_a"), coupon(1, owner="con_b"))}
    _, locked = lock("ord_a", build_terms(list(held), build_lines(brd_0=50_000, brd_1=50_000)), held)
    assert [item.state for item in locked] == [CouponState.LOCKED] * 2


@pytest.mark.parametrize(
    ("coupon_ids", "of", "field"),
    [
        ([], build_lines(brd_0=1), "coupon_ids"),
        ([f"cpn_{n}" for n in range(21)], build_lines(brd_0=1), "coupon_ids"),
        (["cpn_0"], [], "lines"),
        (["cpn_0"], build_lines(brd_0=1, brd_1=-1), "lines[1].amount"),
        (["cpn_0"], [*build_lines(brd_0=1), OrderLine("", Money("CNY"))], "lines[1].brand_id"),
        (["cpn_0"], build_lines(brd_0=1) * 501, "lines"),
    ],
)
def test_lock_request_out_of_bounds_is_invalid(coupon_ids: list[str], of: list[OrderLine], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        build_terms(coupon_ids, of)
    assert refused.value.metadata["field"] == field


def test_lock_needs_one_currency_and_distinct_coupons() -> None:
    with pytest.raises(Conflict) as refused:
        build_terms(["cpn_0", "cpn_0"], build_lines(brd_0=1))
    assert refused.value.reason == "BRAND_TWICE"
    with pytest.raises(Conflict) as refused:
        build_terms(["cpn_0"], [*build_lines(brd_0=1), OrderLine("brd_1", Money("USD", 1))])
    assert refused.value.reason == "CURRENCY_DIFFERS"


class Wallet(RuleBasedStateMachine):
    """A state machine of four coupons, three orders and a clock; the model is the set of successful calls."""

    def __init__(self) -> None:
        super().__init__()
        self.at = AT
        self.coupons = {item.id: item for item in (coupon(n, days=1) for n in range(4))}
        self.locks: dict[str, Lock] = {}
        self.redeemed_by: dict[str, str] = {}
        self.rollback_counts = dict.fromkeys(self.coupons, 0)

    def save(self, changed: list[Coupon]) -> None:
        self.coupons |= {item.id: item for item in changed}

    def list_locked(self, order: str) -> list[Coupon]:
        lock = self.locks[order]
        return [self.coupons[id] for id in lock.asked.coupon_ids]

    @rule(minutes=st.sampled_from([1, 30, 46, 600]))
    def wait(self, minutes: int) -> None:
        self.at += timedelta(minutes=minutes)

    @rule(order=st.sampled_from("xyz"), wanted=st.sets(st.integers(0, 3), min_size=1))
    def lock(self, order: str, wanted: set[int]) -> None:
        terms = build_terms([f"cpn_{n}" for n in sorted(wanted)], [OrderLine(f"brd_{n}", Money("CNY", 50_000)) for n in range(4)])
        before = dict(self.coupons)
        try:
            if (current := self.locks.get(order)) and rules.is_repeat(current, terms):
                return
            new, locked = lock(order, terms, self.coupons, at=self.at)
        except Refusal:
            assert self.coupons == before
            has_unavailable = any(rules.compute_state(before[id], self.at) is not CouponState.ISSUED for id in terms.coupon_ids)
            assert has_unavailable or self.locks.get(order)
            return
        for other in {before[item.id].order_id for item in locked} - {""}:
            released, issued = rules.roll_back(self.locks[other], self.list_locked(other))
            self.locks[other] = released
            self.save(issued)
        self.save(locked)
        self.locks[order] = new

    @rule(order=st.sampled_from("xyz"))
    def confirm(self, order: str) -> None:
        if (lock := self.locks.get(order)) is None:
            return
        if lock.state is LockState.RELEASED:
            with pytest.raises(Conflict):
                rules.confirm(lock, [], self.at)
            return
        confirmed, redeemed = rules.confirm(lock, self.list_locked(order), self.at)
        assert rules.confirm(confirmed, redeemed, self.at) == (confirmed, [])
        self.locks[order] = confirmed
        self.save(redeemed)
        self.redeemed_by |= dict.fromkeys(confirmed.asked.coupon_ids, order)

    @rule(order=st.sampled_from("xyz"))
    def roll_back(self, order: str) -> None:
        if (lock := self.locks.get(order)) is None:
            return
        coupons = [] if lock.state is LockState.RELEASED else self.list_locked(order)
        released, issued = rules.roll_back(lock, coupons)
        assert rules.roll_back(released, issued) == (released, [])
        self.locks[order] = released
        self.save(issued)
        for item in issued:
            if self.redeemed_by.get(item.id) == order:
                del self.redeemed_by[item.id]
                self.rollback_counts[item.id] += 1

    @invariant()
    def coupons_agree_with_locks(self) -> None:
        holders: dict[str, str] = {}
        for order, lock in self.locks.items():
            if lock.state is not LockState.RELEASED:
                for id in lock.asked.coupon_ids:
                    assert id not in holders
                    holders[id] = order
        for id, item in self.coupons.items():
            assert (item.order_id or None) == holders.get(id)
            assert (item.state is CouponState.REDEEMED) == (id in self.redeemed_by)
            assert (item.redeemed_at is not None) == (item.state is CouponState.REDEEMED)
            assert (item.locked_at is None) == (item.state is CouponState.ISSUED)
            assert item.state is not CouponState.EXPIRED
            assert item.rollback_count == self.rollback_counts[id]


Wallet.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_coupon_is_held_by_at_most_one_order = Wallet.TestCase
