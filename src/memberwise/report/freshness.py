"""What freshness is worth: a replay's curves, drift and off-policy estimates, and the answer in a sentence.

A freshness report is made of plain records, which a replay, a drift check and an off-policy evaluation write;
it knows nothing of models or files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.isotonic import IsotonicRegression

from memberwise.errors import DataError
from memberwise.report import text

DAY = 86_400e6
STALE = "stale"
SERIES = ("auc", "log_loss", "observed_over_expected", "seconds", "bytes")
_NEEDED = ("arm", "slice", "first", "last", "rows", "log_loss")


@dataclass(frozen=True)
class Staleness:
    """What an unrefreshed model costs as it ages.

    Attributes
    ----------
    reference : str
        The arm that it is compared with: of those that learn, the one of least log-loss.
    limit : float
        The cost that is too much, as a share of the reference's log-loss.
    days : float or None
        Age at which the cost passes the limit for good; None if it never does within the replay.
    span : float
        Days that the replay covers.
    cost : float
        Cost over the last fifth of the slices, as a share of the reference's log-loss.
    """

    reference: str
    limit: float
    days: float | None
    span: float
    cost: float

    def sentence(self) -> str:
        """Say it."""
        gone = f"{100 * self.limit:g} % of log-loss"
        end = f"{100 * self.cost:.1f} % against '{self.reference}'"
        if self.days is None:
            return (
                f"In {_days(self.span)} the model that is never refreshed did not lose {gone} "
                f"(at the end: {end})."
            )
        if self.days <= 0:
            return (
                f"The model costs more than {gone} from the first slice on (at the end: {end}): refresh it."
            )
        return (
            f"Refresh the model at least every {_days(self.days)}: left alone for longer it costs more than "
            f"{gone} ({end} at the end of {_days(self.span)})."
        )


@dataclass(frozen=True)
class FreshnessReport:
    """Curves of several arms through time, drift, and off-policy estimates.

    Parameters
    ----------
    title : str
        Name of the project.
    slices : sequence of mappings
        One record for each arm and slice: ``arm``, ``slice`` (from 0), ``first`` and ``last`` (microseconds
        UTC), ``rows``, ``log_loss``, and where known ``auc``, ``observed_over_expected``, ``seconds`` (of
        the refresh after the slice) and ``bytes`` (that it wrote). The arm `stale` never learns.
    drift : sequence of mappings
        `memberwise.fresh.drift.Drift.to_records`.
    offpolicy : sequence of mappings
        `memberwise.fresh.offpolicy.OffPolicy.to_records`, with a ``policy`` if there are several.
    task : str
        What the metrics are about.
    limit : float
        Cost of staleness that is too much, as a share of log-loss.
    date : str
        When the report was made, as it should be read.
    notes : sequence of str
        Remarks to print near the top.

    Raises
    ------
    DataError
        A record lacks a key, or an arm has a slice twice.

    Examples
    --------
    >>> day = 86_400_000_000
    >>> slices = [
    ...     {"arm": arm, "slice": i, "first": i * day, "last": (i + 1) * day, "rows": 100, "log_loss": loss}
    ...     for i in range(5)
    ...     for arm, loss in (("stale", 0.5 + 0.01 * i), ("everything", 0.5))
    ... ]
    >>> print(FreshnessReport("Films", slices, limit=0.03).answer())
    Refresh the model at least every 1.5 days: left alone for longer it costs more than 3 % of log-loss
    (8.0 % against 'everything' at the end of 5.0 days).
    """

    title: str
    slices: Sequence[Mapping[str, Any]] = ()
    drift: Sequence[Mapping[str, Any]] = ()
    offpolicy: Sequence[Mapping[str, Any]] = ()
    task: str = ""
    limit: float = 0.01
    date: str = ""
    notes: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        seen: set[tuple[str, int]] = set()
        for record in self.slices:
            missing = [key for key in _NEEDED if key not in record]
            if missing:
                raise DataError(f"a record of the replay lacks {', '.join(missing)}", where="freshness")
            place = (str(record["arm"]), int(record["slice"]))
            if place in seen:
                raise DataError(f"arm '{place[0]}' has slice {place[1]} twice", where="freshness")
            seen.add(place)

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms in the order of the records, the one that costs least first and `stale` last."""
        names = list(dict.fromkeys(str(r["arm"]) for r in self.slices))
        best = self._best([n for n in names if n != STALE])
        return tuple(sorted(names, key=lambda n: (n != best, n == STALE, names.index(n))))

    def series(self, arm: str, key: str) -> tuple[list[int], list[float]]:
        """Middle of each slice (microseconds) and one of its values; slices without it are left out."""
        found = sorted((r for r in self.slices if str(r["arm"]) == arm), key=lambda r: int(r["slice"]))
        kept = [(r, _number(r.get(key))) for r in found]
        kept = [(r, x) for r, x in kept if math.isfinite(x)]
        return [(int(r["first"]) + int(r["last"])) // 2 for r, _ in kept], [x for _, x in kept]

    def totals(self) -> list[dict[str, Any]]:
        """One record an arm: metrics averaged over rows, seconds and bytes summed."""
        found = []
        for arm in self.arms:
            mine = [r for r in self.slices if str(r["arm"]) == arm]
            total: dict[str, Any] = {"arm": arm, "rows": sum(int(r["rows"]) for r in mine)}
            for key in SERIES:
                values = np.array([_number(r.get(key)) for r in mine])
                known = np.isfinite(values)
                if not known.any():
                    total[key] = None
                elif key in ("seconds", "bytes"):
                    total[key] = float(values[known].sum())
                else:
                    rows = np.array([float(r["rows"]) for r in mine])[known]
                    total[key] = float(np.average(values[known], weights=rows))
            found.append(total)
        return found

    def staleness(self) -> Staleness | None:
        """What the arm that never learns costs as it ages; None without that arm or without another.

        The cost per slice is noisy, and a model does not get younger: its trend is the non-decreasing
        curve nearest to it (isotonic regression, weighted by rows).
        """
        best = self._best([a for a in self.arms if a != STALE])
        stale = {int(r["slice"]): r for r in self.slices if str(r["arm"]) == STALE}
        fresh = {int(r["slice"]): r for r in self.slices if str(r["arm"]) == best}
        both = [
            i
            for i in sorted(stale.keys() & fresh.keys())
            if math.isfinite(_number(stale[i]["log_loss"])) and math.isfinite(_number(fresh[i]["log_loss"]))
        ]
        if best is None or not both:
            return None
        start = min(int(r["first"]) for r in stale.values())
        end = max(int(r["last"]) for r in stale.values())
        rows = np.array([max(1.0, float(stale[i]["rows"])) for i in both])
        base = np.array([float(fresh[i]["log_loss"]) for i in both])
        cost = np.array([float(stale[i]["log_loss"]) for i in both]) - base
        share = cost / float(np.average(base, weights=rows))
        trend = IsotonicRegression().fit(np.arange(len(both)), share, rows).predict(np.arange(len(both)))
        over = np.flatnonzero(trend > self.limit)
        days: float | None = None
        if len(over):
            # The last age at which the cost was still bearable: the middle of the slice before.
            last = int(over[0]) - 1
            days = 0.0 if last < 0 else (self._middle(stale[both[last]]) - start) / DAY
        tail = slice(-max(1, len(both) // 5), None)
        return Staleness(
            best, self.limit, days, (end - start) / DAY, float(np.average(share[tail], weights=rows[tail]))
        )

    def answer(self) -> str:
        """How stale the model may get, in one sentence."""
        found = self.staleness()
        if found is None:
            return "A replay with the arm 'stale' and one that learns would say how stale the model may get."
        return found.sentence()

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values that JSON can carry."""
        plain = {
            "title": self.title, "date": self.date, "task": self.task, "answer": self.answer(),
            "totals": self.totals(), "slices": [dict(r) for r in self.slices],
            "drift": [dict(r) for r in self.drift], "offpolicy": [dict(r) for r in self.offpolicy],
            "notes": list(self.notes),
        }  # fmt: skip
        cleaned: dict[str, Any] = json.loads(json.dumps(_finite(plain), default=str))
        return cleaned

    def to_json(self, path: str | Path) -> Path:
        """Write `to_dict` as JSON."""
        target = Path(path)
        target.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        return target

    def html(self) -> str:
        """Render the page."""
        from memberwise.report.freshness_page import render  # matplotlib is slow to import

        return render(self)

    def write(self, path: str | Path) -> Path:
        """Write the page as one HTML file that needs nothing else."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.html().encode("utf-8", errors="replace"))
        return target

    def _best(self, names: Sequence[str]) -> str | None:
        losses = {
            n: np.average(
                [_number(r["log_loss"]) for r in self.slices if str(r["arm"]) == n],
                weights=[max(1.0, float(r["rows"])) for r in self.slices if str(r["arm"]) == n],
            )
            for n in names
        }
        return min(losses, key=lambda n: (np.nan_to_num(losses[n], nan=np.inf), n)) if losses else None

    @staticmethod
    def _middle(record: Mapping[str, Any]) -> float:
        return (int(record["first"]) + int(record["last"])) / 2


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float | np.number) else float("nan")


def _days(days: float) -> str:
    return f"{days:.1f} days" if days >= 1 else text.duration(days * 86_400)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
