"""An uncertain constant for every id: what the last layer does not know of an item.

The one-dimensional special case of a random effect, for ids that come as 64-bit hashes and in millions: no
text, no dictionary, flat arrays that a request reads in microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from memberwise.data.arrays import Arrays
from memberwise.data.hashing import U64

Floats = npt.NDArray[np.float64]

_STEPS, _TOLERANCE, _LONGEST = 50, 1e-8, 1.0


@dataclass(frozen=True)
class IdIntercepts:
    r"""``u_it ~ N(mean_it, 1 / precision_it)`` for every id i and task t, independent.

    An id never seen has the prior ``N(0, 1 / floor_t)``. What is known of a silent id fades to the prior,
    ``precision' = d precision + (1 - d) floor``, ``d = 2^{-age / half-life}``, when it is next read.

    Parameters
    ----------
    ids : uint64 [N]
        Hashes, ascending.
    mean, precision : float64 [N, T]
        Posterior of each.
    seen : int64 [N]
        Moment of the last event absorbed, microseconds.
    floor : float64 [T]
        Prior precision.
    half_life : float or None
        Microseconds; None forgets nothing.
    """

    ids: U64
    mean: Floats
    precision: Floats
    seen: npt.NDArray[np.int64]
    floor: Floats
    half_life: float | None = None

    @classmethod
    def empty(cls, floor: Floats, half_life: float | None = None) -> IdIntercepts:
        """Nothing but the prior."""
        none = np.zeros((0, len(floor)))
        return cls(np.zeros(0, np.uint64), none, none, np.zeros(0, np.int64), floor, half_life)

    def read(self, ids: U64, moment: int) -> tuple[Floats, Floats]:
        """Mean and precision of ids as of a moment, two arrays [n, T]."""
        place = np.searchsorted(self.ids, ids)
        known = np.append(self.ids, 0)[place] == ids if len(self.ids) else np.zeros(len(ids), bool)
        mean = np.zeros((len(ids), len(self.floor)))
        precision = np.tile(self.floor, (len(ids), 1))
        at = place[known]
        kept = np.ones((len(at), 1))
        if self.half_life is not None:
            age = np.maximum(moment - self.seen[at], 0)
            kept = np.exp2(-age / self.half_life)[:, None]
        pulled = kept * self.precision[at]
        precision[known] = pulled + (1.0 - kept) * self.floor
        mean[known] = pulled * self.mean[at] / precision[known]
        return mean, precision

    def write(self, ids: U64, mean: Floats, precision: Floats, moment: int) -> IdIntercepts:
        """With new posteriors of some ids (distinct)."""
        fresh = ~np.isin(ids, self.ids)
        every = np.concatenate([self.ids, ids[fresh]])
        order = np.argsort(every, kind="stable")
        grown = replace(
            self,
            ids=every[order],
            mean=np.concatenate([self.mean, mean[fresh]])[order],
            precision=np.concatenate([self.precision, precision[fresh]])[order],
            seen=np.concatenate([self.seen, np.full(int(fresh.sum()), moment)])[order],
        )
        at = np.searchsorted(grown.ids, ids)
        grown.mean[at], grown.precision[at], grown.seen[at] = mean, precision, moment
        return grown

    def centred(self, kept: float) -> IdIntercepts:
        """With means of zero and only a share of the certainty above the prior, as after a retraining."""
        return replace(
            self,
            mean=np.zeros_like(self.mean),
            precision=kept * self.precision + (1.0 - kept) * self.floor,
        )

    def to_arrays(self) -> Arrays:
        """For saving; numbers in float32, as posteriors are kept on disk."""
        return {
            "ids": self.ids, "mean": self.mean.astype(np.float32),
            "precision": self.precision.astype(np.float32), "seen": self.seen, "floor": self.floor,
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: Arrays, half_life: float | None) -> IdIntercepts:
        """The inverse of `to_arrays`."""
        wide = {k: np.asarray(arrays[k], np.float64) for k in ("mean", "precision", "floor")}
        return cls(arrays["ids"], wide["mean"], wide["precision"], arrays["seen"], wide["floor"], half_life)


def solve(
    codes: npt.NDArray[np.integer[Any]],
    y: Floats,
    weights: Floats,
    offset: Floats,
    mean: Floats,
    precision: Floats,
) -> tuple[Floats, Floats]:
    r"""Mode and curvature of every id's intercept, all ids at once, by Newton's method in one dimension.

    .. math:: u_e = \arg\min \sum_{i \in e} c_i \ell(u + o_i, y_i) + \tfrac{\lambda_e}{2} (u - m_e)^2

    Parameters
    ----------
    codes : int [n]
        Number of each row's id, below E.
    y, weights, offset : float64 [n]
        Labels, case weights, known part of the logit.
    mean, precision : float64 [E]
        Prior.

    Returns
    -------
    mode, hessian : float64 [E]
        The posterior mean, and the rows' share of its precision.
    """
    count, u = len(mean), mean.copy()
    hessian = np.zeros(count)
    for _ in range(_STEPS):
        p = expit(u[codes] + offset)
        hessian = np.asarray(np.bincount(codes, weights * p * (1.0 - p), count), np.float64)
        gradient = np.bincount(codes, weights * (p - y), count) + precision * (u - mean)
        # The loss is convex, and its curvature changes slowly within one logit: short steps are safe.
        step = np.clip(gradient / (hessian + precision), -_LONGEST, _LONGEST)
        u -= step
        if np.abs(step).max(initial=0.0) < _TOLERANCE:
            break
    return u, hessian
