"""Sparse optimisers against torch's own, against a plain loop, and against their other implementation."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from memberwise.nn.embedding import FusedEmbedding
from memberwise.nn.sparse import LazyAdam, RowwiseAdagrad, SparseOptimizer, sum_rows


def _table(rows: int = 7, dim: int = 3) -> FusedEmbedding:
    return FusedEmbedding({"a": rows}, dim, std=1.0, generator=torch.Generator().manual_seed(0))


def _step(table: FusedEmbedding, optimizer: SparseOptimizer, rows: Tensor, target: Tensor) -> None:
    optimizer.zero_grad()
    ((table(rows) - target) ** 2).sum().backward()
    optimizer.step()


BATCHES = [
    torch.tensor([1, 2, 2, 5]),
    torch.tensor([2, 0, 7]),
    torch.tensor([5, 5, 5, 1]),
    torch.tensor([0, 0]),
]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            lambda t: RowwiseAdagrad([t], lr=0.1, eps=1e-10),
            lambda p: torch.optim.Adagrad(p, lr=0.1, eps=1e-10),
        ),
        (lambda t: LazyAdam([t], lr=0.1), lambda p: torch.optim.SparseAdam(p, lr=0.1)),
    ],
    ids=["rowwise adagrad at width 1 is adagrad", "lazy adam is sparse adam"],
)
def test_agrees_with_torch(
    ours: Callable[[FusedEmbedding], SparseOptimizer], theirs: Callable[[list[Tensor]], torch.optim.Optimizer]
) -> None:
    table = _table(dim=1)
    twin = nn.Embedding.from_pretrained(table.weight.clone(), freeze=False, sparse=True, padding_idx=0)
    mine, other = ours(table), theirs([twin.weight])
    for rows in BATCHES:
        target = torch.arange(len(rows), dtype=torch.float32).unsqueeze(1)
        _step(table, mine, rows, target)
        with torch.sparse.check_sparse_tensor_invariants():
            other.zero_grad()
            ((twin(rows) - target) ** 2).sum().backward()
            other.step()
    torch.testing.assert_close(table.weight, twin.weight.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [RowwiseAdagrad, LazyAdam])
def test_the_kernel_and_the_torch_form_are_the_same(kind: type[SparseOptimizer]) -> None:
    a, b = _table(), _table()
    first, second = kind([a], lr=0.1, decay=0.3), kind([b], lr=0.1, decay=0.3)
    for rows in BATCHES:
        target = torch.ones(len(rows), 3)
        _step(a, first, rows, target)
        # What `step` does on a device without the kernel.
        grad = 2 * (b.weight[rows] - target)
        distinct, place = torch.unique(rows, return_inverse=True)
        total = torch.zeros(len(distinct), 3).index_add_(0, place, grad)
        real = distinct != 0
        second.steps += 1
        if bool(real.any()):
            second._update(b, second.state[0], distinct[real], total[real])
    torch.testing.assert_close(a.weight, b.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [RowwiseAdagrad, LazyAdam])
def test_rows_outside_the_batch_keep_value_and_state(kind: type[SparseOptimizer]) -> None:
    table = _table()
    optimizer = kind([table], lr=0.5, decay=0.1)
    before = table.weight.clone()
    _step(table, optimizer, torch.tensor([3, 0, 3]), torch.zeros(3, 3))
    untouched = torch.tensor([r for r in range(len(before)) if r != 3])
    assert torch.equal(table.weight[untouched], before[untouched])
    assert not torch.equal(table.weight[3], before[3])
    for value in optimizer.state[0].values():
        assert not value[untouched].any()


@given(
    rows=st.lists(st.integers(0, 20), min_size=1, max_size=60),
    width=st.integers(1, 5),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_duplicates_are_summed(rows: list[int], width: int, seed: int) -> None:
    grad = np.random.default_rng(seed).normal(size=(len(rows), width)).astype(np.float32)
    slots = np.full(21, -1, np.int32)
    unique, summed = sum_rows(np.array(rows, np.int32), grad, slots)
    assert list(unique) == list(dict.fromkeys(r for r in rows if r != 0))
    for r, total in zip(unique, summed, strict=True):
        np.testing.assert_allclose(total, grad[np.array(rows) == r].sum(0), rtol=1e-4, atol=1e-5)
    assert (slots == -1).all()


def test_several_lookups_of_one_table_make_one_step() -> None:
    together, apart = _table(), _table()
    one, two = RowwiseAdagrad([together], lr=0.1), RowwiseAdagrad([apart], lr=0.1)
    (together(torch.tensor([1, 2, 1])) * torch.tensor([[1.0], [2.0], [3.0]])).sum().backward()
    one.step()
    loss = apart(torch.tensor([1, 2])) * torch.tensor([[1.0], [2.0]])
    (loss.sum() + (apart(torch.tensor([[1]])) * 3.0).sum()).backward()
    two.step()
    torch.testing.assert_close(together.weight, apart.weight)


def test_clipping_scales_the_gradient() -> None:
    a, b = _table(), _table()
    first, second = LazyAdam([a], lr=0.1), LazyAdam([b], lr=0.1)
    a(torch.tensor([1])).sum().backward()
    first.step(scale=0.5)
    (b(torch.tensor([1])).sum() * 0.5).backward()
    second.step()
    torch.testing.assert_close(a.weight, b.weight)
    a(torch.tensor([1, 1])).sum().backward()
    assert float(first.squared_norm()) == pytest.approx(6.0)


@pytest.mark.parametrize("kind", [RowwiseAdagrad, LazyAdam])
def test_a_rare_row_is_pulled_as_often_and_as_much_as_a_frequent_one_in_a_pass(
    kind: type[SparseOptimizer],
) -> None:
    """Without a gradient only the shrinkage moves a row: (1 + lr d / n)^-n after its n touches."""
    table = _table()
    table.rarity[1], table.rarity[2] = 1 / 2, 1 / 50
    before = table.weight.clone()
    optimizer = kind([table], lr=0.1, rare_decay=3.0)
    for row, touches in ((1, 2), (2, 50), (3, 5)):
        for _ in range(touches):
            optimizer.zero_grad()
            (table(torch.tensor([row])) * 0.0).sum().backward()
            optimizer.step()
    torch.testing.assert_close(table.weight[1], before[1] * (1 + 0.3 / 2) ** -2)
    torch.testing.assert_close(table.weight[2], before[2] * (1 + 0.3 / 50) ** -50, rtol=1e-4, atol=1e-6)
    assert torch.equal(table.weight[3], before[3])  # how often it stands in train is not known
    assert torch.equal(table.weight[4:], before[4:])
