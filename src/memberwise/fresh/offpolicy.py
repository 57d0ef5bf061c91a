"""Off-policy evaluation: what another policy would have earned, from the log of the one that ran.

Conventions
-----------
``n`` decisions: a context came, the logging policy took an action of known probability, a reward followed.
``w = target / propensity`` is how much more often the target policy would have taken the logged action.
Members bring many decisions, which resemble each other: intervals resample members whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.errors import DataError
from memberwise.metrics import Interval

Floats = npt.NDArray[np.float64]

FEW = 30
"""Below so many effective decisions an estimate is a guess with a formula."""
FEW_REWARDS = 20
"""Below so many effective rewards intervals are too narrow (`benchmarks/explore.py`: 88 instead of 95 %)."""


@dataclass(frozen=True)
class LoggedDecisions:
    """Decisions of a logging policy, seen by a target policy.

    Parameters
    ----------
    reward : float [n]
        What followed the logged action.
    propensity : float [n]
        Probability with which the logging policy took it, in (0, 1].
    target : float [n]
        Probability with which the target policy would have taken it, in [0, 1].
    predicted : float [n], optional
        A model's expected reward of the logged action.
    expected : float [n], optional
        The same model's expected reward under the target policy, ``sum_a target(a | x) q(x, a)``.
    clusters : int [n], optional
        Members; each decision on its own if not given.

    Raises
    ------
    DataError
        Lengths differ, a number is not finite, or a probability is out of range.
    """

    reward: Floats
    propensity: Floats
    target: Floats
    predicted: Floats | None = None
    expected: Floats | None = None
    clusters: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        n = len(self.reward)
        if n == 0:
            raise DataError("the log holds no decisions", where="off-policy evaluation")
        for name in ("reward", "propensity", "target", "predicted", "expected"):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != n:
                raise DataError(f"{len(values)} values of '{name}' for {n} rewards", where=name)
            bad = ~np.isfinite(values)
            if bad.any():
                raise DataError(
                    f"{int(bad.sum())} values are not finite, the first in row {int(bad.argmax())}",
                    where=name,
                    fix="leave those decisions out, or repair the log",
                )
        if not ((self.propensity > 0) & (self.propensity <= 1)).all():
            raise DataError(
                "a logged action had no chance, or a probability is above 1",
                where="propensity",
                fix="log the probability that the policy gave to what it did; it is above 0",
            )
        if not ((self.target >= 0) & (self.target <= 1)).all():
            raise DataError("a probability lies outside of [0, 1]", where="target")
        if (self.predicted is None) != (self.expected is None):
            raise DataError(
                "a reward model needs both 'predicted' and 'expected'", where="off-policy evaluation"
            )
        if self.clusters is not None and len(self.clusters) != n:
            raise DataError(f"{len(self.clusters)} clusters for {n} rewards", where="clusters")

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def weights(self) -> Floats:
        """Importance weights ``w``, [n]; their mean is 1 up to chance if the propensities are right."""
        return self.target / self.propensity


@dataclass(frozen=True)
class Estimate:
    """One estimator's answer.

    Attributes
    ----------
    value : Interval
        Expected reward of the target policy.
    gain : Interval
        The same minus the mean reward of the logging policy, under the same draws.
    """

    value: Interval
    gain: Interval


@dataclass(frozen=True)
class OffPolicy:
    """What a log says about a target policy.

    Attributes
    ----------
    estimates : dict of Estimate
        ``ips``, ``snips``, and with a reward model ``dm``, ``dr``, ``sndr``.
    logged : Interval
        Mean reward of the logging policy.
    decisions, clusters : int
        How many.
    effective : float
        Effective sample size ``(sum w)^2 / sum w^2``: decisions as good as so many of the target's own.
    effective_rewards : float
        The same of the rewards, ``(sum w |r|)^2 / sum (w r)^2``: where rewards are rare, these are what an
        interval rests on.
    mean_weight : Interval
        Mean importance weight; far from 1, propensities are wrong, or the target policy takes actions
        which the logging policy never took.
    largest_weight : float
        The largest importance weight.
    clip : float or None
        Where weights were cut; the estimates are then biased towards less.
    """

    estimates: dict[str, Estimate]
    logged: Interval
    decisions: int
    clusters: int
    effective: float
    mean_weight: Interval
    largest_weight: float
    clip: float | None = None
    effective_rewards: float = float("inf")

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before believing the numbers."""
        found = []
        if self.effective < FEW:
            found.append(
                f"Only {self.effective:.1f} of {self.decisions:,} decisions are effective: the target policy "
                "does what was hardly ever done. Log more exploration, or evaluate a policy nearer to it."
            )
        if self.effective_rewards < FEW_REWARDS:
            found.append(
                f"The estimate rests on {self.effective_rewards:.1f} effective rewards: the intervals are "
                "narrower than they say. Log longer."
            )
        # Four standard errors: a true 1 leaves its 95 % interval once in twenty logs.
        if self.clip is None and abs(self.mean_weight.value - 1.0) > 4 * self.mean_weight.se:
            found.append(
                f"The mean weight is {self.mean_weight}, not 1: propensities are wrong, or the target policy "
                "takes actions that were never logged."
            )
        return found

    def to_records(self) -> list[dict[str, Any]]:
        """One plain record per estimator, for the report and for JSON."""
        return [
            {
                "estimator": name,
                "value": e.value.value, "low": e.value.low, "high": e.value.high,
                "gain": e.gain.value, "gain_low": e.gain.low, "gain_high": e.gain.high,
                "decisions": self.decisions, "effective": self.effective,
            }
            for name, e in self.estimates.items()
        ]  # fmt: skip


def evaluate(
    log: LoggedDecisions,
    *,
    clip: float | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> OffPolicy:
    r"""Estimate the expected reward of the target policy.

    .. math::
        \mathrm{IPS} = \tfrac1n \sum w_i r_i, \quad
        \mathrm{SNIPS} = \frac{\sum w_i r_i}{\sum w_i}, \quad
        \mathrm{DM} = \tfrac1n \sum \bar q_i, \\
        \mathrm{DR} = \tfrac1n \sum \bar q_i + w_i (r_i - q_i), \quad
        \mathrm{SNDR} = \tfrac1n \sum \bar q_i + \frac{\sum w_i (r_i - q_i)}{\sum w_i}

    with ``q`` the reward model at the logged action and ``q-bar`` its mean under the target policy. IPS is
    unbiased; SNIPS has a small bias and far less variance; DM has the bias of its model; DR is unbiased
    when propensities or model are right.

    Parameters
    ----------
    log : LoggedDecisions
        The decisions.
    clip : float, optional
        Largest importance weight; none by default.
    draws, seed, level
        Bootstrap draws of clusters, their seed, and the coverage of the intervals.

    Returns
    -------
    OffPolicy

    References
    ----------
    .. [1] Dudík, Langford and Li, "Doubly robust policy evaluation and learning" (2011).
    .. [2] Swaminathan and Joachims, "The self-normalized estimator for counterfactual learning" (2015).

    Examples
    --------
    >>> log = LoggedDecisions(np.array([1.0, 0.0, 1.0, 0.0]), np.full(4, 0.5), np.array([1.0, 0.0, 1.0, 1.0]))
    >>> found = evaluate(log, draws=100)
    >>> round(found.estimates["ips"].value.value, 3), round(found.estimates["snips"].value.value, 3)
    (1.0, 0.667)
    """
    w = log.weights if clip is None else np.minimum(log.weights, clip)
    columns = {"n": np.ones(len(log)), "r": log.reward, "w": w, "wr": w * log.reward}
    formulas: dict[str, Callable[[dict[str, Any]], Any]] = {
        "ips": lambda s: s["wr"] / s["n"],
        "snips": lambda s: _ratio(s["wr"], s["w"]),
    }
    if log.predicted is not None and log.expected is not None:
        columns |= {"q": log.expected, "wd": w * (log.reward - log.predicted)}
        formulas |= {
            "dm": lambda s: s["q"] / s["n"],
            "dr": lambda s: (s["q"] + s["wd"]) / s["n"],
            "sndr": lambda s: s["q"] / s["n"] + _ratio(s["wd"], s["w"]),
        }
    whole, drawn, clusters = _sums(columns, log.clusters, draws, seed)

    def logged(s: dict[str, Any]) -> Any:
        return s["r"] / s["n"]

    def interval(f: Callable[[dict[str, Any]], Any]) -> Interval:
        return _interval(float(f(whole)), np.asarray(f(drawn)), level)

    return OffPolicy(
        estimates={
            name: Estimate(interval(f), interval(lambda s, f=f: f(s) - logged(s)))  # type: ignore[misc]
            for name, f in formulas.items()
        },
        logged=interval(logged),
        decisions=len(log),
        clusters=clusters,
        effective=effective_size(w),
        mean_weight=interval(lambda s: s["w"] / s["n"]),
        largest_weight=float(w.max()),
        clip=clip,
        effective_rewards=effective_size(w * np.abs(log.reward)),
    )


@dataclass(frozen=True)
class Replay:
    """What the replay of shuffled sessions says about a ranking.

    Attributes
    ----------
    rate : Interval
        Mean reward of the sessions in which the target ranking agrees with the log on the first place.
    gain : Interval
        The same minus the mean reward of all sessions.
    sessions, matched : int
        How many, and in how many of them both put the same item first.
    uncovered : float
        Share of sessions in which the target's first item was not among the shuffled ones: the log can say
        nothing about them, and the rate is of the others.
    """

    rate: Interval
    gain: Interval
    sessions: int
    matched: int
    uncovered: float

    def to_records(self) -> list[dict[str, Any]]:
        """One plain record, as `OffPolicy.to_records`."""
        return [
            {
                "estimator": "replay",
                "value": self.rate.value, "low": self.rate.low, "high": self.rate.high,
                "gain": self.gain.value, "gain_low": self.gain.low, "gain_high": self.gain.high,
                "decisions": self.sessions, "effective": float(self.matched),
            }
        ]  # fmt: skip


def replay(
    first_logged: npt.ArrayLike,
    first_target: npt.ArrayLike,
    reward: npt.ArrayLike,
    *,
    covered: npt.ArrayLike | None = None,
    clusters: npt.ArrayLike | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Replay:
    """Judge a ranking by the sessions in which a uniformly shuffled log agrees with it on the first place.

    ``rate = sum of rewards at place 1 in matched sessions / matched sessions``

    The log must come from a policy that shuffled its top N uniformly: then each of the N items came first
    equally often, whatever it is worth.

    Parameters
    ----------
    first_logged, first_target : array [n]
        The item that stood first, and the one that the target ranking puts first.
    reward : array [n]
        Of the item that stood first.
    covered : bool array [n], optional
        Whether the target's first item was among the shuffled ones; all by default.
    clusters : int array [n], optional
        Members.
    draws, seed, level
        As for `evaluate`.

    Raises
    ------
    DataError
        Lengths differ, or no session matches.

    References
    ----------
    LiRank (Borisyuk et al., 2024), offline replay; Li et al., "Unbiased offline evaluation of contextual
    bandit algorithms" (2011), of which this is the case of a fixed policy.
    """
    one, other = np.asarray(first_logged), np.asarray(first_target)
    gained = np.asarray(reward, np.float64)
    inside = np.ones(len(one), bool) if covered is None else np.asarray(covered, bool)
    if not len(one) == len(other) == len(gained) == len(inside):
        raise DataError("the columns of the sessions differ in length", where="replay")
    match = ((one == other) & inside).astype(np.float64)
    if not match.any():
        raise DataError(
            "in no session do log and target agree on the first place",
            where="replay",
            fix="log more sessions, or shuffle fewer items",
        )
    columns = {"n": np.ones(len(one)), "r": gained, "m": match, "mr": match * gained}
    groups = None if clusters is None else np.asarray(clusters)
    whole, drawn, _ = _sums(columns, groups, draws, seed)

    def rate(s: dict[str, Any]) -> Any:
        return _ratio(s["mr"], s["m"])

    return Replay(
        rate=_interval(float(rate(whole)), np.asarray(rate(drawn)), level),
        gain=_interval(
            float(rate(whole) - whole["r"] / whole["n"]), rate(drawn) - drawn["r"] / drawn["n"], level
        ),
        sessions=len(one),
        matched=int(match.sum()),
        uncovered=float(1 - inside.mean()),
    )


def effective_size(weights: npt.ArrayLike) -> float:
    """Kish's effective sample size ``(sum w)^2 / sum w^2``; 0 without any weight.

    Examples
    --------
    >>> effective_size([1, 1, 1, 1]), effective_size([4, 0, 0, 0])
    (4.0, 1.0)
    """
    w = np.asarray(weights, np.float64)
    squares = float(w @ w)
    return float(w.sum() ** 2 / squares) if squares else 0.0


def expected_reward(
    probabilities: npt.ArrayLike, values: npt.ArrayLike, decision: npt.ArrayLike, decisions: int
) -> Floats:
    """Mean of a reward model under a policy, candidate by candidate: ``sum_a p(a | x) q(x, a)``, [decisions].

    Parameters
    ----------
    probabilities, values : array [rows]
        A row per candidate: the policy's probability, and the model's reward.
    decision : int array [rows]
        Number of the decision that the candidate belongs to, from 0.
    decisions : int
        How many there are.

    Raises
    ------
    DataError
        If the probabilities of a decision do not sum to 1.
    """
    p, group = np.asarray(probabilities, np.float64), np.asarray(decision)
    total = np.bincount(group, weights=p, minlength=decisions)
    bad = np.abs(total - 1.0) > 1e-6
    if bad.any():
        raise DataError(
            f"the probabilities of {int(bad.sum())} decisions do not sum to 1 (the first: "
            f"{total[bad][0]:.6f})",
            where="off-policy evaluation",
            fix="give every candidate's probability, not only that of the action taken",
        )
    products = p * np.asarray(values, np.float64)
    return np.asarray(np.bincount(group, weights=products, minlength=decisions), np.float64)


def _ratio(a: Any, b: Any) -> Any:
    return np.divide(a, b, out=np.full_like(np.asarray(a, np.float64), np.nan), where=np.asarray(b) > 0)


def _sums(
    columns: dict[str, Floats], clusters: npt.NDArray[Any] | None, draws: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Sums of columns over all rows, and over every bootstrap draw of clusters, [draws]."""
    names = list(columns)
    table = np.stack([columns[name] for name in names], axis=1)
    if clusters is not None:
        codes = np.unique(clusters, return_inverse=True)[1]
        table = np.stack([np.bincount(codes, weights=c) for c in table.T], axis=1)
    count, generator = len(table), np.random.default_rng(seed)
    drawn = np.empty((draws, len(names)))
    for i in range(draws):
        times = np.bincount(generator.integers(0, count, count), minlength=count)
        drawn[i] = times @ table
    whole = dict(zip(names, table.sum(0), strict=True))
    return whole, dict(zip(names, drawn.T, strict=True)), count


def _interval(value: float, draws: Floats, level: float) -> Interval:
    good = draws[np.isfinite(draws)]
    if good.size < 2 or not np.isfinite(value):
        return Interval(value, float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(good, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), float(good.std(ddof=1)))
