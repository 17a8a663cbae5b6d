"""The tree stays a tree, and nobody grants beyond their own reach."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.enums import Role, ScopeKind
from services.kit.errors import Conflict, Denied, Invalid, Refusal
from services.organization.chart import people, rules
from services.organization.chart.enums import BrandKind, OrgUnitKind, StoreKind
from services.organization.chart.people import RANK, SCOPE_OF, Held, Scope, Staff
from services.organization.chart.rules import BrandDraft, Name, OrgUnit, OrgUnitDraft, Point, Store, StoreDraft

AT = datetime(2026, 11, 20, 13, 40, tzinfo=UTC)
NAME = Name(zh="白", en="white")
DRAFT = StoreDraft(kind=StoreKind.STORE, name=NAME, position=Point())
BRANDS = [rules.found_brand(f"brd_{n}", BrandDraft(kind=BrandKind.BRAND, name=NAME, zone="Asia/Shanghai", currency="CNY")) for n in "ab"]


class Tree:
    """All units of two tenants, changed only through the rules."""

    def __init__(self) -> None:
        self.org_units: dict[str, OrgUnit] = {unit.id: unit for _, unit in BRANDS}
        self.stores: dict[str, Store] = {}

    def pick(self, number: int) -> OrgUnit:
        return list(self.org_units.values())[number % len(self.org_units)]

    def add(self, number: int, store: bool) -> None:
        parent, index = self.pick(number), len(self.org_units)
        if store:
            self.stores[f"str_{index}"], unit = rules.open_store(f"str_{index}", DRAFT, parent, "UTC")
        else:
            unit = rules.found_unit(f"unt_{index}", OrgUnitDraft(kind=OrgUnitKind.REGION, name=NAME), parent)
        self.org_units[unit.id] = unit

    def move(self, number: int, to: int) -> None:
        unit, parent = self.pick(number), self.pick(to)
        subtree = [other for other in self.org_units.values() if unit.id in other.org_unit_ids]
        self.org_units |= {moved.id: moved for moved in rules.move(subtree, unit.id, parent)}


numbers = st.integers(0, 50)
steps = st.lists(st.tuples(st.sampled_from(["unit", "store", "move", "move"]), numbers, numbers), max_size=40)


def grown(steps: list[tuple[str, int, int]]) -> Tree:
    tree = Tree()
    for what, number, to in steps:
        before = dict(tree.org_units)
        try:
            tree.move(number, to) if what == "move" else tree.add(number, what == "store")
        except Refusal:
            assert tree.org_units == before
    return tree


@given(steps)
def test_after_any_sequence_of_moves_each_path_is_what_the_parents_imply(steps: list[tuple[str, int, int]]) -> None:
    tree = grown(steps)
    paths = rules.recount({unit.id: unit.parent_id for unit in tree.org_units.values()})
    assert {unit.id: unit.org_unit_ids for unit in tree.org_units.values()} == paths
    for unit in tree.org_units.values():
        assert unit.level == len(unit.org_unit_ids) <= rules.LEVELS_MAX
        assert unit.org_unit_ids[0] == f"unt_{unit.brand_id}"
        assert all(tree.org_units[above].kind is not OrgUnitKind.STORE for above in unit.org_unit_ids[:-1])


@given(steps, numbers, numbers)
def test_a_unit_never_comes_to_stand_below_itself(steps: list[tuple[str, int, int]], number: int, to: int) -> None:
    tree = grown(steps)
    unit, parent = tree.pick(number), tree.pick(to)
    if unit.id not in parent.org_unit_ids or not unit.parent_id:
        return
    with pytest.raises(Conflict) as refused:
        tree.move(number, to)
    assert refused.value.reason == "ORG_UNIT_CYCLE"


def test_recount_refuses_a_cycle() -> None:
    with pytest.raises(ValueError, match="below itself"):
        rules.recount({"unt_a": "unt_b", "unt_b": "unt_a"})


def test_a_store_moves_with_its_area_and_is_told_with_its_new_path() -> None:
    tree = Tree()
    tree.add(0, store=False)
    tree.add(0, store=False)
    area = rules.found_unit("unt_area", OrgUnitDraft(kind=OrgUnitKind.SUPERVISOR_AREA, name=NAME), tree.org_units["unt_2"])
    store, unit = rules.open_store("str_x", DRAFT, area, "UTC")
    after = rules.move([area, unit], "unt_area", tree.org_units["unt_3"])
    assert after[1].org_unit_ids == ("unt_brd_a", "unt_3", "unt_area", "unt_str_x")
    assert after[1].parent_id == "unt_area"
    assert rules.told(store, after[1].org_unit_ids).org_unit_ids == after[1].org_unit_ids


@pytest.mark.parametrize(
    ("valid_from", "valid_until", "good"),
    [
        ("", "", True),
        ("2024-02-29", "", True),
        ("2023-02-29", "", False),
        ("2024-01-02", "2024-01-01", False),
        ("2024-01-01", "2024-01-01", False),
    ],
)
def test_periods_end_after_they_begin(valid_from: str, valid_until: str, good: bool) -> None:
    if good:
        rules.check_period(valid_from, valid_until)
        return
    with pytest.raises(Invalid):
        rules.check_period(valid_from, valid_until)


# Grants --------------------------------------------------------------------------------------------------------------

ROLES = [role for role in Role if role in SCOPE_OF]


def reach(tree: Tree, role: str, kind: str, id: str) -> set[tuple[int, str]]:
    """What a grant comes to, found by walking the tree: (rank, store | unit | brand | district | installation)."""
    if kind == ScopeKind.DISTRICT:
        return {(0, id)}
    ranks = range(1, RANK.get(role, 5) + 1)
    everything = {*tree.org_units, *tree.stores, *(brand.id for brand, _ in BRANDS)}
    if kind == ScopeKind.INSTALLATION:
        return {(rank, thing) for rank in range(6) for thing in everything | {"", "dst_1", "dst_2", "str_none"}}
    if kind == ScopeKind.STORE:
        below = {id}
    elif kind == ScopeKind.ORG_UNIT:
        units = {unit.id for unit in tree.org_units.values() if id in unit.org_unit_ids}
        below = units | {tree.org_units[unit].store_id for unit in units if tree.org_units[unit].store_id}
    else:
        units = {unit.id for unit in tree.org_units.values() if unit.brand_id == id}
        below = units | {store.id for store in tree.stores.values() if store.brand_id == id} | {id}
    return {(rank, thing) for rank in ranks for thing in below}


def scope_for(tree: Tree, role: Role, number: int) -> Scope:
    """Some scope of the kind the role is granted for."""
    match SCOPE_OF[role]:
        case ScopeKind.STORE:
            stores = list(tree.stores.values())
            if not stores:
                return Scope(ScopeKind.STORE, "str_none")
            store = stores[number % len(stores)]
            return Scope(ScopeKind.STORE, store.id, tree.org_units[store.org_unit_id].org_unit_ids, store.brand_id)
        case ScopeKind.ORG_UNIT:
            unit = tree.pick(number)
            return Scope(ScopeKind.ORG_UNIT, unit.id, unit.org_unit_ids, unit.brand_id)
        case ScopeKind.BRAND:
            brand = BRANDS[number % 2][0].id
            return Scope(ScopeKind.BRAND, brand, brand_id=brand)
        case ScopeKind.DISTRICT:
            return Scope(ScopeKind.DISTRICT, f"dst_{number % 2 + 1}")
        case kind:
            return Scope(kind)


choices = st.tuples(st.sampled_from(ROLES), numbers)


@given(steps, choices, choices)
def test_what_is_granted_reaches_no_further_than_what_is_held(
    steps: list[tuple[str, int, int]], own: tuple[Role, int], given: tuple[Role, int]
) -> None:
    tree = grown(steps)
    scope = scope_for(tree, *own)
    held = Held(own[0], scope.kind, scope.id)
    asked = scope_for(tree, *given)
    within = reach(tree, given[0], asked.kind, asked.id) <= reach(tree, *held)
    if people.may_grant([held], given[0], asked):
        assert within
    elif given[0] is not Role.OPERATOR and asked.id in tree.org_units.keys() | tree.stores.keys():
        assert not within


@given(steps, choices, st.lists(choices, max_size=6))
def test_no_chain_of_grants_leads_beyond_where_it_began(
    steps: list[tuple[str, int, int]], own: tuple[Role, int], chain: list[tuple[Role, int]]
) -> None:
    tree = grown(steps)
    first = scope_for(tree, *own)
    held = [Held(own[0], first.kind, first.id)]
    whole = reach(tree, *held[0])
    for role, number in chain:
        scope = scope_for(tree, role, number)
        if people.may_grant(held, role, scope):
            held.append(Held(role, scope.kind, scope.id))
            assert reach(tree, role, scope.kind, scope.id) <= whole


def test_a_consumer_or_a_guide_of_another_store_grants_nothing() -> None:
    scope = Scope(ScopeKind.STORE, "str_1", ("unt_brd_a", "unt_str_1"), "brd_a")
    assert not people.may_grant([Held("ROLE_CONSUMER", "SCOPE_KIND_CONSUMER", "con_1")], Role.GUIDE, scope)
    assert not people.may_grant([Held(Role.GUIDE, ScopeKind.STORE, "str_2")], Role.GUIDE, scope)
    assert not people.may_grant([Held(Role.STORE_MANAGER, ScopeKind.STAFF, "str_1")], Role.SUPERVISOR, scope)


MANAGER = [Held(Role.STORE_MANAGER, ScopeKind.STORE, "str_1")]
SCOPE = Scope(ScopeKind.STORE, "str_1", ("unt_brd_a", "unt_str_1"), "brd_a")
GUIDE = Staff(id="stf_1", brand_id="brd_a", org_unit_id="unt_str_1", store_id="str_1")


def test_a_grant_that_stands_is_not_given_again_until_it_ended() -> None:
    first = people.grant_role("grt_1", GUIDE, Role.GUIDE, SCOPE, MANAGER, [], AT)
    with pytest.raises(Conflict):
        people.grant_role("grt_2", GUIDE, Role.GUIDE, SCOPE, MANAGER, [first], AT)
    ended = people.end([first], AT)
    assert people.grant_role("grt_2", GUIDE, Role.GUIDE, SCOPE, MANAGER, ended, AT)
    assert not people.in_force(ended[0], AT)


def test_a_role_needs_its_own_kind_of_scope_and_a_person_of_that_tree() -> None:
    with pytest.raises(Invalid) as wrong:
        people.grant_role("grt_1", GUIDE, Role.SUPERVISOR, SCOPE, MANAGER, [], AT)
    assert (wrong.value.reason, wrong.value.metadata["field"]) == ("ROLE_NOT_GRANTABLE", "kind")
    with pytest.raises(Denied):
        people.grant_role("grt_1", GUIDE, Role.GUIDE, SCOPE, [], [], AT)
    stranger = Staff(id="stf_2", brand_id="brd_b")
    with pytest.raises(Conflict) as outside:
        people.grant_role("grt_1", stranger, Role.GUIDE, SCOPE, MANAGER, [], AT)
    assert outside.value.reason == "ORG_UNIT_OF_ANOTHER_BRAND"


moments = st.integers(-100, 100).map(lambda hours: AT + timedelta(hours=hours))


@given(moments, st.none() | moments, moments, moments)
def test_an_ended_grant_never_counts_again(begins: datetime, ends: datetime | None, at: datetime, later: datetime) -> None:
    grant = people.Grant(
        id="grt_1", staff_id="stf_1", role=Role.GUIDE, kind=ScopeKind.STORE, scope_id="str_1", valid_from=begins, valid_until=ends
    )
    (ended,) = people.end([grant], at) or [grant]
    assert not people.in_force(ended, max(at, later))
    if later < at:
        assert people.in_force(ended, later) == people.in_force(grant, later)


def test_a_person_is_what_they_hold_now_and_themselves() -> None:
    grant = people.grant_role("grt_1", GUIDE, Role.GUIDE, SCOPE, MANAGER, [], AT)
    assert people.resolve(GUIDE, [grant], AT) == [
        Held("ROLE_GUIDE", "SCOPE_KIND_STORE", "str_1"),
        Held("ROLE_GUIDE", "SCOPE_KIND_STAFF", "stf_1"),
    ]
    assert people.resolve(GUIDE, [grant], AT - timedelta(seconds=1)) == []
    left, events = people.dismiss(GUIDE)
    assert people.resolve(left, [grant], AT) == []
    assert [event.active for event in events] == [False]
    assert people.dismiss(left) == (left, [])


def test_moving_to_the_same_place_tells_nobody() -> None:
    assert people.move(GUIDE, people.Place("brd_a", "unt_str_1", "str_1")) == (GUIDE, [])
    moved, events = people.move(GUIDE, people.Place("brd_a", "unt_str_2", "str_2"))
    assert (moved.store_id, events[0].store_id) == ("str_2", "str_2")


@pytest.mark.parametrize(
    ("period", "field"),
    [(("2024-13-01", ""), "valid_from"), (("2024-05-01", "2024-02-30"), "valid_until"), (("2024-05-01", "2024-05-01"), "valid_until")],
)
def test_a_wrong_day_of_a_period_is_named(period: tuple[str, str], field: str) -> None:
    with pytest.raises(Invalid, match="INVALID_PERIOD") as refused:
        rules.check_period(*period)
    assert refused.value.metadata["field"] == field
