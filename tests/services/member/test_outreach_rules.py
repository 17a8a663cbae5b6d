"""Who may bind whom, and when a guide may write."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import Conflict, Denied, Exhausted, NotFound
from services.member.outreach import rules
from services.member.outreach.enums import Outcome
from services.member.outreach.rules import Binder, Binding, ConsumerBound, ImportedBinding, Outreach, Staff

SHANGHAI = "Asia/Shanghai"
EVENING = datetime(2026, 5, 1, 13, 40, tzinfo=UTC)  # 21:40 in Shanghai
GUIDE = Staff("stf_1", "brd_1", "str_1", True)
BOUND = Binding("bnd_1", "con_a", "brd_1", "stf_1", "str_1", EVENING)
HOUR = timedelta(hours=1)


@given(st.lists(st.integers(0, 400), max_size=60).map(sorted))
def test_no_seven_days_hold_more_than_the_cap(hours):
    """Whatever a guide tries, the messages that are let through never exceed the cap in any window."""
    sent: list[datetime] = []
    for hour in hours:
        at = EVENING + hour * HOUR
        try:
            _, remaining = rules.may_send(GUIDE, "stf_1", [BOUND], True, sent, at, SHANGHAI)
        except Exhausted as refused:
            assert datetime.fromisoformat(refused.metadata["free_at"]) > at
            continue
        except Conflict as refused:
            assert refused.reason == "QUIET_HOURS"
            continue
        sent.append(at)
        assert remaining == rules.CAP - len([time for time in sent if time > at - rules.CAP_WITHIN])
    for start in sent:
        assert len([time for time in sent if start <= time < start + rules.CAP_WITHIN]) <= rules.CAP


@pytest.mark.parametrize(
    ("minutes", "quiet"), [(0, False), (19, False), (20, True), (12 * 60, False), (10 * 60 + 19, True), (10 * 60 + 20, False)]
)
def test_quiet_hours_are_local_from_22_to_8(minutes, quiet):
    at = EVENING + timedelta(minutes=minutes)
    assert (rules.quiet_until(at, SHANGHAI) is not None) == quiet


def test_each_rule_refuses_with_its_own_reason():
    cases = [
        (Denied, "NOT_BOUND", {"bindings": []}),
        (Denied, "NOT_BOUND", {"staff_id": "stf_2"}),
        (Denied, "STAFF_UNKNOWN", {"staff": None}),
        (Denied, "STAFF_UNKNOWN", {"staff": Staff("stf_1", "brd_1", "str_1", False)}),
        (Conflict, "NO_CONSENT", {"consented": False}),
        (Exhausted, "FREQUENCY_CAP", {"times": [EVENING - n * HOUR for n in range(3)]}),
        (Conflict, "QUIET_HOURS", {"at": EVENING + HOUR}),
    ]
    fine = {"staff": GUIDE, "staff_id": "stf_1", "bindings": [BOUND], "consented": True, "times": [], "at": EVENING, "zone": SHANGHAI}
    assert rules.may_send(**fine) == (BOUND, 2)
    for kind, reason, changed in cases:
        with pytest.raises(kind) as refused:
            rules.may_send(**(fine | changed))
        assert refused.value.reason == reason


def test_who_may_take_a_consumer_from_whom():
    colleague, stranger = Staff("stf_2", "brd_1", "str_1", True), Staff("stf_3", "brd_1", "str_2", True)
    guide, manager, brand = Binder(staff=frozenset({"stf_1"})), Binder(stores=frozenset({"str_1"})), Binder(brand=True)

    def bound(staff, current, binder):
        return rules.bind("bnd_2", ImportedBinding("con_a", staff.id), "brd_1", staff, current, binder, EVENING)

    new, ended, told = bound(GUIDE, [], guide)
    assert (new.staff_id, ended, len(told)) == ("stf_1", [], 1)
    assert bound(GUIDE, [BOUND], guide) == (BOUND, [], [])
    with pytest.raises(NotFound, match="STAFF_UNKNOWN"):
        bound(colleague, [], guide)
    with pytest.raises(NotFound, match="STAFF_UNKNOWN"):
        bound(stranger, [], manager)
    with pytest.raises(NotFound, match="STAFF_UNKNOWN"):
        bound(Staff("stf_4", "brd_2", "str_1", True), [], brand)
    with pytest.raises(Conflict, match="BOUND_ELSEWHERE"):
        bound(colleague, [Binding("bnd_0", "con_a", "brd_1", "stf_3", "str_2", EVENING)], manager)
    moved, ended, _ = bound(colleague, [BOUND], manager)
    assert (moved.staff_id, [one.id for one in ended], ended[0].active) == ("stf_2", ["bnd_1"], False)
    assert bound(stranger, [BOUND], brand)[0].store_id == "str_2"


def test_what_ends_with_a_binding_is_told_with_it():
    """Of a person with several ids: whoever keeps a binding by the id it was told with hears that it is over."""
    brand, twin = Binder(brand=True), Binding("bnd_2", "con_twin", "brd_1", "stf_1", "str_1", EVENING)
    since = EVENING - timedelta(days=9)
    asked = ImportedBinding("con_a", "stf_2", since)
    colleague = Staff("stf_2", "brd_1", "str_1", True)
    _, ended, told = rules.bind("bnd_3", asked, "brd_1", colleague, [BOUND, twin], brand, EVENING)
    assert [one.id for one in ended] == ["bnd_1", "bnd_2"]
    assert told == [ConsumerBound("con_a", "brd_1", "stf_2", "str_1", since, ("con_twin",))]
    _, told = rules.unbind("con_a", "brd_1", [twin], brand, EVENING)
    assert told == [ConsumerBound("con_a", "brd_1", ended_consumer_ids=("con_twin",))]


def test_the_latest_message_before_an_order_gets_it_as_outcome():
    def message(id, days, brand="brd_1", outcome=Outcome.SENT):
        return Outreach(id, "con_a", brand, "stf_1", "str_1", b"", EVENING - timedelta(days=days), outcome=outcome)

    found = [message("out_1", 9), message("out_2", 5), message("out_3", 1), message("out_4", -1), message("out_5", 1, "brd_2")]
    (credited,) = rules.followed(found, ["brd_1"], "ord_1", EVENING)
    assert (credited.id, credited.outcome, credited.order_id) == ("out_3", Outcome.ORDERED, "ord_1")
    assert rules.followed([message("out_3", 1, outcome=Outcome.ORDERED)], ["brd_1"], "ord_2", EVENING) == []
    assert rules.read(credited, EVENING).outcome is Outcome.ORDERED
    assert rules.read(message("out_2", 5), EVENING).outcome is Outcome.READ
