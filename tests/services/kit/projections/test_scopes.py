"""Tests of the scope projection: it finds the stores and org units below a brand or org unit, at most CACHE_SECONDS late."""

import pytest

from quanyu.events.v1 import events_pb2
from services.kit.errors import Exhausted
from services.kit.mongo.client import Database
from services.kit.projections import scopes as scopes_module
from services.kit.projections.scopes import ScopeProjection


@pytest.fixture
async def scopes(database: Database) -> ScopeProjection:
    scopes = ScopeProjection(database)
    await scopes.prepare()
    await save_store(scopes, "str_1", "brd_a", "unt_a", "unt_north", "unt_area", "unt_str_1")
    await save_store(scopes, "str_2", "brd_a", "unt_a", "unt_north", "unt_str_2")
    await save_store(scopes, "str_3", "brd_a", "unt_a", "unt_south", "unt_str_3")
    await save_store(scopes, "str_9", "brd_b", "unt_b", "unt_str_9")
    return scopes


async def save_store(scopes: ScopeProjection, store_id: str, brand_id: str, *org_unit_ids: str) -> None:
    await scopes.save(None, events_pb2.StoreChanged(store_id=store_id, brand_id=brand_id, org_unit_ids=org_unit_ids))


SUBTREES = [
    ("brand_id", "brd_b", {"str_9"}, {"unt_b", "unt_str_9"}),
    # Never the org units above.
    ("org_unit_ids", "unt_north", {"str_1", "str_2"}, {"unt_north", "unt_area", "unt_str_1", "unt_str_2"}),
    ("org_unit_ids", "unt_area", {"str_1"}, {"unt_area", "unt_str_1"}),
    ("org_unit_ids", "unt_str_3", {"str_3"}, {"unt_str_3"}),
    ("org_unit_ids", "unt_none", set(), set()),
    # An id of another kind.
    ("brand_id", "unt_north", set(), set()),
]


async def test_subtree_has_stores_and_org_units(scopes: ScopeProjection) -> None:
    for field, id, stores, units in SUBTREES:
        subtree = await scopes.find_subtree(field, id)
        assert (subtree.stores, subtree.units) == (stores, units), id


async def test_moved_store_is_in_its_new_scope(scopes: ScopeProjection) -> None:
    assert (await scopes.find_subtree("org_unit_ids", "unt_south")).stores == {"str_3"}
    await save_store(scopes, "str_2", "brd_a", "unt_a", "unt_south", "unt_str_2")
    scopes.evict()
    assert (await scopes.find_subtree("org_unit_ids", "unt_south")).stores == {"str_2", "str_3"}
    assert (await scopes.find_subtree("org_unit_ids", "unt_north")).stores == {"str_1"}


async def test_remote_change_is_visible_after_cache_expiry(scopes: ScopeProjection, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 1_000.0
    monkeypatch.setattr(scopes_module.time, "monotonic", lambda: moment)
    scopes, other = ScopeProjection(scopes.database), ScopeProjection(scopes.database)
    assert (await scopes.find_subtree("brand_id", "brd_b")).stores == {"str_9"}
    await save_store(other, "str_8", "brd_b", "unt_b", "unt_str_8")
    moment += scopes_module.CACHE_SECONDS - 1
    assert (await scopes.find_subtree("brand_id", "brd_b")).stores == {"str_9"}
    moment += 2
    assert (await scopes.find_subtree("brand_id", "brd_b")).stores == {"str_8", "str_9"}


async def test_cache_is_bounded(scopes: ScopeProjection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes_module, "CACHE_MAX", 2)
    scopes = ScopeProjection(scopes.database)
    for id in ("unt_a", "unt_north", "unt_south"):
        await scopes.find_subtree("org_unit_ids", id)
    assert [id for _, id in scopes.cache] == ["unt_north", "unt_south"]


async def test_too_wide_scope_is_refused(scopes: ScopeProjection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes_module, "STORES_MAX", 2)
    with pytest.raises(Exhausted) as refused:
        await scopes.find_subtree("brand_id", "brd_a")
    assert refused.value.reason == "SCOPE_TOO_WIDE"
    assert (await scopes.find_subtree("org_unit_ids", "unt_north")).stores == {"str_1", "str_2"}
