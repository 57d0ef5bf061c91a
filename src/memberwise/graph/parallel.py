"""Several processes that train one model: gradients are summed over all of them before a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from memberwise.nn.sparse import SparseOptimizer


class Team:
    """The processes of a training, or this one alone.

    Parameters
    ----------
    rank, size : int
        Which of how many; with more than one, `torch.distributed` must be initialised (torchrun does).
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._buffers = torch.zeros(1), torch.zeros(size, 1)

    @classmethod
    def current(cls) -> Team:
        """The processes that `torch.distributed` knows, or this one alone."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def sum_gradients(
        self, parameters: Sequence[nn.Parameter], sparse: SparseOptimizer, others: Tensor
    ) -> Tensor:
        """Make every process hold the sum of all gradients: dense ones, and those of touched rows.

        All of it travels in one message, since processes wait for each other at each; a row that was looked
        up several times travels once.

        Parameters
        ----------
        parameters, sparse
            What has gradients.
        others : Tensor, [k]
            More numbers to sum.

        Returns
        -------
        Tensor, [k]
            The sum of the others.
        """
        if self.size == 1:
            return others
        tables = sparse.tables
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        touched = sparse.summed()
        lengths = torch.tensor([len(rows) for rows, _ in touched], dtype=torch.int32).view(torch.float32)
        flat = [part.view(-1) for rows, values in touched for part in (rows.view(torch.float32), values)]
        messages = self._exchange([lengths.to(others), *(g.reshape(-1) for g in grads), others, *flat])
        sizes = [p.numel() for p in parameters] + [len(others)]
        at = len(tables) + sum(sizes)
        *sums, others = messages[:, len(tables) : at].sum(0).split(sizes)
        for p, part in zip(parameters, sums, strict=True):
            p.grad = part.view_as(p)
        for table in tables:
            table.touched = []
        for message in messages:
            begin = at
            counts = message[: len(tables)].view(torch.int32).tolist()
            for table, n in zip(tables, counts, strict=True):
                rows, values = message[begin : begin + n * (1 + table.dim)].split([n, n * table.dim])
                leaf = torch.empty(n, table.dim, requires_grad=True)
                leaf.grad = values.view(n, table.dim)
                table.touched.append((rows.view(torch.int32), leaf))
                begin += n * (1 + table.dim)
        return others

    def _exchange(self, parts: Sequence[Tensor]) -> Tensor:
        """The messages of all processes, in their order, each with something behind it. ``[size, room]``

        Messages must be equally long to travel: they stand in buffers as long as was enough so far. If they
        are not, all processes learn so from the first number of each, and send again. The result holds until
        the next exchange.
        """
        length = sum(len(part) for part in parts)
        while True:
            mine, everyone = (buffer.to(parts[0]) for buffer in self._buffers)
            mine[:1] = torch.tensor([length], dtype=torch.int32).view(torch.float32)
            if length < len(mine):
                torch.cat(list(parts), out=mine[1 : 1 + length])
            dist.all_gather(list(everyone), mine)
            longest = int(everyone[:, 0].contiguous().view(torch.int32).max())
            if longest < len(mine):
                return everyone[:, 1:]
            room = 1 + longest * 5 // 4
            self._buffers = mine.new_zeros(room), mine.new_zeros(self.size, room)

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
