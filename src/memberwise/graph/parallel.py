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

    @classmethod
    def current(cls) -> Team:
        """The processes that `torch.distributed` knows, or this one alone."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def sum_gradients(self, parameters: Sequence[nn.Parameter], tables: Sequence[FusedEmbedding]) -> None:
        """Make every process hold the sum of all gradients: dense ones, and those of touched rows."""
        if self.size == 1:
            return
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat)
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)
        for table in tables:
            table.touched = [self._gathered(table)]

    def _gathered(self, table: FusedEmbedding) -> tuple[Tensor, Tensor]:
        """Touched rows of all processes and a leaf that holds their gradients."""
        pairs = [(r, leaf.grad.reshape(-1, table.dim)) for r, leaf in table.touched if leaf.grad is not None]
        rows = torch.cat([r.long() for r, _ in pairs]) if pairs else torch.zeros(0, dtype=torch.int64)
        grad = torch.cat([g for _, g in pairs]) if pairs else torch.zeros(0, table.dim)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(rows)]))
        longest = max(int(s) for s in sizes)
        # Equal lengths for all; row 0 of a table never learns.
        padded = torch.zeros(longest, dtype=torch.int64)
        padded[: len(rows)] = rows
        values = torch.zeros(longest, table.dim)
        values[: len(grad)] = grad
        all_rows = [torch.empty_like(padded) for _ in sizes]
        all_values = [torch.empty_like(values) for _ in sizes]
        dist.all_gather(all_rows, padded)
        dist.all_gather(all_values, values)
        leaf = torch.empty(self.size * longest, table.dim, requires_grad=True)
        leaf.grad = torch.cat(all_values)
        return torch.cat(all_rows).to(torch.int32), leaf

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
