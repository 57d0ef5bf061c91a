"""The freshness page: what each part shows, handed to the template."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from memberwise.report import figures, text
from memberwise.report.page import Figure, environment, unique_ids

if TYPE_CHECKING:
    from memberwise.report.freshness import FreshnessReport

LABELS = {
    "auc": ("AUC", "chance that a positive is scored above a negative"),
    "log_loss": ("Log-loss", "nats; lower is better"),
    "observed_over_expected": ("O/E", "positives that came over positives predicted; 1 is calibrated"),
    "seconds": ("CPU seconds", "of the refresh after each slice"),
    "bytes": ("Bytes", "that the refresh wrote"),
}
TABLE_ROWS = 200


def render(report: FreshnessReport) -> str:
    """Render a freshness report as one page, without scripts and without anything to load."""
    draw = unique_ids()
    env = environment()
    env.filters |= {"size": _size, "figure": _figure}
    return env.get_template("freshness.html.j2").render(
        report=report,
        totals=report.totals(),
        curves=list(curves(report, draw)),
        drift=sorted(report.drift, key=lambda r: _RANK.get(str(r.get("verdict")), 3))[:TABLE_ROWS],
        offpolicy=list(report.offpolicy),
        series=len(figures.SERIES),
    )


_RANK = {"drifted": 0, "watch": 1, "stable": 2}


def curves(report: FreshnessReport, draw: Callable[[str], Markup]) -> Iterator[Figure]:
    """One figure a metric, a line an arm."""
    keys = {arm: i for i, arm in enumerate(report.arms)}
    for name, (label, meaning) in LABELS.items():
        lines: dict[str, tuple[list[int], list[float]]] = {}
        for arm in report.arms:
            times, values = report.series(arm, name)
            if times:
                lines[arm] = times, values
        if not lines:
            continue
        svg = figures.arms_over_time(
            {keys[arm]: line for arm, line in lines.items()}, label, log=name in ("seconds", "bytes")
        )
        yield Figure(label, f"By slice: {meaning}.", draw(svg), {a: keys[a] for a in lines})


def _figure(value: Any, places: int = 4) -> str:
    return text.number(float(value), places) if isinstance(value, int | float) else text.MISSING


def _size(count: Any) -> str:
    """Bytes as people read them.

    Examples
    --------
    >>> _size(1_234_567), _size(None)
    ('1.2 MB', '–')
    """
    if not isinstance(count, int | float):
        return text.MISSING
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"
