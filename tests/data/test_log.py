"""A log of any order and size comes back in time order, whole, and without parting a moment."""

from __future__ import annotations

import itertools
import resource
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memberwise.data.events import ROW, TIME, EventChecker, Rejects
from memberwise.data.log import EventLog, sort_events
from memberwise.errors import DataError
from memberwise.schema import Aggregate, Events, Schema, Task
from support.logs import START, STEP, impressions, schema


def meaning(**settings: object) -> Schema:
    return schema(
        **{"tasks": [Task(name="y", label="y")], "aggregates": [Aggregate(by=["m", "tags"])], **settings}
    )


def sort(source: object, work: Path, chunk_rows: int = 131_072, spec: Schema | None = None) -> EventLog:
    spec = spec or meaning()
    return sort_events(
        source, EventChecker(spec), work.with_name(work.name + "-log"), Rejects(), chunk_rows=chunk_rows
    )  # type: ignore[arg-type]


def together(log: EventLog) -> pl.DataFrame:
    return pl.concat(list(log.chunks()))


def expected(raw: pl.DataFrame) -> pl.DataFrame:
    spec = meaning()
    checker = EventChecker(spec)
    return checker.check(raw.select(checker.columns), 0, Rejects()).sort(TIME, ROW)


def shuffled(rows: int, seed: int) -> pl.DataFrame:
    return impressions(rows, seed).sample(fraction=1, shuffle=True, seed=seed)


@settings(max_examples=settings().max_examples // 5)
@given(
    ticks=st.lists(st.integers(0, 30), min_size=1, max_size=80),
    pieces=st.integers(1, 6),
    chunk=st.sampled_from([1, 2, 7, 1000]),
)
def test_the_external_sort_is_a_stable_sort(
    ticks: list[int], pieces: int, chunk: int, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("log")
    raw = pl.DataFrame(
        {
            "t": pl.Series([START + k * STEP for k in ticks]).cast(pl.Datetime("us")),
            "m": [f"m{k}" for k in range(len(ticks))],
            "i": "i",
            "y": 1,
            "num": 0.0,
            "tags": [["a"]] * len(ticks),
        }
    )
    for k, part in enumerate(np.array_split(np.arange(len(ticks)), pieces)):
        raw[part.tolist()].write_parquet(folder / f"{k}.parquet")
    log = sort(folder, folder / "work", chunk)
    order = np.argsort(np.array(ticks), kind="stable")
    assert together(log)[ROW].to_list() == order.tolist()
    assert together(log)["m"].to_list() == [f"m{k}" for k in order]
    assert len(log) == len(ticks)
    assert (log.times() == np.array(ticks)[order] * STEP + START).all()
    ends = [(int(c[TIME][0]), int(c[TIME][-1])) for c in log.chunks()]
    assert all(last < first for (_, last), (first, _) in itertools.pairwise(ends))


def test_files_out_of_order_with_lists_and_missing_values(tmp_path: Path):
    raw = shuffled(5000, 3)
    for k in range(5):
        raw[k * 1000 : (k + 1) * 1000].write_parquet(tmp_path / f"{k}.parquet", row_group_size=170)
    log = sort(tmp_path, tmp_path / "work", 300)
    assert together(log).equals(expected(raw))
    assert len(list(log.chunks())) > 10


def test_chunks_are_of_about_the_size_that_was_asked_for(tmp_path: Path):
    times = pl.Series(np.arange(20_000) * 1_000_000 + START).cast(pl.Datetime("us"))
    raw = impressions(20_000).with_columns(t=times)
    sizes = [len(c) for c in sort(raw, tmp_path, 1000).chunks()]
    assert max(sizes) < 2500


def test_a_log_of_one_moment_is_one_chunk(tmp_path: Path):
    raw = impressions(500).with_columns(t=pl.lit(0))
    log = sort(raw, tmp_path, 10)
    assert [len(c) for c in log.chunks()] == [500]
    assert together(log)[ROW].to_list() == list(range(500))


def test_categoricals_of_several_pieces(tmp_path: Path):
    """Each file numbers its categories anew."""
    for k in range(4):
        raw = shuffled(300, k).with_columns(
            pl.format("m{}", pl.lit(k)).cast(pl.Categorical).alias("m"),
            pl.lit([f"g{k}"]).cast(pl.List(pl.Categorical)).alias("tags"),
        )
        raw.write_parquet(tmp_path / f"{k}.parquet")
    log = sort(tmp_path, tmp_path / "work", 100)
    assert together(log)["m"].cast(pl.String).value_counts(sort=True)["count"].to_list() == [300] * 4


def test_more_pieces_than_files_may_be_open(tmp_path: Path):
    shuffled(6000, 0).write_parquet(tmp_path / "a.parquet", row_group_size=20)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, soft), hard))
        log = sort(tmp_path / "a.parquet", tmp_path / "work", 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(log) == 6000


def test_an_empty_log_says_so(tmp_path: Path):
    empty = impressions(10)[:0]
    empty.write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="the log is empty"):
        sort(empty, tmp_path / "work")
    with pytest.raises(DataError, match=r"empty\.parquet: the log is empty"):
        sort(tmp_path / "empty.parquet", tmp_path / "work")


def test_a_log_without_one_usable_row_gives_the_reasons(tmp_path: Path):
    raw = impressions(10).with_columns(m=pl.lit(None, pl.String))
    with pytest.raises(DataError, match="10 x member id is missing"):
        sort(raw, tmp_path / "work")
    lenient = meaning(events=Events(path="x", time="t", max_rejected=1.0))
    with pytest.raises(DataError, match="none of the 10 rows can be used"):
        sort(raw, tmp_path / "work", spec=lenient)


def test_more_rejects_than_the_limit_stop_the_run(tmp_path: Path):
    raw = impressions(1000).with_columns(y=pl.when(pl.int_range(pl.len()) < 11).then(9).otherwise(1))
    with pytest.raises(DataError, match=r"11 of 1,000 rows \(1\.1%\).*11 x label of y is not in \[0, 1\]"):
        sort(raw, tmp_path / "a")
    one_less = raw.with_columns(y=pl.when(pl.int_range(pl.len()) == 0).then(1).otherwise("y"))
    assert len(sort(one_less, tmp_path / "b")) == 990


def test_a_missing_column_is_named_before_anything_is_read(tmp_path: Path):
    with pytest.raises(DataError, match=r"column 'num' missing in the table.*\n.*the table has: t, m, i"):
        sort(impressions(10).drop("num"), tmp_path)


def test_nothing_is_left_behind(tmp_path: Path):
    log = sort(impressions(50), tmp_path / "work")
    rows = together(log)
    log.remove()
    assert list(tmp_path.iterdir()) == []
    assert len(rows) == 50
