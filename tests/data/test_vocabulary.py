"""Rows of embedding tables: by train alone, and stable."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from memberwise.data.hashing import hash_values
from memberwise.data.vocabulary import FIRST, MISSING, UNSEEN, Vocabulary

letters = st.lists(st.sampled_from([*"abcdefg", None]), max_size=40)


def hashed(values: list[str | None]) -> np.ndarray:
    return hash_values(pl.Series(values, dtype=pl.String))


@given(train=letters, later=letters, min_count=st.integers(1, 4))
def test_values_that_are_frequent_in_train_get_a_row_and_keep_it(
    train: list[str | None], later: list[str | None], min_count: int
):
    vocabulary = Vocabulary("t", "vocabulary", min_count)
    before = vocabulary.encode(hashed(train))
    after = vocabulary.encode(hashed(later))
    assert len({r for r in [*before, *after] if r >= FIRST}) == len({v for v in train + later if v})
    moved = vocabulary.freeze(np.bincount(before, minlength=vocabulary.rows))
    kept = {v for v in train if v and train.count(v) >= min_count}
    assert vocabulary.rows == FIRST + len(kept)
    rows = moved[before]
    assert (rows == vocabulary.encode(hashed(train))).all()
    assert (moved[after] == vocabulary.encode(hashed(later))).all()
    for value, row in zip(train, rows.tolist(), strict=True):
        assert row == MISSING if value is None else (row >= FIRST) == (value in kept)
    assert len({r for r in rows if r >= FIRST}) == len(kept)
    assert vocabulary.encode(hashed(["never", None])).tolist() == [UNSEEN, MISSING]
    assert vocabulary.counts.sum() == len(train)
    for value in kept:
        assert vocabulary.counts[vocabulary.encode(hashed([value]))[0]] == train.count(value)


@given(train=letters, later=letters, order=st.randoms())
def test_rows_do_not_depend_on_the_order_in_which_values_came(
    train: list[str | None], later: list[str | None], order: object
):
    """Nor on what came after train: the same train gives the same table."""
    other = train.copy()
    order.shuffle(other)  # type: ignore[attr-defined]
    tables = []
    for values in (train, later + other):
        vocabulary = Vocabulary("t", "vocabulary", 2)
        vocabulary.encode(hashed(values))
        counts = np.bincount(vocabulary.encode(hashed(train)), minlength=vocabulary.rows)
        vocabulary.freeze(counts)
        tables.append(vocabulary.encode(hashed(list("abcdefg"))).tolist())
    assert tables[0] == tables[1]


@given(train=letters)
def test_saved_and_loaded_it_is_the_same(train: list[str | None]):
    vocabulary = Vocabulary("t", "vocabulary", 2)
    vocabulary.freeze(np.bincount(vocabulary.encode(hashed(train)), minlength=vocabulary.rows))
    again = Vocabulary("t", "vocabulary", 2)
    again.load_arrays(vocabulary.to_arrays())
    assert again.rows == vocabulary.rows
    assert (again.encode(hashed(list("abcxyz"))) == vocabulary.encode(hashed(list("abcxyz")))).all()


def test_hashed_rows_are_stable_and_salted_by_the_table():
    one, other = Vocabulary("film", "hash", buckets=1000), Vocabulary("genre", "hash", buckets=1000)
    assert one.encode(hashed(["17", "a", "🎬", None])).tolist() == PINNED
    values = hashed([str(k) for k in range(2000)])
    assert (one.encode(values) != other.encode(values)).mean() > 0.99
    rows = one.encode(values)
    assert rows.min() >= FIRST
    assert rows.max() < one.rows == FIRST + 1000
    # About as many distinct rows as balls in boxes: 1000 * (1 - exp(-2)).
    assert 820 < len(np.unique(rows)) < 910


PINNED = [157, 344, 237, 1]


def test_a_hashed_table_knows_no_unseen_value():
    table = Vocabulary("t", "hash", buckets=2)
    assert set(table.encode(hashed(list("abcdefgh"))).tolist()) == {FIRST, FIRST + 1}
    assert (table.freeze(np.ones(4, np.int64)) == np.arange(4)).all()
