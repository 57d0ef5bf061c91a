"""Every check of the doctor fires on a log with its fault and is silent on the healthy one."""

from __future__ import annotations

import copy
import datetime as dt
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from memberwise.doctor import Diagnosis, Finding, examine
from memberwise.project import Project

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
ROWS = 20_000


def healthy_log(seed: int = 0) -> pl.DataFrame:
    """A log without faults: clicks depend on the item and a little on the member."""
    rng = np.random.default_rng(seed)
    seconds = np.sort(rng.choice(60 * 86_400, ROWS, replace=False))
    items, users = rng.integers(0, 200, ROWS), rng.integers(0, 500, ROWS)
    odds = -1.0 + 1.5 * np.sin(items) + 0.7 * np.cos(users)
    return pl.DataFrame(
        {
            "user_id": users,
            "item_id": [f"i{i}" for i in items],
            "ts": [START + dt.timedelta(seconds=int(s)) for s in seconds],
            "clicked": (rng.random(ROWS) < 1 / (1 + np.exp(-odds))).astype(np.int8),
            "device": rng.choice(["phone", "desktop"], ROWS),
            "load": rng.normal(size=ROWS),
            "request_id": np.arange(ROWS) // 4,
        }
    ).with_columns(user_id=pl.col("user_id").first().over("request_id"))


def healthy_items() -> pl.DataFrame:
    """The table of the items."""
    return pl.DataFrame(
        {
            "item_id": [f"i{i}" for i in range(200)],
            "kinds": [["a", "b", "c"][: 1 + i % 3] for i in range(200)],
            "size": [float(i * 7 % 31) for i in range(200)],
            "released": [dt.date(2020, 1, 1) + dt.timedelta(days=i) for i in range(200)],
        }
    )


SETTINGS: dict[str, Any] = {
    "name": "test",
    "events": {"path": "events.parquet", "time": "ts", "request": "request_id"},
    "entities": {"member": {"id": "user_id"}, "item": {"id": "item_id", "path": "items.parquet"}},
    "tasks": [{"name": "click", "label": "clicked = 1"}],
    "features": [
        {"kind": "categorical", "column": "user_id"},
        {"kind": "categorical", "column": "item_id"},
        {"kind": "categorical", "column": "device"},
        {"kind": "numeric", "column": "load"},
        {"kind": "categorical", "column": "item.kinds", "max_values": 3},
        {"kind": "numeric", "column": "item.size"},
        {"kind": "age", "since": "item.released"},
        {"kind": "history", "where": "clicked = 1"},
        {"kind": "clock"},
    ],
    "aggregates": [{"by": "user_id"}, {"by": ["item_id", "device"]}],
}


class Clinic:
    """A project whose log, item table and settings a test may spoil."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log, self.items = healthy_log(), healthy_items()
        self.settings = copy.deepcopy(SETTINGS)

    def examine(self, **options: Any) -> Diagnosis:
        self.log.write_parquet(self.folder / "events.parquet")
        self.items.write_parquet(self.folder / "items.parquet")
        return examine(Project.from_dict(self.settings, self.folder), **options)

    def add(self, feature: dict[str, Any]) -> str:
        self.settings["features"].append(feature)
        return f"features.{len(self.settings['features']) - 1}"


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path)


def found(diagnosis: Diagnosis, check: str, severity: str | None = None) -> list[Finding]:
    return [f for f in diagnosis.findings if f.check == check and severity in (None, f.severity)]


def one(diagnosis: Diagnosis, check: str, severity: str) -> Finding:
    """The only finding of a check, with the rest for the reader if it is not there."""
    matching = found(diagnosis, check, severity)
    assert len(matching) == 1, [(f.severity, f.check, f.what) for f in diagnosis.findings]
    return matching[0]


@pytest.mark.parametrize("sample_rows", [200_000, 9000])
def test_a_healthy_project_has_only_notes(clinic: Clinic, sample_rows: int) -> None:
    diagnosis = clinic.examine(sample_rows=sample_rows)
    assert diagnosis.ok
    assert {f.check for f in diagnosis.findings} <= {"label rates", "unseen ids"}
    assert diagnosis.facts["rows"] == "20,000"
    assert ("sampled" in diagnosis.facts) == (sample_rows < ROWS)


# -- names ------------------------------------------------------------------------------------------


def test_missing_columns_are_all_named_with_the_nearest_name(clinic: Clinic) -> None:
    clinic.settings["features"][2]["column"] = "devise"
    clinic.settings["features"][5]["column"] = "item.sizes"
    clinic.settings["tasks"][0]["label"] = "clicks = 1"
    diagnosis = clinic.examine()
    assert not diagnosis.ok
    fixes = {f.where: f.fix for f in found(diagnosis, "missing column", "error")}
    assert fixes == {
        "features.2.column": "did you mean 'device'?",
        "features.5.column": "did you mean 'size'?",
        "tasks.0.label": "did you mean 'clicked'?",
    }


def test_what_cannot_be_opened_or_parsed(clinic: Clinic) -> None:
    clinic.settings["tasks"][0]["label"] = "clicked = = 1"
    assert "SQL" in one(clinic.examine(), "refused", "error").what
    clinic.settings["tasks"][0]["label"] = "clicked = 1"
    clinic.settings["entities"]["item"]["path"] = "nothing.parquet"
    assert "no such file" in one(clinic.examine(), "refused", "error").what


def test_vectors_and_time_zones(clinic: Clinic) -> None:
    clinic.add({"kind": "vector", "entity": "item", "path": "nothing.arrow"})
    clinic.settings["features"][8]["timezone"] = "Europe/Amsterdan"
    fixes = {f.where: f.fix for f in found(clinic.examine(), "refused", "error")}
    assert fixes["features.8.timezone"] == "did you mean 'Europe/Amsterdam'?"
    assert len(fixes) == 2


def test_a_column_that_cannot_be_encoded(clinic: Clinic) -> None:
    clinic.log = clinic.log.with_columns(both=pl.struct("device", "load"))
    clinic.add({"kind": "categorical", "column": "both"})
    assert "one value is expected" in found(clinic.examine(), "refused", "error")[0].what


def test_an_empty_log(clinic: Clinic) -> None:
    clinic.log = clinic.log.head(0)
    assert "no rows" in one(clinic.examine(), "refused", "error").what


@pytest.mark.parametrize("as_key", [True, False])
def test_the_label_as_a_feature(clinic: Clinic, as_key: bool) -> None:
    if as_key:
        clinic.settings["aggregates"].append({"by": ["item_id", "clicked"]})
        where = "aggregates.2.by"
    else:
        where = clinic.add({"kind": "categorical", "column": "clicked"}) + ".column"
    finding = one(clinic.examine(), "label as feature", "error")
    assert finding.where == where


# -- rows -------------------------------------------------------------------------------------------


def test_rejects_by_reason(clinic: Clinic) -> None:
    nothing = pl.when(pl.int_range(pl.len()) < 100).then(None)
    clinic.log = clinic.log.with_columns(clicked=nothing.otherwise(pl.col("clicked")))
    finding = one(clinic.examine(), "rejects", "warning")
    assert "100 x label of click is missing" in finding.what
    clinic.settings["events"]["max_rejected"] = 0.00025
    diagnosis = clinic.examine()
    assert not diagnosis.ok
    assert "max_rejected (0.025%)" in one(diagnosis, "rejects", "error").fix


def test_duplicate_rows(clinic: Clinic) -> None:
    clinic.log = pl.concat([clinic.log, clinic.log.head(1000)]).sort("ts")
    assert "4.8%" in one(clinic.examine(), "duplicate rows", "warning").what


def test_rows_out_of_order(clinic: Clinic) -> None:
    clinic.log = pl.concat([clinic.log.tail(100), clinic.log.head(ROWS - 100)])
    assert "99.5%" in one(clinic.examine(), "time order", "note").what


def test_events_in_the_future(clinic: Clinic) -> None:
    late = pl.when(pl.int_range(pl.len()) >= ROWS - 5).then(pl.lit(dt.datetime(2999, 1, 1, tzinfo=dt.UTC)))
    clinic.log = clinic.log.with_columns(ts=late.otherwise(pl.col("ts")))
    diagnosis = clinic.examine()
    assert "5 events" in one(diagnosis, "future", "warning").what
    assert found(diagnosis, "gap", "warning")


def test_another_unit(clinic: Clinic) -> None:
    clinic.log = clinic.log.with_columns(ts=pl.col("ts").dt.epoch("ms"))
    clinic.settings["events"]["time_unit"] = "us"
    assert one(clinic.examine(), "time unit", "error").fix == "set time_unit: ms"
    clinic.settings["events"]["time_unit"] = "ms"
    assert clinic.examine().ok


def test_many_events_at_one_moment(clinic: Clinic) -> None:
    moment = clinic.log["ts"][5000]
    there = pl.int_range(pl.len()).is_between(5000, 7000)
    clinic.log = clinic.log.with_columns(ts=pl.when(there).then(pl.lit(moment)).otherwise(pl.col("ts")))
    assert "10.0%" in one(clinic.examine(), "equal times", "warning").what


def test_a_gap(clinic: Clinic) -> None:
    clinic.log = clinic.log.filter(~pl.int_range(pl.len()).is_between(5000, 12_000))
    assert "no event for 21 days" in one(clinic.examine(), "gap", "warning").what


def test_days_only_make_short_delays_pointless(clinic: Clinic) -> None:
    clinic.log = clinic.log.with_columns(ts=pl.col("ts").dt.date())
    clinic.settings["aggregates"][0]["delay"] = "none"
    assert "then mean 'daily'" in one(clinic.examine(), "days only", "note").what


def test_time_zones(clinic: Clinic) -> None:
    text = pl.col("ts").dt.strftime("%Y-%m-%d %H:%M:%S")
    odd = pl.int_range(pl.len()) % 2 == 1
    healthy = clinic.log
    clinic.log = healthy.with_columns(ts=pl.when(odd).then(text + "+02:00").otherwise(text))
    assert "50%" in one(clinic.examine(), "time zone", "warning").what
    clinic.log = healthy.with_columns(ts=pl.col("ts").dt.replace_time_zone(None))
    assert one(clinic.examine(), "time zone", "note")
    clinic.log = healthy.with_columns(ts=text + "Z")
    assert not found(clinic.examine(), "time zone")


def test_delays_and_windows_longer_than_the_log(clinic: Clinic) -> None:
    clinic.log = clinic.log.with_columns(ts=pl.lit(START) + (pl.col("ts") - START) / 60)
    clinic.settings["aggregates"] = [{"by": "user_id"}, {"by": "item_id", "delay": "none", "window": "7d"}]
    diagnosis = clinic.examine()
    assert one(diagnosis, "short log", "warning").where == "aggregates.0.delay"
    assert one(diagnosis, "long window", "note").where == "aggregates.1.window"


# -- splits -----------------------------------------------------------------------------------------


def test_an_empty_and_a_small_split(clinic: Clinic) -> None:
    clinic.settings["split"] = {"valid_from": "2024-02-20", "test_from": "2030-01-01"}
    assert "no rows for test" in one(clinic.examine(), "refused", "error").what
    clinic.settings["split"] = {"train": 0.95, "valid": 0.01}
    small = found(clinic.examine(), "small split", "warning")
    assert ["valid has 200 rows" in f.what for f in small] == [True, False]


def test_one_class(clinic: Clinic) -> None:
    clinic.settings["tasks"][0]["label"] = "clicked >= 0"
    severities = [f.severity for f in found(clinic.examine(), "classes")]
    assert severities == ["error", "warning", "warning"]  # train, then valid and test
    test = pl.int_range(pl.len()) > 0.89 * ROWS
    clinic.log = clinic.log.with_columns(clicked=pl.when(test).then(0).otherwise(pl.col("clicked")))
    clinic.settings["tasks"][0]["label"] = "clicked = 1"
    assert "in test is 0" in one(clinic.examine(), "classes", "warning").what


def test_drifting_labels(clinic: Clinic) -> None:
    flip = (pl.int_range(pl.len()) > 0.85 * ROWS) & (pl.int_range(pl.len()) % 2 == 0)
    clinic.log = clinic.log.with_columns(clicked=pl.when(flip).then(1).otherwise(pl.col("clicked")))
    diagnosis = clinic.examine()
    assert one(diagnosis, "drift", "warning").where == "tasks.0.label"
    assert not found(diagnosis, "label rates")


@pytest.mark.parametrize("sample_rows", [200_000, 5000])
def test_unseen_ids_are_counted_over_the_whole_log(clinic: Clinic, sample_rows: int) -> None:
    """Every second row of the newest tenth has a new item; a sample of rows must not see more of them."""
    new = (pl.int_range(pl.len()) >= 0.9 * ROWS) & (pl.int_range(pl.len()) % 3 == 0)
    name = pl.when(new).then(pl.lit("i") + (pl.int_range(pl.len()) % 50 + 1000).cast(pl.String))
    clinic.log = clinic.log.with_columns(item_id=name.otherwise(pl.col("item_id")))
    del clinic.settings["entities"]["item"]["path"]
    clinic.settings["features"] = clinic.settings["features"][:4]
    notes = found(clinic.examine(sample_rows=sample_rows), "unseen ids", "note")
    told = next(f.what for f in notes if "item_id" in f.what)
    share = float(told.split(", ")[1].split("%")[0])
    assert abs(share - 33.3) < 3


def test_a_feature_that_is_always_new(clinic: Clinic) -> None:
    where = clinic.add({"kind": "categorical", "column": "request_id"})
    diagnosis = clinic.examine()
    assert "100% of the rows of test" in one(diagnosis, "unseen ids", "warning").what
    assert one(diagnosis, "unseen ids", "warning").where == f"{where}.column"


def test_a_heavy_member(clinic: Clinic) -> None:
    robot = pl.int_range(pl.len()) % 5 == 0
    clinic.log = clinic.log.with_columns(user_id=pl.when(robot).then(7).otherwise(pl.col("user_id")))
    del clinic.settings["events"]["request"]
    clinic.log = pl.concat(
        [clinic.log, clinic.log.filter(robot).with_columns(pl.col("ts") + dt.timedelta(hours=1))]
    )
    assert "'7'" in one(clinic.examine(), "heavy member", "warning").what
    clinic.log = clinic.log.with_columns(user_id=pl.lit(7))
    assert one(clinic.examine(), "one member", "warning")


# -- columns ----------------------------------------------------------------------------------------


def test_constant_and_missing_columns(clinic: Clinic) -> None:
    rare = pl.when(pl.int_range(pl.len()) % 50 == 0).then(pl.col("load"))
    clinic.log = clinic.log.with_columns(same=pl.lit("x"), gone=pl.lit(None, pl.Float64), rare=rare)
    same = clinic.add({"kind": "categorical", "column": "same"})
    gone = clinic.add({"kind": "numeric", "column": "gone"})
    clinic.add({"kind": "numeric", "column": "rare"})
    diagnosis = clinic.examine()
    assert one(diagnosis, "constant", "warning").where == f"{same}.column"
    assert one(diagnosis, "all missing", "warning").where == f"{gone}.column"
    assert "2.0%" in one(diagnosis, "mostly missing", "note").what


def test_columns_of_another_type(clinic: Clinic) -> None:
    healthy = clinic.settings["features"]
    clinic.log = clinic.log.with_columns(size=pl.lit("big"), day=pl.lit("soon"))
    clinic.add({"kind": "numeric", "column": "size"})
    clinic.add({"kind": "age", "since": "day"})
    healthy[4]["max_values"] = 1
    diagnosis = clinic.examine()
    assert "100%" in one(diagnosis, "no number", "error").what
    assert one(diagnosis, "no date", "error")
    assert one(diagnosis, "list", "error").where == "features.4.max_values"


def test_lists_that_are_cut_or_none(clinic: Clinic) -> None:
    clinic.settings["features"][4]["max_values"] = 2
    clinic.settings["features"][2]["max_values"] = 3
    diagnosis = clinic.examine()
    assert one(diagnosis, "cut lists", "note").where == "features.4.max_values"
    assert one(diagnosis, "single value", "note").where == "features.2.max_values"


def test_a_date_after_the_event(clinic: Clinic) -> None:
    clinic.log = clinic.log.with_columns(delivered=pl.col("ts") + dt.timedelta(days=3))
    clinic.add({"kind": "age", "since": "delivered"})
    assert "100%" in one(clinic.examine(), "later date", "warning").what


def test_too_many_values(clinic: Clinic) -> None:
    clinic.log = clinic.log.with_columns(page=pl.int_range(pl.len()) * 7919 % 10_007)
    where = clinic.add({"kind": "categorical", "column": "page"})
    assert one(clinic.examine(), "too many values", "warning").where == f"{where}.column"
    clinic.settings["features"][-1] |= {"encoding": "hash", "remainders": 100}
    assert not found(clinic.examine(), "too many values")


def test_a_history_that_stays_empty(clinic: Clinic) -> None:
    clinic.settings["features"][7]["where"] = "clicked = 3"
    assert one(clinic.examine(), "empty history", "warning").where == "features.7.where"


# -- leaks ------------------------------------------------------------------------------------------


def noisy(clicked: pl.Expr) -> pl.Expr:
    """Right in 98 % of the rows."""
    return pl.when(pl.int_range(pl.len()) * 7919 % 50 == 0).then(1 - clicked).otherwise(clicked)


LEAKS: dict[str, tuple[Callable[[], pl.Expr], dict[str, Any]]] = {
    "category": (
        lambda: (
            pl.when(noisy(pl.col("clicked")) == 1).then(pl.lit("p") + pl.col("device")).otherwise("device")
        ),
        {"kind": "categorical"},
    ),
    "number": (lambda: noisy(pl.col("clicked")) * 10 + pl.col("load"), {"kind": "numeric"}),
    "list": (
        lambda: pl.concat_list(noisy(pl.col("clicked")).cast(pl.String)),
        {"kind": "categorical", "max_values": 2},
    ),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_a_column_that_predicts_too_well(clinic: Clinic, kind: str) -> None:
    expression, feature = LEAKS[kind]
    clinic.log = clinic.log.with_columns(extra=expression())
    where = clinic.add(feature | {"column": "extra"})
    finding = one(clinic.examine(), "leak", "error")
    assert finding.where == f"{where}.column"
    assert "AUC 0.9" in finding.what


def test_a_column_of_many_values_that_only_remembers_is_no_leak(clinic: Clinic) -> None:
    """Its label rates fit the rows they come from perfectly, and say nothing about later rows."""
    clinic.log = clinic.log.with_columns(page=pl.int_range(pl.len()))
    clinic.add({"kind": "categorical", "column": "page"})
    assert not found(clinic.examine(), "leak")


def test_a_column_far_above_the_others(clinic: Clinic) -> None:
    rng = np.random.default_rng(3)
    clinic.log = clinic.log.with_columns(clicked=pl.Series(rng.integers(0, 2, ROWS)))
    noise = pl.Series("n", rng.normal(size=ROWS))
    clinic.log = clinic.log.with_columns(hint=pl.col("clicked") * 1.6 + noise)
    clinic.add({"kind": "numeric", "column": "hint"})
    diagnosis = clinic.examine()
    assert "far above" in one(diagnosis, "leak", "warning").what
    assert diagnosis.ok


def test_a_column_known_only_after(clinic: Clinic) -> None:
    clinic.log = clinic.log.with_columns(answer=pl.when(pl.col("clicked") == 1).then(pl.col("device")))
    clinic.add({"kind": "categorical", "column": "answer"})
    diagnosis = clinic.examine()
    assert "only after the event" in one(diagnosis, "known after", "error").what
    assert not found(diagnosis, "leak")  # said once


def test_a_column_that_is_constant_in_the_positives(clinic: Clinic) -> None:
    page = pl.when((pl.col("clicked") == 1) | (pl.col("load") > 0)).then(pl.lit("a")).otherwise(pl.lit("b"))
    clinic.log = clinic.log.with_columns(page=page)
    clinic.add({"kind": "categorical", "column": "page"})
    assert "51%" in one(clinic.examine(), "constant in positives", "warning").what


def test_negatives_and_columns_that_vary_with_the_item(clinic: Clinic) -> None:
    clinic.settings["negatives"] = {"per_positive": 2}
    diagnosis = clinic.examine()
    assert "negatives are drawn as well" in one(diagnosis, "negatives", "error").what
    assert not found(diagnosis, "gives the answer away")
    clinic.settings["tasks"][0]["label"] = "1"
    brand = pl.col("item_id").str.slice(1).cast(pl.Int64) % 7
    clinic.log = clinic.log.with_columns(brand=brand, price=brand * 1.5 + pl.col("load").abs() / 10)
    clinic.add({"kind": "categorical", "column": "brand"})
    clinic.add({"kind": "numeric", "column": "price"})
    diagnosis = clinic.examine()
    assert not found(diagnosis, "negatives")
    assert [f.where for f in found(diagnosis, "gives the answer away", "error")] == [
        "features.9.column",
        "features.10.column",
    ]
    clinic.settings["negatives"]["within"] = ["brand"]
    assert len(found(clinic.examine(), "gives the answer away")) == 1


def test_a_count_over_the_whole_log_in_an_entity_table(clinic: Clinic) -> None:
    totals = clinic.log.group_by("item_id").agg(pl.col("clicked").sum().alias("seen"))
    clinic.items = clinic.items.join(totals, on="item_id", how="left", maintain_order="left")
    clinic.items = clinic.items.with_columns(avg_rating=pl.int_range(pl.len()) * 37 % 101)
    clinic.add({"kind": "numeric", "column": "item.seen", "transform": "log1p"})
    clinic.add({"kind": "numeric", "column": "item.avg_rating"})
    diagnosis = clinic.examine()
    assert "positives of click" in one(diagnosis, "knows the future", "error").what
    assert "item.avg_rating" in one(diagnosis, "knows the future", "warning").what


# -- tables and requests ----------------------------------------------------------------------------


def test_ids_that_do_not_meet(clinic: Clinic) -> None:
    clinic.items = pl.concat([clinic.items.head(150), clinic.items.head(3)])
    diagnosis = clinic.examine()
    assert "3 rows" in one(diagnosis, "duplicate ids", "warning").what
    assert "the item of 25.1% of the events" in one(diagnosis, "unknown ids", "warning").what
    clinic.items = healthy_items().with_columns(item_id=pl.lit("item-") + pl.col("item_id"))
    assert "leading zeros" in one(clinic.examine(), "unknown ids", "error").fix


def test_requests_of_one_row_or_of_several_members(clinic: Clinic) -> None:
    healthy = clinic.log
    clinic.log = healthy.with_columns(request_id=pl.int_range(pl.len()))
    assert "one row" in one(clinic.examine(), "requests", "warning").what
    clinic.log = healthy.with_columns(request_id=pl.int_range(pl.len()) % 100)
    assert "several members" in one(clinic.examine(), "requests", "warning").what


# -- the whole --------------------------------------------------------------------------------------


def test_the_diagnosis_is_rendered_worst_first(clinic: Clinic) -> None:
    clinic.add({"kind": "categorical", "column": "clicked"})
    clinic.log = clinic.log.with_columns(device=pl.lit("phone"))
    diagnosis = clinic.examine()
    console = Console(width=100, file=io.StringIO())
    console.print(diagnosis.render())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.startswith("test: 1 error, 1 warning, ")
    assert text.index("'clicked'") < text.index("same value") < text.index("rate of click")
    assert [f.severity for f in diagnosis.findings] == sorted(
        (f.severity for f in diagnosis.findings), key=["error", "warning", "note"].index
    )
    assert diagnosis.to_dict()["ok"] is False


def test_every_finding_that_is_no_note_says_what_to_do(clinic: Clinic) -> None:
    clinic.log = pl.concat([clinic.log, clinic.log.head(1000)]).with_columns(device=pl.lit("phone"))
    clinic.add({"kind": "categorical", "column": "clicked"})
    assert all(f.fix for f in clinic.examine().findings if f.severity != "note")


@pytest.mark.slow
def test_a_large_log_is_examined_quickly(clinic: Clinic) -> None:
    import time

    clinic.log = pl.concat(
        [healthy_log(i).with_columns(pl.col("ts") + dt.timedelta(days=60 * i)) for i in range(10)] * 3
    )
    clinic.examine()
    started = time.process_time()
    clinic.examine()
    assert time.process_time() - started < 10.0
