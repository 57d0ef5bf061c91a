"""From a file of decisions to estimates, and the messages on the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from memberwise.cli import app
from memberwise.errors import ConfigError, DataError
from memberwise.fresh.decisions import Columns, judge, records, warnings
from memberwise.fresh.offpolicy import LoggedDecisions, evaluate


@pytest.fixture
def log() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    n = 600
    propensity, target = rng.uniform(0.2, 0.9, n), rng.uniform(0.1, 0.9, n)
    return pl.DataFrame(
        {
            "clicked": rng.random(n) < 0.3, "propensity": propensity, "new": target, "other": propensity,
            "user": [f"u{i}" for i in rng.integers(0, 90, n)], "q": np.full(n, 0.3), "v": np.full(n, 0.3),
            "shown": rng.choice(["a", "b", "c"], n), "best": rng.choice(["a", "b", None], n),
        }
    )  # fmt: skip


def test_it_reads_what_the_estimators_take(log: pl.DataFrame, tmp_path: Path):
    log.write_csv(tmp_path / "log.csv")
    columns = Columns(reward="clicked", targets=["new", "other"], member="user")
    found = judge([str(tmp_path / "log.csv")], columns, draws=50)
    plain = LoggedDecisions(
        log["clicked"].cast(float).to_numpy(), log["propensity"].to_numpy(), log["new"].to_numpy(),
        clusters=log["user"].rank("dense").to_numpy().astype(int),
    )  # fmt: skip
    assert found["new"] == evaluate(plain, draws=50)
    assert found["other"].estimates["ips"].gain.value == pytest.approx(0.0)
    assert [r["policy"] for r in records(found)] == ["new", "new", "other", "other"]


def test_a_replay_counts_matches_and_says_what_it_cannot_know(log: pl.DataFrame):
    found = judge(log, Columns(reward="clicked", placed="shown", wanted="best"), draws=50)["best"]
    match = log.filter(pl.col("shown") == pl.col("best"))
    assert found.matched == len(match)
    assert found.rate.value == pytest.approx(match["clicked"].mean())
    assert found.uncovered == pytest.approx(log["best"].null_count() / len(log))
    assert "cannot say" in warnings({"best": found})[0]


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"reward": "clicks", "targets": ["new"]}, DataError, "'clicks' missing"),
        ({"reward": "shown", "targets": ["new"]}, DataError, "not numbers"),
        ({"targets": ["best"], "reward": "clicked"}, DataError, "not numbers"),
        ({"predicted": "q"}, ConfigError, "both columns"),
        ({"placed": "shown"}, ConfigError, "both columns"),
        ({"predicted": "q", "expected": "v", "targets": ["new", "other"]}, ConfigError, "one policy"),
    ],
)
def test_mistakes_are_named(log: pl.DataFrame, settings, error, says):
    with pytest.raises(error, match=says):
        judge(log, Columns(**settings))


def test_a_missing_value_is_refused_with_its_row(log: pl.DataFrame):
    holed = log.with_columns(new=pl.when(pl.int_range(pl.len()) == 7).then(None).otherwise("new"))
    with pytest.raises(DataError, match="row 7"):
        judge(holed, Columns(reward="clicked", targets=["new"]))
    with pytest.raises(DataError, match="no decisions"):
        judge(log[:0], Columns(reward="clicked", targets=["new"]))


def test_the_command_prints_and_writes_the_page(log: pl.DataFrame, tmp_path: Path):
    log.write_parquet(tmp_path / "log.parquet")
    page = tmp_path / "out" / "offpolicy.html"
    arguments = ["offpolicy", str(tmp_path / "log.parquet"), "--target", "new", "--reward", "clicked"]
    arguments += ["--predicted", "q", "--expected", "v", "--draws", "50", "--report", str(page)]
    result = CliRunner().invoke(app, arguments, terminal_width=200)
    assert result.exit_code == 0, result.output
    for word in ("snips", "dr", "new"):
        assert word in result.output
    saved = json.loads(page.with_suffix(".json").read_text())
    assert {r["estimator"] for r in saved["offpolicy"]} == {"ips", "snips", "dm", "dr", "sndr"}
    assert "sndr" in page.read_text()
    taught = CliRunner().invoke(app, ["offpolicy", "--help"]).output
    assert "effective decisions" in taught
