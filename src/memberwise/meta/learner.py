"""The outer loop's step: the loss on the queries, and its gradient for both blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from memberwise.meta.block import Adaptation
from memberwise.meta.inner import InnerLoop, Segment, cross_entropy
from memberwise.nn.protocols import GlobalBlock


class MetaLearner(nn.Module):
    """A meta block with its inner loop, and the ranker that it makes embeddings for.

    ``L = sum_i w_i L(Q_i; theta_i^K, theta_glob) / sum_i w_i``, ``z_i = f(m_i; theta_i^K)``

    Parameters
    ----------
    world
        The global block. Its parameters get gradients from the queries alone; inner steps never move them.
    inner
        Meta block and inner loop.
    label_weights : Tensor, [Y], optional
        Weight of each label in the loss.
    weights : {"rows", "tasks"}
        ``w_i``: the size of the query, or one.

    References
    ----------
    LiMAML (Wang et al., 2024), section 3; Finn et al. (2017).
    """

    label_weights: Tensor | None

    def __init__(
        self,
        world: GlobalBlock,
        inner: InnerLoop,
        label_weights: Tensor | None = None,
        weights: Literal["rows", "tasks"] = "rows",
    ) -> None:
        super().__init__()
        self._world = [world]  # in a list: a module in it is not this module's
        self.inner, self.weights = inner, weights
        self.register_buffer("label_weights", label_weights)

    @property
    def world(self) -> GlobalBlock:
        """The global block."""
        return self._world[0]

    def forward(self, entity: Tensor, support: Segment, query: Segment) -> Tensor:
        """The outer loss; call `add_gradients` after its ``backward``.

        Parameters
        ----------
        entity : Tensor, [T, dim]
            Meta features.
        support, query
            Earlier and later rows of each entity.
        """
        if self.inner.config.variant == "reptile":
            moved = self.inner.adapt(self.world, entity, support, differentiable=False)
            self._moved: Adaptation | None = moved
            with torch.no_grad():
                z = self.inner.block.trace(entity, moved).out
        else:
            z = self.inner(self.world, entity, support)
        return self.query_loss(z, query)

    def query_loss(self, z: Tensor, query: Segment) -> Tensor:
        """Loss of the queries under given embeddings."""
        logits = self.world(z.index_select(0, query.owner), query.features)
        loss = cross_entropy(logits, query.labels)
        if query.weights is not None:
            loss = loss * query.weights
        defined = (~torch.isnan(query.labels)).to(loss.dtype)
        if self.weights == "rows":
            each = loss.sum(0) / defined.sum(0).clamp_min(1)
        else:
            count = defined.new_zeros(len(z), defined.shape[1]).index_add_(0, query.owner, defined)
            mean = loss.new_zeros(count.shape).index_add(0, query.owner, loss) / count.clamp_min(1)
            each = mean.sum(0) / (count > 0).sum(0).clamp_min(1)
        return each.sum() if self.label_weights is None else (each * self.label_weights).sum()

    def add_gradients(self) -> None:
        """For Reptile, the direction from the common block to the mean adapted one; otherwise nothing."""
        if self.inner.config.variant == "reptile" and self._moved is not None:
            for parameter, direction in reptile_directions(self.inner, self._moved):
                parameter.grad = -direction
            self._moved = None


def reptile_directions(inner: InnerLoop, moved: Adaptation) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Mean over entities of ``theta_i^K - theta``, for every parameter that moved (Nichol et al., 2018)."""
    block = inner.block
    for l in range(block.layers):
        pairs = list(zip(moved.left[l], moved.right[l], strict=True))
        if pairs:
            yield block.weights[l], torch.stack([u.t() @ v / len(u) for u, v in pairs]).sum(0)
        if (bias := moved.bias[l]) is not None:
            yield block.biases[l], bias.mean(0)
        if (gain := moved.gain[l]) is not None:
            yield block.gains[l], gain.mean(0)
        if (shift := moved.shift[l]) is not None:
            yield block.shifts[l], shift.mean(0)


@contextmanager
def frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Inside, nothing is recorded for the gradients of these parameters."""
    on = [p for p in parameters if p.requires_grad]
    for p in on:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in on:
            p.requires_grad_(True)
