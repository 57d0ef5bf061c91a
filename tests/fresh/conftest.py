"""A fitted and published version of a tiny project, copied for every test that moves it forward."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from memberwise.project import Project
from memberwise.recommender import Recommender
from support.logs import impressions
from support.projects import make

SETTINGS: dict[str, Any] = {
    "effects": {"variance": 0.5},
    "incremental": {"every": 2, "recent_rows": 100, "batch_size": 32, "cold_fisher_rows": 256},
    "fresh": {"check_rows": 20},
}


@pytest.fixture(scope="session")
def raw() -> pl.DataFrame:
    """A log; the project is fitted on its first three quarters."""
    return impressions(1200, seed=5)


@pytest.fixture(scope="session")
def batches(raw: pl.DataFrame) -> list[pl.DataFrame]:
    """The last quarter in three batches, cut between moments."""
    cuts = [raw["t"][k] for k in (900, 1000, 1100)]
    edges = [*cuts, None]
    parts = []
    for first, last in itertools.pairwise(edges):
        part = raw.filter(pl.col("t") >= first)
        parts.append(part if last is None else part.filter(pl.col("t") < last))
    return parts


@pytest.fixture(scope="session")
def published(raw: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make(tmp_path_factory.mktemp("fresh"), raw.filter(pl.col("t") < raw["t"][900]), **SETTINGS)
    Recommender.fit(project).save()
    return project


@pytest.fixture
def copy(published: Project, tmp_path: Path) -> Callable[..., Project]:
    """A project with a version of its own, under other settings of ``fresh`` if need be."""

    def made(**fresh: Any) -> Project:
        base = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        shutil.copytree(published.base, base, symlinks=True)
        values = published.to_dict()
        values["fresh"] = values["fresh"] | fresh
        return Project.from_dict(values, base)

    return made
