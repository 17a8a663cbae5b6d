"""CampaignService: campaigns, participants and budgets."""

import asyncio
from datetime import timedelta

import pytest

from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.district.v1 import campaigns_pb2
from services.district.campaigns import rules
from services.kit import clock
from services.kit.errors import Conflict, Denied, Exhausted, Invalid, NotFound
from tests.services.conftest import ServiceHarness
from tests.services.district.world import World, brand_operator, district_operator, fen, list_plan_stages, new_id
from tests.services.lists import assert_batch_equals_lists, count_documents_read, fetch_first_pages


async def test_campaign_is_created_by_district_and_public(world: World, district: ServiceHarness) -> None:
    campaign = await world.create_campaign()
    await world.join_campaign("brd_a")
    stub = type(world.campaigns())(district.anonymous())
    found = (await stub.GetCampaign(campaigns_pb2.GetCampaignRequest(id=campaign.id))).campaign
    assert (found.name, found.brand_count) == ("十一月", 1)
    listed = await stub.ListCampaigns(campaigns_pb2.ListCampaignsRequest(district_id="dst_sanlitun", running_only=True))
    assert list(listed.campaigns) == [found]
    batch = await stub.BatchGetCampaigns(campaigns_pb2.BatchGetCampaignsRequest(ids=[campaign.id, "cmp_none"]))
    assert list(batch.campaigns) == [found]
    with pytest.raises(Denied):
        await world.campaigns(district_operator("dst_other")).CreateCampaign(
            campaigns_pb2.CreateCampaignRequest(request_id=new_id(), district_id="dst_sanlitun", name="x")
        )


async def test_campaign_needs_district_and_valid_dates(world: World) -> None:
    at = clock.now()
    for district_id, duration, kind, reason in (
        ("dst_none", timedelta(days=1), NotFound, "DISTRICT_NOT_FOUND"),
        ("dst_sanlitun", timedelta(days=-1), Invalid, "DATES_INVALID"),
    ):
        request = campaigns_pb2.CreateCampaignRequest(
            request_id=new_id(), district_id=district_id, name="x", starts_at=at, ends_at=at + duration
        )
        with pytest.raises(kind) as refused:
            await world.campaigns().CreateCampaign(request)
        assert refused.value.reason == reason
    await world.create_campaign()
    with pytest.raises(Conflict) as taken:
        await world.create_campaign()
    assert taken.value.reason == "CAMPAIGN_EXISTS"


async def test_running_only_lists_running_campaigns(world: World) -> None:
    await world.create_campaign()
    at = clock.now()
    ended = campaigns_pb2.CreateCampaignRequest(
        request_id=new_id(), district_id="dst_sanlitun", name="x", starts_at=at - timedelta(days=9), ends_at=at - timedelta(days=8)
    )
    past = (await world.campaigns().CreateCampaign(ended)).campaign
    listed = await world.campaigns().ListCampaigns(campaigns_pb2.ListCampaignsRequest(district_id="dst_sanlitun"))
    assert [campaign.id for campaign in listed.campaigns] == ["cmp_november", past.id]
    running = await world.campaigns().ListCampaigns(campaigns_pb2.ListCampaignsRequest(district_id="dst_sanlitun", running_only=True))
    assert [campaign.id for campaign in running.campaigns] == ["cmp_november"]
    with pytest.raises(Conflict) as refused:
        await world.join_campaign("brd_a", campaign_id=past.id)
    assert refused.value.reason == "CAMPAIGN_OVER"


async def test_brand_joins_only_for_itself_and_once(world: World) -> None:
    await world.create_campaign()
    budget = await world.join_campaign("brd_a", 50)
    assert (budget.brand_id, budget.total, budget.issued, budget.district_id) == ("brd_a", 50, 0, "dst_sanlitun")
    assert budget.terms.minimum_spend == fen(10_000)
    with pytest.raises(Conflict) as refused:
        await world.join_campaign("brd_a")
    assert refused.value.reason == "JOINED_ALREADY"
    request = campaigns_pb2.JoinCampaignRequest(
        request_id=new_id(), campaign_id="cmp_november", brand_id="brd_b", terms=budget.terms, total=1
    )
    with pytest.raises(Denied):
        await world.campaigns(brand_operator("brd_a")).JoinCampaign(request)
    with pytest.raises(NotFound) as missing:
        await world.join_campaign("brd_b", campaign_id="cmp_none")
    assert missing.value.reason == "CAMPAIGN_NOT_FOUND"
    for wrong in ({"total": 0}, {"value": 0}):
        with pytest.raises(Invalid):
            await world.join_campaign("brd_b", **wrong)
    assert (await world.join_campaign("brd_b", minimum=0)).terms.minimum_spend == fen(0)


async def test_limit_of_running_budgets_is_exact_under_concurrency(world: World, district: ServiceHarness) -> None:
    """Packs choose from all running budgets, so that a district has a limited number of them."""
    campaigns = district.database["campaigns"]
    for id, brands in (("cmp_a", 400), ("cmp_b", 300), ("cmp_c", rules.RUNNING_BUDGETS_MAX - 701)):
        await world.create_campaign(id)
        await campaigns.update_one({"_id": id}, {"$set": {"brand_count": brands}})
    joins = [world.join_campaign(f"brd_{n}", campaign_id=id) for n, id in enumerate(("cmp_a", "cmp_b", "cmp_c"))]
    answers = await asyncio.gather(*joins, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Exhausted)]
    assert [one.reason for one in refused] == ["DISTRICT_FULL"] * 2
    assert await district.database["budgets"].count_documents({}) == 1
    await world.create_district("dst_other")
    await world.create_campaign("cmp_other", "dst_other")
    await world.join_campaign("brd_0", campaign_id="cmp_other")


async def test_budgets_are_private_and_participants_public(world: World, district: ServiceHarness) -> None:
    await world.create_campaign()
    own, other = await world.join_campaign("brd_a"), await world.join_campaign("brd_b")
    stub = world.campaigns(brand_operator("brd_a"))
    assert (await stub.GetBudget(campaigns_pb2.GetBudgetRequest(id=own.id))).budget == own
    with pytest.raises(NotFound) as refused:
        await stub.GetBudget(campaigns_pb2.GetBudgetRequest(id=other.id))
    assert refused.value.reason == "BUDGET_NOT_FOUND"
    assert list((await stub.BatchGetBudgets(campaigns_pb2.BatchGetBudgetsRequest(ids=[own.id, other.id]))).budgets) == [own]
    assert list((await stub.ListBudgets(campaigns_pb2.ListBudgetsRequest(brand_id="brd_a"))).budgets) == [own]
    with pytest.raises(Denied):
        await stub.ListBudgets(campaigns_pb2.ListBudgetsRequest(brand_id="brd_b"))
    anonymous = type(stub)(district.anonymous())
    page = PageRequest(first=1)
    first = await anonymous.ListParticipants(campaigns_pb2.ListParticipantsRequest(campaign_id="cmp_november", page=page))
    page = PageRequest(first=1, after=first.page.end_cursor)
    second = await anonymous.ListParticipants(campaigns_pb2.ListParticipantsRequest(campaign_id="cmp_november", page=page))
    assert [item.brand_id for item in (*first.participants, *second.participants)] == ["brd_a", "brd_b"]
    assert first.participants[0].terms == own.terms
    assert not second.page.has_next_page


async def test_batch_lists_of_participants_equal_single_lists(world: World, district: ServiceHarness) -> None:
    await world.create_campaign()
    for brand in ("brd_a", "brd_b"):
        await world.join_campaign(brand)
    anonymous = type(world.campaigns(brand_operator("brd_a")))(district.anonymous())
    for first in (1, 2, 3):
        request = campaigns_pb2.BatchListParticipantsRequest(campaign_ids=["cmp_november", "cmp_unknown", "cmp_november"], first=first)
        (found,) = (await anonymous.BatchListParticipants(request)).campaigns
        one = await anonymous.ListParticipants(
            campaigns_pb2.ListParticipantsRequest(campaign_id="cmp_november", page=PageRequest(first=first))
        )
        assert (found.campaign_id, list(found.participants), found.page) == ("cmp_november", list(one.participants), one.page)
    with pytest.raises(Invalid, match="BATCH_TOO_LARGE"):
        many = campaigns_pb2.BatchListParticipantsRequest(campaign_ids=[f"cmp_{number}" for number in range(101)])
        await world.campaigns(brand_operator("brd_a")).BatchListParticipants(many)


async def test_batch_lists_of_campaigns_equal_single_lists(world: World, district: ServiceHarness) -> None:
    await world.create_district("dst_other")
    for number in range(3):
        await world.create_campaign(f"cmp_{number}")
    await world.create_campaign("cmp_other", "dst_other")
    await district.database["campaigns"].update_one({"_id": "cmp_1"}, {"$set": {"ends_at": clock.now() - timedelta(hours=1)}})
    rpc, keys = "CampaignService.BatchListCampaigns", ["dst_sanlitun", "dst_other", "dst_none"]
    for running, count in ((False, 3), (True, 2)):
        found = await assert_batch_equals_lists(world.campaigns(brand_operator("brd_a")), rpc, "district_id", keys, running_only=running)
        assert found == {"dst_sanlitun": count, "dst_other": 1}
    assert (
        await count_documents_read(district.database, "campaigns", fetch_first_pages(world.campaigns(), rpc, "district_id", keys, 1))
        == 2 + 1
    )


async def test_batch_lists_of_budgets_equal_single_lists(world: World, district: ServiceHarness) -> None:
    for number in range(3):
        await world.create_campaign(f"cmp_{number}")
        await world.join_campaign("brd_a", campaign_id=f"cmp_{number}")
    await world.join_campaign("brd_b", campaign_id="cmp_0")
    rpc, keys = "CampaignService.BatchListBudgets", ["brd_a", "brd_b", "brd_none"]
    assert await assert_batch_equals_lists(world.campaigns(), rpc, "brand_id", keys) == {"brd_a": 3, "brd_b": 1}
    assert await count_documents_read(district.database, "budgets", fetch_first_pages(world.campaigns(), rpc, "brand_id", keys, 1)) == 2 + 1
    own = await fetch_first_pages(world.campaigns(brand_operator("brd_b")), rpc, "brand_id", keys, 5)
    assert set(own) == {"brd_b"}
    with pytest.raises(Denied):
        await fetch_first_pages(world.campaigns(district_operator("dst_sanlitun")), rpc, "brand_id", keys, 5)


async def test_frequent_queries_use_and_sort_by_index(world: World, district: ServiceHarness) -> None:
    budgets, campaigns, at = district.database["budgets"], district.database["campaigns"], clock.now()
    running = {"district_id": "dst_sanlitun", "ends_at": {"$gt": at}, "starts_at": {"$lte": at}}
    for query in (
        budgets.find(running),
        campaigns.find({"district_id": "dst_sanlitun", "starts_at": {"$lt": at, "$gt": at}, "ends_at": {"$gt": at}}),
        budgets.find({"brand_id": "brd_a"}).sort([("starts_at", -1), ("_id", 1)]),
        budgets.find({"campaign_id": "cmp_november"}).sort([("brand_id", 1), ("_id", 1)]),
        campaigns.find(running).sort([("starts_at", -1), ("_id", 1)]),
    ):
        plan = (await list_plan_stages(query)).split()
        assert "IXSCAN" in plan
        assert not {"COLLSCAN", "SORT"} & set(plan)
