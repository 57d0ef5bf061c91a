"""Stacked perceptrons are the same as many."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from memberwise.nn.stacked import StackedMLP


def one_by_one(net: StackedMLP, x: Tensor) -> Tensor:
    """What `net` computes, one perceptron and one layer after the other."""
    outputs = []
    for e in range(net.count):
        h = x if x.dim() == 2 else x[:, e]
        for weight, bias in zip(net.weights, net.biases, strict=True):
            h = torch.relu(h @ weight[e] + bias[e])
        outputs.append(h)
    return torch.stack(outputs, 1)


@given(
    count=st.integers(1, 4),
    dim=st.integers(1, 6),
    hidden=st.lists(st.integers(1, 5), max_size=3),
    rows=st.integers(0, 4),
    shared=st.booleans(),
)
def test_it_is_a_loop_over_perceptrons(
    count: int, dim: int, hidden: list[int], rows: int, shared: bool
) -> None:
    net = StackedMLP(count, dim, hidden)
    for bias in net.biases:
        bias.data.normal_()
    x = torch.randn(rows, dim) if shared else torch.randn(rows, count, dim)
    out = net(x)
    assert out.shape == (rows, count, net.out_dim)
    torch.testing.assert_close(out, one_by_one(net, x))


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4)])
def test_gradients(shape: tuple[int, ...]) -> None:
    net = StackedMLP(2, 4, [3, 2]).double()
    assert torch.autograd.gradcheck(net, torch.randn(shape, dtype=torch.float64, requires_grad=True))


def test_dropout_only_in_training() -> None:
    net = StackedMLP(2, 4, [64], dropout=0.5)
    net.biases[0].data.fill_(100.0)
    x = torch.randn(8, 4)
    assert (net(x) == 0).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert bool((net.eval()(x) > 0).all())
