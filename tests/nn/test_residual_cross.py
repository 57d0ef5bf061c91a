"""Residual DCN: what it degenerates to, where attention stops, and a cross that only attention makes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from memberwise.nn.cross import LowRankCrossNet
from memberwise.nn.residual_cross import (
    MAX_TEMPERATURE,
    AttentionCross,
    AttentionCrossConfig,
    AttentionCrossNet,
    ResidualCrossConfig,
    ResidualCrossNet,
)


def _twin(net: AttentionCrossNet, dim: int, rank: int) -> LowRankCrossNet:
    """A plain cross network with the value and output maps of `net`."""
    twin = LowRankCrossNet(dim, len(net.layers), rank)
    for layer, down, up in zip(net.layers, twin.down, twin.up, strict=True):
        down.weight.data = layer.down.weight.data[2 * rank :].clone()
        up.load_state_dict(layer.up.state_dict())
    return twin


@pytest.mark.parametrize("token", [1, 2, 6])
def test_with_identity_scores_and_no_skip_it_is_the_low_rank_cross(
    token: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = AttentionCrossNet(8, layers=2, rank=6, token=token, skip=False)
    monkeypatch.setattr(AttentionCross, "attend", lambda self, q, k, v: torch.eye(q.shape[1]) @ v)
    for layer in net.layers:
        layer.up.bias.data.normal_()
    x = torch.randn(5, 8)
    torch.testing.assert_close(net(x), _twin(net, 8, 6)(x))


def test_one_token_can_only_attend_to_itself() -> None:
    net = AttentionCrossNet(8, layers=2, rank=4, token=4, skip=False)
    x = torch.randn(5, 8)
    torch.testing.assert_close(net(x), _twin(net, 8, 4)(x))


@pytest.mark.parametrize("skip", [True, False])
def test_a_layer_follows_its_equation(skip: bool) -> None:
    layer = AttentionCross(5, rank=6, token=2, skip=skip)
    layer.log_temperature.data.fill_(0.7)
    x0, x = torch.randn(4, 5), torch.randn(4, 5)
    out = layer(x0, x)
    for i in range(4):
        q, k, v = (layer.down.weight.detach() @ x[i]).view(3, 3, 2)
        a = torch.softmax(q @ k.T / (math.sqrt(2) * layer.temperature.detach()), -1)
        h = a @ v + (v if skip else 0)
        torch.testing.assert_close(out[i], x0[i] * layer.up(h.reshape(-1)) + x[i])


@pytest.mark.parametrize("net", [AttentionCrossNet(6, 2, 4, 2), ResidualCrossNet(6, 2, 4, 2)])
def test_rows_do_not_see_each_other(net: nn.Module) -> None:
    x = torch.randn(7, 6, requires_grad=True)
    out = net(x)
    (grad,) = torch.autograd.grad(out[3].sum(), x)
    assert grad[3].abs().sum() > 0
    assert torch.equal(grad[[0, 1, 2, 4, 5, 6]], torch.zeros(6, 6))
    torch.testing.assert_close(net(x[3:4]), out[3:4])
    order = torch.randperm(7)
    torch.testing.assert_close(net(x[order]), out[order])


@pytest.mark.parametrize(
    "net",
    [
        AttentionCrossNet(4, 2, rank=4, token=2),
        AttentionCrossNet(4, 1, rank=3, token=1, skip=False),
        ResidualCrossNet(4, 2, rank=4, token=2, merge="sum"),
    ],
)
def test_gradients(net: nn.Module) -> None:
    net = net.double()
    assert torch.autograd.gradcheck(net, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))
    net(torch.randn(3, 4, dtype=torch.float64)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters())


def test_temperature_starts_at_one_is_bounded_and_never_stuck() -> None:
    layer = AttentionCross(4, 4, 2)
    assert layer.temperature.item() == 1.0
    for s in (-8.0, 8.0):
        layer.log_temperature.data.fill_(s)
        tau = layer.temperature
        assert 1 / MAX_TEMPERATURE <= tau.item() <= MAX_TEMPERATURE
        (grad,) = torch.autograd.grad(tau, layer.log_temperature)
        assert grad.item() > 0


def test_without_the_skip_the_tokens_start_almost_equal() -> None:
    torch.manual_seed(0)
    layer = AttentionCross(64, rank=64, token=1)
    seen: list[Tensor] = []
    layer.up.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = 0.1 * torch.randn(32, 64)
    layer(x, x)
    layer.skip = False
    layer(x, x)
    with_skip, without = seen[0].std(1).mean().item(), seen[1].std(1).mean().item()
    assert without < 0.1 * with_skip


def test_the_parallel_net_is_its_two_branches() -> None:
    x = torch.randn(3, 8)
    concat, added = ResidualCrossNet(8, 2, 4, 2), ResidualCrossNet(8, 2, 4, 2, merge="sum")
    assert (concat.out_dim, added.out_dim) == (16, 8)
    torch.testing.assert_close(concat(x), torch.cat([concat.plain(x), concat.attending(x)], 1))
    torch.testing.assert_close(added(x), added.plain(x) + added.attending(x))


@given(
    batch=st.integers(1, 5),
    dim=st.integers(1, 20),
    layers=st.integers(1, 3),
    tokens=st.integers(1, 4),
    token=st.integers(1, 4),
)
def test_shapes(batch: int, dim: int, layers: int, tokens: int, token: int) -> None:
    x = torch.randn(batch, dim)
    config = {"layers": layers, "rank": tokens * token, "token": token}
    alone = AttentionCrossConfig(**config).build(dim)
    assert alone(x).shape == (batch, alone.out_dim)
    for merge in ("concat", "sum"):
        both = ResidualCrossConfig(merge=merge, **config).build(dim)
        assert both(x).shape == (batch, both.out_dim)
        assert torch.isfinite(both(x)).all()


@pytest.mark.parametrize("config", [AttentionCrossConfig, ResidualCrossConfig])
def test_tokens_must_fill_the_rank(config: type[AttentionCrossConfig]) -> None:
    with pytest.raises(ValueError, match=r"token \(5\) must divide rank \(8\)"):
        config(rank=8, token=5)
    with pytest.raises(ValueError, match="must divide"):
        AttentionCross(4, 8, 5)


def test_attention_makes_one_layer_more_than_quadratic() -> None:
    # The label takes its sign from x1 or from x2, whichever of x3 and x4 is the larger: a choice, which one
    # plain cross (a quadratic) cannot make at this width.
    def loss(net: nn.Module) -> float:
        torch.manual_seed(0)
        head = nn.Linear(4, 1)
        x = torch.randn(256, 4)
        y = torch.where(x[:, 2] > x[:, 3], x[:, 0], x[:, 1])
        optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=0.03)
        for _ in range(80):
            value = (head(net(x)).squeeze(1) - y).square().mean()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        return value.item()

    torch.manual_seed(1)
    plain, attending = loss(LowRankCrossNet(4, 1, 12)), loss(AttentionCrossNet(4, 1, 12, token=2))
    assert attending < 0.5 * plain
