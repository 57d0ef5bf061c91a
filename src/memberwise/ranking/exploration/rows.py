"""Rows as the exploring head sees them: directions of the last layer, offsets, labels, items."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from memberwise.data.hashing import U64
from memberwise.errors import DataError

Floats = npt.NDArray[np.float64]


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


def with_constant(z: npt.NDArray[np.float32]) -> Floats:
    """``[n, k] -> [n, k + 1]``, in the solver's precision."""
    return np.column_stack([z.astype(np.float64), np.ones(len(z))])


def derivatives(rows: Rows) -> tuple[Floats, Floats]:
    """Slope and curvature of every row's loss in its logit, [n, T] each; zero where a task is not defined."""
    o, y = rows.offset.astype(np.float64), rows.labels.astype(np.float64)
    missing = np.isnan(y)
    w = np.where(missing, 0.0, rows.weights).astype(np.float64)
    p = expit(o)
    return w * (p - np.where(missing, 0.0, y)), w * p * (1.0 - p)


def defined(rows: Rows, task: int) -> tuple[Floats, Floats, Floats]:
    """Labels, weights and offsets of a task, [n] each; rows without a label weigh nothing."""
    labels = rows.labels[:, task].astype(np.float64)
    missing = np.isnan(labels)
    weights = np.where(missing, 0.0, rows.weights[:, task]).astype(np.float64)
    return np.where(missing, 0.0, labels), weights, rows.offset[:, task].astype(np.float64)
