"""What a member comes back to: by hand, over places, and only for candidates."""

import torch

from memberwise.graph.blocks import Activities
from memberwise.graph.recurrence import GAIN, Recurrence
from memberwise.graph.sage import age_basis


def test_the_matrix_is_the_sum_over_activities() -> None:
    torch.manual_seed(0)
    net = Recurrence(4, 2)
    for p in net.parameters():
        torch.nn.init.normal_(p)
    nodes = torch.tensor([[7, 5, 7, 2, 5], [-1, -1, -1, -1, 9], [-1, -1, -1, -1, -1]], dtype=torch.int32)
    kinds, ages = torch.randint(0, 2, (3, 5)), torch.rand(3, 5) * 40
    candidates = torch.tensor([5, 9, 7, 0], dtype=torch.int32)
    found = net.matrix(Activities(nodes, kinds, ages), candidates, 12)
    expected = torch.zeros(3, 4)
    for g in range(3):
        for i in range(1, 5):  # only the newest four
            for c, node in enumerate(candidates):
                if nodes[g, i] == node:
                    bonus = (
                        net.position[i - 1] + net.age(age_basis(ages[g, i])) + net.kind.weight[kinds[g, i]]
                    )
                    expected[g, c] += GAIN * bonus.item()
    torch.testing.assert_close(found, expected)
    assert not found[2].any()


def test_it_starts_at_zero() -> None:
    zeros = torch.zeros(1, 3)
    a = Activities(torch.tensor([[0, 1, 2]]), zeros.long(), zeros)
    assert not Recurrence(3, 1).matrix(a, torch.tensor([0, 1, 2]), 3).any()
