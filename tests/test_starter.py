"""The proposal on logs of many kinds: what is found, what is left out, what is refused."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from memberwise.data.datasets import movietweetings
from memberwise.errors import DataError
from memberwise.project import Project
from memberwise.schema import Schema
from memberwise.starter import Proposal, propose

START = dt.datetime(2024, 1, 1)


def shop(rows: int = 4000, seed: int = 0) -> pl.DataFrame:
    """A log of what a shop showed, in time order, with a yes/no label."""
    rng = np.random.default_rng(seed)
    seconds = np.sort(rng.integers(0, 40 * 86_400, rows))
    items = rng.integers(0, 60, rows)
    return pl.DataFrame(
        {
            "user_id": rng.integers(0, 200, rows),
            "product_id": [f"p{i:03}" for i in items],
            "ts": [START + dt.timedelta(seconds=int(s)) for s in seconds],
            "clicked": (rng.random(rows) < 0.1 + 0.4 * (items % 3 == 0)).astype(np.int8),
            "device": rng.choice(["phone", "desktop", "tablet"], rows),
            "price": np.round(rng.lognormal(2, 0.3, rows), 2),
            "shelf": [["a", "b", "c"][i % 3] for i in items],
        }
    )


def products() -> pl.DataFrame:
    """The table of the shop's items."""
    return pl.DataFrame(
        {
            "id": [f"p{i:03}" for i in range(60)],
            "tags": [["red", "blue", "green"][: 1 + i % 3] for i in range(60)],
            "released": [dt.date(2020, 1, 1) + dt.timedelta(days=7 * i) for i in range(60)],
            "title": [f"A product of number {i}" for i in range(60)],
            "total_clicks": list(range(60)),
        }
    )


def written(tmp_path: Path, **tables: pl.DataFrame) -> list[str]:
    paths = []
    for name, table in tables.items():
        path = tmp_path / f"{name}.parquet"
        table.write_parquet(path)
        paths.append(str(path))
    return paths


def proposed(
    tmp_path: Path, *, ask: dict[str, Any] | None = None, **tables: pl.DataFrame
) -> tuple[Schema, Proposal]:
    """The proposal for tables, loaded as a project."""
    proposal = propose(written(tmp_path, **tables), base=tmp_path, **(ask or {}))
    (tmp_path / "project.yaml").write_text(proposal.yaml)
    return Project.load(tmp_path).config, proposal


def columns(schema: Schema) -> dict[str, Any]:
    found = {getattr(f, "column", getattr(f, "since", f.kind)): f for f in schema.features}
    return {str(k): v for k, v in found.items()}


def left_out(proposal: Proposal, column: str) -> str:
    """The reason that the file gives for leaving a column out, unwrapped."""
    text = " ".join(
        line.lstrip("# ") for line in proposal.yaml.split("Columns left out, and why:")[1].splitlines()
    )
    assert f"{column}: " in text, proposal.yaml
    return text.split(f"{column}: ")[1][:170]


def test_a_shop_is_understood(tmp_path: Path) -> None:
    schema, proposal = proposed(tmp_path, events=shop(), products=products())
    assert (schema.events.time, schema.events.path) == ("ts", "events.parquet")
    assert schema.entities["member"].id == "user_id"
    item = schema.entities["item"]
    assert (item.id, item.path, item.key) == ("product_id", "products.parquet", "id")
    assert [(t.name, t.label) for t in schema.tasks] == [("clicked", "clicked = 1")]
    found = columns(schema)
    assert found["device"].kind == "categorical"
    assert found["price"].kind == "numeric"
    assert found["item.tags"].max_values == 3
    assert found["item.released"].kind == "age"
    assert "item.title" not in found
    assert "item.total_clicks" not in found  # counted over the whole log
    assert "knows the future" in left_out(proposal, "item.total_clicks")
    keys = [a.by for a in schema.aggregates]
    for key in (
        ["user_id"],
        ["product_id"],
        ["user_id", "product_id"],
        ["item.tags"],
        ["user_id", "item.tags"],
    ):
        assert key in keys
    assert ["product_id", "device"] in keys
    assert all(a.delay == "daily" for a in schema.aggregates)


def test_each_feature_says_its_cardinality_and_missing_rate(tmp_path: Path) -> None:
    log = shop().with_columns(device=pl.when(pl.int_range(pl.len()) % 4 != 0).then(pl.col("device")))
    _, proposal = proposed(tmp_path, events=log)
    line = next(x for x in proposal.yaml.splitlines() if "column: device" in x)
    assert "3 values, 25.0% missing" in line


def test_counts_are_exact_over_many_pieces(tmp_path: Path) -> None:
    rows = 300_000  # more than a piece and more than the sample
    log = pl.DataFrame(
        {
            "user_id": np.arange(rows) % 70_001,
            "item_id": np.arange(rows) % 977,
            "timestamp": 1_700_000_000 + np.arange(rows) * 30,
            "liked": np.arange(rows) % 7 == 0,
            "note": pl.Series([None, "x", "y"]).gather(np.arange(rows) % 3),
        }
    )
    _, proposal = proposed(tmp_path, events=log)
    assert "70,001 values" in proposal.yaml
    assert "2 values, 33.3% missing" in proposal.yaml
    assert "300,000 rows" in proposal.yaml


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_unit_of_a_numeric_time_is_found(tmp_path: Path, unit: str) -> None:
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    log = shop().with_columns(ts=pl.col("ts").dt.epoch("s") * factor)
    assert proposed(tmp_path, events=log)[0].events.time_unit == unit


def test_a_column_sorted_like_the_file_is_preferred_as_time(tmp_path: Path) -> None:
    log = shop().with_columns(signup_date=pl.lit(START) - pl.duration(days=pl.col("user_id") + 1))
    schema, _ = proposed(tmp_path, events=log)
    assert schema.events.time == "ts"
    assert columns(schema)["signup_date"].kind == "age"


def test_a_rating_becomes_a_threshold_near_the_upper_half(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    log = (
        shop()
        .drop("clicked")
        .with_columns(rating=pl.Series(rng.choice([1, 2, 3, 4, 5], 4000, p=[0.1, 0.1, 0.2, 0.3, 0.3])))
    )
    schema, _ = proposed(tmp_path, events=log)
    assert [t.label for t in schema.tasks] == ["rating >= 4"]
    assert "rating" not in columns(schema)


def test_actions_become_tasks(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    log = (
        shop()
        .drop("clicked")
        .with_columns(
            event_type=pl.Series(rng.choice(["view", "cart", "purchase"], 4000, p=[0.8, 0.15, 0.05]))
        )
    )
    schema, _ = proposed(tmp_path, events=log)
    assert {t.name for t in schema.tasks} == {"cart", "purchase"}
    assert "event_type" not in columns(schema)


def test_several_labels_become_several_tasks_and_one_with_gaps_a_mask(tmp_path: Path) -> None:
    bought = pl.when(pl.col("clicked") == 1).then(pl.int_range(pl.len()) % 2 == 0)
    schema, _ = proposed(tmp_path, events=shop().with_columns(purchased=bought))
    assert {t.name: t.mask for t in schema.tasks} == {"clicked": None, "purchased": "purchased IS NOT NULL"}


@pytest.mark.parametrize("constant", [True, False])
def test_only_positives_ask_for_negatives(tmp_path: Path, constant: bool) -> None:
    log = shop().drop("clicked")
    if constant:
        log = log.with_columns(clicked=pl.lit(1))
    schema, proposal = proposed(tmp_path, events=log, products=products())
    assert schema.negatives is not None
    assert schema.tasks[0].label == "1"
    # The shelf belongs to the item: a drawn negative would carry the shelf of the item that was chosen.
    assert "shelf" not in columns(schema)
    assert "give the answer away" in left_out(proposal, "shelf")
    assert "device" in columns(schema)


def test_columns_that_say_nothing_or_too_much_are_left_out(tmp_path: Path) -> None:
    clicked = pl.col("clicked") == 1
    log = shop().with_columns(
        country=pl.lit("NL"),
        empty=pl.lit(None, pl.String),
        row_id=pl.int_range(pl.len()),
        hour=pl.col("ts").dt.hour(),
        week=pl.col("ts").dt.week(),
        watch_seconds=pl.when(clicked).then(12.5).otherwise(0.0) + pl.col("price"),
        landing=pl.when(clicked).then(pl.col("device") + "-page"),
        outcome_code=pl.when(clicked).then(pl.col("user_id") % 5 + 10).otherwise(pl.col("user_id") % 5),
        position=pl.col("user_id") % 7,
        shelf_code=pl.col("shelf").replace_strict({"a": 4, "b": 5, "c": 6}),
    )
    schema, proposal = proposed(tmp_path, events=log)
    for column, reason in {
        "country": "same value",
        "empty": "no value",
        "row_id": "its own value",
        "hour": "hour of the day",
        "week": "follow one another in time",
        "watch_seconds": "outcome",
        "landing": "only where clicked",
        "outcome_code": "AUC",
        "position": "the ranker decides",
        "shelf_code": "says the same as shelf",
    }.items():
        assert reason in left_out(proposal, column), column
        assert column not in columns(schema)
    assert {"device", "price", "shelf"} <= set(columns(schema))


def test_vectors_are_no_categories(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = products().with_columns(
        content=pl.Series([rng.normal(size=4).tolist() for _ in range(60)]),
        ragged=pl.Series([rng.normal(size=1 + i % 3).tolist() for i in range(60)]),
    )
    schema, proposal = proposed(tmp_path, events=shop(), products=table)
    vectors = [f for f in schema.features if f.kind == "vector"]
    assert [(f.entity, f.column) for f in vectors] == [("item", "content")]
    assert "different lengths (1 to 3)" in left_out(proposal, "item.ragged")


def test_an_outcome_is_one_even_with_a_cell_that_is_no_number(tmp_path: Path) -> None:
    watched = pl.Series([str(i % 90) for i in range(3999)] + ["oops"])
    _, proposal = proposed(tmp_path, events=shop().with_columns(watch_seconds=watched))
    assert "an outcome of the event itself" in left_out(proposal, "watch_seconds")


def test_requests_are_recognised_by_what_they_hold(tmp_path: Path) -> None:
    log = shop().with_columns(
        user_id=pl.int_range(pl.len()) // 5 % 200, request_id=pl.int_range(pl.len()) // 5
    )
    assert proposed(tmp_path, events=log)[0].events.request == "request_id"
    mixed = log.with_columns(request_id=pl.int_range(pl.len()) % 50)
    assert proposed(tmp_path, events=mixed)[0].events.request is None


def test_ids_with_leading_zeros_in_csv_find_their_table(tmp_path: Path) -> None:
    ids = [f"{i:07}" for i in range(60)]
    log = shop().with_columns(product_id=pl.Series([ids[int(p[1:])] for p in shop()["product_id"]]))
    log.write_csv(tmp_path / "events.csv", datetime_format="%Y-%m-%d %H:%M:%S")
    pl.DataFrame({"product_id": ids, "brand": ["a", "b", "c"] * 20}).write_parquet(tmp_path / "items.parquet")
    proposal = propose([tmp_path / "events.csv", tmp_path / "items.parquet"], base=tmp_path)
    schema = Project.from_dict(yaml.safe_load(proposal.yaml), tmp_path).config
    assert schema.entities["item"].path == "items.parquet"
    assert "item.brand" in columns(schema)


def test_parts_of_a_log_and_directories(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    folder.mkdir()
    log = shop()
    log.head(2000).write_parquet(folder / "a.parquet")
    log.tail(2000).write_parquet(folder / "b.parquet")
    whole = yaml.safe_load(propose(folder, base=tmp_path).yaml)
    assert whole["events"]["path"] == "events"
    parts = yaml.safe_load(propose([folder / "a.parquet", folder / "b.parquet"], base=tmp_path).yaml)
    assert parts["events"]["path"] == ["events/a.parquet", "events/b.parquet"]
    elsewhere = yaml.safe_load(propose(folder, base=tmp_path / "home").yaml)
    assert elsewhere["events"]["path"] == str(folder)


def test_a_third_entity_and_a_table_that_fits_nowhere(tmp_path: Path) -> None:
    log = shop().with_columns(store_id=pl.col("user_id") % 9 + 100)
    stores = pl.DataFrame({"store_id": range(100, 109), "region": ["n", "s", "w"] * 3})
    other = pl.DataFrame({"planet": ["x", "y"], "moons": [1, 2]})
    schema, proposal = proposed(tmp_path, events=log, stores=stores, planets=other)
    assert schema.entities["store"].id == "store_id"
    assert "store.region" in columns(schema)
    assert any("planets.parquet is left out" in note for note in proposal.notes)


def test_odd_names_survive_yaml_and_sql(tmp_path: Path) -> None:
    log = shop().rename({"clicked": "is clicked?", "device": "yes: no, #1", "shelf": "order"})
    schema, _ = proposed(tmp_path, events=log)
    assert schema.tasks[0].label == '"is clicked?" = 1'
    assert {"yes: no, #1", "order"} <= set(columns(schema))


def test_few_moments_are_split_by_date(tmp_path: Path) -> None:
    days = [START + dt.timedelta(days=d) for d in (0, 1, 2)]
    log = shop().with_columns(ts=pl.Series([days[0]] * 100 + [days[1]] * 3800 + [days[2]] * 100))
    schema, _ = proposed(tmp_path, events=log)
    assert schema.split.valid_from is not None
    with pytest.raises(DataError, match="at least three moments"):
        proposed(tmp_path, events=shop().with_columns(ts=pl.lit(START)))


def test_a_short_log_gets_a_shorter_delay(tmp_path: Path) -> None:
    log = shop().with_columns(ts=START + (pl.col("ts") - START) / 400)
    schema, _ = proposed(tmp_path, events=log)
    assert {a.delay for a in schema.aggregates} == {"none"}


def test_several_values_in_one_text_are_remarked(tmp_path: Path) -> None:
    table = products().with_columns(tags=pl.col("tags").list.join("|"))
    table = pl.concat([table, table.with_columns(id=pl.lit("x") + pl.col("id"))])
    tags = pl.Series([["a|b", "b|c|a", "c", "a|c", "b", "a|b|c"][i % 6] for i in range(len(table))])
    _, proposal = proposed(tmp_path, events=shop(), products=table.with_columns(tags=tags))
    assert any("item.tags looks like several values" in n for n in proposal.notes)


@pytest.mark.parametrize(
    ("drop", "message"),
    [("ts", "time of the event"), ("user_id", "member's id"), ("product_id", "item's id")],
)
def test_what_is_missing_is_named(tmp_path: Path, drop: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        proposed(tmp_path, events=shop().drop(drop, "price"))
    assert "device" in str(error.value)  # the columns that there are


def test_named_columns_are_taken_or_refused(tmp_path: Path) -> None:
    log = shop().rename({"user_id": "who", "product_id": "what", "clicked": "z"})
    ask = {"member": "who", "item": "what", "labels": ["z"]}
    schema, _ = proposed(tmp_path, ask=ask, events=log)
    assert (schema.entities["member"].id, schema.tasks[0].label) == ("who", "z = 1")
    with pytest.raises(DataError, match="no column 'whom'"):
        proposed(tmp_path, ask=ask | {"member": "whom"}, events=log)
    with pytest.raises(DataError, match="cannot be read as a time"):
        proposed(tmp_path, ask=ask | {"time": "price"}, events=log)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        proposed(tmp_path, events=shop().head(0))
    (tmp_path / "events.xlsx").write_bytes(b"x")
    with pytest.raises(DataError, match="not a known kind"):
        propose(tmp_path / "events.xlsx")
    with pytest.raises(DataError, match="no such file"):
        propose(tmp_path / "nothing.parquet")
    no_files: Sequence[str] = []
    with pytest.raises(DataError, match="no file is given"):
        propose(no_files)


def test_movietweetings(tmp_path: Path) -> None:
    files = movietweetings().files
    schema = Project.from_dict(
        yaml.safe_load(propose([files["movies"], files["ratings"]], base=tmp_path).yaml), tmp_path
    ).config
    assert schema.tasks[0].label == "rating >= 8"
    keys = [a.by for a in schema.aggregates]
    assert ["user_id", "item.genres"] in keys
    assert ["item.year"] in keys


@pytest.mark.slow
def test_the_proposal_for_movietweetings_trains_well(tmp_path: Path) -> None:
    from memberwise.recommender import Recommender

    files = movietweetings().files
    values = yaml.safe_load(propose([files["ratings"], files["movies"]], base=tmp_path).yaml)
    report = Recommender.fit(Project.from_dict(values, tmp_path)).evaluate(draws=10)
    assert report.metrics["memberwise"]["liked"]["auc"]["value"] >= 0.76
