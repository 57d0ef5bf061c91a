"""What a member comes back to: by hand, item by item, and only for candidates."""

import itertools
import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from memberwise.graph.blocks import Activities
from memberwise.graph.degrees import CROWD
from memberwise.graph.recurrence import GAIN, Recurrence
from memberwise.graph.sage import age_basis


def _by_hand(
    net: Recurrence,
    nodes: list[int],
    kinds: list[int],
    ages: list[float],
    crowd: list[list[float]],
    item: int,
) -> float:
    """The bonus of an item for a member with these activities (oldest first, no padding)."""
    if item not in nodes:
        return 0.0
    at = len(nodes) - 1 - nodes[::-1].index(item)
    since = len(set(nodes[at + 1 :]))
    repeats = sum(a == b for a, b in itertools.pairwise(nodes))
    facts = [
        *age_basis(torch.tensor(ages[at])).tolist(),
        *age_basis(torch.tensor(ages[-1])).tolist(),
        math.log1p(nodes.count(item)),
        nodes.count(item) / len(nodes),
        math.log1p(since),
        float(since == 0),
        repeats / len(nodes),
        len(set(nodes)) / len(nodes),
        math.log1p(len(nodes)) / 5,
        *crowd[at],
    ]
    x = torch.tensor(facts)
    said = net.direct(x) / math.sqrt(len(x)) + net.down(torch.relu(net.up(x))) / math.sqrt(16)
    return GAIN * (net.rank[since] + said + net.kind.weight[kinds[at]]).item()


@given(st.lists(st.integers(0, 4), max_size=6), st.integers(0, 2**31))
def test_the_matrix_is_the_sum_over_items(chosen: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    net = Recurrence(5, 2)
    for p in net.parameters():
        nn.init.normal_(p)
    pad = 6 - len(chosen)
    nodes = torch.tensor([[-1] * pad + chosen, [-1] * 6], dtype=torch.int32)
    kinds = torch.randint(0, 2, (2, 6))
    ages = (torch.rand(2, 6) * 40).sort(1, descending=True).values
    candidates = torch.tensor([3, 9, 0, 4], dtype=torch.int32)
    crowd = torch.rand(2, 6, CROWD)
    found = net.matrix(Activities(nodes, kinds, ages, crowd), candidates, 12)
    newest = slice(max(pad, 1), None)  # only five places
    mine = [x[0, newest].tolist() for x in (nodes, kinds, ages, crowd)]
    with torch.no_grad():
        expected = torch.tensor([[_by_hand(net, *mine, int(c)) for c in candidates], [0.0] * 4])
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-3)


def test_it_starts_at_zero_and_can_move() -> None:
    zeros = torch.zeros(1, 3)
    a = Activities(torch.tensor([[0, 1, 2]]), zeros.long(), zeros)
    net = Recurrence(3, 1)
    found = net.matrix(a, torch.tensor([0, 1, 2]), 3)
    assert not found.any()
    found[0, 2].backward()
    assert net.rank.grad is not None
    assert net.rank.grad.tolist() == [GAIN, 0.0, 0.0]
    assert net.down.weight.grad is not None
    assert net.down.weight.grad.any()


def test_it_can_say_exactly_the_last_time() -> None:
    """The rule "what it chose last, before everything else" is one setting of the weights."""
    net = Recurrence(4, 1)
    with torch.no_grad():
        net.rank.copy_(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    nodes = torch.tensor([[5, 5, 5, 7]])  # often is not of late
    found = net.matrix(Activities(nodes, nodes * 0, nodes * 0.0), torch.tensor([5, 6, 7]), 8)
    assert found[0].argsort(descending=True).tolist() == [2, 0, 1]
