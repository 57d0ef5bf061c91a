"""Reading rows at a later moment, and going back, leaves no trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memberwise.data.events import TIME
from memberwise.data.frame import Frame
from memberwise.data.pipeline import FeaturePipeline
from memberwise.schema import DAY, HOUR, Aggregate, History, Numeric
from support.logs import START, Event, cut, events, schema, table
from support.twins import aggregate_row

SPECS = [
    Aggregate(by=["m"], means=["num"], recency=True, delay="none", name="plain"),
    Aggregate(by=["tags"], distinct=["i"], window="7h", delay="hourly", name="window"),  # type: ignore[arg-type]
    Aggregate(by=["m", "cat"], half_life="5h", delay="daily", name="decay"),  # type: ignore[arg-type]
    Aggregate(by=["i"], delay="frozen", distinct=["m"], name="frozen"),
]


def arrays(pipeline: FeaturePipeline) -> dict[str, np.ndarray]:
    parts = [*pipeline.aggregates, *pipeline.histories.values()]
    return {f"{k}.{name}": a.copy() for k, part in enumerate(parts) for name, a in part.to_arrays().items()}


@settings(max_examples=settings().max_examples // 4)
@given(log=events(), hours=st.lists(st.integers(0, 200), min_size=1, max_size=4), settle=st.booleans())
def test_reading_later_rows_leaves_no_trace(log: list[Event], hours: list[int], settle: bool):
    past = History(name="past", length=3, delay="none")
    meaning = schema(aggregates=SPECS, features=[past, Numeric(column="num")])
    pipeline = FeaturePipeline(meaning, {}, train_end=START + DAY)
    for frame in cut(log, 6, meaning):
        pipeline.absorb(frame.events)
        if settle:
            pipeline.settle()
        else:
            pipeline.encode(frame)
    before = arrays(pipeline)
    for hour in hours:  # in any order: each is read from where the log ends
        rows = [{**e, TIME: log[-1][TIME] + 1 + hour * HOUR} for e in log]
        with pipeline.held():
            dense = pipeline.encode(Frame(table(rows), meaning, {}))["dense"]
        start = 1
        for state in pipeline.aggregates:
            expected = [aggregate_row(state.spec, log, row, START + DAY) for row in rows]
            found = dense[:, start : start + len(state.columns)]
            np.testing.assert_allclose(found, np.array(expected), rtol=2e-5, atol=2e-5)
            start += len(state.columns)
    after = arrays(pipeline)
    assert set(before) == set(after)
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)


def test_an_error_inside_also_leaves_no_trace():
    meaning = schema(aggregates=SPECS)
    pipeline = FeaturePipeline(meaning, {})
    event: dict[str, Any] = {"m": "a", "i": "p", "cat": "u", "tags": ["x"], "num": 1.0}
    event |= {"label:y": 1.0, "label:z": 0.0, "where:past": True, TIME: START}
    pipeline.absorb(table([event]))
    before = arrays(pipeline)
    later = Frame(table([{**event, TIME: START + 9 * DAY}]), meaning, {})

    def fail() -> None:
        with pipeline.held():
            pipeline.encode(later)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    for name, array in arrays(pipeline).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
