"""Outreach rules: who may bind a consumer, and when a guide may write."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import Conflict, Denied, Exhausted, NotFound
from services.member.outreach import rules
from services.member.outreach.enums import Outcome
from services.member.outreach.rules import Binding, BindingAuthority, BindingRequest, ConsumerBound, Outreach, Staff

SHANGHAI = "Asia/Shanghai"
EVENING = datetime(2026, 5, 1, 13, 40, tzinfo=UTC)  # 21:40 in Shanghai
GUIDE = Staff("stf_1", "brd_1", "str_1", True)
BOUND = Binding("bnd_1", "con_a", "brd_1", "stf_1", "str_1", EVENING)
HOUR = timedelta(hours=1)


@given(st.lists(st.integers(0, 400), max_size=60).map(sorted))
def test_no_window_exceeds_the_frequency_cap(hours):
    """The messages that pass the rules never exceed the cap in any window, whatever a guide tries."""
    sent: list[datetime] = []
    for hour in hours:
        at = EVENING + hour * HOUR
        try:
            _, remaining = rules.authorize_send(GUIDE, "stf_1", [BOUND], True, sent, at, SHANGHAI)
        except Exhausted as refused:
            assert datetime.fromisoformat(refused.metadata["free_at"]) > at
            continue
        except Conflict as refused:
            assert refused.reason == "QUIET_HOURS"
            continue
        sent.append(at)
        assert remaining == rules.CAP_MESSAGES_MAX - len([time for time in sent if time > at - rules.CAP_WINDOW])
    for start in sent:
        assert len([time for time in sent if start <= time < start + rules.CAP_WINDOW]) <= rules.CAP_MESSAGES_MAX


@pytest.mark.parametrize(
    ("minutes", "quiet"), [(0, False), (19, False), (20, True), (12 * 60, False), (10 * 60 + 19, True), (10 * 60 + 20, False)]
)
def test_quiet_hours_are_local_22_to_8(minutes, quiet):
    at = EVENING + timedelta(minutes=minutes)
    assert (rules.find_quiet_end(at, SHANGHAI) is not None) == quiet


def test_each_send_rule_refuses_with_its_reason():
    cases = [
        (Denied, "NOT_BOUND", {"bindings": []}),
        (Denied, "NOT_BOUND", {"staff_id": "stf_2"}),
        (Denied, "STAFF_UNKNOWN", {"staff": None}),
        (Denied, "STAFF_UNKNOWN", {"staff": Staff("stf_1", "brd_1", "str_1", False)}),
        (Conflict, "NO_CONSENT", {"consented": False}),
        (Exhausted, "FREQUENCY_CAP", {"times": [EVENING - n * HOUR for n in range(3)]}),
        (Conflict, "QUIET_HOURS", {"at": EVENING + HOUR}),
    ]
    valid = {"staff": GUIDE, "staff_id": "stf_1", "bindings": [BOUND], "consented": True, "times": [], "at": EVENING, "zone": SHANGHAI}
    assert rules.authorize_send(**valid) == (BOUND, 2)
    for kind, reason, changed in cases:
        with pytest.raises(kind) as refused:
            rules.authorize_send(**(valid | changed))
        assert refused.value.reason == reason


def test_authority_decides_who_moves_a_consumer():
    colleague, stranger = Staff("stf_2", "brd_1", "str_1", True), Staff("stf_3", "brd_1", "str_2", True)
    guide, manager, brand = (
        BindingAuthority(staff=frozenset({"stf_1"})),
        BindingAuthority(stores=frozenset({"str_1"})),
        BindingAuthority(brand=True),
    )

    def bind(staff, current, authority):
        return rules.bind("bnd_2", BindingRequest("con_a", staff.id), "brd_1", staff, current, authority, EVENING)

    new, ended, events = bind(GUIDE, [], guide)
    assert (new.staff_id, ended, len(events)) == ("stf_1", [], 1)
    assert bind(GUIDE, [BOUND], guide) == (BOUND, [], [])
    with pytest.raises(NotFound, match="STAFF_UNKNOWN"):
        bind(colleague, [], guide)
    with pytest.raises(NotFound, match="STAFF_UNKNOWN"):
        bind(stranger, [], manager)
    with pytest.raises(NotFound, match="STAFF_UNKNOWN"):
        bind(Staff("stf_4", "brd_2", "str_1", True), [], brand)
    with pytest.raises(Conflict, match="BOUND_ELSEWHERE"):
        bind(colleague, [Binding("bnd_0", "con_a", "brd_1", "stf_3", "str_2", EVENING)], manager)
    moved, ended, _ = bind(colleague, [BOUND], manager)
    assert (moved.staff_id, [one.id for one in ended], ended[0].active) == ("stf_2", ["bnd_1"], False)
    assert bind(stranger, [BOUND], brand)[0].store_id == "str_2"


def test_binding_event_names_ended_consumer_ids():
    """Subscribers learn the end of a binding under the consumer id that its event had."""
    brand, twin = BindingAuthority(brand=True), Binding("bnd_2", "con_twin", "brd_1", "stf_1", "str_1", EVENING)
    since = EVENING - timedelta(days=9)
    request = BindingRequest("con_a", "stf_2", since)
    colleague = Staff("stf_2", "brd_1", "str_1", True)
    _, ended, events = rules.bind("bnd_3", request, "brd_1", colleague, [BOUND, twin], brand, EVENING)
    assert [one.id for one in ended] == ["bnd_1", "bnd_2"]
    assert events == [ConsumerBound("con_a", "brd_1", "stf_2", "str_1", since, ("con_twin",))]
    _, events = rules.unbind("con_a", "brd_1", [twin], brand, EVENING)
    assert events == [ConsumerBound("con_a", "brd_1", ended_consumer_ids=("con_twin",))]


def test_order_credits_latest_message_before_it():
    def message(id, days, brand="brd_1", outcome=Outcome.SENT):
        return Outreach(id, "con_a", brand, "stf_1", "str_1", b"", EVENING - timedelta(days=days), outcome=outcome)

    found = [message("out_1", 9), message("out_2", 5), message("out_3", 1), message("out_4", -1), message("out_5", 1, "brd_2")]
    (credited,) = rules.credit_order(found, ["brd_1"], "ord_1", EVENING)
    assert (credited.id, credited.outcome, credited.order_id) == ("out_3", Outcome.ORDERED, "ord_1")
    assert rules.credit_order([message("out_3", 1, outcome=Outcome.ORDERED)], ["brd_1"], "ord_2", EVENING) == []
    assert rules.mark_read(credited, EVENING).outcome is Outcome.ORDERED
    assert rules.mark_read(message("out_2", 5), EVENING).outcome is Outcome.READ
