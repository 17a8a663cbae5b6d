"""Chart rules: moves keep a tree, and no grant reaches beyond the roles of its grantor."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.enums import Role, ScopeKind
from services.kit.errors import Conflict, Denied, Invalid, Refusal
from services.organization.chart import people, rules
from services.organization.chart.enums import BrandKind, OrgUnitKind, StoreKind
from services.organization.chart.people import RANK, SCOPE_KIND_OF_ROLE, HeldRole, Scope, Staff
from services.organization.chart.rules import BrandDraft, Name, OrgUnit, OrgUnitDraft, Point, Store, StoreDraft

AT = datetime(2026, 11, 20, 13, 40, tzinfo=UTC)
NAME = Name(zh="白", en="white")
DRAFT = StoreDraft(kind=StoreKind.STORE, name=NAME, position=Point())
BRANDS = [rules.create_brand(f"brd_{n}", BrandDraft(kind=BrandKind.BRAND, name=NAME, zone="Asia/Shanghai", currency="CNY")) for n in "ab"]


class Tree:
    """All org units of two tenants, changed only by the rules."""

    def __init__(self) -> None:
        self.org_units: dict[str, OrgUnit] = {org_unit.id: org_unit for _, org_unit in BRANDS}
        self.stores: dict[str, Store] = {}

    def pick(self, number: int) -> OrgUnit:
        return list(self.org_units.values())[number % len(self.org_units)]

    def add(self, number: int, store: bool) -> None:
        parent, index = self.pick(number), len(self.org_units)
        if store:
            self.stores[f"str_{index}"], org_unit = rules.create_store(f"str_{index}", DRAFT, parent, "UTC")
        else:
            org_unit = rules.create_org_unit(f"unt_{index}", OrgUnitDraft(kind=OrgUnitKind.REGION, name=NAME), parent)
        self.org_units[org_unit.id] = org_unit

    def move(self, number: int, to: int) -> None:
        org_unit, parent = self.pick(number), self.pick(to)
        subtree = [other for other in self.org_units.values() if org_unit.id in other.org_unit_ids]
        self.org_units |= {moved.id: moved for moved in rules.move_subtree(subtree, org_unit.id, parent)}


numbers = st.integers(0, 50)
steps = st.lists(st.tuples(st.sampled_from(["unit", "store", "move", "move"]), numbers, numbers), max_size=40)


def build_tree(steps: list[tuple[str, int, int]]) -> Tree:
    tree = Tree()
    for what, number, to in steps:
        before = dict(tree.org_units)
        try:
            tree.move(number, to) if what == "move" else tree.add(number, what == "store")
        except Refusal:
            assert tree.org_units == before
    return tree


@given(steps)
def test_paths_match_parents_after_any_moves(steps: list[tuple[str, int, int]]) -> None:
    tree = build_tree(steps)
    paths = rules.derive_paths({org_unit.id: org_unit.parent_id for org_unit in tree.org_units.values()})
    assert {org_unit.id: org_unit.org_unit_ids for org_unit in tree.org_units.values()} == paths
    for org_unit in tree.org_units.values():
        assert org_unit.level == len(org_unit.org_unit_ids) <= rules.LEVELS_MAX
        assert org_unit.org_unit_ids[0] == f"unt_{org_unit.brand_id}"
        assert all(tree.org_units[above].kind is not OrgUnitKind.STORE for above in org_unit.org_unit_ids[:-1])


@given(steps, numbers, numbers)
def test_move_below_itself_is_refused(steps: list[tuple[str, int, int]], number: int, to: int) -> None:
    tree = build_tree(steps)
    org_unit, parent = tree.pick(number), tree.pick(to)
    if org_unit.id not in parent.org_unit_ids or not org_unit.parent_id:
        return
    with pytest.raises(Conflict) as refused:
        tree.move(number, to)
    assert refused.value.reason == "ORG_UNIT_CYCLE"


def test_derive_paths_with_cycle_raises_error() -> None:
    with pytest.raises(ValueError, match="is below itself"):
        rules.derive_paths({"unt_a": "unt_b", "unt_b": "unt_a"})


def test_store_event_has_new_path_after_move() -> None:
    tree = Tree()
    tree.add(0, store=False)
    tree.add(0, store=False)
    area = rules.create_org_unit("unt_area", OrgUnitDraft(kind=OrgUnitKind.SUPERVISOR_AREA, name=NAME), tree.org_units["unt_2"])
    store, org_unit = rules.create_store("str_x", DRAFT, area, "UTC")
    after = rules.move_subtree([area, org_unit], "unt_area", tree.org_units["unt_3"])
    assert after[1].org_unit_ids == ("unt_brd_a", "unt_3", "unt_area", "unt_str_x")
    assert after[1].parent_id == "unt_area"
    assert rules.store_changed_event(store, after[1].org_unit_ids).org_unit_ids == after[1].org_unit_ids


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
def test_period_that_ends_too_early_is_refused(valid_from: str, valid_until: str, good: bool) -> None:
    if good:
        rules.check_period(valid_from, valid_until)
        return
    with pytest.raises(Invalid):
        rules.check_period(valid_from, valid_until)


# Grants --------------------------------------------------------------------------------------------------------------

ROLES = [role for role in Role if role in SCOPE_KIND_OF_ROLE]


def reach(tree: Tree, role: str, kind: str, id: str) -> set[tuple[int, str]]:
    """Returns all that a grant covers, as pairs of rank and id of a store, org org_unit, brand or district."""
    if kind == ScopeKind.DISTRICT:
        return {(0, id)}
    ranks = range(1, RANK.get(role, 5) + 1)
    everything = {*tree.org_units, *tree.stores, *(brand.id for brand, _ in BRANDS)}
    if kind == ScopeKind.INSTALLATION:
        return {(rank, thing) for rank in range(6) for thing in everything | {"", "dst_1", "dst_2", "str_none"}}
    if kind == ScopeKind.STORE:
        below = {id}
    elif kind == ScopeKind.ORG_UNIT:
        org_units = {org_unit.id for org_unit in tree.org_units.values() if id in org_unit.org_unit_ids}
        below = org_units | {tree.org_units[id].store_id for id in org_units if tree.org_units[id].store_id}
    else:
        org_units = {org_unit.id for org_unit in tree.org_units.values() if org_unit.brand_id == id}
        below = org_units | {store.id for store in tree.stores.values() if store.brand_id == id} | {id}
    return {(rank, thing) for rank in ranks for thing in below}


def scope_for(tree: Tree, role: Role, number: int) -> Scope:
    """Returns a scope of the kind that the role is granted for."""
    match SCOPE_KIND_OF_ROLE[role]:
        case ScopeKind.STORE:
            stores = list(tree.stores.values())
            if not stores:
                return Scope(ScopeKind.STORE, "str_none")
            store = stores[number % len(stores)]
            return Scope(ScopeKind.STORE, store.id, tree.org_units[store.org_unit_id].org_unit_ids, store.brand_id)
        case ScopeKind.ORG_UNIT:
            org_unit = tree.pick(number)
            return Scope(ScopeKind.ORG_UNIT, org_unit.id, org_unit.org_unit_ids, org_unit.brand_id)
        case ScopeKind.BRAND:
            brand = BRANDS[number % 2][0].id
            return Scope(ScopeKind.BRAND, brand, brand_id=brand)
        case ScopeKind.DISTRICT:
            return Scope(ScopeKind.DISTRICT, f"dst_{number % 2 + 1}")
        case kind:
            return Scope(kind)


choices = st.tuples(st.sampled_from(ROLES), numbers)


@given(steps, choices, choices)
def test_granted_scope_is_within_the_grantors_scope(
    steps: list[tuple[str, int, int]], own: tuple[Role, int], given: tuple[Role, int]
) -> None:
    tree = build_tree(steps)
    scope = scope_for(tree, *own)
    held = HeldRole(own[0], scope.kind, scope.id)
    asked = scope_for(tree, *given)
    within = reach(tree, given[0], asked.kind, asked.id) <= reach(tree, *held)
    if people.can_grant([held], given[0], asked):
        assert within
    elif given[0] is not Role.OPERATOR and asked.id in tree.org_units.keys() | tree.stores.keys():
        assert not within


@given(steps, choices, st.lists(choices, max_size=6))
def test_chain_of_grants_stays_within_first_scope(
    steps: list[tuple[str, int, int]], own: tuple[Role, int], chain: list[tuple[Role, int]]
) -> None:
    tree = build_tree(steps)
    first = scope_for(tree, *own)
    held = [HeldRole(own[0], first.kind, first.id)]
    whole = reach(tree, *held[0])
    for role, number in chain:
        scope = scope_for(tree, role, number)
        if people.can_grant(held, role, scope):
            held.append(HeldRole(role, scope.kind, scope.id))
            assert reach(tree, role, scope.kind, scope.id) <= whole


def test_roles_outside_the_scope_cannot_grant() -> None:
    scope = Scope(ScopeKind.STORE, "str_1", ("unt_brd_a", "unt_str_1"), "brd_a")
    assert not people.can_grant([HeldRole("ROLE_CONSUMER", "SCOPE_KIND_CONSUMER", "con_1")], Role.GUIDE, scope)
    assert not people.can_grant([HeldRole(Role.GUIDE, ScopeKind.STORE, "str_2")], Role.GUIDE, scope)
    assert not people.can_grant([HeldRole(Role.STORE_MANAGER, ScopeKind.STAFF, "str_1")], Role.SUPERVISOR, scope)


MANAGER = [HeldRole(Role.STORE_MANAGER, ScopeKind.STORE, "str_1")]
SCOPE = Scope(ScopeKind.STORE, "str_1", ("unt_brd_a", "unt_str_1"), "brd_a")
GUIDE = Staff(id="stf_1", brand_id="brd_a", org_unit_id="unt_str_1", store_id="str_1")


def test_existing_grant_is_not_granted_again() -> None:
    first = people.grant_role("grt_1", GUIDE, Role.GUIDE, SCOPE, MANAGER, [], AT)
    with pytest.raises(Conflict):
        people.grant_role("grt_2", GUIDE, Role.GUIDE, SCOPE, MANAGER, [first], AT)
    ended = people.end_grants([first], AT)
    assert people.grant_role("grt_2", GUIDE, Role.GUIDE, SCOPE, MANAGER, ended, AT)
    assert not people.is_in_force(ended[0], AT)


def test_grant_with_wrong_scope_or_person_is_refused() -> None:
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
def test_ended_grant_is_never_in_force_again(begins: datetime, ends: datetime | None, at: datetime, later: datetime) -> None:
    grant = people.Grant(
        id="grt_1", staff_id="stf_1", role=Role.GUIDE, kind=ScopeKind.STORE, scope_id="str_1", valid_from=begins, valid_until=ends
    )
    (ended,) = people.end_grants([grant], at) or [grant]
    assert not people.is_in_force(ended, max(at, later))
    if later < at:
        assert people.is_in_force(ended, later) == people.is_in_force(grant, later)


def test_resolved_roles_are_current_and_include_own_scope() -> None:
    grant = people.grant_role("grt_1", GUIDE, Role.GUIDE, SCOPE, MANAGER, [], AT)
    assert people.resolve_roles(GUIDE, [grant], AT) == [
        HeldRole("ROLE_GUIDE", "SCOPE_KIND_STORE", "str_1"),
        HeldRole("ROLE_GUIDE", "SCOPE_KIND_STAFF", "stf_1"),
    ]
    assert people.resolve_roles(GUIDE, [grant], AT - timedelta(seconds=1)) == []
    left, events = people.dismiss(GUIDE)
    assert people.resolve_roles(left, [grant], AT) == []
    assert [event.active for event in events] == [False]
    assert people.dismiss(left) == (left, [])


def test_move_to_same_workplace_publishes_nothing() -> None:
    assert people.move(GUIDE, people.Workplace("brd_a", "unt_str_1", "str_1")) == (GUIDE, [])
    moved, events = people.move(GUIDE, people.Workplace("brd_a", "unt_str_2", "str_2"))
    assert (moved.store_id, events[0].store_id) == ("str_2", "str_2")


@pytest.mark.parametrize(
    ("period", "field"),
    [(("2024-13-01", ""), "valid_from"), (("2024-05-01", "2024-02-30"), "valid_until"), (("2024-05-01", "2024-05-01"), "valid_until")],
)
def test_wrong_day_of_period_is_named(period: tuple[str, str], field: str) -> None:
    with pytest.raises(Invalid, match="INVALID_PERIOD") as refused:
        rules.check_period(*period)
    assert refused.value.metadata["field"] == field
