"""Parts beside the ranker: they are fitted, asked, updated, saved and loaded through one protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import pytest

from memberwise.data.hashing import U64, hash_text
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.project import Project
from memberwise.recommender import Recommender, fitting, parts, storing
from memberwise.recommender.evaluating import score_events
from memberwise.recommender.parts import Fitting, Increment, Part, Setting
from support.projects import make

FEATURE = {"kind": "vector", "made_by": "graph", "entity": "member", "dim": 2}
NAME = "graph(member)"


class Shift(Part):
    """Adds a number to every logit, and gives the member m3 a vector."""

    name = "shift"

    def __init__(self, by: float, seen: int, keys: list[str], timeline: EmbeddingTimeline) -> None:
        self.by, self.seen, self.keys, self.timeline = by, seen, keys, timeline

    @classmethod
    def wanted(cls, config: Any) -> bool:
        return True

    @classmethod
    def fit(cls, fitting: Fitting) -> Self:
        assert fitting.ranker is not None
        cutoff = int(fitting.prepared.packed.rows("test")["time"][0])
        one = np.ones((1, 2), np.float32)
        timeline = EmbeddingTimeline.at("member", np.array([hash_text("m3")], np.uint64), one, "v", cutoff)
        fitting.prepared.attach(NAME, timeline)
        return cls(0.5, 0, [], timeline)

    def vectors(self) -> Mapping[str, EmbeddingTimeline]:
        return {NAME: self.timeline}

    def adjust(self, arrays: Mapping[str, Any], logits: Any) -> Any:
        assert len(arrays["member"]) == len(logits)
        return logits + np.float32(self.by)

    def update(self, increment: Increment, setting: Setting) -> Self:
        moment = int(increment.arrays["time"][-1]) + 1
        keys = np.unique(np.asarray(increment.arrays["member"]))
        timeline = self.timeline.append(keys, np.full((len(keys), 2), 2, np.float32), moment)
        return type(self)(self.by, self.seen + len(increment), [*self.keys, increment.key], timeline)

    def forget(self, members: U64) -> Self:
        return type(self)(self.by, self.seen, self.keys, self.timeline.without(members))

    def write(self, folder: Path) -> None:
        (folder / "shift.json").write_text(json.dumps([self.by, self.seen, self.keys]))

    @classmethod
    def read(cls, folder: Path, setting: Setting) -> Self:
        by, seen, keys = json.loads((folder / "shift.json").read_text())
        return cls(by, seen, keys, setting.pipeline.vectors[NAME])


@pytest.fixture
def shifted(early: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recommender:
    for module in (parts, fitting, storing):
        monkeypatch.setattr(module, "PARTS", (Shift,))
    base = make(tmp_path / "base", early).to_dict()
    project = Project.from_dict(base | {"features": [*base["features"], FEATURE]}, tmp_path / "base")
    return Recommender.fit(project)


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def test_a_part_moves_the_scores_everywhere_and_survives_saving(
    shifted: Recommender, late: pl.DataFrame, tmp_path: Path
):
    plain = Recommender.load(shifted.save(tmp_path / "bundles"))
    assert plain.parts["shift"].by == 0.5
    found = score_events(plain, late, [])["scores"]
    np.testing.assert_array_equal(found, score_events(shifted, late, [])["scores"])
    assert plain.evaluate(draws=20).metrics == shifted.evaluate(draws=20).metrics
    shift, plain.parts = plain.parts, {}
    np.testing.assert_allclose(logit(found) - logit(score_events(plain, late, [])["scores"]), 0.5, atol=1e-4)
    plain.parts = shift


def test_an_increment_holds_each_row_as_it_was_known(shifted: Recommender, late: pl.DataFrame):
    expected = score_events(shifted, late, [])["scores"]
    newer = shifted.update(late)
    part = newer.parts["shift"]
    assert isinstance(part, Shift)
    assert part.seen == len(expected)
    assert len(part.keys) == 1
    # The version before stays what it was, its vectors included.
    np.testing.assert_array_equal(score_events(shifted, late, [])["scores"], expected)
    assert len(newer.pipeline.vectors[NAME]) > len(shifted.pipeline.vectors[NAME])


def test_the_same_events_have_the_same_key(shifted: Recommender, late: pl.DataFrame, tmp_path: Path):
    late.sample(fraction=1.0, shuffle=True, seed=1).write_parquet(tmp_path / "late.parquet")
    one, other = shifted.update(late), shifted.update(str(tmp_path / "late.parquet"))
    less = shifted.update(late.head(len(late) - 1))
    assert one.parts["shift"].keys == other.parts["shift"].keys != less.parts["shift"].keys


def test_no_row_meets_a_vector_of_its_own_moment_or_later(shifted: Recommender):
    prepared = shifted._prepared()
    arrays, cutoff = prepared.packed.arrays, shifted.pipeline.vectors[NAME].cutoffs[0]
    has = np.asarray(arrays[NAME]) >= 0
    mine = np.asarray(arrays["member"]) == hash_text("m3")
    np.testing.assert_array_equal(has, mine & (np.asarray(arrays["time"]) >= cutoff))
    assert has.any()
