"""Small world: a brand with two stores, its people, goods, a district and a campaign, created by mutations of the graph."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.gateway.conftest import Gateway

NEAR = {"longitude": 116.4551, "latitude": 39.9365}
SECONDS_MAX = 20.0


def new_key() -> str:
    return uuid.uuid4().hex


async def mutate(
    gateway: Gateway, mutation: str, input: dict[str, Any], *, subject: str = "operator", offset: float = 0.0, fields: str = ""
) -> Any:
    """Executes a mutation and returns its payload. Raises AssertionError with the refusal."""
    noun = mutation[0].upper() + mutation[1:]
    selection = f"... on {noun}Payload {{ {fields} }}" if fields else ""
    query = (
        f"mutation ($input: {noun}Input!) {{ {mutation}(input: $input) {{ __typename {selection} ... on Refusal {{ code message }} "
        "... on InvalidInput { field } } }"
    )
    payload = (await gateway.data(query, {"input": input}, subject=subject, offset=offset))[mutation]
    assert payload["__typename"] == f"{noun}Payload", payload
    return payload


async def mutate_eventually(gateway: Gateway, mutation: str, input: dict[str, Any], *, keyed: bool = False, **options: Any) -> Any:
    """Executes a mutation until the events of other services that it needs have arrived; `keyed`: with a new key each time."""
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            try:
                return await mutate(gateway, mutation, input | ({"idempotencyKey": new_key()} if keyed else {}), **options)
            except AssertionError as refused:
                if "NOT_FOUND" not in str(refused) and "UNKNOWN" not in str(refused):
                    raise
            await asyncio.sleep(0.02)


async def build(gateway: Gateway) -> None:
    """`brd_a` with `unt_a`, `str_a1` and `str_a2`, `stf_guide`, `ofr_shirt`; both in `dst_d` with `cmp_c`; `con_anna`, `con_bea`."""
    name = {"zh": "甲", "en": "A"}
    await mutate(
        gateway,
        "createBrand",
        {"brandId": "brd_a", "kind": "BRAND", "name": name, "zone": "Asia/Shanghai", "currency": "CNY"},
    )
    await mutate(gateway, "createOrgUnit", {"orgUnitId": "unt_a", "kind": "REGION", "parentId": "unt_brd_a", "name": name})
    for store in ("str_a1", "str_a2"):
        input: dict[str, Any] = {"storeId": store, "kind": "STORE", "parentId": "unt_a", "name": name, "position": NEAR}
        await mutate(gateway, "createStore", input | {"opensMinute": 0, "closesMinute": 1440, "delivers": True})
    await mutate(gateway, "hireStaff", {"staffId": "stf_guide", "storeId": "str_a1", "name": "Gu"})
    await mutate(gateway, "grantRole", {"staffId": "stf_guide", "role": "GUIDE", "kind": "STORE", "scopeId": "str_a1"})
    price = {"amount": "399.00", "currency": "CNY"}
    variants = [
        {"variantId": f"var_{size}", "attributes": [{"name": "size", "value": size}], "price": price} for size in ("39", "40", "41")
    ]
    product = {"productId": "prd_shirt", "name": {"zh": "白衬衫", "en": "White shirt"}, "category": "shirt", "variants": variants}
    await mutate(gateway, "createProduct", {"brandId": "brd_a", "product": product})
    await mutate(
        gateway,
        "createDistrict",
        {"id": "dst_d", "name": "区", "position": NEAR, "zone": "Asia/Shanghai", "geofence": {"radiusMetres": 900}},
    )
    for store in ("str_a1", "str_a2"):
        venue = {"kind": "STORE", "name": "店", "position": NEAR, "brandId": "brd_a", "storeId": store}
        await mutate(gateway, "createVenue", {"districtId": "dst_d", "venue": venue})
    now = datetime.now(UTC)
    runs = {"startsAt": (now - timedelta(days=1)).isoformat(), "endsAt": (now + timedelta(days=30)).isoformat()}
    await mutate(gateway, "createCampaign", {"id": "cmp_c", "districtId": "dst_d", "name": "券"} | runs)
    terms = {"name": "满100减20", "value": {"amount": "20", "currency": "CNY"}, "minimumSpend": {"amount": "100.00", "currency": "CNY"}}
    joining = {"idempotencyKey": new_key(), "campaignId": "cmp_c", "brandId": "brd_a", "terms": terms | {"validityDays": 14}, "total": 100}
    await mutate(gateway, "joinCampaign", joining)
    for store in ("str_a1", "str_a2"):
        input = {"storeId": store, "variantId": "var_40", "onHand": 1}
        await mutate_eventually(gateway, "setStock", input, keyed=True)
    for consumer, phone in (("con_anna", "19900000001"), ("con_bea", "19900000002")):
        identity = {"kind": "PHONE", "value": phone, "verified": True}
        input = {"consumerId": consumer, "brandId": "brd_a", "identities": [identity], "displayName": consumer}
        await mutate(gateway, "registerConsumer", input | {"sizes": [{"name": "shirt", "value": "40"}]})
        for purpose in ("OUTREACH", "DISTRICT_COUPONS"):
            consent = {"brandId": "brd_a", "purpose": purpose, "granted": True, "touchpoint": "MINI_PROGRAM"}
            await mutate(gateway, "setConsent", consent, subject=consumer)
    await mutate_eventually(gateway, "bindConsumer", {"consumerId": "con_anna", "brandId": "brd_a", "staffId": "stf_guide"})
