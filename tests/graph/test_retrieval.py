"""Candidates: what was seen is gone before the best are taken, and recency is part of the search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memberwise.graph.encoder import Embedded
from memberwise.graph.retrieval import ItemIndex, RetrievalConfig, Similar, with_repeats
from memberwise.schema import DAY

N, D = 60, 8


def _keys(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, D)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(0, N - 1)), st.integers(1, 70), st.floats(0, 5), st.booleans())
def test_it_is_the_order_of_all_unseen_items(seen: set[int], k: int, recency: float, exact: bool) -> None:
    config = RetrievalConfig(recency=recency, half_life="2d", exact_below=1000 if exact else 0)
    rng = np.random.default_rng(1)
    last, moment = rng.integers(1, 50 * DAY, N), 50 * DAY
    last[:5] = 0
    keys, query = _keys(), _keys(2)[0]
    scores = keys @ query + recency * np.where(last > 0, 2.0 ** (-(moment - last) / (2 * DAY)), 0)
    expected = [i for i in np.argsort(-scores) if i not in seen][:k]
    index = ItemIndex(keys, last, moment, config)
    items, found = index.search(query, k, np.array(sorted(seen), np.int32))
    assert items.tolist() == expected
    np.testing.assert_allclose(found, scores[items], rtol=1e-4, atol=1e-4)


def test_every_item_of_a_small_index_is_found_and_every_time_alike() -> None:
    config, none = RetrievalConfig(exact_below=0), np.zeros(0, np.int32)
    for seed in range(80):
        keys = _keys(seed)
        ends = [
            ItemIndex(keys, np.zeros(N, np.int64), 0, config).search(keys[0], N, none)[0] for _ in range(2)
        ]
        assert sorted(ends[0].tolist()) == list(range(N))
        np.testing.assert_array_equal(*ends)


def test_filtering_behind_the_top_k_would_lose_them_all() -> None:
    """The lesson from deployment: a member that has seen the best k still gets k others."""
    keys, query = _keys(), _keys(2)[0]
    index = ItemIndex(keys, np.zeros(N, np.int64), 0, RetrievalConfig())
    best, _ = index.search(query, 10, np.zeros(0, np.int32))
    others, _ = index.search(query, 10, best)
    assert len(others) == 10
    assert not set(best) & set(others)


def test_an_empty_index_finds_nothing() -> None:
    index = ItemIndex(np.zeros((0, D), np.float32), np.zeros(0, np.int64), 0, RetrievalConfig())
    assert len(index.search(np.zeros(D, np.float32), 5, np.zeros(0, np.int32))[0]) == 0


def test_similar_is_the_order_of_cosines_without_the_node_itself() -> None:
    vectors = _keys()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit[7]
    rows, found = Similar(vectors).search(7, 5)
    assert rows.tolist() == [i for i in np.argsort(-cosines) if i != 7][:5]
    np.testing.assert_allclose(found, cosines[rows], atol=1e-4)


def test_what_a_member_comes_back_to_joins_the_candidates() -> None:
    keys, query = _keys(), _keys(2)[:1]
    scores = (keys @ query[0]).astype(np.float64)
    recent, bonus = np.array([[3, 9, 3, -1]], np.int32), np.array([[20.0, 0.0, 5.0, 0.0]], np.float32)
    member = Embedded(query, query, recent, bonus)
    scores[3] += 25.0
    found = np.argsort(-(keys @ query[0]))[:8].astype(np.int32)
    items, values = with_repeats(found, (keys @ query[0])[found], member, keys, 8)
    every = sorted({*found.tolist(), 3, 9}, key=lambda i: -scores[i])[:8]
    assert items.tolist() == every
    assert items[0] == 3
    assert values[0] == pytest.approx(scores[3], rel=1e-4)
    assert with_repeats(found, values, Embedded(query, query), keys, 8)[0] is found
