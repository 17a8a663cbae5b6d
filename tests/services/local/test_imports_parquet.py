"""Parquet import: typed cells give the same items as the text of CSV files."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from services.local.errors import LocalError
from services.local.imports.items import read_items
from services.local.imports.layout import FILES
from tests.services.local.importing import Channels, new_import, rejects, write

TYPED: dict[str, dict[str, list[Any]]] = {
    "orders": {
        "order_id": ["ord_1", "ord_2", "ord_3"],
        "consumer_id": ["con_1", "con_1", None],
        "store_id": ["str_a", "str_a", "str_a"],
        "paid_at": [datetime(2026, 1, 1, 12), datetime(2026, 2, 1, 12), datetime(2026, 3, 1, 12)],
    },
    "order_lines": {
        "order_id": ["ord_1", "ord_1", "ord_2"],
        "variant_id": ["var_40", "var_39", "var_40"],
        "quantity": [1, 2, 1],
        "paid": [Decimal("399.00"), Decimal("798.00"), Decimal("0.001")],
    },
}


def typed(folder: Path, name: str) -> None:
    """Replaces the CSV file of that name by a Parquet file."""
    (folder / f"{name}.csv").unlink()
    parquet.write_table(pa.table(TYPED[name]), folder / f"{name}.parquet")


async def test_folder_with_csv_and_parquet_is_imported(tmp_path: Path, channels: Channels) -> None:
    write(tmp_path)
    for name in TYPED:
        typed(tmp_path, name)
    counts = (await new_import(tmp_path, channels).run()).counts
    assert (counts["orders"].imported, counts["orders"].rejected) == (1, 2)
    rejected = rejects(tmp_path)
    assert (
        rejected["ord_2"][1].endswith("expected an amount with at most 2 decimals, as CNY has")
        and rejected["ord_3"][1] == "consumer_id is empty. Fill it in: the column is required."
    )


def test_parquet_and_csv_give_equal_items(tmp_path: Path) -> None:
    columns = {file.name: [column.name for column in file.columns] for file in FILES}
    one, other = tmp_path / "csv", tmp_path / "parquet"
    for folder in (one, other):
        folder.mkdir()
        write(folder)
    for path in sorted(other.glob("*.csv")):
        texts = csv.ConvertOptions(column_types=dict.fromkeys(columns[path.stem], pa.string()), strings_can_be_null=False)
        parquet.write_table(csv.read_csv(path, convert_options=texts), path.with_suffix(".parquet"))
        path.unlink()
    for name in ("brands", "stores", "products", "consumers", "orders"):
        assert list(read_items(one, name)[1]) == list(read_items(other, name)[1])


def test_time_without_offset_is_shanghai_time(tmp_path: Path) -> None:
    write(tmp_path)
    for name in TYPED:
        typed(tmp_path, name)
    found: dict[str, Any] = {item.id: item for item in read_items(tmp_path, "orders")[1]}
    assert found["ord_1"].message.paid_at.ToDatetime(tzinfo=UTC) == datetime(2026, 1, 1, 4, tzinfo=UTC)


def test_file_in_both_formats_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    parquet.write_table(pa.table(TYPED["orders"]), tmp_path / "orders.parquet")
    with pytest.raises(LocalError, match="holds orders twice, as CSV and as Parquet"):
        read_items(tmp_path, "orders")


@pytest.mark.parametrize("content", [b"", b"PAR1 but not really"])
def test_damaged_parquet_file_raises_local_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "brands.parquet").write_bytes(content)
    with pytest.raises(LocalError, match=r"brands.parquet cannot be read"):
        read_items(tmp_path, "brands")
