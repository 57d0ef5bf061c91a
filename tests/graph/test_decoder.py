"""Decoders and the losses over a batch's candidates."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from memberwise.graph.decoder import CosineDecoder, MLPDecoder, Popularity
from memberwise.graph.losses import batch_bce, sampled_softmax

R, C, D, A = 5, 7, 8, 3


def _inputs() -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(R, D, generator=g),
        torch.tensor([0, 1, 1, 0, 1]),
        torch.randn(C, D, generator=g),
        torch.rand(C, A, generator=g),
    )


@pytest.mark.parametrize("kind", [CosineDecoder, MLPDecoder])
def test_the_matrix_holds_the_pairs(kind: type[CosineDecoder | MLPDecoder]) -> None:
    torch.manual_seed(0)
    net = kind(D, relations=2, degrees=A)
    torch.nn.init.normal_(net.relation)
    assert net.popularity is not None
    torch.nn.init.normal_(net.popularity.down.weight)
    s, r, d, degrees = _inputs()
    matrix = net(s, r, d, degrees)
    for c in range(C):
        pairs = net.pairs(s, r, d[c : c + 1].expand(R, D), degrees[c : c + 1].expand(R, A))
        torch.testing.assert_close(matrix[:, c], pairs)


def test_the_cosine_by_hand_and_as_an_inner_product() -> None:
    net = CosineDecoder(D, relations=2, temperature=0.5)
    s, r, d, degrees = _inputs()
    scores = net(s, r, d, degrees)
    torch.testing.assert_close(scores, F.cosine_similarity(s[:, None], d[None], dim=-1) / 0.5)
    torch.testing.assert_close(net.queries(s, r) @ net.keys(d, degrees).T, scores)


def test_relations_differ_only_through_their_diagonal() -> None:
    net = CosineDecoder(D, relations=2)
    s, _, d, degrees = _inputs()
    zero, one = torch.zeros(R, dtype=torch.long), torch.ones(R, dtype=torch.long)
    torch.testing.assert_close(net(s, zero, d, degrees), net(s, one, d, degrees))
    with torch.no_grad():
        net.relation[1, : D // 2] = 0.0
    assert not torch.allclose(net(s, zero, d, degrees), net(s, one, d, degrees))


def test_with_all_destinations_as_candidates_the_softmax_is_the_full_one() -> None:
    scores, positive = torch.randn(R, C), torch.tensor([0, 3, 6, 1, 1])
    none = torch.zeros(R, C, dtype=torch.bool)
    loss = sampled_softmax(scores, torch.arange(R), positive, torch.zeros(C), none)
    torch.testing.assert_close(loss, F.cross_entropy(scores, positive, reduction="none"))


def test_the_correction_undoes_biased_sampling() -> None:
    """The corrected gradient estimates that of the softmax over all; the plain one is far off."""
    torch.manual_seed(0)
    n, draws = 30, 4000
    scores = torch.randn(n, requires_grad=True)
    F.cross_entropy(scores[None], torch.tensor([0])).backward()
    assert scores.grad is not None
    target, q = scores.grad.clone(), torch.linspace(0.2, 0.95, n)
    q[0] = 1.0  # the positive is always there
    found = {True: torch.zeros(n), False: torch.zeros(n)}
    zero = torch.tensor([0])
    for _ in range(draws):
        there = torch.rand(n) < q
        columns = torch.cat([torch.tensor([0]), torch.nonzero(there[1:])[:, 0] + 1])
        for corrected in found:
            leaf = scores.detach()[columns].requires_grad_()
            log_q = q[columns].log() if corrected else torch.zeros(len(columns))
            none = torch.zeros(1, len(columns), dtype=torch.bool)
            sampled_softmax(leaf[None], zero, zero, log_q, none).sum().backward()
            assert leaf.grad is not None
            found[corrected][columns] += leaf.grad / draws
    right, wrong = ((found[c] - target).abs().max() for c in (True, False))
    assert right < 0.012
    assert wrong > 3 * right


def test_accidental_hits_are_no_negatives() -> None:
    scores, positive, row = torch.randn(2, 4), torch.tensor([0, 1]), torch.arange(2)
    forbidden = torch.tensor([[True, True, False, False], [True, True, False, False]])
    soft = sampled_softmax(scores, row, positive, torch.zeros(4), forbidden)
    left = torch.stack([scores[0, [0, 2, 3]], scores[1, [1, 2, 3]]])
    torch.testing.assert_close(soft, F.cross_entropy(left, torch.tensor([0, 0]), reduction="none"))
    bce = batch_bce(scores, row, positive, forbidden)
    for i, p in enumerate(positive.tolist()):
        expected = -F.logsigmoid(scores[i, p]) - F.logsigmoid(-scores[i, 2:]).mean()
        torch.testing.assert_close(bce[i], expected)


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_records_that_share_a_row_have_the_loss_of_rows_of_their_own(seed: int, share: float) -> None:
    torch.manual_seed(seed)
    scores, log_q = torch.randn(3, C, dtype=torch.float64), torch.randn(C, dtype=torch.float64)
    row, positive = torch.randint(0, 3, (9,)), torch.randint(0, C, (9,))
    forbidden = torch.rand(3, C) < share  # some positives among them, some rows whole
    one, other = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    hit = F.one_hot(positive, C).bool()
    negative = ~forbidden[row] & ~hit
    left = (other[row] - log_q).masked_fill(~negative & ~hit, -torch.inf)
    soft = F.cross_entropy(left, positive, reduction="none")
    torch.testing.assert_close(sampled_softmax(one, row, positive, log_q, forbidden), soft)
    each = (F.softplus(other[row]) * negative).sum(1) / negative.sum(1).clamp_min(1)
    bce = F.softplus(-other[row][hit]) + each
    torch.testing.assert_close(batch_bce(one, row, positive, forbidden), bce)
    (
        sampled_softmax(one, row, positive, log_q, forbidden) + batch_bce(one, row, positive, forbidden)
    ).sum().backward()
    (soft + bce).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_popularity_starts_as_the_mean_of_the_log_counts() -> None:
    _, _, _, degrees = _inputs()
    torch.testing.assert_close(Popularity(A)(degrees), degrees.mean(1))
