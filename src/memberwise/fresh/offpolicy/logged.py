"""What a log of decisions holds, checked; and a reward model's mean under a policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memberwise.errors import DataError

Floats = npt.NDArray[np.float64]


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
