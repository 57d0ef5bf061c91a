"""The part ``meta``: what is served is what was trained, a refresh is what a fit would have made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from memberwise.cli import app
from memberwise.data.hashing import hash_text
from memberwise.data.pipeline import key_column
from memberwise.data.times import cutoffs
from memberwise.meta.episodes import find_tasks, latest
from memberwise.meta.rows import entity_features, segment
from memberwise.project import Project
from memberwise.ranking.predict import predict_logits
from memberwise.recommender import Recommender
from memberwise.recommender.evaluating import score_events
from memberwise.recommender.forgetting import forget
from memberwise.recommender.parts.meta import MetaPart
from memberwise.recommender.parts.meta_blocks import Block
from memberwise.recommender.parts.meta_rows import RankerBlock, RankerRows
from support.projects import make

META = {
    "tasks": [{"by": "member", "dim": 4, "hidden": [8]}],
    "support": 6,
    "inner": {"steps": 2, "rate": 2.0, "shrinkage": 1.0},
    "training": {"epochs": 2, "tasks_per_step": 32, "lr": 0.01, "ranker_lr": 0.001, "patience": 9},
}
BLOCKS = {"tasks": [META["tasks"][0], {"by": "item", "dim": 3, "hidden": []}, {"by": ["m", "cat"], "dim": 2}]}  # type: ignore[index]


def fitted(early: pl.DataFrame, folder: Path, **settings: Any) -> Recommender:
    base = make(folder / "base", early).to_dict()
    return Recommender.fit(Project.from_dict(base | {"meta": META | settings}, folder / "base"))


@pytest.fixture(scope="module")
def rec(early: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return _spoken(fitted(early, tmp_path_factory.mktemp("meta")))


def _spoken(rec: Recommender) -> Recommender:
    """The same version with blocks that surely say something, however the tiny training went."""
    part = meta(rec)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for b in part.blocks:
            b.inner.block.weights[-1].add_(
                0.3 * torch.randn(b.inner.block.weights[-1].shape, generator=generator)
            )
    return _again(rec)


def _again(rec: Recommender) -> Recommender:
    """Fit's last step with the blocks as they are now."""
    from memberwise.recommender.parts import meta as module

    part, prepared = meta(rec), rec._prepared()
    blocks = iter([(b, []) for b in part.blocks])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train_block", lambda *_: next(blocks))
        fresh = MetaPart.fit(module.Fitting(rec.project, prepared, ranker=rec.ranker))
    rec.parts = {"meta": fresh}
    for name, vectors in fresh.vectors().items():
        rec.pipeline.attach(name, vectors)
    return rec


def meta(rec: Recommender) -> MetaPart:
    part = rec.parts["meta"]
    assert isinstance(part, MetaPart)
    return part


def whole_log(rec: Recommender) -> RankerRows:
    """All rows of the project's log, without the embedding."""
    (block,) = meta(rec).blocks
    arrays = {k: a for k, a in rec._prepared().packed.arrays.items() if k != block.name}
    return RankerRows(RankerBlock(rec.ranker, block.name), arrays, block.columns, rec.pipeline.vectors)


def test_scores_of_test_are_those_of_the_adapted_graph(rec: Recommender):
    # What training would compute for these rows, in one pass, from the events before each cut-off.
    (block,), rows = meta(rec).blocks, whole_log(rec)
    first, last = rec._prepared().packed.splits["test"]
    keys, times = np.asarray(rows.arrays[key_column(block.name)]), np.asarray(rows.arrays["time"])
    tasks = find_tasks(keys, times, cutoffs(times, "daily"), support=6, first=first, last=last)
    query = segment(rows, tasks, "query")
    z = block.inner(rows.block, entity_features(rows, tasks), segment(rows, tasks, "support"))
    expected = torch.sigmoid(rows.block(z[query.owner], query.features)).detach().numpy()
    prepared = rec._prepared()
    arrays = dict(prepared.packed.rows("test"))
    seen = np.asarray(arrays[block.name]) >= 0
    gathered = arrays | prepared.pipeline.gather_vectors(arrays)
    found = rec.score({k: np.array(a) for k, a in gathered.items()})
    numbers, owner = tasks.rows("query")
    some = tasks.support_sizes[owner] > 0
    assert some.sum() > 20
    np.testing.assert_array_equal(seen[numbers - first], some)
    np.testing.assert_allclose(found[numbers - first][some], expected[some], rtol=2e-5, atol=2e-6)


def test_no_row_meets_an_embedding_of_its_own_day(rec: Recommender):
    arrays = rec._prepared().packed.arrays
    name = meta(rec).blocks[0].name
    rows, times = np.asarray(arrays[name]), np.asarray(arrays["time"])
    made = rec.pipeline.vectors[name].cutoffs[rows[rows >= 0]]
    assert (made <= cutoffs(times[rows >= 0], "daily")).all()
    assert len(made)


def test_who_has_no_embedding_gets_that_of_their_features(rec: Recommender, late: pl.DataFrame):
    part = meta(rec)
    (block,) = part.blocks
    arrays = _arrays(rec, late.with_columns(pl.lit("nobody").alias("m")))
    assert not arrays[block.name].any()
    source = RankerRows(RankerBlock(rec.ranker, block.name), arrays, block.columns)
    z = block.inner.block(source.entity(np.arange(len(late)))).detach().numpy()
    assert np.abs(z).max() > 1e-3
    expected = predict_logits(rec.ranker, arrays | {block.name: z})
    np.testing.assert_allclose(
        part.adjust(arrays, predict_logits(rec.ranker, arrays)), expected, rtol=1e-5, atol=1e-6
    )
    # The way that evaluation takes: rows of the timeline instead of vectors.
    as_rows = arrays | {block.name: np.full(len(late), -1, np.int32)}
    np.testing.assert_allclose(part.adjust(as_rows, expected * 0), expected, rtol=1e-5, atol=1e-6)


def _arrays(rec: Recommender, raw: pl.DataFrame) -> dict[str, Any]:
    """Rows of events as they would be scored; the version does not move."""
    found: dict[str, Any] = {}
    score = rec.score
    try:
        rec.score = lambda arrays: found.update(arrays) or score(arrays)  # type: ignore[method-assign,func-returns-value]
        score_events(rec, raw, [])
    finally:
        del rec.score  # type: ignore[method-assign]
    return found


def test_a_saved_version_scores_the_same(rec: Recommender, late: pl.DataFrame, tmp_path: Path):
    loaded = Recommender.load(rec.save(tmp_path / "bundles"))
    expected = score_events(rec, late, [])["scores"]
    np.testing.assert_array_equal(score_events(loaded, late, [])["scores"], expected)
    one, other = rec.update(late), loaded.update(late)
    name = meta(rec).blocks[0].name
    np.testing.assert_array_equal(one.pipeline.vectors[name].vectors, other.pipeline.vectors[name].vectors)


def test_a_refresh_is_what_the_whole_log_would_give(rec: Recommender, late: pl.DataFrame):
    newer = rec.update(late)
    part, name = meta(newer), meta(rec).blocks[0].name
    old, new = meta(rec).blocks[0].timeline.latest(), part.blocks[0].timeline.latest()
    touched = {hash_text(m) for m in late["m"].unique()}
    moved = 0
    for key, vector in zip(new.keys, new.vectors, strict=True):
        before = old.vectors[old.keys == key]
        if int(key) in touched:
            moved += not len(before) or bool(np.abs(before[0] - vector).max() > 1e-4)
        else:
            np.testing.assert_array_equal(before[0], vector)
    assert moved > len(touched) / 2
    # In pieces, which end in the middle of a day, it comes to the same: nothing drifts.
    one, two = late["t"][100], late["t"][200]
    pieces = rec.update(late.filter(pl.col("t") < one))
    pieces = pieces.update(late.filter(pl.col("t").is_between(one, two, closed="left")))
    pieces = pieces.update(late.filter(pl.col("t") >= two))
    again = meta(pieces).blocks[0].timeline.latest()
    np.testing.assert_array_equal(again.keys, new.keys)
    np.testing.assert_array_equal(again.cutoffs, new.cutoffs)
    np.testing.assert_allclose(again.vectors, new.vectors, rtol=1e-4, atol=1e-5)
    # And to what adapting to the kept rows gives, all at once.
    block = part.blocks[0]
    rows = RankerRows(RankerBlock(rec.ranker, name), part.supports.arrays, block.columns)
    tasks = latest(part.supports.keys[name], part.supports.arrays["time"], new.keys, 2**62, 6)
    z = block.inner(rows.block, entity_features(rows, tasks), segment(rows, tasks, "support"), False)
    np.testing.assert_allclose(new.vectors, z.numpy(), rtol=1e-4, atol=1e-5)


def test_embeddings_of_other_weights_are_refused(rec: Recommender, late: pl.DataFrame, tmp_path: Path):
    loaded = Recommender.load(rec.save(tmp_path / "bundles"))
    with torch.no_grad():
        loaded.ranker.head_weight.mul_(1.5)
    (tmp_path / "part").mkdir()
    meta(rec).write(tmp_path / "part")
    with pytest.warns(UserWarning, match="made by other weights"):
        read = MetaPart.read(tmp_path / "part", meta(loaded).setting)
    loaded.parts["meta"] = read.with_state(meta(rec).state())
    arrays = _arrays(loaded, late)
    block = meta(loaded).blocks[0]
    assert arrays[block.name].any()
    source = RankerRows(RankerBlock(loaded.ranker, block.name), arrays, block.columns)
    z = block.inner.block(source.entity(np.arange(len(late)))).detach().numpy()
    expected = predict_logits(loaded.ranker, arrays | {block.name: z})
    np.testing.assert_allclose(meta(loaded).adjust(arrays, expected * 0), expected, rtol=1e-5, atol=1e-6)
    # An update makes all of them again.
    healed = meta(loaded.update(late))
    assert not healed.refused
    assert len(healed.blocks[0].timeline.latest()) >= len(np.unique(late["m"]))


def test_an_update_writes_the_new_rows_behind_the_kept_ones(
    rec: Recommender, late: pl.DataFrame, tmp_path: Path
):
    first = Recommender.load(rec.save(tmp_path / "bundles"))
    at = first.save(tmp_path / "bundles")
    few = late[:3]
    newer = Recommender.load(at).update(few)
    saved = newer.save(tmp_path / "bundles")
    assert (saved / "state.safetensors").samefile(at / "state.safetensors")
    assert not list((saved / "parts" / "meta").glob("supports*"))
    again, kept = meta(Recommender.load(saved)).supports, meta(newer).supports
    assert len(again.pieces) == len(kept.pieces) == 2
    assert len(again.pieces[1]) == len(few)
    for name, values in kept.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], values)
    for name, keys in kept.keys.items():
        np.testing.assert_array_equal(again.keys[name], keys)


def test_a_forgotten_member_leaves_nothing(rec: Recommender, late: pl.DataFrame):
    newer = rec.update(late)
    key = np.uint64(hash_text("m3"))
    before, after = meta(newer), meta(newer).forget(np.array([key]))
    assert (before.blocks[0].timeline.keys == key).any()
    assert not (after.blocks[0].timeline.keys == key).any()
    assert not (after.supports.arrays["member"] == key).any()
    others = before.blocks[0].timeline.without(np.array([key]))
    np.testing.assert_array_equal(after.blocks[0].timeline.vectors, others.vectors)


def test_several_blocks_at_once(early: pl.DataFrame, late: pl.DataFrame, tmp_path: Path):
    rec = _spoken(fitted(early, tmp_path, tasks=BLOCKS["tasks"]))
    names = ["meta(member)", "meta(item)", "meta(m x cat)"]
    assert [b.name for b in meta(rec).blocks] == names
    loaded = Recommender.load(rec.save(tmp_path / "bundles"))
    newer = loaded.update(late)
    for name, width in zip(names, (4, 3, 2), strict=True):
        assert newer.pipeline.vectors[name].dim == width
        assert len(newer.pipeline.vectors[name]) > len(rec.pipeline.vectors[name]) > 0
    # Items that learned from a member are adapted again without them.
    key = np.uint64(hash_text("m3"))
    part = meta(newer)
    less = part.forget(np.array([key]))
    item: Block = less.blocks[1]
    rows = RankerRows(
        RankerBlock(newer.ranker, item.name), less._visible(less.supports.arrays, item), item.columns
    )
    tasks = latest(
        less.supports.keys[item.name], less.supports.arrays["time"], item.timeline.latest().keys, 2**62, 6
    )
    z = item.inner(rows.block, entity_features(rows, tasks), segment(rows, tasks, "support"), False)
    np.testing.assert_allclose(item.timeline.latest().vectors, z.numpy(), rtol=1e-4, atol=1e-5)
    pairs = part.supports.keys["meta(m x cat)"][part.supports.arrays["member"] == key]
    assert len(pairs)
    assert not np.isin(less.blocks[2].timeline.keys, pairs).any()
    assert (
        rec.rank(
            "m1", k=3, items=["i1", "i2", "i3"], context={"cat": "u", "tags": [["g1"]] * 3, "num": 0.5}
        ).height
        == 3
    )


def test_the_report_tells_what_the_embeddings_add(rec: Recommender):
    report = rec.evaluate(baselines=["item popularity"], draws=50)
    plain = rec.evaluate(draws=50)
    assert not any("meta" in cut.name for cut in plain.evaluation.segments)
    both = rec.evaluate(baselines=True, draws=50)
    assert "memberwise, without meta embeddings" in both.metrics
    assert both.metrics["memberwise"] != both.metrics["memberwise, without meta embeddings"]
    found = {cut.name: cut.rows for cut in report.evaluation.segments if cut.name.startswith("meta(member)")}
    first, last = rec._prepared().packed.splits["test"]
    assert sum(found.values()) == last - first
    assert "meta(member): 11-50 rows before" in found


def test_the_command_refreshes_and_leaves_all_weights(rec: Recommender, late: pl.DataFrame, tmp_path: Path):
    (tmp_path / "base").mkdir()
    values = rec.project.to_dict() | {"output": str(tmp_path / "runs")}
    for entity in values["entities"].values():
        if entity["path"]:
            entity["path"] = str(rec.project.base / entity["path"])
    values["events"]["path"] = str(rec.project.base / values["events"]["path"])
    file = tmp_path / "base" / "project.yaml"
    file.write_text(json.dumps(values))  # JSON is YAML
    rec.save(Project.load(file).bundles)
    late.write_parquet(tmp_path / "late.parquet")
    outcome = CliRunner().invoke(app, ["refresh", str(file), str(tmp_path / "late.parquet"), "--json"])
    assert outcome.exit_code == 0, outcome.output
    newer = Recommender.load(Project.load(file).bundles)
    for name, value in rec.ranker.state_dict().items():
        assert torch.equal(value, newer.ranker.state_dict()[name])
    assert meta(newer).version == meta(rec).version
    block = meta(rec.update(late)).blocks[0].timeline.latest()
    found = meta(newer).blocks[0].timeline.latest()
    np.testing.assert_array_equal(found.keys, block.keys)
    np.testing.assert_allclose(found.vectors, block.vectors, rtol=1e-4, atol=1e-5)


def test_the_version_after_forgetting_needs_no_update(rec: Recommender, late: pl.DataFrame, tmp_path: Path):
    key = np.uint64(hash_text("m3"))
    less = forget(rec, np.array([key]))
    assert not meta(less).refused
    assert meta(less).setting.ranker is less.ranker
    others = late.filter(pl.col("m") != "m3")
    loaded = Recommender.load(less.save(tmp_path / "bundles"))
    arrays = _arrays(loaded, others)
    assert arrays["meta(member)"].any()
    np.testing.assert_array_equal(loaded.score(arrays), less.score(arrays))
    block = meta(loaded).blocks[0].timeline
    assert not (block.keys == key).any()
    np.testing.assert_array_equal(
        block.vectors, meta(rec).blocks[0].timeline.without(np.array([key])).vectors
    )
