"""The hot path: features read once where they can be, and the exported ranker."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memberwise.data.hashing import U64
from memberwise.data.layout import IdField
from memberwise.errors import DataError
from memberwise.nn.embedding import FusedEmbedding
from memberwise.nn.rowwise_int8 import HALVES, RowwiseInt8, compress_tables
from memberwise.ranking.ranker import Ranker
from memberwise.recommender import Recommender
from memberwise.serving.dense import DenseTransform
from memberwise.serving.engine import Engine, TorchEngine, core_of, fast_engine
from memberwise.serving.features import RequestArrays, RequestFeatures, SideFeatures, hashed, request_arrays
from memberwise.serving.gather import fused_rows, gather_fields
from memberwise.serving.plan import Side, make_plan
from memberwise.serving.request_frame import CandidateRows, SharedRow
from memberwise.serving.scoring import Looked, context_columns
from memberwise.serving.vectors import VectorReader

log = logging.getLogger("memberwise.serving")
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
_NO_ROWS = np.zeros((0, 0), np.float32)
_HISTORY = ("items", "actions", "ages")


class SideInputs:
    """Turns the features of one side into its columns of x0.

    Parameters
    ----------
    rec
        The version.
    side
        Which.
    """

    def __init__(self, rec: Recommender, side: Side) -> None:
        ranker, normaliser, self.side = rec.ranker, rec.pipeline.normaliser, side
        self._transform = DenseTransform(normaliser, ranker.norm, side.dense)
        self._plain = DenseTransform(normaliser, torch.nn.Identity(), side.dense) if side.curves else None
        fields = [f for f, _ in side.fields]
        dims = [ranker._dim_of[f.table] for f in fields]
        places = np.concatenate([[0], np.cumsum(dims)]).astype(np.int64)
        self._dense_at, self.width = int(places[-1]), len(side.columns)
        self._tables = []
        for dim, table in ranker.embeddings.items():
            mine = [k for k in range(len(fields)) if str(dims[k]) == dim]
            if mine:
                self._tables.append(FieldRows(ranker, table, fields, mine, places[mine]))  # type: ignore[arg-type]
        everything = list(range(len(fields)))
        self._wide = None
        if ranker.config.wide and fields:
            self._wide = FieldRows(ranker, ranker.wide, fields, everything, np.zeros(len(fields), np.int64))

    def __call__(self, found: SideFeatures, vectors: Mapping[str, F32], wide: F32) -> F32:
        """Columns ``[n, width]``; the wide weights of the ids are added to `wide` ``[n, T]``."""
        out = np.empty((len(found.ids), self.width), np.float32)
        for table in self._tables:
            table(found.ids, out, add=False)
        if self._wide is not None:
            self._wide(found.ids, wide, add=True)
        at = self._dense_at
        if found.dense.shape[1]:
            out[:, at : at + self._transform.width] = self._transform(found.dense)
        at += self._transform.width
        for v in self.side.vectors:
            rows = vectors[v.name]
            out[:, at : at + rows.shape[1]] = rows
            at += rows.shape[1]
        return out

    def numbers(self, found: SideFeatures) -> F32:
        """Normalised numbers that go into curves, ``[n, k]``."""
        if self._plain is None:
            return np.zeros((len(found.ids), 1), np.float32)
        return np.ascontiguousarray(self._plain(found.dense)[:, : len(self.side.dense)])

    def of_batch(self, arrays: Mapping[str, npt.NDArray[Any]], rows: I64, wide: F32) -> tuple[F32, F32]:
        """The same two from rows of a batch, whose numbers are normalised and whose vectors are gathered."""
        columns = [c for f, _ in self.side.fields for c in range(f.start, f.start + f.width)]
        ids = np.ascontiguousarray(arrays["ids"][rows][:, columns])
        none = np.zeros((len(rows), 0), np.float32)
        vectors = {v.name: arrays[v.name][rows] for v in self.side.vectors}
        out = self(SideFeatures(ids, none, {}), vectors, wide)
        at, dense = self._dense_at, np.asarray(arrays["dense"], np.float32)[rows]
        if self._transform.width:
            out[:, at : at + self._transform.width] = self._transform.affine(dense[:, self._transform.place])
        if self._plain is None:
            return out, np.zeros((len(rows), 1), np.float32)
        return out, np.ascontiguousarray(dense[:, self.side.dense])


class FieldRows:
    """Look-ups of some fields in one fused matrix."""

    def __init__(
        self,
        ranker: Ranker,
        table: FusedEmbedding | RowwiseInt8,
        fields: Sequence[IdField],
        mine: Sequence[int],
        places: npt.NDArray[np.int64],
    ) -> None:
        def array(values: Iterable[int]) -> npt.NDArray[np.int64]:
            return np.fromiter(values, np.int64)

        rows = [ranker.columns.rows_of[fields[k].table] for k in mine]
        at = np.concatenate([[0], np.cumsum([f.width for f in fields])]).astype(np.int64)
        self._packed = table.packed.numpy() if isinstance(table, RowwiseInt8) else np.zeros((0, 4), np.int8)
        self._weight = table.weight.numpy() if isinstance(table, FusedEmbedding) else _NO_ROWS
        self._starts, self._widths = at[list(mine)], array(fields[k].width for k in mine)
        self._offsets = array(table.offsets[fields[k].table] for k in mine)
        self._quotients = array(r.quotients if r.compressed else 0 for r in rows)
        self._remainders = array(r.remainders if r.compressed else 0 for r in rows)
        self._counts = array(fields[k].values for k in mine)
        self._parts = array(r.rows for r in rows)
        ends = np.cumsum(self._counts * self._parts)
        self._columns, self._total = ends - self._counts * self._parts, int(ends[-1])
        self._places = places

    def __call__(self, ids: I32, out: F32, add: bool) -> None:
        """Write (or add) the embeddings of the fields to their places."""
        rows = np.empty((len(ids), self._total), np.int32)
        fused_rows(ids, self._starts, self._widths, self._offsets, self._quotients, self._remainders, rows)
        fields = rows, self._columns, self._counts, self._parts, self._places
        gather_fields(*fields, self._weight, self._packed, HALVES, out, add)


class FastScorer:
    """Scores requests whose context is the same for all candidates.

    Parameters
    ----------
    rec
        The version; its pipeline moves forward with the clock.
    engine
        What runs the dense part.
    """

    def __init__(self, rec: Recommender, engine: Engine) -> None:
        self.rec, self.engine = rec, engine
        self.plan = make_plan(rec.pipeline, rec.ranker)
        self.features = RequestFeatures(rec.pipeline, self.plan)
        self.shared, self.own = SideInputs(rec, self.plan.shared), SideInputs(rec, self.plan.own)
        config = rec.project.config
        self._needed = context_columns(rec)
        self._lists = {f.column for f in config.features if f.kind == "categorical" and f.max_values > 1}
        self._tasks = len(config.tasks)
        self._candidate = _candidate_field(self)
        self.vectors = VectorReader(rec.pipeline.vectors)
        """Where the vectors of requests come from."""
        self.misses: dict[str, int] = {}
        """Unknown members and items of the last request."""

    @classmethod
    def load(cls, rec: Recommender, bundle: Path, engine: str, tables: str = "float32") -> FastScorer:
        """With an engine and tables by name; torch where an export is not possible."""
        made: Engine | None = None
        if engine != "torch":
            try:
                made = fast_engine(rec, bundle, engine)
            except (RuntimeError, ImportError, OSError) as error:
                log.warning("no export", extra={"fields": {"reason": str(error)}})
        if made is None:
            made = TorchEngine(core_of(rec))
        if tables == "int8":
            compress_tables(rec.ranker.embeddings)
        return cls(rec, made)

    def suits(self, context: Mapping[str, Any]) -> bool:
        """Whether a request's context is one value for all candidates."""
        lists = [(name, v) for name, v in context.items() if isinstance(v, list)]
        return all(
            n in self._lists and not any(x is None or isinstance(x, list) for x in v) for n, v in lists
        )

    def look(
        self, member: str | int, candidates: Sequence[str], moment: int, context: Mapping[str, Any]
    ) -> Looked:
        """See `Scorer`; moments must not go back."""
        member = str(member)
        if not member or "" in candidates:
            raise DataError("'' is not an id", fix="pass text that is not empty, or a number")
        for name in self._needed:
            if name not in context:
                raise DataError(
                    f"a feature reads the event column {name!r}",
                    where="context",
                    fix=f"pass context={{{name!r}: ...}}",
                )
        return self.look_at(self.features.shared_row(member, moment, context), hashed(candidates))

    def look_at(self, row: SharedRow, items: U64) -> Looked:
        """The same of a row and the hashes of its candidates."""
        frame = self.features.candidates(items, row)
        shared = self.features.read(self.plan.shared, row)
        own = self.features.read(self.plan.own, frame)
        vectors = self.vectors.read(shared.keys | own.keys, int(row.times[0]))
        histories = self.features.history(row)
        once = np.zeros((1, self._tasks), np.float32)
        wide = np.zeros((len(frame), self._tasks), np.float32)
        left = self.shared(shared, vectors, once)
        right = self.own(own, vectors, wide)
        wide += once
        numbers = [self.shared.numbers(shared), self.own.numbers(own)]
        inputs = [left, right, wide, self._candidates(right), *numbers, *self._histories(histories)]
        logits, *hidden = self.engine(inputs)
        logits = self._curved(logits, shared, own)
        self.misses = self._misses(row, frame)
        arrays = request_arrays(self.features, frame, shared, own, vectors, histories)
        if hidden:
            self._read_hidden(arrays, hidden[0])
        return Looked(arrays, logits)

    def inputs_of(self, arrays: Mapping[str, npt.NDArray[Any]], rows: I64) -> list[npt.NDArray[Any]]:
        """Inputs of the engine from rows of a batch: the request of the first, all of them its candidates."""
        once = np.zeros((1, self._tasks), np.float32)
        wide = np.zeros((len(rows), self._tasks), np.float32)
        left, left_numbers = self.shared.of_batch(arrays, rows[:1], once)
        right, right_numbers = self.own.of_batch(arrays, rows, wide)
        wide += once
        histories = {
            f.name: tuple(np.ascontiguousarray(arrays[f"{f.name}.{p}"][rows[:1]]) for p in _HISTORY)
            for f, _, _ in self.plan.histories
        }
        inputs = [left, right, wide, self._candidates(right), left_numbers, right_numbers]
        return [*inputs, *self._histories(histories)]  # type: ignore[arg-type]

    def _read_hidden(self, arrays: RequestArrays, hidden: F32) -> None:
        """What parts make of the last hidden layer, beside the other arrays."""
        if hidden.ndim == 2:
            hidden = np.broadcast_to(hidden[:, None, :], (len(hidden), self._tasks, hidden.shape[1]))
        for part in self.rec.parts.values():
            if part.reads_hidden:
                arrays.add(part.read_hidden(hidden))

    def _misses(self, row: SharedRow, frame: CandidateRows) -> dict[str, int]:
        """Members and items that train did not hold, and the item table neither."""
        unknown = self.rec.seen.rows("item", frame.items) == 0
        if "item" in frame.tables:
            unknown &= frame.table_rows() < 0
        member = int(self.rec.seen.rows("member", row.ids("member"))[0] == 0)
        return {"member": member, "item": int(unknown.sum())}

    def _candidates(self, own: F32) -> F32:
        if self._candidate is None:
            return np.zeros((1, 1), np.float32)
        return np.ascontiguousarray(own[:, self._candidate])

    def _histories(self, histories: Mapping[str, tuple[I32, I32, F32]]) -> list[npt.NDArray[Any]]:
        found: list[npt.NDArray[Any]] = []
        for field, _, _ in self.plan.histories:
            items, actions, ages = histories[field.name]
            found += [
                self._look_up(field.item_table, items),
                self._look_up(field.action_table, actions),
                ages,
                items[:, :: field.parts] >= 0,
            ]
        return found

    def _look_up(self, name: str, rows: I32) -> F32:
        with torch.inference_mode():
            values: F32 = self.rec.ranker.look_up(name, torch.from_numpy(rows)).numpy()
        return values

    def _curved(self, logits: F32, shared: SideFeatures, own: SideFeatures) -> F32:
        """The calibration curves, where they depend on features of the row (else they are in the core)."""
        ranker = self.rec.ranker
        table, curves = ranker.curve_effects, ranker.curves
        if table is None or curves is None:
            return logits
        effects: F32 = np.zeros((len(logits), table.dim), np.float32)
        for side, found in ((self.plan.shared, shared), (self.plan.own, own)):
            at = 0
            for f, _ in side.fields:
                if f in ranker._curve_fields:
                    rows = found.ids[:, at]
                    effects += table.weight.numpy()[rows + table.offsets[f.table]]
                at += f.width
        with torch.inference_mode():
            bent = torch.from_numpy(effects).view(len(logits), self._tasks, curves.buckets)
            curved: F32 = curves(torch.from_numpy(logits), bent).numpy()
        return curved


def _candidate_field(scorer: FastScorer) -> slice | None:
    """Where the candidate's embedding stands among the own columns, if a history looks at it."""
    looking = [h for h, _, looks in scorer.plan.histories if looks]
    if not looking:
        return None
    at = 0
    for f, _ in scorer.plan.own.fields:
        dim = scorer.rec.ranker._dim_of[f.table]
        if f.table == looking[0].item_table and f.values == 1:
            return slice(at, at + dim)
        at += dim
    return None
