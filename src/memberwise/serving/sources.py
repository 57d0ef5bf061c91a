"""Where new events come from: a protocol, and a directory of files as the default.

A source is read from a *position*, a small JSON object that says how far one has come. The follower keeps the
position inside the version that it publishes, so that the two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import polars as pl

from memberwise.data.files import read_table

Event = dict[str, Any]
Position = dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """Some events, and the position behind them.

    Attributes
    ----------
    events
        Rows of the log as plain values.
    position
        Where to read on.
    broken
        Lines that are no events.
    """

    events: Sequence[Event]
    position: Position
    broken: Sequence[str] = ()


class EventSource(Protocol):
    """A stream of events that can be read again from any position it has given out.

    A source for Kafka keeps ``{partition: offset}`` as its position, seeks there in `read`, and commits in
    `settled`, if it cares to.

    Attributes
    ----------
    name : str
        Tells it from the other sources of a project, after a restart too: each has a position of its own.
    """

    name: str

    def read(self, position: Position, limit: int) -> Piece:
        """Up to about `limit` events after a position ({} is the beginning); no events if there are none."""
        ...

    def settled(self, position: Position) -> None:
        """A version that holds everything before this position is published."""
        ...


class Directory:
    """Files of events in a directory: Parquet, CSV and Arrow files that appear whole, JSONL files that grow.

    Files are read in the order of their names. A line of a JSONL file is an event or a list of events, and
    counts when its end is there.

    Parameters
    ----------
    folder : Path
        Need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = str(folder.resolve())

    def read(self, position: Position, limit: int) -> Piece:
        """See `EventSource`."""
        known: Mapping[str, int] = position.get("files", {})
        events: list[Event] = []
        broken: list[str] = []
        files: dict[str, int] = {}
        for path in self._files():
            done = int(known.get(path.name, 0))
            if len(events) < limit:
                reader = _lines if path.suffix.lower() in (".jsonl", ".ndjson") else _whole
                done = reader(path, done, limit - len(events), events, broken)
            if done:
                files[path.name] = done
        return Piece(events, {"files": files}, broken)

    def settled(self, position: Position) -> None:
        """Files stay where they are: they belong to whoever wrote them."""

    def _files(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        kinds = {".jsonl", ".ndjson", ".parquet", ".pq", ".csv", ".arrow", ".feather", ".ipc"}
        found = (p for p in self.folder.iterdir() if p.suffix.lower() in kinds)
        return sorted((p for p in found if not p.name.startswith((".", "_"))), key=lambda p: p.name)


def _lines(path: Path, done: int, limit: int, events: list[Event], broken: list[str]) -> int:
    """Whole lines from byte `done` on; the new number of bytes done."""
    with path.open("rb") as file:
        file.seek(done)
        taken = 0
        for line in file:
            if not line.endswith(b"\n") or taken >= limit:
                break
            done += len(line)
            if not line.strip():
                continue
            try:
                found = msgspec.json.decode(line, type=list[Event] | Event)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                broken.append(f"{path.name}: {error}")
                continue
            batch = found if isinstance(found, list) else [found]
            events.extend(batch)
            taken += len(batch)
    return done


def _whole(path: Path, done: int, limit: int, events: list[Event], broken: list[str]) -> int:
    """Rows of a table from row `done` on; the new number of rows done."""
    table: pl.DataFrame = read_table(str(path), None)
    piece = table[done : done + limit]
    events.extend(piece.to_dicts())
    return done + len(piece)
