"""The exploring head as a part of a version: fitted, asked, updated, saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from memberwise.errors import BundleError, ConfigError, DataError
from memberwise.metrics import log_loss
from memberwise.ranking.predict import predict_logits, sigmoid
from memberwise.recommender import Recommender
from memberwise.recommender.exploring import Explore
from memberwise.recommender.parts.base import Setting
from memberwise.recommender.parts.exploration import DERIVED, ExplorationPart, anchor
from memberwise.recommender.scoring import ranker_logits
from support.projects import make

ITEMS = [f"i{k}" for k in range(10)]


@pytest.fixture(scope="module")
def explorer(early: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    folder = tmp_path_factory.mktemp("explorer")
    return Recommender.fit(make(folder, early, exploration={"rank": 6}))


@pytest.fixture(scope="module")
def context(raw: pl.DataFrame) -> dict[str, object]:
    """Every column of an event but its ids and time."""
    row = raw.row(0, named=True)
    return {k: row[k] for k in row if k not in ("m", "i", "t")}


def test_right_after_the_fit_it_knows_no_more_than_train(explorer: Recommender):
    rows = explorer._prepared().packed.rows("valid")
    arrays = {k: np.array(v) for k, v in rows.items()}
    arrays |= explorer.pipeline.gather_vectors(arrays)
    head = explorer.parts["exploration"].head
    assert head.directions.basis.shape[2] == 6
    assert all((p.variances() > 0).all() for p in head.posteriors)
    assert head.moment == explorer._prepared().packed.rows("train")["time"][-1]
    alone = sigmoid(predict_logits(explorer.ranker, arrays))[:, 0]
    y = arrays["labels"][:, 0]
    # Valid has chosen how far to go from the trained weights: not to where it is worse.
    assert log_loss(y, explorer.score(arrays)[:, 0]) < log_loss(y, alone) + 0.01


def test_exploring_orders_by_a_draw_and_says_how_likely_it_was(explorer: Recommender, context):
    one = explorer.rank("m1", ITEMS, 4, context=context, explore=True, seed=1)
    assert one.columns == ["item", "score", "y", "z", "propensity"]
    assert one.equals(explorer.rank("m1", ITEMS, 4, context=context, explore=True, seed=1))
    assert one["propensity"].is_between(0, 1, closed="right").all()
    assert one["score"].is_sorted(descending=True)
    believed = explorer.rank("m1", ITEMS, None, context=context)
    both = one.join(believed, on="item", suffix="_believed")
    np.testing.assert_allclose(both["y"], both["y_believed"], atol=1e-6)
    orders = {
        tuple(explorer.rank("m1", ITEMS, context=context, explore=Explore(temperature=5.0), seed=s)["item"])
        for s in range(8)
    }
    assert len(orders) > 3


def test_a_cold_draw_is_the_ranking_itself(explorer: Recommender, context):
    cold = explorer.rank("m1", ITEMS, context=context, explore=Explore(temperature=0.0))
    plain = explorer.rank("m1", ITEMS, context=context)
    assert cold["item"].to_list() == plain["item"].to_list()
    np.testing.assert_allclose(cold["score"], plain["score"], atol=1e-6)
    assert (cold["propensity"] == 1).all()
    bound = explorer.rank("m1", ITEMS, context=context, explore=Explore(policy="ucb", temperature=1.0))
    assert (bound["score"] > plain.join(bound, on="item", maintain_order="right")["score"]).all()


def test_a_version_without_a_head_cannot_explore(rec: Recommender, context):
    with pytest.raises(ConfigError, match=r"exploration: \{\}"):
        rec.rank("m1", ITEMS, context=context, explore=True)


def test_an_update_moves_the_belief_and_the_old_version_stays(
    explorer: Recommender, late: pl.DataFrame, context
):
    before = explorer.rank("m1", ITEMS, context=context)
    newer = explorer.update(late)
    assert explorer.rank("m1", ITEMS, context=context).equals(before)
    old, new = (r.parts["exploration"].head for r in (explorer, newer))
    assert len(new.posteriors[0].batches) == 1
    assert new.moment > old.moment
    assert (new.posteriors[0].variances() <= old.posteriors[0].variances() + 1e-12).all()
    assert np.abs(new.posteriors[0].mean).max() > 0
    again = newer.rank("m1", ITEMS, context=context)
    assert not np.allclose(again.sort("item")["y"], before.sort("item")["y"])
    with pytest.raises(DataError, match="newer"):
        newer.update(late)


def test_scores_are_those_of_the_ranker_plus_the_shift(explorer: Recommender, late: pl.DataFrame):
    newer = explorer.update(late)
    rows = explorer._prepared().packed.rows("test")
    arrays = {k: np.array(v) for k, v in rows.items()}
    arrays |= newer.pipeline.gather_vectors(arrays)
    read, logits = ranker_logits(newer.ranker, newer.parts, arrays)
    head = newer.parts["exploration"].head
    wanted = logits + head.shift(read[DERIVED], np.asarray(arrays["item"], np.uint64))
    np.testing.assert_allclose(newer.score(arrays), sigmoid(wanted.astype(np.float32)), atol=1e-6)


def test_saved_and_loaded_it_says_the_same(
    explorer: Recommender, late: pl.DataFrame, context, tmp_path: Path
):
    newer = explorer.update(late)
    newer.save(tmp_path)
    loaded = Recommender.load(tmp_path)
    one = newer.rank("m2", ITEMS, context=context, explore=True, seed=3)
    other = loaded.rank("m2", ITEMS, context=context, explore=True, seed=3)
    assert one["item"].to_list() == other["item"].to_list()
    np.testing.assert_allclose(one["y"], other["y"], atol=1e-5)
    folder = tmp_path / "cut"
    folder.mkdir()
    newer.parts["exploration"].write(folder)
    (folder / "0.arrow").write_bytes((folder / "0.arrow").read_bytes()[:100])
    setting = Setting(newer.project, newer.pipeline, newer.ranker)
    with pytest.raises(BundleError, match="cannot be read"):
        ExplorationPart.read(folder, setting)


def test_when_the_ranker_learns_too_the_head_starts_from_its_weights(
    early: pl.DataFrame, late: pl.DataFrame, tmp_path: Path
):
    rec = Recommender.fit(make(tmp_path, early, exploration={"rank": 4}, incremental={}, effects={}))
    observed = rec.observe(late)
    calm, learned = rec.learn(observed, train=False), rec.learn(rec.observe(late), train=True)
    assert np.abs(calm.parts["exploration"].head.posteriors[0].mean).max() > 0
    part = learned.parts["exploration"]
    assert not part.head.posteriors[0].mean.any()
    assert not part.head.items.mean.any()
    assert part.anchor == anchor(learned.ranker) != rec.parts["exploration"].anchor
    # The increment has made it more certain than half of what train said.
    half = rec.parts["exploration"].head.retrained(0, 0.5)
    assert (part.head.posteriors[0].variances() < half.posteriors[0].variances()).all()


def test_what_the_effects_have_learned_is_not_learned_again(
    early: pl.DataFrame, late: pl.DataFrame, tmp_path: Path
):
    rec = Recommender.fit(make(tmp_path, early, exploration={"rank": 4}, effects={}))
    alone = rec.learn(rec.observe(late), without=["effects"]).parts["exploration"].head
    both = rec.learn(rec.observe(late)).parts["exploration"].head
    assert np.abs(both.items.mean).sum() < np.abs(alone.items.mean).sum()
