"""The exploring head: a Gaussian posterior over the ranker's last layer, and over what it misses of an item.

Conventions
-----------
``h`` : float32 [n, T, D]
    What enters the ranker's last layer, task by task (`predict_with_hidden`).
``z`` : float32 [n, T, k]
    Its leading principal directions (`Directions`); a constant 1 joins them where they meet a posterior.
``offset`` : [n, T]
    Logits of the version as it stands, the ranker's and those of all parts before this one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.linalg

from memberwise.bayes.design import Design
from memberwise.bayes.laplace import absorb_at
from memberwise.bayes.likelihood import BernoulliLikelihood
from memberwise.bayes.objective import Objective
from memberwise.bayes.posterior import GaussianPosterior
from memberwise.bayes.precision import cholesky
from memberwise.bayes.solver import cholesky_direction, minimise
from memberwise.data.arrays import Arrays
from memberwise.data.hashing import U64
from memberwise.errors import DataError
from memberwise.ranking.exploration.config import ExplorationConfig
from memberwise.ranking.exploration.from_train import from_train
from memberwise.ranking.exploration.rows import Directions, Rows, defined, derivatives, with_constant
from memberwise.ranking.exploration.spread import Spread
from memberwise.ranking.id_intercepts import IdIntercepts, solve

Floats = npt.NDArray[np.float64]
logger = logging.getLogger(__name__)

_SWEEPS = 3


@dataclass(frozen=True)
class ExplorationHead:
    r"""A posterior over how far the last layer is off: ``logit = offset + z'd_t + u_{item, t}``.

    .. math:: d_t \sim N(m_t, \Lambda_t^{-1}), \qquad
              \Lambda_t = c \sum_i w_i p_i (1 - p_i) z_i z_i' + \lambda_t I

    At the fit, the trained weights are where one starts, and the curvature of the loss over train is the
    precision (Laplace). Training stops early, short of the mode: m is a share of one Newton step towards
    it. That share, the prior precision, and the share c of train's curvature that still holds later are
    those that valid makes most probable (empirical Bayes). Every increment is one step of sequential Bayes:
    forget, find the mode, add the curvature there.

    The constant of an item is the uncertain weight of its one-hot id, which the last layer holds too (the
    wide part): an item that was hardly shown is explored even where all its features are familiar. The
    curvature between the two is ignored.

    Parameters
    ----------
    config : ExplorationConfig
    directions : Directions
    posteriors : tuple of GaussianPosterior
        One per task.
    floors : float64 [T]
        Prior precision of each task.
    items : IdIntercepts
    moment : int
        Time of the last event absorbed, microseconds.

    References
    ----------
    LiRank (Borisyuk et al., 2024), section 3.6; Riquelme, Tucker and Snoek, "Deep Bayesian bandits showdown"
    (2018); MacKay, "Bayesian interpolation" (1992), for the evidence.
    """

    config: ExplorationConfig
    directions: Directions
    posteriors: tuple[GaussianPosterior, ...]
    floors: Floats
    items: IdIntercepts
    moment: int

    # -- fit --------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        config: ExplorationConfig,
        train: Iterable[Rows],
        held_out: Rows,
        moment: int,
        directions: Directions,
    ) -> ExplorationHead:
        """Measure train's curvature at the trained weights, and tune the prior by the evidence of later rows.

        Parameters
        ----------
        config
            Settings.
        train
            Train in pieces.
        held_out
            Later rows that the ranker has not learned from; they choose precisions, and are not absorbed.
        moment
            Time of the last row of train.
        directions
            See `principal_directions`.
        """
        posteriors, floors, items = from_train(config, train, held_out, moment, directions)
        return cls(config, directions, posteriors, floors, items, moment)

    # -- read -------------------------------------------------------------------------------------

    def shift(self, z: npt.NDArray[np.float32], items: U64) -> Floats:
        """What the posterior means add to the logits, [n, T]."""
        own = self.items.read(items, self.moment)[0] if self.config.items else 0.0
        moved = [with_constant(z[:, t]) @ p.mean for t, p in enumerate(self.posteriors)]
        return np.stack(moved, axis=1) + own

    def spread(self, z: npt.NDArray[np.float32], items: U64, offset: npt.NDArray[np.float32]) -> Spread:
        """The posterior of the logits of rows that are ranked together."""
        n, tasks = offset.shape
        mean, own = offset.astype(np.float64), np.zeros((n, tasks))
        if self.config.items:
            level, precision = self.items.read(items, self.moment)
            mean, own = mean + level, 1.0 / np.sqrt(precision)
        halves = []
        for t, posterior in enumerate(self.posteriors):
            wide = with_constant(z[:, t])
            mean[:, t] += wide @ posterior.mean
            lower = self._lower[t]
            halves.append(scipy.linalg.solve_triangular(lower, wide.T, lower=True, check_finite=False))
        return Spread(mean, np.stack(halves), own)

    @cached_property
    def _lower(self) -> list[Floats]:
        """Cholesky factors of the precisions, made at the first request."""
        return [cholesky(p.precision.dense()) for p in self.posteriors]

    # -- learn ------------------------------------------------------------------------------------

    def update(self, rows: Rows, moment: int, key: str | None = None) -> ExplorationHead:
        """The head after an increment: forget, then absorb it in a few sweeps over layer and items.

        A task whose solve does not converge, or without a defined row, keeps its posterior.

        Parameters
        ----------
        rows
            The increment; `offset` without this head's own shift.
        moment
            Time of its last row.
        key
            Name of the increment; one that was absorbed before is refused.

        Raises
        ------
        DataError
            The increment was absorbed before, or is older than the last one.
        """
        if moment < self.moment:
            raise DataError(
                "the increment is older than what the exploring head has seen", where="exploration"
            )
        aged = self._aged(moment)
        distinct, codes = np.unique(rows.items, return_inverse=True)
        level, precision = self.items.read(distinct, moment)
        posteriors = []
        for t, prior in enumerate(aged):
            prior.refuse_repeat(key)
            y, w, o = defined(rows, t)
            if not w.any():
                posteriors.append(prior.record(key))
                continue
            z = Design(with_constant(rows.z[:, t]), intercept=False)
            start, strength = level[:, t].copy(), precision[:, t].copy()
            u, d, bend = start, prior.mean, np.zeros(len(distinct))
            for _ in range(_SWEEPS if self.config.items else 1):
                own = u[codes] if self.config.items else 0.0
                objective = Objective(BernoulliLikelihood(), z, y, w, o + own, prior)
                solution = minimise(objective, d, direction=cholesky_direction, tol=1e-8, max_iter=50)
                d = solution.point.w
                if self.config.items:
                    u, bend = solve(codes, y, w, o + z.dot(d), start, strength)
            if not solution.converged:
                logger.warning("exploration: the solve of task %d did not converge; its posterior stays", t)
                posteriors.append(prior.record(key))
                continue
            posteriors.append(absorb_at(objective, solution.point, batch=key))
            level[:, t], precision[:, t] = u, strength + bend
        items = self.items.write(distinct, level, precision, moment) if self.config.items else self.items
        return replace(self, posteriors=tuple(posteriors), items=items, moment=moment)

    def retrained(self, moment: int, kept: float = 0.5) -> ExplorationHead:
        """The head after the ranker learned too: what was learned is in its weights now.

        Means return to zero. The hidden layer has moved, so that the old curvature holds only in part.

        Parameters
        ----------
        moment
            Time of the last event that the ranker learned from.
        kept
            Share of the certainty above the prior that is kept.
        """
        posteriors = []
        for floor, p in zip(self.floors, self.posteriors, strict=True):
            fresh = replace(p, mean=np.zeros_like(p.mean))
            posteriors.append(fresh.forget(kept, float(floor)))
        items = self.items.centred(kept)
        return replace(self, posteriors=tuple(posteriors), items=items, moment=max(moment, self.moment))

    def informed(self, rows: Rows, moment: int) -> ExplorationHead:
        """The head with the certainty that rows bring; their labels are in the ranker's weights already."""
        bend = derivatives(rows)[1]
        posteriors = []
        for t, p in enumerate(self.posteriors):
            z = with_constant(rows.z[:, t])
            posteriors.append(p.absorb((z * bend[:, t][:, None]).T @ z, p.mean))
        if not self.config.items:
            return replace(self, posteriors=tuple(posteriors), moment=moment)
        distinct, codes = np.unique(rows.items, return_inverse=True)
        mean, precision = self.items.read(distinct, moment)
        for t in range(bend.shape[1]):
            precision[:, t] += np.bincount(codes, bend[:, t], len(distinct))
        items = self.items.write(distinct, mean, precision, moment)
        return replace(self, posteriors=tuple(posteriors), items=items, moment=moment)

    def to_arrays(self) -> dict[str, Arrays]:
        """Directions and items, for saving; posteriors are tables (`GaussianPosterior.to_arrow`)."""
        about = {"floors": self.floors, "moment": np.array([self.moment])}
        where: Arrays = {
            "centre": self.directions.centre, "basis": self.directions.basis.astype(np.float32),
        }  # fmt: skip
        return {"head": about, "directions": where, "items": self.items.to_arrays()}

    @classmethod
    def from_arrays(
        cls,
        config: ExplorationConfig,
        arrays: Mapping[str, Arrays],
        posteriors: tuple[GaussianPosterior, ...],
    ) -> ExplorationHead:
        """The inverse of `to_arrays`."""
        where = Directions(arrays["directions"]["centre"], arrays["directions"]["basis"].astype(np.float64))
        half_life = None if config.half_life is None else float(config.half_life)
        items = IdIntercepts.from_arrays(arrays["items"], half_life)
        head = arrays["head"]
        return cls(config, where, posteriors, head["floors"], items, int(head["moment"][0]))

    def _aged(self, moment: int) -> list[GaussianPosterior]:
        """The posteriors as of a moment."""
        if self.config.half_life is None:
            return list(self.posteriors)
        delta = float(np.exp2(-(moment - self.moment) / self.config.half_life))
        return [p.forget(delta, float(f)) for p, f in zip(self.posteriors, self.floors, strict=True)]
