"""IPS, SNIPS, direct, doubly robust: the expected reward of another policy, from logged propensities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.fresh.offpolicy.logged import LoggedDecisions
from memberwise.fresh.offpolicy.resampling import interval_of, ratio, sums
from memberwise.metrics import Interval

FEW = 30
"""Below so many effective decisions an estimate is a guess with a formula."""
FEW_REWARDS = 20
"""Below so many effective rewards intervals are too narrow (`benchmarks/explore.py`: 88 instead of 95 %)."""


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
        "snips": lambda s: ratio(s["wr"], s["w"]),
    }
    if log.predicted is not None and log.expected is not None:
        columns |= {"q": log.expected, "wd": w * (log.reward - log.predicted)}
        formulas |= {
            "dm": lambda s: s["q"] / s["n"],
            "dr": lambda s: (s["q"] + s["wd"]) / s["n"],
            "sndr": lambda s: s["q"] / s["n"] + ratio(s["wd"], s["w"]),
        }
    whole, drawn, clusters = sums(columns, log.clusters, draws, seed)

    def logged(s: dict[str, Any]) -> Any:
        return s["r"] / s["n"]

    def interval(f: Callable[[dict[str, Any]], Any]) -> Interval:
        return interval_of(float(f(whole)), np.asarray(f(drawn)), level)

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
