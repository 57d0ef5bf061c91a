"""The command line, as a person meets it: what it prints, what it leaves behind, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer
import yaml

from memberwise import cli
from memberwise.cli._app import as_called
from memberwise.project import Project
from memberwise.recommender import Recommender

ROOT = Path(__file__).resolve().parents[1]
PROJECT = {
    "name": "shop",
    "events": {"path": "events.parquet", "time": "at"},
    "entities": {"member": {"id": "member"}, "item": {"id": "item", "path": "items.parquet"}},
    "tasks": [{"name": "click", "label": "clicked"}],
    "features": [
        {"kind": "categorical", "column": "member"},
        {"kind": "categorical", "column": "item"},
        {"kind": "categorical", "column": "item.tags", "max_values": 3},
        {"kind": "history", "length": 5, "where": "clicked"},
    ],
    "aggregates": [{"by": "member"}, {"by": ["member", "item.tags"]}],
    "ranker": {"embedding_dim": 4, "blocks": [{"type": "mlp", "hidden": [8]}]},
    "training": {"epochs": 2, "batch_size": 128},
}


TEXT = """\
name: shop
events: {path: events.parquet, time: at}
entities:
  member: {id: member}
  item: {id: item, path: items.parquet}
tasks:
  - {name: click, label: clicked}
features:
  - {kind: categorical, column: member}
  - {kind: categorical, column: item}
  - {kind: categorical, column: item.tags, max_values: 3}
aggregates:
  - {by: member}
  - {by: [member, item.tags]}
"""


def write_log(folder: Path, rows: int = 2000, days: int = 20, start: str = "2024-01-01") -> pl.DataFrame:
    rng = np.random.default_rng(rows)
    first = np.datetime64(start, "us").astype(np.int64)
    at = np.sort(first + rng.integers(0, days * 86_400, rows) * 1_000_000)
    member, item = rng.integers(0, 40, rows), rng.integers(0, 30, rows)
    clicked = rng.random(rows) < 1 / (1 + np.exp(-((member % 5) - 2 + (item % 3) - 1)))
    return pl.DataFrame({"at": at, "member": member, "item": item, "clicked": clicked}).with_columns(
        pl.col("at").cast(pl.Datetime("us"))
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_log(tmp_path).write_parquet(tmp_path / "events.parquet")
    tags = [["new"] if i % 3 == 2 else ["old", "cheap"] for i in range(30)]
    pl.DataFrame({"item": range(30), "tags": tags}).write_parquet(tmp_path / "items.parquet")
    path = tmp_path / "project.yaml"
    path.write_text(yaml.safe_dump(PROJECT))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *args: str | Path) -> int:
    """Exit code of ``memberwise ARGS``."""
    monkeypatch.setattr(sys, "argv", ["memberwise", *map(str, args)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_from_fit_to_rollback(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = project.parent / "runs" / "shop"
    assert run(monkeypatch, "fit", project) == 0
    assert "train 1,600" in capsys.readouterr().out
    assert run(monkeypatch, "evaluate", project, "--draws", "50") == 0
    assert "logistic on counts" in capsys.readouterr().out
    assert "<html" in (runs / "report.html").read_text()
    assert (
        json.loads((runs / "report.json").read_text())["metrics"]["memberwise"]["click"]["auc"]["value"] > 0.6
    )
    assert run(monkeypatch, "rank", project, "--member", "3", "-k", "2") == 2  # typer: no such option
    capsys.readouterr()
    assert run(monkeypatch, "rank", project, "--member", "3", "--k", "2", "--json") == 0
    ranked = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["score"] for r in ranked] == sorted((r["score"] for r in ranked), reverse=True)
    assert len(ranked) == 2
    write_log(project.parent, 300, 2, "2024-01-21").write_parquet(project.parent / "new.parquet")
    assert run(monkeypatch, "update", project, project.parent / "new.parquet") == 0
    assert "000002" in capsys.readouterr().out
    assert run(monkeypatch, "bundles", "list", project) == 0
    assert "000001" in capsys.readouterr().out
    assert run(monkeypatch, "bundles", "rollback", project) == 0
    assert "000001" in capsys.readouterr().out
    assert os.readlink(runs / "bundles" / "current") == "000001"
    assert run(monkeypatch, "bundles", "rollback", project, "000001") == 0
    assert "current version already" in " ".join(capsys.readouterr().out.split())


def test_rank_says_who_is_new_and_what_the_version_does_not_know(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write_text(yaml.safe_dump(PROJECT | {"exploration": {"rank": 2}}))
    assert run(monkeypatch, "fit", project) == 0
    said = capsys.readouterr().out
    assert "What each part adds on valid (200 rows)" in said
    assert "exploration" in said
    assert run(monkeypatch, "rank", project, "--member", "3", "--item", "4", "--item", "5") == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "P(click)" in said.out
    assert "draw" not in said.out
    ids = ("--item", "4", "--item", "no such")
    assert run(monkeypatch, "rank", project, "--member", "333", *ids, "--explore", "--json") == 0
    said = capsys.readouterr()
    assert "Member '333' is new to this version" in said.err
    assert "1 of 2 items are new to this version ('no such')" in said.err
    assert len([json.loads(line) for line in said.out.splitlines()]) == 2
    project.write_text(
        yaml.safe_dump(PROJECT | {"exploration": {"rank": 2}, "seed": 4, "fresh": {"size": 3}})
    )
    monkeypatch.setenv("COLUMNS", "160")
    assert run(monkeypatch, "rank", project, "--member", "3", "--explore") == 0
    said = capsys.readouterr()
    assert "changed since version 000001 was fitted (seed)" in said.err
    assert "score of the draw" in said.out
    # What came with an update is known.
    new = write_log(project.parent, 30, 1, "2024-01-21").with_columns(member=pl.lit(333))
    new.write_parquet(project.parent / "new.parquet")
    assert run(monkeypatch, "update", project, project.parent / "new.parquet") == 0
    run(monkeypatch, "rank", project, "--member", "333", *ids)
    said = capsys.readouterr()
    assert "Member" not in said.err
    assert "1 of 2 items" in said.err


def test_similar_items_and_members_by_the_graph(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = {"dim": 16, "heads": 2, "temporal": None}
    graph = {"encoder": encoder, "training": {"epochs": 1, "batch_size": 64, "negatives": 8, "workers": 0}}
    tasks = [{"name": "click", "label": "clicked"}, {"name": "pass", "label": "not clicked"}]
    project.write_text(yaml.safe_dump(PROJECT | {"graph": graph, "tasks": tasks}))
    assert run(monkeypatch, "fit", project) == 0
    assert "(mean of 2 tasks) at step" in capsys.readouterr().out
    assert run(monkeypatch, "similar", project, "--id", "3", "-k", "4") == 0
    said = capsys.readouterr().out
    assert "Most like item 3, by version 000001, as of 2024-01-" in " ".join(said.split())
    assert run(monkeypatch, "similar", project, "--id", "3", "-k", "4", "--json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rec = Recommender.load(project.parent / "runs/shop/bundles")
    assert found == rec.similar("item", "3", 4).to_dicts()
    assert len(found) == 4
    assert "3" not in [row["id"] for row in found]
    assert all(f"{row['cosine']:.3f}" in said for row in found)
    for place in ("bundles", "bundles/current", "bundles/000001"):  # a version needs no project file
        path = project.parent / "runs/shop" / place
        assert run(monkeypatch, "similar", path, "--entity", "member", "--id", "17", "--json") == 0
        assert len(capsys.readouterr().out.splitlines()) == 10
    for arguments, says in (
        (("--id", "2 7"), "did you mean '27'"),
        (("--id", "unheard of"), "name it as the log does"),
        (("--id", "3", "--entity", "items"), "use member or item"),
        (("--id", ""), "is not an id"),
    ):
        assert run(monkeypatch, "similar", project, *arguments) == 2
        assert says in capsys.readouterr().err


def test_events_that_are_not_newer_are_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "fit", project)
    assert run(monkeypatch, "update", project, project.parent / "events.parquet") == 2
    assert "each counts once" in capsys.readouterr().err
    assert not (project.parent / "runs/shop/bundles/000002").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"evnts": {}}, "did you mean 'events'?"),
        ({"events": {"path": "nothing.parquet", "time": "at"}}, "no such file"),
        ({"events": {"path": "events.parquet", "time": "when"}}, "'when' missing"),
        ({"tasks": [{"name": "click", "label": "clicked >>> 2"}]}, "tasks.click.label"),
        ({"tasks": [{"name": "click", "label": "1"}]}, "nothing to learn"),
        ({"split": {"train": 0.95, "valid": 0.2}}, "leave nothing for test"),
    ],
)
def test_a_mistake_in_the_project_is_a_message_and_not_a_traceback(
    project: Path,
    change: dict[str, object],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project.write_text(yaml.safe_dump(PROJECT | change))
    assert run(monkeypatch, "fit", project) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert "Traceback" not in printed.err + printed.out
    assert not (project.parent / "runs/shop/bundles").exists()


@pytest.mark.parametrize(
    ("right", "wrong", "key", "fix"),
    [
        ("time: at", "time: att", "events.time", "did you mean 'at'?"),
        ("  - {kind: categorical, column: item}", "  - {kind: categorical, column: itm}",
         "features.1.column", "did you mean 'item'?"),
        ("column: item.tags", "column: item.tagz", "features.2.column", "did you mean 'tags'?"),
        ("label: clicked", "label: zzz > 2", "tasks.0.label", "the table has: at, member, item, clicked"),
        ("by: [member, item.tags]", "by: [membr, item.tags]", "aggregates.1.by", "did you mean 'member'?"),
        ("label: clicked", "label: '1'", "tasks.click", "check the label's expression"),
    ],
)  # fmt: skip
def test_a_column_that_is_not_there_is_named_with_its_line_and_key(
    project: Path, right: str, wrong: str, key: str, fix: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    text = TEXT.replace(right, wrong)
    project.write_text(text)
    line = next(i for i, row in enumerate(text.splitlines(), 1) if wrong in row)
    assert run(monkeypatch, "fit", project) == 2
    said = capsys.readouterr().err
    assert f"project.yaml, line {line}: {key}: " in said
    assert fix in said
    run(monkeypatch, "doctor", project)
    assert f"line {line}: " in capsys.readouterr().out


def test_columns_missing_in_new_events_blame_the_file(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "fit", project)
    capsys.readouterr()
    new = [project.parent / f"{name}.parquet" for name in ("one", "two")]
    for path, start in zip(new, ("2024-01-21", "2024-01-22"), strict=True):
        write_log(project.parent, 30, 1, start).drop("clicked").write_parquet(path)
    for command in ("update", "evaluate"):
        assert run(monkeypatch, command, project, *new) == 2
        said = capsys.readouterr().err
        assert f"column 'clicked' missing in {new[0]} and 1 more" in said
        assert "(tasks.0.label)" in said
        assert "['" not in said


def test_using_a_version_before_there_is_one(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "rank", project, "--member", "3") == 2
    assert "memberwise fit" in capsys.readouterr().err
    assert run(monkeypatch, "rank", project, "--member", "3", "--context", "{") == 2
    assert "is not JSON" in capsys.readouterr().err


def commands() -> list[tuple[str, ...]]:
    """Every command and subcommand, as a person types it."""
    found: list[tuple[str, ...]] = []
    for name, command in typer.main.get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        found += [(name, sub) for sub in getattr(command, "commands", {})] or [(name,)]
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_teaches(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert run(monkeypatch, *command, "--help") == 0
    said = capsys.readouterr().out
    told = said.partition("─ Arguments")[0].partition("─ Options")[0]
    assert len(told.split()) > 25, told
    # Paragraphs flow to the width that there is: no line but the last of one is short.
    lines = [line.strip() for line in told.splitlines()]
    short = [a for a, b in pairwise(lines) if a and b and len(a.split()) < 4 and "memberwise" not in a]
    assert not short, told


def test_commands_are_listed_in_the_order_in_which_one_needs_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    names = [line.split()[1] for line in said.splitlines() if line.startswith("│ ") and line[2] != " "]
    assert names[2:] == [
        "demo", "init", "doctor", "fit", "tune", "evaluate", "rank", "similar", "update", "refresh",
        "replay", "offpolicy", "serve", "follow", "compress", "forget", "schema", "graph", "bundles",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("called", "on_path", "name"),
    [
        ("/env/bin/memberwise", True, "memberwise"),
        (".venv/bin/memberwise", False, ".venv/bin/memberwise"),
        ("/lib/memberwise/cli/__main__.py", False, f"{sys.executable} -m memberwise.cli"),
        ("/lib/pytest/__main__.py", False, "memberwise"),
    ],
)
def test_advice_can_be_typed_as_it_stands(
    called: str, on_path: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr("shutil.which", lambda program: f"/bin/{program}" if on_path else None)
    assert as_called("Next: memberwise fit PROJECT") == f"Next: {name} fit PROJECT"
    assert as_called("memberwise bundles list P") == f"{name} bundles list P"
    assert as_called("a memberwise version; memberwise fits") == "a memberwise version; memberwise fits"


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="without the docs")
def test_the_reference_in_the_docs_is_that_of_the_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``make docs`` writes both."""
    assert run(monkeypatch, "schema") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((ROOT / "docs/project.schema.json").read_text())
    command = [sys.executable, "-m", "typer", "memberwise.cli", "utils", "docs", "--name", "memberwise"]
    made = subprocess.run([*command, "--title", "Command line"], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == (ROOT / "docs/cli.md").read_text().strip()


def test_the_schema_describes_every_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "schema") == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"events", "tasks", "features", "aggregates", "ranker", "training"} <= set(schema["properties"])


MISTAKES = [
    (("init", "events.parquet", "--output", "/proc/nowhere/p.yaml"), "/proc/nowhere"),
    (("demo", "--output", "events.parquet"), "events.parquet"),
    (("evaluate", ".", "nothing.parquet"), "relative to the directory that you are in"),
    (("follow", ".", "--source", "nothing", "--once"), "nothing: is not a directory"),
    (("rank", ".", "--member", ""), "is not an id"),
    (("rank", ".", "--member", "3", "--at", "2020-01-01"), "would see its future"),
    (("similar", ".", "--id", "3"), "add a section graph: {}"),
    (("similar", "nowhere", "--id", "3"), "nowhere"),
    (("bundles", "rollback", ".", "000009"), "known versions: 000001"),
    (("offpolicy", "events.parquet"), "'reward', 'propensity', 'target' missing"),
    (("graph", "densify", ".", "--output", "g", "--low", "95"), "--low"),
]


def test_a_mistake_ends_with_a_message_and_exit_code_2(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project.parent)
    assert run(monkeypatch, "fit", ".") == 0
    for arguments, says in MISTAKES:
        capsys.readouterr()
        assert run(monkeypatch, *arguments) == 2, arguments
        said = capsys.readouterr()
        assert says in said.err, arguments
        assert "Traceback" not in said.err
    assert run(monkeypatch, "follow", ".", "--once") == 0
    assert "Nothing new." in capsys.readouterr().out
    assert run(monkeypatch, "rank", ".", "--member", "3", "--context", '{"zzz": 1}') == 0
    assert "No feature reads 'zzz'" in capsys.readouterr().err


def test_a_resumed_fit_says_where_it_goes_on(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "fit", project, "--resume") == 0
    assert "no checkpoint" in capsys.readouterr().out
    assert run(monkeypatch, "fit", project, "--resume") == 0
    said = capsys.readouterr()
    assert "no checkpoint" not in said.out
    assert "Resumed at step" in said.err


def test_a_checkpoint_of_a_part_is_one_to_resume_from(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = Project.load(project).output / "run" / "graph"
    graph.mkdir(parents=True)
    (graph / "checkpoint.safetensors").write_bytes(
        b""
    )  # of the graph: this project trains none, and looks not
    assert run(monkeypatch, "fit", project, "--resume") == 0
    assert "no checkpoint to resume" not in capsys.readouterr().out


@pytest.mark.slow
def test_killed_in_training_and_resumed_ends_with_the_same_numbers(project: Path) -> None:
    values = PROJECT | {
        "training": {"epochs": 12, "batch_size": 16, "checkpoint_seconds": 0.0, "patience": 99}
    }

    def fit(name: str, *options: str) -> subprocess.Popen[bytes]:
        project.write_text(yaml.safe_dump(values | {"name": name}))
        command = [sys.executable, "-m", "memberwise.cli", "fit", str(project), *options]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def log(name: str) -> list[dict[str, float]]:
        path = project.parent / "runs" / name / "run" / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [{k: v for k, v in json.loads(line).items() if k != "cpu_seconds"} for line in lines]

    assert fit("whole").wait() == 0
    victim = fit("cut")
    deadline = time.monotonic() + 120
    while len(log("cut")) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert len(log("cut")) < len(log("whole"))
    assert fit("cut", "--resume").wait() == 0
    assert log("cut") == log("whole")
