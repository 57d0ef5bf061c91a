"""Rows that cannot be used are set aside with the reason; all others become events."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from memberwise.data.events import ROW, TIME, EventChecker, Rejects
from memberwise.errors import ConfigError, DataError
from memberwise.schema import Aggregate, Entity, History, Schema, Task
from support.logs import check, impressions, schema

NAN = float("nan")


def raw(**columns: list[Any]) -> pl.DataFrame:
    n = len(next(iter(columns.values())))
    base = {"t": list(range(n)), "m": ["a"] * n, "i": ["p"] * n, "y": [1.0] * n, "num": [0.5] * n}
    return pl.DataFrame(base | columns, strict=False)


def meaning(**task: Any) -> Schema:
    return schema(tasks=[Task(**({"name": "y", "label": "y"} | task))])


def reasons(rows: pl.DataFrame, spec: Schema) -> dict[str, int]:
    return dict(check(rows, spec)[1].counts)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"t": [0, None, 1]}, "time cannot be read"),
        ({"t": ["2020-01-01", "never", "2020-01-02"]}, "time cannot be read"),
        ({"t": [0, -5, 1]}, "time cannot be read"),
        ({"m": ["a", None, "b"]}, "member id is missing"),
        ({"m": ["a", "", "b"]}, "member id is missing"),
        ({"m": [1.0, NAN, 2.0]}, "member id is missing"),
        ({"i": ["a", None, "b"]}, "item id is missing"),
        ({"y": [0.0, None, 1.0]}, "label of y is missing"),
        ({"y": [0.0, NAN, 1.0]}, "label of y is not in [0, 1]"),
        ({"y": [0.0, 1.5, 1.0]}, "label of y is not in [0, 1]"),
        ({"y": [0.0, -0.1, 1.0]}, "label of y is not in [0, 1]"),
        ({"y": [0.0, float("inf"), 1.0]}, "label of y is not in [0, 1]"),
        ({"y": ["0", "oops", "1"]}, "label of y is missing"),
    ],
)
def test_each_reason_is_counted_and_kept_with_the_row(columns: dict[str, list[Any]], reason: str):
    events, rejects = check(raw(**columns), meaning())
    assert rejects.counts == {reason: 1}
    assert rejects.read == 3
    assert events[ROW].to_list() == [0, 2]
    table = rejects.table()
    assert table is not None
    assert table.select("source_row", "reason").rows() == [(1, reason)]
    column, values = next(iter(columns.items()))
    kept = table[column][0]
    assert kept == (None if values[1] is None else pl.Series([values[1]]).cast(pl.String)[0])


def test_milliseconds_that_are_read_as_seconds_are_told():
    rows = raw(t=[None, 1_380_000_000_000, 1_380_000_000_001])
    assert reasons(rows, meaning()) == {"time cannot be read in s, but in ms (events.time_unit)": 3}


@pytest.mark.parametrize("weight", [NAN, -1.0, None, float("inf")])
def test_a_weight_that_is_none_is_a_reason(weight: float | None):
    rows = raw(w=[1.0, weight, 0.0])
    events, rejects = check(rows, meaning(weight="w"))
    assert rejects.counts == {"weight of y is not a number >= 0": 1}
    assert events["weight:y"].to_list() == [1.0, 0.0]


def test_a_row_with_several_faults_counts_once():
    rows = raw(t=[None], m=[None], y=[None])
    assert reasons(rows, meaning()) == {"time cannot be read": 1}


def test_a_mask_makes_a_label_undefined_and_rejects_nothing():
    rows = raw(y=[1.0, None, 7.0, 0.0, NAN], shown=[True, False, False, None, False])
    events, rejects = check(rows, meaning(mask="shown"))
    assert rejects.total == 0
    assert np.isnan(events["label:y"].to_numpy()).tolist() == [False, True, True, True, True]
    assert reasons(rows, meaning(mask="true")) == {
        "label of y is missing": 1,
        "label of y is not in [0, 1]": 2,
    }


def test_labels_are_what_the_expression_says():
    rows = raw(y=[3, 8, 10], kind=["a", "b", "b"])
    events, _ = check(rows, meaning(label="y >= 8 AND kind = 'b'", weight="y / 2"))
    assert events["label:y"].to_list() == [0.0, 1.0, 1.0]
    assert events["weight:y"].to_list() == [1.5, 4.0, 5.0]
    events, _ = check(rows, meaning(label="1", weight=2.5))
    assert events["label:y"].to_list() == [1.0] * 3
    assert events["weight:y"].to_list() == [2.5] * 3
    assert events.schema["label:y"] == pl.Float32


def test_an_expression_may_read_the_time_column():
    events, _ = check(raw(t=[0, 10, 20]), meaning(label="t > 5"))
    assert events["label:y"].to_list() == [0.0, 1.0, 1.0]
    assert events[TIME].to_list() == [0, 10_000_000, 20_000_000]


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("y >", "is not a SQL expression"),
        ("", "is not a SQL expression"),
        ("*", "is not a SQL expression"),
        ("nofun(y)", "is not a SQL expression"),
        ("m >= 8", "cannot be evaluated"),
        ("tags", "gives List"),
        ("avg(y) > 0", "reads other rows than its own"),
        ("y >= avg(y)", "reads other rows than its own"),
        ("y - lag(y) over (order by t)", "is not a SQL expression|reads other rows than its own|evaluated"),
    ],
)
def test_a_label_that_cannot_be_says_why(label: str, says: str):
    rows = raw(y=[0.0, 1.0, 0.9, 1.0], tags=[["a"]] * 4)
    with pytest.raises(ConfigError, match=says) as caught:
        check(rows, meaning(label=label))
    assert "tasks.y.label" in str(caught.value)


def test_a_condition_of_a_history_that_is_none_says_why():
    with pytest.raises(ConfigError, match=r"features.past.where.*gives String, Boolean is expected"):
        check(raw(z=[1.0]), schema(features=[History(name="past", where="m")], tasks=meaning().tasks))
    events, _ = check(
        raw(y=[0, 1]), schema(features=[History(name="past", where="y > 0")], tasks=meaning().tasks)
    )
    assert events["where:past"].to_list() == [False, True]


@pytest.mark.parametrize("column", [[["a"]], [{"a": 1}], [b"\xff"]])
def test_ids_of_another_kind_are_refused(column: list[Any]):
    with pytest.raises(DataError, match="column 'm'"):
        check(raw(m=column), meaning())


def test_ids_of_other_entities_may_be_missing():
    spec = schema(entities={"member": Entity(id="m"), "item": Entity(id="i"), "shop": Entity(id="s")})
    events, rejects = check(raw(s=["x", None], z=[1, 1]), spec)
    assert rejects.total == 0
    assert events["s"].to_list() == ["x", None]


def test_a_reserved_column_name_is_refused():
    with pytest.raises(ConfigError, match="'__time' is reserved"):
        EventChecker(schema(aggregates=[Aggregate(by=["__time"])]))


def test_lists_are_kept_readable_among_the_rejects():
    spec = schema(aggregates=[Aggregate(by=["tags"])], tasks=meaning().tasks)
    _, rejects = check(raw(y=[9.0, 1.0], tags=[["x", "y"], ["z"]]), spec)
    table = rejects.table()
    assert table is not None
    assert table["tags"].to_list() == ["['x', 'y']"]


def test_too_many_rejects_stop_with_every_reason():
    rejects = Rejects()
    checker = EventChecker(meaning())
    rows = raw(m=["a"] * 7 + [None] * 3, y=[1.0] * 5 + [5.0] * 2 + [1.0] * 3)
    checker.check(rows.select(checker.columns), 0, rejects)
    with pytest.raises(DataError) as caught:
        rejects.check(0.3, "log.parquet")
    said = str(caught.value)
    assert "log.parquet: 5 of 10 rows (50.0%) cannot be used, more than the limit of 30.0%" in said
    assert "3 x member id is missing; 2 x label of y is not in [0, 1]" in said
    assert "events.max_rejected" in said
    rejects.check(0.5, "log.parquet")


def test_all_rejects_are_counted_and_a_bounded_number_kept():
    rejects = Rejects(kept_rows=5)
    checker = EventChecker(meaning())
    for first in (0, 4, 8):
        checker.check(raw(m=[None] * 4).select(checker.columns), first, rejects)
    table = rejects.table()
    assert table is not None
    assert rejects.total == 12
    assert table["source_row"].to_list() == [0, 1, 2, 3, 4]


def test_only_what_is_read_must_be_there():
    checker = EventChecker(schema(tasks=meaning().tasks, aggregates=[Aggregate(by=["i"])]))
    assert set(checker.columns) == {"t", "m", "i", "num", "y"}
    assert set(checker.text_columns) == {"m", "i"}
    assert len(check(impressions(10), meaning())[0]) == 10
