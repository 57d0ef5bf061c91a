"""Histories hold a member's last events before the row's cut-off, newest first."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memberwise.data.arrays import load_arrays, save_arrays
from memberwise.data.events import TIME
from memberwise.data.frame import Frame
from memberwise.data.hashing import hash_text
from memberwise.data.history import HistoryRows, HistoryState
from memberwise.errors import DataError
from memberwise.schema import DAY, HOUR, History
from support.logs import START, Event, cut, events, schema, table
from support.twins import cutoff, history_row

TRAIN_END = START + DAY + 5 * HOUR
few = settings(max_examples=settings().max_examples // 5)
specs = st.builds(
    History,
    length=st.sampled_from([1, 2, 5, 40]),
    where=st.sampled_from([None, "num > 0"]),
    action=st.sampled_from([None, "cat"]),
    item=st.sampled_from([None, "cat"]),
    delay=st.sampled_from(["none", "hourly", "daily", "frozen"]),
).map(lambda h: h.model_copy(update={"name": "past"}))


def new(spec: History) -> HistoryState:
    return HistoryState(spec, ("y", "z"), "i", TRAIN_END)


def walk(spec: History, log: list[Event], size: int, state: HistoryState | None = None) -> list[HistoryRows]:
    state = state or new(spec)
    out = []
    for frame in cut(log, size, schema(features=[spec])):
        state.absorb(frame)
        out.append(state.read(frame))
    return out


def plain(parts: list[HistoryRows]) -> list[list[tuple[int, int, float]]]:
    """Lists of (item, action, age) by row; nothing stands behind the last event."""
    rows = []
    for part in parts:
        for items, actions, ages, known in zip(part.items, part.actions, part.ages, part.known, strict=True):
            n = int(known.sum())
            assert known[:n].all()
            assert not items[n:].any()
            assert not ages[n:].any()
            rows.append([(int(items[j]), int(actions[j]), float(ages[j])) for j in range(n)])
    return rows


def by_hand(spec: History, log: list[Event], rows: list[Event]) -> list[list[tuple[int, int, float]]]:
    def code(value: str | None) -> int:
        return hash_text(value) if value else 0

    return [
        [(code(i), code(a), float(np.float32(age))) for i, a, age in history_row(spec, log, row, TRAIN_END)]
        for row in rows
    ]


@few
@given(spec=specs, log=events())
def test_equals_the_history_by_hand_however_the_log_is_cut(spec: History, log: list[Event]):
    expected = by_hand(spec, log, log)
    for size in (len(log), 7, 1):
        assert plain(walk(spec, log, size)) == expected


@few
@given(spec=specs, log=events(), other=events(), data=st.data())
def test_nothing_at_or_after_the_cutoff_reaches_a_row(
    spec: History, log: list[Event], other: list[Event], data: st.DataObject
):
    moment = data.draw(st.sampled_from([e[TIME] for e in log]))
    changed = [e for e in log if e[TIME] < moment] + [e for e in other if e[TIME] >= moment]
    rows = [e for e in log if cutoff(e[TIME], spec.delay, TRAIN_END) <= moment]
    meaning = schema(features=[spec])

    def read(past: list[Event]) -> list[list[tuple[int, int, float]]]:
        state = new(spec)
        state.absorb(Frame(table(past), meaning, {}))
        return plain([state.read(Frame(table(rows), meaning, {}))])

    assert read(log) == read(changed)


@few
@given(spec=specs, log=events(), data=st.data())
def test_saved_in_the_middle_it_goes_on_as_without_a_stop(
    spec: History, log: list[Event], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
):
    stop = data.draw(st.integers(0, len(log)))
    first = new(spec)
    before = walk(spec, log[:stop], 5, first)
    path = tmp_path_factory.getbasetemp() / "history.safetensors"
    save_arrays(path, {"state": first.to_arrays()})
    second = new(spec)
    second.load_arrays(load_arrays(path)["state"])
    after = walk(spec, log[stop:], 5, second)
    assert plain(before + after) == plain(walk(spec, log, len(log)))


@few
@given(spec=specs, log=events())
def test_an_update_in_batches_equals_one_of_all(spec: History, log: list[Event]):
    rows = [{**e, TIME: log[-1][TIME] + 1 + k * HOUR} for k, e in enumerate(log)]
    meaning = schema(features=[spec])
    for size in (len(log), 4, 1):
        state = new(spec)
        for frame in cut(log, size, meaning):
            state.absorb(frame)
            state.advance(int(frame.times[-1]))
        assert plain([state.read(Frame(table(rows), meaning, {}))]) == by_hand(spec, log, rows)


def event(hours: float, **values: Any) -> Event:
    base: Event = {"m": "a", "i": "p", "cat": "u", "tags": [], "num": 1.0}
    base |= {"label:y": 1.0, "label:z": 0.0, "where:past": True}
    return base | {TIME: START + int(hours * HOUR)} | values


def test_an_older_batch_is_refused_and_a_row_does_not_see_its_future():
    spec = History(name="past", delay="none")
    state, meaning = new(spec), schema(features=[spec])
    state.absorb(Frame(table([event(1), event(5)]), meaning, {}))
    with pytest.raises(DataError, match="older than events already counted"):
        state.absorb(Frame(table([event(4)]), meaning, {}))
    state.advance(START + 6 * HOUR)
    with pytest.raises(DataError, match="would see its future"):
        state.read(Frame(table([event(5.5)]), meaning, {}))


def test_of_equal_times_the_later_in_the_log_is_the_newer():
    spec = History(name="past", delay="none", length=2)
    log = [event(1, i="p"), event(1, i="q"), event(1, i="r"), event(2)]
    items = [i for i, _, _ in plain(walk(spec, log, 2))[-1]]
    assert items == [hash_text("r"), hash_text("q")]


def test_a_member_with_a_million_events_costs_a_ring():
    """Memory is that of the last N events, however long the past is."""
    n = 1_000_000
    frame = pl.DataFrame(
        {
            TIME: np.arange(n) + START,
            "m": pl.Series(["a"]).new_from_index(0, n),
            "i": (np.arange(n) % 1000).astype(str),
            "label:y": np.ones(n, np.float32),
            "label:z": np.zeros(n, np.float32),
        }
    )
    spec = History(name="past", delay="none", length=3)
    state, meaning = new(spec), schema(features=[spec])
    for chunk in frame.iter_slices(200_000):
        state.absorb(Frame(chunk, meaning, {}))
        rows = state.read(Frame(chunk, meaning, {}))
    state.advance(START + n)
    assert rows.items[-1].tolist() == [hash_text(str(k)) for k in (998, 997, 996)]
    assert sum(a.nbytes for a in state.to_arrays().values()) < 100_000
