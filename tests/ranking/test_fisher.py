"""Fisher information against a loop over rows that squares the gradient of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from memberwise.data.batch import Batch
from memberwise.data.layout import Layout
from memberwise.ranking.config import RankerConfig
from memberwise.ranking.fisher import Fisher, fisher, tables_of
from memberwise.ranking.ranker import Ranker

CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "norms": {"blocks": [{"type": "mlp", "hidden": [8], "norm": "layer"}, {"type": "cross", "rank": None}]},
    "attention": {"blocks": [{"type": "attention_cross", "rank": 16}], "wide": False},
    "curves": {"calibration": {}, "calibration_features": ["user"], "blocks": [{"type": "gated_mlp"}]},
    "towers": {"heads": {"type": "shared", "tower": [4]}, "stacked": True},
    "experts": {"heads": {"type": "ple"}, "blocks": [{"type": "mlp", "hidden": [8]}]},
}
TASKS = torch.tensor([1.0, 0.5])


def build(layout: Layout, sizes: dict[str, int], settings: dict[str, Any]) -> Ranker:
    ranker = Ranker(layout, sizes, {}, RankerConfig.model_validate({"embedding_dim": 4} | settings), seed=1)
    with torch.no_grad():  # zero weights have zero gradients behind them
        for tensor in [*ranker.parameters(), *(t.weight for t in tables_of(ranker).values())]:
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(2)))
        for table in tables_of(ranker).values():
            table.weight[0] = 0.0
        if isinstance(ranker.norm, torch.nn.BatchNorm1d):
            ranker.norm.running_mean.fill_(0.3)
    return ranker


def row_by_row(ranker: Ranker, rows: dict[str, Any], layout: Layout) -> Fisher:
    ranker.eval()
    tables = tables_of(ranker)
    for table in tables.values():
        table.training = True  # note the look-ups
    total = Fisher.zeros(ranker)
    for i in range(len(rows["ids"])):
        batch = Batch.from_arrays({k: a[i : i + 1] for k, a in rows.items()}, layout)
        for t in range(len(layout.tasks)):
            if torch.isnan(batch.labels[0, t]):
                continue
            ranker.zero_grad()
            z = ranker(batch)[0, t]
            z.backward()
            p = torch.sigmoid(z.detach())
            factor = float(TASKS[t] * batch.weights[0, t] * p * (1 - p))
            for name, w in ranker.named_parameters():
                if w.grad is not None:
                    total.dense[name] += factor * w.grad**2
            for name, table in tables.items():
                grad = torch.zeros_like(table.weight)
                for looked_up, leaf in table.touched:
                    if leaf.grad is not None:
                        grad.index_add_(0, looked_up.long(), leaf.grad)
                grad[0] = 0.0
                total.tables[name] += factor * grad**2
                table.touched.clear()
    ranker.eval()
    return total


def assert_equal(one: Fisher, other: Fisher) -> None:
    for mine, theirs in ((one.dense, other.dense), (one.tables, other.tables)):
        assert mine.keys() == theirs.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], theirs[name], rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", CONFIGS)
def test_squares_of_single_rows(
    name: str, layout: Layout, table_rows: dict[str, int], rows: Callable[..., Any]
) -> None:
    ranker = build(layout, table_rows, CONFIGS[name])
    some = rows(24, seed=3)
    some["weights"] = np.random.default_rng(0).uniform(0, 2, some["weights"].shape).astype(np.float32)
    expected = row_by_row(ranker, some, layout)
    found = fisher(ranker, [Batch.from_arrays(some, layout)], TASKS)
    assert_equal(found, expected)
    assert all(bool((v > 0).any()) for k, v in found.tables.items() if k != "curve_effects")


def test_a_layer_over_the_events_of_a_history(
    layout: Layout, table_rows: dict[str, int], rows: Callable[..., Any]
) -> None:
    history = replace(layout.histories[0], encoder="transformer")
    layout = replace(layout, histories=(history,), tables=tuple(replace(t, dim=4) for t in layout.tables))
    ranker = build(layout, table_rows, {"blocks": [{"type": "mlp", "hidden": [8]}]})
    some = rows(12, seed=4)
    assert_equal(fisher(ranker, [Batch.from_arrays(some, layout)], TASKS), row_by_row(ranker, some, layout))


def test_how_rows_are_cut_into_batches_changes_nothing(
    layout: Layout, table_rows: dict[str, int], rows: Callable[..., Any]
) -> None:
    ranker = build(layout, table_rows, {})
    some = rows(40)
    pieces = [{k: a[i : i + 7] for k, a in some.items()} for i in range(0, 40, 7)]
    whole = fisher(ranker, [Batch.from_arrays(some, layout)], TASKS)
    assert_equal(fisher(ranker, [Batch.from_arrays(p, layout) for p in pieces], TASKS), whole)


def test_labels_do_not_enter_but_for_where_they_are_defined(
    layout: Layout, table_rows: dict[str, int], rows: Callable[..., Any]
) -> None:
    ranker = build(layout, table_rows, {})
    some = rows(16)
    whole = fisher(ranker, [Batch.from_arrays(some, layout)], TASKS)
    turned = some | {"labels": 1 - some["labels"]}
    assert_equal(fisher(ranker, [Batch.from_arrays(turned, layout)], TASKS), whole)
    nothing = some | {"labels": np.full_like(some["labels"], np.nan)}
    none = fisher(ranker, [Batch.from_arrays(nothing, layout)], TASKS)
    assert all(float(v.sum()) == 0 for v in [*none.dense.values(), *none.tables.values()])


def test_sums_and_multiples(layout: Layout, table_rows: dict[str, int], rows: Callable[..., Any]) -> None:
    ranker = build(layout, table_rows, {})
    one = fisher(ranker, [Batch.from_arrays(rows(8), layout)], TASKS)
    assert_equal(one.plus(one), one.scaled(2.0))
    assert_equal(Fisher.from_tensors(one.to_tensors("x"), "x"), one)
