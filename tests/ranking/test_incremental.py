"""Increments: what they move, what holds them, and that none counts twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memberwise import metrics
from memberwise.data.layout import Layout
from memberwise.data.loader import Loader
from memberwise.errors import DataError
from memberwise.ranking.config import RankerConfig
from memberwise.ranking.fisher import Fisher, tables_of
from memberwise.ranking.incremental import IncrementalConfig, Memory, _look_ups, _Pull, increment
from memberwise.ranking.predict import predict_logits, sigmoid
from memberwise.ranking.ranker import Ranker

TASKS = torch.tensor([1.0, 1.0])
CONFIG = IncrementalConfig(batch_size=32, cold_fisher_rows=400)
Rows = Callable[..., dict[str, Any]]


@pytest.fixture
def ranker(layout: Layout, table_rows: dict[str, int]) -> Ranker:
    config = RankerConfig.model_validate({"embedding_dim": 4, "blocks": [{"type": "mlp", "hidden": [8]}]})
    return Ranker(layout, table_rows, {}, config, seed=1)


@pytest.fixture
def memory(ranker: Ranker, rows: Rows, layout: Layout) -> Memory:
    return Memory.of(ranker, Loader(rows(400), layout, 64), TASKS, CONFIG)


def state(ranker: Ranker) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in ranker.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float = 0.0) -> None:
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0.0, atol=atol, msg=name)


def test_old_versions_stay_and_a_key_counts_once(
    ranker: Ranker, memory: Memory, rows: Rows, layout: Layout
) -> None:
    before, information = state(ranker), memory.last.dense["head_weight"].clone()
    newer, after = increment(ranker, memory, Loader(rows(64, 7), layout, 32), CONFIG, TASKS, "monday")
    assert_same(state(ranker), before)
    assert torch.equal(memory.last.dense["head_weight"], information)
    assert memory.applied == ()
    assert after.applied == ("monday",)
    moved = {k for k, v in state(newer).items() if not torch.equal(v, before[k])}
    assert {"head_weight", "wide_bias", "wide.weight"} <= moved
    assert not {k for k in moved if "running" in k or "num_batches" in k}  # normalisers are frozen
    with pytest.raises(DataError, match="monday was applied before"):
        increment(newer, after, Loader(rows(64, 7), layout, 32), CONFIG, TASKS, "monday")


def test_same_seed_same_weights(ranker: Ranker, memory: Memory, rows: Rows, layout: Layout) -> None:
    pair = [increment(ranker, memory, Loader(rows(64), layout, 32), CONFIG, TASKS, "a")[0] for _ in range(2)]
    assert_same(state(pair[0]), state(pair[1]))


def test_a_stiff_penalty_holds_every_weight_that_rows_have_settled(
    ranker: Ranker, memory: Memory, rows: Rows, layout: Layout
) -> None:
    firm = memory.last.scaled(1e12)
    held = Memory(memory.cold_weights, firm, firm, memory.rows)
    config = CONFIG.model_copy(update={"cold_weight": 0.0, "epochs": 3, "lr": 0.1, "embedding_lr": 0.5})
    newer, _ = increment(ranker, held, Loader(rows(64, 5), layout, 32), config, TASKS, "a")
    before, after = state(ranker), state(newer)
    for name, information in memory.last.dense.items():
        settled = information > 1e-6
        assert torch.allclose(before[name][settled], after[name][settled], atol=1e-4), name
    for name, information in memory.last.tables.items():
        settled = information > 1e-6
        key = f"{name}.weight"
        assert torch.allclose(before[key][settled], after[key][settled], atol=1e-4), name


def test_the_anchor_lies_between_cold_start_and_last_increment(
    ranker: Ranker, memory: Memory, rows: Rows, layout: Layout
) -> None:
    some = Loader(rows(256, 5), layout, 64)
    moved, after = increment(ranker, memory, some, CONFIG, TASKS, "a")
    at_cold = CONFIG.model_copy(update={"cold_weight": 1.0, "lr": 1e-12, "embedding_lr": 1e-12})
    back, _ = increment(moved, after, some, at_cold, TASKS, "b")
    assert_same(dict(back.named_parameters()), dict(ranker.named_parameters()), atol=1e-6)
    for name, table in tables_of(back).items():
        used = memory.last.tables[name].sum(1) > 0
        cold = memory.cold_weights[f"{name}.weight"]
        assert torch.allclose(table.weight[used], cold[used], atol=1e-6)


def test_only_rows_that_are_looked_up_move(
    ranker: Ranker, memory: Memory, rows: Rows, layout: Layout
) -> None:
    some = rows(64, 5)
    some["ids"][:, 0] = 4  # one user only
    newer, _ = increment(ranker, memory, Loader(some, layout, 32), CONFIG, TASKS, "a")
    at = ranker.wide.offsets["user"]
    moved = (newer.wide.weight - ranker.wide.weight).abs().sum(1)[at : at + 12] > 0
    assert moved[4]
    assert not moved[[2, 3, 5, 6, 7, 8, 9, 10, 11]].any()


def test_a_row_never_looked_up_starts_from_the_row_of_unseen_values(
    ranker: Ranker, rows: Rows, layout: Layout
) -> None:
    old = rows(400)
    old["ids"][old["ids"][:, 0] == 4, 0] = 5  # user 4 comes later
    memory = Memory.of(ranker, Loader(old, layout, 64), TASKS, CONFIG)
    new = rows(32, 5)
    new["ids"][:, 0] = 4
    still = CONFIG.model_copy(update={"lr": 1e-12, "embedding_lr": 1e-12})
    newer, after = increment(ranker, memory, Loader(new, layout, 32), still, TASKS, "a")
    table = newer._table("user")
    at = table.offsets["user"]
    torch.testing.assert_close(table.weight[at + 4], ranker._table("user").weight[at], rtol=0, atol=1e-6)
    name = next(n for n, t in tables_of(newer).items() if t is table)
    assert not memory.last.tables[name][at + 4].any()
    assert after.last.tables[name][at + 4].any()


def test_an_epoch_adds_up_to_the_penalty_of_a_row(
    ranker: Ranker, memory: Memory, rows: Rows, layout: Layout
) -> None:
    some = Loader(rows(100, 5), layout, 32)
    counts = _look_ups(ranker, some)
    pull = _Pull(ranker, memory, some, CONFIG)
    assert int(counts[-1].sum()) == int((np.asarray(some.arrays["ids"]) >= 0).sum())  # wide: ids alone
    for (name, _), (_, stiff, _), count in zip(tables_of(ranker).items(), pull.tables, counts, strict=True):
        used = count > 0
        whole = (stiff * count.unsqueeze(1))[used]
        torch.testing.assert_close(whole, memory.last.tables[name][used], rtol=1e-4, atol=1e-6)
        assert not stiff[~used].any()


def test_information_is_forgotten_down_to_a_floor(
    ranker: Ranker, memory: Memory, rows: Rows, layout: Layout
) -> None:
    config = CONFIG.model_copy(update={"forgetting": 0.5, "floor": 3.0})
    some = Loader(rows(64, 5), layout, 32)
    _, after = increment(ranker, memory, some, config, TASKS, "a")
    _, whole = increment(ranker, memory, some, CONFIG.model_copy(update={"forgetting": 1.0}), TASKS, "a")
    new = whole.last.plus(memory.last.scaled(-1.0))
    for name, h in after.last.dense.items():
        torch.testing.assert_close(
            h, 0.5 * memory.last.dense[name] + 1.5 + new.dense[name], rtol=1e-4, atol=1e-3
        )
    assert after.rows == 0.5 * 400 + 64
    for name, h in after.last.tables.items():
        untouched = (memory.last.tables[name] == 0) & (new.tables[name] == 0)
        assert not h[untouched].any()


def test_read_what_was_written_and_go_on_alike(
    ranker: Ranker, memory: Memory, rows: Rows, layout: Layout, tmp_path: Path
) -> None:
    some = Loader(rows(64, 5), layout, 32)
    newer, after = increment(ranker, memory, some, CONFIG, TASKS, "a")
    after.write(tmp_path)
    read = Memory.read(tmp_path)
    assert (read.applied, read.rows) == (after.applied, after.rows)
    more = Loader(rows(64, 6), layout, 32)
    one, _ = increment(newer, after, more, CONFIG, TASKS, "b")
    other, _ = increment(newer, read, more, CONFIG, TASKS, "b")
    assert_same(state(one), state(other))


def test_learns_what_is_new_and_keeps_what_is_old(ranker: Ranker, rows: Rows, layout: Layout) -> None:
    """Users 2-6 turn; users 7-11, absent from the increments, keep their taste."""
    old = rows(3000)
    empty = Fisher.zeros(ranker)
    train = CONFIG.model_copy(update={"epochs": 6, "lr": 1e-2, "embedding_lr": 0.1, "penalty": 0.0})
    blank = Memory({k: v.clone() for k, v in ranker.state_dict().items()}, empty, empty, 3000.0)
    cold, _ = increment(ranker, blank, Loader(old, layout, 32), train, TASKS, "cold")
    memory = Memory.of(cold, Loader(old, layout, 64), TASKS, CONFIG)
    new = rows(600, 9)
    turned = new["ids"][:, 0] <= 6
    new = {k: a[turned] for k, a in new.items()}
    new["labels"] = 1 - new["labels"]
    absent = rows(800, 11)
    absent = {k: a[absent["ids"][:, 0] > 6] for k, a in absent.items()}

    def loss(model: Ranker, some: dict[str, Any]) -> float:
        return float(metrics.log_loss(some["labels"][:, 0], sigmoid(predict_logits(model, some))[:, 0]))

    learn = CONFIG.model_copy(update={"epochs": 6, "lr": 1e-2, "embedding_lr": 0.1, "cold_weight": 0.0})
    free = learn.model_copy(update={"penalty": 0.0})
    held, _ = increment(cold, memory, Loader(new, layout, 32), learn, TASKS, "new")
    loose, _ = increment(cold, memory, Loader(new, layout, 32), free, TASKS, "new")
    assert loss(held, new) < loss(cold, new) - 0.05
    assert loss(held, absent) < loss(loose, absent) - 0.02


def test_a_loss_that_is_not_finite_is_refused(
    ranker: Ranker, memory: Memory, rows: Rows, layout: Layout
) -> None:
    some = rows(32)
    some["weights"][:] = np.inf
    with pytest.raises(DataError, match="the loss became"):
        increment(ranker, memory, Loader(some, layout, 32), CONFIG, TASKS, "a")
