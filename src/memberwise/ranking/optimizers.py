"""Dense and sparse optimisers under one learning-rate schedule and one clipping rule."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from memberwise.nn.sparse import LazyAdam, RowwiseAdagrad, SparseOptimizer
from memberwise.ranking.config import TrainingConfig
from memberwise.ranking.ranker import Ranker


def rate(step: int, total: int, warmup: float, schedule: str) -> float:
    """Factor of the learning rates at a step.

    It grows linearly over the first ``warmup * total`` steps, then stays (``constant``) or falls to zero on
    half a cosine (``cosine``). Long warm-up keeps cross networks from diverging (LiRank, section 4).
    """
    first = max(1, round(warmup * total))
    if step < first:
        return (step + 1) / first
    if schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - first) / max(1, total - first))))


class Optimizers:
    """What moves a ranker: Adam or Adagrad for the dense part, a sparse optimiser for the tables.

    Parameters
    ----------
    ranker
        The model.
    config
        Rates, decay, clipping.
    total_steps
        Of the whole training, for the schedule.
    """

    def __init__(self, ranker: Ranker, config: TrainingConfig, total_steps: int) -> None:
        self.config, self.total_steps = config, total_steps
        self.parameters: list[nn.Parameter] = [p for p in ranker.parameters() if p.requires_grad]
        if config.optimizer == "adam":
            fused = self.parameters[0].device.type in ("cpu", "cuda")
            self.dense: torch.optim.Optimizer = torch.optim.AdamW(
                self.parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused
            )
        else:
            self.dense = torch.optim.Adagrad(self.parameters, lr=config.lr, weight_decay=config.weight_decay)
        kind = RowwiseAdagrad if config.sparse_optimizer == "rowwise_adagrad" else LazyAdam
        self.sparse: SparseOptimizer = kind(
            ranker.sparse_tables, config.embedding_lr, config.embedding_decay, config.rare_decay
        )
        self.steps_of_tables = total_steps
        if config.embedding_epochs is not None:
            self.steps_of_tables = total_steps * config.embedding_epochs // config.epochs

    def step(self, loss: Tensor, step: int) -> float:
        """Backward and one update; returns the factor that the schedule gave."""
        factor = rate(step, self.total_steps, self.config.warmup, self.config.schedule)
        for group in self.dense.param_groups:
            group["lr"] = factor * self.config.lr
        self.sparse.lr = factor * self.config.embedding_lr
        self.dense.zero_grad(set_to_none=True)
        loss.backward()
        scale = 1.0
        if self.config.clip_norm is not None:
            grads = [p.grad for p in self.parameters if p.grad is not None]
            norms = torch.stack(torch._foreach_norm(grads))
            total = float((norms.square().sum() + self.sparse.squared_norm()).sqrt())
            scale = min(1.0, self.config.clip_norm / (total + 1e-6))
            if scale < 1.0:
                torch._foreach_mul_(grads, scale)
        self.dense.step()
        if step < self.steps_of_tables:
            self.sparse.step(scale)
        else:
            self.sparse.zero_grad()
        return factor

    # -- state, for exact resume ------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """All state of both optimisers by name."""
        out: dict[str, Tensor] = {}
        for i, p in enumerate(self.parameters):
            for key, value in self.dense.state.get(p, {}).items():
                out[f"dense.{i}.{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
        for i, state in enumerate(self.sparse.state):
            out |= {f"sparse.{i}.{key}": value for key, value in state.items()}
        return out

    def load(self, tensors: dict[str, Tensor], sparse_steps: int) -> None:
        """The inverse of `tensors`."""
        for i, p in enumerate(self.parameters):
            prefix = f"dense.{i}."
            found = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            if found:
                self.dense.state[p] = found
        for i, state in enumerate(self.sparse.state):
            for key in state:
                state[key].copy_(tensors[f"sparse.{i}.{key}"])
        self.sparse.steps = sparse_steps
