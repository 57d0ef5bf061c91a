"""Fused tables: look-ups, padding, pooling."""

import torch

from memberwise.nn.embedding import FusedEmbedding, masked_mean


def test_tables_do_not_overlap_and_row_zero_is_nobody() -> None:
    table = FusedEmbedding({"a": 3, "b": 5}, dim=4)
    assert table.offsets == {"a": 1, "b": 4}
    assert table.weight.shape == (9, 4)
    assert torch.equal(table(torch.tensor([0])), torch.zeros(1, 4))


def test_lookup_keeps_the_shape_and_agrees_with_the_matrix() -> None:
    table = FusedEmbedding({"a": 10}, dim=3)
    rows = torch.tensor([[1, 2], [3, 3]], dtype=torch.int32)
    assert torch.equal(table(rows), table.weight[rows.long()])


def test_the_weight_is_no_parameter_and_is_saved() -> None:
    table = FusedEmbedding({"a": 2}, dim=2)
    assert list(table.parameters()) == []
    assert list(table.state_dict()) == ["weight"]


def test_lookups_collect_gradients_only_in_training() -> None:
    table = FusedEmbedding({"a": 4}, dim=2)
    table(torch.tensor([1, 2])).sum().backward()
    assert torch.equal(table.touched[0][1].grad, torch.ones(2, 2))
    table.touched.clear()
    table.eval()
    assert not table(torch.tensor([1])).requires_grad
    table.train()
    with torch.no_grad():
        table(torch.tensor([1]))
    assert table.touched == []


def test_masked_mean_of_nothing_is_zero_and_padding_does_not_count() -> None:
    values = torch.tensor([[[1.0], [3.0], [99.0]], [[5.0], [5.0], [5.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert torch.equal(masked_mean(values, mask), torch.tensor([[2.0], [0.0]]))
