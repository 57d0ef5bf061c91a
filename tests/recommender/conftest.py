"""A fitted version of a tiny project, made once."""

from __future__ import annotations

import polars as pl
import pytest

from memberwise.project import Project
from memberwise.recommender import Recommender
from support.logs import impressions
from support.projects import make


@pytest.fixture(scope="session")
def raw() -> pl.DataFrame:
    """The log of the project: three quarters of it, the rest comes later."""
    return impressions(1200)


@pytest.fixture(scope="session")
def early(raw: pl.DataFrame) -> pl.DataFrame:
    """What the project is fitted on."""
    return raw.filter(pl.col("t") < raw["t"][900])


@pytest.fixture(scope="session")
def late(raw: pl.DataFrame) -> pl.DataFrame:
    """Events after the fit."""
    return raw.filter(pl.col("t") >= raw["t"][900])


@pytest.fixture(scope="session")
def project(early: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make(tmp_path_factory.mktemp("project"), early)


@pytest.fixture(scope="session")
def rec(project: Project) -> Recommender:
    return Recommender.fit(project)
