"""The features of a request: read once per request or once per version where that suffices.

The same `FeaturePipeline` as in training and evaluation says what every number is; here it is only asked
less often. The state of aggregates and histories moves forward with the clock of the requests, and never
back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.data.frame import Frame
from memberwise.data.hashing import U64, hash_text
from memberwise.data.keys import row_keys
from memberwise.data.layout import IdField
from memberwise.data.normalise import Normaliser
from memberwise.data.pending import NEVER
from memberwise.data.pipeline import FeaturePipeline, clock_hashes, key_column
from memberwise.data.vocabulary import PAD
from memberwise.schema import DAY, Age, Clock, Numeric
from memberwise.serving.plan import Plan, Side
from memberwise.serving.request_frame import CandidateRows, SharedRow

I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]
_STATIC_ROWS = 4_000_000
"""Item tables up to this size have their ids looked up in advance."""


class SideFeatures:
    """Ids, numbers and keys of vectors of one side.

    Attributes
    ----------
    ids : ndarray of int32, [n, C]
        Rows of the tables by column of this side's fields; -1 in unused places.
    dense : ndarray of float32, [n, k]
        Raw.
    keys : dict of ndarray of uint64, [n]
        Of each vector feature.
    """

    def __init__(self, ids: I32, dense: F32, keys: dict[str, U64]) -> None:
        self.ids, self.dense, self.keys = ids, dense, keys


class RequestFeatures:
    """Reads the features of requests from a pipeline that nobody else moves.

    Parameters
    ----------
    pipeline
        Of the version.
    plan
        What is shared.
    """

    def __init__(self, pipeline: FeaturePipeline, plan: Plan) -> None:
        self.pipeline, self.plan = pipeline, plan
        self.schema = pipeline.schema
        self._member = self.schema.entities["member"].id
        self._item = self.schema.entities["item"].id
        readers = _dense_readers(pipeline)
        self._readers = {
            id(side): [r for r in readers if set(r[0]) <= set(side.dense)] for side in (plan.shared, plan.own)
        }
        clocks = [f for f in self.schema.features if isinstance(f, Clock)]
        self._clock_fields = {
            f"{f.name}.{part}": (f.timezone, which)
            for f in clocks
            for which, part in enumerate(("hour", "weekday"))
        }
        self._clocks: dict[str, tuple[int | None, int]] = {}
        self._static = self._of_the_table()

    # -- sides ------------------------------------------------------------------------------------

    def shared_row(self, member: str, moment: int, context: Mapping[str, Any]) -> SharedRow:
        """The row of a request."""
        values = {**context, self._member: member}
        return SharedRow(values, moment, self.schema, self.pipeline.tables)

    def candidates(self, items: U64, shared: SharedRow) -> CandidateRows:
        """The rows of its candidates."""
        return CandidateRows(items, shared)

    def read(self, side: Side, frame: Frame) -> SideFeatures:
        """The features of one side."""
        keys = {v.name: row_keys(frame, v.by) for v in side.vectors}
        return SideFeatures(self._ids(side, frame), self._dense(side, frame), keys)

    def history(self, frame: SharedRow) -> dict[str, tuple[I32, I32, F32]]:
        """Items, actions and ages of each history, [1, N] each."""
        found = {}
        for field, _, _ in self.plan.histories:
            rows = self.pipeline.histories[field.name].read(frame)
            items = self.pipeline._places(field.item_table, rows.items, rows.known)
            actions = self.pipeline._places(field.action_table, rows.actions, rows.known)
            found[field.name] = items, actions, (rows.ages / 86_400.0).astype(np.float32)
        return found

    def _ids(self, side: Side, frame: Frame) -> I32:
        out = np.full((len(frame), sum(f.width for f, _ in side.fields)), PAD, np.int32)
        at = 0
        for k, (f, column) in enumerate(side.fields):
            if column == "":
                out[:, at] = self._clock(f, frame)
            elif isinstance(frame, CandidateRows) and k in self._static:
                out[:, at : at + f.width] = self._static[k][frame.table_rows()]
            else:
                self._encode(f, column, frame, out[:, at : at + f.width])
            at += f.width
        return out

    def _clock(self, f: IdField, frame: Frame) -> int:
        """Row of the hour or the weekday; it stays the same for a quarter of an hour."""
        quarter = int(frame.times[0]) // (15 * 60 * 1_000_000)
        if self._clocks.get(f.name, (None, 0))[0] != quarter:
            timezone, which = self._clock_fields[f.name]
            hashes = clock_hashes(frame.times[:1], timezone)[which]
            self._clocks[f.name] = quarter, int(self.pipeline.vocabularies[f.table].encode(hashes)[0])
        return self._clocks[f.name][1]

    def _encode(self, f: IdField, column: str, frame: Frame, out: I32) -> None:
        vocabulary, n = self.pipeline.vocabularies[f.table], len(frame)
        if f.values == 1:
            out[:] = vocabulary.encode(frame.values(column)).reshape(n, f.parts)
            return
        flat, offsets = frame.lists(column, f.values)
        rows, lengths = vocabulary.encode(flat).reshape(len(flat), f.parts), np.diff(offsets)
        place = np.arange(len(flat)) - np.repeat(offsets[:-1], lengths)
        row = np.repeat(np.arange(n), lengths)
        for part in range(f.parts):
            out[row, place * f.parts + part] = rows[:, part]

    def _of_the_table(self) -> dict[int, I32]:
        """Ids that only the item's table says, by field; the last row is that of an unknown item."""
        table = self.pipeline.tables.get("item")
        if table is None or len(table) > _STATIC_ROWS:
            return {}
        nobody = SharedRow({self._member: ""}, 0, self.schema, self.pipeline.tables)
        everything = CandidateRows(np.zeros(len(table) + 1, np.uint64), nobody)
        everything._rows["item"] = np.append(np.arange(len(table)), -1).astype(np.int32)
        found = {}
        for k, (f, column) in enumerate(self.plan.own.fields):
            if column.startswith("item."):
                found[k] = np.full((len(table) + 1, f.width), PAD, np.int32)
                self._encode(f, column, everything, found[k])
        return found

    def _dense(self, side: Side, frame: Frame) -> F32:
        parts = [read(frame) for _, read in self._readers[id(side)]]
        return np.hstack(parts) if parts else np.zeros((len(frame), 0), np.float32)


def _dense_readers(pipeline: FeaturePipeline) -> list[tuple[list[int], Callable[[Frame], F32]]]:
    """Which raw dense columns there are, and what reads each of them."""
    readers: list[tuple[list[int], Callable[[Frame], F32]]] = []
    at = 0
    for f in pipeline.schema.features:
        match f:
            case Numeric():
                readers.append(([at], partial(_number, f.column)))
                at += 1
            case Age():
                readers.append(([at], partial(_days, f.since)))
                at += 1
    for state in pipeline.aggregates:
        readers.append((list(range(at, at + len(state.columns))), state.read))
        at += len(state.columns)
    return readers


def _number(column: str, frame: Frame) -> F32:
    return frame.numbers(column).astype(np.float32)[:, None]


def _days(since: str, frame: Frame) -> F32:
    moments = frame.moments(since)
    known = moments != NEVER
    days = np.log1p(np.maximum(frame.times - np.where(known, moments, 0), 0) / DAY)
    return np.where(known, days, np.nan).astype(np.float32)[:, None]


class RequestArrays(Mapping[str, npt.NDArray[Any]]):
    """`FeaturePipeline.batch_arrays` of the request's rows, each made when somebody asks for it.

    Parts beside the ranker read a few of them; the ranker reads none.
    """

    def __init__(self, makers: Mapping[str, Callable[[], npt.NDArray[Any]]]) -> None:
        self._makers = dict(makers)
        self._made: dict[str, npt.NDArray[Any]] = {}

    def add(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """More arrays."""
        for name, values in arrays.items():
            self._makers[name] = lambda: None  # type: ignore[assignment, return-value]
            self._made[name] = values

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def request_arrays(
    features: RequestFeatures,
    frame: CandidateRows,
    shared: SideFeatures,
    own: SideFeatures,
    vectors: Mapping[str, F32],
    histories: Mapping[str, tuple[I32, I32, F32]],
) -> RequestArrays:
    """The whole arrays of a request, by name."""
    n, plan, pipeline = len(frame), features.plan, features.pipeline
    makers: dict[str, Callable[[], npt.NDArray[Any]]] = {
        "ids": lambda: _joined_ids(plan, shared, own, n, pipeline.layout.id_columns),
        "dense": lambda: _joined_dense(plan, shared, own, n, pipeline.normaliser),
        "time": lambda: frame.times,
        "member": lambda: frame.ids("member"),
        "item": lambda: frame.ids("item"),
    }
    for name, parts in histories.items():
        for part, values in zip(("items", "actions", "ages"), parts, strict=True):
            makers[f"{name}.{part}"] = lambda v=values: np.repeat(v, n, axis=0)  # type: ignore[misc]
    for side, found in ((plan.shared, shared), (plan.own, own)):
        for v in side.vectors:
            makers[v.name] = lambda f=vectors[v.name]: _tall(f, n)  # type: ignore[misc]
            if v.made:
                makers[key_column(v.name)] = lambda k=found.keys[v.name]: _tall(k, n)  # type: ignore[misc]
    return RequestArrays(makers)


def _tall(values: npt.NDArray[Any], n: int) -> npt.NDArray[Any]:
    """One row repeated for every candidate, or the rows as they are."""
    return values if len(values) == n else np.repeat(values, n, axis=0)


def _joined_ids(plan: Plan, shared: SideFeatures, own: SideFeatures, n: int, width: int) -> I32:
    out = np.full((n, width), PAD, np.int32)
    for side, found in ((plan.shared, shared), (plan.own, own)):
        at = 0
        for f, _ in side.fields:
            out[:, f.start : f.start + f.width] = found.ids[:, at : at + f.width]
            at += f.width
    return out


def _joined_dense(plan: Plan, shared: SideFeatures, own: SideFeatures, n: int, normaliser: Normaliser) -> F32:
    raw = np.empty((n, len(plan.shared.dense) + len(plan.own.dense)), np.float32)
    raw[:, plan.shared.dense], raw[:, plan.own.dense] = shared.dense, own.dense
    return normaliser.transform(raw)


def hashed(ids: Sequence[str]) -> U64:
    """Hashes of ids."""
    return np.fromiter(map(hash_text, ids), np.uint64, len(ids))
