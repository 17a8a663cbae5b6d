"""Orders by themselves: sums to the minor unit, any sequence of calls keeps stock and coupons whole, a brand sees its own part."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.commerce.catalog.rules import Price, Text, Variant
from services.commerce.orders import import_rules, rules, visibility
from services.commerce.orders.enums import CancelReason, OrderState, PaymentMethod
from services.commerce.orders.import_rules import ImportedLine, ImportedOrder
from services.commerce.orders.model import AppliedCoupon, Order, PaymentAsked
from services.commerce.orders.rpc import payable
from services.commerce.orders.scenario import Basis
from services.commerce.stock import rules as stock_rules
from services.commerce.stock.enums import HoldState, Method
from services.commerce.stock.rules import LIVE, Hold, Stock, available
from services.kit.enums import Scenario, ScopeKind, Touchpoint
from services.kit.errors import Conflict, Exhausted, Invalid, NotFound
from services.kit.mongo.codec import as_document, checked
from services.kit.settings import Settings
from services.kit.values.money import MINOR_MAX

NOW = datetime(2026, 11, 20, 13, 40, tzinfo=UTC)
BRANDS = ("brd_a", "brd_b", "brd_c")


def variant(place: int, minor: int, brand_id: str = "brd_a", currency: str = "CNY") -> Variant:
    return Variant(f"var_{place}", f"prd_{place}", brand_id, f"ofr_{place}", Text("甲"), Price(currency, minor))


def hold_of(variant: Variant, quantity: int = 1, store_id: str = "str_a") -> Hold:
    row = Stock(f"{store_id}:{variant.id}", store_id, variant.id, variant.brand_id, "rtl_x", on_hand=quantity)
    return stock_rules.hold(row, id=f"hld_{variant.id}", consumer_id="con_a", quantity=quantity, at=NOW, real_at=NOW)


def placed(*goods: tuple[Variant, int], coupon_ids: tuple[str, ...] = (), **given: Any) -> Order:
    variants = {item.id: item for item, _ in goods}
    holds = [hold_of(item, quantity) for item, quantity in goods]
    basis = Basis(1, "otherwise")
    return rules.place(
        holds, variants, id="ord_a", at=NOW, real_at=NOW, scenario=Scenario.AT_HOME, basis=basis, coupon_ids=coupon_ids, **given
    )


GOODS = st.lists(st.tuples(st.integers(0, 10**7), st.sampled_from(BRANDS), st.integers(1, 9)), min_size=1, max_size=12)


@given(GOODS, st.data())
def test_sums_are_equal_to_the_minor_unit(goods: list[tuple[int, str, int]], data: st.DataObject) -> None:
    order = placed(
        *((variant(place, minor, brand), quantity) for place, (minor, brand, quantity) in enumerate(goods)), coupon_ids=("cpn_a",)
    )
    coupons = []
    for brand in sorted({brand for _, brand, _ in goods}):
        most = sum(minor * quantity for minor, of, quantity in goods if of == brand)
        coupons.append(AppliedCoupon(f"cpn_{brand}", brand, Price("CNY", data.draw(st.integers(0, most)))))
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


class Shop(RuleBasedStateMachine):
    """One row of three pieces, one coupon, and calls in any order; nothing but the rules decides."""

    def __init__(self) -> None:
        super().__init__()
        self.at = NOW
        self.variant = variant(1, 100)
        self.stock = Stock("str_a:var_1", "str_a", "var_1", "brd_a", "brd_a", on_hand=3)
        self.holds: dict[str, Hold] = {}
        self.orders: dict[str, Order] = {}
        self.locked_by = ""
        self.spent_by = ""
        self.told: list[str] = []

    def move(self, hold: Hold, *, reserved: int = 0, on_hand: int = 0) -> None:
        self.holds[hold.id] = hold
        row = self.stock
        self.stock = Stock(
            row.id, row.store_id, row.variant_id, row.brand_id, row.seller_id, row.on_hand + on_hand, row.reserved + reserved
        )

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
        self.move(held, reserved=quantity)

    @rule(data=st.data())
    @precondition(lambda self: self.holds)
    def release(self, data: st.DataObject) -> None:
        hold = data.draw(st.sampled_from(list(self.holds.values())))
        try:
            after, back = stock_rules.release(hold)
        except Conflict:
            assert hold.state is HoldState.ORDERED
            return
        self.move(after, reserved=-back)

    @rule(data=st.data(), with_coupon=st.booleans())
    @precondition(lambda self: self.holds)
    def place(self, data: st.DataObject, with_coupon: bool) -> None:
        chosen = data.draw(st.lists(st.sampled_from(list(self.holds.values())), min_size=1, max_size=2, unique_by=lambda hold: hold.id))
        id = f"ord_{len(self.orders)}"
        order = rules.place(
            chosen, {"var_1": self.variant}, id=id, at=self.at, real_at=self.at, scenario=Scenario.AT_HOME, basis=Basis(1, "otherwise"),
            coupon_ids=("cpn_a",) if with_coupon else (),
        )  # fmt: skip
        try:
            standing = [stock_rules.order(hold, id, self.at, order.pay_by or self.at) for hold in chosen]
        except Conflict:
            return
        for hold in standing:
            self.move(hold)
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
                after, back = stock_rules.hold_again(hold, self.at)
                self.move(after, reserved=-back)
            return
        self.locked_by = order.id
        discount = Price("CNY", min(50, order.amount.minor))
        self.orders[order.id] = rules.apply_coupons(order, [AppliedCoupon("cpn_a", "brd_a", discount)])

    @rule(data=st.data(), token=st.sampled_from(["approve", "decline"]))
    @precondition(lambda self: self.orders)
    def pay(self, data: st.DataObject, token: str) -> None:
        order = data.draw(st.sampled_from(list(self.orders.values())))
        try:
            asked = PaymentAsked(order.id, PaymentMethod.SANDBOX, token)
            self.orders[order.id], _ = rules.approve(order, payment_id="pay_a", asked=asked, at=self.at, real_at=self.at)
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
        self.told += [event.order_id for event in events]
        self.orders[order.id] = after
        for hold in self.held_by(order):
            sold, gone = stock_rules.sell(hold)
            self.move(sold, reserved=-gone, on_hand=-gone)

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
                free, back = stock_rules.give_back(hold)
                self.move(free, reserved=-back)

    @rule(minutes=st.integers(1, 20))
    def wait_and_sweep(self, minutes: int) -> None:
        self.at += timedelta(minutes=minutes)
        for hold in list(self.holds.values()):
            after, back = stock_rules.expire(hold, self.at)
            self.move(after, reserved=-back)
        for order in list(self.orders.values()):
            if rules.overdue(order, self.at):
                self.orders[order.id] = rules.cancel(order, CancelReason.NOT_PAID, self.at)
                self.locked_by = "" if self.locked_by == order.id else self.locked_by
                for hold in self.held_by(order):
                    free, back = stock_rules.give_back(hold)
                    self.move(free, reserved=-back)

    @invariant()
    def stock_is_whole(self) -> None:
        live = sum(hold.quantity for hold in self.holds.values() if hold.state in LIVE)
        sold = sum(hold.quantity for hold in self.holds.values() if hold.state is HoldState.SOLD)
        assert self.stock.reserved == live
        assert self.stock.on_hand + sold == 3
        assert 0 <= self.stock.reserved <= self.stock.on_hand

    @invariant()
    def paid_orders_are_told_once_and_took_their_goods(self) -> None:
        paid = [order.id for order in self.orders.values() if order.state is OrderState.PAID]
        assert sorted(self.told) == sorted(paid)
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


Shop.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestShop = Shop.TestCase


def test_paying_what_is_paid_changes_nothing_and_declining_leaves_it_open() -> None:
    order = placed((variant(1, 100), 2))

    def pay(order: Order, token: str) -> Order:
        asked = PaymentAsked(order.id, PaymentMethod.SANDBOX, token)
        return rules.approve(order, payment_id="pay_a", asked=asked, at=NOW, real_at=NOW)[0]

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
def test_an_order_is_paid_by_the_methods_that_are_taken_and_no_other(method: PaymentMethod, taken: set[PaymentMethod]) -> None:
    if method in taken:
        rules.check_method(method, taken)
        return
    with pytest.raises(Invalid, match="PAYMENT_METHOD_REFUSED") as refused:
        rules.check_method(method, taken)
    assert (refused.value.metadata, refused.value.message) == ({"field": "method"}, rules.INSTEAD[method])


@pytest.mark.parametrize(
    ("env", "sandbox_payments", "taken"),
    [
        ("development", "auto", True),
        ("development", "off", False),
        ("production", "auto", False),
        ("production", "on", True),
    ],
)
def test_the_sandbox_pays_in_development_or_where_it_is_allowed(env: Any, sandbox_payments: Any, taken: bool) -> None:
    assert (PaymentMethod.SANDBOX in payable(Settings(env=env, sandbox_payments=sandbox_payments))) is taken
    assert PaymentMethod.PROVIDER not in payable(Settings(env=env, sandbox_payments=sandbox_payments))


def test_what_makes_no_order() -> None:
    dear, cheap = variant(1, 100), variant(2, 50, currency="USD")
    with pytest.raises(Invalid, match="LINES_MISSING"):
        rules.lines_of([], {})
    with pytest.raises(Invalid, match="STORES_MIXED"):
        rules.lines_of([hold_of(dear), hold_of(cheap, store_id="str_b")], {})
    with pytest.raises(Invalid, match="CURRENCY_MIXED"):
        placed((dear, 1), (cheap, 1))
    with pytest.raises(Invalid, match="DESTINATION_MISSING"):
        placed((dear, 1), method=Method.INSTANT_DELIVERY)
    assert placed((dear, 1), method=Method.INSTANT_DELIVERY, destination=b"x").method is Method.INSTANT_DELIVERY


# sight ---------------------------------------------------------------------------------------------------------------


@given(GOODS)
def test_a_brand_sees_its_lines_and_nothing_to_tell_the_others_by(goods: list[tuple[int, str, int]]) -> None:
    order = placed(*((variant(place, minor, brand), quantity) for place, (minor, brand, quantity) in enumerate(goods)))
    document = as_document(order) | {"payment": {"amount": {"minor": order.total.minor}}, "coupons": [{"brand_id": "brd_c"}]}
    seen = visibility.visible_to(document, {ScopeKind.BRAND: frozenset({"brd_a"})})
    own = [line for line in order.lines if line.brand_id == "brd_a"]
    assert [line["variant_id"] for line in seen["lines"]] == [line.variant_id for line in own]
    assert (seen["amount"] or {"minor": 0})["minor"] == sum(line.amount.minor for line in own)
    assert (seen["total"] or {"minor": 0})["minor"] == sum(line.paid.minor for line in own)
    assert seen["partial"] is True
    assert seen["coupons"] == []
    assert "payment" not in seen


@pytest.mark.parametrize(
    "reach",
    [{ScopeKind.CONSUMER: {"con_a"}}, {ScopeKind.STORE: {"str_a"}}, {ScopeKind.BRAND: {"rtl_x"}}],
    ids=["the consumer", "the store", "who runs the store"],
)
def test_who_took_part_sees_it_whole(reach: dict[ScopeKind, set[str]]) -> None:
    document = as_document(placed((variant(1, 100, "brd_a"), 1), (variant(2, 100, "brd_b"), 1)))
    assert visibility.visible_to(document, {kind: frozenset(ids) for kind, ids in reach.items()}) == document
    assert visibility.visible_to(document, {}, everywhere=True) == document
    assert visibility.visible_to(document, {ScopeKind.CONSUMER: frozenset({"con_b"})})["lines"] == []


# the time before -----------------------------------------------------------------------------------------------------

PAST = NOW - timedelta(days=30)


def row(*lines: ImportedLine, paid_at: datetime = PAST, touchpoint: Touchpoint = Touchpoint.STORE) -> ImportedOrder:
    return ImportedOrder("ord_1", "con_a", "str_a", paid_at, lines, touchpoint)


def test_an_imported_order_is_paid_and_sums_up() -> None:
    lines = (ImportedLine("var_1", 2, Price("USD", 300)), ImportedLine("var_2", 1, Price("USD", 99)))
    order = import_rules.order_of(row(*lines), batch_id="b1", now=NOW, seller_id="rtl_x", brands={"var_1": "brd_a", "var_2": "brd_b"})
    assert (order.state, order.scenario, order.total, order.brand_ids) == (
        OrderState.PAID,
        Scenario.IN_STORE,
        Price("USD", 399),
        ["brd_a", "brd_b"],
    )
    assert rules.summary(order).paid_at == PAST


@given(st.lists(st.integers(0, MINOR_MAX) | st.integers(0, MINOR_MAX // 100), min_size=1, max_size=import_rules.LINES_MAX))
def test_an_imported_order_can_be_read_or_is_refused(minors: list[int]) -> None:
    lines = (ImportedLine("var_1", 1, Price("CNY", minor)) for minor in minors)
    try:
        order = import_rules.order_of(row(*lines), batch_id="b1", now=NOW, seller_id="rtl_x", brands={"var_1": "brd_a"})
    except Invalid as refused:
        assert (refused.reason, refused.metadata["field"]) == ("INVALID_FIELD", "total")
        assert sum(minors) > MINOR_MAX
    else:
        assert checked(order).total.minor == sum(minors)


@pytest.mark.parametrize(
    ("given", "known", "refusal"),
    [
        (row(), {}, Invalid("LINES_MISSING")),
        (row(ImportedLine("var_9", 1, Price("USD", 1))), {}, NotFound("VARIANT_NOT_FOUND")),
        (row(ImportedLine("var_1", 1, Price("USD", 1))), {"seller_id": None}, NotFound("STORE_NOT_FOUND")),
        (row(ImportedLine("var_1", 1, Price("USD", 1)), paid_at=NOW + timedelta(seconds=1)), {}, Invalid("NOT_PAST")),
        (row(ImportedLine("var_1", 1, Price("USD", 1)), ImportedLine("var_1", 1, Price("CNY", 1))), {}, Invalid("CURRENCY_MIXED")),
    ],
)
def test_what_is_no_order_of_the_time_before(given: ImportedOrder, known: dict[str, Any], refusal: Invalid) -> None:
    with pytest.raises(type(refusal), match=refusal.reason):
        import_rules.order_of(given, **({"batch_id": "b1", "now": NOW, "seller_id": "rtl_x", "brands": {"var_1": "brd_a"}} | known))
