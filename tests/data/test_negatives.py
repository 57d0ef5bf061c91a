"""Negatives come from what was available, never from what the member chose at that time."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memberwise.data.arrays import load_arrays, save_arrays
from memberwise.data.events import DRAWN, ROW, TIME
from memberwise.data.frame import Frame
from memberwise.data.history import HistoryState
from memberwise.data.negatives import NegativeSampler
from memberwise.schema import DAY, HOUR, History, Negatives, Schema
from support.logs import START, Event, check, events, impressions, schema, table

few = settings(max_examples=settings().max_examples // 5)
specs = st.builds(
    Negatives,
    per_positive=st.integers(1, 5),
    draw=st.sampled_from(["uniform", "popularity"]),
    within=st.sampled_from([[], ["cat"], ["cat", "m"]]),
    window=st.sampled_from([None, "1h", "1d"]),
)
EXAMPLE = table(
    [
        {TIME: START, "m": "a", "i": "p", "cat": "u", "tags": [], "num": 1.0}
        | {"label:y": 1.0, "label:z": 1.0, "where:past": True}
    ]
)


def meaning(spec: Negatives, **settings: Any) -> Schema:
    return schema(negatives=spec, **settings)


def expand(spec: Negatives, log: pl.DataFrame, size: int, seed: int = 0) -> pl.DataFrame:
    """All rows; pieces end where a moment ends, as those of a sorted log do."""
    sampler = NegativeSampler(meaning(spec, seed=seed))
    return pl.concat([sampler.expand(piece) for piece in moments(log, size)])


def moments(log: pl.DataFrame, size: int) -> list[pl.DataFrame]:
    pieces, at = [], 0
    while at < len(log):
        end = min(at + size, len(log))
        while end < len(log) and log[TIME][end] == log[TIME][end - 1]:
            end += 1
        pieces.append(log[at:end])
        at = end
    return pieces


def _available(spec: Negatives, log: list[Event], event: Event) -> bool:
    """Whether the event's own item had an event before, in its group and within the window."""
    group = [event[c] for c in spec.within]
    seen = [
        e[TIME]
        for e in log
        if e["i"] == event["i"] and e[TIME] < event[TIME] and [e[c] for c in spec.within] == group
    ]
    if not seen or None in group:
        return False
    return spec.window is None or max(seen) >= event[TIME] - spec.window


@few
@given(spec=specs, log=events(max_size=40))
def test_a_drawn_item_was_available_and_not_chosen(spec: Negatives, log: list[Event]):
    expanded = expand(spec, table(log), 10)
    kept, labels = expanded.filter(~pl.col(DRAWN)).drop(DRAWN), ["label:y", "label:z"]
    assert kept.drop(labels).equals(table(log).drop(labels))
    available = [_available(spec, log, e) for e in log]
    for before, after, could in zip(log, kept.to_dicts(), available, strict=True):
        for label in labels:
            # No label where the item itself could never have been drawn.
            expected = before[label] if could else math.nan
            assert after[label] == pytest.approx(expected, nan_ok=True)
    rows = expanded.to_dicts()
    assert [r[TIME] for r in rows] == sorted(r[TIME] for r in rows)
    drawn: Counter[int] = Counter()
    for r in (r for r in rows if r[DRAWN]):
        group = [r[c] for c in spec.within]
        seen = [
            e[TIME]
            for e in log
            if e["i"] == r["i"] and e[TIME] < r[TIME] and [e[c] for c in spec.within] == group
        ]
        assert seen, "an item that had no event before"
        if spec.window is not None:
            assert max(seen) >= r[TIME] - spec.window
        assert None not in group
        chosen = {e["i"] for e in log if e["m"] == r["m"] and e[TIME] == r[TIME]}
        assert r["i"] not in chosen
        assert r["label:y"] == 0.0
        assert r["label:z"] == 0.0
        assert not r["where:past"]
        drawn[r[ROW]] += 1
        assert available[r[ROW]]
        source = log[r[ROW]]
        assert [r[c] for c in (TIME, "m", "cat")] == [source[c] for c in (TIME, "m", "cat")]
    assert all(n <= spec.per_positive for n in drawn.values())
    pairs = [(r[ROW], r["i"]) for r in rows if r[DRAWN]]
    assert len(pairs) == len(set(pairs)), "an item was drawn twice for one event"


@few
@given(spec=specs, log=events(max_size=40))
def test_however_the_log_is_cut_the_draws_are_the_same(spec: Negatives, log: list[Event]):
    whole = expand(spec, table(log), len(log))
    for size in (1, 7):
        assert expand(spec, table(log), size).equals(whole)


@few
@given(spec=specs, log=events(max_size=30), other=events(max_size=30), data=st.data())
def test_later_events_do_not_change_earlier_draws(
    spec: Negatives, log: list[Event], other: list[Event], data: st.DataObject
):
    moment = data.draw(st.sampled_from([e[TIME] for e in log]))
    past = [e for e in log if e[TIME] < moment]
    changed = past + [e for e in other if e[TIME] >= moment]
    earlier = pl.col(TIME) < moment
    if past:
        found = expand(spec, table(changed), 50).filter(earlier)
        assert found.equals(expand(spec, table(log), 50).filter(earlier))


@few
@given(spec=specs, log=events(max_size=40), data=st.data())
def test_saved_in_the_middle_it_goes_on_as_without_a_stop(
    spec: Negatives, log: list[Event], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
):
    # Ids with every character that could part them in a file.
    names = {"p": "", "q": "a\nb", "r": "a b", "s": "\n", "🎬": ""} | {"p": "🎬,\t|"}
    log = [{**e, "i": names[e["i"]]} for e in log]
    pieces = moments(table(log), 3)
    stop = data.draw(st.integers(0, len(pieces)))
    first = NegativeSampler(meaning(spec))
    found = [first.expand(p) for p in pieces[:stop]]
    path = tmp_path_factory.getbasetemp() / "negatives.safetensors"
    save_arrays(path, {"negatives": first.to_arrays()})
    second = NegativeSampler(meaning(spec))
    second.load_arrays(load_arrays(path)["negatives"])
    found += [second.expand(p) for p in pieces[stop:]]
    assert pl.concat(found).equals(expand(spec, table(log), 3))
    whole = NegativeSampler(meaning(spec))
    for p in pieces:
        whole.expand(p)
    assert second.statement() == whole.statement()


def one_moment_later(spec: Negatives, past: list[str], rows: int, seed: int = 0) -> Counter[str]:
    """What is drawn for many members after a past of given items."""
    # "new" had an event too, so that choosing it can be told from not choosing it.
    day = [{**EXAMPLE.row(0, named=True), "i": i, TIME: START + k} for k, i in enumerate(["new", *past])]
    now = [{**day[0], TIME: START + DAY, "m": f"m{k}", "i": "new"} for k in range(rows)]
    found = expand(spec, table(day + now), 1_000_000, seed).filter(pl.col(DRAWN), pl.col(TIME) == START + DAY)
    return Counter(found["i"].to_list())


def test_uniform_draws_do_not_care_how_often_an_item_was_chosen():
    past = ["p"] * 80 + ["q"] * 15 + ["r"] * 5
    drawn = one_moment_later(Negatives(per_positive=1), past, 3000)
    assert all(abs(drawn[i] / 3000 - 1 / 3) < 0.04 for i in "pqr")
    assert drawn["new"] == 0


def test_popular_items_are_drawn_as_often_as_they_were_chosen():
    past = ["p"] * 80 + ["q"] * 15 + ["r"] * 5
    drawn = one_moment_later(Negatives(per_positive=1, draw="popularity"), past, 3000)
    assert [round(drawn[i] / 3000, 1) for i in "pqr"] == [0.8, 0.2, 0.0] or all(
        abs(drawn[i] / 3000 - share) < 0.03 for i, share in zip("pqr", (0.8, 0.15, 0.05), strict=True)
    )


def test_the_seed_decides_the_draws():
    past = [f"i{k}" for k in range(50)]
    spec = Negatives(per_positive=2)
    assert one_moment_later(spec, past, 20, seed=1) == one_moment_later(spec, past, 20, seed=1)
    assert one_moment_later(spec, past, 20, seed=1) != one_moment_later(spec, past, 20, seed=2)


def test_want_of_items_is_stated():
    sampler = NegativeSampler(meaning(Negatives(per_positive=3)))
    sampler.expand(EXAMPLE)
    assert "1 events of items not available before have no label" in sampler.statement()
    sampler.expand(EXAMPLE.with_columns(pl.col(TIME) + 1))
    assert "3 could not be drawn for want of available items" in sampler.statement()


def test_drawn_rows_are_no_history():
    """What was not chosen did not happen: only the events themselves enter a member's history."""
    past = History(name="past", delay="none", length=50)
    spec = meaning(Negatives(per_positive=3), features=[past])
    log, _ = check(impressions(200).with_columns(z=pl.lit(None, pl.Int64)), spec)
    expanded = NegativeSampler(spec).expand(log.sort(TIME, maintain_order=True))
    assert expanded[DRAWN].sum() > 100
    row = EXAMPLE.with_columns(pl.lit("m1").alias("m"), pl.lit(START + 99 * DAY).alias(TIME))

    def items(rows: pl.DataFrame) -> list[int]:
        state = HistoryState(past, ("y", "z"), "i")
        state.absorb(Frame(rows, spec, {}))
        return state.read(Frame(row, spec, {})).items[0].tolist()

    assert items(expanded) == items(log.sort(TIME, maintain_order=True))


def test_lists_grow_to_many_groups_and_items():
    n = 20_000
    rng = np.random.default_rng(0)
    log = pl.DataFrame(
        {
            TIME: np.arange(n) // 3 * HOUR // 60 + START,
            ROW: np.arange(n),
            "m": rng.integers(0, 500, n).astype(str),
            "i": rng.integers(0, 3000, n).astype(str),
            "cat": rng.integers(0, 40, n).astype(str),
            "label:y": np.ones(n, np.float32),
        }
    )
    spec = Negatives(per_positive=2, within=["cat"], draw="popularity")
    assert expand(spec, log, 1_500).equals(expand(spec, log, n))
