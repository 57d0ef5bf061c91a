"""Piecewise linear curves of numbers: exact answers, a twin, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memberwise.nn.numeric import PiecewiseConfig, PiecewiseLinear

values = st.lists(st.sampled_from([-2.0, 0.0, 0.0, 0.5, 1.0, 7.0]), min_size=1, max_size=30)


def fitted(rows: torch.Tensor, bins: int = 4, dim: int = 3) -> PiecewiseLinear:
    layer = PiecewiseLinear(rows.shape[1], bins, dim)
    layer.fit(rows)
    return layer


def test_the_way_through_each_piece_by_hand() -> None:
    layer = fitted(torch.tensor([[0.0], [1.0], [3.0], [4.0], [8.0]]))
    x = torch.tensor([[0.0], [2.0], [3.0], [6.0], [8.0], [99.0], [-99.0]])
    expected = [[0, 0, 0, 0], [1, 0.5, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0.5], [1] * 4, [1] * 4, [0] * 4]
    torch.testing.assert_close(layer.encode(x)[:, 0], torch.tensor(expected, dtype=torch.float32))


@given(train=values, x=st.floats(-3, 9), bins=st.integers(2, 9))
def test_agrees_with_interpolation_between_quantiles(train: list[float], x: float, bins: int) -> None:
    layer = fitted(torch.tensor(train).unsqueeze(1), bins)
    place = np.round(np.linspace(0, 1, bins + 1) * (len(train) - 1)).astype(int)
    bends = np.unique(np.sort(train)[place])
    total = float(layer.encode(torch.tensor([[x]])).sum())
    expected = np.interp(x, bends, np.arange(len(bends))) if len(bends) > 1 else 0.0
    assert total == pytest.approx(expected, abs=1e-4)


def test_a_column_that_never_varies_says_nothing() -> None:
    layer = fitted(torch.full((20, 1), 5.0))
    assert torch.equal(layer(torch.tensor([[5.0]])), layer(torch.tensor([[-7.0]])))


def test_before_fit_every_curve_is_flat() -> None:
    layer = PiecewiseLinear(2)
    assert torch.equal(layer(torch.randn(1, 2)), layer(torch.randn(1, 2)))


def test_columns_do_not_meet() -> None:
    layer = fitted(torch.randn(200, 3), bins=5, dim=4)
    x = torch.randn(6, 3)
    changed = x.clone()
    changed[:, 1] += 0.5
    before, after = (layer(v).view(6, 3, 4) for v in (x, changed))
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
    assert not torch.equal(before[:, 1], after[:, 1])


def test_the_bends_are_saved_with_the_weights() -> None:
    layer, other = fitted(torch.randn(50, 2)), PiecewiseLinear(2, 4, 3)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(5, 2)
    assert torch.equal(layer(x), other(x))


def test_gradients() -> None:
    layer = fitted(torch.randn(40, 2)).double()
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_a_step_that_a_line_cannot_follow_is_learned() -> None:
    """A bump: the middle third is positive. A weight per number says nothing about it."""
    torch.manual_seed(0)
    x = torch.rand(2000, 1)
    y = ((x > 1 / 3) & (x < 2 / 3)).float()
    layer = PiecewiseConfig(bins=12, dim=8).build(1)
    layer.fit(x)
    head = torch.nn.Linear(layer.out_dim, 1)
    optimiser = torch.optim.Adam([*layer.parameters(), *head.parameters()], 0.05)
    for _ in range(200):
        optimiser.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(layer(x)), y)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.15  # a constant has 0.636
