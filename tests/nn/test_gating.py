"""Gates: the identity at first, then what a perceptron of the same size cannot learn as well."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from memberwise.nn.gating import DenseGate, GatedMLP, GatedMLPConfig
from memberwise.nn.mlp import MLP


def test_a_new_gate_is_exactly_the_identity() -> None:
    h = torch.randn(5, 33)
    assert torch.equal(DenseGate(33)(h), h)


def test_a_gate_by_hand() -> None:
    gate = DenseGate(2, reduction=2)
    gate.down.weight.data = torch.tensor([[1.0, -1.0]])
    gate.up.weight.data = torch.tensor([[2.0], [0.0]])
    gate.up.bias.data = torch.tensor([0.0, 1.0])
    out = gate(torch.tensor([[3.0, 1.0]]))
    torch.testing.assert_close(
        out, 2 * torch.sigmoid(torch.tensor([[4.0, 1.0]])) * torch.tensor([[3.0, 1.0]])
    )


def test_a_gate_keeps_signs_and_never_more_than_doubles() -> None:
    gate = DenseGate(8)
    for p in gate.parameters():
        p.data.normal_(std=3.0)
    h = torch.randn(50, 8)
    ratio = gate(h) / h
    assert bool(((ratio >= 0) & (ratio <= 2)).all())


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_it_starts_as_the_same_perceptron_without_gates(norm: str) -> None:
    torch.manual_seed(3)
    plain = MLP(6, [8, 4], norm=norm)
    torch.manual_seed(3)
    gated = GatedMLP(6, [8, 4], norm=norm)
    x = torch.randn(7, 6)
    assert torch.equal(gated(x), plain(x))


def test_every_hidden_layer_has_its_gate_between_activation_and_dropout() -> None:
    names = [type(m).__name__ for m in GatedMLP(6, [8, 4], dropout=0.1, norm="layer").layers]
    assert names == ["Linear", "LayerNorm", "ReLU", "DenseGate", "Dropout"] * 2


def test_gates_cost_an_eighth_of_a_square_layer() -> None:
    plain = sum(p.numel() for p in MLP(320, [320] * 4).parameters())
    gated = sum(p.numel() for p in GatedMLP(320, [320] * 4).parameters())
    assert gated / plain == pytest.approx(1.125, abs=0.01)


def test_gradients_reach_everything() -> None:
    net = GatedMLP(4, [6, 3], reduction=2).double()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    for gate in net.modules():
        if isinstance(gate, DenseGate):
            gate.up.weight.data.normal_()
            gate.up.bias.data.normal_()
    assert torch.autograd.gradcheck(net, x)
    net(x).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters())


def test_a_closed_start_still_learns() -> None:
    # W_2 = 0 stops the gradient of W_1 for one step only.
    torch.manual_seed(0)
    net = GatedMLP(4, [8])
    before = net.layers[2].down.weight.clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        net(torch.randn(16, 4)).square().sum().backward()
        optimizer.step()
    assert not torch.equal(net.layers[2].down.weight, before)


@given(
    batch=st.integers(1, 5),
    dim=st.integers(1, 40),
    hidden=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    reduction=st.integers(1, 50),
)
def test_shapes(batch: int, dim: int, hidden: list[int], reduction: int) -> None:
    net = GatedMLPConfig(hidden=hidden, reduction=reduction).build(dim)
    assert net.out_dim == hidden[-1]
    assert net(torch.randn(batch, dim)).shape == (batch, net.out_dim)


def test_gates_learn_products_that_units_alone_do_not() -> None:
    def loss(net: nn.Module) -> float:
        torch.manual_seed(0)
        head = nn.Linear(8, 1)
        x = torch.randn(256, 4)
        y = x[:, 0] * x[:, 1]
        optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=0.03)
        for _ in range(120):
            value = (head(net(x)).squeeze(1) - y).square().mean()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        return value.item()

    torch.manual_seed(1)
    assert loss(GatedMLP(4, [8], reduction=2)) < 0.5 * loss(MLP(4, [8]))
