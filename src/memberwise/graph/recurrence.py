"""What a member did before, it may do again: a term for the items among its own activities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from memberwise.graph.blocks import Activities
from memberwise.graph.degrees import CROWD
from memberwise.graph.sage import AGE_SCALES, age_basis

GAIN = 12.0
"""Logits per unit of a parameter: a habit is worth several, but weights move in small steps."""
FACTS = 2 * (1 + len(AGE_SCALES)) + 7 + CROWD


class Recurrence(nn.Module):
    """Bonus (or malus) of the items that a member chose before.

    ``r(s, d) = 12 (p_k + w . x / sqrt(F) + v . relu(W x + c) / sqrt(H) + b_kind)``, k: other items chosen
    since d, F facts, H hidden units

    The facts x are the ages of d's and of the member's newest activity, how often d is among the
    activities, k, what others did with d since and of late, and the habits of the member: how often it does
    the same twice in a row, how many different items it knows. An inner product of two embeddings can
    hardly say "exactly the last one"; this can, and it learns from the log whether members come back to an
    item, to which, and who does. It starts at zero. The square roots keep the steps of the bonus as small as
    those of one parameter: all weights of a sum move at once, and a short log would be learned by heart.

    Parameters
    ----------
    length : int
        Places for activities.
    kinds : int
        Edge types.
    hidden : int
        Width of the hidden layer.
    """

    def __init__(self, length: int, kinds: int, hidden: int = 16) -> None:
        super().__init__()
        self.length = length
        self.rank = nn.Parameter(torch.zeros(length))
        self.direct = nn.Linear(FACTS, 1, bias=False)
        self.up, self.down = nn.Linear(FACTS, hidden), nn.Linear(hidden, 1, bias=False)
        self.kind = nn.Embedding(kinds, 1)
        self._linear, self._bent = FACTS**-0.5, hidden**-0.5
        for weight in (self.direct.weight, self.down.weight, self.kind.weight):
            nn.init.zeros_(weight)

    def forward(self, activities: Activities) -> Tensor:
        """The bonus of the item of every activity, at its newest one; zero elsewhere. ``[G, N]``"""
        activities = activities.newest(self.length)
        items = Items.of(activities)
        kinds = activities.kinds[items.row, items.place].long()
        bonus = self.rank.index_select(0, items.since) + self.kind.weight.index_select(0, kinds).squeeze(-1)
        said = self._linear * self.direct(items.facts)
        said = said + self._bent * self.down(torch.relu(self.up(items.facts)))
        bonus = bonus + said.squeeze(-1)
        total = torch.zeros(activities.nodes.shape, device=bonus.device)
        return total.index_put((items.row, items.place), GAIN * bonus)

    def matrix(self, activities: Activities, candidates: Tensor, nodes: int) -> Tensor:
        """The bonuses of every member for every candidate.

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
        newest = activities.newest(self.length).nodes
        column = place[newest.clamp_min(0).long()]
        total = torch.zeros(len(column), len(candidates) + 1, device=column.device)
        # What is no candidate falls into a column of its own.
        return total.scatter_add(1, column, self(activities))[:, :-1]


@dataclass(frozen=True)
class Items:
    """The different items among the activities of some members.

    Attributes
    ----------
    row, place : Tensor of int64, [P]
        Member, and place of its newest activity with the item.
    since : Tensor of int64, [P]
        How many other items the member chose after it.
    facts : Tensor of float32, [P, FACTS]
        What the activities say of the item and of the member.
    """

    row: Tensor
    place: Tensor
    since: Tensor
    facts: Tensor

    @classmethod
    def of(cls, activities: Activities) -> Items:
        """Read the activities."""
        nodes, mask, ages = activities.nodes, activities.mask, activities.ages
        newest, often = runs(nodes)
        newest &= mask
        later = newest.flip(1).cumsum(1).flip(1) - newest.long()
        row, place = newest.nonzero(as_tuple=True)
        total, since, count = mask.sum(1).float(), later[row, place], often[row, place].float()
        again = ((nodes[:, 1:] == nodes[:, :-1]) & mask[:, :-1]).sum(1)
        habits = torch.stack([again / total, newest.sum(1) / total, total.log1p() / 5], 1)
        facts = [
            age_basis(ages[row, place]),
            age_basis(ages[:, -1])[row],
            torch.stack([count.log1p(), count / total[row], since.float().log1p(), (since == 0).float()], 1),
            habits[row],
            ages.new_zeros(len(row), CROWD) if activities.crowd is None else activities.crowd[row, place],
        ]
        return cls(row, place, since, torch.cat(facts, 1))


def runs(nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each value is the last of its kind in the row, and (where it is) how many there are of it.

    ``[G, N] -> [G, N] of bool, [G, N] of int64``
    """
    n = nodes.shape[1]
    ordered, order = nodes.sort(dim=1, stable=True)
    border = ordered[:, 1:] != ordered[:, :-1]
    edge = border.new_ones(len(nodes), 1)
    at = torch.arange(n, device=nodes.device)
    begin = torch.where(torch.cat([edge, border], 1), at, 0).cummax(1).values
    last = border.new_zeros(nodes.shape).scatter_(1, order, torch.cat([border, edge], 1))
    return last, torch.zeros_like(order).scatter_(1, order, at - begin + 1)
