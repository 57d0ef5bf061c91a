"""Point metrics: brute-force twins, scikit-learn as oracle, invariances, edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from memberwise import metrics
from memberwise.errors import DataError


def sample(seed: int, n: int = 200, levels: int = 12, groups: int = 9):
    """Labels, scores with many ties, groups and whole-number weights."""
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, levels + 1, n) / levels
    labels = (generator.random(n) < 0.2 + 0.6 * scores).astype(np.float64)
    return labels, scores, generator.integers(0, groups, n), generator.integers(0, 4, n).astype(float)


def pairwise_auc(labels, scores, weights):
    """AUC by looking at every pair."""
    won = total = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            pair = weights[i] * weights[j]
            total += pair
            won += pair * ((scores[i] > scores[j]) + (scores[i] == scores[j]) / 2)
    return won / total if total else math.nan


POINTWISE = [
    metrics.auc,
    metrics.log_loss,
    metrics.normalised_entropy,
    metrics.expected_calibration_error,
    metrics.observed_over_expected,
]
PER_GROUP = [metrics.grouped_auc, metrics.ndcg_at_k, metrics.recall_at_k, metrics.mrr]


@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_its_brute_force_twin_and_scikit_learn(seed):
    labels, scores, _, weights = sample(seed, n=80)
    assert metrics.auc(labels, scores, weights) == pytest.approx(
        pairwise_auc(labels, scores, weights), abs=1e-12
    )
    assert metrics.auc(labels, scores) == pytest.approx(oracle.roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("weighting", ["size", "equal"])
@pytest.mark.parametrize("seed", range(5))
def test_grouped_auc_equals_a_loop_over_groups(seed, weighting):
    labels, scores, groups, weights = sample(seed, n=120, groups=25)
    values, sizes = [], []
    for group in np.unique(groups):
        rows = (groups == group) & (weights > 0)
        if len(set(labels[rows])) == 2:
            values.append(pairwise_auc(labels[rows], scores[rows], weights[rows]))
            sizes.append(weights[rows].sum() if weighting == "size" else 1.0)
    found = metrics.grouped_auc(labels, scores, groups, weights, weighting=weighting)
    assert found.value == pytest.approx(np.average(values, weights=sizes), abs=1e-12)
    assert found.groups == len(values) < 25


def test_grouped_auc_takes_strings_wide_integers_and_one_group():
    labels, scores, groups, _ = sample(3)
    expected = metrics.grouped_auc(labels, scores, groups)
    names = np.array([f"membre-{g}é" for g in groups])
    wide = groups.astype(np.int64) * 10**15 - 7 * 10**17
    assert metrics.grouped_auc(labels, scores, names) == expected
    assert metrics.grouped_auc(labels, scores, wide) == expected
    whole = metrics.grouped_auc(labels, scores, np.zeros(len(labels), dtype=np.uint8))
    assert whole.value == pytest.approx(metrics.auc(labels, scores), abs=1e-12)
    assert whole.groups == 1


@pytest.mark.parametrize("weighted", [False, True])
def test_calibration_metrics_equal_their_definitions(weighted):
    labels, scores, _, weights = sample(1, n=3000, levels=1000)
    w = weights if weighted else np.ones(len(labels))
    given_weights = weights if weighted else None
    loss = oracle.log_loss(labels, scores, sample_weight=w)
    assert metrics.log_loss(labels, scores, given_weights) == pytest.approx(loss, rel=1e-10)
    rate = np.average(labels, weights=w)
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert metrics.normalised_entropy(labels, scores, given_weights) == pytest.approx(loss / entropy)
    expected = (w * labels).sum() / (w * scores).sum()
    assert metrics.observed_over_expected(labels, scores, given_weights) == pytest.approx(expected)
    ece = 0.0
    for b in range(10):
        rows = (scores >= b / 10) & ((scores < (b + 1) / 10) | (b == 9))
        ece += abs((w * (labels - scores))[rows].sum()) / w.sum()
    found = metrics.expected_calibration_error(labels, scores, given_weights, bins=10, by="width")
    assert found == pytest.approx(ece)


def test_bins_of_equal_mass_have_equal_mass():
    labels, _, _, _ = sample(2, n=1500)
    scores = np.random.default_rng(0).random(1500) ** 4
    curve = metrics.reliability_curve(labels, scores, bins=15)
    np.testing.assert_array_equal(curve.weight, np.full(15, 100.0))
    assert np.all(np.diff(curve.predicted) > 0)
    ece = (curve.weight * abs(curve.observed - curve.predicted)).sum() / 1500
    assert metrics.expected_calibration_error(labels, scores, bins=15) == pytest.approx(ece)


def test_reliability_errors_are_those_of_cluster_sums():
    generator = np.random.default_rng(0)
    scores, members = generator.random(4000), generator.integers(0, 40, 4000)
    labels = (generator.random(4000) < scores).astype(float)
    rows = metrics.reliability_curve(labels, scores, bins=5)
    spread = np.sqrt(rows.predicted * (1 - rows.predicted) / rows.weight)
    np.testing.assert_allclose(rows.error, spread, rtol=0.15)
    doubled = metrics.reliability_curve(
        np.tile(labels, 2), np.tile(scores, 2), clusters=np.tile(np.arange(4000), 2), bins=5
    )
    np.testing.assert_allclose(doubled.error, rows.error, rtol=1e-9)
    by_member = metrics.reliability_curve(labels, scores, clusters=members, bins=5)
    residual, place = np.zeros(5), np.argsort(np.argsort(scores)) * 5 // 4000
    for b in range(5):
        inside = place == b
        r = (labels - scores)[inside]
        sums = np.bincount(members[inside], weights=r - r.mean(), minlength=40)
        residual[b] = np.sqrt((sums**2).sum()) / inside.sum()
    np.testing.assert_allclose(by_member.error, residual, rtol=1e-9)


def ranked_by_permutations(labels, scores, k):
    """NDCG@k, recall@k and reciprocal rank, averaged over many random orders of the ties."""
    generator, totals = np.random.default_rng(0), np.zeros(3)
    for _ in range(4000):
        order = np.lexsort((generator.random(len(scores)), -scores))
        y = labels[order]
        gain = (y[:k] / np.log2(np.arange(2, len(y[:k]) + 2))).sum()
        best = (1 / np.log2(np.arange(2, min(k, int(y.sum())) + 2))).sum()
        totals += gain / best, y[:k].sum() / y.sum(), 1 / (np.argmax(y) + 1)
    return totals / 4000


@pytest.mark.parametrize("k", [1, 3, 10])
def test_ranking_metrics_are_expectations_over_tied_orders(k):
    labels = np.array([0, 1, 0, 0, 1, 0, 1.0])
    scores = np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.1, 0.1])
    one = np.zeros(7)
    expected = ranked_by_permutations(labels, scores, k)
    found = (
        metrics.ndcg_at_k(labels, scores, one, k).value,
        metrics.recall_at_k(labels, scores, one, k).value,
        metrics.mrr(labels, scores, one).value,
    )
    np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.mark.parametrize("k", [1, 5, 40])
def test_ndcg_equals_scikit_learn_request_by_request(k):
    labels, scores, requests, _ = sample(4, n=300, groups=12)
    values = [
        oracle.ndcg_score(labels[None, requests == q], scores[None, requests == q], k=k)
        for q in np.unique(requests)
    ]
    found = metrics.ndcg_at_k(labels, scores, requests, k)
    assert found.value == pytest.approx(np.mean(values), abs=1e-12)
    assert found.groups == 12


def test_roc_and_lift_curves_against_their_definitions():
    labels, scores, _, weights = sample(5)
    x, y, _ = oracle.roc_curve(labels, scores, sample_weight=weights, drop_intermediate=False)
    curve = metrics.roc_curve(labels, scores, weights)
    np.testing.assert_allclose(curve.x, x, atol=1e-12)
    np.testing.assert_allclose(curve.y, y, atol=1e-12)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(metrics.auc(labels, scores, weights), abs=1e-12)
    lift = metrics.lift_curve(labels, scores)
    for x, y, threshold in zip(lift.x, lift.y, lift.threshold, strict=True):
        top = scores >= threshold
        assert x == pytest.approx(top.mean())
        assert y == pytest.approx(labels[top].mean() / labels.mean())


samples = st.integers(0, 2**32 - 1)


@settings(max_examples=40, deadline=None)
@given(seed=samples)
def test_order_of_rows_does_not_matter(seed):
    labels, scores, groups, weights = sample(seed)
    shuffle = np.random.default_rng(seed + 1).permutation(len(labels))
    for metric in POINTWISE:
        before = metric(labels, scores, weights)
        assert metric(labels[shuffle], scores[shuffle], weights[shuffle]) == pytest.approx(before, abs=1e-9)
    for metric in PER_GROUP:
        before = metric(labels, scores, groups)
        assert metric(labels[shuffle], scores[shuffle], groups[shuffle]) == pytest.approx(before, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=samples)
def test_a_weight_is_a_number_of_repetitions(seed):
    labels, scores, groups, weights = sample(seed)
    times = np.repeat(np.arange(len(labels)), weights.astype(int))
    for metric in POINTWISE:
        assert metric(labels, scores, weights) == pytest.approx(
            metric(labels[times], scores[times]), abs=1e-9
        )
    once = metrics.grouped_auc(labels, scores, groups, weights)
    assert once == pytest.approx(metrics.grouped_auc(labels[times], scores[times], groups[times]), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=samples, power=st.floats(0.3, 5), shift=st.floats(-100, 100))
def test_rank_metrics_ignore_monotone_transformations(seed, power, shift):
    labels, scores, groups, _ = sample(seed)
    moved = scores**power + shift
    assert metrics.auc(labels, moved) == metrics.auc(labels, scores)
    assert metrics.auc(labels, -scores) == pytest.approx(1 - metrics.auc(labels, scores))
    assert metrics.auc(1 - labels, scores) == pytest.approx(1 - metrics.auc(labels, scores))
    for metric in PER_GROUP:
        assert metric(labels, moved, groups) == metric(labels, scores, groups)


@settings(max_examples=20, deadline=None)
@given(seed=samples)
def test_undefined_rows_are_as_if_absent(seed):
    labels, scores, groups, weights = sample(seed)
    hole = np.random.default_rng(seed).random(len(labels)) < 0.3
    with_holes, spoiled = np.where(hole, np.nan, labels), np.where(hole, np.nan, scores)
    for metric in POINTWISE:
        full = metric(labels[~hole], scores[~hole], weights[~hole])
        np.testing.assert_equal(metric(with_holes, spoiled, np.where(hole, np.nan, weights)), full)
    for metric in PER_GROUP:
        np.testing.assert_equal(
            metric(with_holes, spoiled, groups), metric(labels[~hole], scores[~hole], groups[~hole])
        )


@pytest.mark.parametrize("metric", [metrics.auc, metrics.normalised_entropy])
def test_one_class_is_undefined(metric):
    assert math.isnan(metric([1, 1, np.nan], [0.2, 0.4, 0.9]))
    assert math.isnan(metric([0, 0], [0.2, 0.4]))
    assert math.isnan(metric([0, 1], [0.2, 0.4], [1, 0]))


@pytest.mark.parametrize("metric", POINTWISE)
def test_no_rows_are_undefined(metric):
    assert math.isnan(metric([], []))
    assert math.isnan(metric([np.nan], [0.5]))
    assert math.isnan(metric([], [], []))
    assert math.isnan(metric([0, 1], [0.5, 0.5], [0, 0]))


@pytest.mark.parametrize("metric", PER_GROUP)
def test_groups_without_both_classes_are_left_out(metric):
    for labels, groups in [([], []), ([0, 0], [1, 1])]:
        value, used = metric(labels, [0.5] * len(labels), groups)
        assert math.isnan(value)
        assert used == 0


@pytest.mark.parametrize("labels", [[], [0.0, 0.0]])
def test_curves_of_too_little_are_empty(labels):
    scores = [0.5] * len(labels)
    assert metrics.roc_curve(labels, scores).x.size == 0
    assert metrics.lift_curve(labels, scores).x.size == 0
    assert metrics.reliability_curve(labels, scores).weight.sum() == len(labels)


def test_all_tied_is_one_half():
    assert metrics.auc([0, 1, 1, 0, 1], [3.0] * 5) == 0.5
    assert metrics.auc([0, 1], [0.0, -0.0]) == 0.5


def test_log_loss_of_certain_mistakes_is_finite_and_float32_stays_itself():
    assert metrics.log_loss([0, 1], [1.0, 0.0]) == pytest.approx(-np.log(np.finfo(np.float64).eps))
    single = np.array([1.0, 0.0], dtype=np.float32)
    assert metrics.log_loss([0, 1], single) == pytest.approx(-np.log(np.finfo(np.float32).eps), rel=1e-6)
    tiny = np.array([1e-30], dtype=np.float32)
    assert metrics.log_loss([0], tiny) < 1e-6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.auc([0, 1], [0.1, np.nan]), "prediction must be finite"),
        (lambda: metrics.auc([0, 1], [0.1, np.inf]), "prediction must be finite"),
        (lambda: metrics.log_loss([0, 1], [0.1, 1.5]), "probability must lie in"),
        (lambda: metrics.auc([0, 2], [0.1, 0.5]), "label must be 0, 1 or nan"),
        (lambda: metrics.auc([0, 1], [0.1, 0.5], [1, -1]), "weight must be finite"),
        (lambda: metrics.auc([0, 1], [0.1, 0.5], [1, np.nan]), "weight must be finite"),
        (lambda: metrics.auc([0, 1], [0.1]), "of one length"),
        (lambda: metrics.auc([[0, 1]], [[0.1, 0.2]]), "one-dimensional"),
        (lambda: metrics.ndcg_at_k([0, 1], [0.1, 0.2], [1, 1], k=0), "k must be at least 1"),
        (lambda: metrics.expected_calibration_error([0], [0.1], bins=0), "bins must be at least 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_public_names_are_those_announced():
    assert {name for name in metrics.__all__ if not hasattr(metrics, name)} == set()
    assert len(set(metrics.__all__)) == len(metrics.__all__)
