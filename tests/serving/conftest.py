"""A published version of a tiny project, and servers over it."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from memberwise.project import Project
from memberwise.recommender import Recommender
from support.logs import impressions
from support.projects import make, personal
from support.server import Running, free_port

pytest.importorskip("fastapi")


@pytest.fixture(scope="session")
def raw() -> pl.DataFrame:
    """The log of the project: three quarters of it, the rest comes later."""
    return impressions(1200)


@pytest.fixture(scope="session")
def late(raw: pl.DataFrame) -> pl.DataFrame:
    """Events after the fit, as JSON can hold them: what is no number is null."""
    return raw.filter(pl.col("t") >= raw["t"][900]).with_columns(pl.col("num").fill_nan(None))


@pytest.fixture(scope="session")
def fitted(raw: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with one published version; not to be changed."""
    folder = tmp_path_factory.mktemp("fitted")
    project = make(folder, raw.filter(pl.col("t") < raw["t"][900]))
    Recommender.fit(project).save()
    return project


@pytest.fixture(scope="session")
def personalised(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with graph and meta embeddings, and one published version; not to be changed."""
    project = personal(tmp_path_factory.mktemp("personalised"), impressions(700, members=25, items=40))
    Recommender.fit(project).save()
    return project


@pytest.fixture
def project(fitted: Project, tmp_path: Path) -> Project:
    """A copy of it, to do with as one likes."""
    shutil.copytree(fitted.base, tmp_path / "project", symlinks=True)
    return Project(fitted.config, tmp_path / "project")


@pytest.fixture
def server(project: Project) -> Iterator[Running]:
    """A server of it in a process of its own."""
    with Running(project) as running:
        yield running


@pytest.fixture
def start(project: Project) -> Iterator[Any]:
    """Starts servers with options; they end with the test."""
    started: list[Running] = []

    def go(*options: str, **environment: str) -> Running:
        running = Running(project, *options, **environment)
        running.__enter__()
        started.append(running)
        return running

    yield go
    for running in started:
        running.__exit__()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis of Debian, if it is there."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not installed")
    redis = pytest.importorskip("redis")
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}/0"
    for _ in range(100):
        try:
            redis.Redis.from_url(url).ping()
            break
        except redis.ConnectionError:
            time.sleep(0.05)
    yield url
    process.terminate()
    process.wait(10)
