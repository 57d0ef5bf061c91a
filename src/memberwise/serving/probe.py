"""Whether the hot path says what the general path says: asked of every version before it is in service.

The hot path mirrors how the ranker lays out its input. A version whose layout it reads wrongly would answer
with finite, plausible and wrong numbers, which no other check would see.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.events import TIME
from memberwise.data.frame import Frame, Ragged
from memberwise.data.hashing import U64, hash_text, hash_values
from memberwise.recommender import Recommender
from memberwise.schema import Age
from memberwise.serving.engine import TorchEngine, core_of
from memberwise.serving.fast import FastScorer
from memberwise.serving.plan import Plan
from memberwise.serving.request_frame import SharedRow
from memberwise.serving.scoring import context_columns, finish

log = logging.getLogger("memberwise.serving")
F32 = npt.NDArray[np.float32]
TOLERANCE = 1e-4
"""Of a probability: some thirty times what the order of float32 sums makes."""
INT8_TOLERANCE = 0.05
"""Of a probability from the int8 core, whose loss `memberwise compress` has measured and found small."""
MEMBERS, ITEMS = 4, 32


class _Hashed(Frame):
    """A frame of which some columns are given as hashes: a version knows its values by hash only."""

    hashes: Mapping[str, U64]

    def values(self, column: str) -> U64:
        """Hashed values."""
        return self.hashes[column] if column in self.hashes else super().values(column)

    def lists(self, column: str, max_values: int) -> Ragged:
        """Hashed values, at most one a row."""
        if column not in self.hashes:
            return super().lists(column, max_values)
        there = self.hashes[column] != 0
        return self.hashes[column][there], np.concatenate([[0], np.cumsum(there)]).astype(np.int64)


class _Row(_Hashed, SharedRow):
    pass


@dataclass(frozen=True)
class _Ask:
    """Of one member: hashes and values by column, and the hashes of the candidates."""

    hashes: dict[str, np.uint64]
    values: dict[str, Any]
    items: U64


def mistrust(rec: Recommender, fast: FastScorer, moment: int) -> str | None:
    """Why the hot path should not be used for a version; none if it says what the general path says.

    Parameters
    ----------
    rec
        The version.
    fast
        Its hot path.
    moment
        Microseconds; the state of the hot path moves there.

    Returns
    -------
    str or None
        For the log.
    """
    engine = fast.engine
    try:
        engines = [(engine, INT8_TOLERANCE if engine.name == "int8" else TOLERANCE)]
        if engine.name == "int8":  # what it may lose would hide a column in the wrong place
            engines.append((TorchEngine(core_of(rec)), TOLERANCE))
        requests = list(_requests(rec, fast.plan))
        expected = [_general(rec, moment, r) for r in requests]
        for fast.engine, limit in engines:
            found = [_fast(fast, moment, r) for r in requests]
            apart = float(np.abs(np.stack(found) - np.stack(expected)).max())
            if not apart <= limit:  # also where it is not a number
                return (
                    f"{fast.engine.name}: probabilities differ by {apart:.2g}, at most {limit:g} is allowed"
                )
    except Exception as error:  # whatever it is, the general path can answer
        log.exception("the hot path cannot be tried")
        return f"it fails: {error}"
    finally:
        fast.engine = engine
    return None


def _fast(fast: FastScorer, moment: int, ask: _Ask) -> F32:
    schema, tables = fast.rec.project.config, fast.rec.pipeline.tables
    row = _Row(ask.values, moment, schema, tables)
    row.hashes = {c: np.array([h]) for c, h in ask.hashes.items()}
    return finish(fast.rec, fast.look_at(row, ask.items)).probabilities


def _general(rec: Recommender, moment: int, ask: _Ask) -> F32:
    config, n = rec.project.config, len(ask.items)
    item = config.entities["item"].id
    columns = {c: [v] * n for c, v in {**ask.values, item: None}.items()}
    frame = _Hashed(pl.DataFrame({TIME: np.full(n, moment), **columns}), config, rec.pipeline.tables)
    frame.hashes = {c: np.full(n, h) for c, h in ask.hashes.items()} | {item: ask.items}
    with rec.pipeline.held():
        return rec.score(rec.pipeline.batch_arrays(frame))


def _requests(rec: Recommender, plan: Plan) -> Iterator[_Ask]:
    """Members with a past and one without, candidates known and unknown, a context and none."""
    config = rec.project.config
    member = config.entities["member"].id
    items = rec.seen.most("item", ITEMS - 1)
    if "item" in rec.pipeline.tables:  # it may hold what train does not
        listed = hash_values(rec.pipeline.tables["item"].ids[: ITEMS // 2])
        items = np.concatenate([items[: ITEMS - 1 - len(listed)], listed])
    items = np.append(items, np.uint64(hash_text("an item that nobody knows")))
    columns = context_columns(rec)
    dates = {f.since for f in config.features if isinstance(f, Age)}
    stranger = np.uint64(hash_text("a member whom nobody knows"))
    for k, who in enumerate([*rec.seen.most("member", MEMBERS), stranger]):
        hashes = {c: _known(rec, plan, c, k) if k else np.uint64(0) for c in columns}
        values = {c: (f"2020-01-0{k}" if c in dates else k - 0.5) if k else None for c in columns}
        yield _Ask({**hashes, member: who}, {**values, member: None}, items)


def _known(rec: Recommender, plan: Plan, column: str, k: int) -> np.uint64:
    """A value of a context column that the version knows; which one, k decides."""
    config, pipeline = rec.project.config, rec.pipeline
    for name, table in pipeline.tables.items():
        if config.entities[name].id == column and len(table):
            return np.uint64(hash_values(table.ids[[k % len(table)]])[0])
    for field, read in plan.shared.fields:
        if read == column and len(keys := pipeline.vocabularies[field.table].index.keys):
            return np.uint64(keys[k % len(keys)])
    return np.uint64(hash_text(f"value {k}"))
