"""The isotonic layer: identity at first, monotone always, and equation 1 in between."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from memberwise.nn.embedding import FusedEmbedding
from memberwise.nn.isotonic import IsotonicCalibration, IsotonicConfig
from memberwise.nn.sparse import RowwiseAdagrad


def _layer(tasks: int = 2, **settings: float) -> IsotonicCalibration:
    """A layer with random curves, some buckets of which are flat."""
    layer = IsotonicCalibration(tasks, **({"lower": -2.0, "upper": 2.0, "step": 0.5} | settings))
    torch.manual_seed(7)
    layer.weight.data.normal_(1.0, 1.0)
    layer.bias.data.normal_()
    return layer


def _equation_1(layer: IsotonicCalibration, y: float, task: int, effects: Tensor | None = None) -> float:
    """Equation 1 in double, with its own definition of k, for a logit inside of the range."""
    w = layer.weight[task].double() + (0 if effects is None else effects.double())
    shifted = y - layer.lower
    k = max([j for j in range(layer.buckets) if shifted - layer.step * j > 0], default=0)
    v = [layer.step] * k + [shifted - layer.step * k]
    total = sum(max(0.0, w[i].item()) * v[i] for i in range(k + 1))
    return layer.lower + total + layer.bias[task].item()


@given(y=st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=20))
def test_a_new_layer_returns_its_input_exactly(y: list[float]) -> None:
    x = torch.tensor(y).unsqueeze(1)
    layer = IsotonicCalibration(1)
    assert torch.equal(layer(x), x)
    assert torch.equal(layer(x[:, 0]), x[:, 0])
    assert torch.equal(layer(x, torch.zeros(len(x), 1, layer.buckets)), x)
    assert layer.auxiliary_loss.item() == 0.0


@pytest.mark.parametrize("step", [0.5, 0.1, 0.05])
def test_it_follows_equation_1_at_and_between_the_edges(step: float) -> None:
    layer = _layer(step=step)
    edges = [layer.lower + step * i for i in range(layer.buckets + 1)]
    between = [e + step * u for e in edges[:-1] for u in (1e-6, 0.3, 1 - 1e-6)]
    for task in (0, 1):
        y = torch.tensor(edges + between)
        expected = torch.tensor([_equation_1(layer, v, task) for v in edges + between])
        out = layer(y.unsqueeze(1).expand(-1, 2))[:, task]
        torch.testing.assert_close(out, expected, rtol=0, atol=2e-5)


def test_exact_at_multiples_of_a_step_that_binary_can_hold() -> None:
    layer = _layer(1)
    layer.weight.data.mul_(4).round_().div_(4)
    layer.bias.data.zero_()
    y = layer.lower + layer.step * torch.arange(layer.buckets + 1)
    expected = layer.lower + torch.cat([torch.zeros(1), (layer.step * layer.weight[0].relu()).cumsum(0)])
    assert torch.equal(layer(y), expected)


def test_the_two_ways_agree() -> None:
    layer = _layer(3)
    y = torch.randn(50, 3) * 3
    torch.testing.assert_close(layer(y, torch.zeros(50, 3, layer.buckets)), layer(y))


def test_effects_bend_the_curve_of_their_row() -> None:
    layer = _layer(2)
    y, effects = torch.rand(20, 2) * 4 - 2, torch.randn(20, 2, layer.buckets)
    out = layer(y, effects)
    for i in range(20):
        for t in (0, 1):
            expected = _equation_1(layer, y[i, t].item(), t, effects[i, t])
            assert out[i, t].item() == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(layer(y, effects[:, 0]), layer(y, effects[:, :1].expand(-1, 2, -1)))


@given(seed=st.integers(0, 2**16), scale=st.floats(0, 20), conditioned=st.booleans())
def test_it_is_monotone_whatever_the_weights(seed: int, scale: float, conditioned: bool) -> None:
    torch.manual_seed(seed)
    layer = IsotonicCalibration(1, -3, 3, 0.1).double()
    layer.weight.data.normal_(std=scale)
    y = (torch.randn(200, dtype=torch.float64) * 4).sort().values
    effects = torch.randn(layer.buckets, dtype=torch.float64).expand(200, -1) if conditioned else None
    assert bool((layer(y, effects).diff() >= -1e-9).all())


@pytest.mark.parametrize("conditioned", [False, True])
def test_outside_it_goes_on_with_slope_one_and_keeps_gradients(conditioned: bool) -> None:
    layer = _layer(1)
    y = torch.tensor([-50.0, -2.5, 2.5, 50.0], requires_grad=True)
    out = layer(y, torch.randn(1, layer.buckets).expand(4, -1) if conditioned else None)
    (grad,) = torch.autograd.grad(out.sum(), y)
    assert torch.equal(grad, torch.ones(4))
    assert (out[1] - out[0]).item() == pytest.approx(47.5, abs=1e-4)
    assert (out[3] - out[2]).item() == pytest.approx(47.5, abs=1e-4)


def test_infinite_and_undefined_logits_stay_what_they_are() -> None:
    y = torch.tensor([math.inf, -math.inf, math.nan])
    for effects in (None, torch.zeros(3, _layer(1).buckets)):
        out = _layer(1)(y, effects)
        assert out[0] == math.inf
        assert out[1] == -math.inf
        assert out[2].isnan()


def test_every_float32_near_an_edge_falls_into_a_bucket() -> None:
    layer = _layer(1, lower=-17.0, upper=8.0, step=0.05)
    assert layer.buckets == 500
    at = -17 + 0.05 * torch.arange(501, dtype=torch.float64)
    y = at.float()
    for _ in range(3):
        near = torch.stack(
            [torch.nextafter(y, torch.tensor(-99.0)), y, torch.nextafter(y, torch.tensor(99.0))]
        )
        out = layer(near.flatten()).view(3, -1)
        assert bool((out.diff(dim=0).abs() < 1e-4).all())
        y = torch.nextafter(y, torch.tensor(99.0))


def test_the_range_grows_to_whole_buckets() -> None:
    assert IsotonicCalibration(1, 0.0, 1.0, 0.3).buckets == 4
    assert IsotonicCalibration(1, 0.0, 1.0, 0.3).upper == pytest.approx(1.2)
    assert IsotonicCalibration(1, 0.0, 0.6, 0.1).buckets == 6
    assert IsotonicConfig(lower=-4, upper=4, step=0.5).build(3).weight.shape == (3, 16)


def test_gradients() -> None:
    layer = _layer(2, step=1.0).double()
    y = (torch.tensor([[-3.0, -1.3], [0.4, 1.7], [2.6, -0.2]], dtype=torch.float64)).requires_grad_()
    effects = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)

    def run(y: Tensor, effects: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
        arguments = (y, effects) if effects is not None else (y,)
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, arguments)

    weight, bias = layer.weight.detach().requires_grad_(), layer.bias.detach().requires_grad_()
    assert torch.autograd.gradcheck(run, (y, None, weight, bias))
    assert torch.autograd.gradcheck(run, (y, effects, weight, bias))


def test_the_pull_revives_a_dead_bucket() -> None:
    layer = IsotonicCalibration(1, -1, 1, 0.5, pull=0.2)
    layer.weight.data.fill_(-1.0)
    optimizer = torch.optim.SGD([layer.weight], lr=1.0)
    y = torch.full((8,), 0.3)
    loss = layer(y).sum()
    (grad,) = torch.autograd.grad(loss, layer.weight)
    assert not grad.any()
    for _ in range(10):
        optimizer.zero_grad()
        layer.auxiliary_loss.backward()
        optimizer.step()
    assert bool((layer.weight > 0.7).all())


@pytest.mark.parametrize(("lower", "upper", "step"), [(1.0, 1.0, 0.1), (2.0, 1.0, 0.1), (0.0, 1.0, 0.0)])
def test_no_buckets_is_an_error(lower: float, upper: float, step: float) -> None:
    with pytest.raises(ValueError, match="no buckets"):
        IsotonicCalibration(1, lower, upper, step)
    with pytest.raises(ValueError, match=r"lower|step"):
        IsotonicConfig(lower=lower, upper=upper, step=step)


def _distorted() -> tuple[Tensor, Tensor]:
    """Logits whose true probability is another, monotone function of them, and labels."""
    g = torch.Generator().manual_seed(0)
    y = torch.randn(20_000, generator=g) * 1.5
    truth = torch.where(y > 0, 0.3 * y, 2.5 * y) - 1.0
    return y, (torch.rand(len(y), generator=g) < truth.sigmoid()).float()


def _calibration_error(logits: Tensor, labels: Tensor) -> float:
    order = logits.argsort()
    p, y = logits.sigmoid()[order].view(20, -1).mean(1), labels[order].view(20, -1).mean(1)
    return (p - y).abs().mean().item()


def test_it_repairs_a_bent_curve_without_touching_the_order() -> None:
    y, labels = _distorted()
    layer = IsotonicCalibration(1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(120):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(layer(y), labels) + layer.auxiliary_loss
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        out = layer(y)
    assert _calibration_error(out, labels) < 0.2 * _calibration_error(y, labels)
    assert bool((out[y.argsort()].diff() >= -1e-5).all())


def test_features_from_a_fused_table_calibrate_each_slice() -> None:
    # One slice is over-confident, the other is not: only a curve per slice can mend both.
    g = torch.Generator().manual_seed(0)
    y, device = torch.randn(8000, generator=g) * 2, torch.randint(2, (8000,), generator=g)
    truth = torch.where(device == 0, y, 0.2 * y)
    labels = (torch.rand(8000, generator=g) < truth.sigmoid()).float()
    layer = IsotonicCalibration(1, -6, 6, 1.0, pull=1e-3)
    table = FusedEmbedding({"device": 2}, layer.buckets, std=0.0)
    dense, sparse = torch.optim.Adam(layer.parameters(), lr=0.02), RowwiseAdagrad([table], lr=0.1)
    losses = []
    for _ in range(60):
        effects = table((device + table.offsets["device"]).unsqueeze(1)).sum(1)
        losses.append(nn.functional.binary_cross_entropy_with_logits(layer(y, effects), labels))
        dense.zero_grad()
        losses[-1].backward()
        dense.step()
        sparse.step()
    best = nn.functional.binary_cross_entropy_with_logits(truth, labels).item()
    assert losses[-1].item() - best < 0.1 * (losses[0].item() - best)
