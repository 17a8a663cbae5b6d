"""Which situation an order was placed in, derived from what is known. The rules are data; their version is kept with each order."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from services.kit.enums import Scenario, Touchpoint


class Reached(Struct, frozen=True):
    """A message of a brand's guide."""

    outreach_id: str
    at: datetime


class Visit(Struct, frozen=True):
    """The last visit of a consumer to a district and, by brand, the last message since, as commerce heard of them (`visit_view`).

    `id` is the consumer id they were told with; what is known of a person is that of all their ids `together`.
    """

    id: str
    visit_id: str = ""
    entered_at: datetime | None = None
    left_at: datetime | None = None
    reached: dict[str, Reached] = {}
    version: int = 1


class Situation(Struct, frozen=True):
    """What the rules look at."""

    at: datetime
    touchpoint: Touchpoint = Touchpoint.UNSPECIFIED
    needed_by: datetime | None = None
    hint: Scenario = Scenario.UNSPECIFIED
    visit: Visit | None = None
    brand_ids: frozenset[str] = frozenset()
    """Who sells and whose goods: what other brands wrote is none of this order's business."""


class Condition(StrEnum):
    """What a rule asks."""

    NEEDED_WITHIN = "needed_within"
    VISIT_OPEN = "visit_open"
    REACHED_AFTER_VISIT = "reached_after_visit"
    TOUCHED_AT = "touched_at"
    ALWAYS = "always"


class Rule(Struct, frozen=True):
    """One rule: the first whose condition holds gives the scenario."""

    name: str
    scenario: Scenario
    condition: Condition
    within: timedelta = timedelta()
    touchpoints: tuple[Touchpoint, ...] = ()
    hinted: bool = False
    """Whether the front end's hint of the same scenario suffices."""


class Rules(Struct, frozen=True):
    """A version of the rules, strongest first."""

    version: int
    rules: tuple[Rule, ...]


class Basis(Struct, frozen=True):
    """Why an order has its scenario; shaped like ScenarioBasis."""

    rules_version: int
    rule: str
    evidence_id: str = ""
    evidence_at: datetime | None = None


Evidence = tuple[str, datetime | None]

RULES = Rules(
    version=1,
    rules=(
        Rule("needed_soon", Scenario.URGENT_NEED, Condition.NEEDED_WITHIN, within=timedelta(hours=6)),
        # A visit that nobody ended is over by the next day.
        Rule("visit_open", Scenario.DISTRICT_VISIT, Condition.VISIT_OPEN, within=timedelta(hours=24)),
        Rule("reached_after_visit", Scenario.OFF_STORE, Condition.REACHED_AFTER_VISIT, within=timedelta(hours=24)),
        Rule("in_store", Scenario.IN_STORE, Condition.TOUCHED_AT, touchpoints=(Touchpoint.STORE,)),
        Rule(
            "looking_around",
            Scenario.DISCOVERY,
            Condition.TOUCHED_AT,
            touchpoints=(Touchpoint.LIVE, Touchpoint.DISTRICT_SCREEN),
            hinted=True,
        ),
        Rule("otherwise", Scenario.AT_HOME, Condition.ALWAYS),
    ),
)


def derive(situation: Situation, rules: Rules = RULES) -> tuple[Scenario, Basis]:
    """The scenario and the event that decided. The last rule always holds."""
    for rule in rules.rules:
        evidence = CONDITIONS[rule.condition](rule, situation)
        if evidence is not None:
            id, at = evidence
            return rule.scenario, Basis(rules.version, rule.name, id, at)
    raise AssertionError("the last rule holds always")


def _needed_within(rule: Rule, now: Situation) -> Evidence | None:
    return ("", now.needed_by) if now.needed_by is not None and now.needed_by <= now.at + rule.within else None


def _visit_open(rule: Rule, now: Situation) -> Evidence | None:
    visit = now.visit
    if visit is None or visit.entered_at is None or visit.left_at is not None or now.at - visit.entered_at >= rule.within:
        return None
    return visit.visit_id, visit.entered_at


def _reached_after_visit(rule: Rule, now: Situation) -> Evidence | None:
    visit = now.visit
    if visit is None or visit.left_at is None or now.at - visit.left_at >= rule.within:
        return None
    since = [one for brand_id, one in visit.reached.items() if brand_id in now.brand_ids and one.at >= visit.left_at]
    last = max(since, key=lambda one: (one.at, one.outreach_id), default=None)
    return (last.outreach_id, last.at) if last else None


def _touched_at(rule: Rule, now: Situation) -> Evidence | None:
    return ("", None) if now.touchpoint in rule.touchpoints or (rule.hinted and now.hint is rule.scenario) else None


def _always(rule: Rule, now: Situation) -> Evidence | None:
    return "", None


CONDITIONS: dict[Condition, Callable[[Rule, Situation], Evidence | None]] = {
    Condition.NEEDED_WITHIN: _needed_within,
    Condition.VISIT_OPEN: _visit_open,
    Condition.REACHED_AFTER_VISIT: _reached_after_visit,
    Condition.TOUCHED_AT: _touched_at,
    Condition.ALWAYS: _always,
}


def entered(visit: Visit, visit_id: str, at: datetime) -> Visit:
    """The view after VisitStarted."""
    return Visit(visit.id, visit_id, at, None, _since(visit, at), visit.version)


def left(visit: Visit, visit_id: str, at: datetime) -> Visit:
    """The view after VisitLeft; a leaving of an earlier visit changes nothing."""
    if visit.visit_id not in ("", visit_id):
        return visit
    return Visit(visit.id, visit_id, visit.entered_at or at, at, _since(visit, at), visit.version)


def reached(visit: Visit, brand_id: str, outreach_id: str, at: datetime) -> Visit:
    """The view after OutreachSent."""
    return replace(visit, reached=visit.reached | {brand_id: Reached(outreach_id, at)})


def together(visits: Sequence[Visit]) -> Visit | None:
    """What is known of a person from what was told under each of their ids: the last visit and, by brand, the last message."""
    if not visits:
        return None
    last = max((visit for visit in visits if visit.entered_at), key=lambda visit: (visit.entered_at, visit.visit_id), default=visits[0])
    newest: dict[str, Reached] = {}
    for brand_id, one in sorted((told for visit in visits for told in visit.reached.items()), key=lambda told: told[1].at):
        newest[brand_id] = one
    return replace(last, reached=newest)


def _since(visit: Visit, at: datetime) -> dict[str, Reached]:
    return {brand_id: one for brand_id, one in visit.reached.items() if one.at >= at}
