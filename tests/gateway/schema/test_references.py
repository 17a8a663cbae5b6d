"""References: one rpc for a level, each key once in a request, null for a missing object, and failures of single services."""

import asyncio
import json

import pytest

from gateway.auth.sessions import ANONYMOUS
from gateway.execution.context import Context
from gateway.schema.batch_loader import BatchLoader
from quanyu.commerce.v1 import orders_pb2
from quanyu.organization.v1 import chart_pb2
from tests.gateway.conftest import Gateway, Open
from tests.gateway.small_world import NEAR, mutate

BRANDS = ("brd_a", "brd_b")


@pytest.fixture
async def gateway(open_gateway: Open) -> Gateway:
    """The gateway with organization only: two brands, one of which has three stores."""
    gateway = await open_gateway("organization", deadline_seconds=5.0)
    for brand in BRANDS:
        given = {"brandId": brand, "kind": "BRAND", "name": {"en": brand}, "zone": "Asia/Shanghai", "currency": "CNY"}
        await mutate(gateway, "createBrand", given)
    for store in ("str_1", "str_2", "str_3"):
        given = {"storeId": store, "kind": "STORE", "parentId": "unt_brd_a", "name": {"en": store}, "position": NEAR}
        await mutate(gateway, "createStore", given | {"opensMinute": 0, "closesMinute": 1440})
    return gateway


def nodes(*ids: str) -> str:
    return f"nodes(ids: {json.dumps(ids)})"


async def test_level_of_any_length_is_one_call(gateway: Gateway) -> None:
    query = "{ %s { ... on Store { id brand { id } orgUnit { id brand { id } } } } }"
    one = await gateway.data(query % nodes("str_1"), subject="operator")
    calls = sorted(gateway.calls)
    three = await gateway.data(query % nodes("str_1", "str_2", "str_3"), subject="operator")
    assert sorted(gateway.calls) == calls == ["BatchGetBrands", "BatchGetOrgUnits", "BatchGetStores"]
    assert three["nodes"][0] == one["nodes"][0]
    assert [each["orgUnit"]["id"] for each in three["nodes"]] == ["unt_str_1", "unt_str_2", "unt_str_3"]


async def test_key_is_requested_once_across_levels(gateway: Gateway) -> None:
    query = (
        '{ brand(id: "brd_a") { id headquarters { id brand { id headquarters { brand { id } } } } } again: brand(id: "brd_a") { zone } }'
    )
    answer = await gateway.data(query, subject="operator")
    assert answer["brand"]["headquarters"]["brand"]["headquarters"]["brand"]["id"] == "brd_a"
    assert sorted(gateway.calls) == ["BatchGetBrands", "BatchGetOrgUnits"]
    await gateway.data(query, subject="operator")
    assert sorted(gateway.calls) == ["BatchGetBrands", "BatchGetOrgUnits"]


async def test_missing_object_is_null_in_its_place(gateway: Gateway) -> None:
    answer = await gateway.data("{ " + nodes("str_2", "str_none", "str_1") + " { id } }")
    assert answer["nodes"] == [{"id": "str_2"}, None, {"id": "str_1"}]
    assert (await gateway.data('{ orgUnit(id: "unt_brd_a") { id parent { id } path { id } } }', subject="operator"))["orgUnit"] == {
        "id": "unt_brd_a",
        "parent": None,
        "path": [{"id": "unt_brd_a"}],
    }
    assert gateway.calls == ["BatchGetOrgUnits"]


@pytest.mark.parametrize("id", ["", "x", "str_", "STR_1", "xyz_1", "str_1\n", "../str_1", "str_" + "x" * 200])
async def test_invalid_id_is_refused_in_its_place(gateway: Gateway, id: str) -> None:
    answer = await gateway.ask("query ($ids: [ID!]!) { nodes(ids: $ids) { id } }", {"ids": ["str_1", id]})
    assert answer["data"] == {"nodes": [{"id": "str_1"}, None]}
    (error,) = answer["errors"]
    assert (error["path"], error["extensions"]["code"]) == (["nodes", 1], "INVALID_ID")


async def test_unavailable_service_fails_only_its_fields(gateway: Gateway) -> None:
    answer = await gateway.ask('{ brand(id: "brd_a") { id zone offers { nodes { id } } } offers { nodes { id } } }')
    assert answer["data"] == {"brand": {"id": "brd_a", "zone": "Asia/Shanghai", "offers": None}, "offers": None}
    assert sorted(error["path"] for error in answer["errors"]) == [["brand", "offers"], ["offers"]]
    assert all(error["extensions"]["retryable"] for error in answer["errors"])


async def test_object_out_of_scope_is_null(gateway: Gateway) -> None:
    await mutate(gateway, "hireStaff", {"staffId": "stf_b", "orgUnitId": "unt_brd_b", "name": "B"})
    await mutate(gateway, "grantRole", {"staffId": "stf_b", "role": "BRAND_OPERATOR", "kind": "BRAND", "scopeId": "brd_b"})
    own = await gateway.data("{ " + nodes("unt_brd_b", "unt_brd_a") + " { id } viewer { staff { id } } }", subject="stf_b")
    assert own == {"nodes": [{"id": "unt_brd_b"}, None], "viewer": {"staff": {"id": "stf_b"}}}


async def test_batch_is_split_at_keys_max(gateway: Gateway) -> None:
    context = Context(ANONYMOUS, gateway.app.state.clients)
    pairs_loader = BatchLoader(chart_pb2.BatchGetBrandsRequest, keys_max=2)
    loader = context.loader(pairs_loader)
    found = await asyncio.gather(*(loader.load(id) for id in ("brd_a", "brd_x", "brd_b", "brd_y", "brd_a")))
    assert [each.id if each is not None else None for each in found] == ["brd_a", None, "brd_b", None, "brd_a"]
    assert context.calls == 2


async def test_501_keys_are_two_calls(gateway: Gateway) -> None:
    context = Context(ANONYMOUS, gateway.app.state.clients)
    loader = context.loader(BatchLoader(chart_pb2.BatchGetBrandsRequest))
    found = await loader.load_many([f"brd_{number}" for number in range(500)] + ["brd_a"])
    assert (context.calls, found[-1].id) == (2, "brd_a")


async def test_connection_pages_by_cursor(gateway: Gateway) -> None:
    query = """query ($first: Int, $after: String) { orgUnit(id: "unt_brd_a") {
        orgUnits(first: $first, after: $after) { edges { cursor node { id } } pageInfo { endCursor hasNextPage } } } }"""
    ids, after = [], None
    while True:
        page = (await gateway.data(query, {"first": 3, "after": after}, subject="operator"))["orgUnit"]["orgUnits"]
        ids += [edge["node"]["id"] for edge in page["edges"]]
        assert page["edges"][-1]["cursor"] == page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
        after = page["pageInfo"]["endCursor"]
    assert ids == ["unt_brd_a", "unt_str_1", "unt_str_2", "unt_str_3"]


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({"first": 0}, "INVALID_PAGE_SIZE"),
        ({"first": 101}, "INVALID_PAGE_SIZE"),
        ({"first": -1}, "INVALID_PAGE_SIZE"),
        ({"after": "x"}, "INVALID_CURSOR"),
    ],
)
async def test_invalid_page_is_refused(gateway: Gateway, variables: dict[str, object], code: str) -> None:
    query = (
        'query ($first: Int, $after: String) { orgUnit(id: "unt_brd_a") { id orgUnits(first: $first, after: $after) { nodes { id } } } }'
    )
    answer = await gateway.ask(query, variables, subject="operator")
    assert answer["data"] == {"orgUnit": {"id": "unt_brd_a", "orgUnits": None}}
    assert answer["errors"][0]["extensions"]["code"] == code


async def test_mutation_refusal_has_type_of_family(gateway: Gateway) -> None:
    query = """mutation ($input: CreateBrandInput!) { createBrand(input: $input) { __typename
        ... on CreateBrandPayload { brand { id } } ... on Refusal { code retryable } ... on InvalidInput { field } } }"""
    given = {"brandId": "brd_a", "kind": "BRAND", "name": {"en": "A"}, "zone": "Asia/Shanghai", "currency": "CNY"}
    taken = (await gateway.data(query, {"input": given}, subject="operator"))["createBrand"]
    assert taken == {"__typename": "Conflict", "code": "BRAND_EXISTS", "retryable": False}
    wrong = (await gateway.data(query, {"input": given | {"brandId": "brd_c", "zone": "Nowhere"}}, subject="operator"))["createBrand"]
    assert (wrong["__typename"], wrong["field"]) == ("InvalidInput", "zone")
    unfit = (await gateway.data(query, {"input": given | {"brandId": "unt_c"}}, subject="operator"))["createBrand"]
    assert unfit["__typename"] == "InvalidInput"


async def test_mutation_with_repeated_key_runs_once(gateway: Gateway) -> None:
    query = """mutation ($input: CreateOrgUnitInput!) { createOrgUnit(input: $input) {
        ... on CreateOrgUnitPayload { orgUnit { id } } ... on Refusal { code } } }"""
    given = {"idempotencyKey": "k1", "kind": "REGION", "parentId": "unt_brd_a", "name": {"zh": "区"}}
    answers = [await gateway.data(query, {"input": given}, subject="operator") for _ in range(3)]
    assert answers[0]["createOrgUnit"]["orgUnit"]["id"]
    assert answers[1:] == answers[:2]
    other = await gateway.data(query, {"input": given | {"name": {"zh": "另"}}}, subject="operator")
    assert other["createOrgUnit"]["code"] == "REQUEST_ID_REUSED"


async def test_refusal_uses_the_names_of_the_input(gateway: Gateway) -> None:
    """The names of the request message are unknown to clients."""
    create = """mutation ($input: CreateOrgUnitInput!) { createOrgUnit(input: $input) { ... on InvalidInput { message code field } } }"""
    unit = {"kind": "REGION", "parentId": "unt_brd_a", "name": {"zh": "区"}}
    keyless = (await gateway.data(create, {"input": unit | {"idempotencyKey": ""}}, subject="operator"))["createOrgUnit"]
    assert keyless == {
        "message": "`idempotencyKey` must have 1 to 128 characters.",
        "code": "REQUEST_ID_REQUIRED",
        "field": "idempotencyKey",
    }
    enter = """mutation ($input: EnterDistrictInput!) { enterDistrict(input: $input) { ... on InvalidInput { message field } } }"""
    visit = {"districtId": "dst_d", "touchpoint": "APP"}
    not_consumer = (await gateway.data(enter, {"input": visit}, subject="operator"))["enterDistrict"]
    assert not_consumer == {"message": "`consumerId` is required, because you are not signed in as a consumer.", "field": "consumerId"}
    anonymous = await gateway.ask(enter, {"input": visit})
    assert anonymous["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    register = """mutation ($input: RegisterConsumerInput!) { registerConsumer(input: $input) { ... on InvalidInput { message field } } }"""
    twice = {"brandId": "brd_a", "identities": [], "sizes": [{"name": "shirt", "value": "40"}, {"name": "shirt", "value": "41"}]}
    doubled = (await gateway.data(register, {"input": twice}, subject="operator"))["registerConsumer"]
    assert doubled == {"message": "A name is given twice. Give each name once.", "field": "sizes"}


async def test_exclusive_arguments_given_together_are_refused(gateway: Gateway) -> None:
    answer = await gateway.ask(
        '{ scorecard(orgUnitId: "unt_brd_a", brandId: "brd_a", fromDay: "2026-01-01", untilDay: "2026-01-02") { fromDay } }',
        subject="operator",
    )
    assert answer["errors"][0]["extensions"]["code"] == "INVALID_FIELD"
    assert (
        await gateway.data(
            '{ scorecard(orgUnitId: "unt_none", fromDay: "2026-01-01", untilDay: "2026-01-02") { fromDay } }', subject="operator"
        )
    ) == {"scorecard": None}


def test_batch_loader_not_fitting_its_rpc_is_refused() -> None:
    with pytest.raises(TypeError, match="must be the request of exactly one rpc"):
        BatchLoader(chart_pb2.Brand)
    with pytest.raises(TypeError, match="has no field"):
        BatchLoader(chart_pb2.BatchGetBrandsRequest, key="brand_id")
    with pytest.raises(TypeError, match="repeated fields"):
        BatchLoader(orders_pb2.PlaceOrderRequest)
