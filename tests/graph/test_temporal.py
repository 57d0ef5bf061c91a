"""The temporal model: who sees whom, and what the long-term loss measures."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from memberwise.graph.losses import long_term_loss
from memberwise.graph.temporal import TemporalEncoder, member_output, prefix_causal_mask

H, N, D = 3, 5, 16


def _inputs(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    b = len(lengths)
    mask = torch.arange(N) >= N - torch.tensor(lengths)[:, None]
    ages = torch.rand(b, N, generator=g).cumsum(1).flip(1)
    kinds = torch.randint(0, 2, (b, N), generator=g)
    return torch.randn(b, H, D, generator=g), torch.randn(b, N, D, generator=g), kinds, ages, mask


@given(st.integers(0, 5), st.integers(0, 9))
def test_the_mask_is_the_papers(prefix: int, length: int) -> None:
    mask = prefix_causal_mask(prefix, length)
    for i in range(prefix + length):
        for j in range(prefix + length):
            assert bool(mask[i, j]) == (j < prefix or (prefix <= j <= i))


@pytest.mark.parametrize("changed", range(N))
def test_an_activity_changes_only_what_comes_after_it(changed: int) -> None:
    net = TemporalEncoder(D, N, 2, layers=2).eval()
    prefix, activities, kinds, ages, mask = _inputs([N, N])
    before = net(prefix, activities, kinds, ages, mask)
    activities = activities.clone()
    activities[:, changed] += 1.0
    moved = (net(prefix, activities, kinds, ages, mask) - before).abs().amax((0, 2)) > 1e-6
    assert moved.tolist() == [False] * (H + changed) + [True] * (N - changed)


def test_the_prefix_is_seen_by_all() -> None:
    net = TemporalEncoder(D, N, 2).eval()
    prefix, activities, kinds, ages, mask = _inputs([N])
    moved = net(prefix + 1.0, activities, kinds, ages, mask) - net(prefix, activities, kinds, ages, mask)
    assert bool((moved.abs().amax(2) > 1e-6).all())


def test_places_without_an_activity_change_nothing_and_an_empty_history_has_an_output() -> None:
    net = TemporalEncoder(D, N, 2, layers=2).eval()
    prefix, activities, kinds, ages, mask = _inputs([N, 3, 1, 0])
    there = torch.ones(4, H, dtype=torch.bool)
    out = member_output(net(prefix, activities, kinds, ages, mask), mask, there)
    activities, ages = activities.clone(), ages.clone()
    activities[~mask], ages[~mask] = 1e4, 1e4
    outputs = net(prefix, activities, kinds, ages, mask)
    assert torch.equal(member_output(outputs, mask, there), out)
    torch.testing.assert_close(out[3], outputs[3, :H].mean(0))


def test_a_longer_window_with_nothing_in_front_is_the_same() -> None:
    net = TemporalEncoder(D, N, 2).eval()
    prefix, activities, kinds, ages, mask = _inputs([2])
    there = torch.ones(1, H, dtype=torch.bool)
    whole = member_output(net(prefix, activities, kinds, ages, mask), mask, there)
    short = [x[:, N - 2 :] for x in (activities, kinds, ages, mask)]
    torch.testing.assert_close(member_output(net(prefix, *short), short[3], there), whole)


def _twin(net: TemporalEncoder, a, kinds, ages, mask, future: int, tau: float) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """The equation, member by member and activity by activity."""
    n = a.shape[1] - future
    rows = [m for m in range(len(a)) if bool(mask[m, n - 1]) and bool(mask[m, n:].all())]
    pool = {(m, j): F.normalize(a[m, j], dim=0) for m in rows for j in range(n, a.shape[1])}
    losses = []
    for m in rows:
        shifted = ages[m : m + 1, :n] - ages[m, n - 1]
        o = F.normalize(
            net(a[m : m + 1, :0], a[m : m + 1, :n], kinds[m : m + 1, :n], shifted, mask[m : m + 1, :n])[
                0, -1
            ],
            dim=0,
        )
        for j in range(n, a.shape[1]):
            logits = [(o @ v / tau) for (who, when), v in pool.items() if who != m or when == j]
            losses.append(torch.logsumexp(torch.stack(logits), 0) - o @ pool[m, j] / tau)
    return torch.stack(losses).mean()


def test_the_long_term_loss_is_the_equation() -> None:
    net = TemporalEncoder(D, N, 2).eval()
    _, activities, kinds, ages, mask = _inputs([5, 4, 3, 1, 0])
    args = (activities, kinds, ages, mask, 2, 0.3)
    torch.testing.assert_close(long_term_loss(net, *args), _twin(net, *args))


def test_what_is_to_be_foretold_is_not_seen_and_gets_no_gradient() -> None:
    net = TemporalEncoder(D, N, 2).eval()
    _, activities, kinds, ages, mask = _inputs([5, 5, 5])
    activities.requires_grad_()
    long_term_loss(net, activities, kinds, ages, mask, 2, 0.3).backward()
    assert activities.grad is not None
    assert bool((activities.grad[:, N - 2 :] == 0).all())
    assert bool((activities.grad[:, : N - 2] != 0).any())


def test_nobody_with_a_future_is_no_loss() -> None:
    net = TemporalEncoder(D, N, 2)
    _, activities, kinds, ages, mask = _inputs([2, 1, 0])
    assert float(long_term_loss(net, activities, kinds, ages, mask, 3, 0.3)) == 0.0
    with pytest.raises(ValueError, match="no past"):
        long_term_loss(net, activities, kinds, ages, mask, N, 0.3)


@torch.no_grad()
def test_the_loss_is_small_when_the_future_is_foretold() -> None:
    """Each member repeats a vector of its own; an encoder that carries it on knows the future."""
    net = TemporalEncoder(D, N, 2).eval()
    for p in net.parameters():
        torch.nn.init.zeros_(p)
    for layer in net.layers:
        torch.nn.init.ones_(layer.norm1.weight)  # type: ignore[union-attr, arg-type]
        torch.nn.init.ones_(layer.norm2.weight)  # type: ignore[union-attr, arg-type]
    own = F.layer_norm(torch.eye(D)[:6], (D,))
    activities = own[:, None].expand(6, N, D)
    zeros, mask = torch.zeros(6, N), torch.ones(6, N, dtype=torch.bool)
    assert float(long_term_loss(net, activities, zeros.long(), zeros, mask, 2, 0.05)) < 1e-3
