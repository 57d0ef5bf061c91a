"""A small summary of rows, which a version can carry: histograms, label rates, and how much both vary.

Two profiles on the same bins are compared without the rows behind them (`memberwise.fresh.drift`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.data.layout import Layout
from memberwise.data.vocabulary import FIRST, MISSING, PAD, UNSEEN
from memberwise.errors import DataError
from memberwise.fresh.stability import (
    WHOLE,
    Floats,
    Spread,
    effective,
    spread_of_counts,
    spread_of_values,
    stretches,
)
from memberwise.schema import DAY

Arrays = Mapping[str, npt.NDArray[Any]]
Cuts = Sequence[tuple[float, npt.NDArray[np.int64]]]
"""Lengths in days, and the stretch of every row."""

BINS, VALUES = 10, 20
ALL = "all rows"


@dataclass(frozen=True)
class Bins:
    """How a feature is counted: ``edges`` of a number, or ``codes`` of a category (all others together)."""

    edges: list[float] | None = None
    codes: list[int] | None = None

    def __len__(self) -> int:
        return len(self.edges if self.edges is not None else self.codes or []) + 1

    def place(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Bin of each value, -1 for none."""
        if self.edges is not None:
            found = np.searchsorted(self.edges, values, side="right")
            return np.where(np.isfinite(values), found, -1)
        codes = np.asarray(self.codes)
        order = np.argsort(codes)
        at = np.searchsorted(codes[order], values).clip(0, len(codes) - 1)
        hit = codes[order][at] == values
        return np.where(hit, order[at], len(codes)).astype(np.int64)

    def count(self, values: npt.NDArray[Any]) -> Floats:
        """Rows in each bin."""
        place = self.place(values)
        return np.bincount(place[place >= 0], minlength=len(self)).astype(float)


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
    rate_spreads, ratio_spreads
        What stretches of several lengths differ by in either.
    """

    rows: int
    members: int
    rate: float
    rate_error: float
    ratio: float | None = None
    ratio_error: float | None = None
    rate_spreads: list[Spread] = field(default_factory=list)
    ratio_spreads: list[Spread] = field(default_factory=list)


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
    spreads
        By feature: what stretches of several lengths differ by. Looked for where the times are known and no
        other profile gives the bins: those who are compared with it need not say.
    """

    bins: dict[str, Bins]
    counts: dict[str, list[float]]
    size: float
    outcomes: dict[str, dict[str, Outcome]] = field(default_factory=dict)
    days: float | None = None
    spreads: dict[str, list[Spread]] = field(default_factory=dict)

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
            `FeaturePipeline.batch_arrays`, with ``member``, and ``labels`` and ``time`` where they are known.
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
        bins = like.bins if like is not None else {k: _bins(c.values) for k, c in columns.items()}
        columns = {k: c for k, c in columns.items() if k in bins}
        counts = {k: bins[k].count(c.values).tolist() for k, c in columns.items()}
        times = np.asarray(arrays["time"]) if "time" in arrays else None
        cuts = stretches(times) if times is not None and like is None else []
        outcomes: dict[str, dict[str, Outcome]] = {}
        if "labels" in arrays:
            parts = {ALL: np.ones(len(members), bool), **(segments or {})}
            labels = np.asarray(arrays["labels"], float)
            for i, task in enumerate(layout.tasks):
                p = None if scores is None else np.asarray(scores[:, i], float)
                found = {n: _outcome(labels[:, i], p, members, mask, cuts) for n, mask in parts.items()}
                outcomes[task] = {n: o for n, o in found.items() if o is not None}
        days = None if times is None else float(times.max() - times.min()) / DAY
        size = float(effective(np.bincount(members).astype(float)))
        return cls(bins, counts, size, outcomes, days, _spreads(columns, bins, members, cuts))

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
            {t: {s: _read(o) for s, o in found.items()} for t, found in values["outcomes"].items()},
            values.get("days"),
            {k: [Spread(**s) for s in found] for k, found in values.get("spreads", {}).items()},
        )

    def covers(self, days: float) -> bool:
        """Whether the rows go all the way round a cycle of so many days, as far as is known."""
        return self.days is None or self.days >= WHOLE * days


@dataclass(frozen=True)
class _Column:
    """The values of a feature, and the row of each: a feature may have several in one."""

    values: npt.NDArray[Any]
    rows: npt.NDArray[np.int64]


def _columns(arrays: Arrays, layout: Layout) -> dict[str, _Column]:
    """Every feature as one column."""
    dense = np.asarray(arrays["dense"])
    every = np.arange(len(dense))
    columns = {c.name: _Column(dense[:, i], every) for i, c in enumerate(layout.dense)}
    at = len(layout.dense)
    for c in layout.dense:
        if c.indicator:
            columns[f"{c.name} is missing"] = _Column(dense[:, at].round().astype(np.int64), every)
            at += 1
    ids = np.asarray(arrays["ids"])
    for f in layout.ids:
        values = ids[:, f.start : f.start + f.width]
        there = values != PAD
        columns[f.name] = _Column(values[there].astype(np.int64), np.nonzero(there)[0])
    return columns


def _spreads(
    columns: Mapping[str, _Column],
    bins: Mapping[str, Bins],
    members: npt.NDArray[np.int64],
    cuts: Cuts,
) -> dict[str, list[Spread]]:
    """What stretches differ by, of every feature."""
    found: dict[str, list[Spread]] = {name: [] for name in columns}
    for days, stretch in cuts:
        many, there = int(stretch.max()) + 1, stretch >= 0
        each = _table(stretch[there], members[there], (many, int(members.max()) + 1))
        sizes, others = effective(each), effective(np.bincount(members) - each)
        for name, column in columns.items():
            place, where = bins[name].place(column.values), stretch[column.rows]
            counted, used = place >= 0, (place >= 0) & (where >= 0)
            counts = _table(where[used], place[used], (many, len(bins[name])))
            total = np.bincount(place[counted], minlength=len(bins[name])).astype(float)
            found[name].append(spread_of_counts(days, counts, total, sizes, others))
    return found


def _table(row: npt.NDArray[Any], column: npt.NDArray[Any], shape: tuple[int, int]) -> Floats:
    """How often each pair occurs."""
    flat = np.bincount(row * shape[1] + column, minlength=shape[0] * shape[1])
    return flat.reshape(shape).astype(float)


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
    labels: Floats,
    scores: Floats | None,
    members: npt.NDArray[np.int64],
    mask: npt.NDArray[np.bool_],
    cuts: Cuts = (),
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
    rates: list[Spread] = []
    ratios: list[Spread] = []
    for days, stretch in cuts:
        pieces = (_outcome(labels, scores, members, rows & (stretch == k)) for k in range(stretch.max() + 1))
        parts = [p for p in pieces if p is not None]
        rates.append(spread_of_values(days, *_of(parts, "rate")))
        ratios.append(spread_of_values(days, *_of([p for p in parts if p.ratio is not None], "ratio")))
    whole = Outcome(len(y), len(n), rate, error, rate_spreads=rates)
    if scores is None:
        return whole
    expected = np.bincount(codes, weights=scores[rows])
    observed, predicted = float(y.sum()), float(expected.sum())
    if observed <= 0 or predicted <= 0:
        return whole
    # Delta method for the log of a ratio of sums over members.
    parts_of = positives / observed - expected / predicted
    ratio, ratio_error = float(np.log(observed / predicted)), float(np.sqrt((parts_of**2).sum()))
    return replace(whole, ratio=ratio, ratio_error=ratio_error, ratio_spreads=ratios)


def _of(parts: Sequence[Outcome], name: str) -> tuple[Floats, Floats, Floats]:
    """Values, errors and rows of a rate or a ratio."""
    columns = [[getattr(p, key) for p in parts] for key in (name, f"{name}_error", "rows")]
    values, errors, rows = np.array(columns, float)
    return values, errors, rows


def _read(values: Mapping[str, Any]) -> Outcome:
    spreads = {k: [Spread(**s) for s in found] for k, found in values.items() if k.endswith("spreads")}
    return Outcome(**{**values, **spreads})
