"""Diagonal Fisher information of a ranker: how firmly rows have settled each weight.

The squares are those of single rows. The square of a batch's mean gradient, which an optimiser has at hand,
is too small by about the size of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from memberwise.data.batch import Batch, HistoryBatch
from memberwise.nn.embedding import FusedEmbedding
from memberwise.ranking.ranker import Ranker

F32 = npt.NDArray[np.float32]
_POSITIONS_AT_ONCE = 64
"""Rows whose gradients of a layer over a sequence are written out at the same time."""


@dataclass
class Fisher:
    """Sums of squared gradients, one number per weight.

    Attributes
    ----------
    dense : dict of Tensor
        By name of the parameter, in its shape.
    tables : dict of Tensor, [rows, D]
        By name of the embedding table.
    """

    dense: dict[str, Tensor]
    tables: dict[str, Tensor]

    @classmethod
    def zeros(cls, ranker: Ranker) -> Fisher:
        """Of no rows at all."""
        dense = {name: torch.zeros_like(p) for name, p in ranker.named_parameters()}
        return cls(dense, {name: torch.zeros_like(t.weight) for name, t in tables_of(ranker).items()})

    def scaled(self, factor: float) -> Fisher:
        """All numbers times a factor: forgetting, or a sample that stands for all rows."""
        return Fisher(*({k: v * factor for k, v in part.items()} for part in (self.dense, self.tables)))

    def plus(self, other: Fisher) -> Fisher:
        """Of the rows of both."""
        return Fisher(
            {k: v + other.dense[k] for k, v in self.dense.items()},
            {k: v + other.tables[k] for k, v in self.tables.items()},
        )

    def to_tensors(self, prefix: str) -> dict[str, Tensor]:
        """Flat names, for saving."""
        flat = {f"{prefix}.dense.{k}": v for k, v in self.dense.items()}
        return flat | {f"{prefix}.table.{k}": v for k, v in self.tables.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], prefix: str) -> Fisher:
        """The inverse of `to_tensors`."""

        def part(kind: str) -> dict[str, Tensor]:
            start = f"{prefix}.{kind}."
            return {k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)}

        return cls(part("dense"), part("table"))


def tables_of(ranker: Ranker) -> dict[str, FusedEmbedding]:
    """The embedding tables that learn, by name."""
    learn = {id(t) for t in ranker.sparse_tables}
    return {n: m for n, m in ranker.named_modules() if isinstance(m, FusedEmbedding) and id(m) in learn}


def fisher(ranker: Ranker, batches: Iterable[Batch], task_weights: Tensor) -> Fisher:
    r"""Sum over rows of the squared gradients of the logits, weighted as the loss is curved.

    .. math:: F_j = \sum_i \sum_t c_t w_{it}\, p_{it} (1 - p_{it}) (\partial z_{it} / \partial \theta_j)^2

    over the rows where task t is defined: the exact expectation over labels that the model itself would
    draw, so that no label enters. Dropout is off and batch normalisation uses its running statistics.

    Parameters
    ----------
    ranker
        The model; its weights do not change.
    batches
        Labels say where a task is defined.
    task_weights : Tensor, [T]
        ``c_t``.

    References
    ----------
    LiRank (Borisyuk et al., 2024), section 3.6: the diagonal of the Fisher information as Hessian.
    """
    was_training = ranker.training
    ranker.eval()
    total = Fisher.zeros(ranker)
    shapes: dict[_Key, torch.Size] | None = None
    try:
        for batch in batches:
            shapes = _output_shapes(ranker, batch) if shapes is None else shapes
            _add(ranker, batch, shapes, task_weights, total)
    finally:
        ranker.train(was_training)
    return total


def _add(
    ranker: Ranker, batch: Batch, shapes: Mapping[_Key, torch.Size], task_weights: Tensor, total: Fisher
) -> None:
    assert batch.labels is not None
    probes = {key: torch.zeros(shape) for key, shape in shapes.items()}
    tapped = {name for name, _ in shapes}
    linear = {n: m for n, m in ranker.named_modules() if n in tapped and isinstance(m, nn.Linear)}
    own = {id(p) for m in linear.values() for p in m.parameters()}
    rest = {n: p.detach() for n, p in ranker.named_parameters() if id(p) not in own}
    unit = torch.eye(len(task_weights))

    def of_row(row: Any) -> tuple[Tensor, list[Any], dict[_Key, Tensor]]:
        def logits(weights: dict[str, Tensor], probe: dict[_Key, Tensor]) -> tuple[Tensor, Any]:
            with _taps(ranker, probe) as inputs:
                found = functional_call(ranker, weights, (_as_batch(row),))
            return found[0], (found[0], inputs)

        # With has_aux: the result, what pulls a gradient back, and what came beside the result.
        found: Any = vjp(logits, rest, probes, has_aux=True)
        return found[2][0], [found[1](e) for e in unit], found[2][1]

    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no rule for one row at a time
        values, gradients, inputs = vmap(of_row)(_as_tree(batch))
    p = torch.sigmoid(values.detach())
    curvature = torch.where(torch.isnan(batch.labels), 0.0, p * (1 - p)) * task_weights
    if batch.weights is not None:
        curvature = curvature * batch.weights
    with torch.no_grad():
        for t, (by_weight, by_probe) in enumerate(gradients):
            scale = curvature[:, t]
            for name, g in by_weight.items():
                total.dense[name] += torch.einsum("b,b...->...", scale, g.square())
            for name, layer in linear.items():
                _add_linear(name, layer, by_probe, inputs, scale, total.dense)
            for name in total.tables.keys() & tapped:
                rows = torch.cat([i.flatten(1) for k, i in inputs.items() if k[0] == name], 1)
                flat = [g.flatten(1, -2) for k, g in by_probe.items() if k[0] == name]
                _add_rows(
                    rows.to(torch.int32).contiguous().numpy(),
                    torch.cat(flat, 1).contiguous().numpy(),
                    scale.contiguous().numpy(),
                    total.tables[name].numpy(),
                )


def _add_linear(
    name: str,
    layer: nn.Linear,
    by_probe: Mapping[_Key, Tensor],
    inputs: Mapping[_Key, Tensor],
    scale: Tensor,
    out: dict[str, Tensor],
) -> None:
    """A row's gradient of a linear layer is the outer product of what comes in and what comes back.

    With one position a row, its square is the outer product of the squares: one matrix product for all rows.
    """
    calls = [k for k in inputs if k[0] == name]
    a = torch.cat([inputs[k].reshape(len(scale), -1, layer.in_features) for k in calls], 1)
    g = torch.cat([by_probe[k].reshape(len(scale), -1, layer.out_features) for k in calls], 1)
    if layer.bias is not None:
        out[f"{name}.bias"] += scale @ g.sum(1).square()
    if a.shape[1] == 1:
        out[f"{name}.weight"] += (g[:, 0].square() * scale[:, None]).t() @ a[:, 0].square()
        return
    for rows in range(0, len(scale), _POSITIONS_AT_ONCE):
        some = slice(rows, rows + _POSITIONS_AT_ONCE)
        whole = torch.einsum("bpo,bpi->boi", g[some], a[some])
        out[f"{name}.weight"] += torch.einsum("b,boi->oi", scale[some], whole.square())


# -- taps: what goes into a layer, and the gradient of what comes out ----------------------------------

_Key = tuple[str, int]
"""Name of a module, and which of its calls within one forward pass."""


@dataclass
class _Calls:
    """Counts the calls of each module."""

    of: dict[str, int] = field(default_factory=dict)

    def next(self, name: str) -> _Key:
        number = self.of.get(name, 0)
        self.of[name] = number + 1
        return name, number


def _tapped_modules(ranker: Ranker) -> Iterator[tuple[str, nn.Module]]:
    learn = tables_of(ranker)
    for name, module in ranker.named_modules():
        if name in learn or isinstance(module, nn.Linear):
            yield name, module


@contextmanager
def _taps(ranker: Ranker, probes: Mapping[_Key, Tensor]) -> Iterator[dict[_Key, Tensor]]:
    """Inside, tapped modules note their input and add a probe (zero) to their output."""
    calls, inputs = _Calls(), {}

    def tap(name: str) -> Any:
        def hook(module: nn.Module, given: Sequence[Tensor], result: Tensor) -> Tensor:
            key = calls.next(name)
            inputs[key] = given[0]
            return result + probes[key]

        return hook

    handles = [m.register_forward_hook(tap(n)) for n, m in _tapped_modules(ranker)]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _output_shapes(ranker: Ranker, batch: Batch) -> dict[_Key, torch.Size]:
    """Shape of every tapped output, for one row."""
    calls, shapes = _Calls(), {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, given: Sequence[Tensor], result: Tensor) -> None:
            shapes[calls.next(name)] = result.shape

        return hook

    handles = [m.register_forward_hook(note(n)) for n, m in _tapped_modules(ranker)]
    try:
        ranker(_as_batch(_first(_as_tree(batch))))
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _as_tree(batch: Batch) -> dict[str, Any]:
    """The features of a batch as what torch's transforms can map over."""
    histories = {k: (h.items, h.actions, h.ages) for k, h in batch.histories.items()}
    return {"ids": batch.ids, "dense": batch.dense, "histories": histories, "vectors": dict(batch.vectors)}


def _as_batch(row: Mapping[str, Any]) -> Batch:
    """One row as a batch of its own."""
    histories = {k: HistoryBatch(*(part[None] for part in h)) for k, h in row["histories"].items()}
    vectors = {k: v[None] for k, v in row["vectors"].items()}
    return Batch(row["ids"][None], row["dense"][None], histories, vectors)


def _first(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _first(v) for k, v in tree.items()}
    return tuple(_first(v) for v in tree) if isinstance(tree, tuple) else tree[0]


@njit(cache=True, nogil=True)
def _add_rows(rows: npt.NDArray[np.int32], grad: F32, scale: F32, out: F32) -> None:
    """Square what a row of the table gets from one row of the log in all its places together."""
    places, width = rows.shape[1], grad.shape[2]
    for b in range(rows.shape[0]):
        for k in range(places):
            r = rows[b, k]
            again = r == 0  # stands for no value
            for j in range(k):
                again = again or rows[b, j] == r
            if again:
                continue
            for d in range(width):
                g = grad[b, k, d]
                for j in range(k + 1, places):
                    if rows[b, j] == r:
                        g += grad[b, j, d]
                out[r, d] += scale[b] * g * g
