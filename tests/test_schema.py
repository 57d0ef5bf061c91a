"""The schema refuses what contradicts itself, and durations are exact."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from memberwise.schema import (
    DAY,
    HOUR,
    SECOND,
    Aggregate,
    Entity,
    Events,
    Schema,
    Split,
    aggregate_name,
    feature_name,
    format_duration,
    parse_duration,
    to_micros,
)

BASE: dict[str, Any] = {
    "events": Events(path="x.parquet", time="t"),
    "entities": {"member": {"id": "m"}, "item": {"id": "i", "path": "items.parquet"}},
    "tasks": [{"name": "y", "label": "y"}],
    "features": [{"kind": "categorical", "column": "m"}],
}


def refused(says: str, **settings: Any) -> None:
    with pytest.raises(ValidationError, match=says):
        Schema.model_validate(BASE | settings)


@given(st.integers(1, 10_000), st.sampled_from("smhdw"))
def test_a_duration_survives_writing_and_reading(number: int, unit: str):
    us = parse_duration(f"{number}{unit}")
    assert parse_duration(format_duration(us)) == us


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("1.5h", 3 * HOUR // 2),
        (" 2 d ", 2 * DAY),
        (timedelta(hours=1), HOUR),
        (7 * DAY, 7 * DAY),
        ("1w", 7 * DAY),
    ],
)
def test_durations_are_read(text: Any, us: int):
    assert parse_duration(text) == us


@pytest.mark.parametrize(
    "text", ["", "d", "7", 7, -DAY, "7y", "-1d", "0h", "1d 2h", None, timedelta(0), True]
)
def test_what_is_no_duration_is_refused(text: Any):
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


def test_a_time_without_a_zone_is_utc():
    assert to_micros(datetime(1970, 1, 2)) == to_micros(date(1970, 1, 2)) == DAY
    assert to_micros(datetime(1970, 1, 2, tzinfo=timezone(timedelta(hours=2)))) == DAY - 2 * HOUR
    assert to_micros(datetime(2262, 4, 12, 1, 2, 3, 999_999, tzinfo=UTC)) % SECOND == 999_999


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"train": 0.9, "valid": 0.1}, "leave nothing for test"),
        ({"train": 0.9, "valid": 0.2}, "leave nothing for test"),
        ({"valid_from": date(2020, 1, 1)}, "give both"),
        ({"valid_from": date(2020, 1, 2), "test_from": date(2020, 1, 2)}, "must be before"),
        ({"valid_from": datetime(2020, 1, 2, tzinfo=UTC), "test_from": date(2020, 1, 1)}, "must be before"),
        ({"train": 0.0}, "greater than 0"),
    ],
)
def test_a_split_leaves_rows_for_every_part(settings: dict[str, Any], says: str):
    with pytest.raises(ValidationError, match=says):
        Split(**settings)


def test_what_contradicts_itself_is_refused():
    categorical = {"kind": "categorical", "column": "m"}
    refused("'window' and 'half_life' exclude", aggregates=[{"by": "m", "window": "1d", "half_life": "1d"}])
    refused("do not decay", aggregates=[{"by": "m", "half_life": "1d", "distinct": ["i"]}])
    refused("not a task", aggregates=[{"by": "m", "rates": ["z"]}])
    refused("'m' stands twice", features=[categorical, categorical])
    refused("'m' stands twice", aggregates=[{"by": "m"}, {"by": "m"}])
    refused("'y' stands twice", tasks=[{"name": "y", "label": "y"}, {"name": "y", "label": "y"}])
    refused("something to look at", features=[])
    refused("'item' is missing", entities={"member": Entity(id="m")})
    refused("has no 'path'", features=[{"kind": "numeric", "column": "member.age"}])
    refused("not an entity", features=[{"kind": "vector", "entity": "shop", "path": "x.arrow"}])
    refused("give one of", features=[{"kind": "vector", "entity": "item"}])
    refused("needs 'dim'", features=[{"kind": "vector", "entity": "item", "made_by": "graph"}])
    refused("say whose vector", features=[{"kind": "vector", "made_by": "meta", "dim": 2}])
    refused("goes with 'made_by'", features=[{"kind": "vector", "by": ["m"], "path": "x.arrow"}])
    refused("not a plain name", tasks=[{"name": "a b", "label": "y"}])
    refused("cannot be the name of a directory", name="a/b")


def test_features_that_share_a_table_agree_on_it():
    one = {"kind": "categorical", "column": "m", "min_count": 3}
    refused(
        "shares table 't'",
        features=[{**one, "table": "t"}, {"kind": "categorical", "column": "i", "table": "t"}],
    )
    # A table is also named by the feature that has it for itself.
    refused("shares table 'm'", features=[one, {"kind": "categorical", "column": "i", "table": "m"}])
    both = [one, {"kind": "categorical", "column": "i", "table": "m", "min_count": 3}]
    assert len(Schema.model_validate(BASE | {"features": both}).features) == 2


@pytest.mark.parametrize("name", ["ids", "dense", "labels", "item", "time", "request"])
def test_a_vector_does_not_take_the_name_of_a_part_of_the_batch(name: str):
    refused("choose another", features=[{"kind": "vector", "entity": "item", "column": "v", "name": name}])


def test_names_say_what_is_counted():
    assert aggregate_name(Aggregate(by=["m", "i"])) == "m x i"
    assert aggregate_name(Aggregate(by="m", window="36h")) == "m, 36h"  # type: ignore[arg-type]
    assert aggregate_name(Aggregate(by="m", half_life="7d")) == "m, half-life 1w"  # type: ignore[arg-type]
    schema = Schema.model_validate(BASE | {"features": [{"kind": "age", "since": "item.born"}]})
    assert feature_name(schema.features[0]) == "age(item.born)"
