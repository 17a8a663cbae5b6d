"""`rejects.csv`: what an import did not take and why, to be opened in a spreadsheet."""

import csv
import os
from collections.abc import Iterable
from pathlib import Path

from services.local.imports.items import Reject

REJECTS = "rejects.csv"
COLUMNS = ("file", "row", "id", "reason", "message")
ENCODING = "utf-8-sig"
"""With a BOM, so that spreadsheets show Chinese."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet takes a cell that begins so for; an apostrophe before it makes it text."""


class Rejects:
    """The file in a folder. `size` is what a checkpoint remembers: all that was written so far."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / REJECTS

    @property
    def size(self) -> int:
        """Its bytes, 0 when there is none."""
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Forgets what was written behind `size`: it is written again."""
        if not size:
            self.path.unlink(missing_ok=True)
        elif self.size > size:
            os.truncate(self.path, size)

    def add(self, rejects: Iterable[Reject]) -> None:
        """Writes them down, for certain."""
        rows = [[reject.file, reject.row, reject.id, reject.reason, reject.message] for reject in rejects]
        fresh = not self.size
        # The BOM belongs before the first byte only.
        with self.path.open("a", encoding=ENCODING if fresh else "utf-8", newline="") as file:
            csv.writer(file).writerows([[text(cell) for cell in row] for row in [*([COLUMNS] if fresh else []), *rows]])
            file.flush()
            os.fsync(file.fileno())

    def forget(self, name: str, rows: Iterable[int] | None = None) -> None:
        """Leaves out what was said of one file, or of these rows of it."""
        if not self.size:
            return
        gone = None if rows is None else {str(row) for row in rows}
        draft = self.path.with_suffix(".draft")
        with self.path.open(encoding=ENCODING, newline="") as old, draft.open("w", encoding=ENCODING, newline="") as new:
            csv.writer(new).writerows(
                cells for cells in csv.reader(old) if cells[:1] != [name] or not (gone is None or gone.issuperset(cells[1:2]))
            )
        draft.replace(self.path)


def text(cell: object) -> str:
    """A cell that every spreadsheet shows as it is written."""
    shown = str(cell)
    return f"'{shown}" if shown.startswith(FORMULA) else shown
