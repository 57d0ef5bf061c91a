"""Copies that share what they do not change are copies: bit by bit, whatever becomes of any of them."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memberwise.data import forgetting, hashing, segments
from memberwise.data.events import TIME
from memberwise.data.forgetting import without
from memberwise.data.frame import Frame
from memberwise.data.hashing import HashIndex, hash_text, hash_values
from memberwise.data.layers import Layered, Rows
from memberwise.data.pipeline import FeaturePipeline
from memberwise.data.segments import changes
from memberwise.schema import DAY, HOUR, Aggregate, History, Numeric, Schema
from support.logs import START, Event, events, impressions, schema, table
from support.logs import check as checked

SPECS = [
    Aggregate(by=["m"], means=["num"], recency=True, delay="none", name="plain"),
    Aggregate(by=["tags"], distinct=["i", "cat"], window="7h", delay="hourly", name="window"),  # type: ignore[arg-type]
    Aggregate(by=["m", "cat"], half_life="5h", delay="daily", name="decay"),  # type: ignore[arg-type]
    Aggregate(by=["i"], delay="frozen", distinct=["m"], name="frozen"),
]
MEANING = schema(
    aggregates=SPECS,
    features=[
        Numeric(column="num"),
        History(name="past", length=3, delay="none"),
        History(name="days", length=2, delay="daily"),
    ],
)
TRAIN_END = START + DAY
State = dict[str, dict[str, np.ndarray]]


def state(pipeline: FeaturePipeline) -> State:
    return {p: {n: np.array(a) for n, a in part.items()} for p, part in pipeline.to_arrays().items()}


def deep(pipeline: FeaturePipeline) -> FeaturePipeline:
    """A twin that shares nothing."""
    twin = FeaturePipeline(MEANING, {}, TRAIN_END)
    twin.load_arrays(state(pipeline))
    return twin


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    assert found.keys() == expected.keys(), where
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_same(found[name], value, f"{where} {name}")
        else:
            one, other = np.asarray(found[name]), np.asarray(value)
            assert one.dtype == other.dtype, (where, name)
            assert one.shape == other.shape, (where, name)
            assert one.tobytes() == other.tobytes(), (where, name)


def later(pipeline: FeaturePipeline, log: list[Event]) -> list[Event]:
    """A log that begins when the last event was."""
    shift = (pipeline.last_event or START) - log[0][TIME]
    return [{**event, TIME: event[TIME] + shift} for event in log]


def learn(pipeline: FeaturePipeline, log: list[Event], settle: bool) -> dict[str, np.ndarray]:
    frame = pipeline.absorb(table(log))
    arrays = pipeline.encode(frame)
    if settle:
        pipeline.settle()
    return arrays


def look(pipeline: FeaturePipeline, log: list[Event], hours: int) -> dict[str, np.ndarray]:
    moment = (pipeline.last_event or START) + 1 + hours * HOUR
    rows = [{**event, TIME: moment} for event in log]
    with pipeline.held():
        return pipeline.encode(Frame(table(rows), MEANING, {}))


STEPS = st.tuples(
    st.sampled_from(["update", "update", "learn", "look", "copy", "forget"]),
    st.integers(0, 100),
    events(max_size=8),
    st.booleans(),
    st.integers(0, 50),
)


def _renamed_alike(order: np.ndarray, codes: np.ndarray) -> np.ndarray:
    out = np.array(order)
    out[codes] = np.uint64(2**60) + codes.astype(np.uint64)
    return out


@settings(max_examples=settings().max_examples // 3)
@given(steps=st.lists(STEPS, min_size=2, max_size=9), fold=st.sampled_from([0, 1, 8, 10**6]))
def test_whatever_becomes_of_copies_they_are_as_good_as_deep_ones(steps: list[Any], fold: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashing, "FOLD", fold)
        patch.setattr(segments, "_SMALL", 0)
        patch.setattr(forgetting, "_renamed", _renamed_alike)
        first = deep(FeaturePipeline(MEANING, {}, TRAIN_END))  # its vocabularies do not grow
        versions = [(first, deep(first))]
        for kind, which, log, settle, hours in steps:
            one, twin = versions[which % len(versions)]
            if kind == "update":
                stored, before = one.views(), state(twin)
                newer, other = one.copy(), deep(twin)
                log = later(one, log)
                assert_same(learn(newer, log, settle), learn(other, log, settle), "features")
                assert_same(changes(stored, newer.views()), changes(before, state(other)), "segment")
                assert_same(stored, before, "what was stored")
                versions.append((newer, other))
            elif kind == "learn":
                log = later(one, log)
                assert_same(learn(one, log, settle), learn(twin, log, settle), "features")
            elif kind == "look":
                assert_same(look(one, log, hours), look(twin, log, hours), "features")
            elif kind == "copy":
                versions.append((one.copy(), deep(twin)))
            else:
                gone, own = hash_values(pl.Series([log[0]["m"]])), table(later(one, log[:1]))
                versions.append((without(one, gone, own)[0], without(twin, gone, own)[0]))
            for version, expected in versions:
                assert_same(state(version), state(expected), kind)


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 9), st.booleans(), st.lists(st.integers(0, 30), max_size=12)), max_size=12
    ),
    fold=st.sampled_from([0, 1, 8, 10**6]),
)
def test_an_index_and_its_copies_are_dicts(steps: list[Any], fold: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashing, "FOLD", fold)
        pool: list[tuple[HashIndex, dict[int, int]]] = [(HashIndex(), {})]
        for which, fresh, keys in steps:
            index, twin = pool[which % len(pool)]
            if fresh:
                index, twin = index.copy(), dict(twin)
                pool.append((index, twin))
            expected = [-1 if k == 0 else twin.setdefault(k, len(twin)) for k in keys]
            assert index.add(np.array(keys, np.uint64)).tolist() == expected
            for other, theirs in pool:
                assert len(other) == len(theirs)
                assert other.keys.tolist() == list(theirs)
                assert other.find(np.arange(31, dtype=np.uint64)).tolist() == [
                    theirs.get(k, -1) for k in range(31)
                ]


def large(rows: int = 60_000) -> tuple[FeaturePipeline, Schema]:
    meaning = schema(
        aggregates=[
            Aggregate(by=["m"], distinct=["i"], delay="none", name="m"),  # type: ignore[arg-type]
            Aggregate(by=["m", "i"], means=["num"], delay="none", name="pair"),  # type: ignore[arg-type]
        ],
        features=[Numeric(column="num"), History(name="past", length=10, delay="none")],
        tasks=[{"name": "y", "label": "y"}],
    )
    pipeline = FeaturePipeline(meaning, {})
    log, _ = checked(impressions(rows, members=rows // 4, items=200), meaning)
    pipeline.absorb(log)
    pipeline.settle()
    return pipeline, meaning


def test_an_update_of_a_copy_costs_what_it_touches() -> None:
    pipeline, meaning = large()
    more, _ = checked(impressions(300, seed=1, members=40, start=START + 20 * DAY), meaning)
    learned = pipeline.copy()  # compiles
    learned.absorb(more)
    learned.settle()
    stored = pipeline.views()
    tracemalloc.start()
    newer = pipeline.copy()
    frame = newer.absorb(more)
    dense = newer.encode(frame)["dense"]
    newer.settle()
    segment = changes(stored, newer.views())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    whole = segments.size(pipeline.to_arrays())
    assert whole > 8e6
    assert peak < whole / 8, f"{peak:,} bytes to move a state of {whole:,}"
    assert 0 < segments.size(segment) < peak
    assert np.isfinite(dense).any()
    views = newer.views()["aggregate/pair"]
    assert isinstance(views["sums"], Layered)
    assert np.shares_memory(views["sums"].base, np.asarray(stored["aggregate/pair"]["sums"]))


def test_what_stands_beside_is_bounded() -> None:
    """However long a chain of copies is, none carries more than its share, and the last is right."""
    rows = Rows({"a": np.arange(1000)})
    expected = np.arange(1000)
    rng = np.random.default_rng(0)
    beside, folded = [], 0
    for _ in range(60):
        last, rows = rows, rows.copy()
        at = rng.choice(1000, 10, replace=False)
        values = rng.integers(0, 99, 10)
        rows.put(at, {"a": values})
        assert not np.array_equal(np.asarray(last.views()["a"]), np.asarray(rows.views()["a"]))
        expected[at] = values
        view = rows.views()["a"]
        folded += not isinstance(view, Layered)
        beside.append(len(view.rows) if isinstance(view, Layered) else 0)
        np.testing.assert_array_equal(np.asarray(view), expected)
    assert max(beside) <= 1000 / hashing.FOLD
    assert 2 <= folded <= 10


def test_new_rows_hold_what_they_are_filled_with() -> None:
    rows = Rows({"a": np.array([5]), "b": np.array([[1.0, 2.0]])}, {"a": -7})
    newer = rows.copy()
    newer.make_room(3)
    newer.put(np.array([2]), {"a": np.array([8]), "b": np.array([[3.0, 4.0]])})
    views = newer.views()
    assert np.asarray(views["a"]).tolist() == [5, -7, 8]
    assert np.asarray(views["b"]).tolist() == [[1, 2], [0, 0], [3, 4]]
    assert newer.get(np.array([1, 2, 0]))["a"].tolist() == [-7, 8, 5]
    assert np.asarray(rows.views()["a"]).tolist() == [5]


def test_a_member_is_known_to_the_copy_that_saw_it() -> None:
    pipeline = FeaturePipeline(MEANING, {}, TRAIN_END)
    event: Event = {"m": "a", "i": "p", "cat": "u", "tags": ["x"], "num": 1.0}
    event |= {"label:y": 1.0, "label:z": 0.0, "where:past": True, TIME: START}
    pipeline.absorb(table([event]))
    newer = pipeline.copy()
    newer.absorb(table([{**event, "m": "b", TIME: START + 1}]))
    both = np.array([hash_text("a"), hash_text("b")], np.uint64)
    for version, expected in ((pipeline, [True, False]), (newer, [True, True])):
        assert version.aggregates[0].knows(both).tolist() == expected
        assert version.histories["past"].knows(both).tolist() == expected
