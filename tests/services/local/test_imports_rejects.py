"""Rejects file: a spreadsheet shows its Chinese text and evaluates no cell of it."""

import csv
from pathlib import Path

import pytest

from services.local.imports.items import Reject
from services.local.imports.rejects import COLUMNS, REJECTS, Rejects


def rows(folder: Path) -> list[list[str]]:
    with (folder / REJECTS).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def reject(row: int, *, file: str = "orders", id: str = "ord_1", message: str = "没有这样的门店") -> Reject:
    return Reject(file, row, id, "STORE_NOT_FOUND", message)


def test_rejects_file_has_one_bom(tmp_path: Path) -> None:
    rejects = Rejects(tmp_path)
    rejects.add([reject(1)])
    rejects.add([reject(2)])
    written = (tmp_path / REJECTS).read_bytes()
    assert written.startswith(b"\xef\xbb\xbffile,") and written.count(b"\xef\xbb\xbf") == 1
    assert rows(tmp_path) == [list(COLUMNS), *(["orders", str(row), "ord_1", "STORE_NOT_FOUND", "没有这样的门店"] for row in (1, 2))]


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_formula_cell_is_escaped(tmp_path: Path, formula: str) -> None:
    Rejects(tmp_path).add([reject(1, id=formula, message=formula)])
    assert rows(tmp_path)[1] == ["orders", "1", f"'{formula}", "STORE_NOT_FOUND", f"'{formula}"]


def test_truncate_removes_rows_after_checkpoint(tmp_path: Path) -> None:
    rejects = Rejects(tmp_path)
    rejects.add([reject(1)])
    size = rejects.size
    rejects.add([reject(2)])
    Rejects(tmp_path).truncate(size)
    assert len(rows(tmp_path)) == 2
    Rejects(tmp_path).truncate(0)
    assert not (tmp_path / REJECTS).exists()


@pytest.mark.parametrize(
    ("of", "left"), [(None, [["consumers", "1"]]), ([1, 3], [["consumers", "1"], ["orders", "2"]])], ids=["whole", "rows"]
)
def test_remove_drops_file_or_its_rows(tmp_path: Path, of: list[int] | None, left: list[list[str]]) -> None:
    rejects = Rejects(tmp_path)
    rejects.add([reject(1), reject(1, file="consumers"), reject(2), reject(3)])
    rejects.remove("orders", of)
    assert [row[:2] for row in rows(tmp_path)[1:]] == left
    assert (tmp_path / REJECTS).read_bytes().count(b"\xef\xbb\xbf") == 1
