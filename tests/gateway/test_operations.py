"""The front ends' operations in one story, and the rpcs that each of them calls."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from services.local.token import clock_offset
from tests.gateway import small_world
from tests.gateway.conftest import OPERATIONS, Gateway, Open
from tests.gateway.small_world import NEAR, new_key

OPERATION_RPCS = {
    "acknowledge_task": "AcknowledgeTask",
    "bind_consumer": "BatchGetStaff BatchGetStores BindConsumer",
    "brand_budgets": "BatchGetBrands BatchGetCampaigns BatchGetDistricts BatchListBudgets",
    "claim_pack": "BatchGetBrands ClaimPack",
    "consumer_asset": "BatchGetBindings BatchGetBrands BatchGetConsumers BatchGetStaff BatchListInteractions BatchListTransitions "
    "GetRelation",
    "district": "BatchGetBrands BatchGetDistricts BatchGetStores BatchListCampaigns BatchListParticipants BatchListVenues",
    "enter_district": "BatchGetDistricts BatchListCampaigns EnterDistrict",
    "guide_clients": "BatchGetBrands BatchGetConsumers BatchGetRelations BatchGetStaff BatchListClients",
    "guide_results": "BatchGetConsumers BatchGetOrders BatchGetStaff BatchListCredits BatchListOutreaches",
    "guide_tasks": "BatchGetBrands BatchGetConsumers BatchGetDistricts BatchGetRelations BatchGetStaff BatchGetStores BatchListTasks",
    "hold_promise": "HoldPromise",
    "leave_district": "LeaveDistrict",
    "link_consumers": "BatchGetConsumers LinkConsumers",
    "mark_read": "MarkRead",
    "my_consents": "BatchGetBrands BatchGetConsumers BatchListConsents",
    "my_inbox": "BatchGetBrands BatchGetConsumers BatchGetStaff BatchGetStores BatchListInbox",
    "my_orders": "BatchGetConsumers BatchGetStores BatchGetVariants BatchListOrders",
    "my_wallet": "BatchGetBrands BatchGetConsumers BatchGetDistricts BatchListCoupons",
    "offer": "BatchGetBrands BatchGetOffers BatchGetProducts BatchGetVariants BatchListVariants",
    "offers": "BatchGetBrands SearchOffers",
    "order": "BatchGetBrands BatchGetCampaigns BatchGetCoupons BatchGetOrders BatchGetStores BatchGetVariants",
    "order_credit": "BatchGetCredits BatchGetOrders BatchGetOutreaches BatchGetStaff BatchGetStores",
    "organisation": "BatchGetBrands BatchGetOrgUnits BatchGetOrgUnits BatchGetStores BatchListOrgUnits",
    "pay_order": "PayOrder",
    "place_order": "BatchGetBrands BatchGetCoupons BatchGetVariants PlaceOrder",
    "promises": "BatchGetBrands SearchPromises",
    "register_consumer": "BatchGetConsumers RegisterConsumer",
    "scorecard": "BatchGetOrgUnits BatchGetStores GetScorecard",
    "send_outreach": "BatchGetOutreaches SendOutreach",
    "set_consent": "SetConsent",
    "set_stock": "SetStock",
    "store_counter": "BatchGetConsumers BatchGetOrders BatchGetStores BatchGetVariants BatchListHolds BatchListOrders BatchListStocks",
    "unlink_consumers": "BatchGetConsumers UnlinkConsumers",
}
"""The rpcs of each operation, for lists of any length."""
EVENT_RPCS = {
    "follow_inbox": "BatchGetBrands BatchGetStaff",
    "follow_order": "BatchGetStores",
    "follow_tasks": "BatchGetBrands BatchGetConsumers",
}
"""The rpcs of each event of a subscription. `test_subscriptions.py` runs them, `engine/test_operations.py` checks the rpcs."""


class Story:
    """Runs operations at one evening of the small world, and records their rpcs."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway, self.rpcs = gateway, dict[str, str]()
        self.offset = clock_offset(21 * 60 + 40, ZoneInfo("Asia/Shanghai"), datetime.now(UTC))

    async def run(self, name: str, variables: dict[str, Any] | None = None, *, subject: str = "") -> Any:
        """Runs one operation; returns the value of its only field."""
        data = await self.gateway.data(name, variables, subject=subject, offset=self.offset if subject else 0.0)
        self.rpcs[name] = max(self.rpcs.get(name, ""), " ".join(sorted(self.gateway.calls)), key=len)
        (answer,) = data.values()
        return answer

    async def run_until(
        self, condition: Callable[[Any], bool], name: str, variables: dict[str, Any] | None = None, *, subject: str = ""
    ) -> Any:
        """Runs one operation until its value fulfils the condition, because events arrive later."""
        async with asyncio.timeout(small_world.SECONDS_MAX):
            while True:
                answer = await self.run(name, variables, subject=subject)
                if condition(answer):
                    return answer
                await asyncio.sleep(0.02)


async def test_operations_call_expected_rpcs(open_gateway: Open) -> None:
    gateway = await open_gateway("member", "commerce", "district", "organization")
    await small_world.build(gateway)
    story = await run_story(gateway)
    assert set(OPERATION_RPCS) | set(EVENT_RPCS) == {path.stem for path in OPERATIONS.glob("*.graphql")}
    assert story.rpcs == OPERATION_RPCS


async def run_story(gateway: Gateway) -> Story:
    """Runs all operations, from a visit and a coupon pack to a paid and credited order."""
    story = Story(gateway)
    anna, bea, guide, operator = "con_anna", "con_bea", "stf_guide", "operator"

    entered = await story.run(
        "enter_district", {"input": {"districtId": "dst_d", "touchpoint": "MINI_PROGRAM", "position": NEAR}}, subject=anna
    )
    visit = entered["visit"]["id"]
    claim = {"input": {"idempotencyKey": new_key(), "visitId": visit}}
    pack = (await story.run("claim_pack", claim, subject=anna))["pack"]
    assert (await story.run("claim_pack", {"input": {"idempotencyKey": new_key(), "visitId": visit}}, subject=anna))["pack"] == pack
    (entry,) = pack["entries"]
    wallet = await story.run("my_wallet", subject=anna)
    assert [each["state"] for each in wallet["consumer"]["coupons"]["nodes"]] == ["ISSUED"]
    assert (await story.run("leave_district", {"input": {"visitId": visit}}, subject=anna))["visit"]["state"] == "LEFT"

    tasks = await story.run_until(lambda answer: bool(answer["staff"]["tasks"]["nodes"]), "guide_tasks", {"state": "OPEN"}, subject=guide)
    (task,) = tasks["staff"]["tasks"]["nodes"]
    assert task["consumer"]["sizes"] == [{"name": "shirt", "value": "40"}]
    (task_coupon,), (coupon,) = task["coupons"], wallet["consumer"]["coupons"]["nodes"]
    assert task_coupon == {"couponId": coupon["id"]} | {name: coupon[name] for name in ("name", "value", "minimumSpend", "expiresAt")}
    assert task_coupon["minimumSpend"] == {"amount": "100.00", "currency": "CNY"}
    acknowledged = await story.run("acknowledge_task", {"input": {"taskId": task["id"]}}, subject=guide)
    assert acknowledged["task"]["state"] == "ACKNOWLEDGED"
    writing = {"consumerId": anna, "brandId": "brd_a", "taskId": task["id"], "text": "白衬衫到了"}
    sent = await story.run("send_outreach", {"input": writing | {"idempotencyKey": new_key()}}, subject=guide)
    assert sent["remaining"] == 2
    inbox = (await story.run("my_inbox", subject=anna))["consumer"]["inbox"]
    assert (inbox["unread"], inbox["nodes"][0]["text"]) == (1, "白衬衫到了")
    assert inbox["nodes"][0]["staff"]["name"], "the consumer sees the name of the guide"
    assert (await story.run("mark_read", {"input": {"outreachIds": [inbox["nodes"][0]["id"]]}}, subject=anna))["marked"] == 1
    refused = await story.run("send_outreach", {"input": writing | {"consumerId": bea, "idempotencyKey": new_key()}}, subject=guide)
    assert refused["__typename"] == "NotBoundToYou"

    search = {"near": NEAR, "text": "白衬衫", "attributes": [{"name": "size", "value": "40"}]}
    found = (await story.run("promises", search, subject=anna))["promises"]
    assert {each["availability"] for each in found} == {"LAST_ONE"}
    holding = {"variantId": "var_40", "storeId": "str_a1", "method": "INSTANT_DELIVERY", "destination": NEAR}
    hold = (await story.run("hold_promise", {"input": holding | {"idempotencyKey": new_key()}}, subject=anna))["hold"]
    too_late = await story.run("hold_promise", {"input": holding | {"idempotencyKey": new_key()}}, subject=bea)
    assert (too_late["__typename"], too_late["fewer"], too_late["heldUntil"]) == ("OutOfStock", False, hold["expiresAt"])

    placing = {"holdIds": [hold["id"]], "couponIds": [entry["couponId"]], "touchpoint": "MINI_PROGRAM", "destination": {"address": "酒店"}}
    place = {"input": placing | {"idempotencyKey": new_key()}}
    order = (await story.run("place_order", place, subject=anna))["order"]
    assert order["total"] == {"amount": "379.00", "currency": "CNY"}
    pay = {"input": {"idempotencyKey": new_key(), "orderId": order["id"], "method": "SANDBOX", "sandboxToken": "approve"}}
    paid = [await story.run("pay_order", pay, subject=anna) for _ in range(3)]
    assert paid[0]["order"]["state"] == "PAID"
    assert paid[1:] == paid[:2]

    whole = await story.run("order", {"id": order["id"]}, subject=anna)
    assert whole["coupons"][0]["coupon"]["state"] == "REDEEMED"
    assert await story.run("order", {"id": order["id"]}, subject=bea) is None
    assert len((await story.run("my_orders", {"first": 5}, subject=anna))["consumer"]["orders"]["nodes"]) == 1
    credited = await story.run_until(lambda answer: answer["credit"] is not None, "order_credit", {"id": order["id"]}, subject=operator)
    assert credited["credit"]["staff"]["id"] == guide
    asset = {"consumerId": anna, "brandId": "brd_a", "first": 10}
    relation = await story.run_until(
        lambda answer: bool(answer) and answer["stage"] == "PURCHASE", "consumer_asset", asset, subject=operator
    )
    assert relation["transitions"]["nodes"][0]["cause"]["ref"] == order["id"]
    day = datetime.fromtimestamp(datetime.now(UTC).timestamp() + story.offset, ZoneInfo("Asia/Shanghai")).date().isoformat()
    for subject in ({"storeId": "str_a1"}, {"orgUnitId": "unt_a"}, {"brandId": "brd_a"}):
        card = await story.run("scorecard", subject | {"fromDay": day, "untilDay": day}, subject=operator)
        assert (card["total"]["orders"], card["online"]["orders"]) == (1, 1)
        assert [each["scenario"] for each in card["byScenario"]] == [whole["scenario"]]
        assert [each["store"]["id"] for each in card["byStore"]] == ["str_a1"]
    results = await story.run_until(
        lambda answer: bool(answer["staff"]["credits"]["nodes"]) and answer["staff"]["outreaches"]["nodes"][0]["outcome"] == "ORDERED",
        "guide_results",
        {"first": 5},
        subject=guide,
    )
    assert results["staff"]["credits"]["nodes"][0]["id"] == order["id"]

    clients = await story.run("guide_clients", subject=guide)
    assert clients["staff"]["clients"]["nodes"][0]["relation"]["orderCount"] == 1
    assert len((await story.run("my_consents", subject=anna))["consumer"]["consents"]["nodes"]) == 2
    withdrawn = {"brandId": "brd_a", "purpose": "OUTREACH", "granted": False, "touchpoint": "MINI_PROGRAM"}
    assert not (await story.run("set_consent", {"input": withdrawn}, subject=anna))["consent"]["granted"]
    assert (await story.run("send_outreach", {"input": writing | {"idempotencyKey": new_key()}}, subject=guide))[
        "__typename"
    ] == "ConsentMissing"
    assert len((await story.run("offers", {"text": "shirt"}))["edges"]) == 1
    assert len((await story.run("offer", {"id": "ofr_shirt"}))["product"]["variants"]) == 3
    assert (await story.run("district", {"id": "dst_d"}))["campaigns"]["nodes"][0]["participants"]["nodes"][0]["brand"]["id"] == "brd_a"
    assert (await story.run("store_counter", {"id": "str_a1", "first": 5}, subject=operator))["stocks"]["nodes"][0]["available"] == 0
    counted = {"idempotencyKey": new_key(), "storeId": "str_a2", "variantId": "var_40", "onHand": 7, "safety": 1}
    assert (await story.run("set_stock", {"input": counted}, subject=operator))["stock"]["available"] == 6
    assert len((await story.run("organisation", {"brandId": "brd_a"}, subject=operator))["headquarters"]["orgUnits"]["nodes"]) == 4
    assert (await story.run("brand_budgets", {"brandId": "brd_a"}, subject=operator))["budgets"]["nodes"][0]["issued"] == 1

    new = {"brandId": "brd_a", "identities": [{"kind": "CARD", "namespace": "brd_a", "value": "C-1", "verified": True}]}
    cleo = (await story.run("register_consumer", {"input": new}, subject=operator))["consumer"]["id"]
    walked_in = {"brandId": "brd_a", "storeId": "str_a1", "identities": [{"kind": "PHONE", "value": "13912345678"}], "displayName": "Dan"}
    dan = await story.run("register_consumer", {"input": walked_in}, subject=guide)
    assert (dan["created"], dan["consumer"]) == (True, None)
    await story.run("bind_consumer", {"input": {"consumerId": dan["consumerId"], "brandId": "brd_a", "staffId": guide}}, subject=guide)
    assert "Dan" in [
        each["consumer"]["displayName"] for each in (await story.run("guide_clients", subject=guide))["staff"]["clients"]["nodes"]
    ]
    bound = await story.run("bind_consumer", {"input": {"consumerId": cleo, "brandId": "brd_a", "staffId": guide}}, subject=operator)
    assert bound["binding"]["staff"]["id"] == guide
    two = {"consumerId": bea, "linkedConsumerId": cleo}
    linked = await story.run("link_consumers", {"input": two | {"evidence": ["PHONE"]}}, subject=operator)
    assert set(linked["consumer"]["consumerIds"]) == {bea, cleo}
    unlinked = await story.run("unlink_consumers", {"input": two}, subject=operator)
    assert unlinked["linkedConsumer"]["consumerIds"] == [cleo]
    return story
