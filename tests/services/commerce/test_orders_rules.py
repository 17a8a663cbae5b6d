"""Rules of orders: sums to the minor unit, consistent stock and coupons after any calls, visibility, and imports."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from services.commerce.catalog.rules import Price, Text, Variant
from services.commerce.orders import import_rules, rules, visibility
from services.commerce.orders.enums import CancelReason, OrderState, PaymentMethod
from services.commerce.orders.import_rules import ImportedLine, ImportedOrder
from services.commerce.orders.model import AppliedCoupon, Order, PaymentRequest
from services.commerce.orders.rpc import accepted_payment_methods
from services.commerce.orders.scenario import ScenarioBasis
from services.commerce.stock import rules as stock_rules
from services.commerce.stock.enums import HoldState, Method
from services.commerce.stock.rules import LIVE, Hold, Stock, available
from services.kit.enums import Scenario, ScopeKind, Touchpoint
from services.kit.errors import Conflict, Exhausted, Invalid, NotFound
from services.kit.mongo.codec import to_document, validate
from services.kit.settings import Settings
from services.kit.values.money import MINOR_MAX

NOW = datetime(2026, 11, 20, 13, 40, tzinfo=UTC)
BRANDS = ("brd_a", "brd_b", "brd_c")


def variant(number: int, minor: int, brand_id: str = "brd_a", currency: str = "CNY") -> Variant:
    return Variant(f"var_{number}", f"prd_{number}", brand_id, f"ofr_{number}", Text("甲"), Price(currency, minor))


def hold_of(variant: Variant, quantity: int = 1, store_id: str = "str_a") -> Hold:
    stock = Stock(f"{store_id}:{variant.id}", store_id, variant.id, variant.brand_id, "rtl_x", on_hand=quantity)
    return stock_rules.hold(stock, id=f"hld_{variant.id}", consumer_id="con_a", quantity=quantity, at=NOW, real_at=NOW)


def make_order(*goods: tuple[Variant, int], coupon_ids: tuple[str, ...] = (), **fields: Any) -> Order:
    variants = {item.id: item for item, _ in goods}
    holds = [hold_of(item, quantity) for item, quantity in goods]
    basis = ScenarioBasis(1, "otherwise")
    return rules.place(
        holds, variants, id="ord_a", at=NOW, real_at=NOW, scenario=Scenario.AT_HOME, basis=basis, coupon_ids=coupon_ids, **fields
    )


GOODS = st.lists(st.tuples(st.integers(0, 10**7), st.sampled_from(BRANDS), st.integers(1, 9)), min_size=1, max_size=12)


@given(GOODS, st.data())
def test_discounts_are_allocated_to_the_minor_unit(goods: list[tuple[int, str, int]], data: st.DataObject) -> None:
    order = make_order(
        *((variant(number, minor, brand), quantity) for number, (minor, brand, quantity) in enumerate(goods)), coupon_ids=("cpn_a",)
    )
    coupons = []
    for brand in sorted({brand for _, brand, _ in goods}):
        amount = sum(minor * quantity for minor, brand_id, quantity in goods if brand_id == brand)
        coupons.append(AppliedCoupon(f"cpn_{brand}", brand, Price("CNY", data.draw(st.integers(0, amount)))))
    priced = rules.apply_coupons(order, coupons)
    assert priced.state is OrderState.PLACED
    assert priced.amount == order.amount
    assert priced.discount.minor == sum(coupon.discount.minor for coupon in coupons)
    assert priced.total.minor == priced.amount.minor - priced.discount.minor == sum(line.paid.minor for line in priced.lines)
    for line in priced.lines:
        assert 0 <= line.paid.minor == line.amount.minor - line.discount.minor
    for coupon in coupons:
        assert coupon.discount.minor == sum(line.discount.minor for line in priced.lines if line.brand_id == coupon.brand_id)
    assert rules.apply_coupons(priced, coupons) == priced


class OrderMachine(RuleBasedStateMachine):
    """One stock of three pieces, one coupon, and calls in any order, decided by the rules alone."""

    def __init__(self) -> None:
        super().__init__()
        self.at = NOW
        self.variant = variant(1, 100)
        self.stock = Stock("str_a:var_1", "str_a", "var_1", "brd_a", "brd_a", on_hand=3)
        self.holds: dict[str, Hold] = {}
        self.orders: dict[str, Order] = {}
        self.locked_by = ""
        self.spent_by = ""
        self.published: list[str] = []

    def change_hold(self, hold: Hold, *, reserved: int = 0, on_hand: int = 0) -> None:
        self.holds[hold.id] = hold
        self.stock = replace(self.stock, on_hand=self.stock.on_hand + on_hand, reserved=self.stock.reserved + reserved)

    def held_by(self, order: Order) -> list[Hold]:
        return [self.holds[line.hold_id] for line in order.lines]

    @rule(quantity=st.integers(1, 3))
    def hold(self, quantity: int) -> None:
        id = f"hld_{len(self.holds)}"
        try:
            held = stock_rules.hold(self.stock, id=id, consumer_id="con_a", quantity=quantity, at=self.at, real_at=self.at)
        except Exhausted:
            assert available(self.stock) < quantity
            return
        self.change_hold(held, reserved=quantity)

    @rule(data=st.data())
    @precondition(lambda self: self.holds)
    def release(self, data: st.DataObject) -> None:
        hold = data.draw(st.sampled_from(list(self.holds.values())))
        try:
            after, freed = stock_rules.release(hold)
        except Conflict:
            assert hold.state is HoldState.ORDERED
            return
        self.change_hold(after, reserved=-freed)

    @rule(data=st.data(), with_coupon=st.booleans())
    @precondition(lambda self: self.holds)
    def place(self, data: st.DataObject, with_coupon: bool) -> None:
        chosen = data.draw(st.lists(st.sampled_from(list(self.holds.values())), min_size=1, max_size=2, unique_by=lambda hold: hold.id))
        id = f"ord_{len(self.orders)}"
        order = rules.place(
            chosen, {"var_1": self.variant}, id=id, at=self.at, real_at=self.at, scenario=Scenario.AT_HOME,
            basis=ScenarioBasis(1, "otherwise"), coupon_ids=("cpn_a",) if with_coupon else (),
        )  # fmt: skip
        try:
            ordered = [stock_rules.order(hold, id, self.at, order.pay_by or self.at) for hold in chosen]
        except Conflict:
            return
        for hold in ordered:
            self.change_hold(hold)
        self.orders[id] = order

    @rule(data=st.data())
    @precondition(lambda self: self.orders)
    def lock(self, data: st.DataObject) -> None:
        order = data.draw(st.sampled_from(list(self.orders.values())))
        if order.state is not OrderState.PLACING:
            return
        if self.locked_by not in ("", order.id) or self.spent_by:
            self.orders[order.id] = rules.cancel(order, CancelReason.COUPON_REFUSED, self.at)
            for hold in self.held_by(order):
                after, freed = stock_rules.hold_again(hold, self.at)
                self.change_hold(after, reserved=-freed)
            return
        self.locked_by = order.id
        discount = Price("CNY", min(50, order.amount.minor))
        self.orders[order.id] = rules.apply_coupons(order, [AppliedCoupon("cpn_a", "brd_a", discount)])

    @rule(data=st.data(), token=st.sampled_from(["approve", "decline"]))
    @precondition(lambda self: self.orders)
    def pay(self, data: st.DataObject, token: str) -> None:
        order = data.draw(st.sampled_from(list(self.orders.values())))
        try:
            request = PaymentRequest(order.id, PaymentMethod.SANDBOX, token)
            self.orders[order.id], _ = rules.approve(order, payment_id="pay_a", request=request, at=self.at, real_at=self.at)
        except Conflict:
            assert (
                order.state in (OrderState.PLACING, OrderState.CANCELLED)
                or token == "decline"
                or (order.pay_by and order.pay_by <= self.at)
            )

    @rule(data=st.data())
    @precondition(lambda self: self.orders)
    def settle(self, data: st.DataObject) -> None:
        order = data.draw(st.sampled_from(list(self.orders.values())))
        if order.state not in (OrderState.PAYING, OrderState.PAID):
            with pytest.raises(Conflict):
                rules.settle(order)
            return
        if order.coupons and order.state is OrderState.PAYING:
            assert self.locked_by == order.id
            self.locked_by, self.spent_by = "", order.id
        after, events = rules.settle(order)
        self.published += [event.order_id for event in events]
        self.orders[order.id] = after
        for hold in self.held_by(order):
            sold, quantity = stock_rules.sell(hold)
            self.change_hold(sold, reserved=-quantity, on_hand=-quantity)

    @rule(data=st.data(), reason=st.sampled_from([CancelReason.REQUESTED, CancelReason.NOT_PAID]))
    @precondition(lambda self: self.orders)
    def cancel(self, data: st.DataObject, reason: CancelReason) -> None:
        order = data.draw(st.sampled_from(list(self.orders.values())))
        try:
            after = rules.cancel(order, reason, self.at)
        except Conflict:
            assert order.state in (OrderState.PAYING, OrderState.PAID)
            return
        self.orders[order.id] = after
        if after.rollback and self.locked_by == order.id:
            self.locked_by = ""
        if order.state is not OrderState.CANCELLED:
            for hold in self.held_by(order):
                free, freed = stock_rules.give_back(hold)
                self.change_hold(free, reserved=-freed)

    @rule(minutes=st.integers(1, 20))
    def wait_and_sweep(self, minutes: int) -> None:
        self.at += timedelta(minutes=minutes)
        for hold in list(self.holds.values()):
            after, freed = stock_rules.expire(hold, self.at)
            self.change_hold(after, reserved=-freed)
        for order in list(self.orders.values()):
            if rules.is_overdue(order, self.at):
                self.orders[order.id] = rules.cancel(order, CancelReason.NOT_PAID, self.at)
                self.locked_by = "" if self.locked_by == order.id else self.locked_by
                for hold in self.held_by(order):
                    free, freed = stock_rules.give_back(hold)
                    self.change_hold(free, reserved=-freed)

    @invariant()
    def stock_is_consistent(self) -> None:
        live = sum(hold.quantity for hold in self.holds.values() if hold.state in LIVE)
        sold = sum(hold.quantity for hold in self.holds.values() if hold.state is HoldState.SOLD)
        assert self.stock.reserved == live
        assert self.stock.on_hand + sold == 3
        assert 0 <= self.stock.reserved <= self.stock.on_hand

    @invariant()
    def paid_orders_are_published_once_and_sold(self) -> None:
        paid = [order.id for order in self.orders.values() if order.state is OrderState.PAID]
        assert sorted(self.published) == sorted(paid)
        for order in self.orders.values():
            states = {hold.state for hold in self.held_by(order) if hold.order_id == order.id}
            if order.state is OrderState.PAID:
                assert states == {HoldState.SOLD}
            if order.state is OrderState.CANCELLED:
                assert states <= {HoldState.RELEASED}

    @invariant()
    def a_coupon_is_spent_on_one_order_at_most(self) -> None:
        spent = [order.id for order in self.orders.values() if order.state is OrderState.PAID and order.coupons]
        assert len(spent) <= 1
        assert spent == [self.spent_by] if self.spent_by else not spent
        if self.locked_by:
            assert self.orders[self.locked_by].state in (OrderState.PLACED, OrderState.PAYING)


OrderMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestOrderMachine = OrderMachine.TestCase


def test_payment_is_idempotent_and_decline_changes_nothing() -> None:
    order = make_order((variant(1, 100), 2))

    def pay(order: Order, token: str) -> Order:
        request = PaymentRequest(order.id, PaymentMethod.SANDBOX, token)
        return rules.approve(order, payment_id="pay_a", request=request, at=NOW, real_at=NOW)[0]

    with pytest.raises(Conflict, match="PAYMENT_DECLINED"):
        pay(order, "decline")
    paying = pay(order, "approve")
    paid, events = rules.settle(paying)
    assert [event.order.paid_at for event in events] == [NOW]
    assert pay(paid, "decline") == paid
    assert rules.settle(paid) == (paid, [])
    with pytest.raises(Conflict, match="ORDER_PAID"):
        rules.cancel(paid, CancelReason.REQUESTED, NOW)
    lost = rules.cancel(paying, CancelReason.COUPONS_LOST, NOW)
    with pytest.raises(Conflict, match="COUPONS_LOST"):
        rules.settle(lost)


@given(st.sampled_from(PaymentMethod), st.sets(st.sampled_from(PaymentMethod)))
def test_only_accepted_payment_methods_pass(method: PaymentMethod, accepted: set[PaymentMethod]) -> None:
    if method in accepted:
        rules.check_method(method, accepted)
        return
    with pytest.raises(Invalid, match="PAYMENT_METHOD_REFUSED") as refusal:
        rules.check_method(method, accepted)
    assert (refusal.value.metadata, refusal.value.message) == ({"field": "method"}, rules.METHOD_REFUSALS[method])


@pytest.mark.parametrize(
    ("env", "sandbox_payments", "accepted"),
    [
        ("development", "auto", True),
        ("development", "off", False),
        ("production", "auto", False),
        ("production", "on", True),
    ],
)
def test_sandbox_is_accepted_in_development_or_by_setting(env: Any, sandbox_payments: Any, accepted: bool) -> None:
    assert (PaymentMethod.SANDBOX in accepted_payment_methods(Settings(env=env, sandbox_payments=sandbox_payments))) is accepted
    assert PaymentMethod.PROVIDER not in accepted_payment_methods(Settings(env=env, sandbox_payments=sandbox_payments))


def test_invalid_order_is_refused() -> None:
    in_cny, in_usd = variant(1, 100), variant(2, 50, currency="USD")
    with pytest.raises(Invalid, match="LINES_MISSING"):
        rules.build_lines([], {})
    with pytest.raises(Invalid, match="STORES_MIXED"):
        rules.build_lines([hold_of(in_cny), hold_of(in_usd, store_id="str_b")], {})
    with pytest.raises(Invalid, match="CURRENCY_MIXED"):
        make_order((in_cny, 1), (in_usd, 1))
    with pytest.raises(Invalid, match="DESTINATION_MISSING"):
        make_order((in_cny, 1), method=Method.INSTANT_DELIVERY)
    assert make_order((in_cny, 1), method=Method.INSTANT_DELIVERY, destination=b"x").method is Method.INSTANT_DELIVERY


# visibility ----------------------------------------------------------------------------------------------------------


@given(GOODS)
def test_redact_leaves_the_lines_of_a_brand(goods: list[tuple[int, str, int]]) -> None:
    order = make_order(*((variant(number, minor, brand), quantity) for number, (minor, brand, quantity) in enumerate(goods)))
    document = to_document(order) | {"payment": {"amount": {"minor": order.total.minor}}, "coupons": [{"brand_id": "brd_c"}]}
    part = visibility.redact(document, {ScopeKind.BRAND: frozenset({"brd_a"})})
    own = [line for line in order.lines if line.brand_id == "brd_a"]
    assert [line["variant_id"] for line in part["lines"]] == [line.variant_id for line in own]
    assert (part["amount"] or {"minor": 0})["minor"] == sum(line.amount.minor for line in own)
    assert (part["total"] or {"minor": 0})["minor"] == sum(line.paid.minor for line in own)
    assert part["partial"] is True
    assert part["coupons"] == []
    assert "payment" not in part


@pytest.mark.parametrize(
    "reach",
    [{ScopeKind.CONSUMER: {"con_a"}}, {ScopeKind.STORE: {"str_a"}}, {ScopeKind.BRAND: {"rtl_x"}}],
    ids=["the consumer", "the store", "the owner of the store"],
)
def test_redact_leaves_all_to_participants(reach: dict[ScopeKind, set[str]]) -> None:
    document = to_document(make_order((variant(1, 100, "brd_a"), 1), (variant(2, 100, "brd_b"), 1)))
    assert visibility.redact(document, {kind: frozenset(ids) for kind, ids in reach.items()}) == document
    assert visibility.redact(document, {}, everywhere=True) == document
    assert visibility.redact(document, {ScopeKind.CONSUMER: frozenset({"con_b"})})["lines"] == []


# imports --------------------------------------------------------------------------------------------------------

PAST = NOW - timedelta(days=30)


def imported_row(*lines: ImportedLine, paid_at: datetime = PAST, touchpoint: Touchpoint = Touchpoint.STORE) -> ImportedOrder:
    return ImportedOrder("ord_1", "con_a", "str_a", paid_at, lines, touchpoint)


def test_imported_order_is_paid_with_total() -> None:
    lines = (ImportedLine("var_1", 2, Price("USD", 300)), ImportedLine("var_2", 1, Price("USD", 99)))
    order = import_rules.build_order(
        imported_row(*lines), batch_id="b1", now=NOW, seller_id="rtl_x", brands={"var_1": "brd_a", "var_2": "brd_b"}
    )
    assert (order.state, order.scenario, order.total, order.brand_ids) == (
        OrderState.PAID,
        Scenario.IN_STORE,
        Price("USD", 399),
        ["brd_a", "brd_b"],
    )
    assert rules.summarize(order).paid_at == PAST


@given(st.lists(st.integers(0, MINOR_MAX) | st.integers(0, MINOR_MAX // 100), min_size=1, max_size=import_rules.LINES_MAX))
def test_imported_order_total_is_within_bounds(minors: list[int]) -> None:
    lines = (ImportedLine("var_1", 1, Price("CNY", minor)) for minor in minors)
    try:
        order = import_rules.build_order(imported_row(*lines), batch_id="b1", now=NOW, seller_id="rtl_x", brands={"var_1": "brd_a"})
    except Invalid as refusal:
        assert (refusal.reason, refusal.metadata["field"]) == ("INVALID_FIELD", "total")
        assert sum(minors) > MINOR_MAX
    else:
        assert validate(order).total.minor == sum(minors)


@pytest.mark.parametrize(
    ("row", "changes", "refusal"),
    [
        (imported_row(), {}, Invalid("LINES_MISSING")),
        (imported_row(ImportedLine("var_9", 1, Price("USD", 1))), {}, NotFound("VARIANT_NOT_FOUND")),
        (imported_row(ImportedLine("var_1", 1, Price("USD", 1))), {"seller_id": None}, NotFound("STORE_NOT_FOUND")),
        (imported_row(ImportedLine("var_1", 1, Price("USD", 1)), paid_at=NOW + timedelta(seconds=1)), {}, Invalid("NOT_PAST")),
        (imported_row(ImportedLine("var_1", 1, Price("USD", 1)), ImportedLine("var_1", 1, Price("CNY", 1))), {}, Invalid("CURRENCY_MIXED")),
    ],
)
def test_invalid_imported_order_is_refused(row: ImportedOrder, changes: dict[str, Any], refusal: Invalid) -> None:
    with pytest.raises(type(refusal), match=refusal.reason):
        import_rules.build_order(row, **({"batch_id": "b1", "now": NOW, "seller_id": "rtl_x", "brands": {"var_1": "brd_a"}} | changes))
