"""Optimisers for embedding tables that update only the rows a batch has touched.

Gradients of a row that stands several times in the batch are summed first; then the row moves once. On the
CPU a serial numba kernel does both in one pass without sorting; on other devices the same arithmetic runs
as torch operations.

These are not dense Adagrad or Adam: a row that is not in the batch keeps its value *and* its state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

from memberwise.nn.embedding import FusedEmbedding

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


class SparseOptimizer(ABC):
    """Base: collects the touched rows of every table, sums duplicates and hands them to `_update`.

    Parameters
    ----------
    tables
        The embeddings to train.
    lr : float
        Learning rate.
    decay : float
        Decoupled shrinkage of a touched row towards zero: ``w <- w - lr * decay * w``.
    rare_decay : float
        The same, divided by the number n of times that the row's value stands in train
        (`FusedEmbedding.rarity`): ``w <- w / (1 + lr * rare_decay / n)``. Over an epoch that is one penalty
        for each row, as a prior is, so that the data of a frequent one outweigh it.
    """

    def __init__(
        self, tables: Iterable[FusedEmbedding], lr: float, decay: float = 0.0, rare_decay: float = 0.0
    ) -> None:
        self.tables = list(tables)
        self.lr, self.decay, self.rare_decay = lr, decay, rare_decay
        self.steps = 0
        self.state: list[dict[str, Tensor]] = [self._new_state(t) for t in self.tables]
        self._slots = [np.full(len(t.weight), -1, np.int32) for t in self.tables]

    @abstractmethod
    def _new_state(self, table: FusedEmbedding) -> dict[str, Tensor]:
        """What is kept per row of a table, at its start."""

    @abstractmethod
    def _update(self, table: FusedEmbedding, state: dict[str, Tensor], rows: Tensor, grad: Tensor) -> None:
        """Move distinct `rows` [u] by the summed gradient `grad` [u, D]."""

    @abstractmethod
    def _update_numba(self, table: FusedEmbedding, state: dict[str, Tensor], rows: I32, grad: F32) -> None:
        """The same by a kernel, on the CPU."""

    def zero_grad(self) -> None:
        """Forget the look-ups since the last step."""
        for table in self.tables:
            table.touched.clear()

    def squared_norm(self) -> Tensor:
        """Sum of squares of the gradients of all look-ups, for clipping."""
        parts = [
            leaf.grad.square().sum() for t in self.tables for _, leaf in t.touched if leaf.grad is not None
        ]
        return torch.stack(parts).sum() if parts else torch.zeros(())

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:
        """Apply the gradients of the look-ups since the last step.

        Parameters
        ----------
        scale
            Multiplies the gradients (clipping).
        """
        self.steps += 1
        for table, state, (rows, grad) in zip(self.tables, self.state, self.summed(), strict=True):
            table.touched.clear()
            if not len(rows):
                continue
            if scale != 1.0:
                grad *= scale
            if table.weight.device.type == "cpu":
                self._update_numba(table, state, rows.numpy(), grad.numpy())
            else:
                self._update(table, state, rows.long(), grad)
            self._shrink_rare(table, rows.long())

    @torch.no_grad()
    def summed(self) -> list[tuple[Tensor, Tensor]]:
        """The distinct rows looked up since the last step, and the sums of their gradients, of every table.

        Row 0 is left out. ``[u] of int32, [u, D]``, in memory of their own.
        """
        return [self._summed(table, slots) for table, slots in zip(self.tables, self._slots, strict=True)]

    def _summed(self, table: FusedEmbedding, slots: I32) -> tuple[Tensor, Tensor]:
        pairs = [(r, leaf.grad.reshape(-1, table.dim)) for r, leaf in table.touched if leaf.grad is not None]
        device = table.weight.device
        if not pairs:
            return torch.zeros(0, dtype=torch.int32, device=device), table.weight.new_zeros(0, table.dim)
        rows = torch.cat([r for r, _ in pairs]) if len(pairs) > 1 else pairs[0][0]
        grad = torch.cat([g for _, g in pairs]) if len(pairs) > 1 else pairs[0][1]
        if device.type == "cpu":
            unique, total = sum_rows(rows.to(torch.int32).numpy(), grad.contiguous().numpy(), slots)
            return torch.from_numpy(unique), torch.from_numpy(total)
        distinct, place = torch.unique(rows, return_inverse=True)
        sums = torch.zeros(len(distinct), table.dim, device=device).index_add_(0, place, grad)
        real = distinct != 0
        return distinct[real].int(), sums[real]

    def _shrink_rare(self, table: FusedEmbedding, rows: Tensor) -> None:
        if self.rare_decay:
            factor = 1.0 / (1.0 + self.lr * self.rare_decay * table.rarity[rows])
            table.weight[rows] *= factor.unsqueeze(1)


class RowwiseAdagrad(SparseOptimizer):
    """One accumulator per row.

    ``h_r <- h_r + mean_d g_rd^2``, ``w_r <- w_r - lr * g_r / (sqrt(h_r) + eps)``

    Parameters
    ----------
    tables, lr, decay, rare_decay
        As in `SparseOptimizer`.
    eps : float
        Keeps the first step finite.

    References
    ----------
    Duchi, Hazan, Singer (2011), Adaptive subgradient methods; row-wise form as in Naumov et al. (2019),
    Deep learning recommendation model.
    """

    def __init__(
        self,
        tables: Iterable[FusedEmbedding],
        lr: float = 0.05,
        decay: float = 0.0,
        rare_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        self.eps = eps
        super().__init__(tables, lr, decay, rare_decay)

    def _new_state(self, table: FusedEmbedding) -> dict[str, Tensor]:
        return {"h": torch.zeros(len(table.weight), device=table.weight.device)}

    def _update(self, table: FusedEmbedding, state: dict[str, Tensor], rows: Tensor, grad: Tensor) -> None:
        state["h"][rows] += grad.square().mean(1)
        step = grad / (state["h"][rows].sqrt() + self.eps).unsqueeze(1)
        table.weight[rows] -= self.lr * (step + self.decay * table.weight[rows])

    def _update_numba(self, table: FusedEmbedding, state: dict[str, Tensor], rows: I32, grad: F32) -> None:
        _adagrad(
            table.weight.numpy(),
            state["h"].numpy(),
            rows,
            grad,
            np.float32(self.lr),
            np.float32(self.lr * self.decay),
            np.float32(self.eps),
        )


class LazyAdam(SparseOptimizer):
    """Adam on the touched rows.

    ``m_r <- b1 m_r + (1 - b1) g_r``, ``v_r <- b2 v_r + (1 - b2) g_r^2``,
    ``w_r <- w_r - lr * (m_r / (1 - b1^t)) / (sqrt(v_r / (1 - b2^t)) + eps)``

    with `t` the number of steps of the optimiser.

    Parameters
    ----------
    tables, lr, decay, rare_decay
        As in `SparseOptimizer`.
    betas, eps
        As in Adam.

    References
    ----------
    Kingma and Ba (2015), Adam, algorithm 1, applied lazily by row.
    """

    def __init__(
        self,
        tables: Iterable[FusedEmbedding],
        lr: float = 1e-3,
        decay: float = 0.0,
        rare_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.betas, self.eps = betas, eps
        super().__init__(tables, lr, decay, rare_decay)

    def _new_state(self, table: FusedEmbedding) -> dict[str, Tensor]:
        return {"m": torch.zeros_like(table.weight), "v": torch.zeros_like(table.weight)}

    def _update(self, table: FusedEmbedding, state: dict[str, Tensor], rows: Tensor, grad: Tensor) -> None:
        b1, b2 = self.betas
        m, v = state["m"], state["v"]
        m[rows] = b1 * m[rows] + (1 - b1) * grad
        v[rows] = b2 * v[rows] + (1 - b2) * grad.square()
        step = (m[rows] / (1 - b1**self.steps)) / ((v[rows] / (1 - b2**self.steps)).sqrt() + self.eps)
        table.weight[rows] -= self.lr * (step + self.decay * table.weight[rows])

    def _update_numba(self, table: FusedEmbedding, state: dict[str, Tensor], rows: I32, grad: F32) -> None:
        b1, b2 = self.betas
        _adam(
            table.weight.numpy(),
            state["m"].numpy(),
            state["v"].numpy(),
            rows,
            grad,
            np.float32(self.lr),
            np.float32(self.lr * self.decay),
            np.float32(b1),
            np.float32(b2),
            np.float32(1 - b1**self.steps),
            np.float32(1 - b2**self.steps),
            np.float32(self.eps),
        )


def sum_rows(rows: I32, grad: F32, slots: I32) -> tuple[I32, F32]:
    """Distinct rows in order of appearance and the sum of their gradients; row 0 is left out.

    Parameters
    ----------
    rows : ndarray of int32, [n]
    grad : ndarray of float32, [n, D]
    slots : ndarray of int32, [rows of the table]
        Scratch, -1 everywhere before and after.
    """
    unique = np.empty(len(rows), np.int32)
    summed = np.empty_like(grad)
    n = _sum_rows(rows, grad, slots, unique, summed)
    return unique[:n], summed[:n]


@njit(cache=True, nogil=True, fastmath=True)
def _sum_rows(rows: I32, grad: F32, slots: I32, unique: I32, summed: F32) -> int:
    n = 0
    width = grad.shape[1]
    for i in range(len(rows)):
        r = rows[i]
        if r == 0:
            continue
        s = slots[r]
        if s < 0:
            slots[r] = n
            unique[n] = r
            for d in range(width):
                summed[n, d] = grad[i, d]
            n += 1
        else:
            for d in range(width):
                summed[s, d] += grad[i, d]
    for s in range(n):
        slots[unique[s]] = -1
    return n


@njit(cache=True, nogil=True, fastmath=True)
def _adagrad(
    weight: F32, h: F32, rows: I32, grad: F32, lr: np.float32, shrink: np.float32, eps: np.float32
) -> None:
    width = weight.shape[1]
    for s in range(len(rows)):
        r = rows[s]
        total = np.float32(0.0)
        for d in range(width):
            total += grad[s, d] * grad[s, d]
        h[r] += total / np.float32(width)
        step = lr / (np.sqrt(h[r]) + eps)
        for d in range(width):
            weight[r, d] -= step * grad[s, d] + shrink * weight[r, d]


@njit(cache=True, nogil=True, fastmath=True)
def _adam(
    weight: F32,
    m: F32,
    v: F32,
    rows: I32,
    grad: F32,
    lr: np.float32,
    shrink: np.float32,
    b1: np.float32,
    b2: np.float32,
    c1: np.float32,
    c2: np.float32,
    eps: np.float32,
) -> None:
    one = np.float32(1.0)
    for s in range(len(rows)):
        r = rows[s]
        for d in range(weight.shape[1]):
            g = grad[s, d]
            m[r, d] = b1 * m[r, d] + (one - b1) * g
            v[r, d] = b2 * v[r, d] + (one - b2) * g * g
            step = (m[r, d] / c1) / (np.sqrt(v[r, d] / c2) + eps)
            weight[r, d] -= lr * step + shrink * weight[r, d]
