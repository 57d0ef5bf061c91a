"""The replay of shuffled sessions: a log that needs no propensities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.errors import DataError
from memberwise.fresh.offpolicy.resampling import interval_of, ratio, sums
from memberwise.metrics import Interval


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
    whole, drawn, _ = sums(columns, groups, draws, seed)

    def rate(s: dict[str, Any]) -> Any:
        return ratio(s["mr"], s["m"])

    return Replay(
        rate=interval_of(float(rate(whole)), np.asarray(rate(drawn)), level),
        gain=interval_of(
            float(rate(whole) - whole["r"] / whole["n"]), rate(drawn) - drawn["r"] / drawn["n"], level
        ),
        sessions=len(one),
        matched=int(match.sum()),
        uncovered=float(1 - inside.mean()),
    )
