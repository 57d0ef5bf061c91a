"""Clustered bootstrap: equal to copying rows, paired, seeded, and covering what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from memberwise import metrics
from memberwise.errors import DataError
from memberwise.metrics._inputs import defined_rows, group_codes
from memberwise.metrics._resampled import Sample, prepare

NAMES = [
    "auc",
    "grouped_auc",
    "log_loss",
    "normalised_entropy",
    "observed_over_expected",
    "expected_calibration_error",
    "ndcg@3",
    "recall@3",
    "mrr",
]


def log(seed: int = 0, n: int = 400, members: int = 30, levels: int = 40):
    """Labels, ties in scores, members, requests inside members, weights."""
    generator = np.random.default_rng(seed)
    member = generator.integers(0, members, n)
    request = member * 5 + generator.integers(0, 5, n)
    scores = generator.integers(1, levels, n) / levels
    labels = (generator.random(n) < scores).astype(float)
    return labels, scores, member, request, generator.random(n)


def point(name, labels, scores, member, request, weights):
    """Each metric by its point function."""
    if name in ("ndcg@3", "recall@3"):
        function = metrics.ndcg_at_k if name == "ndcg@3" else metrics.recall_at_k
        return function(labels, scores, request, 3).value
    if name == "mrr":
        return metrics.mrr(labels, scores, request).value
    if name == "grouped_auc":
        return metrics.grouped_auc(labels, scores, member, weights).value
    return getattr(metrics, name)(labels, scores, weights)


@pytest.mark.parametrize("name", NAMES)
def test_value_is_that_of_the_point_metric(name):
    labels, scores, member, request, weights = log()
    found = metrics.bootstrap(
        labels, scores, member, metrics=[name], weights=weights, requests=request, draws=50
    )[name]
    assert found.value == pytest.approx(point(name, labels, scores, member, request, weights), abs=1e-9)
    assert found.low <= found.value <= found.high or name == "expected_calibration_error"
    assert found.se > 0


@pytest.mark.parametrize("name", [name for name in NAMES if name != "expected_calibration_error"])
def test_a_draw_equals_the_metric_on_copied_rows(name):
    labels, scores, member, request, weights = log(1)
    times = np.random.default_rng(2).integers(0, 4, 30)
    rows = defined_rows(labels, scores, weights, member, request)
    evaluate = prepare(name, Sample(rows, group_codes(member), member, request))
    found = evaluate(times[:, None].astype(np.float32))[0]
    parts = [(np.flatnonzero(member == m), copy) for m in range(30) for copy in range(times[m])]
    order = np.concatenate([index for index, _ in parts])
    copies = np.concatenate([np.full(index.size, copy) for index, copy in parts])
    expected = point(
        name, labels[order], scores[order], member[order] + 1000 * copies, request[order] + 1000 * copies,
        weights[order],
    )  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-6)


def test_expected_calibration_error_keeps_its_bins_under_draws():
    labels, scores, member, request, _ = log(3, levels=5)
    rows = defined_rows(labels, scores, None)
    evaluate = prepare("expected_calibration_error", Sample(rows, group_codes(member), member, request))
    times = np.random.default_rng(2).integers(0, 4, 30)
    order = np.repeat(np.arange(len(labels)), times[member])
    expected = sum(
        abs((labels - scores)[order][scores[order] == level].sum()) for level in np.unique(scores)
    ) / len(order)
    assert evaluate(times[:, None].astype(np.float32))[0] == pytest.approx(expected, abs=1e-6)


def test_same_seed_same_interval_other_seed_other_interval():
    labels, scores, member, _, _ = log()
    first, again, other = (
        metrics.bootstrap(labels, scores, member, draws=100, seed=seed)["auc"] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_first_draws_do_not_depend_on_how_many_follow():
    labels, scores, member, _, _ = log()
    few, many = (
        metrics.resample(labels, scores, member, metrics=["auc"], draws=draws)["auc"].draws
        for draws in (5, 50)
    )
    np.testing.assert_array_equal(few, many[:5])


def test_clusters_widen_the_interval_when_members_agree_with_themselves():
    generator = np.random.default_rng(0)
    member = np.repeat(np.arange(50), 40)
    scores = np.clip(generator.random(50)[member] * 0.9 + 0.05, 0, 1)
    labels = (generator.random(50) < scores[::40]).astype(float)[member]
    clustered = metrics.bootstrap(labels, scores, member, draws=300)["auc"]
    rows = metrics.bootstrap(labels, scores, np.arange(2000), draws=300)["auc"]
    assert clustered.se > 4 * rows.se


def test_paired_difference_is_tighter_than_two_intervals():
    generator = np.random.default_rng(0)
    n, member = 4000, np.arange(4000) // 10
    logit = generator.normal(size=n) + generator.normal(size=400)[member]
    labels = (generator.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
    ours, theirs = (1 / (1 + np.exp(-(logit + generator.normal(size=n) * s))) for s in (0.3, 0.5))
    paired = metrics.paired_bootstrap(labels, ours, theirs, member, metrics=["auc", "log_loss"], draws=400)
    each = [metrics.bootstrap(labels, scores, member, draws=400)["auc"] for scores in (ours, theirs)]
    assert paired["auc"].value == pytest.approx(each[0].value - each[1].value)
    assert paired["auc"].se < 0.6 * math.hypot(each[0].se, each[1].se)
    assert paired["auc"].low > 0 > paired["log_loss"].high
    back = metrics.paired_bootstrap(labels, theirs, ours, member, metrics=["auc"], draws=400)["auc"]
    assert back.low == pytest.approx(-paired["auc"].high)


def test_seeds_are_drawn_with_clusters_and_metrics_are_averaged_not_predictions():
    labels, scores, member, _, _ = log(0, n=2000, levels=400)
    generator = np.random.default_rng(1)
    seeds = np.clip(scores + generator.normal(0, 0.3, (5, 2000)), 0.01, 0.99)
    found = metrics.bootstrap(labels, seeds, member, draws=400)["auc"]
    each = [metrics.auc(labels, row) for row in seeds]
    assert found.value == pytest.approx(np.mean(each))
    assert found.value < metrics.auc(labels, seeds.mean(0)) - 0.01
    same = metrics.bootstrap(labels, np.tile(seeds[0], (5, 1)), member, draws=400)["auc"]
    alone = metrics.bootstrap(labels, seeds[0], member, draws=400)["auc"]
    assert same.se == pytest.approx(alone.se)
    assert same.low == pytest.approx(alone.low)
    spread = np.vstack([seeds[:2], np.clip(1 - scores, 0.01, 0.99)])
    assert metrics.bootstrap(labels, spread, member, draws=400)["auc"].se > 5 * alone.se


def test_paired_seeds_share_their_draws():
    labels, scores, member, _, _ = log(0, n=1000)
    generator = np.random.default_rng(1)
    theirs = np.clip(scores + generator.normal(0, 0.3, (3, 1000)), 0.01, 0.99)
    same = metrics.paired_bootstrap(labels, theirs, theirs, member, draws=100)["auc"]
    assert (same.value, same.low, same.high, same.se) == (0, 0, 0, 0)
    one = metrics.paired_bootstrap(labels, scores, theirs, member, draws=100)["auc"]
    assert one.value > 0
    with pytest.raises(DataError, match="cannot be paired"):
        metrics.paired_bootstrap(labels, theirs[:2], theirs, member, draws=10)


@pytest.mark.slow
def test_interval_covers_the_true_auc():
    """Two normals one apart: AUC = Phi(1/sqrt 2); members shift both classes and agree with themselves."""
    truth, hits, runs = 0.7602499, 0, 400
    for seed in range(runs):
        generator = np.random.default_rng(seed)
        member = np.repeat(np.arange(150), 8)
        labels = (generator.random(150) < 0.4)[member].astype(float)
        noise = 0.8 * generator.normal(size=150)[member] + 0.6 * generator.normal(size=1200)
        found = metrics.bootstrap(labels, labels + noise, member, metrics=["auc"], draws=300, seed=seed)[
            "auc"
        ]
        hits += found.low <= truth <= found.high
    assert 0.91 < hits / runs < 0.98


def test_undefined_draws_and_undefined_values():
    lonely = metrics.bootstrap([0, 0, 1], [0.1, 0.2, 0.3], [1, 2, 3], metrics=["auc"], draws=200)["auc"]
    assert lonely.value == 1
    assert lonely.low == 1
    one_class = metrics.bootstrap([1, 1], [0.1, 0.2], [1, 2], metrics=["auc", "log_loss"], draws=20)
    assert all(math.isnan(x) for x in (one_class["auc"].value, one_class["auc"].low, one_class["auc"].se))
    assert one_class["log_loss"].se > 0
    nothing = metrics.bootstrap([np.nan], [0.5], [1], metrics=NAMES, requests=[1], draws=20)
    assert all(math.isnan(interval.value) and math.isnan(interval.low) for interval in nothing.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": ["acu"]}, "no metric 'acu'"),
        ({"metrics": ["ndcg"]}, "no metric 'ndcg'"),
        ({"metrics": ["ndcg@3"]}, "needs the requests"),
        ({"metrics": ["mrr"], "requests": [1, 1, 2, 2]}, "more than one cluster"),
        ({"metrics": ["grouped_auc"], "groups": [1, 1, 2, 2]}, "more than one cluster"),
    ],
)
def test_what_cannot_be_resampled_is_named(change, message):
    with pytest.raises(DataError, match=message):
        metrics.bootstrap([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], [1, 2, 1, 2], draws=5, **change)


def test_scores_of_rank_metrics_need_not_be_probabilities():
    labels, scores, member, _, _ = log()
    logits = scores * 20 - 10
    raw = metrics.bootstrap(labels, logits, member, metrics=["auc", "grouped_auc"], draws=20)
    assert raw["auc"] == metrics.bootstrap(labels, scores, member, metrics=["auc"], draws=20)["auc"]
    with pytest.raises(DataError, match="probability"):
        metrics.bootstrap(labels, logits, member, draws=20)


def test_intervals_print_for_people():
    assert str(metrics.Interval(0.774, 0.765, 0.783, 0.005)) == "0.7740 [0.7650, 0.7830]"


def test_one_cluster_has_no_interval():
    found = metrics.bootstrap([0, 1, 1], [0.2, 0.1, 0.9], ["a", "a", "a"], draws=20)
    assert found["auc"].value == 0.5
    assert all(math.isnan(x) for x in (found["auc"].low, found["log_loss"].high, found["auc"].se))
