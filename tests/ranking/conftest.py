"""Small rows with a known truth, without any file."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from memberwise.data.layout import HistoryField, IdField, Layout, Table
from memberwise.data.normalise import DenseColumn

Arrays = dict[str, npt.NDArray[Any]]

LAYOUT = Layout(
    tasks=("click", "like"),
    tables=(Table("user"), Table("item", dim=4), Table("tags"), Table("history.action")),
    ids=(IdField("user", "user", 0, 1), IdField("item", "item", 1, 1), IdField("tags", "tags", 2, 3)),
    dense=(DenseColumn("price", indicator=True), DenseColumn("rate")),
    histories=(HistoryField("history", 4, "item", "history.action", "mean"),),
    vectors=(),
)
ROWS = {"user": 12, "item": 22, "tags": 7, "history.action": 4}


def make_rows(n: int, seed: int = 0) -> Arrays:
    """Rows of `LAYOUT` whose clicks depend on user, item and rate."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(2, 12, n), rng.integers(2, 22, n)
    tags = rng.integers(2, 7, (n, 3))
    tags[:, 1:][rng.random((n, 2)) < 0.5] = -1
    price, rate = rng.normal(size=n), rng.normal(size=n)
    known = np.arange(4) < rng.integers(0, 5, n)[:, None]
    logit = 0.3 * (user - 7) - 0.2 * (item - 12) + rate
    click = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    like = np.where(click > 0, rng.random(n) < 0.5, np.nan).astype(np.float32)
    return {
        "ids": np.column_stack([user, item, tags]).astype(np.int32),
        "dense": np.column_stack([price, rate, np.zeros(n)]).astype(np.float32),
        "history.items": np.where(known, rng.integers(2, 22, (n, 4)), -1).astype(np.int32),
        "history.actions": np.where(known, rng.integers(2, 4, (n, 4)), -1).astype(np.int32),
        "history.ages": rng.exponential(10, (n, 4)).astype(np.float32),
        "labels": np.column_stack([click, like]),
        "weights": np.ones((n, 2), np.float32),
    }


@pytest.fixture
def layout() -> Layout:
    return LAYOUT


@pytest.fixture
def table_rows() -> dict[str, int]:
    return ROWS


@pytest.fixture
def rows() -> Callable[..., Arrays]:
    return make_rows
