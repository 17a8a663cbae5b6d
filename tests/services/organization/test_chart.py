"""The chart through its rpcs: a tree that stays a tree, stores others hear of, and people within scopes."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from quanyu.access.v1 import access_pb2
from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.organization.v1 import chart_pb2
from services.kit.errors import Conflict, Denied, Invalid, NotFound, Refusal
from services.kit.security.principals import SERVICE, Grant
from services.organization.chart import rules
from tests.services.lists import first_pages, rows_read, says_the_same_of_each
from tests.services.organization.conftest import BRAND, GUIDE_1, MANAGER_1, MANAGER_2, NAME, OTHER_BRAND, SANLITUN, SUPERVISOR, House

SERVICE_CALLER = Grant(SERVICE, "SCOPE_KIND_INSTALLATION")


async def paths_hold(runtime: House) -> None:
    rows = await runtime.database["org_units"].find().to_list(None)
    parents = {row["_id"]: row.get("parent_id", "") for row in rows}
    assert {row["_id"]: tuple(row["org_unit_ids"]) for row in rows} == rules.recount(parents)


# Tenants and units ---------------------------------------------------------------------------------------------------


async def test_a_brand_comes_with_its_headquarters_and_anybody_may_know_it(shop: House) -> None:
    anonymous = shop.running.anonymous()
    from quanyu.organization.v1 import chart_pb2_grpc

    brand = (await chart_pb2_grpc.ChartServiceStub(anonymous).GetBrand(chart_pb2.GetBrandRequest(id="brd_a"))).brand
    assert (brand.headquarters_org_unit_id, brand.zone, brand.name.zh) == ("unt_brd_a", "Asia/Shanghai", "三里屯")
    unit = (await shop.chart().GetOrgUnit(chart_pb2.GetOrgUnitRequest(id="unt_brd_a"))).org_unit
    assert (unit.kind, list(unit.org_unit_ids)) == (chart_pb2.ORG_UNIT_KIND_HEADQUARTERS, ["unt_brd_a"])


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
async def test_a_brand_that_cannot_be(shop: House, change: dict, reason: str) -> None:
    good = {"brand_id": "brd_x", "kind": chart_pb2.BRAND_KIND_BRAND, "name": NAME, "zone": "Asia/Shanghai", "currency": "CNY"}
    with pytest.raises(Refusal) as refused:
        await shop.chart().CreateBrand(chart_pb2.CreateBrandRequest(request_id=shop.once(), **(good | change)))
    assert refused.value.reason == reason


async def test_moving_a_region_tells_every_store_below_anew(shop: House) -> None:
    request = chart_pb2.MoveOrgUnitRequest(request_id=shop.once(), org_unit_id="unt_area1", parent_id="unt_south")
    moved = (await shop.chart(*BRAND).MoveOrgUnit(request)).org_unit
    assert list(moved.org_unit_ids) == ["unt_brd_a", "unt_south", "unt_area1"]
    assert (await shop.chart(*BRAND).MoveOrgUnit(request)).org_unit == moved
    events = [event for event in await shop.told("store_changed") if event.store_id == "str_1"]
    assert [list(event.org_unit_ids) for event in events] == [
        ["unt_brd_a", "unt_north", "unt_area1", "unt_str_1"],
        ["unt_brd_a", "unt_south", "unt_area1", "unt_str_1"],
    ]
    await paths_hold(shop)
    # The former region's supervisor reaches it no more.
    with pytest.raises(NotFound):
        await shop.chart(*SUPERVISOR).GetOrgUnit(chart_pb2.GetOrgUnitRequest(id="unt_str_1"))


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
async def test_a_move_that_cannot_be_changes_nothing(shop: House, org_unit_id: str, parent_id: str, reason: str) -> None:
    before = await shop.database["org_units"].find().to_list(None)
    with pytest.raises(Refusal) as refused:
        await shop.chart().MoveOrgUnit(chart_pb2.MoveOrgUnitRequest(request_id=shop.once(), org_unit_id=org_unit_id, parent_id=parent_id))
    assert refused.value.reason == reason
    assert await shop.database["org_units"].find().to_list(None) == before


async def test_moves_at_once_leave_a_tree(shop: House) -> None:
    """Each alone is fine, both together would be a cycle."""
    chart = shop.chart()
    outcomes = await asyncio.gather(
        chart.MoveOrgUnit(chart_pb2.MoveOrgUnitRequest(request_id="one", org_unit_id="unt_north", parent_id="unt_south")),
        chart.MoveOrgUnit(chart_pb2.MoveOrgUnitRequest(request_id="two", org_unit_id="unt_south", parent_id="unt_north")),
        return_exceptions=True,
    )
    assert sorted(type(outcome) is Conflict for outcome in outcomes) == [False, True]
    await paths_hold(shop)


async def test_the_tree_below_a_unit_comes_level_by_level_and_in_pages(shop: House) -> None:
    seen, after = [], ""
    while True:
        request = chart_pb2.ListOrgUnitsRequest(org_unit_id="unt_north", page=PageRequest(first=2, after=after))
        answer = await shop.chart(*SUPERVISOR).ListOrgUnits(request)
        seen += [unit.id for unit in answer.org_units]
        if not answer.page.has_next_page:
            break
        after = answer.page.end_cursor
    assert seen == ["unt_north", "unt_area1", "unt_area2", "unt_str_1", "unt_str_2"]
    for who in (OTHER_BRAND, MANAGER_2):
        request = chart_pb2.ListOrgUnitsRequest(org_unit_id="unt_area1")
        assert not (await shop.chart(*who).ListOrgUnits(request)).org_units


async def test_the_first_units_of_several_trees_are_those_of_each_within_scope(shop: House) -> None:
    rpc, asked = "ChartService.BatchListOrgUnits", ["unt_brd_a", "unt_north", "unt_area1", "unt_str_2", "unt_rtl_r", "unt_none"]
    of_north = {"unt_north": 5, "unt_area1": 2, "unt_str_2": 1}
    assert await says_the_same_of_each(shop.chart(), rpc, "org_unit_id", asked) == of_north | {"unt_brd_a": 7, "unt_rtl_r": 2}
    # Of a tree that begins above her scope she sees what lies within it.
    assert await says_the_same_of_each(shop.chart(*SUPERVISOR), rpc, "org_unit_id", asked) == of_north | {"unt_brd_a": 5}
    assert not await says_the_same_of_each(shop.chart(*OTHER_BRAND), rpc, "org_unit_id", asked[:4])
    assert await rows_read(shop.database, "org_units", first_pages(shop.chart(), rpc, "org_unit_id", asked, 2)) == 3 * 2 + 2 + 1 + 2
    with pytest.raises(Denied):
        await first_pages(shop.chart(*GUIDE_1), rpc, "org_unit_id", asked, 5)


# Stores --------------------------------------------------------------------------------------------------------------


async def test_opening_a_store_is_told_with_its_path_and_reaches_its_supervisor_at_once(shop: House) -> None:
    request = chart_pb2.CreateStoreRequest(
        request_id=shop.once(), store_id="str_new", kind=chart_pb2.STORE_KIND_STORE, parent_id="unt_area1", name=NAME, position=SANLITUN,
        opens_minute=600, closes_minute=1320, delivers=True,
    )  # fmt: skip
    store = (await shop.chart(*SUPERVISOR).CreateStore(request)).store
    assert (store.brand_id, store.org_unit_id, store.zone, store.active) == ("brd_a", "unt_str_new", "Asia/Shanghai", True)
    (event,) = [event for event in await shop.told("store_changed") if event.store_id == "str_new"]
    assert list(event.org_unit_ids) == ["unt_brd_a", "unt_north", "unt_area1", "unt_str_new"]
    assert (event.name, event.delivers, event.closes_minute, event.position.longitude) == ("三里屯", True, 1320, SANLITUN.longitude)
    update = chart_pb2.UpdateStoreRequest(request_id=shop.once(), store_id="str_new", closes_minute=1200, active=False, delivers=False)
    changed = (await shop.chart(*SUPERVISOR).UpdateStore(update)).store
    assert (changed.closes_minute, changed.active, changed.delivers, changed.opens_minute) == (1200, False, False, 600)
    events = [event for event in await shop.told("store_changed") if event.store_id == "str_new"]
    assert [event.active for event in events] == [True, False]
    same = chart_pb2.UpdateStoreRequest(request_id=shop.once(), store_id="str_new", closes_minute=1200)
    await shop.chart(*SUPERVISOR).UpdateStore(same)
    assert len([event for event in await shop.told("store_changed") if event.store_id == "str_new"]) == 2


async def test_a_new_name_of_a_store_is_its_units_too(shop: House) -> None:
    name = chart_pb2.Name(zh="新店")
    await shop.chart(*MANAGER_1).UpdateStore(chart_pb2.UpdateStoreRequest(request_id=shop.once(), store_id="str_1", name=name))
    assert (await shop.chart(*MANAGER_1).GetOrgUnit(chart_pb2.GetOrgUnitRequest(id="unt_str_1"))).org_unit.name == name


async def test_a_neighbours_store_is_read_by_anybody_and_changed_by_nobody_else(shop: House) -> None:
    for who in (MANAGER_2, OTHER_BRAND):
        assert (await shop.chart(*who).GetStore(chart_pb2.GetStoreRequest(id="str_1"))).store.id == "str_1"
        with pytest.raises(NotFound):
            await shop.chart(*who).UpdateStore(chart_pb2.UpdateStoreRequest(request_id=shop.once(), store_id="str_1", active=False))
    with pytest.raises(NotFound):
        request = chart_pb2.CreateStoreRequest(
            request_id=shop.once(), kind=chart_pb2.STORE_KIND_STORE, parent_id="unt_north", name=NAME, position=SANLITUN
        )
        await shop.chart(*OTHER_BRAND).CreateStore(request)


async def test_a_warehouse_never_opens(shop: House) -> None:
    request = chart_pb2.CreateStoreRequest(
        request_id=shop.once(), kind=chart_pb2.STORE_KIND_WAREHOUSE, parent_id="unt_north", name=NAME, position=SANLITUN, closes_minute=1
    )
    with pytest.raises(Invalid) as refused:
        await shop.chart().CreateStore(request)
    assert refused.value.reason == "INVALID_HOURS"


async def test_an_import_of_stores_takes_good_rows_and_may_start_again(shop: House) -> None:
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
    answer = await shop.chart(*BRAND).ImportStores(chart_pb2.ImportStoresRequest(request_id=shop.once(), rows=rows))
    assert answer.accepted == 2
    assert {reject.index: reject.reason for reject in answer.rejects} == {
        1: "ORG_UNIT_NOT_FOUND", 2: "INVALID_ZONE", 3: "DUPLICATE_ROW", 4: "INVALID_FIELD", 5: "ORG_UNIT_OF_ANOTHER_BRAND", 7: "ORG_UNIT_NOT_FOUND",
    }  # fmt: skip
    told = len(await shop.told("store_changed"))
    again = await shop.chart(*BRAND).ImportStores(chart_pb2.ImportStoresRequest(request_id=shop.once(), rows=rows))
    assert (again.accepted, len(await shop.told("store_changed"))) == (2, told)
    await paths_hold(shop)
    with pytest.raises(Invalid) as refused:
        await shop.chart().ImportStores(chart_pb2.ImportStoresRequest(request_id=shop.once(), rows=[row("str_10")] * 501))
    assert refused.value.reason == "TOO_MANY_ROWS"


async def test_an_import_of_brands_may_start_again(runtime: House) -> None:
    def rows(zh: str) -> list[chart_pb2.BrandRow]:
        return [
            chart_pb2.BrandRow(
                brand_id=f"brd_{n}", kind=chart_pb2.BRAND_KIND_BRAND, name=chart_pb2.Name(zh=zh), zone="America/New_York", currency="USD"
            )
            for n in range(500)
        ]

    for zh in ("一", "一", "二"):
        answer = await runtime.chart(SERVICE_CALLER).ImportBrands(chart_pb2.ImportBrandsRequest(request_id=runtime.once(), rows=rows(zh)))
        assert answer.accepted == 500
    brands = (await runtime.chart().BatchGetBrands(chart_pb2.BatchGetBrandsRequest(ids=["brd_7", "brd_none"]))).brands
    assert [(brand.name.zh, brand.headquarters_org_unit_id) for brand in brands] == [("二", "unt_brd_7")]
    assert await runtime.database["org_units"].count_documents({}) == 500


# People --------------------------------------------------------------------------------------------------------------


async def test_a_name_is_kept_encrypted_and_shown_to_the_house_only(shop: House) -> None:
    row = await shop.database["staff"].find_one({"_id": "stf_guide1"})
    assert "王芳".encode() not in bytes(row["name"])
    assert "oidc" not in str(row)
    seen = (await shop.chart(*GUIDE_1).BatchGetStaff(chart_pb2.BatchGetStaffRequest(ids=["stf_guide1b", "stf_guide2"]))).staff
    assert [(one.id, one.name) for one in seen] == [("stf_guide1b", "王芳")]
    listed = (await shop.chart(*MANAGER_1).ListStaff(chart_pb2.ListStaffRequest(store_id="str_1"))).staff
    assert [one.id for one in listed] == ["stf_guide1", "stf_guide1b", "stf_manager1"]
    assert not (await shop.chart(*MANAGER_2).ListStaff(chart_pb2.ListStaffRequest(store_id="str_1"))).staff


async def test_the_first_people_of_several_stores_are_those_of_each_within_scope(shop: House) -> None:
    rpc, asked = "ChartService.BatchListStaff", ["str_2", "str_1", "str_r", "str_none"]
    await shop.chart(*BRAND).DismissStaff(chart_pb2.DismissStaffRequest(request_id=shop.once(), staff_id="stf_guide1"))
    for who, stores in ((BRAND, {"str_1": 2, "str_2": 1}), (MANAGER_2, {"str_2": 1}), (OTHER_BRAND, {})):
        assert await says_the_same_of_each(shop.chart(*who), rpc, "store_id", asked) == stores
    assert await rows_read(shop.database, "staff", first_pages(shop.chart(*BRAND), rpc, "store_id", asked, 1)) == 2 + 1
    (guide,), _ = (await first_pages(shop.chart(*MANAGER_2), rpc, "store_id", asked, 1))["str_2"]
    assert (guide.id, guide.name) == ("stf_guide2", "王芳")


async def test_hiring_moving_and_leaving_are_told(shop: House) -> None:
    chart = shop.chart(*BRAND)
    hired = await chart.HireStaff(
        chart_pb2.HireStaffRequest(request_id=shop.once(), staff_id="stf_x", store_id="str_1", name="小林", subject="oidc|x")
    )
    grant = (
        await shop.chart(*MANAGER_1).GrantRole(
            chart_pb2.GrantRoleRequest(
                request_id=shop.once(), staff_id="stf_x", role=access_pb2.ROLE_GUIDE, kind=access_pb2.SCOPE_KIND_STORE, scope_id="str_1"
            )
        )
    ).grant
    assert (hired.staff_id, grant.staff_id, grant.brand_id) == ("stf_x", "stf_x", "brd_a")
    assert await grants_of(shop, "oidc|x") == ("stf_x", {("ROLE_GUIDE", "str_1"), ("ROLE_GUIDE", "stf_x")})
    moved = await chart.MoveStaff(chart_pb2.MoveStaffRequest(request_id=shop.once(), staff_id="stf_x", store_id="str_2"))
    assert list(moved.ended_grant_ids) == [grant.id]
    assert await grants_of(shop, "oidc|x") == ("stf_x", set())
    await chart.DismissStaff(chart_pb2.DismissStaffRequest(request_id=shop.once(), staff_id="stf_x"))
    events = [event for event in await shop.told("staff_changed") if event.staff_id == "stf_x"]
    assert [(event.store_id, event.active) for event in events] == [("str_1", True), ("str_2", True), ("str_2", False)]
    assert await grants_of(shop, "oidc|x") == ("", set())
    # The sign-in is free again.
    await chart.HireStaff(
        chart_pb2.HireStaffRequest(request_id=shop.once(), staff_id="stf_y", store_id="str_1", name="小林", subject="oidc|x")
    )


async def grants_of(runtime: House, subject: str) -> tuple[str, set[tuple[str, str]]]:
    answer = await runtime.chart(SERVICE_CALLER).ResolveGrants(chart_pb2.ResolveGrantsRequest(subject=subject))
    return answer.staff_id, {(access_pb2.Role.Name(grant.role), grant.id) for grant in answer.grants}


async def test_who_signs_in_is_what_they_hold(shop: House) -> None:
    assert await grants_of(shop, "oidc|stf_guide1") == ("stf_guide1", {("ROLE_GUIDE", "str_1"), ("ROLE_GUIDE", "stf_guide1")})
    assert await grants_of(shop, "stf_super") == ("stf_super", {("ROLE_SUPERVISOR", "unt_north"), ("ROLE_SUPERVISOR", "stf_super")})
    assert await grants_of(shop, "operator") == ("stf_operator", {("ROLE_OPERATOR", "")})
    assert await grants_of(shop, "nobody") == ("", set())
    assert await grants_of(shop, "") == ("", set())


HIRE: Callable[..., chart_pb2.HireStaffRequest] = lambda runtime, **fields: chart_pb2.HireStaffRequest(  # noqa: E731
    request_id=runtime.once(), **({"name": "小林"} | fields)
)


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
async def test_hiring_that_cannot_be(shop: House, who: tuple[Grant, ...], fields: dict, reason: str) -> None:
    with pytest.raises(Refusal) as refused:
        await shop.chart(*who).HireStaff(HIRE(shop, **fields))
    assert refused.value.reason == reason


@pytest.mark.parametrize("who", [MANAGER_1, ()])
async def test_who_moves_somebody_says_where_to(shop: House, who: tuple[Grant, ...]) -> None:
    """Also the operator, who may take people on without a place."""
    with pytest.raises(Invalid) as refused:
        await shop.chart(*who).MoveStaff(chart_pb2.MoveStaffRequest(request_id=shop.once(), staff_id="stf_guide1"))
    assert (refused.value.reason, refused.value.metadata["field"]) == ("PLACE_REQUIRED", "store_id")


async def test_nobody_is_granted_what_is_over_already(shop: House) -> None:
    now = datetime.now(UTC)
    past = {"valid_from": now - timedelta(days=9), "valid_until": now - timedelta(days=2)}
    grant = {"staff_id": "stf_guide1", "role": "ROLE_STORE_MANAGER", "kind": "SCOPE_KIND_STORE", "scope_id": "str_1"}
    with pytest.raises(Invalid) as refused:
        await shop.chart(*BRAND).GrantRole(chart_pb2.GrantRoleRequest(request_id=shop.once(), **grant, **past))
    assert (refused.value.reason, refused.value.metadata["field"]) == ("INVALID_PERIOD", "valid_until")


async def test_one_bad_title_rejects_its_row_alone(shop: House) -> None:
    """Also that of somebody who stands already: not the whole import."""
    rows = [
        chart_pb2.StaffRow(staff_id=id, store_id="str_1", name="小林", title=title)
        for id, title in (("stf_guide1", "长" * 41), ("stf_new", "店长"), ("stf_ new", "店长"))
    ]
    answer = await shop.chart(*BRAND).ImportStaff(chart_pb2.ImportStaffRequest(request_id=shop.once(), rows=rows))
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
async def test_nobody_grants_beyond_their_own_reach(
    shop: House, who: tuple[Grant, ...], staff_id: str, role: str, kind: str, scope_id: str, reason: str
) -> None:
    request = chart_pb2.GrantRoleRequest(request_id=shop.once(), staff_id=staff_id, role=role, kind=kind, scope_id=scope_id)
    before = await shop.database["grants"].count_documents({})
    try:
        await shop.chart(*who).GrantRole(request)
        heard = ""
    except Refusal as refusal:
        heard = refusal.reason
    assert heard == reason
    assert await shop.database["grants"].count_documents({}) == before + (not reason)


async def test_the_same_grant_at_once_is_given_once(shop: House) -> None:
    def request(n: int) -> chart_pb2.GrantRoleRequest:
        return chart_pb2.GrantRoleRequest(
            request_id=f"twin{n}", staff_id="stf_guide2", role=access_pb2.ROLE_GUIDE, kind=access_pb2.SCOPE_KIND_STORE, scope_id="str_1"
        )

    outcomes = await asyncio.gather(*(shop.chart(*BRAND).GrantRole(request(n)) for n in range(4)), return_exceptions=True)
    assert sorted(getattr(outcome, "reason", "") for outcome in outcomes) == ["", "GRANT_EXISTS", "GRANT_EXISTS", "GRANT_EXISTS"]


async def test_whoever_may_give_a_grant_may_end_it_and_nobody_else(shop: House) -> None:
    grants = {row["staff_id"]: row["_id"] async for row in shop.database["grants"].find()}

    async def revoke(who: tuple[Grant, ...], grant_id: str) -> chart_pb2.Grant:
        return (await shop.chart(*who).RevokeGrant(chart_pb2.RevokeGrantRequest(request_id=shop.once(), grant_id=grant_id))).grant

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
    assert await grants_of(shop, "stf_guide1") == ("stf_guide1", set())


async def test_a_grant_for_tomorrow_counts_tomorrow(shop: House) -> None:
    from_tomorrow, at = Timestamp(), Timestamp()
    at.GetCurrentTime()
    from_tomorrow.FromSeconds(at.seconds + 86_400)
    request = chart_pb2.GrantRoleRequest(
        request_id=shop.once(), staff_id="stf_guide1", role=access_pb2.ROLE_GUIDE, kind=access_pb2.SCOPE_KIND_STORE, scope_id="str_2",
        valid_from=from_tomorrow,
    )  # fmt: skip
    await shop.chart(*BRAND).GrantRole(request)
    assert ("ROLE_GUIDE", "str_2") not in (await grants_of(shop, "stf_guide1"))[1]
    later = shop.running.channel_as(SERVICE_CALLER, offset=2 * 86_400)
    from quanyu.organization.v1 import chart_pb2_grpc

    answer = await chart_pb2_grpc.ChartServiceStub(later).ResolveGrants(chart_pb2.ResolveGrantsRequest(subject="stf_guide1"))
    assert "str_2" in {grant.id for grant in answer.grants}


async def test_an_import_of_staff_takes_good_rows_and_may_start_again(shop: House) -> None:
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
    answer = await shop.chart(*BRAND).ImportStaff(chart_pb2.ImportStaffRequest(request_id=shop.once(), rows=rows))
    assert {reject.index: reject.reason for reject in answer.rejects} == {
        1: "STORE_NOT_FOUND", 2: "INVALID_FIELD", 3: "SUBJECT_IN_USE", 4: "ROLE_NOT_GRANTABLE", 5: "ROLE_NOT_GRANTABLE",
        7: "PLACE_REQUIRED",
    }  # fmt: skip
    assert answer.accepted == 3
    assert await grants_of(shop, "oidc|20") == ("stf_20", {("ROLE_GUIDE", "str_1"), ("ROLE_GUIDE", "stf_20")})
    # The one who moved holds the role at the new store only.
    assert await grants_of(shop, "oidc|stf_guide2") == ("stf_guide2", {("ROLE_GUIDE", "str_1"), ("ROLE_GUIDE", "stf_guide2")})
    before = [await shop.database[name].find().to_list(None) for name in ("staff", "grants", "deliveries")]
    again = await shop.chart(*BRAND).ImportStaff(chart_pb2.ImportStaffRequest(request_id=shop.once(), rows=rows))
    assert again.accepted == 3
    assert [await shop.database[name].find().to_list(None) for name in ("staff", "grants", "deliveries")] == before


async def test_hot_queries_read_by_an_index(shop: House) -> None:
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
        plan = await shop.plan(collection, query, sort)
        assert "IXSCAN" in plan and "COLLSCAN" not in plan and "'SORT'" not in plan, (collection, plan)


async def test_who_has_no_role_here_is_denied(shop: House) -> None:
    with pytest.raises(Denied):
        await shop.chart(*GUIDE_1).MoveOrgUnit(
            chart_pb2.MoveOrgUnitRequest(request_id=shop.once(), org_unit_id="unt_north", parent_id="unt_south")
        )
