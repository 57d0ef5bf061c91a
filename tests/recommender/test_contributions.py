"""What a part adds is what is lost without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from memberwise import metrics
from memberwise.recommender import Recommender
from memberwise.recommender.contributions import WITHOUT, contributions, score_without, table
from support.projects import make


@pytest.fixture(scope="module")
def rec(early: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    settings = {
        "effects": {},
        "exploration": {"rank": 4},
        "incremental": {},
        "meta": {"training": {"epochs": 1}},
    }
    return Recommender.fit(make(tmp_path_factory.mktemp("parts"), early, **settings))


def test_every_part_that_speaks_is_judged_on_valid(rec: Recommender) -> None:
    cut = contributions(rec, draws=50)
    assert cut is not None
    assert list(cut.differences) == [WITHOUT + n for n in rec.parts if n != "incremental"]
    valid = rec._prepared().packed.rows("valid")
    assert cut.rows == len(valid["time"])
    arrays = {k: np.array(a) for k, a in valid.items()}
    labels = np.asarray(arrays["labels"])[:, 0]
    whole = metrics.auc(labels, rec._score_packed(arrays)[:, 0])
    for name in ("exploration", "meta"):
        without = metrics.auc(labels, score_without(rec, name, arrays)[:, 0])
        assert cut.differences[WITHOUT + name]["y"]["auc"].value == pytest.approx(whole - without, abs=1e-9)
    # Effects start at zero and learn from updates alone.
    assert cut.differences[WITHOUT + "effects"]["y"]["log_loss"].value == 0.0
    console = Console(width=120, record=True)
    console.print(table(cut))
    assert "exploration" in console.export_text()


def test_vectors_that_are_left_out_are_zeros_to_the_ranker(rec: Recommender) -> None:
    rows = rec._prepared().packed.rows("valid")
    arrays = {k: np.array(a) for k, a in rows.items()}
    empty = rec.pipeline.copy()
    for name, line in rec.parts["meta"].vectors().items():
        nobody = replace(line, keys=line.keys[:0], cutoffs=line.cutoffs[:0], vectors=line.vectors[:0])
        empty.attach(name, nobody)
    gathered = arrays | empty.gather_vectors(arrays)
    mine = score_without(rec, "meta", arrays)
    bare = Recommender(
        rec.project, rec.ranker, empty, rec.seen, None, rec.summary, [], 0.0,
        {n: p for n, p in rec.parts.items() if n != "meta"},
    )  # fmt: skip
    np.testing.assert_array_equal(mine, bare.score(gathered))
    assert not np.allclose(mine, rec._score_packed(arrays))


def test_a_ranker_alone_has_nothing_to_tell(early: pl.DataFrame, tmp_path: Path) -> None:
    assert contributions(Recommender.fit(make(tmp_path, early))) is None
