"""The head at the fit: curvature of train at the trained weights, under the prior that valid chooses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memberwise.bayes.posterior import GaussianPosterior
from memberwise.bayes.precision import FullPrecision
from memberwise.data.hashing import U64
from memberwise.ranking.exploration.config import ExplorationConfig
from memberwise.ranking.exploration.evidence import EXPECTED, one_step, tune_items, tune_layer
from memberwise.ranking.exploration.rows import Directions, Rows, derivatives, with_constant
from memberwise.ranking.id_intercepts import IdIntercepts

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Parabola:
    """The loss of train around the trained weights, by task: of the layer, and of every item's constant.

    Attributes
    ----------
    slope : float64 [T, k + 1]
    curvature : float64 [T, k + 1, k + 1]
    items : uint64 [N]
        Ascending.
    sums : float64 [N, 2 T]
        Slope, then curvature, of each item in each task.
    """

    slope: Floats
    curvature: Floats
    items: U64
    sums: Floats

    @classmethod
    def of(cls, train: Iterable[Rows], tasks: int, width: int) -> Parabola:
        """Summed over train, piece by piece."""
        slope, curvature = np.zeros((tasks, width)), np.zeros((tasks, width, width))
        items, sums = np.zeros(0, np.uint64), np.zeros((0, 2 * tasks))
        for rows in train:
            tilt, bend = derivatives(rows)
            for t in range(tasks):
                z = with_constant(rows.z[:, t])
                slope[t] += tilt[:, t] @ z
                curvature[t] += (z * bend[:, t][:, None]).T @ z
            items, sums = _merged(items, sums, rows.items, np.hstack([tilt, bend]))
        return cls(slope, curvature, items, sums)

    def of_items(self, ids: U64) -> Floats:
        """`sums` of some items, zero where train has none, [len(ids), 2 T]."""
        found = np.zeros((len(ids), self.sums.shape[1]))
        at = np.searchsorted(self.items, ids)
        known = np.append(self.items, 0)[at] == ids if len(self.items) else np.zeros(len(ids), bool)
        found[known] = self.sums[at[known]]
        return found


def from_train(
    config: ExplorationConfig, train: Iterable[Rows], held_out: Rows, moment: int, directions: Directions
) -> tuple[tuple[GaussianPosterior, ...], Floats, IdIntercepts]:
    """Posterior of the layer by task, prior precisions [T], and the items; see `ExplorationHead.fit`."""
    tasks, _, rank = directions.basis.shape
    parabola = Parabola.of(train, tasks, rank + 1)
    tilt, bend = derivatives(held_out)
    found = [_layer(parabola, t, held_out.z[:, t], tilt[:, t], bend[:, t]) for t in range(tasks)]
    items = _items(config, parabola, held_out.items, tilt, bend, moment)
    return tuple(posterior for posterior, _ in found), np.array([floor for _, floor in found]), items


def _layer(
    parabola: Parabola, task: int, z: npt.NDArray[np.float32], tilt: Floats, bend: Floats
) -> tuple[GaussianPosterior, float]:
    """Posterior and prior precision of one task's layer; z, slope and curvature are of later rows."""
    wide = with_constant(z)
    usual = float(np.log10(np.square(wide).sum(1).mean() / EXPECTED**2))
    hessian = (wide * bend[:, None]).T @ wide
    slope, curvature = parabola.slope[task], parabola.curvature[task]
    found = tune_layer(tilt @ wide, hessian, slope, curvature, usual)
    eye = np.eye(len(slope))
    moved = -found.step * np.linalg.solve(curvature + found.floor * eye, slope)
    names = (*(f"direction {i}" for i in range(len(slope) - 1)), "constant")
    matrix = found.kept * curvature + found.floor * eye
    return GaussianPosterior(names, moved, FullPrecision(matrix)), found.floor


def _items(
    config: ExplorationConfig, parabola: Parabola, later: U64, tilt: Floats, bend: Floats, moment: int
) -> IdIntercepts:
    """The constants of all items of train; slope and curvature are of later rows, [n, T]."""
    tasks = tilt.shape[1]
    half_life = None if config.half_life is None else float(config.half_life)
    if not config.items:
        return IdIntercepts.empty(np.full(tasks, np.inf), half_life)
    ids, codes = np.unique(later, return_inverse=True)
    before, sums = parabola.of_items(ids), parabola.sums
    floors, mean, precision = np.empty(tasks), np.zeros((len(sums), tasks)), sums[:, tasks:].copy()
    for t in range(tasks):
        pull, stiff = (np.asarray(np.bincount(codes, x[:, t], len(ids)), float) for x in (tilt, bend))
        found = tune_items(pull, stiff, before[:, t], before[:, tasks + t])
        floors[t] = found.floor
        mean[:, t] = found.step * one_step(sums[:, t], sums[:, tasks + t], found.floor)
        precision[:, t] = found.kept * sums[:, tasks + t] + found.floor
    return IdIntercepts.empty(floors, half_life).write(parabola.items, mean, precision, moment)


def _merged(ids: U64, sums: Floats, more: U64, values: Floats) -> tuple[U64, Floats]:
    """Sums by id after further rows; ids ascending."""
    every = np.concatenate([ids, more])
    distinct, codes = np.unique(every, return_inverse=True)
    stacked = np.concatenate([sums, values])
    return distinct, np.stack([np.bincount(codes, c, len(distinct)) for c in stacked.T], axis=1)
