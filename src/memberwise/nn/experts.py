"""Mixtures of experts for several tasks: MMoE, dense and sparse, and progressive layered extraction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from memberwise.nn.multitask import MultiTask
from memberwise.nn.stacked import StackedMLP
from memberwise.schema import Model


class MMoE(MultiTask):
    """Experts that all tasks share, mixed by a gate of each task's own.

    ``f_e = expert_e(x)``, ``g_t = softmax(top_k(W_t x))``, ``h_t = tower_t(sum_e g_te f_e)``

    Parameters
    ----------
    dim : int
        Width of the input.
    tasks : int
        Number of tasks T.
    experts : int
        Number of experts E.
    hidden : sequence of int
        Widths of an expert's layers.
    top_k : int, optional
        Experts that a gate lets through; all without. Gates are minus infinity outside of them, before the
        softmax: the others have weight zero, exactly, and no gradient from this row.
    balance : float
        Weight of the load-balance loss of a sparse mixture.
    tower : sequence of int
        Widths of each task's own layers.
    dropout : float
        Dropout in experts and towers.

    Attributes
    ----------
    auxiliary_loss : Tensor, scalar
        In training with `top_k`: ``balance * E / k * sum_e share_e * p_e``, where ``share_e`` is the share of
        rows and tasks that let e through and ``p_e`` its mean gate before the cut. It is `balance` where all
        experts are used equally, which is about the least, and up to ``E / k`` times that where k experts
        get everything. Shares are taken over all tasks together, so that an expert may serve one task alone.

    Notes
    -----
    ``[B, d] -> [B, T, out_dim]``. Every expert is computed for every row: with a few tasks nearly all are
    asked by some task, so that `top_k` is there to specialise them and not to save time.

    Raises
    ------
    ValueError
        If `top_k` is more than there are experts.

    References
    ----------
    Ma et al. (2018), Multi-gate mixture-of-experts, equations 6 to 8. Fedus et al. (2022), Switch
    transformers, equations 4 to 6 (load balance). LiRank (Borisyuk et al., 2024), section 3.8 and table 6.
    """

    def __init__(
        self,
        dim: int,
        tasks: int,
        experts: int,
        hidden: Sequence[int],
        top_k: int | None = None,
        balance: float = 1e-2,
        tower: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if top_k is not None and not 0 < top_k <= experts:
            raise ValueError(f"top_k ({top_k}) must lie between 1 and the number of experts ({experts})")
        self.tasks, self.top_k, self.balance = tasks, top_k, balance
        self.experts = StackedMLP(experts, dim, hidden, dropout)
        self.gate = nn.Linear(dim, tasks * experts, bias=False)
        nn.init.normal_(self.gate.weight, std=0.01)
        self.towers = StackedMLP(tasks, self.experts.out_dim, tower, dropout)
        self.out_dim = self.towers.out_dim

    def gates(self, x: Tensor) -> Tensor:
        """Weight of every expert for every task. ``[B, d] -> [B, T, E]``."""
        logits = self.gate(x).view(x.shape[0], self.tasks, -1)
        self.auxiliary_loss = logits.new_zeros(())
        if self.top_k is None:
            return logits.softmax(-1)
        best, place = logits.topk(self.top_k, -1)
        if self.training:
            self.auxiliary_loss = self.balance * load_imbalance(logits, place)
        return torch.full_like(logits, -math.inf).scatter(-1, place, best).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, d] -> [B, T, out_dim]``."""
        return self.towers(torch.bmm(self.gates(x), self.experts(x)))


def load_imbalance(logits: Tensor, chosen: Tensor) -> Tensor:
    """``E / k sum_e share_e p_e``: 1 if all experts are used equally, E / k if k of them get everything.

    Parameters
    ----------
    logits : Tensor, [B, T, E]
    chosen : Tensor of int64, [B, T, k]
        The experts that were let through.
    """
    experts, k = logits.shape[-1], chosen.shape[-1]
    share = torch.bincount(chosen.flatten(), minlength=experts) / max(1, chosen.numel() // k)
    return experts / k * (share * logits.softmax(-1).flatten(0, -2).mean(0)).sum()


class PLE(MultiTask):
    """Progressive layered extraction: experts of each task's own beside shared ones, in levels.

    At each level, with its input ``z_t`` of a task and ``z_s`` of the shared part (the input x at first):

    ``E_t = experts_t(z_t)``, ``E_s = experts_s(z_s)``

    ``z_t' = sum_j softmax(W_t z_t)_j [E_t | E_s]_j``

    ``z_s' = sum_j softmax(W_s z_s)_j [E_1 | ... | E_T | E_s]_j``

    and ``h_t = tower_t(z_t)`` behind the last. With one level this is customised gate control (CGC), which
    needs no ``z_s'``.

    Parameters
    ----------
    dim : int
        Width of the input.
    tasks : int
        Number of tasks T.
    own, shared : int
        Experts of each task, and experts of all.
    hidden : sequence of int
        Widths of an expert's layers, at every level.
    levels : int
        Number of levels.
    tower : sequence of int
        Widths of each task's own layers.
    dropout : float
        Dropout in experts and towers.

    Notes
    -----
    ``[B, d] -> [B, T, out_dim]``. A task's experts never learn from another task at the last level, which
    keeps tasks that disagree apart. Costs 3 to 10 times the parameters of hard sharing.

    References
    ----------
    Tang et al. (2020), Progressive layered extraction, equations 1 to 7. LiRank, section 3.8.
    """

    def __init__(
        self,
        dim: int,
        tasks: int,
        own: int,
        shared: int,
        hidden: Sequence[int],
        levels: int = 1,
        tower: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for level in range(levels):
            last = level == levels - 1
            self.levels.append(ExtractionLevel(dim, tasks, own, shared, hidden, not last, dropout))
            dim = hidden[-1]
        self.towers = StackedMLP(tasks, dim, tower, dropout)
        self.out_dim = self.towers.out_dim

    def forward(self, x: Tensor) -> Tensor:
        """``[B, d] -> [B, T, out_dim]``."""
        z = x
        for level in self.levels:
            z = level(z)
        return self.towers(z)


class ExtractionLevel(nn.Module):
    """One level of `PLE`.

    ``[B, d]`` (the first) or ``[B, T + 1, d]``, the shared part last, to ``[B, T + 1, out]``, or to
    ``[B, T, out]`` where the shared part does not go on.
    """

    _part: Tensor

    def __init__(
        self,
        dim: int,
        tasks: int,
        own: int,
        shared: int,
        hidden: Sequence[int],
        goes_on: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.tasks, self.own, self.shared, self.goes_on = tasks, own, shared, goes_on
        count = tasks * own + shared
        part = [t for t in range(tasks) for _ in range(own)] + [tasks] * shared
        self.register_buffer("_part", torch.tensor(part), persistent=False)
        self.experts = StackedMLP(count, dim, hidden, dropout)
        """Those of task 1, of task 2, ..., and the shared ones."""
        self.gate = nn.Parameter(torch.empty(tasks, dim, own + shared).normal_(std=0.01))
        self.shared_gate = nn.Linear(dim, count, bias=False) if goes_on else None
        if self.shared_gate is not None:
            nn.init.normal_(self.shared_gate.weight, std=0.01)

    def forward(self, z: Tensor) -> Tensor:
        """``[B, d]`` or ``[B, T + 1, d]`` to ``[B, T + 1, out]`` or ``[B, T, out]``."""
        rows, first = len(z), z.dim() == 2
        part = z.unsqueeze(1).expand(rows, self.tasks + 1, -1) if first else z
        f = self.experts(z if first else part.index_select(1, self._part))
        own, shared = f.split([self.tasks * self.own, self.shared], 1)
        logits = torch.bmm(part[:, : self.tasks].transpose(0, 1), self.gate)  # [T, B, own + shared]
        g_own, g_shared = logits.softmax(-1).transpose(0, 1).split([self.own, self.shared], -1)
        own = own.reshape(rows, self.tasks, self.own, -1)
        mixed = (g_own.unsqueeze(-1) * own).sum(2) + torch.bmm(g_shared, shared)
        if self.shared_gate is None:
            return mixed
        g = self.shared_gate(part[:, self.tasks]).softmax(-1)
        return torch.cat([mixed, torch.bmm(g.unsqueeze(1), f)], 1)


class MMoEConfig(Model):
    """Shared experts, mixed by each task's own gate."""

    type: Literal["mmoe"] = "mmoe"
    experts: int = Field(8, ge=1)
    hidden: list[int] = Field([64], min_length=1, description="Widths of an expert's layers.")
    top_k: int | None = Field(None, ge=1, description="Experts that a gate lets through; null for all.")
    balance: float = Field(1e-2, ge=0, description="Weight of the load-balance loss with top_k.")
    tower: list[int] = Field([], description="Widths of each task's own layers.")
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _enough(self) -> MMoEConfig:
        if self.top_k is not None and self.top_k > self.experts:
            raise ValueError(f"top_k ({self.top_k}) is more than there are experts ({self.experts})")
        return self

    def build(self, dim: int, tasks: Sequence[str]) -> MMoE:
        """The layer for an input of width `dim` and these tasks."""
        return MMoE(
            dim,
            len(tasks),
            self.experts,
            self.hidden,
            top_k=self.top_k,
            balance=self.balance,
            tower=self.tower,
            dropout=self.dropout,
        )


class PLEConfig(Model):
    """Experts of each task's own beside shared ones."""

    type: Literal["ple"] = "ple"
    own: int = Field(1, ge=1, description="Experts of each task.")
    shared: int = Field(2, ge=1, description="Experts of all tasks.")
    hidden: list[int] = Field([64], min_length=1, description="Widths of an expert's layers.")
    levels: int = Field(1, ge=1, le=4)
    tower: list[int] = Field([], description="Widths of each task's own layers.")
    dropout: float = Field(0.0, ge=0, lt=1)

    def build(self, dim: int, tasks: Sequence[str]) -> PLE:
        """The layer for an input of width `dim` and these tasks."""
        return PLE(
            dim,
            len(tasks),
            self.own,
            self.shared,
            self.hidden,
            levels=self.levels,
            tower=self.tower,
            dropout=self.dropout,
        )
