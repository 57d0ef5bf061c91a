"""Rows of embedding tables: by train alone, and stable."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from hypothesis import given
from hypothesis import strategies as st

from memberwise.data.hashing import hash_text, hash_values
from memberwise.data.vocabulary import FIRST, MISSING, UNSEEN, Vocabulary
from memberwise.nn.qr_embedding import qr_hash_rows

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
    one, other = Vocabulary("film", "hash", remainders=1000), Vocabulary("genre", "hash", remainders=1000)
    assert one.encode(hashed(["17", "a", "🎬", None])).tolist() == PINNED
    values = hashed([str(k) for k in range(2000)])
    rows = one.encode(values)
    assert (rows != other.encode(values)).mean() > 0.99
    assert rows.min() >= FIRST
    assert rows.max() < one.rows == FIRST + 2 * (4_294_968 + 1000)


PINNED = [
    [2557150, 4295325, 6594648, 8591738],
    [3553898, 4295000, 7648445, 8591135],
    [3034216, 4295949, 8315640, 8591574],
    [1, -1, -1, -1],
]


def test_the_rows_of_a_hashed_value_are_those_of_the_layer():
    """Another program: torch on signed numbers, tables one by one."""
    table = Vocabulary("film", "hash")
    values = hashed([str(k) for k in range(500)])
    bits = torch.from_numpy(values.view(np.int64).copy())
    expected = qr_hash_rows(bits, 1 << 16, salt=hash_text("film")).numpy()
    starts = FIRST + (1 << 16) * np.arange(4)
    np.testing.assert_array_equal(table.encode(values), expected + starts)


@given(st.lists(st.integers(1, 2**64 - 1), unique=True, min_size=2, max_size=50), st.integers(1, 2**20))
def test_different_values_have_different_rows(values: list[int], remainders: int):
    rows = Vocabulary("t", "hash", remainders=remainders).encode(np.array(values, np.uint64))
    assert len(np.unique(rows, axis=0)) == len(values)


def test_a_hashed_table_knows_no_unseen_value():
    table = Vocabulary("t", "hash")
    rows = table.encode(hashed(["a", None]))
    assert (rows[0] >= FIRST).all()
    assert rows[1].tolist() == [1, -1, -1, -1]
    assert (table.freeze(np.ones(4, np.int64)) == np.arange(table.rows)).all()
