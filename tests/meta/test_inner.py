"""The inner loop: equal to a loop over entities with a block each, to the last derivative."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from memberwise.meta.block import MetaBlock
from memberwise.meta.config import InnerConfig
from memberwise.meta.inner import InnerLoop, Segment
from memberwise.meta.learner import MetaLearner, frozen
from memberwise.meta.stacked import Stacked, adapt, stack, stacked_module
from support.worlds import SIZES, World, block, entities, loop, rows, twin

VARIANTS = ["limaml", "fomaml", "anil", "cavia", "reptile"]


def outer(inner: InnerLoop, world: World, labels: int = 1) -> tuple[MetaLearner, Tensor, Segment, Segment]:
    """Everything that one outer step takes."""
    query = rows((2, 3, 1, 4), labels=labels, seed=5)
    return MetaLearner(world, inner), entities(), rows(labels=labels), query


def close(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("labels", [1, 3])
def test_it_equals_a_loop_over_entities(variant: str, norm: bool, labels: int):
    inner, world = loop(variant, norm), World(3, 2, labels)
    support = rows(labels=labels)
    found = inner(world, entities(), support)
    close(found, twin(inner, world, entities(), support))
    plain = inner.block(entities())
    still = torch.tensor(SIZES) == 0
    assert torch.equal(found[still], plain[still])  # an empty support gives z_0, exactly
    assert ((found - plain).norm(dim=1)[~still] > 1e-4).all()


@pytest.mark.parametrize("variant", ["limaml", "fomaml", "anil", "cavia"])
def test_so_do_the_gradients_of_both_blocks_and_of_the_step_sizes(variant: str):
    inner, world = loop(variant), World(3, 2)
    learner, entity, support, query = outer(inner, world)
    wanted = [*inner.parameters(), *world.parameters()]
    ours = torch.autograd.grad(learner(entity, support, query), wanted)
    theirs = torch.autograd.grad(learner.query_loss(twin(inner, world, entity, support), query), wanted)
    for one, other in zip(ours, theirs, strict=True):
        assert one.abs().max() > 0  # nothing was lost by a detach
        close(one, other)


@pytest.mark.parametrize("variant", ["limaml", "anil", "cavia"])
@pytest.mark.parametrize("weights", ["rows", "tasks"])
def test_the_meta_gradient_matches_finite_differences(variant: str, weights: Any):
    inner, world = loop(variant, clip_norm=0.2), World(3, 2, 2)
    learner, entity, support, query = outer(inner, world, labels=2)
    learner.weights = weights
    parameters = [*inner.parameters(), *world.parameters()]
    grads = torch.autograd.grad(learner(entity, support, query), parameters)
    generator = torch.Generator().manual_seed(7)
    for p, g in zip(parameters, grads, strict=True):
        direction = 1e-6 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            p.add_(direction)
        up = float(learner(entity, support, query).detach())
        with torch.no_grad():
            p.sub_(2 * direction)
        down = float(learner(entity, support, query).detach())
        with torch.no_grad():
            p.add_(direction)
        assert (up - down) / 2 == pytest.approx(float((g * direction).sum()), rel=1e-4, abs=1e-15)


def test_first_and_second_order_differ_in_their_gradient_alone():
    grads, losses = [], []
    for variant in ("limaml", "fomaml"):
        inner, world = loop(variant), World(3, 2)
        learner, entity, support, query = outer(inner, world)
        loss = learner(entity, support, query)
        losses.append(loss.detach())
        grads.append(torch.autograd.grad(loss, inner.block.weights[0])[0])
    close(*losses)
    assert not torch.allclose(*grads, rtol=1e-2)


def test_no_steps_is_plain_joint_training():
    inner, world = loop(steps=0), World(3, 2)
    learner, entity, support, query = outer(inner, world)
    loss = learner.query_loss(inner.block(entity), query)
    assert torch.equal(learner(entity, support, query), loss)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_order_of_the_support_does_not_matter(variant: str):
    inner, world, support = loop(variant), World(3, 2), rows()
    order = torch.randperm(len(support.owner), generator=torch.Generator().manual_seed(2))
    assert support.weights is not None
    mixed = Segment(
        support.features[order], support.labels[order], support.weights[order], support.owner[order]
    )
    close(inner(world, entities(), mixed), inner(world, entities(), support))


def test_entities_do_not_see_each_other():
    inner, world, support = loop(), World(3, 2), rows()
    flipped = torch.where((support.owner == 2)[:, None], 1 - support.labels, support.labels)
    before = inner(world, entities(), support)
    after = inner(world, entities(), replace(support, labels=flipped))
    others = torch.arange(4) != 2
    close(before[others], after[others])
    assert not torch.allclose(before[2], after[2])


@pytest.mark.parametrize("variant", VARIANTS)
def test_generation_gives_the_same_and_leaves_no_trace(variant: str):
    inner, world, support = loop(variant), World(3, 2), rows()
    expected = inner(world, entities(), support).detach()
    with frozen([*inner.parameters(), *world.parameters()]):
        found = inner(world, entities(), support, differentiable=False)
    assert not found.requires_grad
    close(found, expected)
    assert all(p.requires_grad and p.grad is None for p in [*inner.parameters(), *world.parameters()])


def test_steps_shrink_with_few_rows_and_are_clipped():
    world, support = World(3, 2), rows()
    settings = {"shrinkage": 0.0, "steps": 1, "clip_norm": 1e-3}
    inner = loop("cavia", **settings)
    moved = (inner(world, entities(), support) - inner.block(entities())).norm(dim=1)
    some = torch.tensor(SIZES) > 0
    torch.testing.assert_close(moved[some], (inner.log_rates[-1].exp() * 1e-3).expand(3), rtol=1e-6, atol=0)
    shy = loop("cavia", **settings | {"shrinkage": 4.0})
    less = (shy(world, entities(), support) - shy.block(entities())).norm(dim=1)
    n = torch.tensor(SIZES, dtype=torch.float64)
    torch.testing.assert_close(less[some], (moved * n / (n + 4))[some], rtol=1e-6, atol=0)


def test_balance_lets_both_labels_weigh_the_same():
    support = replace(rows((10,)), weights=None)
    support.labels[:] = 0.0
    support.labels[0] = 1.0
    inner = InnerLoop(block(), InnerConfig(balance=1.0), torch.tensor([0.1], dtype=torch.float64))
    weight, _ = inner._row_weights(support, 1)
    assert float(weight[0]) == pytest.approx(float(weight[1:].sum()))
    assert float(weight.sum()) == pytest.approx(1.0)
    plain, _ = InnerLoop(block(), InnerConfig())._row_weights(support, 1)
    assert torch.equal(plain, torch.full_like(plain, 0.1))


def test_a_fresh_block_says_nothing_until_it_is_trained():
    fresh = MetaBlock(4, [8], 3)
    assert torch.equal(fresh(torch.randn(5, 4)), torch.zeros(5, 3))
    assert fresh.layers == 2


def test_a_block_without_features_is_one_vector_that_everyone_moves():
    inner = InnerLoop(MetaBlock(0, [], 3).double(), InnerConfig(steps=2, rate=0.5)).double()
    z = inner(World(3, 2), torch.zeros(4, 0, dtype=torch.float64), rows())
    assert torch.equal(z[1], torch.zeros(3, dtype=torch.float64))
    assert len(torch.unique(z, dim=0)) == 4


def stacked_loss(inner: InnerLoop, world: World, entity: Tensor, support: Segment) -> Any:
    """The support loss as a function of stacked parameters, and its row weights."""
    weight, shrink = inner._row_weights(support, len(entity))

    def loss(theta: Stacked) -> Tensor:
        z = inner.block.apply_stacked(theta, entity.unsqueeze(1)).squeeze(1)
        logits = world(z.index_select(0, support.owner), support.features)
        each = F.binary_cross_entropy_with_logits(logits, support.labels, reduction="none")
        return (each * weight).sum()

    names = dict(inner.block.named_parameters())
    rates = {k: inner.log_rates[int(k.split(".")[1])].exp() for k in names}
    return loss, stack(names, len(entity)), rates, shrink.squeeze(1)


def test_reptile_moves_towards_the_mean_adapted_block():
    inner, world = loop("reptile"), World(3, 2)
    learner, entity, support, query = outer(inner, world)
    learner(entity, support, query).backward()
    learner.add_gradients()
    loss, start, rates, scale = stacked_loss(inner, world, entity, support)
    moved = adapt(
        loss,
        start,
        {k: r.detach() for k, r in rates.items()},
        steps=3,
        clip_norm=0.6,
        scale=scale,
        differentiable=False,
    )
    for k, p in inner.block.named_parameters():
        assert p.grad is not None
        close(p.grad, -(moved[k] - p.detach()).mean(0))
    assert world.first.grad is not None  # the global block learns from the query


@pytest.mark.parametrize("second_order", [True, False])
def test_the_stacked_loop_equals_the_one_without_copies(second_order: bool):
    inner, world = loop("limaml" if second_order else "fomaml"), World(3, 2)
    learner, entity, support, query = outer(inner, world)
    loss, start, rates, scale = stacked_loss(inner, world, entity, support)
    theta = adapt(loss, start, rates, steps=3, second_order=second_order, clip_norm=0.6, scale=scale)
    z = inner.block.apply_stacked(theta, entity.unsqueeze(1)).squeeze(1)
    close(z, inner(world, entity, support))
    wanted = list(inner.parameters())
    one = torch.autograd.grad(learner.query_loss(z, query), wanted)
    other = torch.autograd.grad(learner(entity, support, query), wanted)
    for a, b in zip(one, other, strict=True):
        close(a, b)


def test_any_module_can_be_stacked():
    made = block()
    theta = {k: p + torch.randn(5, *p.shape, dtype=torch.float64) for k, p in made.named_parameters()}
    x = torch.randn(5, 7, 4, dtype=torch.float64)
    close(stacked_module(made)(theta, x), made.apply_stacked(theta, x))
    for i in range(5):
        mine = torch.func.functional_call(made, {k: p[i] for k, p in theta.items()}, (x[i],))
        close(made.apply_stacked(theta, x)[i], mine)
