"""Drift: what of features, labels and calibration has changed since the model was fitted.

A `Profile` is a small summary of rows: a histogram per feature, sums per task and segment. Two profiles on
the same bins are compared without the rows behind them, so that a version can carry the profile of what it
was fitted on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from memberwise.data.layout import Layout
from memberwise.data.vocabulary import FIRST, MISSING, PAD, UNSEEN
from memberwise.errors import DataError, counted
from memberwise.schema import DAY

Floats = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[Any]]

BINS, VALUES = 10, 20
WATCH, DRIFTED = 0.1, 0.25
"""The usual reading of a population stability index."""
CHANCE = 0.999
_SIGMAS = 3.29  # the same level for a rate
_SMALL, _LARGE = 0.05, 0.10  # relative change of a rate worth watching, and too much
ALL = "all rows"
_ROUND = 0.9
"""Of a cycle: the rows of whole days begin a little after midnight and end a little before."""


@dataclass(frozen=True)
class Bins:
    """How a feature is counted: ``edges`` of a number, or ``codes`` of a category (all others together)."""

    edges: list[float] | None = None
    codes: list[int] | None = None

    def count(self, values: npt.NDArray[Any]) -> Floats:
        """Rows in each bin."""
        if self.edges is not None:
            place = np.searchsorted(self.edges, values[np.isfinite(values)], side="right")
            return np.bincount(place, minlength=len(self.edges) + 1).astype(float)
        codes = np.asarray(self.codes)
        order = np.argsort(codes)
        at = np.searchsorted(codes[order], values).clip(0, len(codes) - 1)
        hit = codes[order][at] == values
        return np.bincount(np.where(hit, order[at], len(codes)), minlength=len(codes) + 1).astype(float)


@dataclass(frozen=True)
class Outcome:
    """Labels of a task on some of the rows, and what was predicted.

    Attributes
    ----------
    rows, members
        How many.
    rate, rate_error
        Rate of positives, and its standard error over members.
    ratio, ratio_error
        Log of observed over expected positives, and its standard error; None without predictions.
    """

    rows: int
    members: int
    rate: float
    rate_error: float
    ratio: float | None = None
    ratio_error: float | None = None


@dataclass(frozen=True)
class Profile:
    """A summary of rows.

    Attributes
    ----------
    bins : dict of Bins
        By feature.
    counts : dict of list of float
        Rows in each bin, by feature.
    size : float
        Rows as good as so many independent ones: ``(sum n_m)^2 / sum n_m^2`` over members m.
    outcomes : dict
        Task to segment to `Outcome`.
    days : float, optional
        From the first row to the last, where their times are known.
    """

    bins: dict[str, Bins]
    counts: dict[str, list[float]]
    size: float
    outcomes: dict[str, dict[str, Outcome]] = field(default_factory=dict)
    days: float | None = None

    @classmethod
    def of(
        cls,
        arrays: Arrays,
        layout: Layout,
        *,
        scores: npt.NDArray[np.floating] | None = None,
        segments: Mapping[str, npt.NDArray[np.bool_]] | None = None,
        like: Profile | None = None,
    ) -> Profile:
        """Summarise rows.

        Parameters
        ----------
        arrays
            `FeaturePipeline.batch_arrays`, with ``member``, and ``labels`` where they are known.
        layout
            What the arrays hold.
        scores : float [n, T], optional
            Probabilities, for calibration.
        segments
            Rows to look at apart.
        like
            Use this profile's bins; deciles and the most frequent values of the rows if not given.

        Raises
        ------
        DataError
            There are no rows.
        """
        members = np.unique(arrays["member"], return_inverse=True)[1]
        if not len(members):
            raise DataError("there are no rows to look for drift in", where="drift")
        columns = _columns(arrays, layout)
        bins = like.bins if like is not None else {k: _bins(v) for k, v in columns.items()}
        counts = {k: bins[k].count(v).tolist() for k, v in columns.items() if k in bins}
        each = np.bincount(members).astype(float)
        outcomes: dict[str, dict[str, Outcome]] = {}
        if "labels" in arrays:
            parts = {ALL: np.ones(len(members), bool), **(segments or {})}
            labels = np.asarray(arrays["labels"], float)
            for t, task in enumerate(layout.tasks):
                p = None if scores is None else np.asarray(scores[:, t], float)
                found = {name: _outcome(labels[:, t], p, members, mask) for name, mask in parts.items()}
                outcomes[task] = {name: o for name, o in found.items() if o is not None}
        times = np.asarray(arrays["time"]) if "time" in arrays else None
        days = None if times is None else float(times.max() - times.min()) / DAY
        return cls(bins, counts, float(each.sum() ** 2 / (each @ each)), outcomes, days)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Profile:
        """The inverse of `to_dict`."""
        return cls(
            {k: Bins(**b) for k, b in values["bins"].items()},
            {k: list(c) for k, c in values["counts"].items()},
            float(values["size"]),
            {t: {s: Outcome(**o) for s, o in found.items()} for t, found in values["outcomes"].items()},
            values.get("days"),
        )

    def covers(self, days: float) -> bool:
        """Whether the rows go all the way round a cycle of so many days, as far as is known."""
        return self.days is None or self.days >= _ROUND * days


@dataclass(frozen=True)
class Change:
    """One thing that may have drifted.

    Attributes
    ----------
    name, segment
        Feature or task, and of which rows.
    measure
        ``psi``, ``label rate`` or ``calibration`` (log of observed over expected).
    before, now
        The two values; None for a PSI, which compares histograms.
    value
        The PSI, or the difference.
    chance
        What the value exceeds once in a thousand without any drift.
    verdict
        ``stable``, ``watch`` or ``drifted``.
    """

    name: str
    segment: str
    measure: str
    before: float | None
    now: float | None
    value: float
    chance: float
    verdict: str


@dataclass(frozen=True)
class Drift:
    """All changes between two profiles, the worst first.

    Attributes
    ----------
    changes
        One for each comparison.
    partial
        Features that were not compared: one of the profiles does not go all the way round their cycle.
    """

    changes: tuple[Change, ...]
    partial: tuple[str, ...] = ()

    def of(self, verdict: str) -> list[Change]:
        """Changes of one verdict."""
        return [c for c in self.changes if c.verdict == verdict]

    @property
    def advises_retraining(self) -> bool:
        """Whether calibration of all rows, or a fifth of the features, has drifted: beyond small steps."""
        calibration = [c for c in self.of("drifted") if c.measure == "calibration" and c.segment == ALL]
        features = [c for c in self.changes if c.measure == "psi"]
        gone = [c for c in features if c.verdict == "drifted"]
        return bool(calibration) or (len(features) > 0 and 5 * len(gone) >= len(features) and len(gone) > 1)

    def sentence(self) -> str:
        """Say it."""
        gone = self.of("drifted")
        left = f" Not compared, for want of rows all round its cycle: {', '.join(self.partial)}."
        left = left if self.partial else ""
        if not gone:
            watch = len(self.of("watch"))
            return "Nothing has drifted" + (f"; {watch} to watch." if watch else ".") + left
        named = ", ".join(c.name if c.measure == "psi" else f"{c.measure} of {c.name}" for c in gone[:3])
        more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
        advice = " Train again in full." if self.advises_retraining else ""
        kinds = [f"{counted(n, kind)}" for kind in _KINDS if (n := sum(map(_KINDS[kind], self.changes)))]
        return (
            f"{len(gone)} of {len(self.changes)} comparisons ({', '.join(kinds)}) show drift: "
            f"{named}{more}.{left}{advice}"
        )

    def to_records(self) -> list[dict[str, Any]]:
        """One plain record a change, for the report and for JSON."""
        return [asdict(c) for c in self.changes]


_KINDS: dict[str, Callable[[Change], bool]] = {
    "feature": lambda c: c.measure == "psi",
    "label rate": lambda c: c.measure == "label rate",
    "calibration": lambda c: c.measure == "calibration",
}
"""What is compared; label rates and calibrations of every task, in all rows and in each segment."""


def compare(before: Profile, now: Profile, cycles: Mapping[str, float] = MappingProxyType({})) -> Drift:
    r"""What has changed between two profiles on the same bins.

    .. math:: \mathrm{PSI} = \sum_b (q_b - p_b) \log(q_b / p_b)

    over bins with half a row added to each. Without drift, PSI is about ``(1/n + 1/m)`` times a chi-squared
    variable of B - 1 degrees of freedom; n and m count members' rows by their effective size, since rows of
    one member resemble each other.

    Parameters
    ----------
    before, now
        ``now`` made with ``like=before``.
    cycles
        Days after which a feature comes round, by name: the day of the week in 7. It is compared only where
        both profiles go all the way round; the rows of one day tell nothing about it.

    References
    ----------
    Yurdakul and Naranjo, "Statistical properties of the population stability index" (2020).

    Examples
    --------
    >>> bins = {"price": Bins(edges=[1.0, 2.0])}
    >>> one, two = Profile(bins, {"price": [500.0, 300.0, 200.0]}, 1000.0), Profile(
    ...     bins, {"price": [200.0, 300.0, 500.0]}, 1000.0)
    >>> change = compare(one, two).changes[0]
    >>> round(change.value, 2), change.verdict
    (0.55, 'drifted')
    """
    changes = []
    noise = 1 / before.size + 1 / now.size
    partial = tuple(n for n, d in cycles.items() if not (before.covers(d) and now.covers(d)))
    for name, counts in before.counts.items():
        if name not in now.counts or name in partial:
            continue
        psi = stability(np.array(counts), np.array(now.counts[name]))
        used = int(((np.array(counts) + np.array(now.counts[name])) > 0).sum())
        chance = float(noise * chi2.ppf(CHANCE, max(1, used - 1)))
        verdict = _verdict(psi, chance, WATCH, DRIFTED)
        changes.append(Change(name, ALL, "psi", None, None, psi, chance, verdict))
    for task, segments in before.outcomes.items():
        for segment, then in segments.items():
            later = now.outcomes.get(task, {}).get(segment)
            if later is not None:
                changes += _outcome_changes(task, segment, then, later)
    rank = {"drifted": 0, "watch": 1, "stable": 2}
    return Drift(tuple(sorted(changes, key=lambda c: (rank[c.verdict], -abs(c.value)))), partial)


def stability(before: Floats, now: Floats) -> float:
    """Population stability index of two histograms; bins that both lack do not count."""
    used = (before + now) > 0
    p, q = before[used] + 0.5, now[used] + 0.5
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def _outcome_changes(task: str, segment: str, then: Outcome, later: Outcome) -> list[Change]:
    found = []
    gap = later.rate - then.rate
    chance = _SIGMAS * float(np.hypot(then.rate_error, later.rate_error))
    scale = max(then.rate, 1e-9)
    verdict = _verdict(abs(gap), chance, _SMALL * scale, _LARGE * scale)
    found.append(Change(task, segment, "label rate", then.rate, later.rate, gap, chance, verdict))
    if None not in (then.ratio, later.ratio, then.ratio_error, later.ratio_error):
        assert then.ratio is not None and later.ratio is not None  # noqa: PT018 - for the type checker
        assert then.ratio_error is not None and later.ratio_error is not None  # noqa: PT018
        gap = later.ratio - then.ratio
        chance = _SIGMAS * float(np.hypot(then.ratio_error, later.ratio_error))
        verdict = _verdict(abs(gap), chance, np.log1p(_SMALL), np.log1p(_LARGE))
        found.append(Change(task, segment, "calibration", then.ratio, later.ratio, gap, chance, verdict))
    return found


def _verdict(value: float, chance: float, watch: float, drifted: float) -> str:
    if value <= chance or value <= watch:
        return "stable"
    return "drifted" if value > drifted else "watch"


def _columns(arrays: Arrays, layout: Layout) -> dict[str, npt.NDArray[Any]]:
    """Every feature as one column of values; of a feature with several, all of them."""
    dense = np.asarray(arrays["dense"])
    columns: dict[str, npt.NDArray[Any]] = {c.name: dense[:, i] for i, c in enumerate(layout.dense)}
    at = len(layout.dense)
    for c in layout.dense:
        if c.indicator:
            columns[f"{c.name} is missing"] = dense[:, at].round().astype(np.int64)
            at += 1
    ids = np.asarray(arrays["ids"])
    for f in layout.ids:
        values = ids[:, f.start : f.start + f.width].ravel()
        columns[f.name] = values[values != PAD].astype(np.int64)
    return columns


def _bins(values: npt.NDArray[Any]) -> Bins:
    """Deciles of numbers; the most frequent values of categories, and those that say unseen and missing."""
    if values.dtype.kind in "iu":
        found, counts = np.unique(values, return_counts=True)
        top = found[np.argsort(-counts, kind="stable")][:VALUES]
        return Bins(codes=sorted({*top.tolist(), UNSEEN, MISSING, FIRST}))
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Bins(edges=[])
    edges = np.unique(np.quantile(finite, np.linspace(0, 1, BINS + 1)[1:-1]))
    return Bins(edges=[float(e) for e in edges])


def _outcome(
    labels: Floats, scores: Floats | None, members: npt.NDArray[Any], mask: npt.NDArray[np.bool_]
) -> Outcome | None:
    """Rate and calibration of some rows, with errors over members; None without a defined row."""
    rows = mask & ~np.isnan(labels)
    if not rows.any():
        return None
    y, codes = labels[rows], np.unique(members[rows], return_inverse=True)[1]
    n = np.bincount(codes).astype(float)
    positives = np.bincount(codes, weights=y)
    rate = float(y.mean())
    error = float(np.sqrt(((positives - rate * n) ** 2).sum()) / len(y))
    if scores is None:
        return Outcome(len(y), len(n), rate, error)
    expected = np.bincount(codes, weights=scores[rows])
    observed, predicted = float(y.sum()), float(expected.sum())
    if observed <= 0 or predicted <= 0:
        return Outcome(len(y), len(n), rate, error)
    # Delta method for the log of a ratio of sums over members.
    parts = positives / observed - expected / predicted
    ratio = float(np.log(observed / predicted))
    return Outcome(len(y), len(n), rate, error, ratio, float(np.sqrt((parts**2).sum())))
