"""Reading the files of a folder with pyarrow. A file is held in memory as columns while it is loaded, its rows a few at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.local.errors import LocalError
from services.local.imports.layout import File

ROWS_AT_ONCE = 5_000
ADVICE = "reading files takes the extra that brings pyarrow: .venv/bin/pip install -e '.[demo]'"


def find(folder: Path, name: str) -> Path | None:
    """The file of that name, CSV or Parquet; `LocalError` when both stand there."""
    found = [path for path in (folder / f"{name}.csv", folder / f"{name}.parquet") if path.is_file()]
    if len(found) > 1:
        raise LocalError(f"{folder} holds {name} twice, as CSV and as Parquet; remove one")
    return found[0] if found else None


def table(path: Path, file: File) -> Any:
    """The file as an Arrow table of its known columns plus `row`, the number of each row in the file (from 1, the header not counted)."""
    try:
        import pyarrow as pa
        from pyarrow import csv, parquet
    except ImportError:
        raise LocalError(ADVICE) from None
    try:
        if path.suffix == ".csv":
            options = csv.ConvertOptions(column_types={column.name: pa.string() for column in file.columns}, strings_can_be_null=False)
            read = csv.read_csv(path, convert_options=options, parse_options=csv.ParseOptions(newlines_in_values=True))
        else:
            read = parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise LocalError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if missing := [column.name for column in file.columns if column.required and column.name not in read.column_names]:
        raise LocalError(f"{path} lacks the column {missing[0]}; the README names the columns of each file")
    read = read.select([column.name for column in file.columns if column.name in read.column_names])
    return read.append_column("row", pa.array(range(1, read.num_rows + 1), pa.int64()))


def placed(read: Any, column: str, ids: Any) -> Any:
    """A table in the order in which its ids stand in `ids`, with that `place` (from 0); at the end what stands there nowhere, at null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    place = pc.index_in(pc.cast(read[column], pa.string()), value_set=pc.cast(ids, pa.string()).combine_chunks())
    return read.append_column("place", place).sort_by([("place", "ascending"), (column, "ascending"), ("row", "ascending")])


def rows(read: Any) -> Iterator[dict[str, Any]]:
    """The rows of a table as cells by column name."""
    names = read.column_names
    for batch in read.to_batches(max_chunksize=ROWS_AT_ONCE):
        for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield dict(zip(names, cells, strict=True))
