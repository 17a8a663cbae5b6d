"""Import: good rows are imported, bad ones are rejected with a reason, orders are never split, and an interrupted import resumes."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from quanyu.commerce.v1 import orders_pb2, orders_pb2_grpc
from quanyu.member.v1 import relation_pb2, relation_pb2_grpc
from services.kit.errors import Unavailable
from services.local.errors import LocalError
from services.local.imports import importer, layout
from services.local.imports.checkpoint import Counts
from services.local.imports.command import import_
from services.local.imports.importer import batches
from services.local.imports.items import Item, Reject, read_items
from services.local.imports.rejects import REJECTS
from tests.services.local.importing import FILES, Channels, new_import, rejects, write


async def orders_of(channels: Channels, consumer_id: str) -> dict[str, int]:
    stub: Any = orders_pb2_grpc.OrderServiceStub(channels["commerce"])
    answer = await stub.ListOrders(orders_pb2.ListOrdersRequest(consumer_id=consumer_id))
    return {order.id: len(order.lines) for order in answer.orders}


async def test_import_rejects_only_bad_rows(tmp_path: Path, channels: Channels) -> None:
    counts = (await new_import(write(tmp_path), channels).run()).counts
    assert counts["products"] == Counts(imported=1, rejected=0)
    assert counts["consumers"] == Counts(imported=1, rejected=1)
    assert counts["orders"] == Counts(imported=1, rejected=5)
    assert await orders_of(channels, "con_1") == {"ord_1": 2}
    rejected = rejects(tmp_path)
    assert {id: reason for id, (reason, _) in rejected.items()} == {
        "con_2": "INVALID_PHONE", "ord_2": "VARIANT_NOT_FOUND", "ord_3": "UNREADABLE", "ord_4": "UNREADABLE", "ord_5": "STORE_NOT_FOUND",
        "ord_9": "ORDER_NOT_FOUND",
    }  # fmt: skip
    assert "as CNY has" in rejected["ord_3"][1] and "paid_at" in rejected["ord_4"][1] and all(message for _, message in rejected.values())
    assert "not a phone" not in (tmp_path / REJECTS).read_text(encoding="utf-8-sig")


async def test_import_rejects_rows_with_unknown_references(tmp_path: Path, channels: Channels) -> None:
    write(
        tmp_path,
        products=FILES["products"] + "prd_hat,brd_none,帽,Hat,hat,var_hat,,99.00\n",
        consumers="consumer_id,brand_id,consents,consent_brands\ncon_1,brd_a,personalization,\ncon_3,brd_none,,\n"
        "con_4,brd_a,personalization,brd_none\ncon_5,brd_a,personalization,brd_a\n",
        bindings="consumer_id,brand_id,staff_id\ncon_1,brd_none,stf_1\ncon_9,brd_a,stf_1\n",
        orders="order_id,consumer_id,store_id,paid_at\nord_1,con_1,str_a,2026-01-01 12:00\nord_6,con_9,str_a,2026-01-01 12:00\n",
        order_lines="order_id,variant_id,quantity,paid\nord_1,var_40,1,399.00\nord_6,var_40,1,399.00\n",
    )
    counts = (await new_import(tmp_path, channels).run()).counts
    assert {name: (each.imported, each.rejected) for name, each in counts.items() if each.rejected} == {
        "products": (1, 1), "consumers": (2, 2), "bindings": (0, 2), "orders": (1, 1),
    }  # fmt: skip
    rejected = rejects(tmp_path)
    brand = "the suite has no brand brd_none. Add it to brands, or correct the id."
    consumer = "the suite has no consumer con_9. Add it to consumers, or correct the id."
    assert rejected["prd_hat"] == rejected["con_3"] == rejected["con_1"] == ("BRAND_NOT_FOUND", f"brand_id: {brand}")
    assert rejected["con_4"] == ("BRAND_NOT_FOUND", f"consent_brands: {brand}")
    assert rejected["ord_6"] == ("CONSUMER_NOT_FOUND", f"consumer_id: {consumer}") and rejected["con_9"][0] == "CONSUMER_NOT_FOUND"
    assert await orders_of(channels, "con_9") == {}


async def test_import_returns_after_effects_are_applied(tmp_path: Path, channels: Channels) -> None:
    await new_import(write(tmp_path), channels).run()
    stub: Any = relation_pb2_grpc.RelationServiceStub(channels["member"])
    relation = (await stub.GetRelation(relation_pb2.GetRelationRequest(consumer_id="con_1", brand_id="brd_a"))).relation
    assert relation.stage == relation_pb2.STAGE_PURCHASE


async def test_import_after_interruption_resumes(tmp_path: Path, channels: Channels, monkeypatch: pytest.MonkeyPatch) -> None:
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
        await new_import(tmp_path, channels, stop_midway).run()
    progress: list[tuple[str, int]] = []
    imported = await new_import(tmp_path, channels, lambda name, done, total, rejected: progress.append((name, done))).run()
    assert {name for name, _ in progress} == imported.new == {"orders"} and progress[0][1] > 20
    assert imported.counts["orders"] == Counts(imported=54, rejected=6) and imported.earlier is None
    assert len(rejects(tmp_path)) == 1 + 6
    stub: Any = orders_pb2_grpc.OrderServiceStub(channels["commerce"])
    ids = [f"ord_{number:03}" for number in range(60)]
    answer = await stub.BatchGetOrders(orders_pb2.BatchGetOrdersRequest(ids=ids))
    assert len(answer.orders) == 54


def test_imports_readme_lists_the_columns() -> None:
    readme = Path(layout.__file__).with_name("README.md")
    assert layout.render_markdown().strip() in readme.read_text(encoding="utf-8")


def test_bad_variant_is_rejected_by_its_row(tmp_path: Path) -> None:
    write(
        tmp_path, products=FILES["products"] + "prd_hat,brd_a,帽,Hat,hat,var_s,size=S,99.00\nprd_hat,brd_a,帽,Hat,hat,var_m,size=M,dear\n"
    )
    found = list(read_items(tmp_path, "products")[1])
    assert [item.row for item in found if isinstance(item, Item)] == [1]
    assert found[1] == Reject("products", 4, "prd_hat", "UNREADABLE", "price: expected an amount like 12.30")


def test_import_of_empty_folder_raises_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(import_, [str(tmp_path), "--data", str(tmp_path)])
    assert isinstance(result.exception, LocalError) and "holds no file to import" in str(result.exception)


@given(st.lists(st.one_of(st.sampled_from("ab"), st.none()), max_size=40), st.integers(1, 5))
def test_batches_keep_all_items_in_order(groups: list[str | None], size: int) -> None:
    found = [
        Reject("f", row, str(row), "NO", "no") if group is None else Item(row, str(row), orders_pb2.ImportedOrder(), group)
        for row, group in enumerate(groups)
    ]
    made = list(batches(iter(found), size))
    assert [item for _, batch, _ in made for item in batch] == [item for item in found if isinstance(item, Item)]
    assert [reject for _, _, unread in made for reject in unread] == [item for item in found if isinstance(item, Reject)]
    assert all(len(batch) <= size and len({item.group for item in batch}) <= 1 for _, batch, _ in made)
    assert [place for place, _, _ in made] == sorted({place for place, _, _ in made}) and (not made or made[-1][0] == len(found))
