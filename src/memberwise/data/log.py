"""The event log in time order, on disk: an external sort that holds one piece at a time.

Source rows are checked in pieces, each piece is sorted and written as Arrow, and the pieces are merged by
ranges of time. Memory is that of one piece and one range, however long the log is. Rows of one moment are
never parted by the end of a chunk: whatever happens "at the same time" is seen together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from memberwise.data.events import ROW, TIME, EventChecker, Rejects
from memberwise.data.files import Source, column_names, need_columns, record_batches
from memberwise.errors import DataError

CHUNK_ROWS = 131_072
Transform = Callable[[pl.DataFrame], pl.DataFrame]


class EventLog:
    """Checked events in time order, read back chunk by chunk.

    Parameters
    ----------
    path : Path
        An Arrow file written by `sort_events`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = pa.ipc.open_file(pa.memory_map(str(path)))
        self._sizes: list[int] = json.loads(_sizes_file(path).read_text())

    def __len__(self) -> int:
        return sum(self._sizes)

    def chunks(self) -> Iterator[pl.DataFrame]:
        """The chunks, in time order."""
        for i in range(self._file.num_record_batches):
            yield pl.DataFrame(pa.Table.from_batches([self._file.get_batch(i)]))

    def times(self) -> npt.NDArray[np.int64]:
        """Times of all events (8 bytes a row)."""
        parts = [c[TIME].to_numpy() for c in self.chunks()]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def check_events(
    source: Source, checker: EventChecker, rejects: Rejects, base: Path | None = None
) -> Iterator[pl.DataFrame]:
    """Checked events in the order of the source, piece by piece.

    Raises
    ------
    DataError
        If columns are missing.
    """
    where = "the table" if isinstance(source, pl.DataFrame | pa.Table) else str(source)
    need_columns(column_names(source, base), checker.columns, where)
    row = 0
    for raw in record_batches(source, checker.columns, base, checker.text_columns, CHUNK_ROWS):
        yield checker.check(raw, row, rejects)
        row += len(raw)


def sort_events(
    source: Source,
    checker: EventChecker,
    path: Path,
    rejects: Rejects,
    base: Path | None = None,
    transform: Transform | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> EventLog:
    """Check all events and write them in time order.

    Events of one moment keep the order of the source.

    Parameters
    ----------
    source
        Files or a table.
    path
        Where the sorted log goes.
    transform
        Applied to each chunk in time order before it is written (negative sampling).

    Raises
    ------
    DataError
        If no usable row is found or too many are rejected.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix="sort-") as scratch:
        pieces = []
        for i, piece in enumerate(check_events(source, checker, rejects, base)):
            if len(piece):
                pieces.append(_spill(piece.sort(TIME, maintain_order=True), Path(scratch) / f"{i}.arrow"))
        where = "the events" if isinstance(source, pl.DataFrame | pa.Table) else str(source)
        if not pieces:
            rejects.check(checker.schema.events.max_rejected, where)
            if rejects.read:
                raise DataError(f"none of the {rejects.read:,} rows can be used", where=where)
            raise DataError("the log is empty: it has no rows", where=where)
        rejects.check(checker.schema.events.max_rejected, where)
        _merge([_map(p) for p in pieces], path, transform, chunk_rows)
    return EventLog(path)


def _spill(piece: pl.DataFrame, path: Path) -> Path:
    table = piece.to_arrow()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def _map(path: Path) -> pl.DataFrame:
    with pa.memory_map(str(path)) as source:  # the rows stay mapped when the file is closed
        return pl.DataFrame(pa.ipc.open_file(source).read_all())


def _merge(pieces: list[pl.DataFrame], path: Path, transform: Transform | None, chunk_rows: int) -> None:
    """Write the pieces' rows in time order, cut at times so that a moment is never parted."""
    times = [p[TIME].to_numpy() for p in pieces]
    bounds = _boundaries(times, chunk_rows)
    starts = [np.searchsorted(t, bounds) for t in times]
    sizes: list[int] = []
    schema: pa.Schema | None = None
    writer: pa.RecordBatchFileWriter | None = None
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.OSFile(str(path), "wb") as sink:
        for k in range(len(bounds) - 1):
            parts = [p[int(s[k]) : int(s[k + 1])] for p, s in zip(pieces, starts, strict=True)]
            chunk = pl.concat([p for p in parts if len(p)], how="vertical_relaxed")
            chunk = chunk.sort(TIME, ROW, maintain_order=True)
            table = (transform(chunk) if transform is not None else chunk).to_arrow().combine_chunks()
            schema = schema or table.schema
            writer = writer or pa.ipc.new_file(sink, schema, options=options)
            writer.write_table(table.cast(schema))
            sizes.append(len(table))
        if writer is not None:
            writer.close()
    _sizes_file(path).write_text(json.dumps(sizes))


def _sizes_file(path: Path) -> Path:
    """The chunks' sizes beside the log, so that its length is known without decompressing it."""
    return path.with_suffix(".sizes.json")


def _boundaries(times: list[npt.NDArray[np.int64]], chunk_rows: int) -> npt.NDArray[np.int64]:
    """Times that cut the whole into about `chunk_rows` rows each, first and last included."""
    total = sum(len(t) for t in times)
    first, last = min(int(t[0]) for t in times), max(int(t[-1]) for t in times)
    cuts = max(1, round(total / chunk_rows))
    # A sample of at most 1,024 times of each sorted piece stands for all of them.
    stride = [max(1, len(t) // 1024) for t in times]
    sample = np.sort(np.concatenate([t[::s] for t, s in zip(times, stride, strict=True)]))
    inner = sample[np.linspace(0, len(sample) - 1, cuts + 1).round().astype(int)[1:-1]]
    return np.unique(np.concatenate([[first], inner, [last + 1]])).astype(np.int64)
