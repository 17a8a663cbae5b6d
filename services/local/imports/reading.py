"""File reader on pyarrow. A file is held in memory as columns; its rows become Python objects a few at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.local.errors import LocalError
from services.local.imports.layout import File

ROWS_PER_BATCH = 5_000
ADVICE = "Import needs pyarrow, which the extra `demo` contains. Install it: .venv/bin/pip install -e '.[demo]'"


def find_file(folder: Path, name: str) -> Path | None:
    """Returns the CSV or Parquet file of that name; raises `LocalError` if there are both."""
    found = [path for path in (folder / f"{name}.csv", folder / f"{name}.parquet") if path.is_file()]
    if len(found) > 1:
        raise LocalError(f"{folder} holds {name} twice, as CSV and as Parquet. Remove one of them.")
    return found[0] if found else None


def read_table(path: Path, file: File) -> Any:
    """Returns an Arrow table of the known columns plus `row`, the row number from 1 without the header; raises `LocalError`."""
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
        raise LocalError(f"{path} cannot be read: {str(error).splitlines()[0]}. Correct the file, then import again.") from None
    if missing := [column.name for column in file.columns if column.required and column.name not in read.column_names]:
        raise LocalError(f"{path} has no column {missing[0]}. Add it: services/local/imports/README.md lists the columns.")
    read = read.select([column.name for column in file.columns if column.name in read.column_names])
    return read.append_column("row", pa.array(range(1, read.num_rows + 1), pa.int64()))


def sort_by_ids(read: Any, column: str, ids: Any) -> Any:
    """Sorts a table by the position of its ids in `ids` and adds that `place`, from 0. Rows with other ids come last, with null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    place = pc.index_in(pc.cast(read[column], pa.string()), value_set=pc.cast(ids, pa.string()).combine_chunks())
    return read.append_column("place", place).sort_by([("place", "ascending"), (column, "ascending"), ("row", "ascending")])


def iterate_rows(read: Any) -> Iterator[dict[str, Any]]:
    """Yields the rows of a table as cells by column name."""
    names = read.column_names
    for batch in read.to_batches(max_chunksize=ROWS_PER_BATCH):
        for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield dict(zip(names, cells, strict=True))
