"""The history transformer: against torch's encoder, under every mask, and on a question of its own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from memberwise.errors import ConfigError
from memberwise.nn.history import MeanHistory
from memberwise.nn.transact import AgeEncoding, HistoryLayer, HistoryTransformer, masked_max, newest

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _inputs(lengths: list[int], steps: int = 8, item: int = 6, action: int = 3, seed: int = 0) -> Inputs:
    g = torch.Generator().manual_seed(seed)
    b = len(lengths)
    ages = torch.rand(b, steps, generator=g).cumsum(1) * 5
    mask = torch.arange(steps) < torch.tensor(lengths)[:, None]
    items, actions = torch.randn(b, steps, item, generator=g), torch.randn(b, steps, action, generator=g)
    return items, actions, ages, mask, torch.randn(b, item, generator=g)


def test_a_layer_is_torchs_encoder_layer() -> None:
    ours, theirs = HistoryLayer(16, 4, 8, 0.0), nn.TransformerEncoderLayer(16, 4, 8, 0.0, batch_first=True)
    pairs = [
        (theirs.self_attn.in_proj_weight, ours.qkv.weight),
        (theirs.self_attn.in_proj_bias, ours.qkv.bias),
        (theirs.self_attn.out_proj.weight, ours.out.weight),
        (theirs.self_attn.out_proj.bias, ours.out.bias),
        (theirs.linear1.weight, ours.up.weight),
        (theirs.linear1.bias, ours.up.bias),
        (theirs.linear2.weight, ours.down.weight),
        (theirs.linear2.bias, ours.down.bias),
    ]
    for mine, other in pairs:
        other.data.normal_(std=0.3)
        mine.data.copy_(other)
    x, mask = torch.randn(5, 7, 16), torch.rand(5, 7) < 0.6
    mask[:, 0] = True
    expected = theirs(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, mask[:, None, None])[mask], expected[mask], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_what_is_masked_changes_nothing(training: bool) -> None:
    net = HistoryTransformer(6, 3, window=0.0).train(training)
    items, actions, ages, mask, candidate = _inputs([8, 5, 1, 0])
    out = net(items, actions, ages, mask, candidate)
    for x in (items, actions, ages):
        x[~mask] = 1e4
    assert torch.equal(net(items, actions, ages, mask, candidate), out)


def test_padding_behind_and_holes_between_do_not_matter() -> None:
    net = HistoryTransformer(6, 3).eval()
    items, actions, ages, mask, candidate = _inputs([6, 6], steps=6)
    out = net(items, actions, ages, mask, candidate)
    place = [0, 2, 3, 5, 8, 9]  # where the six events go among ten steps
    wide = [torch.full((2, 10, *x.shape[2:]), 7.0) for x in (items, actions, ages)]
    for there, x in zip(wide, (items, actions, ages), strict=True):
        there[:, place] = x
    holes = torch.zeros(2, 10, dtype=torch.bool)
    holes[:, place] = True
    torch.testing.assert_close(net(*wide, holes, candidate), out)


def test_no_history_is_zero_and_every_gradient_is_finite() -> None:
    net = HistoryTransformer(6, 3)
    items, actions, ages, mask, candidate = _inputs([0, 3, 0])
    leaves = [x.requires_grad_() for x in (items, actions, candidate)]
    out = net(*leaves[:2], ages, mask, leaves[2])
    assert torch.equal(out[[0, 2]], torch.zeros(2, net.out_dim))
    assert bool(out[1].any())
    out.square().sum().backward()
    assert all(bool(torch.isfinite(x.grad).all()) for x in [*leaves, *net.parameters()])
    assert not items.grad[0].any()


def test_a_batch_without_any_history_or_steps() -> None:
    net = HistoryTransformer(6, 3)
    assert torch.equal(net(*_inputs([0, 0])), torch.zeros(2, net.out_dim))
    assert net(*(x[:0] for x in _inputs([3]))).shape == (0, net.out_dim)


def test_the_last_are_the_newest() -> None:
    x = torch.arange(2 * 6 * 1.0).view(2, 6, 1) + 1
    mask = torch.tensor([[True] * 6, [False, True, False, True, False, False]])
    assert newest(x, mask, 3).squeeze(-1).tolist() == [[1, 2, 3], [8, 10, 0]]
    assert newest(x[:, :2], mask[:, :2], 3).squeeze(-1).tolist() == [[1, 2, 0], [8, 0, 0]]


def test_the_maximum_skips_padding_even_when_all_is_negative() -> None:
    x = torch.tensor([[[-3.0, 1.0], [-5.0, 2.0], [9.0, 9.0]]])
    assert masked_max(x, torch.tensor([[True, True, False]])).tolist() == [[-3.0, 2.0]]
    assert masked_max(x, torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[0.0, 0.0]]


def test_the_pool_does_not_know_the_order_and_the_last_do() -> None:
    net = HistoryTransformer(6, 3).eval()
    items, actions, ages, mask, candidate = _inputs([8])
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    out = net(items, actions, ages, mask, candidate)
    again = net(items[:, order], actions[:, order], ages[:, order], mask, candidate)
    torch.testing.assert_close(again[:, : net.dim], out[:, : net.dim])
    assert not torch.allclose(again, out)


def test_ages_and_candidates_matter_but_rows_do_not_meet() -> None:
    net = HistoryTransformer(6, 3).eval()
    items, actions, ages, mask, candidate = _inputs([8, 8])
    out = net(items, actions, ages, mask, candidate)
    assert not torch.allclose(net(items, actions, ages + 30, mask, candidate), out)
    candidate[1] += 1.0
    other = net(items, actions, ages, mask, candidate)
    assert torch.equal(other[0], out[0])
    assert not torch.allclose(other[1], out[1])


def test_the_recent_window_is_left_out_in_training_only() -> None:
    items, actions, ages, mask, candidate = _inputs([8] * 400)
    ages = torch.arange(8.0).expand(400, 8) + 0.5  # days
    net = HistoryTransformer(6, 3, window=4.0)
    left = net._recent_left_out(ages, mask)
    counts = torch.bincount(left.sum(1), minlength=9)
    # u ~ U(0, 4): none of the events is left out while u <= .5, four at u > 3.5.
    assert counts[:4].sum() == 0
    assert counts[4:].tolist() == pytest.approx([50, 100, 100, 100, 50], abs=40)
    assert bool((left == (torch.arange(8) >= 8 - left.sum(1, keepdim=True))).all())
    assert torch.equal(net.eval()._recent_left_out(ages, mask), mask)
    # As if the newest had not happened yet: the same as a history that begins later.
    net.train()
    net._recent_left_out = lambda a, m: m & (a > 2)  # type: ignore[method-assign]
    late = net(items, actions, ages, mask, candidate)
    net._recent_left_out = lambda a, m: m  # type: ignore[method-assign]
    torch.testing.assert_close(net(items[:, 2:], actions[:, 2:], ages[:, 2:], mask[:, 2:], candidate), late)


@pytest.mark.parametrize(
    ("item", "action", "heads", "dim"), [(16, 16, 2, 48), (6, 3, 4, 16), (16, 4, 3, 48), (5, 1, 1, 16)]
)
def test_widths_are_padded_so_that_heads_divide(item: int, action: int, heads: int, dim: int) -> None:
    net = HistoryTransformer(item, action, heads=heads)
    assert (net.dim, net.out_dim) == (dim, 6 * dim)
    assert net(*_inputs([3, 8], item=item, action=action)).shape == (2, 6 * dim)
    assert net.layers[0].up.out_features == dim // 2


@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=5),
    extra=st.integers(0, 3),
    last=st.integers(0, 6),
    layers=st.integers(1, 2),
)
def test_shapes(lengths: list[int], extra: int, last: int, layers: int) -> None:
    net = HistoryTransformer(4, 2, layers=layers, last=last)
    out = net(*_inputs(lengths, steps=max(1, *lengths, 1) + extra, item=4, action=2))
    assert out.shape == (len(lengths), net.out_dim)
    assert bool(torch.isfinite(out).all())


def test_gradients() -> None:
    net = HistoryTransformer(2, 1, layers=1, heads=2, last=2, window=0.0).double()
    items, actions, ages, mask, candidate = _inputs([3, 1, 0], steps=3, item=2, action=1)
    leaves = [x.double().requires_grad_() for x in (items, actions, candidate)]
    assert torch.autograd.gradcheck(lambda i, a, c: net(i, a, ages.double(), mask, c), leaves)


def test_old_and_future_ages_are_finite() -> None:
    out = AgeEncoding(4)(torch.tensor([[0.0, -3.0, 1e6]]))
    assert bool(torch.isfinite(out).all())
    torch.testing.assert_close(out[0, 0], out[0, 1])


def test_without_a_candidate_it_says_what_to_do() -> None:
    net = HistoryTransformer(6, 3)
    with pytest.raises(ConfigError, match="there is none\n  -> make the item a feature"):
        net(*_inputs([3])[:4], None)


def test_it_finds_whether_the_candidate_was_seen() -> None:
    # Which items are past is random: only comparing each with the candidate answers, a mean cannot.
    def accuracy(net: nn.Module) -> float:
        torch.manual_seed(0)
        codes = torch.randn(12, 8)
        head = nn.Sequential(nn.Linear(net.out_dim + 8, 16), nn.ReLU(), nn.Linear(16, 1))
        optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=0.01)
        past, candidate = torch.randint(12, (2048, 4)), torch.randint(12, (2048,))
        seen = torch.rand(2048) < 0.4
        candidate = torch.where(seen, past[:, 2], candidate)
        y = (past == candidate[:, None]).any(1)
        zeros, mask = torch.zeros(2048, 4, 1), torch.ones(2048, 4, dtype=torch.bool)
        good = 0
        for step in range(120):
            rows = torch.randint(1536, (128,)) if step < 119 else torch.arange(1536, 2048)
            c = codes[candidate[rows]]
            out = net(codes[past[rows]], zeros[rows], zeros[rows, :, 0], mask[rows], c)
            logit = head(torch.cat([out, c], 1)).squeeze(1)
            good = int(((logit > 0) == y[rows]).sum())
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(logit, y[rows].float()).backward()
            optimizer.step()
        return good / 512

    torch.manual_seed(1)
    assert accuracy(HistoryTransformer(8, 1, layers=1, last=1, window=0.0)) > 0.9
    assert accuracy(MeanHistory(8, 1)) < 0.82
