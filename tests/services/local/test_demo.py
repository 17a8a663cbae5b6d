"""The demo world stands whole or is gone on with, and what time takes from it is renewed."""

import csv
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from quanyu.commerce.v1 import orders_pb2, orders_pb2_grpc
from quanyu.district.v1 import campaigns_pb2, campaigns_pb2_grpc
from services.kit.calendar import day_of, moment
from services.local import campaign
from services.local.demo import stage, tables
from services.local.demo.load import Loaded, load
from services.local.demo.world import BRANDS, CAMPAIGN, DISTRICT, ZONE
from services.local.errors import LocalError
from services.local.folder import Folder
from services.local.imports.importer import Import
from services.local.imports.items import Reject, items
from services.local.story.command import play
from services.local.story.stage import FIRST_MINUTE, Surprise, day_after
from tests.services.conftest import Running
from tests.services.local.importing import Channels

QUIET = Console(quiet=True)
NOON = datetime(2026, 11, 22, 4, tzinfo=UTC)


class Interrupted(Exception):
    """Ctrl-C, as far as the loading can tell."""


async def campaigns(channels: Channels) -> dict[str, int]:
    """Campaigns of the district and the brands in each."""
    stub: Any = campaigns_pb2_grpc.CampaignServiceStub(channels["district"])
    listed = await stub.ListCampaigns(campaigns_pb2.ListCampaignsRequest(district_id=DISTRICT))
    return {each.id: each.brand_count for each in listed.campaigns}


async def order_count(channels: Channels) -> int:
    stub: Any = orders_pb2_grpc.OrderServiceStub(channels["commerce"])
    listed = await stub.ListOrders(orders_pb2.ListOrdersRequest(consumer_id="con_demo_001"))
    return len(listed.orders)


async def test_a_load_that_was_broken_off_is_gone_on_with_until_it_is_whole(
    folder: Folder, channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Import._send

    async def stop_in_orders(self: Import, name: str, *rest: Any) -> list[Reject]:
        """The batch is taken, and its answer is lost."""
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
    assert not await stage.is_there(channels) and await campaigns(channels) == {}

    standing, calls = campaign.standing, list[Any]()

    async def stop_in_joins(call: Any) -> None:
        await standing(call)
        calls.append(call)
        if len(calls) == 6:
            raise Interrupted

    with monkeypatch.context() as broken, pytest.raises(Interrupted):
        broken.setattr(campaign, "standing", stop_in_joins)
        await load(folder, QUIET)
    assert await campaigns(channels) == {CAMPAIGN: 5} and not await stage.is_there(channels)

    assert await load(folder, QUIET) is Loaded.NOW
    assert await campaigns(channels) == {CAMPAIGN: len(BRANDS)} and await order_count(channels)
    assert await load(folder, QUIET) is Loaded.BEFORE


async def test_the_story_says_whether_its_world_is_being_loaded_or_is_not_there(folder: Folder) -> None:
    with folder.loading(), pytest.raises(LocalError, match="the demo world is still being loaded"):
        await play(folder, "demo", QUIET)
    with pytest.raises(Surprise, match="the demo world is not loaded"):
        await play(folder, "demo", QUIET)


async def test_what_ran_out_is_renewed(folder: Folder, channels: Channels, services: dict[str, Running]) -> None:
    assert await load(folder, QUIET) is Loaded.NOW
    orders = await order_count(channels)
    ended = {"$set": {"ends_at": datetime.now(UTC) - timedelta(days=1)}}
    for collection in ("campaigns", "budgets"):
        await services["district"].database[collection].update_many({}, ended)
    assert await stage.is_there(channels) and not await stage.is_running(channels)

    assert await load(folder, QUIET) is Loaded.RENEWED
    (first, second) = sorted(await campaigns(channels))
    assert first == CAMPAIGN and second.startswith(f"{CAMPAIGN}_") and (await campaigns(channels))[second] == len(BRANDS)
    assert await stage.is_running(channels) and await order_count(channels) == orders
    assert await load(folder, QUIET) is Loaded.BEFORE

    organization = services["organization"].database
    for collection in ("targets", "once"):
        await organization[collection].delete_many({})
    assert await load(folder, QUIET) is Loaded.RENEWED
    assert await organization["targets"].count_documents({}) == 6


def test_the_history_ends_yesterday_as_the_day_is_in_shanghai(tmp_path: Path) -> None:
    evening = datetime(2026, 11, 22, 20, tzinfo=UTC)  # the 23rd there
    tables.write(tmp_path, evening)
    with (tmp_path / "orders.csv").open(encoding="utf-8-sig", newline="") as file:
        latest = max(datetime.fromisoformat(row["paid_at"]) for row in csv.DictReader(file))
    assert day_of(latest, ZONE) == date(2026, 11, 22)


def test_it_has_no_row_that_cannot_be_read(tmp_path: Path) -> None:
    tables.write(tmp_path, NOON)
    for name in ("brands", "units", "stores", "staff", "products", "stock", "consumers", "bindings", "orders"):
        count, found = items(tmp_path, name)
        assert count and not [item for item in found if isinstance(item, Reject)]


def test_its_pairs_are_loyal_together_and_not_apart(tmp_path: Path) -> None:
    """So that linking one pair and parting another can be seen in the relations."""
    today = date(2026, 11, 22)
    tables.write(tmp_path, NOON)
    with (tmp_path / "orders.csv").open(encoding="utf-8-sig", newline="") as file:
        orders = [row for row in csv.DictReader(file) if row["consumer_id"] in {str(twin[0]) for twin in tables.TWINS}]
    recent = Counter(row["consumer_id"] for row in orders if today - datetime.fromisoformat(row["paid_at"]).date() < timedelta(days=180))
    assert recent == {str(twin[0]): 2 if str(twin[0]).endswith("_1") else 1 for twin in tables.TWINS}


@pytest.mark.parametrize(("clock", "day"), [("00:01", 27), ("19:09", 27), ("19:10", 28), ("20:30", 28), ("21:39", 28), ("23:59", 28)])
def test_a_story_lies_ahead_of_all_that_stands(clock: str, day: int) -> None:
    """Played in the evening it began before the manager of a world that was loaded just now had her role."""
    now = datetime.fromisoformat(f"2026-11-27T{clock}:00+08:00")
    assert day_after(now) == date(2026, 11, day)
    assert now < moment(day_after(now), FIRST_MINUTE, ZONE)
