"""Probabilities of one request's candidates, by the same path as evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from memberwise.data.frame import Frame
from memberwise.data.keys import row_keys
from memberwise.ranking.policies import Ranking
from memberwise.ranking.predict import sigmoid
from memberwise.recommender import Recommender, request
from memberwise.recommender.exploring import explore
from memberwise.recommender.scoring import ranker_logits
from memberwise.serving.vectors import VectorReader

F32 = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Looked:
    """What the ranker says of n candidates, before the parts beside it.

    Attributes
    ----------
    arrays
        `FeaturePipeline.batch_arrays`, and what parts made of the ranker's last hidden layer.
    logits : ndarray of float32, [n, T]
        Of the ranker.
    """

    arrays: Arrays
    logits: F32


@dataclass(frozen=True)
class Scores:
    """What a version says of n candidates.

    Attributes
    ----------
    probabilities : ndarray of float32, [n, T]
        Calibrated, by task.
    shares : dict of ndarray of float32, [n, T]
        What each component adds to the logits; they sum to the logit.
    """

    probabilities: F32
    shares: dict[str, F32] = field(default_factory=dict)


class Scorer(Protocol):
    """Asks the ranker about candidates of a member at a moment; used by one thread at a time."""

    def look(
        self, member: str | int, candidates: Sequence[str], moment: int, context: Mapping[str, Any]
    ) -> Looked:
        """What the ranker says, in the order of the candidates.

        Raises
        ------
        DataError
            If an id or a context value is none, or a column that a feature reads is missing.
        """
        ...


class GeneralScorer:
    """Every feature that a version has, by the code that evaluation runs.

    Parameters
    ----------
    rec
        The version.
    """

    def __init__(self, rec: Recommender) -> None:
        self.rec = rec
        self.vectors: VectorReader | None = None
        """Where the vectors of requests come from; None: from the version."""

    def look(
        self, member: str | int, candidates: Sequence[str], moment: int, context: Mapping[str, Any]
    ) -> Looked:
        """See `Scorer`."""
        rec, config = self.rec, self.rec.project.config
        items = request.candidates(candidates)
        rows = request.rows(config, member, items, moment, dict(context))
        frame = Frame(rows, config, rec.pipeline.tables)
        with rec.pipeline.held():
            arrays = rec.pipeline.batch_arrays(frame)
        if self.vectors is not None:
            keys = {v.name: row_keys(frame, v.by) for v in rec.pipeline.layout.vectors}
            arrays |= self.vectors.read(keys, moment)
        return Looked(*ranker_logits(rec.ranker, rec.parts, arrays))


def context_columns(rec: Recommender) -> list[str]:
    """Event columns that a request must bring along."""
    ids = {rec.project.config.entities[e].id for e in ("member", "item")}
    return [c for c in request.needed_columns(rec.project.config) if c not in ids]


def finish(rec: Recommender, looked: Looked, explain: bool = False) -> Scores:
    """From the ranker's logits to probabilities by way of the parts, as `Recommender.score` does."""
    logits = looked.logits
    shares = {"ranker": logits} if explain else {}
    for name, part in rec.parts.items():
        before, logits = logits, part.adjust(looked.arrays, logits)
        if explain and logits is not before:  # parts that only make vectors add nothing of their own
            shares[name] = logits - before
    return Scores(sigmoid(logits), shares)


def finish_exploring(
    rec: Recommender, looked: Looked, k: int, utilities: npt.NDArray[np.float64]
) -> tuple[Ranking, F32]:
    """An order by the project's exploring policy, and the probabilities at the posterior's mean.

    Raises
    ------
    ConfigError
        If the version has no exploring head.
    """
    return explore(rec, looked.arrays, k, utilities=utilities, found=(looked.arrays, looked.logits))
