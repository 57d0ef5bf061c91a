"""Mixtures of experts: against loops, under a cut, in balance, and on tasks that disagree."""

import copy

import pytest
import torch
from torch import Tensor, nn

from memberwise.nn.experts import PLE, ExtractionLevel, MMoE, MMoEConfig, load_imbalance
from memberwise.nn.multitask import HardSharing


def _big_gates(net: nn.Module) -> None:
    """Gates that choose, where new ones are almost uniform."""
    for name, p in net.named_parameters():
        if "gate" in name:
            p.data.normal_(std=2.0)


def _mmoe_twin(net: MMoE, x: Tensor) -> Tensor:
    """MMoE row by row, task by task, expert by expert."""
    experts, rows = net.experts(x), []
    gate = net.gate.weight.view(net.tasks, net.experts.count, -1)
    for i, row in enumerate(x):
        tasks = []
        for t in range(net.tasks):
            logits = gate[t] @ row
            kept = logits.argsort(descending=True)[: net.top_k or net.experts.count].tolist()
            total = sum(logits[e].exp() for e in kept)
            tasks.append(sum(logits[e].exp() / total * experts[i, e] for e in kept))
        rows.append(torch.stack(tasks))
    return net.towers(torch.stack(rows))


@pytest.mark.parametrize("top_k", [None, 1, 2])
@pytest.mark.parametrize("tower", [[], [3]])
def test_mmoe_follows_its_equation(top_k: int | None, tower: list[int]) -> None:
    net = MMoE(5, 3, 4, [6, 4], top_k=top_k, tower=tower)
    _big_gates(net)
    x = torch.randn(7, 5)
    torch.testing.assert_close(net(x), _mmoe_twin(net, x))


def test_one_expert_is_hard_sharing() -> None:
    net, twin = MMoE(5, 2, 1, [6], tower=[3]), HardSharing(6, 2, tower=[3])
    twin.towers.load_state_dict(net.towers.state_dict())
    x = torch.randn(4, 5)
    torch.testing.assert_close(net(x), twin(net.experts(x)[:, 0]))


def test_letting_all_through_is_the_dense_mixture() -> None:
    sparse = MMoE(5, 2, 4, [6], top_k=4)
    dense = MMoE(5, 2, 4, [6])
    dense.load_state_dict(sparse.state_dict())
    x = torch.randn(4, 5)
    torch.testing.assert_close(sparse(x), dense(x))


def test_the_cut_is_exact_in_value_and_gradient() -> None:
    net = MMoE(5, 1, 6, [4], top_k=2, balance=0.0)
    _big_gates(net)
    x = torch.randn(1, 5)
    gates = net.gates(x)[0, 0]
    out = gates > 0
    assert int(out.sum()) == 2
    assert gates.sum().item() == pytest.approx(1.0)
    (net(x).square().sum() + net.auxiliary_loss).backward()
    assert not net.gate.weight.grad[~out].any()
    assert not net.experts.weights[0].grad[~out].any()
    assert bool(net.experts.weights[0].grad[out].any())


def test_balance_is_one_when_even_and_more_when_not() -> None:
    even = torch.zeros(6, 2, 6)
    chosen = torch.arange(6).repeat(4).view(6, 2, 2)
    assert load_imbalance(even, chosen).item() == pytest.approx(1.0)
    crowded = even.clone()
    crowded[..., :2] = 50.0
    assert load_imbalance(crowded, torch.arange(2).expand(6, 2, 2)).item() == pytest.approx(3.0)


def test_tasks_may_own_experts() -> None:
    # Two tasks, each with two experts of its own among four, evenly: nothing to balance.
    logits = torch.full((8, 2, 4), -50.0)
    logits[:, 0, :2] = logits[:, 1, 2:] = 0.0
    assert load_imbalance(logits, torch.tensor([[0, 1], [2, 3]]).expand(8, 2, 2)).item() == pytest.approx(1.0)


def test_the_auxiliary_loss_spreads_the_load() -> None:
    torch.manual_seed(0)
    net = MMoE(4, 1, 4, [4], top_k=1, balance=1.0)
    x = torch.cat([torch.ones(256, 1), torch.randn(256, 3)], 1)
    net.gate.weight.data[:, 0] = torch.tensor([3.0, 0.0, 0.0, 0.0])  # all rows to the first

    def largest() -> float:
        return (net.gates(x) > 0).float().mean((0, 1)).max().item()

    assert largest() == 1.0
    optimizer = torch.optim.Adam([net.gate.weight], lr=0.1)
    for _ in range(60):
        net.gates(x)
        optimizer.zero_grad()
        net.auxiliary_loss.backward()
        optimizer.step()
    assert largest() < 0.5


def test_the_auxiliary_loss_is_for_training_and_does_not_stay() -> None:
    net = MMoE(4, 2, 4, [4], top_k=2)
    x = torch.randn(64, 4)
    net(x)
    assert net.auxiliary_loss.item() == pytest.approx(0.01, rel=0.3)
    again = copy.deepcopy(net)
    assert again.auxiliary_loss.item() == 0.0
    net.eval()(x)
    assert net.auxiliary_loss.item() == 0.0
    assert all("auxiliary" not in key for key in net.state_dict())


def _level_twin(level: ExtractionLevel, z: list[Tensor]) -> list[Tensor]:
    """One level of PLE from the equations; `z` holds the tasks' inputs and the shared one."""
    own, tasks = level.own, level.tasks

    def expert(e: int, x: Tensor) -> Tensor:
        for weight, bias in zip(level.experts.weights, level.experts.biases, strict=True):
            x = torch.relu(x @ weight[e] + bias[e])
        return x

    of_task = [[expert(t * own + j, z[t]) for j in range(own)] for t in range(tasks)]
    of_all = [expert(tasks * own + j, z[tasks]) for j in range(level.shared)]
    out = []
    for t in range(tasks):
        g = torch.softmax(z[t] @ level.gate[t], -1)
        out.append(sum(g[:, j : j + 1] * f for j, f in enumerate([*of_task[t], *of_all])))
    if level.shared_gate is not None:
        g = torch.softmax(z[tasks] @ level.shared_gate.weight.T, -1)
        everyone = [*(f for fs in of_task for f in fs), *of_all]
        out.append(sum(g[:, j : j + 1] * f for j, f in enumerate(everyone)))
    return out


@pytest.mark.parametrize(("levels", "own", "shared"), [(1, 1, 2), (1, 2, 1), (2, 2, 3), (3, 1, 1)])
def test_ple_follows_its_equations(levels: int, own: int, shared: int) -> None:
    net = PLE(5, 3, own, shared, [4], levels=levels, tower=[2])
    _big_gates(net)
    x = torch.randn(6, 5)
    z = [x] * 4
    for level in net.levels:
        z = _level_twin(level, z)
    assert len(z) == 3
    torch.testing.assert_close(net(x), net.towers(torch.stack(z, 1)))


def test_a_tasks_experts_learn_from_it_alone() -> None:
    net = PLE(5, 2, 2, 1, [4])
    net(torch.randn(6, 5))[:, 0].sum().backward()
    grad = net.levels[0].experts.weights[0].grad.flatten(1).abs().sum(1)
    assert (grad > 0).tolist() == [True, True, False, False, True]


@pytest.mark.parametrize(
    "net",
    [MMoE(3, 2, 3, [4]), MMoE(3, 2, 3, [4], top_k=2, tower=[2]), PLE(3, 2, 1, 1, [3], levels=2)],
)
def test_gradients(net: nn.Module) -> None:
    net = net.double()
    _big_gates(net)
    assert torch.autograd.gradcheck(net, torch.randn(4, 3, dtype=torch.float64, requires_grad=True))
    net(torch.randn(32, 3, dtype=torch.float64)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters())


def test_too_many_to_let_through() -> None:
    with pytest.raises(ValueError, match="more than there are experts"):
        MMoEConfig(experts=2, top_k=3)
    with pytest.raises(ValueError, match="top_k"):
        MMoE(4, 1, 2, [4], top_k=3)


class _OneLayer(HardSharing):
    """One shared layer of the given width, then hard sharing."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 2)
        self.below = nn.Linear(8, width)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.relu(self.below(x)))


def _loss(net: nn.Module) -> float:
    """Squared error after training: which number counts depends on the segment, otherwise for each task."""
    g = torch.Generator().manual_seed(0)
    numbers, segment = torch.randn(512, 4, generator=g), torch.randint(4, (512,), generator=g)
    x = torch.cat([numbers, nn.functional.one_hot(segment, 4)], 1)
    y = torch.stack([numbers.gather(1, c.unsqueeze(1))[:, 0] for c in (segment, (segment + 1) % 4)], 1)
    heads = nn.Parameter(torch.randn(2, net.out_dim, generator=g))
    optimizer = torch.optim.Adam([*net.parameters(), heads], lr=0.05)
    for _ in range(150):
        error = ((net(x) * heads).sum(-1) - y).square().mean()
        optimizer.zero_grad()
        (error + net.auxiliary_loss).backward()
        optimizer.step()
    return error.item()


def test_mixtures_learn_what_one_layer_with_as_many_units_does_not() -> None:
    shared = mixed = extracted = 0.0
    for seed in (0, 1):
        torch.manual_seed(seed)
        shared += _loss(_OneLayer(8))
        mixed += _loss(MMoE(8, 2, 4, [2]))
        extracted += _loss(PLE(8, 2, 1, 2, [2]))
    assert mixed < 0.3 * shared
    assert extracted < 0.3 * shared
