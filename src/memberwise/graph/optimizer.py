"""What moves the encoder: AdamW for the dense part, row-wise Adagrad for the id table, one step for both."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from memberwise.graph.config import GraphTrainingConfig
from memberwise.graph.model import GraphModel
from memberwise.graph.parallel import Team
from memberwise.nn.sparse import RowwiseAdagrad

BETAS = (0.9, 0.999)
"""Decay of AdamW's averages per batch."""


class GraphOptimizer:
    """Sums gradients over batches and processes, then moves.

    Gradients of `accumulate` batches are added on each process before the processes exchange anything: the
    weights of the processes never differ, and the exchange costs a fraction. A batch grows k times, processes
    included; with ``optimizer_scaling: sqrt`` the rate of the dense part becomes ``sqrt(k) lr``, and the
    decays of its averages ``beta^k``: they reach as many examples back as without.

    Parameters
    ----------
    model
        The encoder.
    config
        Rates, warm-up, clipping, accumulation.
    total_steps
        Updates until the training stops at the latest.
    team
        The processes.
    final_steps
        Updates behind them, on the newest events.

    References
    ----------
    LiGNN (Borisyuk et al., 2024), section 6.1: local gradient aggregation, 35 % less time. Malladi et al.
    (2022), On the SDEs and scaling rules for adaptive gradient algorithms: the square-root rule.
    """

    def __init__(
        self,
        model: GraphModel,
        config: GraphTrainingConfig,
        total_steps: int,
        team: Team,
        final_steps: int = 0,
    ) -> None:
        self.config, self.total_steps, self.team = config, max(1, total_steps), team
        self.final_steps = final_steps
        self.parameters: list[nn.Parameter] = [p for p in model.parameters() if p.requires_grad]
        fused = self.parameters[0].device.type in ("cpu", "cuda")
        batches = config.accumulate * team.size if config.optimizer_scaling == "sqrt" else 1
        self._scale = math.sqrt(batches)
        self.dense = torch.optim.AdamW(
            self.parameters,
            lr=config.lr,
            betas=(BETAS[0] ** batches, BETAS[1] ** batches),
            weight_decay=config.weight_decay,
            fused=fused,
        )
        self.sparse = RowwiseAdagrad(model.sparse_tables, config.embedding_lr, config.embedding_decay)
        self.gathered = 0

    def add(self, loss: Tensor) -> None:
        """Add the gradient of one batch."""
        (loss / (self.config.accumulate * self.team.size)).backward()
        self.gathered += 1

    @property
    def ready(self) -> bool:
        """Whether enough batches have been added."""
        return self.gathered >= self.config.accumulate

    def step(self, step: int) -> None:
        """Move, and begin anew."""
        own = self.sparse.squared_norm().reshape(1).float()
        squares = self.team.sum_gradients(self.parameters, self.sparse, own)
        factor = self._factor(step)
        for group in self.dense.param_groups:
            group["lr"] = self.config.lr * factor * self._scale
        self.sparse.lr = self.config.embedding_lr * factor
        grads = [p.grad for p in self.parameters if p.grad is not None]
        total = float((torch.stack(torch._foreach_norm(grads)).square().sum() + squares).sqrt())
        scale = min(1.0, self.config.clip_norm / (total + 1e-6))
        if scale < 1.0:
            torch._foreach_mul_(grads, scale)
        self.dense.step()
        self.sparse.step(scale)
        self.dense.zero_grad(set_to_none=True)
        self.gathered = 0

    def _factor(self, step: int) -> float:
        """Linear warm-up, then a linear way down to a tenth; the same way down for the final steps."""
        if step >= self.total_steps:
            return 1.0 - 0.9 * (step - self.total_steps) / max(1, self.final_steps)
        first = max(1, round(self.config.warmup * self.total_steps))
        if step < first:
            return (step + 1) / first
        return 1.0 - 0.9 * min(1.0, (step - first) / max(1, self.total_steps - first))

    def drop(self) -> None:
        """Forget what was gathered since the last step."""
        self.dense.zero_grad(set_to_none=True)
        self.sparse.zero_grad()
        self.gathered = 0

    # -- state, for exact resume ------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """All state by name."""
        out: dict[str, Tensor] = {}
        for i, p in enumerate(self.parameters):
            for key, value in self.dense.state.get(p, {}).items():
                out[f"dense.{i}.{key}"] = value
        for i, state in enumerate(self.sparse.state):
            out |= {f"sparse.{i}.{key}": value for key, value in state.items()}
        return out

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        for i, p in enumerate(self.parameters):
            prefix = f"dense.{i}."
            found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if found:
                self.dense.state[p] = found
        for i, state in enumerate(self.sparse.state):
            for key in state:
                state[key].copy_(tensors[f"sparse.{i}.{key}"])
