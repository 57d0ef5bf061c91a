"""Take a member out of a version: features, the parts, and the ranker's own rows for the member."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import polars as pl
import torch

from memberwise.data.forgetting import Rows, knows, without
from memberwise.data.hashing import U64
from memberwise.data.vocabulary import UNSEEN
from memberwise.nn.embedding import FusedEmbedding
from memberwise.ranking.fisher import Fisher
from memberwise.ranking.ranker import Ranker
from memberwise.recommender.core import Recommender
from memberwise.recommender.parts import Part, Setting
from memberwise.recommender.parts.incremental import IncrementalPart
from memberwise.recommender.seen import Seen

TRACES = (
    "shared weights of the ranker, and of the encoder and the meta block where there are some: they were "
    "learned from all members together; the next full fit learns them without this one",
    "sums over all members, such as how often an item was chosen",
    "posteriors of items and of the last layer, which count everybody's events",
)
"""What still carries something of a forgotten member, inseparable from all others."""


def forget(rec: Recommender, members: U64, events: pl.DataFrame | None = None) -> Recommender:
    """A version that knows nothing of these members under their own name.

    Parameters
    ----------
    rec
        As it is; it does not change.
    members
        Hashed ids.
    events
        Checked events of these members, as far as they are at hand (`memberwise.data.forgetting.without`).
    """
    pipeline, rows = without(rec.pipeline, members, events)
    parts: dict[str, Part] = {}
    for name, part in rec.parts.items():
        parts[name] = _without_rows(part.forget(members), rec.ranker, rows)
        for feature, vectors in parts[name].vectors().items():
            pipeline.attach(feature, vectors)
    ranker = _ranker_without(rec.ranker, rows)
    parts = {n: p.within(Setting(rec.project, pipeline, ranker)) for n, p in parts.items()}
    arrays = rec.seen.to_arrays()
    kept = ~np.isin(np.asarray(arrays["member.ids"], np.uint64), members)
    seen = Seen({**arrays, **{k: arrays[k][kept] for k in ("member.ids", "member.rows")}})
    newer = rec.but(ranker=ranker, pipeline=pipeline, seen=seen, parts=parts)
    newer.stored = None  # files must be written whole: a segment would leave the old state on disk behind it
    return newer


def remains(rec: Recommender, members: U64) -> list[str]:
    """Where a version still knows one of these members by name."""
    found = knows(rec.pipeline, members)
    if np.isin(members, np.asarray(rec.seen.to_arrays()["member.ids"], np.uint64)).any():
        found.append("rows of train by member")
    return found


def _ranker_without(ranker: Ranker, rows: Rows) -> Ranker:
    """With the rows of forgotten members as those of one never seen."""
    if not rows:
        return ranker
    other = copy.deepcopy(ranker)
    with torch.no_grad():
        for table in other.sparse_tables:
            for at, unseen in _places(table, rows):
                table.weight[at] = table.weight[unseen].clone()
    return other


def _places(table: FusedEmbedding, rows: Rows) -> list[tuple[torch.Tensor, int]]:
    """Rows of a fused matrix to overwrite, and the row of unseen values that they take after."""
    return [
        (torch.from_numpy(found + table.offsets[name]), table.offsets[name] + UNSEEN)
        for name, found in rows.items()
        if name in table.offsets
    ]


def _without_rows(part: Part, ranker: Ranker, rows: Rows) -> Part:
    """The memory of incremental training holds the rows of the ranker once more."""
    if not isinstance(part, IncrementalPart) or not rows:
        return part
    memory = part.memory
    weights = {k: v.clone() for k, v in memory.cold_weights.items()}
    cold, last = (
        Fisher(f.dense, {k: v.clone() for k, v in f.tables.items()}) for f in (memory.cold, memory.last)
    )
    for name, module in ranker.named_modules():
        if not isinstance(module, FusedEmbedding):
            continue
        for at, unseen in _places(module, rows):
            if f"{name}.weight" in weights:
                weights[f"{name}.weight"][at] = weights[f"{name}.weight"][unseen].clone()
            for fisher in (cold, last):
                if name in fisher.tables:
                    fisher.tables[name][at] = 0.0
    return replace(part, memory=replace(memory, cold_weights=weights, cold=cold, last=last))
