"""From a log to packed rows: check, sort, encode in time order, then settle what train decides."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import numpy as np
import numpy.typing as npt

from memberwise.data._kernels import count_places, move_places
from memberwise.data.events import EventChecker, Rejects
from memberwise.data.files import Source, expand
from memberwise.data.frame import load_entity_tables
from memberwise.data.log import EventLog, sort_events
from memberwise.data.negatives import NegativeSampler
from memberwise.data.packed import PackedRows, PackedWriter
from memberwise.data.pipeline import FeaturePipeline, key_column
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.errors import DataError
from memberwise.schema import Schema, Vector, to_micros

FORMAT = 4
_BLOCK = 1 << 18
Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and of how much."""


@dataclass
class Prepared:
    """What training starts from.

    Attributes
    ----------
    packed
        All rows as arrays.
    pipeline
        As of the end of the log.
    negatives
        As of the end of the log, if the project asks for them.
    summary
        Rows, spans of time, rejected rows: for people and for the report.
    """

    packed: PackedRows
    pipeline: FeaturePipeline
    negatives: NegativeSampler | None
    rejects: Rejects
    summary: dict[str, object] = field(default_factory=dict)

    def attach(self, feature: str, vectors: EmbeddingTimeline) -> None:
        """Let a vector feature of all rows see these vectors, each row those that its time allows."""
        self.pipeline.attach(feature, vectors)
        arrays = self.packed.arrays
        arrays[feature] = vectors.rows(arrays[key_column(feature)], arrays["time"])


def fingerprint(schema: Schema, base: Path | None) -> str:
    """Name of everything that the packed rows depend on: the schema and the state of its files."""
    parts: list[object] = [FORMAT, json.loads(schema.model_dump_json(include=set(Schema.model_fields)))]
    sources = [schema.events.path, *(e.path for e in schema.entities.values() if e.path is not None)]
    sources += [f.path for f in schema.features if isinstance(f, Vector) and f.path is not None]
    for source in sources:
        for file in expand(source, base):
            if "://" in file:
                fs, name = fsspec.core.url_to_fs(file)
                parts.append([file, fs.ukey(name)])
            else:
                # From the project's place, so that a project that was moved need not be prepared again.
                stat, place = os.stat(file), os.path.relpath(file, base or ".")
                parts.append([place, stat.st_size, stat.st_mtime_ns])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def split_bounds(times: npt.NDArray[np.int64], schema: Schema) -> dict[str, tuple[int, int]]:
    """Row ranges of train, valid and test; rows of one moment stay together.

    Raises
    ------
    DataError
        If a part is empty.
    """
    split, n = schema.split, len(times)
    if split.valid_from is not None and split.test_from is not None:
        cuts = [to_micros(split.valid_from), to_micros(split.test_from)]
        a, b = (int(np.searchsorted(times, c, side="left")) for c in cuts)
    else:
        # Rows that share their moment with the first row behind the cut go behind it.
        at = [min(round(n * split.train), n - 1), min(round(n * (split.train + split.valid)), n - 1)]
        a, b = (int(np.searchsorted(times, times[i], side="left")) for i in at)
    parts = {"train": (0, a), "valid": (a, b), "test": (b, n)}
    for name, (first, last) in parts.items():
        if last <= first:
            raise DataError(
                f"the split leaves no rows for {name}: the log has {n:,} rows from {_when(times[0])} "
                f"to {_when(times[-1])}",
                where="split",
                fix="give more data, or other shares or dates",
            )
    return parts


def _when(us: int | np.int64) -> str:
    return datetime.fromtimestamp(int(us) / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def prepare(
    schema: Schema,
    work: Path,
    base: Path | None = None,
    source: Source | None = None,
    progress: Progress = lambda what, done, of: None,
) -> Prepared:
    """Check, sort, encode and pack a whole log.

    Memory is bounded by one chunk of rows, the entity tables and the state per key; the rows go to disk.

    Parameters
    ----------
    schema
        The meaning of the log.
    work : Path
        Directory for the sorted log and the packed rows.
    base
        Where the project's relative paths start.
    source
        Instead of ``schema.events.path``.
    """
    rejects = Rejects()
    checker = EventChecker(schema)
    sampler = NegativeSampler(schema) if schema.negatives is not None else None
    progress("sort", 0, 1)
    tables = load_entity_tables(schema, base)  # first: what is wrong with them need not wait for the sort
    log = sort_events(
        schema.events.path if source is None else source,
        checker,
        work / "events",
        rejects,
        base,
        transform=sampler.expand if sampler else None,
    )
    times = log.times()
    splits = split_bounds(times, schema)
    train_end = int(times[splits["train"][1] - 1])
    pipeline = FeaturePipeline(schema, tables, train_end, base)
    with PackedWriter(work / "packed", len(log)) as writer:
        _encode(log, pipeline, writer, progress)
        _settle(pipeline, writer, splits["train"][1])
        packed = writer.publish(splits, leave_out=("dense.raw",))
    _check_labels(packed, schema)
    log.remove()
    return Prepared(packed, pipeline, sampler, rejects, _summary(packed, pipeline, rejects, sampler))


def _encode(log: EventLog, pipeline: FeaturePipeline, writer: PackedWriter, progress: Progress) -> None:
    done = 0
    for chunk in log.chunks():
        frame = pipeline.absorb(chunk)
        arrays = pipeline.encode(frame)
        arrays["dense.raw"] = arrays.pop("dense")
        writer.append(arrays | pipeline.labels(frame.events))
        done += len(chunk)
        progress("encode", done, len(log))


def _settle(pipeline: FeaturePipeline, writer: PackedWriter, train_rows: int) -> None:
    """Freeze vocabularies and numeric transforms by train, and revise the rows accordingly."""
    names = list(pipeline.vocabularies)
    sizes = [pipeline.vocabularies[n].rows for n in names]
    starts = dict(zip(names, np.concatenate([[0], np.cumsum(sizes)])[:-1].tolist(), strict=True))
    columns = _table_columns(pipeline)
    counts = np.zeros(sum(sizes), np.int64)
    for name, tables in columns.items():
        first = np.array([starts[t] if counted else -1 for t, counted in tables], np.int64)
        count_places(writer.arrays[name][:train_rows], first, counts)
    moved = np.concatenate(
        [
            pipeline.vocabularies[n].freeze(counts[starts[n] : starts[n] + k])
            for n, k in zip(names, sizes, strict=True)
        ]
        or [np.zeros(0, np.int32)]
    )
    for name, tables in columns.items():
        move_places(writer.arrays[name], np.array([starts[t] for t, _ in tables], np.int64), moved)
    raw = writer.arrays["dense.raw"]
    pipeline.normaliser.fit(np.asarray(raw[:train_rows], np.float32))
    dense = writer.add("dense", np.float32, len(pipeline.normaliser.names))
    for start in range(0, writer.rows, _BLOCK):
        rows = slice(start, min(start + _BLOCK, writer.rows))
        dense[rows] = pipeline.normaliser.transform(np.asarray(raw[rows], np.float32))


def _table_columns(pipeline: FeaturePipeline) -> dict[str, list[tuple[str, bool]]]:
    """Table of each column of each array of rows, and whether the column counts towards the vocabulary."""
    layout = pipeline.layout
    columns = {"ids": [(f.table, True) for f in layout.ids for _ in range(f.width)]}
    for h in layout.histories:
        # Where the item has a field of its own, that one counts: a history would count an event many times.
        alone = not any(f.table == h.item_table for f in layout.ids)
        columns[f"{h.name}.items"] = [(h.item_table, alone)] * (h.length * h.parts)
        columns[f"{h.name}.actions"] = [(h.action_table, True)] * h.length
    return columns


def _check_labels(packed: PackedRows, schema: Schema) -> None:
    first, last = packed.splits["train"]
    labels = packed.arrays["labels"][first:last]
    for t, task in enumerate(schema.task_names):
        values = np.unique(labels[:, t][~np.isnan(labels[:, t])])
        if len(values) == 0:
            raise DataError("the label is defined for no row of train", where=f"tasks.{task}")
        if len(values) == 1:
            fix = "check the label's expression"
            if schema.negatives is None:
                fix += "; for a log that holds only positives, ask for 'negatives'"
            raise DataError(
                f"every label in train is {values[0]:g}: there is nothing to learn",
                where=f"tasks.{task}",
                fix=fix,
            )


def _summary(
    packed: PackedRows, pipeline: FeaturePipeline, rejects: Rejects, sampler: NegativeSampler | None
) -> dict[str, object]:
    splits = {}
    for name in packed.splits:
        rows = packed.rows(name)
        time = np.asarray(rows["time"], np.int64)
        labels = np.asarray(rows["labels"], np.float64)
        defined = (~np.isnan(labels)).sum(axis=0)
        rates = np.nansum(labels, axis=0) / np.where(defined, defined, np.nan)
        splits[name] = {
            "rows": len(time),
            "first": int(time[0]),
            "last": int(time[-1]),
            "label rates": dict(zip(pipeline.layout.tasks, rates.tolist(), strict=True)),
        }
    summary: dict[str, object] = {
        "rows read": rejects.read,
        "rows rejected": rejects.total,
        "reasons": dict(rejects.counts),
        "splits": splits,
        "members": len(np.unique(packed.arrays["member"])),
        "items": len(np.unique(packed.arrays["item"])),
        "packed bytes": packed.nbytes,
        "table rows": {n: v.rows for n, v in pipeline.vocabularies.items()},
    }
    if sampler is not None:
        summary["negatives"] = sampler.statement()
    return summary


def check_new_events(
    schema: Schema,
    source: Source,
    work: Path,
    base: Path | None = None,
    sampler: NegativeSampler | None = None,
) -> tuple[EventLog, Rejects]:
    """Check and sort events that came after the fit."""
    rejects = Rejects()
    checker = EventChecker(schema)
    log = sort_events(
        source, checker, work / "events", rejects, base, transform=sampler.expand if sampler else None
    )
    return log, rejects
