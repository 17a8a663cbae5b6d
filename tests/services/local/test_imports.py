"""An import takes what is right, says what is not, never takes half an order, and goes on where it stopped."""

import asyncio
import csv
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from quanyu.commerce.v1 import orders_pb2, orders_pb2_grpc
from quanyu.member.v1 import relation_pb2, relation_pb2_grpc
from services.kit.errors import Unavailable
from services.local import client
from services.local.demo import tables
from services.local.errors import LocalError
from services.local.imports import cells, importer, layout
from services.local.imports.command import import_
from services.local.imports.importer import CHECKPOINT, REJECTS, Counted, Import, batches
from services.local.imports.items import Item, Reject, items
from services.local.keys import Keys
from tests.services.conftest import Start

FILES = {
    "brands": "brand_id,name,name_en\nbrd_a,白屿,Baiyu\n",
    "stores": "store_id,parent_id,name,name_en,longitude,latitude,hours\nstr_a,brd_a,三里屯店,Sanlitun,116.45,39.93,10:00-22:00\n",
    "products": "product_id,brand_id,name,name_en,category,variant_id,attributes,price\n"
    "prd_shirt,brd_a,白衬衫,White shirt,shirt,var_39,size=39,399.00\nprd_shirt,brd_a,白衬衫,White shirt,shirt,var_40,size=40,399.00\n",
    "consumers": "consumer_id,brand_id,name,phone,sizes,consents\ncon_1,brd_a,林晓,13800138000,shirt=40,personalization\n"
    "con_2,brd_a,王静,not a phone,,\n",
    "orders": "order_id,consumer_id,store_id,paid_at\nord_1,con_1,str_a,2026-01-01 12:00\nord_2,con_1,str_a,2026-02-01 12:00\n"
    "ord_3,con_1,str_a,2026-03-01 12:00\nord_4,con_1,str_a,yesterday\nord_5,con_1,str_nowhere,2026-03-01 12:00\n",
    "order_lines": "order_id,variant_id,quantity,paid\nord_1,var_40,1,399.00\nord_1,var_39,1,399.00\nord_2,var_40,1,399.00\n"
    "ord_2,var_none,1,1.00\nord_3,var_40,1,0.001\nord_5,var_40,1,399.00\nord_9,var_40,1,399.00\n",
}

Channels = Mapping[str, grpc.aio.Channel]


def write(folder: Path, **changed: str) -> Path:
    for name, content in (FILES | changed).items():
        (folder / f"{name}.csv").write_text(content, encoding="utf-8-sig")
    return folder


@pytest.fixture
async def channels(start: Start, keys: Keys) -> AsyncIterator[Channels]:
    services = await start("member", "commerce", "district", "organization")
    async with client.connected({name: service.address for name, service in services.items()}, keys) as opened:
        yield opened


async def settle(channels: Channels) -> None:
    """Returns when every fact that was told is applied."""
    while True:
        waiting, parked = await client.backlog(channels)
        assert not parked
        if not waiting:
            return
        await asyncio.sleep(0)


def loading(folder: Path, channels: Channels, seen: Any = lambda *progress: None) -> Import:
    async def settled(name: str) -> None:
        await settle(channels)

    return Import(folder, channels, seen=seen, settle=settled)


def rejects(folder: Path) -> dict[str, str]:
    with (folder / REJECTS).open(encoding="utf-8-sig", newline="") as file:
        return {row["id"]: row["reason"] for row in csv.DictReader(file)}


async def orders_of(channels: Channels, consumer_id: str) -> dict[str, int]:
    stub: Any = orders_pb2_grpc.OrderServiceStub(channels["commerce"])
    answer = await stub.ListOrders(orders_pb2.ListOrdersRequest(consumer_id=consumer_id))
    return {order.id: len(order.lines) for order in answer.orders}


async def test_what_is_right_is_taken_and_what_is_not_is_said(tmp_path: Path, channels: Channels) -> None:
    counts = await loading(write(tmp_path), channels).run()
    assert counts["products"] == Counted(imported=1, rejected=0)
    assert counts["consumers"] == Counted(imported=1, rejected=1)
    assert counts["orders"] == Counted(imported=1, rejected=5)
    assert await orders_of(channels, "con_1") == {"ord_1": 2}
    said = rejects(tmp_path)
    assert set(said) == {"con_2", "ord_2", "ord_3", "ord_4", "ord_5", "ord_9"}
    assert "digits of CNY" in said["ord_3"] and "paid_at" in said["ord_4"] and said["ord_9"] == "no such order in orders"
    assert "not a phone" not in (tmp_path / REJECTS).read_text(encoding="utf-8-sig")


async def test_the_effects_stand_when_the_import_ends(tmp_path: Path, channels: Channels) -> None:
    await loading(write(tmp_path), channels).run()
    stub: Any = relation_pb2_grpc.RelationServiceStub(channels["member"])
    relation = (await stub.GetRelation(relation_pb2.GetRelationRequest(consumer_id="con_1", brand_id="brd_a"))).relation
    assert relation.stage == relation_pb2.STAGE_PURCHASE


async def test_an_import_that_stopped_goes_on_where_it_stopped(tmp_path: Path, channels: Channels, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = [f"ord_{number:03},con_1,str_a,2026-01-01 12:00" for number in range(60)]
    lines = [f"ord_{number:03},var_40,{'1' if number % 10 else 'many'},399.00" for number in range(60)]
    write(
        tmp_path,
        orders="order_id,consumer_id,store_id,paid_at\n" + "\n".join(orders),
        order_lines="order_id,variant_id,quantity,paid\n" + "\n".join(lines),
    )
    small = importer.TARGETS["orders"].__class__(10, importer.TARGETS["orders"].send)
    monkeypatch.setitem(importer.TARGETS, "orders", small)  # type: ignore[arg-type]

    def stop_midway(name: str, done: int, total: int, rejected: int) -> None:
        if name == "orders" and done >= 20:
            raise Unavailable("SERVICE_UNAVAILABLE")

    with pytest.raises(Unavailable):
        await loading(tmp_path, channels, stop_midway).run()
    seen: list[tuple[str, int]] = []
    counts = await loading(tmp_path, channels, lambda name, done, total, rejected: seen.append((name, done))).run()
    assert {name for name, _ in seen} == {"orders"} and seen[0][1] > 20
    assert counts["orders"] == Counted(imported=54, rejected=6)
    assert len(rejects(tmp_path)) == 1 + 6
    stub: Any = orders_pb2_grpc.OrderServiceStub(channels["commerce"])
    ids = [f"ord_{number:03}" for number in range(60)]
    answer = await stub.BatchGetOrders(orders_pb2.BatchGetOrdersRequest(ids=ids))
    assert len(answer.orders) == 54


async def test_importing_again_from_the_start_changes_nothing(tmp_path: Path, channels: Channels) -> None:
    first = await loading(write(tmp_path), channels).run()
    (tmp_path / CHECKPOINT).unlink()
    assert await loading(tmp_path, channels).run() == first
    assert await orders_of(channels, "con_1") == {"ord_1": 2}


def test_the_readme_describes_the_columns() -> None:
    readme = Path(__file__).parents[3] / "README.md"
    assert layout.described().strip() in readme.read_text(encoding="utf-8")


def test_the_demo_world_has_no_row_that_cannot_be_read(tmp_path: Path) -> None:
    tables.write(tmp_path, datetime(2026, 11, 22, 12, tzinfo=UTC))
    for name in ("brands", "units", "stores", "staff", "products", "stock", "consumers", "bindings", "orders"):
        count, found = items(tmp_path, name)
        assert count and not [item for item in found if isinstance(item, Reject)]


def test_the_demo_worlds_pairs_are_loyal_together_and_not_apart(tmp_path: Path) -> None:
    """So that linking one pair and parting another can be seen in the relations."""
    today = date(2026, 11, 22)
    tables.write(tmp_path, datetime(2026, 11, 22, 12, tzinfo=UTC))
    with (tmp_path / "orders.csv").open(encoding="utf-8-sig", newline="") as file:
        orders = [row for row in csv.DictReader(file) if row["consumer_id"] in {str(twin[0]) for twin in tables.TWINS}]
    recent = Counter(row["consumer_id"] for row in orders if today - datetime.fromisoformat(row["paid_at"]).date() < timedelta(days=180))
    assert recent == {str(twin[0]): 2 if str(twin[0]).endswith("_1") else 1 for twin in tables.TWINS}


def test_a_bad_variant_is_named_by_its_own_row(tmp_path: Path) -> None:
    write(
        tmp_path, products=FILES["products"] + "prd_hat,brd_a,帽,Hat,hat,var_s,size=S,99.00\nprd_hat,brd_a,帽,Hat,hat,var_m,size=M,dear\n"
    )
    found = list(items(tmp_path, "products")[1])
    assert [item.row for item in found if isinstance(item, Item)] == [1]
    assert found[1] == Reject("products", 4, "prd_hat", "price: expected an amount like 12.30")


def test_a_folder_without_any_file_is_told(tmp_path: Path) -> None:
    told = CliRunner().invoke(import_, [str(tmp_path), "--data", str(tmp_path)])
    assert isinstance(told.exception, LocalError) and "holds none of the files" in str(told.exception)


@given(st.lists(st.one_of(st.sampled_from("ab"), st.none()), max_size=40), st.integers(1, 5))
def test_batches_keep_every_item_in_order(groups: list[str | None], size: int) -> None:
    found = [
        Reject("f", row, str(row), "no") if group is None else Item(row, str(row), orders_pb2.ImportedOrder(), group)
        for row, group in enumerate(groups)
    ]
    made = list(batches(iter(found), size))
    assert [item for _, batch, _ in made for item in batch] == [item for item in found if isinstance(item, Item)]
    assert [reject for _, _, unread in made for reject in unread] == [item for item in found if isinstance(item, Reject)]
    assert all(len(batch) <= size and len({item.group for item in batch}) <= 1 for _, batch, _ in made)
    assert [place for place, _, _ in made] == sorted({place for place, _, _ in made}) and (not made or made[-1][0] == len(found))


@pytest.mark.parametrize(
    ("read", "cell", "value"),
    [
        (cells.hours, "10:00-22:00", (600, 1320)),
        (cells.pairs, "size=40; colour=白", {"size": "40", "colour": "白"}),
        (cells.flag, "Yes", True),
        (cells.moment, "2026-01-01 12:00", datetime(2026, 1, 1, 4, tzinfo=UTC)),
        (cells.moment, datetime(2026, 1, 1, 4, tzinfo=UTC), datetime(2026, 1, 1, 4, tzinfo=UTC)),
        (cells.integer, 3.0, 3),
        (cells.amount, " 12.30 ", Decimal("12.30")),
        (cells.choices("white", "blue"), "White; blue", ["white", "blue"]),
    ],
)
def test_cells_are_read(read: Any, cell: Any, value: Any) -> None:
    assert read(cell) == value


@pytest.mark.parametrize(
    ("read", "cell"), [(cells.hours, "ten"), (cells.pairs, "x"), (cells.flag, "maybe"), (cells.integer, 3.5), (cells.amount, "NaN")]
)
def test_cells_that_cannot_be_read_are_refused(read: Any, cell: Any) -> None:
    with pytest.raises(ValueError):
        read(cell)
