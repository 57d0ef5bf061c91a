"""Multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from memberwise.schema import Model


class MLP(nn.Module):
    """``h_{l+1} = dropout(relu(norm(W_l h_l + b_l)))``.

    Parameters
    ----------
    dim : int
        Width of the input.
    hidden : sequence of int
        Widths of the layers; the last is the width of the output.
    dropout : float
        Share of activations dropped in training.
    norm : {"none", "batch", "layer"}
        Normalisation before the activation.

    Notes
    -----
    ``[B, d] -> [B, hidden[-1]]``.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int],
        dropout: float = 0.0,
        norm: Literal["none", "batch", "layer"] = "none",
    ) -> None:
        super().__init__()
        norms = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
        layers: list[nn.Module] = []
        for width in hidden:
            linear = nn.Linear(dim, width)
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
            layers.append(linear)
            if norm != "none":
                layers.append(norms[norm](width))
            layers.append(nn.ReLU())
            if dropout:
                layers.append(nn.Dropout(dropout))
            dim = width
        self.out_dim = dim
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, d] -> [B, out_dim]``."""
        return self.layers(x)


class MLPConfig(Model):
    """A multi-layer perceptron."""

    type: Literal["mlp"] = "mlp"
    hidden: list[int] = Field([256, 128], min_length=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    norm: Literal["none", "batch", "layer"] = "none"

    def build(self, dim: int) -> MLP:
        """The block for an input of width `dim`."""
        return MLP(dim, self.hidden, self.dropout, self.norm)
