"""Probabilities of one request's candidates, by the same path as evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from memberwise.data.frame import Frame
from memberwise.ranking.predict import sigmoid
from memberwise.recommender import Recommender, request
from memberwise.recommender.scoring import ranker_logits

F32 = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Scores:
    """What a scorer says of n candidates.

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
    """Scores candidates of a member at a moment; used by one thread at a time."""

    def score(
        self,
        member: str | int,
        candidates: Sequence[str],
        moment: int,
        context: Mapping[str, Any],
        explain: bool = False,
    ) -> Scores:
        """Probabilities in the order of the candidates.

        Raises
        ------
        DataError
            If an id or a context value is none, or a column that a feature reads is missing.
        """
        ...


class GeneralScorer:
    """Every feature and component that a version has, by the code that evaluation runs.

    Parameters
    ----------
    rec
        The version.
    """

    def __init__(self, rec: Recommender) -> None:
        self.rec = rec

    def score(
        self,
        member: str | int,
        candidates: Sequence[str],
        moment: int,
        context: Mapping[str, Any],
        explain: bool = False,
    ) -> Scores:
        """See `Scorer`."""
        rec, config = self.rec, self.rec.project.config
        items = request.candidates(list(candidates), rec.pipeline)
        rows = request.rows(config, member, items, moment, dict(context))
        with rec.pipeline.held():
            arrays = rec.pipeline.batch_arrays(Frame(rows, config, rec.pipeline.tables))
        read, logits = ranker_logits(rec.ranker, rec.parts, arrays)
        return adjusted(rec, read, logits, explain)


def adjusted(rec: Recommender, arrays: Arrays, logits: F32, explain: bool) -> Scores:
    """From the ranker's logits to probabilities by way of the parts, as `Recommender.score` does."""
    shares = {"ranker": logits} if explain else {}
    for name, part in rec.parts.items():
        before, logits = logits, part.adjust(arrays, logits)
        if explain:
            shares[name] = logits - before
    return Scores(sigmoid(logits), shares)
