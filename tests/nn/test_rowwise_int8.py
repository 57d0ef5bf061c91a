"""Row-wise bytes: the grid of the paper, constant rows, bounds of the error, and torch's kernel as oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from memberwise.nn.embedding import FusedEmbedding
from memberwise.nn.rowwise_int8 import (
    HALVES,
    META,
    RowwiseInt8,
    compress_tables,
    gather_int8,
    pool_int8,
    quantise_rows,
)


def restored(weight: np.ndarray) -> np.ndarray:
    out = np.empty(weight.shape, np.float32)
    gather_int8(quantise_rows(weight), np.arange(len(weight), dtype=np.int32), HALVES, out)
    return out


finite = st.floats(-60, 60, width=32)


@given(arrays(np.float32, (3, 7), elements=finite))
def test_no_number_is_off_by_more_than_half_a_step_and_the_halves(weight: np.ndarray) -> None:
    span = weight.max(1, keepdims=True) - weight.min(1, keepdims=True)
    largest = np.abs(weight).max(1, keepdims=True)
    # Half a step of a scale rounded up by at most one part in 1024; the middle is off by one in 2048, which
    # moves the grid and can cost that much again at its ends; halves below 6e-8 are none.
    bound = span / 255 / 2 * 1.002 + largest / 1024 + span / 1024 + 1e-5
    assert (np.abs(restored(weight) - weight) <= bound).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, 3e-3])
def test_a_constant_row_stays_constant(value: float) -> None:
    found = restored(np.full((2, 5), value, np.float32))
    np.testing.assert_allclose(found, value, rtol=5e-4)
    assert np.ptp(found) == 0


def test_the_grid_is_that_of_the_paper() -> None:
    row = np.linspace(-1, 1, 256, dtype=np.float32)[None]
    packed = quantise_rows(row)
    np.testing.assert_array_equal(packed[0, :-META], np.arange(-128, 128))


def test_agrees_with_the_kernel_of_torch() -> None:
    """Its bytes are unsigned, its scale and offset in float32: the same numbers but for the halves."""
    weight = np.random.default_rng(0).normal(0, 0.05, (500, 64)).astype(np.float32)
    rows = torch.from_numpy(np.random.default_rng(1).integers(0, 500, 300))
    packed = torch.ops.quantized.embedding_bag_byte_prepack(torch.from_numpy(weight))
    theirs = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(packed, rows, torch.arange(0, 300, 3))
    mine = np.empty((100, 64), np.float32)
    lengths = np.full(100, 3, np.int32)
    pool_int8(quantise_rows(weight), rows.numpy().astype(np.int32), lengths, HALVES, mine)
    step = np.ptp(weight, axis=1).max() / 255
    np.testing.assert_allclose(mine, theirs.numpy(), atol=3 * 1.1 * step)


def test_no_value_is_zero_and_shapes_are_those_of_the_table() -> None:
    table = FusedEmbedding({"a": 5, "b": 3}, dim=16, std=1.0).eval()
    small = RowwiseInt8(table)
    rows = torch.tensor([[0, 1, 8], [2, 0, 3]])
    found = small(rows)
    assert found.shape == (2, 3, 16)
    assert not found[0, 0].any()
    assert torch.allclose(found, table(rows), atol=0.03)
    assert small.offsets == table.offsets


@pytest.mark.parametrize(("dim", "share"), [(64, 0.30), (16, 0.32)])
def test_sizes(dim: int, share: float) -> None:
    embeddings = torch.nn.ModuleDict({str(dim): FusedEmbedding({"a": 1000}, dim)})
    assert compress_tables(embeddings) <= share
    assert isinstance(embeddings[str(dim)], RowwiseInt8)
