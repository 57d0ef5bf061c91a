"""What the pages show is true: settings are settings, commands parse, and the Python of a newcomer runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer
import yaml

from memberwise import cli
from memberwise.project import Project

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BASE: dict[str, Any] = {
    "events": {"path": "events.parquet", "time": "t"},
    "entities": {"member": {"id": "user_id"}, "item": {"id": "post_id", "path": "posts.parquet"}},
    "tasks": [{"name": "click", "label": "clicked"}],
    "features": [{"kind": "categorical", "column": "user_id"}],
}


def blocks(kind: str, pages: list[Path] = PAGES) -> list[tuple[str, str]]:
    """Code of one kind ("" for plain blocks), each with its page and line."""
    found = []
    for page in pages:
        opened: list[str] | None = None
        for number, line in enumerate(page.read_text().splitlines(), 1):
            if not line.startswith("```"):
                if opened is not None:
                    opened.append(line)
            elif opened is None:
                opened, first, language = [], number, line[3:]
            else:
                if language == kind:
                    found.append((f"{page.name}:{first}", "\n".join(opened) + "\n"))
                opened = None
    return found


def test_every_setting_that_a_page_shows_is_one() -> None:
    """A fragment of a project file stands on the fragments before it on its page, and on a plain project."""
    shown = blocks("yaml")
    assert len(shown) > 10
    before: dict[str, dict[str, Any]] = {}
    for where, text in shown:
        page = where.partition(":")[0]
        values = before.get(page, BASE) | yaml.safe_load(text)
        before[page] = values if page == "project.md" else BASE
        Project.from_dict(values)


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command line of the pages and of the help, without the shell around it."""
    texts = [*blocks(""), *_helps(typer.main.get_command(cli.app))]
    for where, text in texts:
        for line in text.splitlines():
            match = re.match(r"\s*(?:\.venv/bin/)?memberwise ([^#>&|]*)", line)
            if match:
                yield f"{where}: {line.strip()}", shlex.split(match[1])


def _helps(command: Any, name: str = "memberwise") -> Iterator[tuple[str, str]]:
    yield f"help of {name}", command.help or ""
    for sub, inner in getattr(command, "commands", {}).items():
        yield from _helps(inner, f"{name} {sub}")


def parse(arguments: list[str]) -> None:
    """Parse as the command line does, without running anything."""
    command, context, rest = typer.main.get_command(cli.app), None, arguments
    name = "memberwise"
    while True:
        context = command.make_context(name, list(rest), parent=context)
        if not hasattr(command, "commands"):
            return
        rest = [*context._protected_args, *context.args]
        name, inner, rest = command.resolve_command(context, rest)
        command = inner


def test_every_command_that_a_page_shows_can_be_typed() -> None:
    shown = list(commands())
    assert len(shown) > 25
    for where, arguments in shown:
        try:
            parse(arguments)
        except Exception as error:
            pytest.fail(f"{where}: {error}")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small log with the names that the pages use, and later events."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    n, films = 3000, np.array(["0770828", "1300854", *(f"{i:07d}" for i in range(2, 40))])
    start = np.datetime64("2013-08-01", "us").astype(np.int64)
    log = pl.DataFrame(
        {
            "timestamp": pl.Series(np.sort(start + rng.integers(0, 32 * 86_400, n) * 1_000_000)).cast(
                pl.Datetime("us")
            ),
            "user_id": rng.integers(0, 60, n),
            "movie_id": films[rng.integers(0, len(films), n)],
            "rating": rng.integers(1, 11, n),
        }
    )
    september = pl.datetime(2013, 9, 1)
    log.filter(pl.col("timestamp") < september).write_parquet(folder / "ratings.parquet")
    (folder / "events").mkdir()
    log.filter(pl.col("timestamp") >= september).write_parquet(folder / "events" / "2013-09-01.parquet")
    pl.DataFrame({"movie_id": films, "year": rng.integers(1990, 2013, len(films))}).write_parquet(
        folder / "movies.parquet"
    )
    values = {
        "name": "films",
        "events": {"path": "ratings.parquet", "time": "timestamp"},
        "entities": {"member": {"id": "user_id"}, "item": {"id": "movie_id", "path": "movies.parquet"}},
        "tasks": [{"name": "liked", "label": "rating >= 8"}],
        "features": [
            {"kind": "categorical", "column": "user_id"},
            {"kind": "categorical", "column": "movie_id"},
        ],
        "aggregates": [{"by": "user_id"}],
        "effects": {},
        "exploration": {"rank": 4},
        "graph": {"encoder": {"dim": 16, "heads": 2, "temporal": None}, "training": {"epochs": 1}},
        "ranker": {"embedding_dim": 4, "blocks": [{"type": "mlp", "hidden": [8]}]},
        "training": {"epochs": 1},
    }
    (folder / "project.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.mark.slow
def test_the_python_of_the_first_pages_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """README, then what other pages do with the version that it made."""
    monkeypatch.chdir(project)
    space: dict[str, Any] = {}
    (readme,) = blocks("python", [ROOT / "README.md"])
    exec(readme[1], space)
    assert space["newer"].version == "000001"
    assert "memberwise" in space["report"].metrics
    from memberwise.recommender.exploring import Explore

    space |= {"Explore": Explore, "items": ["0770828", "1300854"], "context": {}}
    snippets = dict(blocks("python", [ROOT / "docs" / "explore.md", ROOT / "docs" / "graph.md"]))
    explore = next(code for where, code in snippets.items() if "Explore(" in code)
    exec(explore.replace("context=...", "context=context"), space)
    assert list(space["ranked"].columns) == ["item", "score", "liked", "propensity"]
    graph = next(code for where, code in snippets.items() if "rec.similar" in code)
    later = next(line for line in graph.splitlines() if "similar" in line)
    assert len(eval(later.partition("#")[0], space)) == 5


def test_code_that_stands_alone_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for where, code in blocks("python", [ROOT / "docs" / "graph-store.md", ROOT / "docs" / "graph.md"]):
        if "import" in code:
            exec(compile(code, where, "exec"), {})
