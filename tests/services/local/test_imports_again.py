"""What was imported stands in one installation: the checkpoint says so of that one only, whole or not at all."""

import os
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from quanyu.commerce.v1 import orders_pb2, orders_pb2_grpc
from services.kit.settings import Settings
from services.local.errors import LocalError
from services.local.imports.checkpoint import CHECKPOINT, Begun, Checkpoint, Counted
from services.local.installation import installation_of
from tests.services.local.importing import FILES, Channels, loading, rejects, write


async def test_a_folder_in_which_nothing_is_new_is_told_so(tmp_path: Path, channels: Channels) -> None:
    first = await loading(write(tmp_path), channels).run()
    seen: list[str] = []
    again = await loading(tmp_path, channels, lambda name, *progress: seen.append(name)).run()
    assert first.earlier is None and again.earlier is not None
    assert not seen and not again.new and again.counts == first.counts


async def test_another_installation_is_imported_into_from_the_start(tmp_path: Path, channels: Channels) -> None:
    first = await loading(write(tmp_path), channels, installation="one").run()
    other = await loading(tmp_path, channels, installation="other").run()
    assert other.earlier is None and other.new == first.new and other.counts == first.counts
    assert (await loading(tmp_path, channels, installation="other").run()).earlier


async def test_importing_again_from_the_start_changes_nothing(tmp_path: Path, channels: Channels) -> None:
    first = await loading(write(tmp_path), channels).run()
    assert await loading(tmp_path, channels, anew=True).run() == first
    stub: Any = orders_pb2_grpc.OrderServiceStub(channels["commerce"])
    answer = await stub.ListOrders(orders_pb2.ListOrdersRequest(consumer_id="con_1"))
    assert [order.id for order in answer.orders] == ["ord_1"]


async def test_what_was_refused_is_looked_at_anew_once_the_file_is_put_right(tmp_path: Path, channels: Channels) -> None:
    """The same batch again would only hear its first answer again."""
    await loading(write(tmp_path), channels).run()
    assert "ord_5" in rejects(tmp_path)
    store = "str_nowhere,brd_a,东直门店,Dongzhimen,116.43,39.94,10:00-22:00\n"
    (tmp_path / "stores.csv").write_text(FILES["stores"] + store, encoding="utf-8-sig")
    assert (await loading(tmp_path, channels).run()).new == {"stores"}
    (tmp_path / "orders.csv").write_text(FILES["orders"].replace("yesterday", "2026-03-02 12:00"), encoding="utf-8-sig")
    imported = await loading(tmp_path, channels).run()
    assert imported.new == {"orders"} and imported.counts["orders"] == Counted(imported=2, rejected=4)
    assert set(rejects(tmp_path)) == {"con_2", "ord_2", "ord_3", "ord_4", "ord_9"}
    assert rejects(tmp_path)["ord_4"] == ("LINES_MISSING", "an order has 1 to 200 lines")


async def test_a_file_that_was_only_touched_is_not_new(tmp_path: Path, channels: Channels) -> None:
    await loading(write(tmp_path), channels).run()
    os.utime(tmp_path / "orders.csv", (0, 0))
    assert (await loading(tmp_path, channels).run()).earlier


def test_a_checkpoint_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_text('{"files": {"orders"')
    with pytest.raises(LocalError, match=r"quanyu-import.json cannot be read .* --anew imports from the start"):
        Checkpoint.read(tmp_path)


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(files={"orders": Begun("mark", "attempt", done=400)})
    checkpoint.save(tmp_path)
    checkpoint.files["orders"].done = 800

    def dies(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", dies)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path)
    assert Checkpoint.read(tmp_path).files["orders"].done == 400


def test_an_installation_is_its_databases(mongo_uri: str, settings: Settings) -> None:
    prefix = settings.database_prefix
    with MongoClient[Any](mongo_uri) as client:
        first = installation_of(mongo_uri, prefix)
        assert installation_of(mongo_uri, prefix) == first != installation_of(mongo_uri, f"{prefix}_other")
        client.drop_database(f"{prefix}_local")
        assert installation_of(mongo_uri, prefix) != first
        for name in (prefix, f"{prefix}_other"):
            client.drop_database(f"{name}_local")
