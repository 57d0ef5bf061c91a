"""The event log in time order, on disk: an external sort that holds one piece at a time.

Source rows are checked in pieces, each piece is sorted and written as Arrow. Reading merges the pieces by
ranges of time. Memory is that of one piece and one range, however long the log is. Rows of one moment are
never parted by the end of a chunk: whatever happens "at the same time" is seen together.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from memberwise.data.events import ROW, TIME, EventChecker, Rejects
from memberwise.data.files import Source, called, column_names, record_batches
from memberwise.data.uses import need_event_columns
from memberwise.errors import DataError

CHUNK_ROWS = 131_072
Transform = Callable[[pl.DataFrame], pl.DataFrame]


class EventLog:
    """Checked events, read back in time order, chunk by chunk.

    Parameters
    ----------
    folder : Path
        Holds the pieces.
    pieces : list of Path
        Arrow files, each sorted by time.
    chunk_rows : int
        About how many rows a chunk has.
    """

    def __init__(self, folder: Path, pieces: list[Path], chunk_rows: int = CHUNK_ROWS) -> None:
        self.folder = folder
        self._pieces = [_map(p) for p in pieces]
        times = [p[TIME].to_numpy() for p in self._pieces]
        self._bounds = _boundaries(times, chunk_rows)
        self._starts = [np.searchsorted(t, self._bounds) for t in times]

    def __len__(self) -> int:
        return sum(len(p) for p in self._pieces)

    def chunks(self) -> Iterator[pl.DataFrame]:
        """The chunks, in time order; events of one moment stand in the order of the source."""
        for k in range(len(self._bounds) - 1):
            ranges = zip(self._pieces, self._starts, strict=True)
            parts = [p[int(s[k]) : int(s[k + 1])] for p, s in ranges if s[k + 1] > s[k]]
            if len(parts) == 1:  # a log that came in time order needs no merge
                yield parts[0]
            else:
                merged = pl.concat(parts, how="vertical_relaxed")
                yield merged.sort(TIME, ROW, maintain_order=True)

    def times(self) -> npt.NDArray[np.int64]:
        """Times of all events, in order (8 bytes a row)."""
        return np.sort(np.concatenate([p[TIME].to_numpy() for p in self._pieces]), kind="stable")

    def map(self, transform: Transform) -> EventLog:
        """A new log of the transformed chunks, in place of this one. The transform keeps times in order."""
        folder = self.folder.with_name(self.folder.name + ".mapped")
        folder.mkdir()
        pieces = [_write(transform(c), folder / f"{i}.arrow") for i, c in enumerate(self.chunks())]
        self.remove()
        return EventLog(folder, pieces)

    def remove(self) -> None:
        """Delete the files; what was read of them stays usable."""
        shutil.rmtree(self.folder, ignore_errors=True)


def check_events(
    source: Source, checker: EventChecker, rejects: Rejects, base: Path | None = None
) -> Iterator[pl.DataFrame]:
    """Checked events in the order of the source, piece by piece.

    Raises
    ------
    DataError
        If columns are missing.
    """
    own = isinstance(source, str | list) and source == checker.schema.events.path
    have = column_names(source, base)
    need_event_columns(checker.schema, checker.columns, have, called(source), own=own)
    row = 0
    for raw in record_batches(source, checker.columns, base, checker.text_columns, CHUNK_ROWS):
        yield checker.check(raw, row, rejects)
        row += len(raw)


def sort_events(
    source: Source,
    checker: EventChecker,
    folder: Path,
    rejects: Rejects,
    base: Path | None = None,
    transform: Transform | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> EventLog:
    """Check all events and sort them by time.

    Events of one moment keep the order of the source.

    Parameters
    ----------
    source
        Files or a table.
    folder
        Where the sorted pieces go; it is emptied first.
    transform
        Applied to each chunk in time order (negative sampling).

    Raises
    ------
    DataError
        If no usable row is found or too many are rejected.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pieces = []
    for i, piece in enumerate(check_events(source, checker, rejects, base)):
        if len(piece):
            pieces.append(_write(_in_order(piece), folder / f"{i}.arrow"))
    where = called(source)
    rejects.check(checker.schema.events.max_rejected, where)
    if not pieces:
        if rejects.read:
            raise DataError(f"none of the {rejects.read:,} rows can be used", where=where)
        raise DataError("the log is empty: it has no rows", where=where)
    log = EventLog(folder, pieces, chunk_rows)
    return log.map(transform) if transform is not None else log


def _in_order(piece: pl.DataFrame) -> pl.DataFrame:
    return piece if piece[TIME].is_sorted() else piece.sort(TIME, maintain_order=True)


def _write(piece: pl.DataFrame, path: Path) -> Path:
    table = piece.to_arrow()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def _map(path: Path) -> pl.DataFrame:
    with pa.memory_map(str(path)) as source:  # the rows stay mapped when the file is closed
        return pl.DataFrame(pa.ipc.open_file(source).read_all())


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
