"""Embedding tables of one width, fused into one matrix, whose gradients touch only the rows in the batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class FusedEmbedding(nn.Module):
    """Several embedding tables as one matrix with offsets.

    A look-up gathers all fields of a batch at once, ``E = W[rows]``, outside of autograd: the result is a
    leaf whose gradient a sparse optimiser (`memberwise.nn.sparse`) applies to the touched rows alone, so
    that a step costs what the batch touches and not what the vocabulary holds.

    Row 0 of the matrix stands for "no value": it is zero and never learns.

    Parameters
    ----------
    sizes : dict of str to int
        Rows of each table.
    dim : int
        Width D of all of them.
    std : float
        Standard deviation of the initial values.
    generator : torch.Generator, optional
        Source of the initial values.

    Attributes
    ----------
    weight : Tensor, [1 + sum of rows, D]
        A buffer, not a parameter: dense optimisers must not sweep over it.
    offsets : dict of str to int
        Row of the matrix where each table begins.
    """

    weight: Tensor
    rarity: Tensor

    def __init__(
        self, sizes: Mapping[str, int], dim: int, std: float = 0.01, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.sizes, self.dim = dict(sizes), dim
        self.offsets: dict[str, int] = {}
        at = 1
        for name, rows in self.sizes.items():
            self.offsets[name] = at
            at += rows
        weight = torch.empty(at, dim)
        nn.init.normal_(weight, std=std, generator=generator)
        weight[0] = 0.0
        self.register_buffer("weight", weight)
        self.register_buffer("rarity", torch.zeros(at), persistent=False)
        """One over how often a row's value stands in train; zero where that is not known."""
        self.touched: list[tuple[Tensor, Tensor]] = []
        """Rows and leaf tensors of the look-ups since the last step, for the sparse optimiser."""

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"rows={len(self.weight):,}, dim={self.dim}, tables={len(self.sizes)}"

    def forward(self, rows: Tensor) -> Tensor:
        """Look up rows of the matrix.

        Parameters
        ----------
        rows : Tensor of int32 or int64, any shape [...]
            Rows of the fused matrix (table row plus the table's offset); 0 for no value.

        Returns
        -------
        Tensor of float32, [..., D]
            In training, a leaf that collects the gradient.
        """
        flat = rows.reshape(-1)
        with torch.no_grad():
            out = self.weight.index_select(0, flat)
        if self.training and torch.is_grad_enabled():
            out.requires_grad_()
            self.touched.append((flat, out))
        return out.view(*rows.shape, self.dim)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the places that hold a value; zero where none does.

    ``out = sum_l m_l v_l / max(1, sum_l m_l)``

    Parameters
    ----------
    values : Tensor, [B, L, D]
    mask : Tensor of bool, [B, L]

    Returns
    -------
    Tensor, [B, D]
    """
    weight = mask.to(values.dtype)
    weight = weight / weight.sum(1, keepdim=True).clamp_min(1.0)
    return torch.bmm(weight.unsqueeze(1), values).squeeze(1)
