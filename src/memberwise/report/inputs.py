"""What a report is made of: predictions row by row, and the context they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from memberwise.errors import DataError

Delay = Literal["none", "hourly", "daily", "frozen"]
Side = Literal["member", "item", "other"]


@dataclass(frozen=True)
class Predictions:
    """Labels and every model's probabilities on the same rows.

    Parameters
    ----------
    tasks : tuple of str
        Names of the T tasks; the first screen of the page is about the first.
    labels : array [n, T]
        0, 1, or ``nan`` where the task is not defined.
    scores : dict of str to array [n, T]
        Model name to probabilities. The first is the model reported on, the others are baselines.
    members : array [n]
        Codes or ids; intervals resample them, GAUC groups by them.
    time : array [n] int64
        Microseconds since 1970, UTC.
    weights : array [n, T], optional
        Row weights.
    requests : array [n], optional
        Codes of the list a row was shown in, each of one member; without them, metrics per request are
        left out.
    segments : dict of str to bool array [n]
        Rows to look at apart, such as those of new members; they may overlap.
    otherwise : set of str
        Models that are the first one, otherwise calibrated: shown beside it, and no baseline to beat.

    Raises
    ------
    DataError
        Shapes do not agree, or there is no task, no row or no model.
    """

    tasks: tuple[str, ...]
    labels: np.ndarray
    scores: Mapping[str, np.ndarray]
    members: np.ndarray
    time: np.ndarray
    weights: np.ndarray | None = None
    requests: np.ndarray | None = None
    segments: Mapping[str, np.ndarray] = field(default_factory=dict)
    otherwise: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.tasks or not self.scores or len(self.members) == 0:
            raise DataError(
                f"a report needs rows, tasks and models, not {len(self.members)} rows, "
                f"{len(self.tasks)} tasks and {len(self.scores)} models",
                where="report",
            )
        if len(set(self.tasks)) != len(self.tasks):
            raise DataError(f"task names repeat: {', '.join(self.tasks)}", where="report")
        n, tasks = len(self.members), len(self.tasks)
        _shape("labels", self.labels, (n, tasks))
        _shape("time", self.time, (n,))
        for name, scores in self.scores.items():
            _shape(f"scores of '{name}'", scores, (n, tasks))
        for name, mask in self.segments.items():
            _shape(f"segment '{name}'", mask, (n,))
        if self.weights is not None:
            _shape("weights", self.weights, (n, tasks))
        if self.requests is not None:
            _shape("requests", self.requests, (n,))

    def __len__(self) -> int:
        return len(self.members)

    @property
    def models(self) -> tuple[str, ...]:
        """Model names, the one reported on first."""
        return tuple(self.scores)

    def take(self, rows: np.ndarray) -> Predictions:
        """Keep some rows (a mask or indices); segments are dropped."""
        return Predictions(
            tasks=self.tasks,
            labels=self.labels[rows],
            scores={name: scores[rows] for name, scores in self.scores.items()},
            members=self.members[rows],
            time=self.time[rows],
            weights=None if self.weights is None else self.weights[rows],
            requests=None if self.requests is None else self.requests[rows],
        )

    def column(self, task: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Labels and weights of one task, [n] each."""
        return self.labels[:, task], None if self.weights is None else self.weights[:, task]


class Split(NamedTuple):
    """One part of the log: its rows and its first and last time, microseconds UTC."""

    name: str
    rows: int
    first: int
    last: int


class FeatureRates(NamedTuple):
    """Share of rows on which a feature is missing, or has a value never seen in training."""

    name: str
    missing: float
    unknown: float


class Freshness(NamedTuple):
    """How old a feature is when it is used, and whose feature it is."""

    name: str
    delay: Delay
    side: Side


@dataclass(frozen=True)
class ReportContext:
    """Where the predictions come from; everything but the title may be left out.

    Parameters
    ----------
    title : str
        Name of the project.
    date : str
        When the report was made, as it should be read.
    config : mapping
        The project, as plain values; printed as YAML.
    versions : mapping
        Package name to version.
    splits : sequence of Split
        Rows and time range of train, valid and test.
    members, items : int, optional
        How many the log has.
    negatives : str
        How negatives came about, one sentence.
    rejected : mapping
        Reason to number of rows left out for it.
    features : sequence of FeatureRates
        Missing and unknown rates on the evaluated rows.
    log : sequence of mappings
        Training records: ``step``, ``epoch``, ``split``, ``loss`` and further metrics.
    fit_seconds : float, optional
        How long fitting took.
    cautions : sequence of str
        What makes the figures other than they seem; printed before them.
    notes : sequence of str
        Remarks to print near the top.
    freshness : mapping
        Model name to the freshness of its features.
    version : str
        Which version of the model is judged, as it should be read.
    """

    title: str
    date: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    splits: Sequence[Split] = ()
    members: int | None = None
    items: int | None = None
    negatives: str = ""
    rejected: Mapping[str, int] = field(default_factory=dict)
    features: Sequence[FeatureRates] = ()
    log: Sequence[Mapping[str, Any]] = ()
    fit_seconds: float | None = None
    cautions: Sequence[str] = ()
    notes: Sequence[str] = ()
    freshness: Mapping[str, Sequence[Freshness]] = field(default_factory=dict)
    version: str = ""


def _shape(name: str, array: np.ndarray, expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise DataError(f"{name} must have shape {expected}, not {array.shape}", where="report")
