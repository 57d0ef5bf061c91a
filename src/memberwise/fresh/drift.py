"""Drift: what of features, labels and calibration has changed since the model was fitted.

Two profiles (`memberwise.fresh.profile`) on the same bins are compared without the rows behind them, so that
a version can carry the profile of what it was fitted on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from memberwise.errors import counted
from memberwise.fresh.profile import ALL, Bins, Outcome, Profile
from memberwise.fresh.stability import fitting, gap_by_chance, psi_by_chance, stability

__all__ = ["ALL", "Bins", "Change", "Drift", "Outcome", "Profile", "compare", "stability"]

WATCH, DRIFTED = 0.1, 0.25
"""The usual reading of a population stability index."""
_SMALL, _LARGE = 0.05, 0.10  # relative change of a rate worth watching, and too much


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
        named = ", ".join(map(_named, gone[:3]))
        more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
        advice = " Train again in full." if self.advises_retraining else " That alone asks for no fit."
        kinds = [f"{counted(n, kind)}" for kind in _KINDS if (n := sum(map(_KINDS[kind], self.changes)))]
        return (
            f"{len(gone)} of {len(self.changes)} comparisons ({', '.join(kinds)}) show drift: "
            f"{named}{more}.{left}{advice}"
        )

    def to_records(self) -> list[dict[str, Any]]:
        """One plain record a change, for the report and for JSON."""
        return [asdict(c) for c in self.changes]


def _named(change: Change) -> str:
    """What a change is of, so that no two read alike."""
    if change.measure == "psi":
        return repr(change.name)
    among = "" if change.segment == ALL else f" among {change.segment}"
    return f"{change.measure} of {change.name}{among}"


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
    one member resemble each other. To this comes what stretches as long as ``now`` differ by within
    ``before`` (`memberwise.fresh.stability.Spread`): rows of one day resemble each other too.

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
        chance = psi_by_chance(used, noise, fitting(before.spreads.get(name, ()), now.days))
        verdict = _verdict(psi, chance, WATCH, DRIFTED)
        changes.append(Change(name, ALL, "psi", None, None, psi, chance, verdict))
    for task, segments in before.outcomes.items():
        for segment, then in segments.items():
            later = now.outcomes.get(task, {}).get(segment)
            if later is not None:
                changes += _outcome_changes(task, segment, then, later, now.days)
    rank = {"drifted": 0, "watch": 1, "stable": 2}
    return Drift(tuple(sorted(changes, key=lambda c: (rank[c.verdict], -abs(c.value)))), partial)


def _outcome_changes(
    task: str, segment: str, then: Outcome, later: Outcome, days: float | None
) -> list[Change]:
    found = []
    gap = later.rate - then.rate
    chance = gap_by_chance(then.rate_error, later.rate_error, fitting(then.rate_spreads, days))
    scale = max(then.rate, 1e-9)
    verdict = _verdict(abs(gap), chance, _SMALL * scale, _LARGE * scale)
    found.append(Change(task, segment, "label rate", then.rate, later.rate, gap, chance, verdict))
    if None not in (then.ratio, later.ratio, then.ratio_error, later.ratio_error):
        assert then.ratio is not None and later.ratio is not None  # noqa: PT018 - for the type checker
        assert then.ratio_error is not None and later.ratio_error is not None  # noqa: PT018
        gap = later.ratio - then.ratio
        chance = gap_by_chance(then.ratio_error, later.ratio_error, fitting(then.ratio_spreads, days))
        verdict = _verdict(abs(gap), chance, np.log1p(_SMALL), np.log1p(_LARGE))
        found.append(Change(task, segment, "calibration", then.ratio, later.ratio, gap, chance, verdict))
    return found


def _verdict(value: float, chance: float, watch: float, drifted: float) -> str:
    if value <= chance or value <= watch:
        return "stable"
    return "drifted" if value > drifted else "watch"
