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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg
from pydantic import Field
from scipy.special import expit

from memberwise.bayes.design import Design
from memberwise.bayes.laplace import absorb_at
from memberwise.bayes.likelihood import BernoulliLikelihood
from memberwise.bayes.objective import Objective
from memberwise.bayes.posterior import GaussianPosterior
from memberwise.bayes.precision import FullPrecision, cholesky
from memberwise.bayes.solver import cholesky_direction, minimise
from memberwise.data.arrays import Arrays
from memberwise.data.hashing import U64
from memberwise.errors import DataError
from memberwise.ranking.id_intercepts import IdIntercepts, solve
from memberwise.schema import Duration, Model

Floats = npt.NDArray[np.float64]
logger = logging.getLogger(__name__)

PRECISIONS = 10.0 ** np.arange(-1.0, 6.5, 0.5)
"""Prior precisions that the evidence chooses from."""
KEPT = 10.0 ** np.arange(0.0, -2.25, -0.25)
"""Shares of what train says that may still hold after it."""
STEPS = (0.0, 0.5, 1.0)
"""Shares of the way from the trained weights to the best ones of train."""
_EXPECTED, _SPREAD, _SPREAD_KEPT = 0.5, 0.5, 0.35
"""Before any evidence: logits are off by half a unit, within a factor of three in their precision;
what train says holds, within a factor of two. A short valid decides little, a long one everything."""
_LONGEST = 2.0  # logits that an item's constant may move by in the one step from the trained weights
_SWEEPS = 3


class ExplorationConfig(Model):
    """Let the ranker know what it does not know, and rank by it when asked to explore."""

    rank: int | None = Field(
        64, ge=1, description="Directions of the last layer that stay uncertain; null: all of them."
    )
    items: bool = Field(True, description="An uncertain constant for every item beside the last layer.")
    half_life: Duration | None = Field(
        None, description="Age at which half of what was learned is forgotten: 90d."
    )
    temperature: float | dict[str, float] = Field(
        1.0, description="Width of the draws, for all tasks or by task; 0 does not explore."
    )
    draws: int = Field(1000, ge=1, description="Draws behind a propensity that has no closed form.")
    policy: Literal["thompson", "ucb"] = Field(
        "thompson", description="thompson, or ucb: mean plus temperature deviations."
    )

    def temperatures(self, tasks: tuple[str, ...]) -> Floats:
        """One temperature per task."""
        if isinstance(self.temperature, dict):
            return np.array([self.temperature.get(t, 1.0) for t in tasks])
        return np.full(len(tasks), float(self.temperature))


class Rows(NamedTuple):
    """Rows as the head sees them.

    Attributes
    ----------
    z : float32 [n, T, k]
    offset : float32 [n, T]
    labels, weights : float32 [n, T]
        A label is NaN where its task is not defined.
    items : uint64 [n]
    """

    z: npt.NDArray[np.float32]
    offset: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    items: U64


@dataclass(frozen=True)
class Directions:
    """Where the last layer may move, by task: ``z = (h - centre) basis``.

    Parameters
    ----------
    centre : float64 [T, D]
    basis : float64 [T, D, k]
        Orthonormal columns; with k = D, the posterior is that of the whole layer.
    """

    centre: Floats
    basis: Floats

    def __call__(self, hidden: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """``[n, T, D] -> [n, T, k]``."""
        centre, basis = self.centre.astype(np.float32), self.basis.astype(np.float32)
        turned = [(hidden[:, t] - centre[t]) @ basis[t] for t in range(len(centre))]
        return np.stack(turned, axis=1)

    @classmethod
    def principal(cls, count: float, total: Floats, square: Floats, rank: int | None) -> Directions:
        """The directions of largest variance.

        Parameters
        ----------
        count : float
            Rows.
        total, square : float64 [T, D], [T, D, D]
            Sums of h and of its outer products.
        rank : int or None
            How many.
        """
        centre = total / count
        kept = min(rank or centre.shape[1], centre.shape[1])
        bases = []
        for t in range(len(centre)):
            spread = square[t] / count - np.outer(centre[t], centre[t])
            if kept == centre.shape[1]:
                bases.append(np.eye(kept))
            else:
                bases.append(np.linalg.eigh(spread)[1][:, ::-1][:, :kept])
        return cls(centre, np.stack(bases))


@dataclass(frozen=True)
class Spread:
    r"""What is known of the logits of a request's candidates: ``mean + Z w + u``.

    Attributes
    ----------
    mean : float64 [n, T]
        Logits at the posterior mean.
    half : float64 [T, k + 1, n]
        ``L^{-1} z'`` with ``L L' = precision``: noise times it is a draw of ``Z w``, the same w for all rows.
    own : float64 [n, T]
        Standard deviation of each item's constant.
    """

    mean: Floats
    half: Floats
    own: Floats

    def deviation(self) -> Floats:
        """Standard deviation of every logit, [n, T]."""
        return np.sqrt((self.half**2).sum(1).T + self.own**2)

    def moved(self, by: npt.NDArray[np.floating]) -> Spread:
        """With something certain added to the logits, [n, T]."""
        return replace(self, mean=self.mean + by)

    def covariance(self, task: int) -> Floats:
        """Of the candidates' logits, [n, n]."""
        shared: Floats = self.half[task].T @ self.half[task]
        return shared + np.diag(self.own[:, task] ** 2)

    def draw(self, size: int, temperature: Floats, generator: np.random.Generator) -> Floats:
        """Logits under draws from the posterior, [size, n, T]; each draw is one w for all candidates."""
        tasks, width, n = self.half.shape
        out = np.empty((size, n, tasks))
        for t in range(tasks):
            noise = generator.standard_normal((size, width)) @ self.half[t]
            if self.own[:, t].any():
                noise += generator.standard_normal((size, n)) * self.own[:, t]
            out[:, :, t] = self.mean[:, t] + temperature[t] * noise
        return out


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
        tasks, _, rank = directions.basis.shape
        slope, curvature = np.zeros((tasks, rank + 1)), np.zeros((tasks, rank + 1, rank + 1))
        seen, sums = np.zeros(0, np.uint64), np.zeros((0, 2 * tasks))
        for rows in train:
            tilt, bend = _derivatives(rows)
            for t in range(tasks):
                z = _with_constant(rows.z[:, t])
                slope[t] += tilt[:, t] @ z
                curvature[t] += (z * bend[:, t][:, None]).T @ z
            seen, sums = _merged(seen, sums, rows.items, np.hstack([tilt, bend]))
        later, codes = np.unique(held_out.items, return_inverse=True)
        before = np.zeros((len(later), 2 * tasks))
        at = np.searchsorted(seen, later)
        known = np.append(seen, 0)[at] == later if len(seen) else np.zeros(len(later), bool)
        before[known] = sums[at[known]]
        tilt, bend = _derivatives(held_out)
        floors, posteriors = np.empty(tasks), []
        item_floors, mean, precision = (
            np.full(tasks, np.inf),
            np.zeros((len(seen), tasks)),
            sums[:, tasks:].copy(),
        )
        for t in range(tasks):
            if config.items:
                pull, stiff = (
                    np.asarray(np.bincount(codes, x[:, t], len(later)), float) for x in (tilt, bend)
                )
                found = _tune_scalar(pull, stiff, before[:, t], before[:, tasks + t])
                item_floors[t], step = found.floor, found.step
                mean[:, t] = step * _one_step(sums[:, t], sums[:, tasks + t], found.floor)
                precision[:, t] = found.kept * sums[:, tasks + t] + found.floor
            z = _with_constant(held_out.z[:, t])
            usual = float(np.log10(np.square(z).sum(1).mean() / _EXPECTED**2))
            hessian = (z * bend[:, t][:, None]).T @ z
            found = _tune(tilt[:, t] @ z, hessian, slope[t], curvature[t], usual)
            floors[t] = found.floor
            eye = np.eye(rank + 1)
            moved = -found.step * np.linalg.solve(curvature[t] + found.floor * eye, slope[t])
            names = (*(f"direction {i}" for i in range(rank)), "constant")
            matrix = found.kept * curvature[t] + found.floor * eye
            posteriors.append(GaussianPosterior(names, moved, FullPrecision(matrix)))
        half_life = None if config.half_life is None else float(config.half_life)
        items = IdIntercepts.empty(item_floors, half_life)
        if config.items:
            items = items.write(seen, mean, precision, moment)
        return cls(config, directions, tuple(posteriors), floors, items, moment)

    # -- read -------------------------------------------------------------------------------------

    def shift(self, z: npt.NDArray[np.float32], items: U64) -> Floats:
        """What the posterior means add to the logits, [n, T]."""
        own = self.items.read(items, self.moment)[0] if self.config.items else 0.0
        moved = [_with_constant(z[:, t]) @ p.mean for t, p in enumerate(self.posteriors)]
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
            wide = _with_constant(z[:, t])
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
            y, w, o = _defined(rows, t)
            if not w.any():
                posteriors.append(prior.record(key))
                continue
            z = Design(_with_constant(rows.z[:, t]), intercept=False)
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
        bend = _derivatives(rows)[1]
        posteriors = []
        for t, p in enumerate(self.posteriors):
            z = _with_constant(rows.z[:, t])
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


def principal_directions(pieces: Iterable[npt.NDArray[np.float32]], rank: int | None) -> Directions:
    """The directions in which rows differ most, from hidden vectors ``[n, T, D]`` in pieces.

    Raises
    ------
    DataError
        If there are no rows.
    """
    count, total, square = 0, np.zeros(0), np.zeros(0)
    for hidden in pieces:
        s = hidden.sum(0, dtype=np.float64)
        q = np.stack([hidden[:, t].T @ hidden[:, t] for t in range(hidden.shape[1])]).astype(np.float64)
        total, square = (total + s, square + q) if count else (s, q)
        count += len(hidden)
    if not count:
        raise DataError("there are no rows to learn the last layer's directions from", where="exploration")
    return Directions.principal(count, total, square, rank)


def _with_constant(z: npt.NDArray[np.float32]) -> Floats:
    """``[n, k] -> [n, k + 1]``, in the solver's precision."""
    return np.column_stack([z.astype(np.float64), np.ones(len(z))])


def _derivatives(rows: Rows) -> tuple[Floats, Floats]:
    """Slope and curvature of every row's loss in its logit, [n, T] each; zero where a task is not defined."""
    o, y = rows.offset.astype(np.float64), rows.labels.astype(np.float64)
    missing = np.isnan(y)
    w = np.where(missing, 0.0, rows.weights).astype(np.float64)
    p = expit(o)
    return w * (p - np.where(missing, 0.0, y)), w * p * (1.0 - p)


def _defined(rows: Rows, task: int) -> tuple[Floats, Floats, Floats]:
    """Labels, weights and offsets of a task, [n] each; rows without a label weigh nothing."""
    labels = rows.labels[:, task].astype(np.float64)
    missing = np.isnan(labels)
    weights = np.where(missing, 0.0, rows.weights[:, task]).astype(np.float64)
    return np.where(missing, 0.0, labels), weights, rows.offset[:, task].astype(np.float64)


def _merged(ids: U64, sums: Floats, more: U64, values: Floats) -> tuple[U64, Floats]:
    """Sums by id after further rows; ids ascending."""
    every = np.concatenate([ids, more])
    distinct, codes = np.unique(every, return_inverse=True)
    stacked = np.concatenate([sums, values])
    return distinct, np.stack([np.bincount(codes, c, len(distinct)) for c in stacked.T], axis=1)


class Tuned(NamedTuple):
    """What later rows make most probable.

    Attributes
    ----------
    floor
        Prior precision.
    kept
        Share of train's curvature that holds.
    step
        Share of the way to train's mode.
    """

    floor: float
    kept: float
    step: float


def _one_step(slope: Floats, curvature: Floats, floor: float) -> Floats:
    """Newton's step of many independent constants from zero."""
    return np.clip(-slope / (curvature + floor), -_LONGEST, _LONGEST)


def _tune(gradient: Floats, hessian: Floats, slope: Floats, curvature: Floats, usual: float) -> Tuned:
    r"""Choose the prior of the last layer by the evidence of later rows.

    The loss of train and of the later rows is taken as a parabola around the trained weights: slope and
    curvature over train, g and H later. With prior mean m and precision P,

    .. math:: \log \mathrm{evidence} = -g'm - \tfrac12 m'Hm + \tfrac12 (g + Hm)'(P + H)^{-1}(g + Hm)
                                     + \tfrac12 \log|P| - \tfrac12 \log|P + H|.

    `usual` is the logarithm (base 10) of the precision that is expected before any evidence.
    """
    eye = np.eye(len(gradient))

    def evidence(floor: float) -> Iterator[tuple[float, float, float]]:
        mode = -np.linalg.solve(curvature + floor * eye, slope)
        for kept in KEPT:
            prior = kept * curvature + floor * eye
            lower, wider = cholesky(prior), cholesky(prior + hessian)
            logs = float(np.log(np.diagonal(lower)).sum() - np.log(np.diagonal(wider)).sum())
            for step in STEPS:
                mean = step * mode
                moved = gradient + hessian @ mean
                pulled = scipy.linalg.solve_triangular(wider, moved, lower=True)
                cost = float(gradient @ mean + 0.5 * mean @ hessian @ mean)
                yield float(kept), step, logs - cost + 0.5 * float(pulled @ pulled)

    return _most_probable(evidence, usual)


def _tune_scalar(gradient: Floats, hessian: Floats, slope: Floats, curvature: Floats) -> Tuned:
    """`_tune` for many independent constants that share their prior, [E] each."""

    def evidence(floor: float) -> Iterator[tuple[float, float, float]]:
        mode = _one_step(slope, curvature, floor)
        for kept in KEPT:
            prior = kept * curvature + floor
            logs = 0.5 * float(np.log(prior / (prior + hessian)).sum())
            for step in STEPS:
                mean = step * mode
                moved = gradient + hessian * mean
                cost = float((gradient * mean + 0.5 * hessian * mean**2).sum())
                yield float(kept), step, logs - cost + 0.5 * float((moved**2 / (prior + hessian)).sum())

    return _most_probable(evidence, float(np.log10(1 / _EXPECTED**2)))


def _most_probable(evidence: Callable[[float], Iterator[tuple[float, float, float]]], usual: float) -> Tuned:
    """The best of the grids, by log-evidence and what was expected before."""
    best, found = -np.inf, Tuned(float(10.0**usual), 1.0, 0.0)
    for floor in PRECISIONS:
        for kept, step, value in evidence(float(floor)):
            far = ((np.log10(floor) - usual) / _SPREAD) ** 2 + (np.log10(kept) / _SPREAD_KEPT) ** 2
            if value - 0.5 * far > best:
                best, found = value - 0.5 * far, Tuned(float(floor), kept, step)
    return found
