"""Repeated import: a checkpoint belongs to one installation, and only new, changed and refused rows are sent again."""

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pymongo import MongoClient

from quanyu.commerce.v1 import orders_pb2, orders_pb2_grpc, stock_pb2, stock_pb2_grpc
from services.kit.errors import Unavailable
from services.kit.settings import Settings
from services.local.errors import LocalError
from services.local.imports import importer
from services.local.imports.checkpoint import CHECKPOINT, Checkpoint, Counts, FileProgress
from services.local.installation import read_installation_id
from tests.services.local.importing import FILES, Channels, new_import, rejected, rejects, write


async def test_import_of_unchanged_folder_sends_nothing(tmp_path: Path, channels: Channels) -> None:
    first = await new_import(write(tmp_path), channels).run()
    names: list[str] = []
    again = await new_import(tmp_path, channels, lambda name, *progress: names.append(name)).run()
    assert first.earlier is None and again.earlier is not None
    assert not names and not again.new and again.counts == first.counts


async def test_import_into_other_installation_starts_over(tmp_path: Path, channels: Channels) -> None:
    first = await new_import(write(tmp_path), channels, installation="one").run()
    other = await new_import(tmp_path, channels, installation="other").run()
    assert other.earlier is None and other.new == first.new and other.counts == first.counts
    assert (await new_import(tmp_path, channels, installation="other").run()).earlier


async def test_import_with_again_changes_nothing(tmp_path: Path, channels: Channels) -> None:
    first = await new_import(write(tmp_path), channels).run()
    assert await new_import(tmp_path, channels, again=True).run() == first
    stub: Any = orders_pb2_grpc.OrderServiceStub(channels["commerce"])
    answer = await stub.ListOrders(orders_pb2.ListOrdersRequest(consumer_id="con_1"))
    assert [order.id for order in answer.orders] == ["ord_1"]


NOWHERE = "str_nowhere,brd_a,东直门店,Dongzhimen,116.43,39.94,10:00-22:00\n"


async def test_refused_rows_are_retried_after_file_changes(tmp_path: Path, channels: Channels) -> None:
    """A repeat under the same request id would return the first answer."""
    await new_import(write(tmp_path), channels).run()
    (tmp_path / "orders.csv").write_text(FILES["orders"].replace("yesterday", "2026-03-02 12:00"), encoding="utf-8-sig")
    imported = await new_import(tmp_path, channels).run()
    assert imported.new == {"consumers", "orders"} and imported.counts["orders"] == Counts(imported=1, rejected=5)
    assert sorted(rejected(tmp_path)) == ["con_2", "ord_2", "ord_3", "ord_4", "ord_5", "ord_9"]
    assert rejects(tmp_path)["ord_4"] == ("LINES_MISSING", "An order must have 1 to 200 lines.")


async def test_refused_rows_are_retried_after_other_file_changes(tmp_path: Path, channels: Channels) -> None:
    """Imported rows are not sent again, since stock may have been sold meanwhile."""
    stock = "store_id,variant_id,on_hand\nstr_a,var_40,5\nstr_nowhere,var_40,7\n"
    first = await new_import(write(tmp_path, stock=stock), channels).run()
    assert first.counts["stock"] == Counts(imported=1, rejected=1) and first.counts["orders"] == Counts(imported=1, rejected=5)
    stub: Any = stock_pb2_grpc.StockServiceStub(channels["commerce"])
    await stub.AdjustStock(stock_pb2.AdjustStockRequest(request_id="sold", store_id="str_a", variant_id="var_40", change=-1))
    (tmp_path / "stores.csv").write_text(FILES["stores"] + NOWHERE, encoding="utf-8-sig")
    imported = await new_import(tmp_path, channels).run()
    assert imported.new == {"stores", "stock", "consumers", "orders"}
    assert imported.counts["stock"] == Counts(imported=2, rejected=0) and imported.counts["orders"] == Counts(imported=2, rejected=4)
    assert sorted(rejected(tmp_path)) == ["con_2", "ord_2", "ord_3", "ord_4", "ord_9"]
    request = stock_pb2.ListStocksRequest(store_id="str_a")
    assert [each.on_hand for each in (await stub.ListStocks(request)).stocks] == [4]
    assert (await new_import(tmp_path, channels).run()).earlier, "rows that are still refused wait for the next change"


async def test_retry_after_interruption_resumes(tmp_path: Path, channels: Channels, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = "".join(f"ord_{number},con_1,str_nowhere,2026-01-01 12:00\n" for number in range(4))
    lines = "".join(f"ord_{number},{'var_40' if number else 'var_none'},1,399.00\n" for number in range(4))
    write(
        tmp_path,
        orders="order_id,consumer_id,store_id,paid_at\n" + orders,
        order_lines="order_id,variant_id,quantity,paid\n" + lines + "ord_9,var_40,1,399.00\n",
    )
    monkeypatch.setitem(importer.TARGETS, "orders", msgspec.structs.replace(importer.TARGETS["orders"], batch=1))  # type: ignore[arg-type]
    await new_import(tmp_path, channels).run()
    (tmp_path / "stores.csv").write_text(FILES["stores"] + NOWHERE, encoding="utf-8-sig")

    def stop_midway(name: str, done: int, total: int, rejected: int) -> None:
        if name == "orders" and done >= 2:
            raise Unavailable("SERVICE_UNAVAILABLE")

    with pytest.raises(Unavailable):
        await new_import(tmp_path, channels, stop_midway).run()
    imported = await new_import(tmp_path, channels).run()
    assert imported.new == {"orders"} and imported.counts["orders"] == Counts(imported=3, rejected=2)
    assert sorted(rejected(tmp_path)) == ["con_2", "ord_0", "ord_9"]


async def test_import_ignores_new_modification_time(tmp_path: Path, channels: Channels) -> None:
    await new_import(write(tmp_path), channels).run()
    os.utime(tmp_path / "orders.csv", (0, 0))
    assert (await new_import(tmp_path, channels).run()).earlier


def test_unreadable_checkpoint_names_again_option(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_text('{"files": {"orders"')
    with pytest.raises(LocalError, match=r"quanyu-import.json cannot be read .* Import from the start with --again"):
        Checkpoint.read(tmp_path)


def test_checkpoint_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(files={"orders": FileProgress("mark", "attempt", done=400)})
    checkpoint.save(tmp_path)
    checkpoint.files["orders"].done = 800

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path)
    assert Checkpoint.read(tmp_path).files["orders"].done == 400


def test_installation_id_belongs_to_its_databases(mongo_uri: str, settings: Settings) -> None:
    prefix = settings.database_prefix
    with MongoClient[Any](mongo_uri) as client:
        first = read_installation_id(mongo_uri, prefix)
        assert read_installation_id(mongo_uri, prefix) == first != read_installation_id(mongo_uri, f"{prefix}_other")
        client.drop_database(f"{prefix}_local")
        assert read_installation_id(mongo_uri, prefix) != first
        for name in (prefix, f"{prefix}_other"):
            client.drop_database(f"{name}_local")
