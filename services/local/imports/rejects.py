"""Rejects file: `rejects.csv`, the rejected rows of an import with their reasons, for spreadsheets."""

import csv
import os
from collections.abc import Iterable
from pathlib import Path

from services.local.imports.items import Reject

REJECTS = "rejects.csv"
COLUMNS = ("file", "row", "id", "reason", "message")
ENCODING = "utf-8-sig"
"""The file begins with a BOM, so that spreadsheets show Chinese."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A spreadsheet evaluates a cell that begins with one of these, unless an apostrophe precedes it."""


class Rejects:
    """The rejects file of a folder. The checkpoint stores its `size`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / REJECTS

    @property
    def size(self) -> int:
        """Its size in bytes, 0 if it is missing."""
        return self.path.stat().st_size if self.path.exists() else 0

    def truncate(self, size: int) -> None:
        """Removes what was written after the checkpoint; the import writes it again."""
        if not size:
            self.path.unlink(missing_ok=True)
        elif self.size > size:
            os.truncate(self.path, size)

    def add(self, rejects: Iterable[Reject]) -> None:
        """Appends rejects durably."""
        rows = [[reject.file, reject.row, reject.id, reject.reason, reject.message] for reject in rejects]
        fresh = not self.size
        # Only the first write may add a BOM.
        with self.path.open("a", encoding=ENCODING if fresh else "utf-8", newline="") as file:
            csv.writer(file).writerows([[escape_formula(cell) for cell in row] for row in [*([COLUMNS] if fresh else []), *rows]])
            file.flush()
            os.fsync(file.fileno())

    def remove(self, name: str, rows: Iterable[int] | None = None) -> None:
        """Removes the rejects of one file, or of some of its rows."""
        if not self.size:
            return
        removed = None if rows is None else {str(row) for row in rows}
        draft = self.path.with_suffix(".draft")
        with self.path.open(encoding=ENCODING, newline="") as old, draft.open("w", encoding=ENCODING, newline="") as new:
            csv.writer(new).writerows(
                cells for cells in csv.reader(old) if cells[:1] != [name] or not (removed is None or removed.issuperset(cells[1:2]))
            )
        draft.replace(self.path)


def escape_formula(cell: object) -> str:
    """Returns the cell as text that no spreadsheet evaluates."""
    shown = str(cell)
    return f"'{shown}" if shown.startswith(FORMULA) else shown
