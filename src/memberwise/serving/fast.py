"""The hot path: features read once where they can be, and the exported ranker."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memberwise.errors import DataError
from memberwise.recommender import Recommender
from memberwise.recommender.request import needed_columns
from memberwise.serving.dense import DenseTransform
from memberwise.serving.engine import Engine, OnnxEngine, TorchEngine, core_of, prepare
from memberwise.serving.features import RequestArrays, RequestFeatures, SideFeatures, hashed, request_arrays
from memberwise.serving.gather import gather_fields, sum_wide
from memberwise.serving.plan import Side, make_plan
from memberwise.serving.request_frame import CandidateRows, SharedRow
from memberwise.serving.scoring import Looked

log = logging.getLogger("memberwise.serving")
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


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
        ranker, self.side = rec.ranker, side
        self._vectors = [rec.pipeline.vectors[v.name] for v in side.vectors]
        self._transform = DenseTransform(rec.pipeline.normaliser, ranker.norm, side.dense)
        fields = [f for f, _ in side.fields]
        starts = np.concatenate([[0], np.cumsum([f.width for f in fields])]).astype(np.int64)
        self._by_table: list[tuple[F32, npt.NDArray[np.int64], npt.NDArray[np.int64], Any]] = []
        places, at = [], 0
        for f in fields:
            places.append(at)
            at += ranker._dim_of[f.table]
        self._dense_at = at
        self.width = len(side.columns)
        self._offsets = np.repeat(
            [ranker._table(f.table).offsets[f.table] for f in fields], [f.width for f in fields]
        ).astype(np.int32)
        self._wide_offsets = np.repeat(
            [ranker.wide.offsets[f.table] for f in fields], [f.width for f in fields]
        ).astype(np.int32)
        self._starts, self._widths = starts[:-1], np.diff(starts)
        for dim, table in ranker.embeddings.items():
            mine = [k for k, f in enumerate(fields) if str(ranker._dim_of[f.table]) == dim]
            if mine:
                self._by_table.append(
                    (
                        table.weight.numpy(),  # type: ignore[operator]
                        self._starts[mine],
                        self._widths[mine],
                        np.array(places, np.int64)[mine],
                    )
                )
        self._wide = ranker.wide.weight.numpy() if ranker.config.wide and fields else None

    def __call__(self, found: SideFeatures, wide: F32) -> F32:
        """Columns ``[n, width]``; the wide weights of the ids are added to `wide` ``[n, T]``."""
        out = np.empty((len(found.ids), self.width), np.float32)
        rows = np.where(found.ids >= 0, found.ids + self._offsets, np.int32(0))
        for table, starts, widths, places in self._by_table:
            gather_fields(rows, starts, widths, places, table, out)
        if self._wide is not None:
            rows = np.where(found.ids >= 0, found.ids + self._wide_offsets, np.int32(0))
            sum_wide(rows, self._starts, self._widths, self._wide, wide)
        at = self._dense_at
        if found.dense.shape[1]:
            out[:, at : at + self._transform.width] = self._transform(found.dense)
            at += self._transform.width
        for v, timeline in zip(self.side.vectors, self._vectors, strict=True):
            out[:, at : at + timeline.dim] = timeline.gather(found.vectors[v.name])
            at += timeline.dim
        return out


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
        ids = {config.entities["member"].id, config.entities["item"].id}
        self._needed = [c for c in needed_columns(config) if c not in ids]
        self._lists = {f.column for f in config.features if f.kind == "categorical" and f.max_values > 1}
        self._tasks = len(config.tasks)
        self._tables = {t.name: rec.ranker._table(t.name) for t in rec.pipeline.layout.tables}
        self._candidate = _candidate_field(self)
        self.misses: dict[str, int] = {}
        """Unknown members and items of the last request."""

    @classmethod
    def load(cls, rec: Recommender, bundle: Path, engine: str) -> FastScorer:
        """With an engine by name; torch where an export is not possible."""
        if engine != "torch":
            try:
                return cls(rec, OnnxEngine(prepare(rec, bundle), "float32"))
            except (RuntimeError, ImportError, OSError) as error:
                log.warning("no export", extra={"fields": {"reason": str(error)}})
        return cls(rec, TorchEngine(core_of(rec)))

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
        row = self.features.shared_row(member, moment, context)
        frame = self.features.candidates(hashed(candidates), row)
        shared = self.features.read(self.plan.shared, row)
        own = self.features.read(self.plan.own, frame)
        histories = self.features.history(row)
        once = np.zeros((1, self._tasks), np.float32)
        wide = np.zeros((len(frame), self._tasks), np.float32)
        left = self.shared(shared, once)
        right = self.own(own, wide)
        wide += once
        inputs = [left, right, wide, self._candidates(right), *self._histories(histories)]
        logits, *hidden = self.engine(inputs)
        logits = self._curved(logits, shared, own)
        self.misses = self._misses(row, frame)
        arrays = request_arrays(self.features, frame, shared, own, histories)
        if hidden:
            self._read_hidden(arrays, hidden[0])
        return Looked(arrays, logits)

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
            mask = items >= 0
            found += [
                self._look_up(field.item_table, items, mask),
                self._look_up(field.action_table, actions, mask),
                ages,
                mask,
            ]
        return found

    def _look_up(self, name: str, rows: I32, mask: npt.NDArray[np.bool_]) -> F32:
        table = self._tables[name]
        return np.take(table.weight.numpy(), np.where(mask, rows + table.offsets[name], 0), axis=0)

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
        if f.table == looking[0].item_table and f.width == 1:
            return slice(at, at + dim)
        at += dim
    return None
