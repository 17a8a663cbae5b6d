"""What was imported stands in one installation: the checkpoint says so of that one only, whole or not at all."""

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
from services.local.imports.checkpoint import CHECKPOINT, Begun, Checkpoint, Counted
from services.local.installation import installation_of
from tests.services.local.importing import FILES, Channels, loading, rejected, rejects, write


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


NOWHERE = "str_nowhere,brd_a,东直门店,Dongzhimen,116.43,39.94,10:00-22:00\n"


async def test_what_was_refused_is_looked_at_anew_once_the_file_is_put_right(tmp_path: Path, channels: Channels) -> None:
    """The same batch again would only hear its first answer again."""
    await loading(write(tmp_path), channels).run()
    (tmp_path / "orders.csv").write_text(FILES["orders"].replace("yesterday", "2026-03-02 12:00"), encoding="utf-8-sig")
    imported = await loading(tmp_path, channels).run()
    assert imported.new == {"consumers", "orders"} and imported.counts["orders"] == Counted(imported=1, rejected=5)
    assert sorted(rejected(tmp_path)) == ["con_2", "ord_2", "ord_3", "ord_4", "ord_5", "ord_9"]
    assert rejects(tmp_path)["ord_4"] == ("LINES_MISSING", "an order has 1 to 200 lines")


async def test_what_was_refused_is_looked_at_anew_once_another_file_is_put_right(tmp_path: Path, channels: Channels) -> None:
    """What was taken is not sent again: of the stock, some may have been sold since."""
    stock = "store_id,variant_id,on_hand\nstr_a,var_40,5\nstr_nowhere,var_40,7\n"
    first = await loading(write(tmp_path, stock=stock), channels).run()
    assert first.counts["stock"] == Counted(imported=1, rejected=1) and first.counts["orders"] == Counted(imported=1, rejected=5)
    stub: Any = stock_pb2_grpc.StockServiceStub(channels["commerce"])
    await stub.AdjustStock(stock_pb2.AdjustStockRequest(request_id="sold", store_id="str_a", variant_id="var_40", change=-1))
    (tmp_path / "stores.csv").write_text(FILES["stores"] + NOWHERE, encoding="utf-8-sig")
    imported = await loading(tmp_path, channels).run()
    assert imported.new == {"stores", "stock", "consumers", "orders"}
    assert imported.counts["stock"] == Counted(imported=2, rejected=0) and imported.counts["orders"] == Counted(imported=2, rejected=4)
    assert sorted(rejected(tmp_path)) == ["con_2", "ord_2", "ord_3", "ord_4", "ord_9"]
    asked = stock_pb2.ListStocksRequest(store_id="str_a")
    assert [each.on_hand for each in (await stub.ListStocks(asked)).stocks] == [4]
    assert (await loading(tmp_path, channels).run()).earlier, "what is refused still is refused for itself, until something changes"


async def test_looking_anew_goes_on_where_it_stopped(tmp_path: Path, channels: Channels, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = "".join(f"ord_{number},con_1,str_nowhere,2026-01-01 12:00\n" for number in range(4))
    lines = "".join(f"ord_{number},{'var_40' if number else 'var_none'},1,399.00\n" for number in range(4))
    write(
        tmp_path,
        orders="order_id,consumer_id,store_id,paid_at\n" + orders,
        order_lines="order_id,variant_id,quantity,paid\n" + lines + "ord_9,var_40,1,399.00\n",
    )
    monkeypatch.setitem(importer.TARGETS, "orders", msgspec.structs.replace(importer.TARGETS["orders"], batch=1))  # type: ignore[arg-type]
    await loading(tmp_path, channels).run()
    (tmp_path / "stores.csv").write_text(FILES["stores"] + NOWHERE, encoding="utf-8-sig")

    def stop_midway(name: str, done: int, total: int, rejected: int) -> None:
        if name == "orders" and done >= 2:
            raise Unavailable("SERVICE_UNAVAILABLE")

    with pytest.raises(Unavailable):
        await loading(tmp_path, channels, stop_midway).run()
    imported = await loading(tmp_path, channels).run()
    assert imported.new == {"orders"} and imported.counts["orders"] == Counted(imported=3, rejected=2)
    assert sorted(rejected(tmp_path)) == ["con_2", "ord_0", "ord_9"]


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
