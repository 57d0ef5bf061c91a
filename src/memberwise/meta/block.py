"""The meta block: entity features in, meta embedding out, and what of it an entity adapts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-5


@dataclass(frozen=True)
class Tape:
    """One pass of the block: its output, and where the gradient of every layer is to be read.

    Attributes
    ----------
    out : Tensor, [T, p]
        Meta embeddings.
    inputs : list of Tensor, [T, d_l]
        What went into the matrix of layer l.
    before : list of Tensor, [T, d_{l+1}]
        What came out of it, bias included.
    normed, after : list of Tensor, [T, d_{l+1}]
        After the normalisation of hidden layers, without and with its gain and shift.
    """

    out: Tensor
    inputs: list[Tensor]
    before: list[Tensor]
    normed: list[Tensor]
    after: list[Tensor]


@dataclass
class Adaptation:
    """How far the block of each entity has moved from the common one, without a matrix per entity.

    An entity has one feature vector, so that the gradient of a matrix is an outer product, and after k steps
    ``W_i = W + sum_k u_ik v_ik^T``: a pair of vectors a step instead of ``[d_l, d_{l+1}]`` numbers.

    Attributes
    ----------
    left, right : list over layers of list over steps of Tensor, [T, d_l] and [T, d_{l+1}]
        The outer products.
    bias, gain, shift : list over layers of Tensor, [T, d_{l+1}], or None where nothing moved
    """

    left: list[list[Tensor]]
    right: list[list[Tensor]]
    bias: list[Tensor | None]
    gain: list[Tensor | None]
    shift: list[Tensor | None]

    @classmethod
    def none(cls, layers: int) -> Adaptation:
        """No entity has moved."""
        empty: list[Tensor | None] = [None] * layers
        return cls([[] for _ in range(layers)], [[] for _ in range(layers)], [*empty], [*empty], [*empty])


class MetaBlock(nn.Module):
    """A perceptron from entity features to the meta embedding, of which every entity adapts its own copy.

    ``h_{l+1} = relu(g_l * norm(W_l h_l + b_l) + s_l)``, ``z = W_L h_L + b_L``

    Parameters
    ----------
    dim : int
        Width of the entity features; 0 makes z a constant that is adapted.
    hidden : sequence of int
        Widths of the hidden layers.
    out_dim : int
        Width p of the meta embedding.
    norm : bool
        Layer normalisation of hidden layers. There is no batch normalisation: its statistics would leak from
        one entity to another.
    seed : int
        Of the initial weights.

    Attributes
    ----------
    out_dim : int

    Notes
    -----
    ``[T, dim] -> [T, p]``. The output layer starts at zero: before training, z is zero for everyone, and a
    ranker that is given z scores as if it were not there.

    References
    ----------
    LiMAML (Wang et al., 2024), section 3: entity features enter the meta block, all others bypass it.
    """

    def __init__(
        self, dim: int, hidden: Sequence[int] = (64, 64), out_dim: int = 32, norm: bool = True, seed: int = 0
    ) -> None:
        super().__init__()
        self.dim, self.out_dim, self.norm = dim, out_dim, norm
        widths = [dim, *hidden, out_dim]
        generator = torch.Generator().manual_seed(seed)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.gains, self.shifts = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(widths):
            weight = torch.empty(fan_in, fan_out)
            nn.init.normal_(weight, std=(2.0 / max(fan_in, 1)) ** 0.5, generator=generator)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(fan_out)))
        for width in hidden if norm else ():
            self.gains.append(nn.Parameter(torch.ones(width)))
            self.shifts.append(nn.Parameter(torch.zeros(width)))
        nn.init.zeros_(self.weights[-1])

    @property
    def layers(self) -> int:
        """Matrices, the output layer included."""
        return len(self.weights)

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"widths={[self.dim, *(len(b) for b in self.biases)]}, norm={self.norm}"

    def forward(self, features: Tensor) -> Tensor:
        """The unadapted meta embedding ``z_0 = f(m; theta)``. ``[T, dim] -> [T, p]``"""
        return self.trace(features, Adaptation.none(self.layers)).out

    def trace(self, features: Tensor, moved: Adaptation, watch: bool = False) -> Tape:
        """A pass with every entity's own parameters.

        Parameters
        ----------
        features : Tensor, [T, dim]
        moved
            By how much each entity's parameters differ from the common ones.
        watch
            Make every layer's output a place where `torch.autograd.grad` can read a gradient.
        """
        h, last = features, self.layers - 1
        tape = Tape(h, [], [], [], [])
        for l in range(self.layers):
            tape.inputs.append(h)
            x = torch.addmm(self.biases[l], h, self.weights[l])
            for left, right in zip(moved.left[l], moved.right[l], strict=True):
                x = x + (h * left).sum(1, keepdim=True) * right
            x = _plus(x, moved.bias[l])
            x = _readable(x) if watch else x
            tape.before.append(x)
            if l == last:
                return Tape(x, tape.inputs, tape.before, tape.normed, tape.after)
            if self.norm:
                tape.normed.append(F.layer_norm(x, x.shape[1:], eps=EPS))
                gain, shift = _plus(self.gains[l], moved.gain[l]), _plus(self.shifts[l], moved.shift[l])
                x = gain * tape.normed[l] + shift
                x = _readable(x) if watch else x
                tape.after.append(x)
            h = F.relu(x)
        raise AssertionError("a block has an output layer")

    # -- with parameters of one's own -------------------------------------------------------------

    def stacked(self, tasks: int) -> dict[str, Tensor]:
        """The parameters once per task, ``[tasks, ...]``, as a view of the common ones."""
        return {name: p.unsqueeze(0).expand(tasks, *p.shape) for name, p in self.named_parameters()}

    def apply_stacked(self, parameters: Mapping[str, Tensor], features: Tensor) -> Tensor:
        """The block of every task on the rows of that task: one batched product a layer.

        Parameters
        ----------
        parameters
            As `stacked` returns them.
        features : Tensor, [T, N, dim]

        Returns
        -------
        Tensor, [T, N, p]
        """
        h = features
        for l in range(self.layers):
            bias = parameters[f"biases.{l}"].unsqueeze(1)
            h = torch.baddbmm(bias, h, parameters[f"weights.{l}"])
            if l == self.layers - 1:
                return h
            if self.norm:
                h = F.layer_norm(h, h.shape[-1:], eps=EPS)
                gain, shift = parameters[f"gains.{l}"], parameters[f"shifts.{l}"]
                h = h * gain.unsqueeze(1) + shift.unsqueeze(1)
            h = F.relu(h)
        raise AssertionError("a block has an output layer")


def _plus(x: Tensor, delta: Tensor | None) -> Tensor:
    return x if delta is None else x + delta


def _readable(x: Tensor) -> Tensor:
    """A tensor whose gradient can be asked for even where no parameter needs one."""
    return x if x.requires_grad else x.detach().requires_grad_()
