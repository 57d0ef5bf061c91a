"""New events, as the version before saw them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.log import EventLog
from memberwise.data.negatives import NegativeSampler
from memberwise.data.pipeline import FeaturePipeline
from memberwise.ranking.ranker import Ranker
from memberwise.recommender.parts import Increment, Part, Setting
from memberwise.recommender.scoring import ranker_logits


@dataclass(frozen=True)
class Observed:
    """New events, checked and scored, from which the next version can learn.

    Attributes
    ----------
    increment
        The rows.
    pipeline, negatives
        Features and negatives after the events.
    """

    increment: Increment
    pipeline: FeaturePipeline
    negatives: NegativeSampler | None


def learn_parts(
    parts: Mapping[str, Part], increment: Increment, setting: Setting
) -> tuple[dict[str, Part], Ranker]:
    """Let every part learn from the same rows, in their order; returns them and the ranker of the outcome.

    A ranker that changes on the way is the one that later parts settle on.
    """
    found: dict[str, Part] = {}
    for name, part in parts.items():
        found[name] = part.update(increment, setting)
        if (new := found[name].retrained()) is not None:
            increment, setting = replace(increment, retrained=new), replace(setting, ranker=new.ranker)
        # What one part has learned, the next need not learn again.
        logits = found[name].adjust(increment.arrays, increment.logits)
        increment = replace(increment, logits=logits)
    return found, setting.ranker


def see_and_score(
    log: EventLog, pipeline: FeaturePipeline, ranker: Ranker, beside: Mapping[str, Part]
) -> Increment:
    """Move features forward over new events, and keep every row as it was known when it happened.

    The increment is held in memory.
    """
    events: list[pl.DataFrame] = []
    parts: list[Mapping[str, npt.NDArray[Any]]] = []
    logits: list[npt.NDArray[np.float32]] = []
    for chunk in log.chunks():
        frame = pipeline.absorb(chunk)
        arrays = pipeline.batch_arrays(frame) | pipeline.labels(frame.events)
        pipeline.settle()
        events.append(frame.events)
        read, scores = ranker_logits(ranker, beside, arrays)
        parts.append(read)
        logits.append(scores)
    arrays = joined(parts)
    return Increment(content_key(arrays), pl.concat(events), arrays, np.concatenate(logits))


def joined(parts: Sequence[Mapping[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
    """Rows of several sets of arrays, one after the other."""
    if len(parts) == 1:
        return dict(parts[0])
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def content_key(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """Names events by what they say, in whatever order: when, who, what, and the labels."""
    columns = [np.asarray(arrays[name]) for name in ("time", "member", "item")]
    columns += list(np.asarray(arrays["labels"]).T)
    order = np.lexsort(columns[::-1])
    digest = hashlib.sha256()
    for column in columns:
        digest.update(np.ascontiguousarray(column[order]).tobytes())
    return digest.hexdigest()
