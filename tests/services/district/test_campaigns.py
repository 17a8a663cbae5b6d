"""Campaigns and budgets through the rpcs."""

import asyncio
from datetime import timedelta

import pytest

from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.district.v1 import campaigns_pb2
from services.district.campaigns import rules
from services.kit import clock
from services.kit.errors import Conflict, Denied, Exhausted, Invalid, NotFound
from tests.services.conftest import Running
from tests.services.district.world import World, brand_operator, district_operator, fen, fresh, plan_of
from tests.services.lists import first_pages, rows_read, says_the_same_of_each


async def test_a_campaign_is_staged_by_its_district_and_seen_by_all(world: World, district: Running) -> None:
    campaign = await world.stage()
    await world.join("brd_a")
    stub = type(world.campaigns())(district.anonymous())
    found = (await stub.GetCampaign(campaigns_pb2.GetCampaignRequest(id=campaign.id))).campaign
    assert (found.name, found.brand_count) == ("十一月", 1)
    listed = await stub.ListCampaigns(campaigns_pb2.ListCampaignsRequest(district_id="dst_sanlitun", running_only=True))
    assert list(listed.campaigns) == [found]
    batch = await stub.BatchGetCampaigns(campaigns_pb2.BatchGetCampaignsRequest(ids=[campaign.id, "cmp_none"]))
    assert list(batch.campaigns) == [found]
    with pytest.raises(Denied):
        await world.campaigns(district_operator("dst_other")).CreateCampaign(
            campaigns_pb2.CreateCampaignRequest(request_id=fresh(), district_id="dst_sanlitun", name="x")
        )


async def test_a_campaign_needs_its_district_and_sound_dates(world: World) -> None:
    at = clock.now()
    for district_id, lasts, kind, reason in (
        ("dst_none", timedelta(days=1), NotFound, "DISTRICT_NOT_FOUND"),
        ("dst_sanlitun", timedelta(days=-1), Invalid, "DATES_INVALID"),
    ):
        request = campaigns_pb2.CreateCampaignRequest(
            request_id=fresh(), district_id=district_id, name="x", starts_at=at, ends_at=at + lasts
        )
        with pytest.raises(kind) as refused:
            await world.campaigns().CreateCampaign(request)
        assert refused.value.reason == reason
    await world.stage()
    with pytest.raises(Conflict) as taken:
        await world.stage()
    assert taken.value.reason == "CAMPAIGN_EXISTS"


async def test_only_running_campaigns_are_listed_when_asked_for(world: World) -> None:
    await world.stage()
    at = clock.now()
    over = campaigns_pb2.CreateCampaignRequest(
        request_id=fresh(), district_id="dst_sanlitun", name="x", starts_at=at - timedelta(days=9), ends_at=at - timedelta(days=8)
    )
    past = (await world.campaigns().CreateCampaign(over)).campaign
    listed = await world.campaigns().ListCampaigns(campaigns_pb2.ListCampaignsRequest(district_id="dst_sanlitun"))
    assert [campaign.id for campaign in listed.campaigns] == ["cmp_november", past.id]
    running = await world.campaigns().ListCampaigns(campaigns_pb2.ListCampaignsRequest(district_id="dst_sanlitun", running_only=True))
    assert [campaign.id for campaign in running.campaigns] == ["cmp_november"]
    with pytest.raises(Conflict) as refused:
        await world.join("brd_a", campaign_id=past.id)
    assert refused.value.reason == "CAMPAIGN_OVER"


async def test_a_brand_joins_for_itself_and_once(world: World) -> None:
    await world.stage()
    budget = await world.join("brd_a", 50)
    assert (budget.brand_id, budget.total, budget.issued, budget.district_id) == ("brd_a", 50, 0, "dst_sanlitun")
    assert budget.terms.minimum_spend == fen(10_000)
    with pytest.raises(Conflict) as refused:
        await world.join("brd_a")
    assert refused.value.reason == "JOINED_ALREADY"
    request = campaigns_pb2.JoinCampaignRequest(
        request_id=fresh(), campaign_id="cmp_november", brand_id="brd_b", terms=budget.terms, total=1
    )
    with pytest.raises(Denied):
        await world.campaigns(brand_operator("brd_a")).JoinCampaign(request)
    with pytest.raises(NotFound) as missing:
        await world.join("brd_b", campaign_id="cmp_none")
    assert missing.value.reason == "CAMPAIGN_NOT_FOUND"
    for wrong in ({"total": 0}, {"value": 0}):
        with pytest.raises(Invalid):
            await world.join("brd_b", **wrong)
    assert (await world.join("brd_b", minimum=0)).terms.minimum_spend == fen(0)


async def test_the_last_place_in_a_district_is_one_brands_whichever_campaign_they_join(world: World, district: Running) -> None:
    """Packs choose from all coupons of the moment: what they would not look at is not taken in."""
    campaigns = district.database["campaigns"]
    for id, brands in (("cmp_a", 400), ("cmp_b", 300), ("cmp_c", rules.RUNNING_MAX - 701)):
        await world.stage(id)
        await campaigns.update_one({"_id": id}, {"$set": {"brand_count": brands}})
    joins = [world.join(f"brd_{n}", campaign_id=id) for n, id in enumerate(("cmp_a", "cmp_b", "cmp_c"))]
    answers = await asyncio.gather(*joins, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Exhausted)]
    assert [one.reason for one in refused] == ["DISTRICT_FULL"] * 2
    assert await district.database["budgets"].count_documents({}) == 1
    await world.found("dst_other")
    await world.stage("cmp_other", "dst_other")
    await world.join("brd_0", campaign_id="cmp_other")


async def test_a_brand_sees_its_own_numbers_and_everybody_the_terms(world: World, district: Running) -> None:
    await world.stage()
    mine, other = await world.join("brd_a"), await world.join("brd_b")
    stub = world.campaigns(brand_operator("brd_a"))
    assert (await stub.GetBudget(campaigns_pb2.GetBudgetRequest(id=mine.id))).budget == mine
    with pytest.raises(NotFound) as refused:
        await stub.GetBudget(campaigns_pb2.GetBudgetRequest(id=other.id))
    assert refused.value.reason == "BUDGET_NOT_FOUND"
    assert list((await stub.BatchGetBudgets(campaigns_pb2.BatchGetBudgetsRequest(ids=[mine.id, other.id]))).budgets) == [mine]
    assert list((await stub.ListBudgets(campaigns_pb2.ListBudgetsRequest(brand_id="brd_a"))).budgets) == [mine]
    with pytest.raises(Denied):
        await stub.ListBudgets(campaigns_pb2.ListBudgetsRequest(brand_id="brd_b"))
    anybody = type(stub)(district.anonymous())
    page = PageRequest(first=1)
    first = await anybody.ListParticipants(campaigns_pb2.ListParticipantsRequest(campaign_id="cmp_november", page=page))
    page = PageRequest(first=1, after=first.page.end_cursor)
    second = await anybody.ListParticipants(campaigns_pb2.ListParticipantsRequest(campaign_id="cmp_november", page=page))
    assert [item.brand_id for item in (*first.participants, *second.participants)] == ["brd_a", "brd_b"]
    assert first.participants[0].terms == mine.terms
    assert not second.page.has_next_page


async def test_the_first_participants_of_several_campaigns_are_those_of_each(world: World, district: Running) -> None:
    await world.stage()
    for brand in ("brd_a", "brd_b"):
        await world.join(brand)
    anybody = type(world.campaigns(brand_operator("brd_a")))(district.anonymous())
    for first in (1, 2, 3):
        asked = campaigns_pb2.BatchListParticipantsRequest(campaign_ids=["cmp_november", "cmp_unknown", "cmp_november"], first=first)
        (found,) = (await anybody.BatchListParticipants(asked)).campaigns
        one = await anybody.ListParticipants(
            campaigns_pb2.ListParticipantsRequest(campaign_id="cmp_november", page=PageRequest(first=first))
        )
        assert (found.campaign_id, list(found.participants), found.page) == ("cmp_november", list(one.participants), one.page)
    with pytest.raises(Invalid, match="BATCH_TOO_LARGE"):
        many = campaigns_pb2.BatchListParticipantsRequest(campaign_ids=[f"cmp_{number}" for number in range(101)])
        await world.campaigns(brand_operator("brd_a")).BatchListParticipants(many)


async def test_the_first_campaigns_of_several_districts_are_those_of_each(world: World, district: Running) -> None:
    await world.found("dst_other")
    for number in range(3):
        await world.stage(f"cmp_{number}")
    await world.stage("cmp_other", "dst_other")
    await district.database["campaigns"].update_one({"_id": "cmp_1"}, {"$set": {"ends_at": clock.now() - timedelta(hours=1)}})
    rpc, asked = "CampaignService.BatchListCampaigns", ["dst_sanlitun", "dst_other", "dst_none"]
    for running, here in ((False, 3), (True, 2)):
        found = await says_the_same_of_each(world.campaigns(brand_operator("brd_a")), rpc, "district_id", asked, running_only=running)
        assert found == {"dst_sanlitun": here, "dst_other": 1}
    assert await rows_read(district.database, "campaigns", first_pages(world.campaigns(), rpc, "district_id", asked, 1)) == 2 + 1


async def test_the_first_budgets_of_several_brands_are_those_of_each_within_scope(world: World, district: Running) -> None:
    for number in range(3):
        await world.stage(f"cmp_{number}")
        await world.join("brd_a", campaign_id=f"cmp_{number}")
    await world.join("brd_b", campaign_id="cmp_0")
    rpc, asked = "CampaignService.BatchListBudgets", ["brd_a", "brd_b", "brd_none"]
    assert await says_the_same_of_each(world.campaigns(), rpc, "brand_id", asked) == {"brd_a": 3, "brd_b": 1}
    assert await rows_read(district.database, "budgets", first_pages(world.campaigns(), rpc, "brand_id", asked, 1)) == 2 + 1
    mine = await first_pages(world.campaigns(brand_operator("brd_b")), rpc, "brand_id", asked, 5)
    assert set(mine) == {"brd_b"}
    with pytest.raises(Denied):
        await first_pages(world.campaigns(district_operator("dst_sanlitun")), rpc, "brand_id", asked, 5)


async def test_hot_queries_walk_an_index(world: World, district: Running) -> None:
    budgets, campaigns, at = district.database["budgets"], district.database["campaigns"], clock.now()
    running = {"district_id": "dst_sanlitun", "ends_at": {"$gt": at}, "starts_at": {"$lte": at}}
    for query in (
        budgets.find(running),
        campaigns.find({"district_id": "dst_sanlitun", "starts_at": {"$lt": at, "$gt": at}, "ends_at": {"$gt": at}}),
        budgets.find({"brand_id": "brd_a"}).sort([("starts_at", -1), ("_id", 1)]),
        budgets.find({"campaign_id": "cmp_november"}).sort([("brand_id", 1), ("_id", 1)]),
        campaigns.find(running).sort([("starts_at", -1), ("_id", 1)]),
    ):
        plan = (await plan_of(query)).split()
        assert "IXSCAN" in plan
        assert not {"COLLSCAN", "SORT"} & set(plan)
