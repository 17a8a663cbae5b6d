"""Demo world: an interrupted load resumes, and expired parts are renewed."""

import csv
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from quanyu.commerce.v1 import orders_pb2, orders_pb2_grpc
from quanyu.district.v1 import campaigns_pb2, campaigns_pb2_grpc
from services.kit.values.opening_hours import local_day, moment
from services.local import campaign
from services.local.demo import setup, tables
from services.local.demo.load import LoadResult, load
from services.local.demo.world import BRANDS, CAMPAIGN, DISTRICT, ZONE
from services.local.errors import LocalError
from services.local.folder import Folder
from services.local.imports.importer import Import
from services.local.imports.items import Reject, read_items
from services.local.story.command import play
from services.local.story.gateway_client import FIRST_MINUTE, StoryError, story_day
from tests.services.conftest import ServiceHarness
from tests.services.local.importing import Channels

QUIET = Console(quiet=True)
NOON = datetime(2026, 11, 22, 4, tzinfo=UTC)


class Interrupted(Exception):
    """Stands for Ctrl-C during the load."""


async def campaigns(channels: Channels) -> dict[str, int]:
    """Returns the number of brands by campaign of the district."""
    stub: Any = campaigns_pb2_grpc.CampaignServiceStub(channels["district"])
    listed = await stub.ListCampaigns(campaigns_pb2.ListCampaignsRequest(district_id=DISTRICT))
    return {each.id: each.brand_count for each in listed.campaigns}


async def order_count(channels: Channels) -> int:
    stub: Any = orders_pb2_grpc.OrderServiceStub(channels["commerce"])
    listed = await stub.ListOrders(orders_pb2.ListOrdersRequest(consumer_id="con_demo_001"))
    return len(listed.orders)


async def test_load_after_interruption_resumes_until_complete(folder: Folder, channels: Channels, monkeypatch: pytest.MonkeyPatch) -> None:
    send = Import._send

    async def stop_in_orders(self: Import, name: str, *rest: Any) -> list[Reject]:
        """Sends the batch and loses its answer."""
        answer = await send(self, name, *rest)
        if name == "orders":
            loading.append(folder.is_loading())
            raise Interrupted
        return answer

    loading: list[bool] = []
    with monkeypatch.context() as broken, pytest.raises(Interrupted):
        broken.setattr(Import, "_send", stop_in_orders)
        await load(folder, QUIET)
    assert set(loading) == {True} and not folder.is_loading()
    assert not await setup.is_loaded(channels) and await campaigns(channels) == {}

    create, calls = campaign.create_if_missing, list[Any]()

    async def stop_in_joins(call: Any) -> None:
        await create(call)
        calls.append(call)
        if len(calls) == 6:
            raise Interrupted

    with monkeypatch.context() as broken, pytest.raises(Interrupted):
        broken.setattr(campaign, "create_if_missing", stop_in_joins)
        await load(folder, QUIET)
    assert await campaigns(channels) == {CAMPAIGN: 5} and not await setup.is_loaded(channels)

    assert await load(folder, QUIET) is LoadResult.LOADED
    assert await campaigns(channels) == {CAMPAIGN: len(BRANDS)} and await order_count(channels)
    assert await load(folder, QUIET) is LoadResult.UNCHANGED


async def test_story_without_loaded_world_raises_error(folder: Folder) -> None:
    with folder.loading(), pytest.raises(LocalError, match="The demo world is still being loaded"):
        await play(folder, "demo", QUIET)
    with pytest.raises(StoryError, match="the demo world is not loaded"):
        await play(folder, "demo", QUIET)


async def test_load_with_expired_campaign_renews_it(folder: Folder, channels: Channels, services: dict[str, ServiceHarness]) -> None:
    assert await load(folder, QUIET) is LoadResult.LOADED
    orders = await order_count(channels)
    ended = {"$set": {"ends_at": datetime.now(UTC) - timedelta(days=1)}}
    for collection in ("campaigns", "budgets"):
        await services["district"].database[collection].update_many({}, ended)
    assert await setup.is_loaded(channels) and not await setup.has_running_campaign(channels)

    assert await load(folder, QUIET) is LoadResult.RENEWED
    (first, second) = sorted(await campaigns(channels))
    assert first == CAMPAIGN and second.startswith(f"{CAMPAIGN}_") and (await campaigns(channels))[second] == len(BRANDS)
    assert await setup.has_running_campaign(channels) and await order_count(channels) == orders
    assert await load(folder, QUIET) is LoadResult.UNCHANGED

    organization = services["organization"].database
    for collection in ("targets", "idempotency_records"):
        await organization[collection].delete_many({})
    assert await load(folder, QUIET) is LoadResult.RENEWED
    assert await organization["targets"].count_documents({}) == 6


def test_history_ends_yesterday_in_shanghai(tmp_path: Path) -> None:
    evening = datetime(2026, 11, 22, 20, tzinfo=UTC)  # the 23rd in Shanghai
    tables.write(tmp_path, evening)
    with (tmp_path / "orders.csv").open(encoding="utf-8-sig", newline="") as file:
        latest = max(datetime.fromisoformat(row["paid_at"]) for row in csv.DictReader(file))
    assert local_day(latest, ZONE) == date(2026, 11, 22)


def test_demo_files_have_only_readable_rows(tmp_path: Path) -> None:
    tables.write(tmp_path, NOON)
    for name in ("brands", "org_units", "stores", "staff", "products", "stock", "consumers", "bindings", "orders"):
        count, found = read_items(tmp_path, name)
        assert count and not [item for item in found if isinstance(item, Reject)]


def test_demo_pairs_reach_loyalty_only_when_linked(tmp_path: Path) -> None:
    """Linking one pair and unlinking another must change their stages."""
    today = date(2026, 11, 22)
    tables.write(tmp_path, NOON)
    with (tmp_path / "orders.csv").open(encoding="utf-8-sig", newline="") as file:
        orders = [row for row in csv.DictReader(file) if row["consumer_id"] in {str(twin[0]) for twin in tables.TWINS}]
    recent = Counter(row["consumer_id"] for row in orders if today - datetime.fromisoformat(row["paid_at"]).date() < timedelta(days=180))
    assert recent == {str(twin[0]): 2 if str(twin[0]).endswith("_1") else 1 for twin in tables.TWINS}


@pytest.mark.parametrize(("clock", "day"), [("00:01", 27), ("19:09", 27), ("19:10", 28), ("20:30", 28), ("21:39", 28), ("23:59", 28)])
def test_story_day_is_after_loading_time(clock: str, day: int) -> None:
    """A story on the same evening would begin before the manager of a newly loaded world has a role."""
    now = datetime.fromisoformat(f"2026-11-27T{clock}:00+08:00")
    assert story_day(now) == date(2026, 11, day)
    assert now < moment(story_day(now), FIRST_MINUTE, ZONE)
