"""The HTML page: what each part shows, handed to the template."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup

from memberwise import metrics
from memberwise.metrics import Interval
from memberwise.report import figures, text
from memberwise.report.evaluation import METRICS, freshness_warning, metric_names

if TYPE_CHECKING:
    from memberwise.report.report import Report

TIME_METRICS = ("auc", "log_loss", "observed_over_expected")
LEARNING_FIGURES = 4
TABLE_ROWS = 200


@dataclass(frozen=True)
class Figure:
    """A figure with what stands around it.

    Attributes
    ----------
    title, caption : str
        Plain text.
    svg : Markup
        The picture.
    keys : dict of str to int
        Names of its series, with the numbers of their colours.
    """

    title: str
    caption: str
    svg: Markup
    keys: dict[str, int]


@dataclass(frozen=True)
class Card:
    """One number of the first screen."""

    label: str
    value: str
    detail: str
    verdict: str = ""


@dataclass(frozen=True)
class Range:
    """Where an interval lies on its column's scale, in per cent; ``mark`` is the scale's reference."""

    low: float
    high: float
    value: float
    mark: float | None


def render(report: Report) -> str:
    """Render a report as one page.

    Parameters
    ----------
    report : Report
        What to render.

    Returns
    -------
    str
        HTML without scripts and without anything to load.
    """
    env = environment()
    env.globals |= {"verdict": _verdicts(report), "ranges": ranges}
    names = metric_names(report.predictions)
    draw = unique_ids()
    return env.get_template("report.html.j2").render(
        report=report,
        context=report.context,
        overall=report.evaluation.overall,
        ours=report.predictions.models[0],
        models=report.predictions.models,
        tasks=report.predictions.tasks,
        names=names,
        # A difference of two ratios to one says nothing.
        compared=[name for name in names if METRICS[name].higher is not None],
        METRICS=METRICS,
        cards=cards(report),
        curves=[
            figure
            for task in range(len(report.predictions.tasks))
            for draw_all in (calibration, ranking)
            for figure in draw_all(report, task, draw)
        ],
        learning=list(learning(report, draw)),
        timeline=list(timeline(report, draw)),
        segments=[report.evaluation.overall, *report.evaluation.segments],
        features=sorted(report.context.features, key=lambda f: -max(f.missing, f.unknown))[:TABLE_ROWS],
        config=as_yaml(report.context.config),
        freshness=freshness_rows(report),
        series=len(figures.SERIES),
    )


def environment() -> jinja2.Environment:
    """The templates, with the filters that every page uses."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("memberwise.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "number": text.number, "bounds": text.bounds, "percent": text.percent, "whole": text.whole,
        "when": text.when, "duration": text.duration, "digits": text.digits,
    }  # fmt: skip
    env.globals["dash"] = lambda i: figures.DASHES[i % 7]
    return env


def cards(report: Report) -> list[Card]:
    """The numbers of the first screen."""
    overall, task, model = (
        report.evaluation.overall,
        report.predictions.tasks[0],
        report.predictions.models[0],
    )
    values = overall.values[model][task]
    about = "" if len(report.predictions.tasks) == 1 else f", {task}"
    found = []
    if report.baseline is not None:
        gain = overall.differences[report.baseline][task]
        found += [_difference_card(name, gain[name], report.baseline, about) for name in ("auc", "log_loss")]
    within = "ndcg@10" if "ndcg@10" in values else "grouped_auc"
    shown = ["auc", "log_loss", within, "observed_over_expected"]
    found += [
        Card(
            METRICS[name].label + about,
            text.number(values[name].value, text.digits(values[name])),
            text.bounds(values[name]) or "interval not defined",
            _in_words(values[name].value) if name == "observed_over_expected" else "",
        )
        for name in shown
    ]
    found.append(
        Card("Evaluated", text.whole(overall.rows), f"rows of {text.whole(overall.members)} members")
    )
    if report.context.fit_seconds is not None:
        found.append(Card("Fitted in", text.duration(report.context.fit_seconds), "all of training"))
    return found


def calibration(report: Report, task: int, draw: Callable[[str], Markup]) -> Iterator[Figure]:
    """The reliability diagram of a task, or nothing if it has no rows."""
    p = report.predictions
    labels, weights = p.column(task)
    defined = ~np.isnan(labels)
    if not defined.any():
        return
    curves = {
        model: metrics.reliability_curve(labels, scores[:, task], weights, clusters=p.members)
        for model, scores in p.scores.items()
    }
    yield Figure(
        f"Reliability: {p.tasks[task]}",
        "Observed rate in 15 bins of equal weight; bars are two standard errors over members. "
        f"Below: scores of {p.models[0]}.",
        draw(figures.reliability(curves, p.scores[p.models[0]][defined, task])),
        _keys(p.models),
    )


def ranking(report: Report, task: int, draw: Callable[[str], Markup]) -> Iterator[Figure]:
    """Lift and ROC curves of a task, or nothing if it has one class."""
    p = report.predictions
    labels, weights = p.column(task)
    rocs = {m: metrics.roc_curve(labels, scores[:, task], weights) for m, scores in p.scores.items()}
    if not len(rocs[p.models[0]].x):
        return
    lifts = {m: metrics.lift_curve(labels, scores[:, task], weights) for m, scores in p.scores.items()}
    rows = int((~np.isnan(labels)).sum())
    yield Figure(
        f"Lift: {p.tasks[task]}",
        "Rate of positives among the best-scored share of rows, over the rate among all.",
        draw(figures.lift(lifts, rows)),
        _keys(p.models),
    )
    yield Figure(
        f"ROC: {p.tasks[task]}",
        "Positives found against negatives shown, over all thresholds.",
        draw(figures.roc(rocs)),
        _keys(p.models),
    )


def learning(report: Report, draw: Callable[[str], Markup]) -> Iterator[Figure]:
    """Learning curves of the loss and of the first few other logged metrics."""
    records = report.context.log
    bookkeeping = {"step", "epoch", "seconds", "lr", "rows"}
    logged = [
        key
        for key in dict.fromkeys(key for record in records for key in record)
        if key not in bookkeeping and any(isinstance(record.get(key), float) for record in records)
    ]
    logged.sort(key=lambda key: key != "loss")
    for key in logged[:LEARNING_FIGURES]:
        svg, splits = figures.learning(records, key)
        if splits:
            yield Figure(f"Training: {key}", "As logged while fitting.", draw(svg), splits)


def timeline(report: Report, draw: Callable[[str], Markup]) -> Iterator[Figure]:
    """Metrics by slice of time; nothing with fewer than two slices."""
    slices, p = report.evaluation.slices, report.predictions
    if len(slices) < 2:
        return
    times = [(cut.first + cut.last) // 2 for cut in slices]
    for task in p.tasks:
        for name in TIME_METRICS:
            values = {model: [cut.values[model][task][name] for cut in slices] for model in p.models}
            if any(np.isfinite(v.value) for v in values[p.models[0]]):
                yield Figure(
                    f"{METRICS[name].label} over time: {task}",
                    f"{len(slices)} slices of equally many rows; band: 95 % interval of {p.models[0]}.",
                    draw(figures.over_time(times, values, METRICS[name].label)),
                    _keys(p.models),
                )


def verdict(name: str, difference: Interval) -> str:
    """Whether a paired difference is ``better``, ``worse``, or within chance (empty)."""
    higher = METRICS[name].higher
    if higher is None or not np.isfinite(difference.low) or difference.low <= 0 <= difference.high:
        return ""
    return "better" if (difference.low > 0) == higher else "worse"


def _verdicts(report: Report) -> Callable[[str, Interval], str]:
    """`verdict`, silent on GAUC where GAUC cannot compare the models."""
    silent = "grouped_auc" if freshness_warning(report.context, report.predictions.otherwise) else ""
    return lambda name, difference: "" if name == silent else verdict(name, difference)


def ranges(intervals: list[Interval], mark: float | None = None) -> list[Range | None]:
    """Place intervals on one common scale, which holds the reference mark if there is one."""
    ends = [x for i in intervals for x in (i.low, i.high, i.value) if np.isfinite(x)]
    if mark is not None:
        ends.append(mark)
    if not ends or max(ends) == min(ends):
        return [None] * len(intervals)
    low, span = min(ends), max(ends) - min(ends)

    def place(x: float) -> float:
        return round(2 + 96 * (x - low) / span, 2)

    return [
        Range(place(i.low), place(i.high), place(i.value), None if mark is None else place(mark))
        if np.isfinite([i.low, i.high, i.value]).all()
        else None
        for i in intervals
    ]


def freshness_rows(report: Report) -> list[tuple[str, str, str, str]]:
    """Model, side, delay and names of features, one row for each combination in use."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for model, features in report.context.freshness.items():
        for feature in features:
            groups.setdefault((model, feature.side, feature.delay), []).append(feature.name)
    return [(*key, ", ".join(names)) for key, names in groups.items()]


def as_yaml(config: Any) -> str:
    """The project as YAML, in its own order; anything that is not a plain value as its text."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return value if value is None or isinstance(value, bool | int | float | str) else str(value)

    return yaml.safe_dump(plain(dict(config)), sort_keys=False, allow_unicode=True) if config else ""


def _difference_card(name: str, gain: Interval, baseline: str, about: str) -> Card:
    found = verdict(name, gain)
    return Card(
        f"{METRICS[name].label} difference{about}",
        text.number(gain.value, text.digits(gain), signed=True),
        f"{text.bounds(gain, signed=True)} from {baseline}".strip(),
        found or "within chance",
    )


def _in_words(observed_over_expected: float) -> str:
    """What an O/E means for the probabilities."""
    if not np.isfinite(observed_over_expected):
        return ""
    off = 100 * (observed_over_expected - 1)
    if abs(off) < 0.5:
        return "as many positives as predicted"
    return f"{abs(off):.0f} % {'more' if off > 0 else 'fewer'} positives than predicted"


def _keys(models: tuple[str, ...]) -> dict[str, int]:
    return {model: i for i, model in enumerate(models)}


def unique_ids() -> Callable[[str], Markup]:
    """Give every figure of a page its own prefix of ids, which an inlined SVG shares with the page."""
    count = 0

    def draw(svg: str) -> Markup:
        nonlocal count
        count += 1
        svg = re.sub(r'\bid="', f'id="f{count}-', svg)
        svg = re.sub(r'\bhref="#', f'href="#f{count}-', svg)
        # Markup is safe here: figures hold no text but that of `figures` itself.
        return Markup(svg.replace("url(#", f"url(#f{count}-"))

    return draw
