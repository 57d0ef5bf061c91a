"""The inner loop: every entity's block takes K gradient steps on its own support, all entities at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memberwise.meta.block import Adaptation, MetaBlock, Tape
from memberwise.meta.config import InnerConfig
from memberwise.nn.protocols import GlobalBlock

_TINY = 1e-24  # keeps the root of a zero gradient differentiable; its norm is 1e-12 instead of 0


@dataclass(frozen=True)
class Segment:
    """Rows of several entities, one after the other, without padding.

    Attributes
    ----------
    features
        Whatever the global block takes for these R rows.
    labels : Tensor, [R, Y]
        NaN where a task is not defined.
    weights : Tensor, [R, Y], or None
    owner : Tensor of int64, [R]
        Entity of each row, not decreasing.
    """

    features: Any
    labels: Tensor
    weights: Tensor | None
    owner: Tensor


class InnerLoop(nn.Module):
    """Adapts a meta block to supports.

    ``theta_i <- theta_i - s_i alpha_l clip(grad_theta_i L(S_i; theta_i, theta_glob))``, K times, with
    ``s_i = n_i / (n_i + kappa)``.

    L is the mean over the support's defined rows, summed over labels. The global block is not adapted. Since
    an entity has one feature vector, the gradient of a matrix is an outer product and no matrix per entity is
    made (`Adaptation`): a step costs what a pass of the common block costs, whatever the number of parameters
    that it stands for.

    Parameters
    ----------
    block
        Whose parameters are the start of every entity.
    config
        Steps, step sizes, clipping, and the variant.
    positive : Tensor, [Y], optional
        Share of positives in train, for `InnerConfig.balance`.

    Attributes
    ----------
    log_rates : nn.Parameter, [layers]
        Logarithms of the step sizes alpha.
    log_shrinkage : nn.Parameter or None
        Logarithm of kappa.

    References
    ----------
    LiMAML (Wang et al., 2024), section 3; Finn et al. (2017), MAML and its first-order form; Li et al.
    (2017), Meta-SGD; Raghu et al. (2020), ANIL; Zintgraf et al. (2019), CAVIA; Nichol et al. (2018), Reptile.
    """

    positive: Tensor | None

    def __init__(self, block: MetaBlock, config: InnerConfig, positive: Tensor | None = None) -> None:
        super().__init__()
        self.block, self.config = block, config
        start = torch.full((block.layers,), config.rate, dtype=block.biases[0].dtype).log()
        self.log_rates = nn.Parameter(start, requires_grad=config.learn_rates)
        self.log_shrinkage: nn.Parameter | None = None
        if config.shrinkage > 0:
            kappa = torch.tensor(config.shrinkage, dtype=start.dtype)
            self.log_shrinkage = nn.Parameter(kappa.log(), requires_grad=config.learn_rates)
        self.register_buffer("positive", positive)

    @property
    def second_order(self) -> bool:
        """Whether the outer gradient sees through the inner steps."""
        return self.config.variant in ("limaml", "anil", "cavia")

    def forward(
        self, world: GlobalBlock, entity: Tensor, support: Segment, differentiable: bool = True
    ) -> Tensor:
        """Adapted meta embeddings.

        Parameters
        ----------
        world
            The global block; it must not draw random numbers (dropout off).
        entity : Tensor, [T, dim]
            Features of each entity.
        support
            Rows of the past of each entity.
        differentiable
            Keep the graph for the outer gradient. Without, all is first order and the result is detached.

        Returns
        -------
        Tensor, [T, p]
        """
        with torch.set_grad_enabled(differentiable):
            moved = self.adapt(world, entity, support, differentiable)
            return self.block.trace(entity, moved).out

    def adapt(
        self, world: GlobalBlock, entity: Tensor, support: Segment, differentiable: bool = True
    ) -> Adaptation:
        """The K steps; see `forward`."""
        moved = Adaptation.none(self.block.layers)
        if not len(support.owner):
            return moved
        with torch.set_grad_enabled(differentiable):
            rows, shrink = self._row_weights(support, len(entity))
        graph = differentiable and self.second_order
        for _ in range(self.config.steps):
            with torch.enable_grad():
                tape = self.block.trace(entity, moved, watch=True)
                loss = support_loss(world, tape.out, support, rows)
                spots = self._spots(tape)
                found = torch.autograd.grad(loss, list(spots.values()), create_graph=graph)
            with torch.set_grad_enabled(differentiable):
                self._step(
                    moved, tape if graph else _detached(tape), dict(zip(spots, found, strict=True)), shrink
                )
        return moved

    def _row_weights(self, support: Segment, tasks: int) -> tuple[Tensor, Tensor]:
        """What each row and label weighs in its entity's mean loss [R, Y], and the shrinkage s_i [T, 1]."""
        defined = ~torch.isnan(support.labels)
        weight = defined.to(support.labels.dtype)
        if support.weights is not None:
            weight = weight * support.weights
        if self.config.balance and self.positive is not None:
            share = self.positive.clamp(1e-3, 1 - 1e-3)
            rarity = torch.where(support.labels > 0.5, 0.5 / share, 0.5 / (1 - share))
            weight = weight * rarity**self.config.balance
        count = weight.new_zeros(tasks, weight.shape[1]).index_add_(
            0, support.owner, defined.to(weight.dtype)
        )
        n = weight.new_zeros(tasks, 1).index_add_(
            0, support.owner, defined.any(1, keepdim=True).to(weight.dtype)
        )
        shrink = n.clamp_max(1) if self.log_shrinkage is None else n / (n + self.log_shrinkage.exp())
        return weight / count.clamp_min(1).index_select(0, support.owner), shrink

    def _adapts(self, layer: int) -> bool:
        """Whether the matrix of a layer moves."""
        match self.config.variant:
            case "cavia":
                return False
            case "anil":
                return layer == self.block.layers - 1
            case _:
                return True

    def _spots(self, tape: Tape) -> dict[tuple[str, int], Tensor]:
        """Where gradients are read: behind the matrix of every adapted layer, behind every adapted gain."""
        last = self.block.layers - 1
        spots = {("before", l): tape.before[l] for l in range(last + 1) if self._adapts(l) or l == last}
        hidden = range(last) if self.block.norm else ()
        return spots | {("after", l): tape.after[l] for l in hidden if self._adapts(l)}

    def _step(
        self, moved: Adaptation, tape: Tape, grads: dict[tuple[str, int], Tensor], shrink: Tensor
    ) -> None:
        """One step of every entity: ``theta_i -= s_i alpha_l min(1, c / |g_i|) g_i``."""
        squares = [self._square(tape, spot, g) for spot, g in grads.items()]
        norm = (torch.stack(squares).sum(0) + _TINY).sqrt()
        scale = -shrink * (self.config.clip_norm / norm).clamp_max(1.0).unsqueeze(1)
        rates = self.log_rates.exp()
        for (kind, l), g in grads.items():
            change = scale * rates[l] * g
            if kind == "after":
                moved.gain[l] = _sum(moved.gain[l], change * tape.normed[l])
                moved.shift[l] = _sum(moved.shift[l], change)
                continue
            moved.bias[l] = _sum(moved.bias[l], change)
            if self._adapts(l):
                moved.left[l].append(tape.inputs[l])
                moved.right[l].append(change)

    def _square(self, tape: Tape, spot: tuple[str, int], g: Tensor) -> Tensor:
        """Squared norm of the gradient of the parameters at a spot, per entity: ``|u v^T| = |u| |v|``."""
        kind, l = spot
        square = g.square().sum(1)
        if kind == "after":
            return square + (g * tape.normed[l]).square().sum(1)
        return square * (1 + tape.inputs[l].square().sum(1)) if self._adapts(l) else square


def support_loss(world: GlobalBlock, z: Tensor, support: Segment, weights: Tensor) -> Tensor:
    """Sum over entities of their mean loss on the support.

    Parameters
    ----------
    z : Tensor, [T, p]
    weights : Tensor, [R, Y]
        Of each row and label, already divided by the entity's number of rows.
    """
    logits = world(z.index_select(0, support.owner), support.features)
    return (cross_entropy(logits, support.labels) * weights).sum()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy per row and label, 0 where the label is NaN. ``[R, Y]``"""
    defined = ~torch.isnan(labels)
    loss = F.binary_cross_entropy_with_logits(logits, torch.where(defined, labels, 0.0), reduction="none")
    return torch.where(defined, loss, 0.0)


def _sum(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b


def _detached(tape: Tape) -> Tape:
    cut: Callable[[list[Tensor]], list[Tensor]] = lambda parts: [p.detach() for p in parts]  # noqa: E731
    return Tape(tape.out.detach(), cut(tape.inputs), cut(tape.before), cut(tape.normed), cut(tape.after))
