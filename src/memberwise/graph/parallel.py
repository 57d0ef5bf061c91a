"""Several processes that train one model: gradients are summed over all of them before a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from memberwise.nn.embedding import FusedEmbedding


class Team:
    """The processes of a training, or this one alone.

    Parameters
    ----------
    rank, size : int
        Which of how many; with more than one, `torch.distributed` must be initialised (torchrun does).
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._room = 0

    @classmethod
    def current(cls) -> Team:
        """The processes that `torch.distributed` knows, or this one alone."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def sum_gradients(self, parameters: Sequence[nn.Parameter], tables: Sequence[FusedEmbedding]) -> None:
        """Make every process hold the sum of all gradients: dense ones, and those of touched rows.

        All of it travels in one message: processes wait for each other once a step.
        """
        if self.size == 1:
            return
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        dense = torch.cat([g.reshape(-1) for g in grads])
        touched = [_touched(table) for table in tables]
        lengths = torch.tensor([len(rows) for rows, _ in touched], dtype=torch.int32)
        flat = [part.reshape(-1) for rows, values in touched for part in (rows.view(torch.float32), values)]
        messages = self._exchange(torch.cat([lengths.view(torch.float32), dense, *flat]))
        total = torch.stack([m[len(tables) :][: len(dense)] for m in messages]).sum(0)
        for p, part in zip(parameters, total.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)
        found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in tables]
        for message in messages:
            counts = message[: len(tables)].view(torch.int32).tolist()
            at = len(tables) + len(dense)
            for i, (table, n) in enumerate(zip(tables, counts, strict=True)):
                rows, values = message[at : at + n], message[at + n : at + n + n * table.dim]
                found[i].append((rows.view(torch.int32), values.view(n, table.dim)))
                at += n * (1 + table.dim)
        for table, parts in zip(tables, found, strict=True):
            leaf = torch.empty(sum(len(rows) for rows, _ in parts), table.dim, requires_grad=True)
            leaf.grad = torch.cat([values for _, values in parts])
            table.touched = [(torch.cat([rows for rows, _ in parts]), leaf)]

    def _exchange(self, message: Tensor) -> list[Tensor]:
        """The messages of all processes, in their order, each with something behind it.

        Messages must be equally long to travel: they are padded to what was enough so far. If it is not, all
        processes learn so from the first number of each, and send again.
        """
        while True:
            padded = torch.zeros(1 + self._room)
            padded[:1] = torch.tensor([len(message)], dtype=torch.int32).view(torch.float32)
            if len(message) <= self._room:
                padded[1 : 1 + len(message)] = message
            all_of_them = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(all_of_them, padded)
            longest = max(int(m[:1].view(torch.int32)) for m in all_of_them)
            if longest <= self._room:
                return [m[1:] for m in all_of_them]
            self._room = longest * 5 // 4

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def start_alike(self, model: nn.Module) -> None:
        """Give every process the weights of the first."""
        if self.size > 1:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, 0)


def _touched(table: FusedEmbedding) -> tuple[Tensor, Tensor]:
    """Rows of all look-ups since the last step, and their gradients. ``[n] of int32, [n, D]``"""
    pairs = [(r, leaf.grad.reshape(-1, table.dim)) for r, leaf in table.touched if leaf.grad is not None]
    if not pairs:
        return torch.zeros(0, dtype=torch.int32), torch.zeros(0, table.dim)
    return torch.cat([r.reshape(-1).int() for r, _ in pairs]), torch.cat([g for _, g in pairs])
