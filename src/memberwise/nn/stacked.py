"""Many small perceptrons of one shape, as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StackedMLP(nn.Module):
    """E perceptrons side by side, with the weights of a layer in one tensor.

    ``h_{e,l+1} = dropout(relu(h_{e,l} W_{e,l} + b_{e,l}))``, ``W_l: [E, d_l, d_{l+1}]``

    Parameters
    ----------
    count : int
        Number of perceptrons E.
    dim : int
        Width d of the input.
    hidden : sequence of int
        Widths of the layers; with none, the input goes out as it is.
    dropout : float
        Share of activations dropped in training.

    Notes
    -----
    ``[B, E, d] -> [B, E, out_dim]``, each on its own input, or ``[B, d] -> [B, E, out_dim]``, all on the same
    one. A layer is one matrix product (first layer, same input) or one batched product, never a loop.
    """

    def __init__(self, count: int, dim: int, hidden: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        self.count, self.dim, self.dropout = count, dim, dropout
        self.out_dim = hidden[-1] if hidden else dim
        widths = [dim, *hidden]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(count, a, b)) for a, b in zip(widths, hidden, strict=False)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(count, 1, b)) for b in hidden)
        for weight in self.weights:
            nn.init.normal_(weight, std=(2.0 / weight.shape[1]) ** 0.5)  # as in `MLP`, for each of the E

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"count={self.count}, widths={[self.dim, *(b.shape[-1] for b in self.biases)]}"

    def forward(self, x: Tensor) -> Tensor:
        """``[B, d]`` or ``[B, E, d]`` to ``[B, E, out_dim]``."""
        rows = x.shape[0]  # len() would fix it when the module is exported
        if not len(self.weights):
            return x if x.dim() == 3 else x.unsqueeze(1).expand(rows, self.count, self.dim)
        h = x.transpose(0, 1)  # [E, B, d] from here on
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if i == 0 and x.dim() == 2:
                flat = weight.transpose(0, 1).reshape(self.dim, -1)
                h = (
                    torch.addmm(bias.flatten(), x, flat)
                    .view(rows, self.count, weight.shape[2])
                    .transpose(0, 1)
                )
            else:
                h = torch.baddbmm(bias, h, weight)
            h = F.dropout(F.relu(h), self.dropout, self.training)
        return h.transpose(0, 1)
