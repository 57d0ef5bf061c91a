"""The loss of several tasks."""

import math

import torch

from memberwise.ranking.loss import multitask_loss

NAN = float("nan")


def test_a_row_trains_only_the_heads_whose_label_it_has() -> None:
    logits = torch.zeros(2, 2, requires_grad=True)
    loss = multitask_loss(logits, torch.tensor([[1.0, NAN], [0.0, 1.0]]), None, torch.ones(2))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0
    torch.testing.assert_close(loss.detach(), torch.tensor(2 * math.log(2)))


def test_weight_is_repetition() -> None:
    logits, labels = torch.randn(3, 1), torch.tensor([[1.0], [0.0], [1.0]])
    weights = torch.tensor([[2.0], [1.0], [1.0]])
    twice = [0, 0, 1, 2]
    repeated = multitask_loss(logits[twice], labels[twice], None, torch.ones(1))
    weighted = multitask_loss(logits, labels, weights, torch.ones(1))
    torch.testing.assert_close(weighted * 3, repeated * 4)


def test_a_task_without_labels_in_the_batch_costs_nothing() -> None:
    loss = multitask_loss(torch.zeros(2, 2), torch.tensor([[1.0, NAN], [0.0, NAN]]), None, torch.ones(2))
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))


def test_task_weights_scale_their_task() -> None:
    logits, labels = torch.randn(4, 2), torch.ones(4, 2)
    alone = [multitask_loss(logits[:, [t]], labels[:, [t]], None, torch.ones(1)) for t in range(2)]
    both = multitask_loss(logits, labels, None, torch.tensor([2.0, 0.5]))
    torch.testing.assert_close(both, 2 * alone[0] + 0.5 * alone[1])
