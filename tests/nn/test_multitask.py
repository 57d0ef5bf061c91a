"""Hard sharing and groups: who shares what."""

from typing import Annotated

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError
from torch import nn

from memberwise.errors import ConfigError
from memberwise.nn.cross import CrossConfig
from memberwise.nn.experts import MMoEConfig, PLEConfig
from memberwise.nn.mlp import MLPConfig
from memberwise.nn.multitask import Grouped, GroupedConfig, HardSharing, HardSharingConfig

Block = Annotated[CrossConfig | MLPConfig, Field(discriminator="type")]
Groups = GroupedConfig[Block]


def test_sharing_without_towers_hands_the_input_to_all() -> None:
    x = torch.randn(3, 4)
    out = HardSharing(4, 2)(x)
    assert torch.equal(out, torch.stack([x, x], 1))


def test_towers_are_each_tasks_own() -> None:
    net = HardSharing(4, 3, tower=[5])
    out = net(torch.randn(6, 4))
    out[:, 1].sum().backward()
    grad = net.towers.weights[0].grad
    assert not grad[[0, 2]].any()
    assert bool(grad[1].any())


def test_a_group_is_its_blocks_side_by_side() -> None:
    net = Grouped(6, [[2, 0], [1]], [CrossConfig(rank=2), MLPConfig(hidden=[5])])
    x = torch.randn(4, 6)
    out = net(x)
    assert (net.out_dim, out.shape) == (11, (4, 3, 11))
    towers = [torch.cat([block(x) for block in tower], 1) for tower in net.towers]
    torch.testing.assert_close(out, torch.stack([towers[0], towers[1], towers[0]], 1))


def test_a_stacked_group_is_a_chain() -> None:
    net = Grouped(6, [[0]], [MLPConfig(hidden=[5]), MLPConfig(hidden=[3])], stacked=True)
    x = torch.randn(4, 6)
    first, second = net.towers[0]
    torch.testing.assert_close(net(x)[:, 0], second(first(x)))
    assert net.out_dim == 3


def test_groups_share_no_weights() -> None:
    net = Grouped(4, [[0, 1], [2]], [MLPConfig(hidden=[3])])
    net(torch.randn(5, 4))[:, 2].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in net.towers[0].parameters())
    assert any(bool(p.grad.any()) for p in net.towers[1].parameters())


def test_gradients() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    for net in (HardSharing(4, 2, [3]), Grouped(4, [[1], [0]], [CrossConfig(rank=2)])):
        assert torch.autograd.gradcheck(net.double(), x)


def test_names_become_numbers() -> None:
    net = Groups(groups=[["share"], ["like", "click"]], blocks=[MLPConfig(hidden=[2])]).build(
        4, ["like", "share", "click"]
    )
    assert net._group_of_task.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([["like"]], "without a group: share"),
        ([["like", "share", "shar"]], "no task of the project: shar"),
    ],
)
def test_groups_must_hold_the_tasks(groups: list[list[str]], message: str) -> None:
    config = Groups(groups=groups, blocks=[MLPConfig()])
    with pytest.raises(ConfigError, match=message):
        config.build(4, ["like", "share"])


@pytest.mark.parametrize(("groups", "message"), [([["a"], ["a"]], "more than one"), ([["a"], []], "no task")])
def test_groups_are_checked_when_read(groups: list[list[str]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Groups(groups=groups, blocks=[MLPConfig()])
    with pytest.raises(ValueError, match="one group"):
        Grouped(4, [[0], [2]], [MLPConfig()])


@given(
    rows=st.integers(1, 4),
    dim=st.integers(1, 8),
    tasks=st.integers(1, 4),
    kind=st.sampled_from(["shared", "grouped", "mmoe", "ple"]),
    tower=st.lists(st.integers(1, 4), max_size=2),
)
def test_every_kind_follows_the_protocol(
    rows: int, dim: int, tasks: int, kind: str, tower: list[int]
) -> None:
    any_head = TypeAdapter(
        Annotated[HardSharingConfig | Groups | MMoEConfig | PLEConfig, Field(discriminator="type")]
    )
    names = [f"task{t}" for t in range(tasks)]
    settings: dict[str, object] = {"tower": tower}
    if kind == "grouped":
        settings = {"groups": [[n] for n in names], "blocks": [{"type": "mlp", "hidden": [3]}]}
    net = any_head.validate_python({"type": kind, **settings}).build(dim, names)
    assert isinstance(net, nn.Module)
    assert net(torch.randn(rows, dim)).shape == (rows, tasks, net.out_dim)
    assert net.auxiliary_loss.item() == 0.0


def test_the_schema_has_a_short_name() -> None:
    assert Groups.__name__ == "GroupedConfig"
    assert "blocks" in Groups.model_json_schema()["properties"]
