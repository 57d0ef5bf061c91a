"""Preparing and fitting when several processes want the same project."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from memberwise.errors import ConfigError
from memberwise.project import Project
from memberwise.recommender import Recommender
from memberwise.recommender.fitting import fitting_alone, prepared_rows
from support.logs import impressions
from support.projects import make


def test_who_asks_at_once_gets_the_same_rows(tmp_path: Path) -> None:
    # Each process's vocabularies are numbered in its own order: two writers in one folder mixed them.
    project = make(tmp_path, impressions(600))
    got: list[dict[str, np.ndarray]] = []
    start = threading.Barrier(4)

    def ask() -> None:
        start.wait()
        prepared = prepared_rows(project)
        got.append({k: np.array(v) for k, v in prepared.packed.arrays.items()})

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    again = prepared_rows(project).packed.arrays
    for arrays in got:
        assert arrays.keys() == again.keys()
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, again[name], err_msg=name)


def test_rows_of_an_earlier_log_are_not_told_as_rejected(tmp_path: Path) -> None:
    log = impressions(600)
    nobodys = log.head(5).with_columns(pl.lit(None, pl.String).alias("m"))
    project = make(tmp_path, pl.concat([log, nobodys]))
    prepared_rows(project)
    rejects = project.output / "rejects.parquet"
    assert len(pl.read_parquet(rejects)) == 5
    project = make(tmp_path, log)  # mended
    prepared_rows(project)
    assert not rejects.exists()
    assert not list(project.output.glob("*.partial"))


def test_a_second_fit_of_a_project_is_refused(project: Project) -> None:
    with fitting_alone(project), pytest.raises(ConfigError, match=r"another fit .*\n  -> wait"):
        Recommender.fit(project)
