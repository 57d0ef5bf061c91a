"""Effects and increments of the ranker inside versions: what an update moves, saves and forgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from memberwise.data.hashing import hash_text
from memberwise.errors import DataError
from memberwise.project import Project
from memberwise.recommender import Recommender
from memberwise.recommender.parts.effects import EffectsPart
from memberwise.recommender.parts.incremental import IncrementalPart
from support.projects import make

LEARNING: dict[str, Any] = {
    "effects": {"variance": 0.5},
    "incremental": {"every": 2, "recent_rows": 100, "batch_size": 32, "cold_fisher_rows": 256},
}


@pytest.fixture(scope="module")
def learning(early: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make(tmp_path_factory.mktemp("learning"), early, **LEARNING)


@pytest.fixture(scope="module")
def rec(learning: Project) -> Recommender:
    return Recommender.fit(learning)


@pytest.fixture(scope="module")
def pieces(late: pl.DataFrame) -> list[pl.DataFrame]:
    """The later events in three batches, cut between moments."""
    cuts = [late["t"][100], late["t"][200]]
    return [
        late.filter(pl.col("t") < cuts[0]),
        late.filter((pl.col("t") >= cuts[0]) & (pl.col("t") < cuts[1])),
        late.filter(pl.col("t") >= cuts[1]),
    ]


def weights(rec: Recommender) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in rec.ranker.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(v, other[k]) for k, v in one.items())


def scores(rec: Recommender, member: str = "m1") -> np.ndarray:
    context = {"cat": "u", "tags": ["g1"], "num": 0.0}
    items = [f"i{k}" for k in range(15)]
    return rec.rank(member, items, None, context=context).sort("item")["y"].to_numpy()


def test_effects_move_with_every_update_and_the_ranker_with_every_second(
    rec: Recommender, pieces: list[pl.DataFrame]
) -> None:
    cold = weights(rec)
    one = rec.update(pieces[0])
    assert same(weights(one), cold)
    assert len(one.parts["effects"].effects.applied) == 1
    two = one.update(pieces[1])
    assert not same(weights(two), cold)
    assert same(weights(rec), cold)  # versions do not change
    assert same(weights(one), cold)
    part = two.parts["incremental"]
    assert isinstance(part, IncrementalPart)
    assert part.waiting == ()
    assert len(part.memory.applied) == 1
    assert len(part.recent["time"]) == 100
    assert same(weights(two.update(pieces[2])), weights(two))


def test_effects_are_settled_anew_on_a_changed_ranker(rec: Recommender, pieces: list[pl.DataFrame]) -> None:
    two = rec.update(pieces[0]).update(pieces[1])
    part, kept = two.parts["effects"], two.parts["incremental"]
    assert isinstance(part, EffectsPart)
    assert isinstance(kept, IncrementalPart)
    assert kept.outcome is not None
    blank = rec.parts["effects"]
    assert isinstance(blank, EffectsPart)
    fresh = blank.effects.refitted(kept.recent, kept.outcome.logits.astype(np.float64), "new")
    z = kept.outcome.logits
    np.testing.assert_allclose(part.adjust(kept.recent, z), fresh.adjusted(kept.recent, z), atol=1e-5)


def test_training_can_be_asked_for_and_put_off(rec: Recommender, pieces: list[pl.DataFrame]) -> None:
    cold = weights(rec)
    now = rec.learn(rec.observe(pieces[0]), train=True)
    assert not same(weights(now), cold)
    later = rec.learn(rec.observe(pieces[0]), train=False)
    later = later.learn(later.observe(pieces[1]), train=False)
    assert same(weights(later), cold)
    part = later.parts["incremental"]
    assert isinstance(part, IncrementalPart)
    assert sum(n for _, n in part.waiting) == len(pieces[0]) + len(pieces[1])
    still = rec.learn(rec.observe(pieces[0]), without=["effects"])
    assert still.parts["effects"] is rec.parts["effects"]


def test_saved_and_loaded_versions_go_on_alike(
    rec: Recommender, pieces: list[pl.DataFrame], tmp_path: Path
) -> None:
    one = rec.update(pieces[0])
    one.save(tmp_path)
    read = Recommender.load(tmp_path)
    np.testing.assert_allclose(scores(read), scores(one), rtol=1e-5)
    two, again = one.update(pieces[1]), read.update(pieces[1])
    assert same(weights(two), weights(again))
    np.testing.assert_allclose(scores(again), scores(two), rtol=1e-5)
    two.save(tmp_path)
    cold = [p / "parts/incremental/cold.safetensors" for p in sorted(tmp_path.glob("0*"))]
    assert len({p.stat().st_ino for p in cold}) == 1  # the cold start is shared by all versions


def test_each_event_counts_once(rec: Recommender, pieces: list[pl.DataFrame]) -> None:
    one = rec.update(pieces[0])
    with pytest.raises(DataError, match="seen events up to"):
        one.update(pieces[0])
    observed = one.observe(pieces[1])
    two = one.learn(observed)
    with pytest.raises(DataError, match="absorbed before"):
        two.learn(observed)


def test_a_forgotten_member_leaves_effects_and_waiting_rows(
    rec: Recommender, pieces: list[pl.DataFrame]
) -> None:
    one = rec.update(pieces[0])
    gone = np.array([hash_text("m1")], np.uint64)
    rest, effects = one.parts["incremental"].forget(gone), one.parts["effects"].forget(gone)
    assert isinstance(rest, IncrementalPart)
    assert isinstance(effects, EffectsPart)
    assert not np.isin(rest.recent["member"], gone).any()
    assert rest.waiting[0][1] == len(rest.recent["time"]) == int((pieces[0]["m"] != "m1").sum())
    model = effects.effects.models["y"]
    assert str(gone[0]) not in model.states_["member"].store.slots
    assert str(gone[0]) in one.parts["effects"].effects.models["y"].states_["member"].store.slots
