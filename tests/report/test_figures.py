"""Each figure on ordinary and on strange curves."""

from __future__ import annotations

import numpy as np
import pytest

from memberwise import metrics
from memberwise.metrics import Curve, Interval
from memberwise.report import figures, text

NOTHING = Curve(np.zeros(0), np.zeros(0), np.zeros(0))


def rows(n: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    scores = generator.random(n)
    return (generator.random(n) < scores).astype(float), scores


def check(svg: str) -> None:
    assert svg.startswith("<svg viewBox=")
    assert svg.endswith("</svg>")
    assert "://" not in svg
    assert "<metadata" not in svg
    assert "#0072b2" not in svg


def test_figures_are_deterministic_and_bounded_in_size():
    labels, scores = rows(200_000)
    curves = {name: metrics.roc_curve(labels, scores) for name in "abcdefgh"}
    assert figures.roc(curves) == figures.roc(curves)
    check(figures.roc(curves))
    assert len(figures.roc(curves)) < 60_000
    lifts = {"a": metrics.lift_curve(labels, scores)}
    check(figures.lift(lifts, 200_000))
    assert len(figures.lift(lifts, 200_000)) < 20_000


def test_thinned_curves_keep_their_ends_and_shape():
    labels, scores = rows(50_000)
    curve = metrics.roc_curve(labels, scores)
    x, y = figures._along(curve.x, curve.y)
    assert len(x) == figures.POINTS
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(y, x) == pytest.approx(metrics.auc(labels, scores), abs=5e-4)


@pytest.mark.parametrize("n", [1, 2, 5, 1000])
def test_reliability_of_few_rows_and_tiny_rates(n):
    labels, scores = rows(n)
    curve = metrics.reliability_curve(labels, scores * 1e-3)
    check(figures.reliability({"a": curve, "b": curve}, scores * 1e-3))


def test_reliability_of_all_zero_scores():
    curve = metrics.reliability_curve([0, 0], [0.0, 0.0])
    check(figures.reliability({"a": curve}, np.zeros(2)))


@pytest.mark.parametrize("n", [2, 5, 300])
def test_roc_and_lift_of_few_rows(n):
    labels, scores = np.arange(n) % 2, np.linspace(0, 1, n)
    check(figures.roc({"a": metrics.roc_curve(labels, scores), "none": NOTHING}))
    check(figures.lift({"a": metrics.lift_curve(labels, scores), "none": NOTHING}, n))


def test_learning_splits_keep_their_colours_over_figures():
    records = [{"step": s, "split": "train", "loss": 1.0 / s} for s in range(1, 500)]
    records += [{"step": 500, "split": "valid", "loss": 0.1, "auc": 0.7}]
    svg, keys = figures.learning(records, "loss")
    check(svg)
    assert keys == {"train": 0, "valid": 1}
    assert figures.learning(records, "auc")[1] == {"valid": 1}
    assert figures.learning(records, "nothing")[1] == {}


def test_time_of_one_slice_and_of_undefined_values():
    nan = Interval(*[float("nan")] * 4)
    good = Interval(0.7, 0.6, 0.8, 0.05)
    check(figures.over_time([10**15], {"a": [good]}, "AUC"))
    times = [10**15 + i * 86_400_000_000 for i in range(3)]
    check(figures.over_time(times, {"a": [good, nan, good], "b": [nan] * 3}, "O/E"))


@pytest.mark.parametrize(
    ("x", "expected"),
    [(0.5, "50.0 %"), (0.0, "0 %"), (1.0, "100 %"), (0.00123, "0.12 %"), (float("nan"), "–")],
)
def test_percent(x, expected):
    assert text.percent(x) == expected


def test_numbers_and_intervals_for_people():
    assert text.number(-0.0001, signed=True) == ".000"
    assert text.number(0.02, signed=True) == "+.020"
    assert text.interval(Interval(0.774, 0.765, 0.783, 0.005)) == ".774 [.765, .783]"
    assert text.interval(Interval(0.01234, 0.012, 0.0127, 0.0002), signed=True) == "+.0123 [+.0120, +.0127]"
    assert text.duration(5) == "5.0 s"
    assert text.duration(231) == "3.9 min"
    assert text.duration(7200) == "2.0 h"
    assert text.whole(595695) == "595\u202f695"
