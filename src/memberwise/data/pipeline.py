"""Events to arrays: the one path that training, evaluation and serving all take.

A `FeaturePipeline` holds all that was learned from the log before the ranker: vocabularies, what numeric
columns looked like in train, and the moving state of aggregates and histories. The only difference between
training and serving is whether vocabularies may still grow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.aggregates import AggregateState
from memberwise.data.arrays import Arrays
from memberwise.data.entities import EntityEmbeddings
from memberwise.data.events import label_column, weight_column
from memberwise.data.files import need_columns
from memberwise.data.frame import EntityTable, Frame
from memberwise.data.hashing import U64, hash_text
from memberwise.data.history import HistoryState
from memberwise.data.keys import row_keys
from memberwise.data.layers import Views, whole
from memberwise.data.layout import Layout, compile_layout
from memberwise.data.normalise import Normaliser
from memberwise.data.pending import NEVER
from memberwise.data.percentile import PercentileLabels
from memberwise.data.timeline import ALWAYS, EmbeddingTimeline
from memberwise.data.vocabulary import PAD, Vocabulary
from memberwise.errors import ConfigError
from memberwise.schema import DAY, Age, Categorical, Clock, History, Numeric, Schema, Vector, feature_name

RawArrays = dict[str, npt.NDArray[Any]]
"""Arrays by part of the batch (see `FeaturePipeline.encode`), one row per event."""
_Part = AggregateState | HistoryState | Vocabulary | Normaliser | PercentileLabels


class FeaturePipeline:
    """From checked events to the arrays of a batch.

    Parameters
    ----------
    schema
        The meaning of the log.
    tables
        Entity tables (`memberwise.data.frame.load_entity_tables`).
    train_end : int, optional
        Last moment of train in microseconds.
    base : Path, optional
        Where relative paths of entity embeddings start.
    vectors
        Entity embeddings by feature, instead of reading them. Those that the project makes itself start
        empty and come with `attach`.

    Attributes
    ----------
    last_event : int or None
        Time of the newest event absorbed, in microseconds.
    """

    def __init__(
        self,
        schema: Schema,
        tables: Mapping[str, EntityTable],
        train_end: int | None = None,
        base: Path | None = None,
        vectors: Mapping[str, EmbeddingTimeline] | None = None,
    ) -> None:
        self.schema, self.tables, self.train_end = schema, dict(tables), train_end
        self.last_event: int | None = None
        tasks = schema.task_names
        self.aggregates = [AggregateState(a, tasks, train_end) for a in schema.aggregates]
        self.layout: Layout = compile_layout(schema, [(a.spec, a.columns) for a in self.aggregates])
        item_column = schema.entities["item"].id
        self.histories = {
            f.name: HistoryState(f, tasks, item_column, train_end)
            for f in schema.features
            if isinstance(f, History)
        }
        self.vocabularies = {
            t.name: Vocabulary(t.name, t.encoding, t.min_count, t.remainders) for t in self.layout.tables
        }
        self.normaliser = Normaliser(self.layout.dense)
        self.percentiles = [
            PercentileLabels(t.name, t.percentile) for t in schema.tasks if t.percentile is not None
        ]
        self.vectors = (
            dict(vectors)
            if vectors is not None
            else {
                feature_name(f): _load_vectors(f, self.tables, base)
                for f in schema.features
                if isinstance(f, Vector)
            }
        )

    # -- events to arrays -------------------------------------------------------------------------

    def absorb(self, events: pl.DataFrame) -> Frame:
        """Queue events in aggregates and histories, to count once they are past. In time order.

        Returns
        -------
        Frame
            Its ``events`` hold the labels of tasks with a percentile, which are numbers in `events`.
        """
        frame = Frame(events, self.schema, self.tables)
        for p in self.percentiles:
            frame.events = frame.events.with_columns(pl.Series(label_column(p.task), p.label(frame)))
        for state in self._moving():
            state.absorb(frame)
        if len(frame):
            self.last_event = int(frame.times[-1])
        return frame

    def _moving(self) -> list[AggregateState | HistoryState]:
        return [*self.aggregates, *self.histories.values()]

    def settle(self) -> None:
        """Count every event that is past for any row from now on, so that the queues stay short."""
        if self.last_event is not None:
            for state in self._moving():
                state.advance(self.last_event)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Rows read inside may lie at any later moment; afterwards the features stand where they did."""
        backs = [state.hold() for state in self._moving()]
        try:
            yield
        finally:
            for back in backs:
                back()

    def copy(self, empty: bool = False) -> FeaturePipeline:
        """An independent pipeline with the same vocabularies and transforms.

        It shares what neither of them changes: it costs what it goes on to change (`memberwise.data.layers`).

        Parameters
        ----------
        empty
            Leave out the aggregates and histories: as before the first event.
        """
        other = FeaturePipeline(self.schema, self.tables, self.train_end, vectors=self.vectors)
        for name, vocabulary in self.vocabularies.items():
            other.vocabularies[name] = vocabulary  # frozen: shared
        other.normaliser = self.normaliser
        if not empty:
            other.last_event = self.last_event
            other.aggregates = [state.copy() for state in self.aggregates]
            other.histories = {name: state.copy() for name, state in self.histories.items()}
            for one, another in zip(self.percentiles, other.percentiles, strict=True):
                another.load_arrays(one.to_arrays())  # they do not change, others take their place
        return other

    def encode(self, frame: Frame) -> RawArrays:
        """The arrays of rows, as they would be known at each row's time. Rows in time order.

        Returns
        -------
        dict of arrays, n rows each
            ``ids`` int32 [n, C] (rows of the tables, -1 in unused places), ``dense`` float32 [n, d] (raw,
            NaN where missing), ``<history>.items``, ``.actions`` int32 [n, N] and ``.ages`` float32 [n, N]
            (days), ``<vector>`` int32 [n] (row of the vector, -1 for none), ``<vector>.key`` uint64 [n] where
            the project makes the vectors, ``time`` int64 [n], ``member``, ``item`` and ``request`` uint64 [n]
            (hashed ids).
        """
        parts: RawArrays = {"ids": self._ids(frame), "dense": self._dense(frame)}
        for field in self.layout.histories:
            rows = self.histories[field.name].read(frame)
            parts[f"{field.name}.items"] = self._places(field.item_table, rows.items, rows.known)
            parts[f"{field.name}.actions"] = self._places(field.action_table, rows.actions, rows.known)
            parts[f"{field.name}.ages"] = (rows.ages / 86_400.0).astype(np.float32)
        for vector in self.layout.vectors:
            keys = row_keys(frame, vector.by)
            parts[vector.name] = self.vectors[vector.name].rows(keys, frame.times)
            if vector.made:
                parts[key_column(vector.name)] = keys
        parts["time"] = frame.times
        parts["member"], parts["item"] = frame.ids("member"), frame.ids("item")
        request = self.schema.events.request
        if request is not None and request in frame.events.columns:
            parts["request"] = frame.values(request)
        return parts

    def labels(self, events: pl.DataFrame) -> RawArrays:
        """``labels`` and ``weights``, float32 [n, T]; a label is NaN where its task is not defined.

        Of events that went through `absorb`, take those of the frame that it returned.
        """
        tasks = self.layout.tasks
        return {
            "labels": np.stack([events[label_column(t)].to_numpy() for t in tasks], axis=1),
            "weights": np.stack([events[weight_column(t)].to_numpy() for t in tasks], axis=1),
        }

    def _ids(self, frame: Frame) -> npt.NDArray[np.int32]:
        out = np.full((len(frame), self.layout.id_columns), PAD, np.int32)
        fields = iter(self.layout.ids)
        for f in self.schema.features:
            match f:
                case Categorical(max_values=1):
                    field = next(fields)
                    rows = self.vocabularies[field.table].encode(frame.values(f.column))
                    out[:, field.start : field.start + field.width] = rows.reshape(len(frame), field.parts)
                case Categorical():
                    field = next(fields)
                    flat, offsets = frame.lists(f.column, f.max_values)
                    rows = self.vocabularies[field.table].encode(flat).reshape(len(flat), field.parts)
                    place = np.arange(len(flat)) - np.repeat(offsets[:-1], np.diff(offsets))
                    row = np.repeat(np.arange(len(frame)), np.diff(offsets))
                    for part in range(field.parts):
                        out[row, field.start + place * field.parts + part] = rows[:, part]
                case Clock():
                    for hashes in clock_hashes(frame.times, f.timezone):
                        field = next(fields)
                        out[:, field.start] = self.vocabularies[field.table].encode(hashes)
        return out

    def _places(self, table: str, hashes: U64, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        encoded = self.vocabularies[table].encode(hashes[known])
        rows = np.full((*hashes.shape, *encoded.shape[1:]), PAD, np.int32)
        rows[known] = encoded
        return rows.reshape(len(rows), rows.shape[1] * math.prod(rows.shape[2:]))

    def _dense(self, frame: Frame) -> npt.NDArray[np.float32]:
        columns: list[npt.NDArray[np.float32]] = []
        for f in self.schema.features:
            match f:
                case Numeric():
                    columns.append(frame.numbers(f.column).astype(np.float32)[:, None])
                case Age():
                    since = frame.moments(f.since)
                    known = since != NEVER
                    days = np.log1p(np.maximum(frame.times - np.where(known, since, 0), 0) / DAY)
                    columns.append(np.where(known, days, np.nan).astype(np.float32)[:, None])
        columns += [state.read(frame) for state in self.aggregates]
        return np.hstack(columns) if columns else np.zeros((len(frame), 0), np.float32)

    def batch_arrays(self, frame: Frame) -> RawArrays:
        """`encode`, normalised and with vectors gathered: what a ranker takes. Vocabularies are frozen."""
        arrays = self.encode(frame)
        arrays["dense"] = self.normaliser.transform(np.asarray(arrays["dense"], np.float32))
        return arrays | self.gather_vectors(arrays)

    def gather_vectors(self, arrays: Mapping[str, npt.NDArray[Any]]) -> RawArrays:
        """Vectors of the rows that `encode` found, ``<vector>`` float32 [n, dim]."""
        return {
            v.name: self.vectors[v.name].gather(np.asarray(arrays[v.name], np.int32))
            for v in self.layout.vectors
        }

    def attach(self, feature: str, vectors: EmbeddingTimeline) -> None:
        """Let a vector feature see these vectors from now on.

        Raises
        ------
        ConfigError
            If they have another width than before: what was trained on those cannot read them.
        """
        if vectors.dim != self.vectors[feature].dim:
            raise ConfigError(
                f"the vectors have width {vectors.dim}, the feature says {self.vectors[feature].dim}",
                where=f"features.{feature}",
            )
        self.vectors[feature] = vectors

    # -- on disk ----------------------------------------------------------------------------------

    def _parts(self) -> dict[str, _Part]:
        parts: dict[str, _Part] = {}
        parts |= {f"aggregate/{a.name}": a for a in self.aggregates}
        parts |= {f"history/{n}": h for n, h in self.histories.items()}
        parts |= {f"vocabulary/{n}": v for n, v in self.vocabularies.items()}
        parts |= {f"percentile/{p.task}": p for p in self.percentiles}
        return parts | {"normaliser": self.normaliser}

    def views(self) -> dict[str, Views]:
        """The state of every part; what is shared with other versions is told as such, and not copied."""
        last = -1 if self.last_event is None else self.last_event
        found: dict[str, Views] = {"clock": {"last_event": np.array([last])}}
        for name, part in self._parts().items():
            if isinstance(part, AggregateState | HistoryState):
                found[name] = part.views()
            else:
                found[name] = dict(part.to_arrays())
        return found

    def to_arrays(self) -> dict[str, Arrays]:
        """The state of every part, for saving."""
        return {name: whole(views) for name, views in self.views().items()}

    def load_arrays(self, state: Mapping[str, Arrays]) -> None:
        """The inverse of `to_arrays`."""
        for name, part in self._parts().items():
            part.load_arrays(state[name])
        last = int(np.asarray(state["clock"]["last_event"])[0])
        self.last_event = None if last < 0 else last


def key_column(feature: str) -> str:
    """Array with the hashed key of each row under which a vector feature looks its vectors up."""
    return f"{feature}.key"


def _load_vectors(f: Vector, tables: Mapping[str, EntityTable], base: Path | None) -> EmbeddingTimeline:
    if f.made_by is not None:
        assert f.dim is not None
        return EmbeddingTimeline.empty(f.entity or " x ".join(f.by), f.dim)
    assert f.entity is not None
    if f.path is not None:
        path = Path(f.path) if base is None else base / f.path
        vectors = EntityEmbeddings.read(path)
        if vectors.entity != f.entity:
            raise ConfigError(
                f"the embeddings are of {vectors.entity!r}, not of {f.entity!r}", where=str(path)
            )
        return EmbeddingTimeline.of(vectors)
    table = tables[f.entity]
    assert f.column is not None
    need_columns(table.table.columns, [f.column], where=f"the table of entity '{f.entity}'")
    name = f"{f.entity}.{f.column}"
    column = EntityEmbeddings.from_column(f.entity, table.ids, table.table[f.column], name)
    return replace(EmbeddingTimeline.of(column), cutoffs=np.full(len(column), ALWAYS))


def clock_hashes(times: npt.NDArray[np.int64], timezone: str) -> Sequence[U64]:
    """Hashed hour of day and day of week, in a time zone."""
    local = pl.Series("t", times).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    try:
        local = local.dt.convert_time_zone(timezone)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"{timezone!r} is not a time zone", where="features.clock.timezone") from error
    hours = np.array([hash_text(str(h)) for h in range(24)], np.uint64)
    days = np.array([hash_text(str(d)) for d in range(8)], np.uint64)
    return hours[local.dt.hour().to_numpy()], days[local.dt.weekday().to_numpy()]
