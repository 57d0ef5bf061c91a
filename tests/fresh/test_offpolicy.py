"""Estimators against worlds whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memberwise.errors import DataError
from memberwise.fresh.offpolicy import (
    LoggedDecisions,
    effective_size,
    evaluate,
    expected_reward,
    replay,
)


def world(n: int, seed: int, actions: int = 4, model_error: float = 0.0):
    """Decisions of a softmax policy in a world of known rewards; the target policy is another softmax."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    truth = 1 / (1 + np.exp(-(x @ rng.normal(size=(3, actions)) - 0.5)))
    logging, target = (_softmax(x @ rng.normal(size=(3, actions)) * 0.7) for _ in range(2))
    action = (rng.random((n, 1)) > logging.cumsum(1)).sum(1).clip(0, actions - 1)
    rows = np.arange(n)
    reward = (rng.random(n) < truth[rows, action]).astype(float)
    q = np.clip(truth + model_error, 0, 1)
    log = LoggedDecisions(
        reward, logging[rows, action], target[rows, action], q[rows, action], (target * q).sum(1)
    )
    return log, float((target * truth).sum(1).mean())


def _softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_every_estimator_finds_the_value_of_the_target_policy():
    log, truth = world(60_000, 0)
    found = evaluate(log, draws=200)
    for name, estimate in found.estimates.items():
        assert abs(estimate.value.value - truth) < 4 * max(estimate.value.se, 2e-3), name
        assert estimate.value.low < estimate.value.value < estimate.value.high
    assert found.warnings == []


def test_a_wrong_model_misleads_the_direct_method_only():
    log, truth = world(60_000, 1, model_error=0.15)
    found = evaluate(log, draws=200).estimates
    assert abs(found["dm"].value.value - truth) > 0.08
    for name in ("dr", "sndr", "ips", "snips"):
        assert abs(found[name].value.value - truth) < 4 * max(found[name].value.se, 2e-3)


def test_a_right_model_narrows_the_interval():
    log, _ = world(20_000, 2)
    found = evaluate(log, draws=300).estimates
    assert found["dr"].value.se < 0.9 * found["ips"].value.se


def test_intervals_cover_the_truth_as_often_as_they_say():
    hits = np.zeros(3)
    runs = 120
    for seed in range(runs):
        rng = np.random.default_rng(1_000 + seed)
        p_log, p_target = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
        worth = np.array([0.2, 0.4, 0.6])
        member = np.repeat(np.arange(150), 6)
        # Members differ: six decisions of one are worth less than six of different ones.
        mood = rng.normal(0, 0.1, 150)[member]
        action = rng.choice(3, member.size, p=p_log)
        reward = (rng.random(member.size) < worth[action] + mood).astype(float)
        q = worth[action]
        log = LoggedDecisions(
            reward, p_log[action], p_target[action], q, np.full(member.size, p_target @ worth), member
        )
        found = evaluate(log, draws=200, seed=seed).estimates
        for i, name in enumerate(("ips", "snips", "dr")):
            hits[i] += found[name].value.low <= p_target @ worth <= found[name].value.high
    # 95 % within four standard errors of a share over 120 runs.
    assert (np.abs(hits / runs - 0.95) < 4 * np.sqrt(0.05 * 0.95 / runs)).all(), hits / runs


def test_members_widen_the_interval_and_single_decisions_equal_clusters_of_one():
    log, _ = world(4_000, 3)
    alone = LoggedDecisions(log.reward, log.propensity, log.target, clusters=np.arange(len(log)))
    plain = LoggedDecisions(log.reward, log.propensity, log.target)
    assert evaluate(alone, draws=50) == evaluate(plain, draws=50)
    doubled = LoggedDecisions(
        *(np.repeat(a, 4) for a in (log.reward, log.propensity, log.target)),
        clusters=np.repeat(np.arange(len(log)), 4),
    )
    one, four = evaluate(plain, draws=400), evaluate(doubled, draws=400)
    assert four.estimates["ips"].value.se == pytest.approx(one.estimates["ips"].value.se, rel=0.02)
    assert four.logged.value == pytest.approx(one.logged.value)


def test_evaluating_the_logging_policy_itself_gives_its_mean_reward():
    log, _ = world(500, 4)
    same = LoggedDecisions(log.reward, log.propensity, log.propensity)
    found = evaluate(same, draws=50)
    for estimate in found.estimates.values():
        assert estimate.value.value == pytest.approx(log.reward.mean())
        assert abs(estimate.gain.value) < 1e-12
    assert found.effective == pytest.approx(len(log))


@given(st.integers(0, 10_000), st.floats(0.2, 5.0))
@settings(max_examples=30, deadline=None)
def test_snips_is_between_the_rewards_and_follows_a_shift(seed: int, shift: float):
    rng = np.random.default_rng(seed)
    n = 40
    propensity, target = rng.uniform(0.05, 1, n), rng.uniform(0.01, 1, n)
    reward = rng.normal(size=n)
    one = evaluate(LoggedDecisions(reward, propensity, target), draws=2).estimates["snips"].value.value
    moved = (
        evaluate(LoggedDecisions(reward + shift, propensity, target), draws=2).estimates["snips"].value.value
    )
    assert reward.min() - 1e-9 <= one <= reward.max() + 1e-9
    assert moved == pytest.approx(one + shift)


def test_clipping_bounds_the_weights_and_says_so():
    log = LoggedDecisions(np.ones(10), np.full(10, 0.1), np.full(10, 1.0))
    found = evaluate(log, clip=2.0, draws=10)
    assert found.largest_weight == 2.0
    assert found.clip == 2.0
    assert found.estimates["ips"].value.value == pytest.approx(2.0)


def test_a_policy_that_does_what_was_never_done_is_warned_about():
    n = 2_000
    rng = np.random.default_rng(0)
    rare = rng.random(n) < 0.005
    log = LoggedDecisions(rng.random(n).round(), np.where(rare, 0.005, 0.995), np.where(rare, 1.0, 0.0))
    assert any("effective" in w for w in evaluate(log, draws=100).warnings)
    wrong = LoggedDecisions(log.reward, np.full(n, 0.5), np.full(n, 0.9))
    assert any("mean weight" in w for w in evaluate(wrong, draws=100).warnings)


def test_rare_rewards_are_warned_about_however_many_decisions_there_are():
    n = 5_000
    few, many = np.zeros(n), np.zeros(n)
    few[:12], many[:60] = 1.0, 1.0

    def found(reward):
        return evaluate(LoggedDecisions(reward, np.full(n, 0.5), np.full(n, 0.5)), draws=50)

    assert found(few).effective_rewards == pytest.approx(12)
    assert any("12.0 effective rewards" in w for w in found(few).warnings)
    assert found(many).warnings == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"propensity": np.array([0.0, 0.5])}, "propensity"),
        ({"propensity": np.array([0.5, 1.5])}, "propensity"),
        ({"target": np.array([0.5, 1.5])}, "target"),
        ({"reward": np.array([np.nan, 1.0])}, "reward"),
        ({"predicted": np.zeros(2)}, "evaluation"),
        ({"target": np.array([0.5])}, "target"),
        ({"clusters": np.array([1])}, "clusters"),
    ],
)
def test_bad_logs_are_refused_by_column(change, where):
    good = {"reward": np.ones(2), "propensity": np.full(2, 0.5), "target": np.full(2, 0.5)}
    with pytest.raises(DataError, match=where):
        LoggedDecisions(**{**good, **change})
    with pytest.raises(DataError, match="no decisions"):
        LoggedDecisions(np.zeros(0), np.zeros(0), np.zeros(0))


def test_replay_is_self_normalised_inverse_propensity_under_a_uniform_shuffle():
    rng = np.random.default_rng(5)
    n, top = 5_000, 4
    logged, wanted = rng.integers(0, top, n), rng.integers(0, top, n)
    reward = (rng.random(n) < 0.1 + 0.2 * logged).astype(float)
    found = replay(logged, wanted, reward, draws=200)
    log = LoggedDecisions(reward, np.full(n, 1 / top), (logged == wanted).astype(float))
    assert found.rate.value == pytest.approx(evaluate(log, draws=2).estimates["snips"].value.value)
    assert found.matched == int((logged == wanted).sum())
    truth = np.mean(0.1 + 0.2 * wanted)
    assert found.rate.low < truth < found.rate.high


def test_replay_leaves_out_what_the_log_cannot_answer():
    found = replay([1, 2, 3, 4], [1, 2, 9, 9], [1, 0, 1, 1], covered=[True, True, False, False], draws=10)
    assert (found.matched, found.uncovered, found.rate.value) == (2, 0.5, 0.5)
    with pytest.raises(DataError, match="agree"):
        replay([1, 2], [2, 1], [1, 1])
    with pytest.raises(DataError, match="length"):
        replay([1, 2], [2], [1, 1])


def test_expected_reward_sums_over_candidates_and_refuses_half_a_policy():
    p, q, of = [0.25, 0.75, 1.0], [1.0, 0.0, 0.5], [0, 0, 1]
    np.testing.assert_allclose(expected_reward(p, q, of, 2), [0.25, 0.5])
    with pytest.raises(DataError, match="sum to 1"):
        expected_reward([0.25, 0.5, 1.0], q, of, 2)


def test_effective_size_of_nothing_is_nothing():
    assert effective_size([0.0, 0.0]) == 0.0
