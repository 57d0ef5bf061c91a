"""SAGE layers: answers by hand, and what must not change them."""

from __future__ import annotations

import pytest
import torch

from memberwise.graph.blocks import Block
from memberwise.graph.sage import AttentionAggregator, MeanAggregator, SageEncoder, SageLayer

KINDS, DEGREES = 3, 2


def _block(neighbours: list[list[int]], weights: list[list[float]] | None = None, seed: int = 0) -> Block:
    index = torch.tensor(neighbours, dtype=torch.int32)
    g = torch.Generator().manual_seed(seed)
    shape = index.shape
    w = torch.ones(shape) if weights is None else torch.tensor(weights)
    kinds = torch.randint(0, KINDS, shape, generator=g, dtype=torch.int32)
    ages = torch.rand(shape, generator=g) * 30
    degrees = torch.rand(len(index), DEGREES, generator=g)
    return Block(torch.arange(len(index), dtype=torch.int32), index, kinds, ages, w * (index >= 0), degrees)


def _picked(block: Block, columns: list[int]) -> Block:
    at = [getattr(block, n)[:, columns] for n in ("neighbours", "kinds", "ages", "weights")]
    return Block(block.own, *at, block.degrees)


def test_the_mean_by_hand() -> None:
    states = torch.tensor([[1.0, 0.0], [0.0, 1.0], [4.0, 4.0]])
    block = _block([[1, 2], [2, -1], [-1, -1]], [[3.0, 1.0], [7.0, 0.0], [0.0, 0.0]])
    mixed, share = MeanAggregator(2, KINDS)(states, states, block)
    torch.testing.assert_close(mixed, torch.tensor([[1.0, 1.75], [4.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(share, torch.tensor([[0.75, 0.25], [1.0, 0.0], [0.0, 0.0]]))


def test_a_gate_closes_an_edge_type() -> None:
    states = torch.tensor([[1.0], [5.0]])
    block = _block([[0, 1]])
    block.kinds[:] = torch.tensor([0, 1])
    mean = MeanAggregator(1, KINDS)
    with torch.no_grad():
        mean.gate[1] = -50.0
    torch.testing.assert_close(mean(states, states, block)[0], torch.ones(1, 1))


def test_attention_that_asks_nothing_is_the_weighted_mean_of_values() -> None:
    torch.manual_seed(0)
    states = torch.randn(4, 8)
    block = _block([[1, 2, 3], [3, 0, -1]], [[1.0, 2.0, 1.0], [3.0, 1.0, 0.0]])
    net = AttentionAggregator(8, KINDS, heads=2)
    torch.nn.init.zeros_(net.query.weight)
    torch.nn.init.zeros_(net.query.bias)
    mixed, share = net(states[:2], states, block)
    values = net.key_value(states)[:, 8:]
    expected = torch.stack([(values[1] + 2 * values[2] + values[3]) / 4, (3 * values[3] + values[0]) / 4])
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(share.sum(1), torch.ones(2))


def test_attention_is_the_softmax_by_hand() -> None:
    torch.manual_seed(1)
    states, block = torch.randn(4, 6), _block([[1, 3, -1]])
    net = AttentionAggregator(6, KINDS, heads=1)
    torch.nn.init.normal_(net.kind.weight)
    keys, values = net.key_value(states).split(6, 1)
    q = net.query(states[:1])[0]
    logits = torch.stack(
        [q @ keys[i] / 6**0.5 + net.kind.weight[block.kinds[0, j], 0] for j, i in enumerate((1, 3))]
    )
    a = logits.softmax(0)
    torch.testing.assert_close(net(states[:1], states, block)[0][0], a[0] * values[1] + a[1] * values[3])


@pytest.mark.parametrize("aggregator", ["mean", "attention"])
def test_order_and_padding_of_neighbours_do_not_matter(aggregator: str) -> None:
    torch.manual_seed(0)
    net = SageEncoder(16, 16, 1, KINDS, DEGREES, aggregator)
    states = torch.randn(6, 16)
    block = _block([[1, 2, 5, -1], [0, 3, -1, -1]])
    out = net(states, [block])
    torch.testing.assert_close(net(states, [_picked(block, [3, 1, 0, 2])]), out)
    torch.testing.assert_close(net(states, [_picked(block, [0, 1, 2])]), out)
    states[4] = 1e3  # nobody's neighbour
    torch.testing.assert_close(net(states, [block]), out)


@pytest.mark.parametrize("aggregator", ["mean", "attention"])
def test_without_neighbours_it_is_the_node_mlp(aggregator: str) -> None:
    """MLPInit: a query that was not made, and one that found nothing, give the same."""
    net = SageEncoder(16, 16, 1, KINDS, DEGREES, aggregator)
    states = torch.randn(2, 16)
    found = _block([[-1, -1], [-1, -1]])
    torch.testing.assert_close(net(states, [_picked(found, [])]), net(states, [found]))
    layer = net.layers[0]
    assert isinstance(layer, SageLayer)
    expected = layer.own(states) + found.degrees @ layer.context.weight[:, -DEGREES:].T
    torch.testing.assert_close(net(states, [found]), expected)


def test_two_layers_are_one_after_the_other() -> None:
    net = SageEncoder(16, 8, 2, KINDS, DEGREES, "mean")
    states, far, near = torch.randn(5, 16), _block([[1, 2], [3, 4], [0, -1]]), _block([[1, 2]])
    middle = net.layers[0](states, far)
    torch.testing.assert_close(net(states, [far, near]), net.layers[1](middle, near))


def test_gradients() -> None:
    torch.manual_seed(0)
    block = _block([[1, 2], [2, -1]])
    for mix in (MeanAggregator(4, KINDS), AttentionAggregator(4, KINDS, 2)):
        layer = SageLayer(4, 3, KINDS, DEGREES, mix, last=False).double()
        double = Block(
            *(
                getattr(block, n).double() if n in ("ages", "weights", "degrees") else getattr(block, n)
                for n in block.__dataclass_fields__
            )
        )
        states = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda s, layer=layer, b=double: layer(s, b), [states])
