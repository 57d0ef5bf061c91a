"""Dense gating: hidden units that learn when to speak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from memberwise.nn.mlp import MLP
from memberwise.schema import Model


class DenseGate(nn.Module):
    """A factor between 0 and 2 for every unit, computed from all units through a bottleneck.

    ``h' = h * 2 sigma(W_2 W_1 h + b)``, ``W_1: [m, n]``, ``W_2: [n, m]``, ``m = ceil(n / reduction)``

    Parameters
    ----------
    dim : int
        Number of units n.
    reduction : int
        How much narrower the bottleneck is; a gate without one would double the cost of a square layer.

    Notes
    -----
    ``[..., n] -> [..., n]``. It starts as the identity, exactly: ``W_2`` and b begin at zero, where
    ``2 sigma(0) = 1``. It belongs on hidden layers, not on logits.

    References
    ----------
    Huang et al. (2020), GateNet, equation 8 (bit-wise hidden gate). LiRank (Borisyuk et al., 2024), section
    3.2, which found hidden layers to be the most cost-effective place.
    """

    def __init__(self, dim: int, reduction: int = 16) -> None:
        super().__init__()
        width = -(-dim // reduction)
        self.down = nn.Linear(dim, width, bias=False)
        self.up = nn.Linear(width, dim)
        nn.init.xavier_normal_(self.down.weight)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, h: Tensor) -> Tensor:
        """``[..., n] -> [..., n]``."""
        return h * (2.0 * torch.sigmoid(self.up(self.down(h))))


class GatedMLP(MLP):
    """A multi-layer perceptron with a gate behind every activation.

    ``h_{l+1} = dropout(gate_l(relu(norm(W_l h_l + b_l))))``

    Parameters
    ----------
    dim, hidden, dropout, norm
        As in `MLP`.
    reduction : int
        Of the gates, as in `DenseGate`.

    Notes
    -----
    ``[B, d] -> [B, hidden[-1]]``. At the start it computes what the same `MLP` without gates does. The
    large perceptron of LiRank is ``hidden = [3500, 3500, 3500, 3500]``: a gate adds 1/8 of its weights at
    the default reduction.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int],
        dropout: float = 0.0,
        norm: Literal["none", "batch", "layer"] = "none",
        reduction: int = 16,
    ) -> None:
        super().__init__(dim, hidden, dropout, norm)
        widths = iter(hidden)
        layers: list[nn.Module] = []
        for layer in self.layers:
            layers.append(layer)
            if isinstance(layer, nn.ReLU):
                layers.append(DenseGate(next(widths), reduction))
        self.layers = nn.Sequential(*layers)


class GatedMLPConfig(Model):
    """A multi-layer perceptron whose hidden layers are gated."""

    type: Literal["gated_mlp"] = "gated_mlp"
    hidden: list[int] = Field([256, 128], min_length=1, description="Widths; wider is the simple win.")
    dropout: float = Field(0.0, ge=0, lt=1)
    norm: Literal["none", "batch", "layer"] = "none"
    reduction: int = Field(16, ge=1, description="How much narrower than its layer a gate's bottleneck is.")

    def build(self, dim: int) -> GatedMLP:
        """The block for an input of width `dim`."""
        return GatedMLP(dim, self.hidden, self.dropout, self.norm, self.reduction)
