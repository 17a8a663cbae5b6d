"""Chart rpcs: moves keep a tree, changes of stores and staff are published, and reads and writes respect scopes."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from quanyu.access.v1 import access_pb2
from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.organization.v1 import chart_pb2, chart_pb2_grpc
from services.kit.errors import Conflict, Denied, Invalid, NotFound, Refusal
from services.kit.security.principals import SERVICE, Grant
from services.organization.chart import rules
from tests.services.lists import assert_batch_equals_lists, count_documents_read, fetch_first_pages
from tests.services.organization.conftest import BRAND, GUIDE_1, MANAGER_1, MANAGER_2, NAME, OTHER_BRAND, SANLITUN, SUPERVISOR, Organization

SERVICE_CALLER = Grant(SERVICE, "SCOPE_KIND_INSTALLATION")


async def assert_paths_match_parents(service: Organization) -> None:
    rows = await service.database["org_units"].find().to_list(None)
    parents = {row["_id"]: row.get("parent_id", "") for row in rows}
    assert {row["_id"]: tuple(row["org_unit_ids"]) for row in rows} == rules.derive_paths(parents)


# Tenants and org units ------------------------------------------------------------------------------------------------


async def test_created_brand_is_public_and_has_headquarters(tenant: Organization) -> None:
    anonymous = tenant.running.anonymous()
    brand = (await chart_pb2_grpc.ChartServiceStub(anonymous).GetBrand(chart_pb2.GetBrandRequest(id="brd_a"))).brand
    assert (brand.headquarters_org_unit_id, brand.zone, brand.name.zh) == ("unt_brd_a", "Asia/Shanghai", "三里屯")
    org_unit = (await tenant.chart().GetOrgUnit(chart_pb2.GetOrgUnitRequest(id="unt_brd_a"))).org_unit
    assert (org_unit.kind, list(org_unit.org_unit_ids)) == (chart_pb2.ORG_UNIT_KIND_HEADQUARTERS, ["unt_brd_a"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"brand_id": "brd_a"}, "BRAND_EXISTS"),
        ({"brand_id": "rtl_x"}, "INVALID_FIELD"),
        ({"brand_id": "brd_x.y"}, "INVALID_FIELD"),
        ({"zone": "Mars/Olympus"}, "INVALID_ZONE"),
        ({"currency": "yuan"}, "INVALID_FIELD"),
        ({"currency": "ZZZ"}, "INVALID_FIELD"),
        ({"name": chart_pb2.Name()}, "INVALID_FIELD"),
        ({"kind": chart_pb2.BRAND_KIND_UNSPECIFIED}, "INVALID_FIELD"),
    ],
)
async def test_create_brand_with_invalid_value_is_refused(tenant: Organization, change: dict, reason: str) -> None:
    good = {"brand_id": "brd_x", "kind": chart_pb2.BRAND_KIND_BRAND, "name": NAME, "zone": "Asia/Shanghai", "currency": "CNY"}
    with pytest.raises(Refusal) as refused:
        await tenant.chart().CreateBrand(chart_pb2.CreateBrandRequest(request_id=tenant.new_request_id(), **(good | change)))
    assert refused.value.reason == reason


async def test_moved_org_unit_publishes_every_store_below(tenant: Organization) -> None:
    request = chart_pb2.MoveOrgUnitRequest(request_id=tenant.new_request_id(), org_unit_id="unt_area1", parent_id="unt_south")
    moved = (await tenant.chart(*BRAND).MoveOrgUnit(request)).org_unit
    assert list(moved.org_unit_ids) == ["unt_brd_a", "unt_south", "unt_area1"]
    assert (await tenant.chart(*BRAND).MoveOrgUnit(request)).org_unit == moved
    events = [event for event in await tenant.published("store_changed") if event.store_id == "str_1"]
    assert [list(event.org_unit_ids) for event in events] == [
        ["unt_brd_a", "unt_north", "unt_area1", "unt_str_1"],
        ["unt_brd_a", "unt_south", "unt_area1", "unt_str_1"],
    ]
    await assert_paths_match_parents(tenant)
    # The supervisor of the former region no longer sees the store.
    with pytest.raises(NotFound):
        await tenant.chart(*SUPERVISOR).GetOrgUnit(chart_pb2.GetOrgUnitRequest(id="unt_str_1"))


@pytest.mark.parametrize(
    ("org_unit_id", "parent_id", "reason"),
    [
        ("unt_north", "unt_area1", "ORG_UNIT_CYCLE"),
        ("unt_north", "unt_north", "ORG_UNIT_CYCLE"),
        ("unt_brd_a", "unt_north", "ORG_UNIT_IS_ROOT"),
        ("unt_north", "unt_rtl_r", "ORG_UNIT_OF_ANOTHER_BRAND"),
        ("unt_north", "unt_str_r", "ORG_UNIT_OF_ANOTHER_BRAND"),
        ("unt_south", "unt_str_1", "ORG_UNIT_KIND_NOT_ALLOWED"),
        ("unt_none", "unt_north", "ORG_UNIT_NOT_FOUND"),
    ],
)
async def test_refused_move_changes_nothing(tenant: Organization, org_unit_id: str, parent_id: str, reason: str) -> None:
    before = await tenant.database["org_units"].find().to_list(None)
    with pytest.raises(Refusal) as refused:
        await tenant.chart().MoveOrgUnit(
            chart_pb2.MoveOrgUnitRequest(request_id=tenant.new_request_id(), org_unit_id=org_unit_id, parent_id=parent_id)
        )
    assert refused.value.reason == reason
    assert await tenant.database["org_units"].find().to_list(None) == before


async def test_concurrent_moves_create_no_cycle(tenant: Organization) -> None:
    """Each move alone is allowed, both together would be a cycle."""
    chart = tenant.chart()
    outcomes = await asyncio.gather(
        chart.MoveOrgUnit(chart_pb2.MoveOrgUnitRequest(request_id="one", org_unit_id="unt_north", parent_id="unt_south")),
        chart.MoveOrgUnit(chart_pb2.MoveOrgUnitRequest(request_id="two", org_unit_id="unt_south", parent_id="unt_north")),
        return_exceptions=True,
    )
    assert sorted(type(outcome) is Conflict for outcome in outcomes) == [False, True]
    await assert_paths_match_parents(tenant)


async def test_org_units_are_listed_by_level_in_pages(tenant: Organization) -> None:
    seen, after = [], ""
    while True:
        request = chart_pb2.ListOrgUnitsRequest(org_unit_id="unt_north", page=PageRequest(first=2, after=after))
        answer = await tenant.chart(*SUPERVISOR).ListOrgUnits(request)
        seen += [org_unit.id for org_unit in answer.org_units]
        if not answer.page.has_next_page:
            break
        after = answer.page.end_cursor
    assert seen == ["unt_north", "unt_area1", "unt_area2", "unt_str_1", "unt_str_2"]
    for who in (OTHER_BRAND, MANAGER_2):
        request = chart_pb2.ListOrgUnitsRequest(org_unit_id="unt_area1")
        assert not (await tenant.chart(*who).ListOrgUnits(request)).org_units


async def test_batch_list_of_org_units_respects_scope(tenant: Organization) -> None:
    rpc, asked = "ChartService.BatchListOrgUnits", ["unt_brd_a", "unt_north", "unt_area1", "unt_str_2", "unt_rtl_r", "unt_none"]
    of_north = {"unt_north": 5, "unt_area1": 2, "unt_str_2": 1}
    assert await assert_batch_equals_lists(tenant.chart(), rpc, "org_unit_id", asked) == of_north | {"unt_brd_a": 7, "unt_rtl_r": 2}
    # Of a tree that begins above the scope, the supervisor sees the part within the scope.
    assert await assert_batch_equals_lists(tenant.chart(*SUPERVISOR), rpc, "org_unit_id", asked) == of_north | {"unt_brd_a": 5}
    assert not await assert_batch_equals_lists(tenant.chart(*OTHER_BRAND), rpc, "org_unit_id", asked[:4])
    assert (
        await count_documents_read(tenant.database, "org_units", fetch_first_pages(tenant.chart(), rpc, "org_unit_id", asked, 2))
        == 3 * 2 + 2 + 1 + 2
    )
    with pytest.raises(Denied):
        await fetch_first_pages(tenant.chart(*GUIDE_1), rpc, "org_unit_id", asked, 5)


# Stores --------------------------------------------------------------------------------------------------------------


async def test_created_store_is_published_and_visible_to_supervisor(tenant: Organization) -> None:
    request = chart_pb2.CreateStoreRequest(
        request_id=tenant.new_request_id(), store_id="str_new", kind=chart_pb2.STORE_KIND_STORE, parent_id="unt_area1", name=NAME,
        position=SANLITUN,
        opens_minute=600, closes_minute=1320, delivers=True,
    )  # fmt: skip
    store = (await tenant.chart(*SUPERVISOR).CreateStore(request)).store
    assert (store.brand_id, store.org_unit_id, store.zone, store.active) == ("brd_a", "unt_str_new", "Asia/Shanghai", True)
    (event,) = [event for event in await tenant.published("store_changed") if event.store_id == "str_new"]
    assert list(event.org_unit_ids) == ["unt_brd_a", "unt_north", "unt_area1", "unt_str_new"]
    assert (event.name, event.delivers, event.closes_minute, event.position.longitude) == ("三里屯", True, 1320, SANLITUN.longitude)
    update = chart_pb2.UpdateStoreRequest(
        request_id=tenant.new_request_id(), store_id="str_new", closes_minute=1200, active=False, delivers=False
    )
    changed = (await tenant.chart(*SUPERVISOR).UpdateStore(update)).store
    assert (changed.closes_minute, changed.active, changed.delivers, changed.opens_minute) == (1200, False, False, 600)
    events = [event for event in await tenant.published("store_changed") if event.store_id == "str_new"]
    assert [event.active for event in events] == [True, False]
    same = chart_pb2.UpdateStoreRequest(request_id=tenant.new_request_id(), store_id="str_new", closes_minute=1200)
    await tenant.chart(*SUPERVISOR).UpdateStore(same)
    assert len([event for event in await tenant.published("store_changed") if event.store_id == "str_new"]) == 2


async def test_renamed_store_renames_its_org_unit(tenant: Organization) -> None:
    name = chart_pb2.Name(zh="新店")
    await tenant.chart(*MANAGER_1).UpdateStore(
        chart_pb2.UpdateStoreRequest(request_id=tenant.new_request_id(), store_id="str_1", name=name)
    )
    assert (await tenant.chart(*MANAGER_1).GetOrgUnit(chart_pb2.GetOrgUnitRequest(id="unt_str_1"))).org_unit.name == name


async def test_store_is_public_but_writable_within_scope(tenant: Organization) -> None:
    for who in (MANAGER_2, OTHER_BRAND):
        assert (await tenant.chart(*who).GetStore(chart_pb2.GetStoreRequest(id="str_1"))).store.id == "str_1"
        with pytest.raises(NotFound):
            await tenant.chart(*who).UpdateStore(
                chart_pb2.UpdateStoreRequest(request_id=tenant.new_request_id(), store_id="str_1", active=False)
            )
    with pytest.raises(NotFound):
        request = chart_pb2.CreateStoreRequest(
            request_id=tenant.new_request_id(), kind=chart_pb2.STORE_KIND_STORE, parent_id="unt_north", name=NAME, position=SANLITUN
        )
        await tenant.chart(*OTHER_BRAND).CreateStore(request)


async def test_warehouse_with_opening_hours_is_refused(tenant: Organization) -> None:
    request = chart_pb2.CreateStoreRequest(
        request_id=tenant.new_request_id(),
        kind=chart_pb2.STORE_KIND_WAREHOUSE,
        parent_id="unt_north",
        name=NAME,
        position=SANLITUN,
        closes_minute=1,
    )
    with pytest.raises(Invalid) as refused:
        await tenant.chart().CreateStore(request)
    assert refused.value.reason == "INVALID_HOURS"


async def test_repeated_store_import_accepts_the_good_rows(tenant: Organization) -> None:
    def row(id: str, **changes: object) -> chart_pb2.StoreRow:
        good = {"kind": chart_pb2.STORE_KIND_STORE, "parent_id": "unt_south", "name": NAME, "position": SANLITUN}
        return chart_pb2.StoreRow(store_id=id, **(good | changes))

    rows = [
        row("str_10"),
        row("str_11", parent_id="unt_none"),
        row("str_12", zone="Nowhere"),
        row("str_10"),
        row("bad id"),
        row("str_r"),
        row("str_1"),
        row("str_13", parent_id="unt_rtl_r"),
    ]
    answer = await tenant.chart(*BRAND).ImportStores(chart_pb2.ImportStoresRequest(request_id=tenant.new_request_id(), rows=rows))
    assert answer.accepted == 2
    assert {reject.index: reject.reason for reject in answer.rejects} == {
        1: "ORG_UNIT_NOT_FOUND", 2: "INVALID_ZONE", 3: "DUPLICATE_ROW", 4: "INVALID_FIELD", 5: "ORG_UNIT_OF_ANOTHER_BRAND",
        7: "ORG_UNIT_NOT_FOUND",
    }  # fmt: skip
    published = len(await tenant.published("store_changed"))
    again = await tenant.chart(*BRAND).ImportStores(chart_pb2.ImportStoresRequest(request_id=tenant.new_request_id(), rows=rows))
    assert (again.accepted, len(await tenant.published("store_changed"))) == (2, published)
    await assert_paths_match_parents(tenant)
    with pytest.raises(Invalid) as refused:
        await tenant.chart().ImportStores(chart_pb2.ImportStoresRequest(request_id=tenant.new_request_id(), rows=[row("str_10")] * 501))
    assert refused.value.reason == "TOO_MANY_ROWS"


async def test_repeated_brand_import_overwrites_brands(service: Organization) -> None:
    def rows(zh: str) -> list[chart_pb2.BrandRow]:
        return [
            chart_pb2.BrandRow(
                brand_id=f"brd_{n}", kind=chart_pb2.BRAND_KIND_BRAND, name=chart_pb2.Name(zh=zh), zone="America/New_York", currency="USD"
            )
            for n in range(500)
        ]

    for zh in ("一", "一", "二"):
        answer = await service.chart(SERVICE_CALLER).ImportBrands(
            chart_pb2.ImportBrandsRequest(request_id=service.new_request_id(), rows=rows(zh))
        )
        assert answer.accepted == 500
    brands = (await service.chart().BatchGetBrands(chart_pb2.BatchGetBrandsRequest(ids=["brd_7", "brd_none"]))).brands
    assert [(brand.name.zh, brand.headquarters_org_unit_id) for brand in brands] == [("二", "unt_brd_7")]
    assert await service.database["org_units"].count_documents({}) == 500


# People --------------------------------------------------------------------------------------------------------------


async def test_staff_name_is_encrypted_and_visible_within_scope(tenant: Organization) -> None:
    row = await tenant.database["staff"].find_one({"_id": "stf_guide1"})
    assert "王芳".encode() not in bytes(row["name"])
    assert "oidc" not in str(row)
    seen = (await tenant.chart(*GUIDE_1).BatchGetStaff(chart_pb2.BatchGetStaffRequest(ids=["stf_guide1b", "stf_guide2"]))).staff
    assert [(one.id, one.name) for one in seen] == [("stf_guide1b", "王芳")]
    listed = (await tenant.chart(*MANAGER_1).ListStaff(chart_pb2.ListStaffRequest(store_id="str_1"))).staff
    assert [one.id for one in listed] == ["stf_guide1", "stf_guide1b", "stf_manager1"]
    assert not (await tenant.chart(*MANAGER_2).ListStaff(chart_pb2.ListStaffRequest(store_id="str_1"))).staff


async def test_batch_list_of_staff_respects_scope(tenant: Organization) -> None:
    rpc, asked = "ChartService.BatchListStaff", ["str_2", "str_1", "str_r", "str_none"]
    await tenant.chart(*BRAND).DismissStaff(chart_pb2.DismissStaffRequest(request_id=tenant.new_request_id(), staff_id="stf_guide1"))
    for who, stores in ((BRAND, {"str_1": 2, "str_2": 1}), (MANAGER_2, {"str_2": 1}), (OTHER_BRAND, {})):
        assert await assert_batch_equals_lists(tenant.chart(*who), rpc, "store_id", asked) == stores
    assert await count_documents_read(tenant.database, "staff", fetch_first_pages(tenant.chart(*BRAND), rpc, "store_id", asked, 1)) == 2 + 1
    (guide,), _ = (await fetch_first_pages(tenant.chart(*MANAGER_2), rpc, "store_id", asked, 1))["str_2"]
    assert (guide.id, guide.name) == ("stf_guide2", "王芳")


async def test_staff_changes_are_published_and_end_grants(tenant: Organization) -> None:
    chart = tenant.chart(*BRAND)
    hired = await chart.HireStaff(
        chart_pb2.HireStaffRequest(request_id=tenant.new_request_id(), staff_id="stf_x", store_id="str_1", name="小林", subject="oidc|x")
    )
    grant = (
        await tenant.chart(*MANAGER_1).GrantRole(
            chart_pb2.GrantRoleRequest(
                request_id=tenant.new_request_id(),
                staff_id="stf_x",
                role=access_pb2.ROLE_GUIDE,
                kind=access_pb2.SCOPE_KIND_STORE,
                scope_id="str_1",
            )
        )
    ).grant
    assert (hired.staff_id, grant.staff_id, grant.brand_id) == ("stf_x", "stf_x", "brd_a")
    assert await resolve_grants(tenant, "oidc|x") == ("stf_x", {("ROLE_GUIDE", "str_1"), ("ROLE_GUIDE", "stf_x")})
    moved = await chart.MoveStaff(chart_pb2.MoveStaffRequest(request_id=tenant.new_request_id(), staff_id="stf_x", store_id="str_2"))
    assert list(moved.ended_grant_ids) == [grant.id]
    assert await resolve_grants(tenant, "oidc|x") == ("stf_x", set())
    await chart.DismissStaff(chart_pb2.DismissStaffRequest(request_id=tenant.new_request_id(), staff_id="stf_x"))
    events = [event for event in await tenant.published("staff_changed") if event.staff_id == "stf_x"]
    assert [(event.store_id, event.active) for event in events] == [("str_1", True), ("str_2", True), ("str_2", False)]
    assert await resolve_grants(tenant, "oidc|x") == ("", set())
    # The subject is free again.
    await chart.HireStaff(
        chart_pb2.HireStaffRequest(request_id=tenant.new_request_id(), staff_id="stf_y", store_id="str_1", name="小林", subject="oidc|x")
    )


async def resolve_grants(service: Organization, subject: str) -> tuple[str, set[tuple[str, str]]]:
    answer = await service.chart(SERVICE_CALLER).ResolveGrants(chart_pb2.ResolveGrantsRequest(subject=subject))
    return answer.staff_id, {(access_pb2.Role.Name(grant.role), grant.id) for grant in answer.grants}


async def test_resolved_grants_are_those_of_the_subject(tenant: Organization) -> None:
    assert await resolve_grants(tenant, "oidc|stf_guide1") == ("stf_guide1", {("ROLE_GUIDE", "str_1"), ("ROLE_GUIDE", "stf_guide1")})
    assert await resolve_grants(tenant, "stf_super") == ("stf_super", {("ROLE_SUPERVISOR", "unt_north"), ("ROLE_SUPERVISOR", "stf_super")})
    assert await resolve_grants(tenant, "operator") == ("stf_operator", {("ROLE_OPERATOR", "")})
    assert await resolve_grants(tenant, "unknown") == ("", set())
    assert await resolve_grants(tenant, "") == ("", set())


def hire_request(service: Organization, **fields: Any) -> chart_pb2.HireStaffRequest:
    return chart_pb2.HireStaffRequest(request_id=service.new_request_id(), **({"name": "小林"} | fields))


@pytest.mark.parametrize(
    ("who", "fields", "reason"),
    [
        (MANAGER_1, {"store_id": "str_2"}, "STORE_NOT_FOUND"),
        (MANAGER_1, {"org_unit_id": "unt_north"}, "ORG_UNIT_NOT_FOUND"),
        (MANAGER_1, {}, "PLACE_REQUIRED"),
        (OTHER_BRAND, {"store_id": "str_1"}, "STORE_NOT_FOUND"),
        (BRAND, {"store_id": "str_1", "staff_id": "stf_guide1"}, "STAFF_EXISTS"),
        (BRAND, {"store_id": "str_1", "subject": "oidc|stf_guide2"}, "SUBJECT_IN_USE"),
        (BRAND, {"store_id": "str_1", "name": ""}, "INVALID_FIELD"),
        (BRAND, {"store_id": "str_1", "name": "长" * 81}, "INVALID_FIELD"),
    ],
)
async def test_hire_with_invalid_value_is_refused(tenant: Organization, who: tuple[Grant, ...], fields: dict, reason: str) -> None:
    with pytest.raises(Refusal) as refused:
        await tenant.chart(*who).HireStaff(hire_request(tenant, **fields))
    assert refused.value.reason == reason


@pytest.mark.parametrize("who", [MANAGER_1, ()])
async def test_move_staff_without_workplace_is_refused(tenant: Organization, who: tuple[Grant, ...]) -> None:
    """The operator too must name a workplace, although the operator may hire without one."""
    with pytest.raises(Invalid) as refused:
        await tenant.chart(*who).MoveStaff(chart_pb2.MoveStaffRequest(request_id=tenant.new_request_id(), staff_id="stf_guide1"))
    assert (refused.value.reason, refused.value.metadata["field"]) == ("PLACE_REQUIRED", "store_id")


async def test_grant_with_past_end_is_refused(tenant: Organization) -> None:
    now = datetime.now(UTC)
    past = {"valid_from": now - timedelta(days=9), "valid_until": now - timedelta(days=2)}
    grant = {"staff_id": "stf_guide1", "role": "ROLE_STORE_MANAGER", "kind": "SCOPE_KIND_STORE", "scope_id": "str_1"}
    with pytest.raises(Invalid) as refused:
        await tenant.chart(*BRAND).GrantRole(chart_pb2.GrantRoleRequest(request_id=tenant.new_request_id(), **grant, **past))
    assert (refused.value.reason, refused.value.metadata["field"]) == ("INVALID_PERIOD", "valid_until")


async def test_staff_import_rejects_only_the_bad_row(tenant: Organization) -> None:
    """A bad row of an existing person does not reject the whole import."""
    rows = [
        chart_pb2.StaffRow(staff_id=id, store_id="str_1", name="小林", title=title)
        for id, title in (("stf_guide1", "长" * 41), ("stf_new", "店长"), ("stf_ new", "店长"))
    ]
    answer = await tenant.chart(*BRAND).ImportStaff(chart_pb2.ImportStaffRequest(request_id=tenant.new_request_id(), rows=rows))
    assert answer.accepted == 1
    assert [(reject.index, reject.reason) for reject in answer.rejects] == [(0, "INVALID_FIELD"), (2, "INVALID_FIELD")]


@pytest.mark.parametrize(
    ("who", "staff_id", "role", "kind", "scope_id", "reason"),
    [
        (MANAGER_1, "stf_guide1b", "ROLE_STORE_MANAGER", "SCOPE_KIND_STORE", "str_1", ""),
        (MANAGER_1, "stf_guide1b", "ROLE_GUIDE", "SCOPE_KIND_STORE", "str_2", "STORE_NOT_FOUND"),
        (MANAGER_1, "stf_guide2", "ROLE_GUIDE", "SCOPE_KIND_STORE", "str_1", "STAFF_NOT_FOUND"),
        (MANAGER_1, "stf_guide1", "ROLE_SUPERVISOR", "SCOPE_KIND_ORG_UNIT", "unt_str_1", "BEYOND_OWN_REACH"),
        (MANAGER_1, "stf_guide1", "ROLE_SUPERVISOR", "SCOPE_KIND_ORG_UNIT", "unt_area1", "ORG_UNIT_NOT_FOUND"),
        (MANAGER_1, "stf_guide1", "ROLE_BRAND_OPERATOR", "SCOPE_KIND_BRAND", "brd_a", "BRAND_NOT_FOUND"),
        (MANAGER_1, "stf_guide1", "ROLE_OPERATOR", "SCOPE_KIND_INSTALLATION", "", "BEYOND_OWN_REACH"),
        (MANAGER_1, "stf_guide1", "ROLE_GUIDE", "SCOPE_KIND_STORE", "str_1", "GRANT_EXISTS"),
        (SUPERVISOR, "stf_guide1", "ROLE_SUPERVISOR", "SCOPE_KIND_ORG_UNIT", "unt_area1", ""),
        (SUPERVISOR, "stf_guide1", "ROLE_SUPERVISOR", "SCOPE_KIND_ORG_UNIT", "unt_brd_a", "ORG_UNIT_NOT_FOUND"),
        (SUPERVISOR, "stf_guide1", "ROLE_BRAND_OPERATOR", "SCOPE_KIND_BRAND", "brd_a", "BRAND_NOT_FOUND"),
        (BRAND, "stf_guide1", "ROLE_BRAND_OPERATOR", "SCOPE_KIND_BRAND", "brd_a", ""),
        (BRAND, "stf_guide1", "ROLE_BRAND_OPERATOR", "SCOPE_KIND_BRAND", "rtl_r", "BRAND_NOT_FOUND"),
        (BRAND, "stf_guide1", "ROLE_DISTRICT_OPERATOR", "SCOPE_KIND_DISTRICT", "dst_1", "BEYOND_OWN_REACH"),
        (BRAND, "stf_guide1", "ROLE_CONSUMER", "SCOPE_KIND_STORE", "str_1", "ROLE_NOT_GRANTABLE"),
        (BRAND, "stf_guide1", "ROLE_SERVICE", "SCOPE_KIND_BRAND", "brd_a", "ROLE_NOT_GRANTABLE"),
        (OTHER_BRAND, "stf_guide1", "ROLE_GUIDE", "SCOPE_KIND_STORE", "str_r", "STAFF_NOT_FOUND"),
        ((), "stf_guide1", "ROLE_GUIDE", "SCOPE_KIND_STORE", "str_r", "ORG_UNIT_OF_ANOTHER_BRAND"),
        ((), "stf_guide1", "ROLE_DISTRICT_OPERATOR", "SCOPE_KIND_DISTRICT", "dst_1", ""),
    ],
)
async def test_grant_beyond_the_callers_reach_is_refused(
    tenant: Organization, who: tuple[Grant, ...], staff_id: str, role: str, kind: str, scope_id: str, reason: str
) -> None:
    request = chart_pb2.GrantRoleRequest(request_id=tenant.new_request_id(), staff_id=staff_id, role=role, kind=kind, scope_id=scope_id)
    before = await tenant.database["grants"].count_documents({})
    try:
        await tenant.chart(*who).GrantRole(request)
        found = ""
    except Refusal as refusal:
        found = refusal.reason
    assert found == reason
    assert await tenant.database["grants"].count_documents({}) == before + (not reason)


async def test_concurrent_equal_grants_create_one(tenant: Organization) -> None:
    def request(n: int) -> chart_pb2.GrantRoleRequest:
        return chart_pb2.GrantRoleRequest(
            request_id=f"twin{n}", staff_id="stf_guide2", role=access_pb2.ROLE_GUIDE, kind=access_pb2.SCOPE_KIND_STORE, scope_id="str_1"
        )

    outcomes = await asyncio.gather(*(tenant.chart(*BRAND).GrantRole(request(n)) for n in range(4)), return_exceptions=True)
    assert sorted(getattr(outcome, "reason", "") for outcome in outcomes) == ["", "GRANT_EXISTS", "GRANT_EXISTS", "GRANT_EXISTS"]


async def test_grant_is_revoked_only_by_its_possible_grantors(tenant: Organization) -> None:
    grants = {row["staff_id"]: row["_id"] async for row in tenant.database["grants"].find()}

    async def revoke(who: tuple[Grant, ...], grant_id: str) -> chart_pb2.Grant:
        return (
            await tenant.chart(*who).RevokeGrant(chart_pb2.RevokeGrantRequest(request_id=tenant.new_request_id(), grant_id=grant_id))
        ).grant

    with pytest.raises(NotFound):
        await revoke(MANAGER_1, grants["stf_guide2"])
    with pytest.raises(NotFound):
        await revoke(MANAGER_1, grants["stf_super"])
    own = (*MANAGER_1, Grant("ROLE_STORE_MANAGER", "SCOPE_KIND_STAFF", "stf_super"))
    with pytest.raises(NotFound):
        await revoke(own, grants["stf_super"])
    ended = await revoke(MANAGER_1, grants["stf_guide1"])
    assert ended.valid_until.ToDatetime() >= ended.valid_from.ToDatetime()
    assert (await revoke(MANAGER_1, grants["stf_guide1"])) == ended
    assert await resolve_grants(tenant, "stf_guide1") == ("stf_guide1", set())


async def test_future_grant_is_in_force_from_its_start(tenant: Organization) -> None:
    from_tomorrow, at = Timestamp(), Timestamp()
    at.GetCurrentTime()
    from_tomorrow.FromSeconds(at.seconds + 86_400)
    request = chart_pb2.GrantRoleRequest(
        request_id=tenant.new_request_id(), staff_id="stf_guide1", role=access_pb2.ROLE_GUIDE, kind=access_pb2.SCOPE_KIND_STORE,
        scope_id="str_2",
        valid_from=from_tomorrow,
    )  # fmt: skip
    await tenant.chart(*BRAND).GrantRole(request)
    assert ("ROLE_GUIDE", "str_2") not in (await resolve_grants(tenant, "stf_guide1"))[1]
    later = tenant.running.channel_as(SERVICE_CALLER, offset=2 * 86_400)
    answer = await chart_pb2_grpc.ChartServiceStub(later).ResolveGrants(chart_pb2.ResolveGrantsRequest(subject="stf_guide1"))
    assert "str_2" in {grant.id for grant in answer.grants}


async def test_repeated_staff_import_accepts_the_good_rows(tenant: Organization) -> None:
    rows = [
        chart_pb2.StaffRow(staff_id="stf_20", store_id="str_1", name="甲", role=access_pb2.ROLE_GUIDE, subject="oidc|20"),
        chart_pb2.StaffRow(staff_id="stf_21", store_id="str_r", name="乙"),
        chart_pb2.StaffRow(staff_id="stf_22", store_id="str_1", name=""),
        chart_pb2.StaffRow(staff_id="stf_23", store_id="str_1", name="丙", subject="oidc|20"),
        chart_pb2.StaffRow(staff_id="stf_24", org_unit_id="unt_north", name="丁", role=access_pb2.ROLE_GUIDE),
        chart_pb2.StaffRow(staff_id="stf_25", org_unit_id="unt_north", name="戊", role=access_pb2.ROLE_OPERATOR),
        chart_pb2.StaffRow(staff_id="stf_26", org_unit_id="unt_brd_a", name="己", role=access_pb2.ROLE_BRAND_OPERATOR),
        chart_pb2.StaffRow(staff_id="stf_27", name="庚"),
        chart_pb2.StaffRow(staff_id="stf_guide2", store_id="str_1", name="王芳", role=access_pb2.ROLE_GUIDE, subject="oidc|stf_guide2"),
    ]
    answer = await tenant.chart(*BRAND).ImportStaff(chart_pb2.ImportStaffRequest(request_id=tenant.new_request_id(), rows=rows))
    assert {reject.index: reject.reason for reject in answer.rejects} == {
        1: "STORE_NOT_FOUND", 2: "INVALID_FIELD", 3: "SUBJECT_IN_USE", 4: "ROLE_NOT_GRANTABLE", 5: "ROLE_NOT_GRANTABLE",
        7: "PLACE_REQUIRED",
    }  # fmt: skip
    assert answer.accepted == 3
    assert await resolve_grants(tenant, "oidc|20") == ("stf_20", {("ROLE_GUIDE", "str_1"), ("ROLE_GUIDE", "stf_20")})
    # The moved person has the role at the new store only.
    assert await resolve_grants(tenant, "oidc|stf_guide2") == ("stf_guide2", {("ROLE_GUIDE", "str_1"), ("ROLE_GUIDE", "stf_guide2")})
    before = [await tenant.database[name].find().to_list(None) for name in ("staff", "grants", "deliveries")]
    again = await tenant.chart(*BRAND).ImportStaff(chart_pb2.ImportStaffRequest(request_id=tenant.new_request_id(), rows=rows))
    assert again.accepted == 3
    assert [await tenant.database[name].find().to_list(None) for name in ("staff", "grants", "deliveries")] == before


async def test_hot_queries_use_an_index(tenant: Organization) -> None:
    for collection, query, sort in [
        (
            "org_units",
            {"$and": [{"org_unit_ids": "unt_north"}, {"$or": [{"brand_id": "brd_a"}, {"org_unit_ids": {"$in": ["unt_north"]}}]}]},
            [("level", 1), ("_id", 1)],
        ),
        ("staff", {"store_id": "str_1", "active": True}, [("_id", 1)]),
        ("staff", {"subject_hash": {"$in": ["a", "b"]}}, None),
        ("grants", {"staff_id": {"$in": ["stf_1"]}}, None),
    ]:
        plan = await tenant.plan(collection, query, sort)
        assert "IXSCAN" in plan and "COLLSCAN" not in plan and "'SORT'" not in plan, (collection, plan)


async def test_guide_may_not_move_an_org_unit(tenant: Organization) -> None:
    with pytest.raises(Denied):
        await tenant.chart(*GUIDE_1).MoveOrgUnit(
            chart_pb2.MoveOrgUnitRequest(request_id=tenant.new_request_id(), org_unit_id="unt_north", parent_id="unt_south")
        )
