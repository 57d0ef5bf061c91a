"""Aggregates and histories as a reader would compute them: filter the past, then add up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from memberwise.data.events import TIME
from memberwise.schema import DAY, HOUR, Aggregate, History
from support.logs import Event

NAN = float("nan")


def cutoff(t: int, delay: str, train_end: int | None) -> int:
    """The moment before which events are past for a row at t."""
    if delay == "hourly":
        return t // HOUR * HOUR
    if delay == "daily":
        return t // DAY * DAY
    if delay == "frozen" and train_end is not None and t > train_end:
        return train_end + 1
    return t


def values(event: Event, column: str, max_values: int) -> list[str]:
    """Distinct, present values of a column, in their order."""
    raw = event[column] if isinstance(event[column], list) else [event[column]]
    return list(dict.fromkeys(v for v in raw if v))[:max_values]


def row_keys(event: Event, spec: Aggregate) -> list[tuple[str, ...]]:
    """All combinations of the key's values."""
    return list(itertools.product(*(values(event, c, spec.max_values) for c in spec.by)))


def number(value: Any) -> float:
    """NaN where there is no number."""
    return NAN if value is None else float(value)


def aggregate_row(
    spec: Aggregate, log: Sequence[Event], row: Event, train_end: int | None = None
) -> list[float]:
    """The columns of one row."""
    limit = cutoff(row[TIME], spec.delay, train_end)
    past = [e for e in log if e[TIME] < limit]
    if spec.delay == "frozen" and train_end is not None:
        past = [e for e in past if e[TIME] <= train_end]
    recent = past if spec.window is None else [e for e in past if e[TIME] >= limit - spec.window]

    def weight(e: Event) -> float:
        return 1.0 if spec.half_life is None else 0.5 ** ((limit - e[TIME]) / spec.half_life)

    mine = row_keys(row, spec)
    own = [e for key in mine for e in recent if key in row_keys(e, spec)]  # once per key that it shares

    def sums(rows: Sequence[Event], column: str) -> tuple[float, float]:
        pairs = [(number(e[column]), weight(e)) for e in rows]
        pairs = [(x, w) for x, w in pairs if not math.isnan(x)]
        return sum(x * w for x, w in pairs), sum(w for _, w in pairs)

    a, out = spec.prior_strength, []
    for task in ["y", "z"] if spec.rates is None else spec.rates:
        s, n = sums(own, f"label:{task}")
        s_all, n_all = sums(recent, f"label:{task}")
        rate = (s + a * (s_all + 1) / (n_all + 2)) / (n + a)
        out.append(math.log(rate / (1 - rate)))
    for mean in spec.means:
        s, n = sums(own, mean)
        s_all, n_all = sums(recent, mean)
        out.append((s + a * s_all / n_all) / (n + a) if n_all > 0 else NAN)
    if spec.count:
        out.append(math.log1p(sum(weight(e) for e in own)))
    for column in spec.distinct:
        found = sum(
            len({v for e in recent if key in row_keys(e, spec) for v in values(e, column, 1)}) for key in mine
        )
        out.append(math.log1p(found))
    if spec.recency:  # of the last event at all, inside the window or not
        times = [e[TIME] for e in past if set(mine) & set(row_keys(e, spec))]
        out.append(math.log1p((row[TIME] - max(times)) / DAY) if times else NAN)
    return out


def history_row(
    spec: History, log: Sequence[Event], row: Event, train_end: int | None = None
) -> list[tuple[str | None, str | None, float]]:
    """Item, action and age in seconds of the member's last events, newest first."""
    limit = cutoff(row[TIME], spec.delay, train_end)
    past = [e for e in log if e[TIME] < limit and e["m"] == row["m"]]
    if spec.delay == "frozen" and train_end is not None:
        past = [e for e in past if e[TIME] <= train_end]
    if spec.where is not None:
        past = [e for e in past if e["where:past"]]

    def action(e: Event) -> str | None:
        if spec.action is not None:
            return e[spec.action]
        marks = {True: "+", False: "-"}
        return "".join("?" if math.isnan(e[c]) else marks[e[c] > 0.5] for c in ("label:y", "label:z"))

    newest = past[::-1][: spec.length]
    return [(e[spec.item or "i"], action(e), (row[TIME] - e[TIME]) * 1e-6) for e in newest]
