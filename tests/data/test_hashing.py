"""A value is the same value wherever it comes from, and a hash index is a dictionary."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memberwise.data.hashing import HashIndex, combine, hash_lists, hash_text, hash_values
from memberwise.errors import DataError


def one(value: Any, dtype: Any = None) -> int:
    return int(hash_values(pl.Series("x", [value], dtype=dtype))[0])


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ("17", pl.String),
        (17, pl.Int8),
        (17, pl.Int64),
        (17, pl.UInt32),
        (17, pl.UInt64),
        (17.0, pl.Float64),
        (17.0, pl.Float32),
        (17, pl.Decimal(10, 2)),
        ("17", pl.Categorical),
        ("17", pl.Enum(["3", "17"])),
        (b"17", pl.Binary),
    ],
)
def test_seventeen_is_seventeen(value: Any, dtype: Any):
    assert one(value, dtype) == hash_text("17")


@pytest.mark.parametrize(
    "column", [[17.0, 1.5], [17.0, None], [17.0, float("nan")], [17.0, 1e300], [17.0, float(2**60)], [17.0]]
)
def test_the_other_values_of_a_column_do_not_change_a_value(column: list[float | None]):
    assert hash_values(pl.Series(column))[0] == hash_text("17")


def test_a_fraction_is_another_value():
    assert one(17.5) == hash_text("17.5")
    assert one(-0.0) == one(0) == hash_text("0")


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_integers_are_their_digits_even_beyond_2_to_the_53(ids: list[int]):
    assert hash_values(pl.Series(ids, dtype=pl.Int64)).tolist() == [hash_text(str(i)) for i in ids]


def test_neighbours_above_2_to_the_53_stay_apart():
    ids = [2**53, 2**53 + 1, 2**63 - 1, 2**64 - 1]
    hashed = hash_values(pl.Series(ids, dtype=pl.UInt64))
    assert len(set(hashed.tolist())) == 4
    assert hashed.tolist() == hash_values(pl.Series([str(i) for i in ids])).tolist()


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(st.lists(st.none() | texts))
def test_texts_are_hashed_one_by_one(values: list[str | None]):
    expected = [hash_text(v) if v else 0 for v in values]
    assert hash_values(pl.Series(values, dtype=pl.String)).tolist() == expected


@pytest.mark.parametrize(
    "text", ["ünïcödé", "🎬🍿", "e\u0301", "\x00", " ", "0017", "a" * 1_000_000, "\ud800"]
)
def test_odd_ids_have_a_hash_of_their_own(text: str):
    assert hash_text(text) not in (0, hash_text("x"), hash_text("17"), hash_text("é"))


@pytest.mark.parametrize("missing", [None, "", float("nan"), float("inf"), -float("inf")])
def test_what_is_no_value_is_missing(missing: Any):
    assert one(missing) == 0
    assert hash_values(pl.Series([None, None])).tolist() == [0, 0]
    assert hash_values(pl.Series([], dtype=pl.String)).tolist() == []


def test_hashes_do_not_change_from_version_to_version():
    """A bundle saved today is read tomorrow."""
    assert [hash_text(t) for t in ("", "17", "a", "🎬")] == PINNED
    assert (
        combine(np.array([1, 5, 0, 2], np.uint64), np.array([2, 5, 9, 1], np.uint64)).tolist() == PINNED_PAIRS
    )
    assert one(True) == hash_text("true")
    assert one(datetime.date(2013, 9, 1)) == hash_text("2013-09-01")


PINNED = [17241709254077376921, 4515155089025077856, 15154266338359012955, 14500564071591113948]
PINNED_PAIRS = [583880340377267059, 15338668914452690656, 0, 17474652204475260503]


def test_pairs_know_their_order():
    a, b = np.array([1, 2, 7], np.uint64), np.array([2, 1, 7], np.uint64)
    assert not (combine(a, b) == combine(b, a))[:2].any()
    assert combine(a, np.zeros(3, np.uint64)).tolist() == [0, 0, 0]
    assert combine(np.zeros(3, np.uint64), a).tolist() == [0, 0, 0]


@pytest.mark.parametrize("column", [[[1, 2]], [{"a": 1}]])
def test_a_column_of_lists_says_what_to_do(column: list[Any]):
    with pytest.raises(DataError, match=r"column 'tags'.*one value is expected"):
        hash_values(pl.Series("tags", column))


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(DataError, match=r"column 'x'.*cannot be read as text"):
        one(b"\xff")


@given(
    st.lists(st.none() | st.lists(st.none() | st.sampled_from(["a", "b", "c", "", "d"]), max_size=6)),
    st.integers(1, 4),
    st.booleans(),
)
def test_a_list_gives_its_first_distinct_values(
    column: list[list[str | None] | None], limit: int, sliced: bool
):
    series = pl.Series("x", column, dtype=pl.List(pl.String))
    if sliced:
        series, column = series[1:], column[1:]
    flat, offsets = hash_lists(series, limit)
    rows = [list(dict.fromkeys(v for v in row or [] if v))[:limit] for row in column]
    assert np.diff(offsets).tolist() == [len(r) for r in rows]
    assert flat.tolist() == [hash_text(v) for r in rows for v in r]


def test_arrays_and_single_values_are_lists_too():
    flat, offsets = hash_lists(pl.Series([[1, 2], [2, 2]], dtype=pl.Array(pl.Int64, 2)), 5)
    assert offsets.tolist() == [0, 2, 3]
    assert flat[0] == hash_text("1")
    flat, offsets = hash_lists(pl.Series(["a", None, "b"]), 5)
    assert offsets.tolist() == [0, 1, 1, 2]
    assert hash_lists(pl.Series([None, None]), 3)[1].tolist() == [0, 0, 0]
    assert hash_lists(pl.Series([[], None], dtype=pl.List(pl.Null)), 3)[1].tolist() == [0, 0, 0]


@given(st.lists(st.lists(st.integers(0, 40), max_size=60), max_size=6))
def test_a_hash_index_is_a_dictionary(batches: list[list[int]]):
    index, twin = HashIndex(), {}
    for batch in batches:
        hashes = np.array(batch, np.uint64) * np.uint64(2**58 + 1)  # crowds the low bits
        before = [twin.get(h, -1) for h in hashes.tolist()]
        assert index.find(hashes).tolist() == before
        expected = [twin.setdefault(h, len(twin)) if h else -1 for h in hashes.tolist()]
        assert index.add(hashes).tolist() == expected
        assert index.keys.tolist() == list(twin)
    again = HashIndex(index.keys)
    assert again.find(index.keys).tolist() == list(range(len(twin)))


def test_a_hash_index_grows():
    keys = np.random.default_rng(0).integers(1, 2**64 - 1, 300_000, dtype=np.uint64)
    index = HashIndex()
    codes = np.concatenate([index.add(part) for part in np.array_split(keys, 7)])
    assert (index.keys[codes] == keys).all()
    assert (index.find(keys) == codes).all()
    assert len(index) == len(np.unique(keys))
    others = np.random.default_rng(1).integers(1, 2**64 - 1, 1000, dtype=np.uint64)
    assert (index.find(others) == -1).all()


def test_an_index_of_many_distinct_ids_tells_them_apart():
    assert len(HashIndex(hash_values(pl.Series(range(500_000))))) == 500_000
