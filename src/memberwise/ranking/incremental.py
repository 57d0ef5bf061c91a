"""Incremental training: learn from new rows alone, held by what earlier rows have settled.

An increment costs what its rows cost. What keeps it from forgetting is a quadratic penalty around the
weights of the cold start and around those of the increment before, each weight as stiff as its Fisher
information says.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from memberwise.data.batch import Batch
from memberwise.data.loader import Loader, Position
from memberwise.data.vocabulary import UNSEEN
from memberwise.errors import DataError
from memberwise.nn.checkpoint import load_tensors, save_tensors
from memberwise.nn.embedding import FusedEmbedding
from memberwise.nn.sparse import RowwiseAdagrad
from memberwise.ranking.fisher import Fisher, fisher, tables_of
from memberwise.ranking.optimizers import rate
from memberwise.ranking.ranker import Ranker
from memberwise.schema import Model

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
KEYS_KEPT = 1000
"""Keys of increments that are remembered; older events are refused by their time."""
_FISHER_BATCH = 512
_EPS = 1e-8
_LATE = 10_000.0
"""Step number that Adam is told, so that it takes its second moments as they are given."""


class IncrementalConfig(Model):
    """How the ranker learns from new rows between two cold starts."""

    every: int = Field(
        5, ge=1, description="Updates between two increments; their rows are learned together."
    )
    recent_rows: int = Field(
        20_000, ge=0, description="Latest rows kept, to settle effects and last layer on a changed ranker."
    )
    cold_weight: float = Field(
        0.0, ge=0, le=1, description="Share of the cold start (against the last increment) in the anchor."
    )
    penalty: float = Field(1.0, ge=0, description="Weight of the penalty; 1 is that of a posterior.")
    forgetting: float = Field(
        0.98, gt=0, le=1, description="What an increment leaves of the information of earlier rows."
    )
    floor: float = Field(1.0, ge=0, description="Information that forgetting never goes below.")
    epochs: int = Field(1, ge=1, description="Passes over the new rows.")
    batch_size: int = Field(256, ge=1)
    lr: float = Field(3e-4, gt=0, description="Of the dense part.")
    embedding_lr: float = Field(0.01, gt=0)
    fisher_rows: int = Field(1024, ge=1, description="Rows of an increment whose information is computed.")
    cold_fisher_rows: int = Field(16_384, ge=1, description="The same, of the cold start.")


@dataclass
class Memory:
    """What is kept of all rows learned so far: weights of the cold start, and how firm they are.

    Attributes
    ----------
    cold_weights : dict of Tensor
        State of the ranker after the cold start, ``w0``.
    cold : Fisher
        Of the rows of the cold start, ``H0``.
    last : Fisher
        Of everything up to the last increment, ``H_{t-1}``, forgotten a little with each.
    rows : float
        Rows behind `last`, forgotten likewise.
    applied : tuple of str
        Keys of the increments, oldest first.
    """

    cold_weights: dict[str, Tensor]
    cold: Fisher
    last: Fisher
    rows: float
    applied: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, ranker: Ranker, train: Loader, task_weights: Tensor, config: IncrementalConfig, seed: int = 0
    ) -> Memory:
        """After a cold start on the rows of a loader."""
        found = _of_sample(ranker, train, config.cold_fisher_rows, task_weights, seed)
        weights = {k: v.detach().clone() for k, v in ranker.state_dict().items()}
        return cls(weights, found, found, float(train.rows))

    def write(self, folder: Path) -> None:
        """Two files: ``cold.safetensors``, which later versions share, and ``last.safetensors``."""
        cold = {f"weights.{k}": v for k, v in self.cold_weights.items()} | self.cold.to_tensors("fisher")
        save_tensors(folder / "cold.safetensors", cold, {})
        about = {"rows": self.rows, "applied": list(self.applied)}
        save_tensors(folder / "last.safetensors", self.last.to_tensors("fisher"), about)

    @classmethod
    def read(cls, folder: Path) -> Memory:
        """The inverse of `write`."""
        cold, _ = load_tensors(folder / "cold.safetensors")
        last, about = load_tensors(folder / "last.safetensors")
        weights = {k.removeprefix("weights."): v for k, v in cold.items() if k.startswith("weights.")}
        fishers = Fisher.from_tensors(cold, "fisher"), Fisher.from_tensors(last, "fisher")
        return cls(weights, *fishers, about["rows"], tuple(about["applied"]))


def increment(
    ranker: Ranker,
    memory: Memory,
    rows: Loader,
    config: IncrementalConfig,
    task_weights: Tensor,
    key: str,
    seed: int = 0,
) -> tuple[Ranker, Memory]:
    r"""Learn from new rows; returns a new ranker and its memory, the old ones stay as they are.

    .. math:: \sum_{i \in D_t} \ell_i(w) + \tfrac{\lambda}{2} \left[ \alpha (w - w_0)' H_0 (w - w_0)
              + (1 - \alpha) (w - w_{t-1})' H_{t-1} (w - w_{t-1}) \right]

    from :math:`\alpha w_0 + (1 - \alpha) w_{t-1}`, then
    :math:`H_t = \gamma H_{t-1} + (1 - \gamma) \phi I + F(D_t)` at the new weights.

    Only rows of embedding tables that the increment looks up move or are held. One that no row has ever
    looked up starts from its table's row of unseen values. Normalisers and the running statistics of batch
    normalisation stay those of the cold start: the penalty holds the weights in that scale. Adam and Adagrad
    start with the step sizes that the Fisher information implies, not with the long steps of a new run.

    Parameters
    ----------
    ranker, memory
        As after the cold start or the increment before.
    rows
        The new rows, shuffled.
    config
        ``alpha`` is `cold_weight`, ``lambda`` is `penalty`, ``gamma`` is `forgetting`, ``phi`` is `floor`.
    task_weights : Tensor, [T]
        As in the cold start.
    key
        Names the rows.

    Raises
    ------
    DataError
        If an increment of this name was applied before, or the loss is not finite.

    References
    ----------
    LiRank (Borisyuk et al., 2024), section 3.6, equations 2 and 3.
    """
    if key in memory.applied:
        raise DataError(f"the increment {key} was applied before; each counts once", where="incremental")
    newer = copy.deepcopy(ranker)
    pull = _Pull(newer, memory, rows, config)
    dense, sparse = _optimizers(newer, memory, config)
    torch.manual_seed(seed)
    newer.train()
    for module in newer.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    step, steps = 0, config.epochs * rows.batches
    for epoch in range(config.epochs):
        for batch in rows.epoch(Position(epoch)):
            loss = _sum_loss(newer(batch), batch, task_weights) / len(batch) + newer.auxiliary_loss()
            value = float(loss.detach())
            if not np.isfinite(value):
                raise DataError(
                    f"the loss became {value}", where="incremental", fix="look for extreme weights of rows"
                )
            loss.backward()
            factor = rate(step, steps, 0.0, "cosine") if steps > 1 else 1.0
            dense.param_groups[0]["lr"], sparse.lr = factor * config.lr, factor * config.embedding_lr
            pull.step(dense, sparse, len(batch))
            step += 1
    newer.eval()
    found = _of_sample(newer, rows, config.fisher_rows, task_weights, seed)
    kept = config.forgetting
    last = _forgotten(memory.last, kept, config.floor).plus(found)
    return newer, Memory(
        memory.cold_weights,
        memory.cold,
        last,
        kept * memory.rows + rows.rows,
        (*memory.applied, key)[-KEYS_KEPT:],
    )


def _sum_loss(logits: Tensor, batch: Batch, task_weights: Tensor) -> Tensor:
    """Sum over rows and tasks: a penalty that stands for earlier rows adds to a sum, not to a mean."""
    assert batch.labels is not None
    defined = ~torch.isnan(batch.labels)
    labels = torch.where(defined, batch.labels, 0.0)
    loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    weights = defined * task_weights
    return (loss * (weights if batch.weights is None else weights * batch.weights)).sum()


def _forgotten(past: Fisher, kept: float, floor: float) -> Fisher:
    if kept == 1.0:
        return past
    less = past.scaled(kept)
    for part in (less.dense, less.tables):
        for name in part:
            # Rows that nothing has ever looked up stay without information.
            known = part[name] > 0 if part is less.tables else True
            part[name] = part[name] + (1 - kept) * floor * known
    return less


def _of_sample(ranker: Ranker, rows: Loader, most: int, task_weights: Tensor, seed: int) -> Fisher:
    """Fisher information of a sample of rows, scaled up to all of them."""
    n = rows.rows
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:most])
    pieces = (rows.batch(chosen[i : i + _FISHER_BATCH]) for i in range(0, len(chosen), _FISHER_BATCH))
    return fisher(ranker, pieces, task_weights).scaled(n / len(chosen))


# -- the penalty ---------------------------------------------------------------------------------------


class _Pull:
    """The penalty. On construction, it moves the ranker to where the increment starts."""

    def __init__(self, ranker: Ranker, memory: Memory, rows: Loader, config: IncrementalConfig) -> None:
        self.penalty, self.rows = config.penalty, rows.rows
        alpha = config.cold_weight
        self.dense: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        """Parameter, stiffness ``a H0 + (1 - a) H1``, and ``a H0 w0 + (1 - a) H1 w1``."""
        with torch.no_grad():
            for name, w in ranker.named_parameters():
                w0, h0, h1 = memory.cold_weights[name], memory.cold.dense[name], memory.last.dense[name]
                stiff = alpha * h0 + (1 - alpha) * h1
                self.dense.append((w, stiff, alpha * h0 * w0 + (1 - alpha) * h1 * w))
                w.lerp_(w0, alpha)
            self.tables = [
                self._table(name, table, count, memory, alpha)
                for (name, table), count in zip(
                    tables_of(ranker).items(), _look_ups(ranker, rows), strict=True
                )
            ]

    def _table(
        self, name: str, table: FusedEmbedding, count: Tensor, memory: Memory, alpha: float
    ) -> tuple[FusedEmbedding, Tensor, Tensor]:
        """Stiffness per look-up and centre of a table's rows; rows not looked up are left alone."""
        h0, h1 = memory.cold.tables[name], memory.last.tables[name]
        w, w0 = table.weight, memory.cold_weights[f"{name}.weight"]
        used = torch.nonzero(count).squeeze(1)
        fresh = used[(h1[used] == 0).all(1)]
        if len(fresh):
            w[fresh] = w[_unseen_row(table)[fresh]]
        known = used[(h1[used] > 0).any(1)]
        stiff, centre = torch.zeros_like(w), torch.zeros_like(w)
        a, b = alpha * h0[known], (1 - alpha) * h1[known]
        centre[known] = (a * w0[known] + b * w[known]) / (a + b).clamp_min(1e-30)
        # Each look-up of a row carries its share, so that an epoch adds up to the row's penalty.
        stiff[known] = (a + b) / count[known].unsqueeze(1)
        w[known] = torch.lerp(w[known], w0[known], alpha)
        return table, stiff, centre

    @torch.no_grad()
    def step(self, dense: torch.optim.Optimizer, sparse: RowwiseAdagrad, batch: int) -> None:
        """A step along the loss, a mean over `batch` rows, then the implicit step of the penalty.

        ``w <- (w + s c) / (1 + s)`` with centre c and s the stiffness times the step size of the weight: it
        never overshoots, however stiff the penalty is, where a gradient step would.
        """
        looked_up = [[rows for rows, _ in table.touched] for table, _, _ in self.tables]
        dense.step()
        dense.zero_grad(set_to_none=True)
        sparse.step()
        for w, stiff, pulled in self.dense:
            size = dense.state[w]["exp_avg_sq"].sqrt().add_(_EPS).reciprocal_()
            size.mul_(dense.param_groups[0]["lr"] * self.penalty / self.rows)
            w.add_(size * pulled).div_(size.mul_(stiff).add_(1.0))
        for (table, stiff, centre), state, calls in zip(self.tables, sparse.state, looked_up, strict=True):
            for rows in calls:
                _hold(
                    table.weight.numpy(), rows.to(torch.int32).numpy(), stiff.numpy(), centre.numpy(),
                    state["h"].numpy(), np.float32(sparse.lr * self.penalty / batch),
                )  # fmt: skip


@njit(cache=True, nogil=True)
def _hold(weight: F32, rows: I32, stiff: F32, centre: F32, h: F32, size: np.float32) -> None:
    """The implicit step of every look-up of a row; each carries its share of the row's penalty."""
    one = np.float32(1.0)
    for i in range(len(rows)):
        r = rows[i]
        if r == 0:
            continue
        step = size / (np.sqrt(h[r]) + np.float32(_EPS))
        for d in range(weight.shape[1]):
            s = step * stiff[r, d]
            weight[r, d] = (weight[r, d] + s * centre[r, d]) / (one + s)


def _unseen_row(table: FusedEmbedding) -> Tensor:
    """For each row of a fused table, the row of unseen values of the table it belongs to."""
    unseen = torch.zeros(len(table.weight), dtype=torch.int64)
    for name, rows in table.sizes.items():
        start = table.offsets[name]
        unseen[start : start + rows] = start + UNSEEN
    return unseen


@torch.no_grad()
def _look_ups(ranker: Ranker, rows: Loader) -> list[Tensor]:
    """How often an epoch looks up each row of each table; the row that stands for no value not at all."""
    tables = tables_of(ranker)
    counts = {name: torch.zeros(len(t.weight)) for name, t in tables.items()}

    def note(name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            counts[name] += torch.bincount(given[0].reshape(-1), minlength=len(counts[name]))

        return hook

    handles = [t.register_forward_pre_hook(note(name)) for name, t in tables.items()]
    ranker.eval()
    try:
        for batch in rows.epoch():
            ranker(batch)
    finally:
        for handle in handles:
            handle.remove()
    for count in counts.values():
        count[0] = 0.0
    return list(counts.values())


# -- optimisers that go on where the cold start left off -----------------------------------------------


def _optimizers(
    ranker: Ranker, memory: Memory, config: IncrementalConfig
) -> tuple[torch.optim.Optimizer, RowwiseAdagrad]:
    """Adam and row-wise Adagrad whose second moments are those that the Fisher information implies.

    The mean gradient of B rows has the second moment ``F / (rows B)`` near an optimum, and the gradients of
    an embedding row that were ever summed have ``F / B^2``.
    """
    named = dict(ranker.named_parameters())
    dense = torch.optim.AdamW(named.values(), lr=config.lr, weight_decay=0.0, fused=True)
    for name, p in named.items():
        moment = memory.last.dense[name] / (memory.rows * config.batch_size)
        # A weight that earlier rows hardly moved must not jump at its first gradient.
        moment = moment.clamp_min(0.1 * float(moment.mean()))
        dense.state[p] = {
            "step": torch.tensor(_LATE),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": moment,
        }
    sparse = RowwiseAdagrad(tables_of(ranker).values(), config.embedding_lr)
    for state, information in zip(sparse.state, memory.last.tables.values(), strict=True):
        state["h"].copy_(information.mean(1) / config.batch_size**2)
    return dense, sparse
