"""Figures as SVG fragments that take their colours from the page and hold no text but our own.

Names of models and segments stand in the page beside a figure, never inside it: they may be anything,
and the page escapes them and has the fonts.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.dates as mdates
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from memberwise.metrics import Curve, Interval, ReliabilityCurve

# Okabe and Ito's palette, which people with any colour vision tell apart; the page restates it for dark.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1")
DASHES = ("", "5 2", "1.5 1.5", "6 2 1.5 2", "3 1.5", "8 2", "1 2.5")
INK, MUTED, LINE = "#1b1f25", "#6a7280", "#dfe3e8"
SIZE = (4.3, 3.4)
POINTS = 160

STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "path.simplify": True,
}


def reliability(curves: Mapping[str, ReliabilityCurve], scores: np.ndarray) -> str:
    """Observed against predicted rate, with two standard errors for the first model, over its scores.

    Parameters
    ----------
    curves : mapping of str to ReliabilityCurve
        By model.
    scores : array [n]
        Defined predictions of the first model.

    Returns
    -------
    str
        An ``<svg>`` element, as from every function here.
    """
    with _style():
        figure = Figure(figsize=SIZE, layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        ends = [0.0]
        for i, curve in enumerate(curves.values()):
            top.plot(curve.predicted, curve.observed, **_line(i), marker="o", markersize=4 if i == 0 else 2.5)
            if i == 0:
                top.errorbar(
                    curve.predicted, curve.observed, 2 * curve.error, fmt="none", ecolor=SERIES[0],
                    elinewidth=1, alpha=0.6,
                )  # fmt: skip
                ends.extend(curve.observed + 2 * curve.error)
            ends.extend([*curve.predicted, *curve.observed])
        limit = min(1.02, 1.06 * max(ends)) or 1.0
        top.plot([0, limit], [0, limit], color=MUTED, linewidth=0.8, zorder=1)
        top.set(xlim=(0, limit), ylim=(0, limit), ylabel="observed rate")
        counts, edges = np.histogram(scores, bins=40, range=(0, limit))
        bottom.bar(edges[:-1], counts, np.diff(edges), align="edge", color=SERIES[0], alpha=0.35, linewidth=0)
        bottom.set(xlabel="predicted probability", ylabel="rows")
        bottom.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        bottom.yaxis.set_major_formatter(FuncFormatter(_thousands))
        bottom.grid(visible=False, axis="x")
        return _svg(figure, "reliability")


def roc(curves: Mapping[str, Curve]) -> str:
    """Share of positives found against share of negatives shown, by model."""
    with _style():
        figure, axes = _axes()
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, zorder=1)
        for i, curve in enumerate(curves.values()):
            axes.plot(*_along(curve.x, curve.y), **_line(i))
        axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="share of negatives", ylabel="share of positives found")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        return _svg(figure, "roc")


def lift(curves: Mapping[str, Curve], rows: int) -> str:
    """How many times the base rate the best-scored share of rows holds, by model.

    The first hundred rows are left out: their lift is mostly chance.
    """
    start = min(0.5, max(0.001, 100 / max(rows, 1)))
    with _style():
        figure, axes = _axes()
        axes.axhline(1, color=MUTED, linewidth=0.8, zorder=1)
        for i, curve in enumerate(curves.values()):
            keep = curve.x >= start
            axes.plot(*_along(np.log(curve.x[keep]), curve.y[keep], exp=True), **_line(i))
        ticks = [x for x in (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if x >= start]
        axes.set(
            xscale="log", xlim=(start, 1), xlabel="best-scored share of rows", ylabel="lift over base rate"
        )
        axes.set_xticks(ticks, [f"{100 * x:g} %" for x in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom=min(0.9, axes.get_ylim()[0]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
        return _svg(figure, "lift")


def learning(records: Sequence[Mapping[str, Any]], metric: str) -> tuple[str, dict[str, int]]:
    """One logged quantity against training steps, a line for each split.

    Returns
    -------
    str, dict of str to int
        The figure, and the number of each split's colour, which is the same in every figure of a log.
    """
    splits = list(dict.fromkeys(str(record.get("split", "train")) for record in records))
    series: dict[str, tuple[list[float], list[float]]] = {}
    for record in records:
        x, y = record.get("step", record.get("epoch")), record.get(metric)
        if isinstance(x, int | float) and isinstance(y, int | float) and np.isfinite([x, y]).all():
            xs, ys = series.setdefault(str(record.get("split", "train")), ([], []))
            xs.append(float(x))
            ys.append(float(y))
    by_step = any("step" in record for record in records)
    with _style():
        figure, axes = _axes()
        for split, (xs, ys) in series.items():
            x, y = _thin(np.asarray(xs), np.asarray(ys))
            style = _line(splits.index(split)) | {"linewidth": 1.6, "zorder": 10 + splits.index(split)}
            axes.plot(x, y, **style, marker="o" if len(x) < 30 else "", markersize=4)
        axes.set(xlabel="training step" if by_step else "epoch", ylabel=METRIC_AXES.get(metric, "value"))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        return _svg(figure, "learning"), {split: splits.index(split) for split in series}


def over_time(times: Sequence[int], values: Mapping[str, Sequence[Interval]], label: str) -> str:
    """A metric by slice of time, with the interval of the first model.

    Parameters
    ----------
    times : sequence of int
        Middle of each slice, microseconds UTC.
    values : mapping of str to sequence of Interval
        By model, one a slice.
    label : str
        Name of the metric.
    """
    with _style():
        figure, axes = _axes()
        at = np.asarray(times, dtype="datetime64[us]")
        if label == "O/E":
            axes.axhline(1, color=MUTED, linewidth=0.8, zorder=1)
        for i, intervals in enumerate(values.values()):
            axes.plot(
                at, [v.value for v in intervals], **_line(i), marker="o", markersize=4 if i == 0 else 2.5
            )
            if i == 0:
                axes.fill_between(
                    at, [v.low for v in intervals], [v.high for v in intervals], color=SERIES[0], alpha=0.14,
                    linewidth=0,
                )  # fmt: skip
        _dates(axes)
        axes.set(ylabel=label)
        return _svg(figure, f"time {label}")


def arms_over_time(
    lines: Mapping[int, tuple[Sequence[int], Sequence[float]]], label: str, log: bool = False
) -> str:
    """A quantity by slice of time, a line for each arm of a replay.

    Parameters
    ----------
    lines : mapping of int to (times, values)
        By the number of the arm's colour: middle of each slice, microseconds UTC, and the values.
    label : str
        Name of the quantity.
    log : bool
        On a logarithmic axis, where values that are not positive are left out.
    """
    with _style():
        figure, axes = _axes()
        if label == "O/E":
            axes.axhline(1, color=MUTED, linewidth=0.8, zorder=1)
        shown = False
        for i, (times, values) in lines.items():
            at, y = np.asarray(times, dtype="datetime64[us]"), np.asarray(values, float)
            keep = y > 0 if log else np.isfinite(y)
            shown = shown or bool(keep.any())
            axes.plot(at[keep], y[keep], **_line(i), marker="o", markersize=3 if i == 0 else 2)
        if log and shown:
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(NullLocator())
            # Mathematical text is off: the default formatter of this axis would print its source.
            axes.yaxis.set_major_formatter(FuncFormatter(_powers))
        _dates(axes)
        axes.set(ylabel=label)
        return _svg(figure, f"arms {label}")


def _dates(axes: Axes) -> None:
    locator = mdates.AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
    axes.set(xlabel="time (UTC)")


METRIC_AXES = {"loss": "loss (nats)", "log_loss": "log-loss (nats)", "auc": "AUC", "grouped_auc": "GAUC"}


def _style() -> Any:
    return mpl.rc_context(STYLE)


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    return figure, figure.subplots()


def _line(i: int) -> dict[str, Any]:
    """Line style of the i-th series; the first lies on top."""
    dash = DASHES[i % len(DASHES)]
    return {
        "color": SERIES[i % len(SERIES)],
        "linewidth": 2.0 if i == 0 else 1.4,
        "linestyle": (0, tuple(map(float, dash.split()))) if dash else "-",
        "zorder": 20 - i,
    }


def _along(x: np.ndarray, y: np.ndarray, exp: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """At most POINTS points, evenly spaced along a curve in units of its own extent."""
    if len(x) > POINTS:
        step = np.abs(np.diff(x)) / (np.ptp(x) or 1) + np.abs(np.diff(y)) / (np.ptp(y) or 1)
        length = np.concatenate([[0.0], np.cumsum(step)])
        at = np.linspace(0, length[-1], POINTS)
        x, y = np.interp(at, length, x), np.interp(at, length, y)
    return (np.exp(x) if exp else x), y


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most POINTS points, each the mean of neighbouring ones."""
    if len(x) <= POINTS:
        return x, y
    starts = np.arange(POINTS) * len(x) // POINTS
    size = np.diff(starts, append=len(x))
    return np.add.reduceat(x, starts) / size, np.add.reduceat(y, starts) / size


def _thousands(x: float, _: int) -> str:
    return f"{x / 1000:g}k" if abs(x) >= 10_000 else f"{x:g}"


def _powers(x: float, _: int) -> str:
    for letter, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if x >= scale:
            return f"{x / scale:g}{letter}"
    return f"{x:g}"


def _svg(figure: Figure, name: str) -> str:
    """The figure's markup, to stand inside a page: no prolog, names or colours of its own."""
    target = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(target, format="svg", transparent=True, metadata=nothing)
    text = target.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(?:xmlns(?::xlink)?|version)="[^"]*"', "", text)
    text = re.sub(
        r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1
    )
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # only shapes in <defs> are referred to
    for colour, variable in _variables().items():
        text = text.replace(colour, f"var(--{variable})")
    return re.sub(r"\n\s*", "\n", text).replace("xlink:href", "href").strip()


def _variables() -> dict[str, str]:
    return {INK: "ink", MUTED: "muted", LINE: "line"} | {c: f"c{i}" for i, c in enumerate(SERIES)}
