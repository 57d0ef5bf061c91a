"""What a member did before, it may do again: a term for the items among its own activities."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memberwise.graph.blocks import Activities
from memberwise.graph.sage import AGE_SCALES, age_basis

GAIN = 12.0
"""Logits per unit of a parameter: a habit is worth several, but weights move in small steps."""


class Recurrence(nn.Module):
    """Bonus (or malus) of the items that a member chose before, by how long ago and how many others since.

    ``r(s, d) = 12 sum_{i: a_i = d} p_i + w . phi(t - t_i) + b_kind``

    An inner product of two embeddings can hardly say "exactly the last one"; this can, and it learns from the
    log whether members come back to an item or never do. It starts at zero.

    Parameters
    ----------
    length : int
        Places for activities.
    kinds : int
        Edge types.
    """

    def __init__(self, length: int, kinds: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(length))
        self.age = nn.Linear(1 + len(AGE_SCALES), 1, bias=False)
        self.kind = nn.Embedding(kinds, 1)
        nn.init.zeros_(self.age.weight)
        nn.init.zeros_(self.kind.weight)

    def forward(self, activities: Activities) -> Tensor:
        """The bonus of every activity of the newest ones, zero where there is none. ``[G, N]``"""
        activities = activities.newest(len(self.position))
        n = activities.nodes.shape[1]
        bonus = self.position[len(self.position) - n :] + self.age(age_basis(activities.ages)).squeeze(-1)
        bonus = bonus + self.kind(activities.kinds).squeeze(-1)
        return GAIN * bonus * activities.mask

    def matrix(self, activities: Activities, candidates: Tensor, nodes: int) -> Tensor:
        """Sum of the bonuses of every member for every candidate.

        Parameters
        ----------
        activities
            Of the members; nodes are rows of the batch.
        candidates : Tensor, [C]
            Distinct rows of the batch.
        nodes : int
            Rows of the batch.

        Returns
        -------
        Tensor, [G, C]
        """
        place = torch.full((nodes,), len(candidates), device=candidates.device)
        place[candidates.long()] = torch.arange(len(candidates), device=candidates.device)
        newest = activities.newest(len(self.position)).nodes
        column = place[newest.clamp_min(0).long()]
        total = torch.zeros(len(column), len(candidates) + 1, device=column.device)
        # What is no candidate falls into a column of its own.
        return total.scatter_add(1, column, self(activities))[:, :-1]
