"""Cross networks, the perceptron, numbers and the mean history: exact answers and gradients."""

import pytest
import torch

from memberwise.nn.cross import CrossConfig, CrossNet, LowRankCrossNet
from memberwise.nn.history import MeanHistory
from memberwise.nn.mlp import MLP, MLPConfig
from memberwise.nn.numeric import NumericEmbedding


def test_a_cross_of_zero_weights_is_the_identity() -> None:
    net = CrossNet(4, 3)
    for p in net.parameters():
        p.data.zero_()
    x = torch.randn(5, 4)
    assert torch.equal(net(x), x)


def test_one_cross_by_hand() -> None:
    net = CrossNet(2, 1)
    net.layers[0].weight.data = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    net.layers[0].bias.data = torch.tensor([0.5, 0.0])
    x = torch.tensor([[3.0, 4.0]])
    assert torch.equal(net(x), torch.tensor([[3 * (3 + 8 + 0.5) + 3, 4 * -4 + 4.0]]))


def test_low_rank_equals_full_with_the_product_of_its_matrices() -> None:
    low, full = LowRankCrossNet(6, 2, 3), CrossNet(6, 2)
    for layer, down, up in zip(full.layers, low.down, low.up, strict=True):
        layer.weight.data = up.weight.data @ down.weight.data
        layer.bias.data = up.bias.data.normal_()
    x = torch.randn(7, 6)
    torch.testing.assert_close(low(x), full(x))


def test_the_output_is_a_polynomial_of_degree_layers_plus_one() -> None:
    net = CrossNet(3, 2).double()
    x = torch.randn(1, 3, dtype=torch.float64)
    for layer in net.layers:
        layer.bias.data.zero_()
    scales = torch.arange(1.0, 6.0, dtype=torch.float64).unsqueeze(1)
    values = net(scales * x)[:, 0]
    # Fourth finite difference of a cubic vanishes, the third does not.
    assert abs(torch.diff(values, n=4)[0]) < 1e-8
    assert abs(torch.diff(values, n=3)[0]) > 1e-8


@pytest.mark.parametrize("net", [CrossNet(4, 2), LowRankCrossNet(4, 2, 2), MLP(4, [5, 3])])
def test_gradients(net: torch.nn.Module) -> None:
    net = net.double()
    assert torch.autograd.gradcheck(net, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))


def test_configs_build_what_they_say() -> None:
    assert isinstance(CrossConfig(rank=None).build(8), CrossNet)
    assert isinstance(CrossConfig(rank=2).build(8), LowRankCrossNet)
    mlp = MLPConfig(hidden=[4, 2], norm="batch", dropout=0.5).build(8)
    assert mlp.out_dim == 2
    assert mlp(torch.randn(3, 8)).shape == (3, 2)


def test_numbers_scale_their_direction() -> None:
    layer = NumericEmbedding(2, 3)
    x = torch.tensor([[2.0, -1.0]])
    torch.testing.assert_close(layer(x)[0], torch.stack([2 * layer.weight[0], -layer.weight[1]]))


def test_history_mean_ignores_padding_order_and_the_candidate() -> None:
    layer = MeanHistory(2, 1)
    items, actions = torch.randn(1, 4, 2), torch.randn(1, 4, 1)
    ages = torch.tensor([[1.0, 5.0, 9.0, 0.0]])
    mask = torch.tensor([[True, True, True, False]])
    out = layer(items, actions, ages, mask, None)
    order = [2, 0, 1, 3]
    again = layer(items[:, order], actions[:, order], ages[:, order], mask, torch.ones(1, 2))
    torch.testing.assert_close(out, again)
    items[0, 3] = 1e6
    torch.testing.assert_close(layer(items, actions, ages, mask, None), out)
    assert out[0, -1].item() == pytest.approx(torch.tensor(3.0).log1p().item())


def test_history_weighs_recent_events_more() -> None:
    layer = MeanHistory(1, 1, half_life=10.0)
    items = torch.tensor([[[1.0], [0.0]]])
    out = layer(
        items, torch.zeros(1, 2, 1), torch.tensor([[0.0, 10.0]]), torch.ones(1, 2, dtype=torch.bool), None
    )
    assert out[0, 0].item() == pytest.approx(2 / 3)


def test_no_history_is_zero_and_finite() -> None:
    layer = MeanHistory(2, 2)
    out = layer(
        torch.randn(1, 3, 2),
        torch.randn(1, 3, 2),
        torch.zeros(1, 3),
        torch.zeros(1, 3, dtype=torch.bool),
        None,
    )
    assert torch.equal(out, torch.zeros(1, 5))
