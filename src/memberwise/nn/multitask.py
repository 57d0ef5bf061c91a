"""From one vector per row to one per task: what all ways share, and the two simplest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from memberwise.errors import ConfigError
from memberwise.nn.stacked import StackedMLP
from memberwise.schema import Model


class MultiTask(nn.Module):
    """Base of the layers that make a vector for each task: ``[B, d] -> [B, T, out_dim]``.

    Attributes
    ----------
    out_dim : int
        Width of a task's vector; a logit is its product with the task's own weights.
    auxiliary_loss : Tensor, scalar
        What the last batch adds to the training loss; zero where a layer asks for nothing, and outside of
        training.
    """

    out_dim: int

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary_loss = torch.zeros(())

    def __getstate__(self) -> dict[str, Any]:
        """A copy does not take the graph of the last batch along (torch could not copy it)."""
        return {**self.__dict__, "auxiliary_loss": torch.zeros(())}


class HardSharing(MultiTask):
    """All tasks see the same vector, each through its own tower.

    ``h_t = tower_t(x)``

    Parameters
    ----------
    dim : int
        Width of the input.
    tasks : int
        Number of tasks T.
    tower : sequence of int
        Widths of the towers' layers; with none, every task has the input itself.
    dropout : float
        Dropout in the towers.

    Notes
    -----
    ``[B, d] -> [B, T, out_dim]``.

    References
    ----------
    Caruana (1997), Multitask learning. LiRank (Borisyuk et al., 2024), section 3.8, baseline.
    """

    def __init__(self, dim: int, tasks: int, tower: Sequence[int] = (), dropout: float = 0.0) -> None:
        super().__init__()
        self.towers = StackedMLP(tasks, dim, tower, dropout)
        self.out_dim = self.towers.out_dim

    def forward(self, x: Tensor) -> Tensor:
        """``[B, d] -> [B, T, out_dim]``."""
        return self.towers(x)


class BlockBuilder(Protocol):
    """Config of an interaction block, whatever it is."""

    def build(self, dim: int) -> nn.Module:
        """A module ``[B, dim] -> [B, out_dim]`` with the attribute ``out_dim``."""
        ...


class Grouped(MultiTask):
    """Tasks that resemble each other share interaction blocks; groups share nothing but the input.

    ``h_t = [block_{g,1}(x) | ... | block_{g,K}(x)]`` for every task t of the group g

    Parameters
    ----------
    dim : int
        Width of the input.
    groups : sequence of sequence of int
        The tasks of each group, by number; every task stands in one group.
    blocks : sequence of config
        Built once for every group.
    stacked : bool
        Feed each block with the output of the one before instead of the input.

    Notes
    -----
    ``[B, d] -> [B, T, out_dim]``. With one task in each group this is one network per task (the heads of
    LiRank's ads model; its jobs model has a cross network per task).

    Raises
    ------
    ValueError
        If a task is missing or stands in two groups.

    References
    ----------
    LiRank, section 3.8, grouping by positive rate and meaning: nearly the gain of mixtures of experts
    without their parameters.
    """

    _group_of_task: Tensor

    def __init__(
        self,
        dim: int,
        groups: Sequence[Sequence[int]],
        blocks: Sequence[BlockBuilder],
        stacked: bool = False,
    ) -> None:
        super().__init__()
        group_of = {t: g for g, group in enumerate(groups) for t in group}
        if sorted(t for group in groups for t in group) != list(range(len(group_of))):
            raise ValueError(f"every task stands in one group, not {groups}")
        of_task = torch.tensor([group_of[t] for t in range(len(group_of))])
        self.register_buffer("_group_of_task", of_task, persistent=False)
        self.stacked = stacked
        self.towers = nn.ModuleList()
        for _ in groups:
            tower, at, total = nn.ModuleList(), dim, 0
            for block in blocks:
                tower.append(block.build(at))
                out = int(tower[-1].out_dim)  # type: ignore[arg-type]
                total += out
                at = out if stacked else dim
            self.towers.append(tower)
        self.out_dim = out if stacked else total

    def forward(self, x: Tensor) -> Tensor:
        """``[B, d] -> [B, T, out_dim]``."""
        outputs = [self._tower(tower, x) for tower in self.towers]  # type: ignore[arg-type]
        return torch.stack(outputs, 1).index_select(1, self._group_of_task)

    def _tower(self, blocks: nn.ModuleList, x: Tensor) -> Tensor:
        if self.stacked:
            for block in blocks:
                x = block(x)
            return x
        return torch.cat([block(x) for block in blocks], 1)


class HardSharingConfig(Model):
    """All tasks share everything below their towers."""

    type: Literal["shared"] = "shared"
    tower: list[int] = Field([], description="Widths of each task's own layers.")
    dropout: float = Field(0.0, ge=0, lt=1)

    def build(self, dim: int, tasks: Sequence[str]) -> HardSharing:
        """The layer for an input of width `dim` and these tasks."""
        return HardSharing(dim, len(tasks), self.tower, self.dropout)


B = TypeVar("B")


class GroupedConfig(Model, Generic[B]):
    """Groups of tasks, each with its own interaction blocks (``B``: what the registry knows as a block)."""

    type: Literal["grouped"] = "grouped"
    groups: list[list[str]] = Field(min_length=1, description="Names of the tasks, group by group.")
    blocks: list[B] = Field(min_length=1, description="Interaction blocks of every group.")
    stacked: bool = Field(False, description="Feed each block with the output of the one before instead.")

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        """The name in schemas and messages, without the list of all blocks."""
        return cls.__name__

    @model_validator(mode="after")
    def _once(self) -> GroupedConfig[B]:
        names = [name for group in self.groups for name in group]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"in more than one group: {', '.join(twice)}")
        if not all(self.groups):
            raise ValueError("a group has no task")
        return self

    def build(self, dim: int, tasks: Sequence[str]) -> Grouped:
        """The layer for an input of width `dim` and these tasks.

        Raises
        ------
        ConfigError
            If the groups do not hold the tasks of the project.
        """
        names = {name for group in self.groups for name in group}
        missing, unknown = [t for t in tasks if t not in names], sorted(names - set(tasks))
        if missing or unknown:
            parts = ["without a group: " + ", ".join(missing)] if missing else []
            parts += ["no task of the project: " + ", ".join(unknown)] if unknown else []
            raise ConfigError(
                "; ".join(parts),
                where="groups",
                fix=f"put each task into one group: {', '.join(tasks)}",
            )
        place = {name: i for i, name in enumerate(tasks)}
        blocks: list[Any] = list(self.blocks)
        return Grouped(dim, [[place[n] for n in group] for group in self.groups], blocks, self.stacked)
