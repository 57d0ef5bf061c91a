"""A version ranks as it was evaluated, survives saving, and moves forward without seeing the future."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from memberwise import bundle
from memberwise.data.hashing import hash_text
from memberwise.data.prepare import prepare
from memberwise.errors import BundleError, ConfigError, DataError
from memberwise.project import Project
from memberwise.recommender import Recommender, fitting
from memberwise.recommender.evaluating import score_events
from support.logs import impressions, project_values
from support.projects import make

Context = dict[str, Any]


def scores(rec: Recommender, events: pl.DataFrame, notes: list[str] | None = None) -> np.ndarray:
    """Probabilities of labelled events, as `evaluate` computes them, by source order."""
    return score_events(rec, events, [] if notes is None else notes)["scores"]


def context(row: dict[str, Any]) -> Context:
    return {"tags": [row["tags"]], "num": row["num"], "cat": row["cat"]}


def rank(rec: Recommender, row: dict[str, Any], **options: Any) -> np.ndarray:
    found = rec.rank(row["m"], [row["i"]], at=row["t"], context=context(row), **options)
    return found.select("y", "z").to_numpy()[0]


def ranked(rec: Recommender, at: datetime | None = None) -> list[float]:
    items = [f"i{k}" for k in range(15)]
    ask: Context = {"tags": [["g1", "g2"]] * 15, "num": 0.5, "cat": "u"}
    return rec.rank("m3", items, None, at=at, context=ask).sort("item")["score"].to_list()


def test_rank_gives_the_scores_of_the_evaluation(rec: Recommender, late: pl.DataFrame):
    """Row by row: at the same time, with the same past."""
    at, seen = 0, rec
    events = late.head(60)
    expected = scores(rec, events)
    for (_,), moment in events.group_by(["t"], maintain_order=True):
        for k, row in enumerate(moment.to_dicts()):
            np.testing.assert_allclose(rank(seen, row), expected[at + k], atol=1e-5)
        at += len(moment)
        seen = seen.update(moment)


def test_the_report_is_made_of_those_scores(rec: Recommender, late: pl.DataFrame):
    report = rec.evaluate(late, draws=50)
    y = late["y"].to_numpy()
    p = scores(rec, late)[:, 0].astype(np.float64)
    loss = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    text = str(report.metrics)
    assert f"{loss:.4f}"[:6] in text or any(abs(v - loss) < 1e-5 for v in numbers(report.metrics))


def numbers(tree: Any) -> list[float]:
    if isinstance(tree, dict):
        return [x for v in tree.values() for x in numbers(v)]
    if isinstance(tree, list | tuple):
        return [x for v in tree for x in numbers(v)]
    return [float(tree)] if isinstance(tree, int | float) else []


def test_what_comes_later_does_not_change_an_evaluation(rec: Recommender, late: pl.DataFrame):
    half = late["t"][150]
    first = late.filter(pl.col("t") < half)
    changed = pl.concat(
        [first, late.filter(pl.col("t") >= half).with_columns(y=1 - pl.col("y"), m=pl.col("i"))]
    )
    np.testing.assert_allclose(scores(rec, changed)[: len(first)], scores(rec, late)[: len(first)], atol=1e-6)
    # Nor do labels at the same moment.
    other = first.with_columns(y=pl.when(pl.col("t") == first["t"][-1]).then(1 - pl.col("y")).otherwise("y"))
    np.testing.assert_array_equal(scores(rec, other), scores(rec, first))


def test_evaluating_and_ranking_do_not_change_a_version(rec: Recommender, late: pl.DataFrame):
    before = ranked(rec)
    expected = scores(rec, late)
    far = late["t"][-1] + timedelta(days=400)
    assert ranked(rec, far) != before
    assert ranked(rec) == before
    assert ranked(rec, late["t"][0]) == ranked(rec, late["t"][0])
    np.testing.assert_array_equal(scores(rec, late), expected)
    assert rec.update(late).as_of == late["t"][-1].replace(tzinfo=UTC)
    assert ranked(rec) == before


def test_updates_in_pieces_equal_one_and_a_replay(rec: Recommender, early: pl.DataFrame, late: pl.DataFrame):
    whole = rec.update(late)
    pieces = rec
    for (_,), day in late.group_by([pl.col("t").dt.date()], maintain_order=True):
        pieces = pieces.update(day)
    soon = late["t"][-1] + timedelta(minutes=5)
    np.testing.assert_allclose(ranked(pieces, soon), ranked(whole, soon), atol=1e-6)
    # From the first event on, with the same encoders: the same state as that of the fit and the update.
    again = rec.pipeline.copy(empty=True)
    fresh = Recommender(rec.project, rec.ranker, again, rec.seen, None, rec.summary, [], 0.0)
    np.testing.assert_allclose(ranked(fresh.update(early).update(late), soon), ranked(whole, soon), atol=1e-6)


def test_each_event_counts_once(rec: Recommender, late: pl.DataFrame):
    newer = rec.update(late.head(50))
    with pytest.raises(
        DataError, match=r"the events begin at .* has seen events up to[\s\S]*each counts once"
    ):
        newer.update(late.head(50))
    with pytest.raises(DataError, match="each counts once"):
        newer.update(late.filter(pl.col("t") == newer.as_of.replace(tzinfo=None)))  # type: ignore[union-attr]


def test_older_events_are_evaluated_with_what_was_known_then(rec: Recommender, early: pl.DataFrame):
    """As if the version had stopped before the first of them."""
    notes: list[str] = []
    moment = early["t"][700]
    old = early.filter(pl.col("t") >= moment)
    found = scores(rec, old, notes)
    assert "features were rebuilt from the project's log" in notes[0]
    stopped = Recommender(
        rec.project, rec.ranker, rec.pipeline.copy(empty=True), rec.seen, None, rec.summary, [], 0.0
    ).update(early.filter(pl.col("t") < moment))
    np.testing.assert_allclose(found, scores(stopped, old), atol=1e-6)


def test_the_last_moment_seen_is_not_counted_twice(rec: Recommender, early: pl.DataFrame):
    notes: list[str] = []
    last = early.filter(pl.col("t") == early["t"][-1])
    scores(rec, last, notes)
    assert notes


def test_older_events_draw_their_negatives_from_what_there_was(tmp_path: Path, early: pl.DataFrame):
    """An item that appeared later is no negative of an earlier event."""
    late_item = pl.when(pl.int_range(pl.len()) > 800).then(pl.lit("latest")).otherwise("i")
    raw = early.with_columns(i=late_item)
    settings = {"tasks": [{"name": "y", "label": "1"}], "negatives": {"per_positive": 4}}
    rec = Recommender.fit(make(tmp_path, raw, **settings))
    arrays = score_events(rec, raw[600:700], [])
    assert len(arrays["item"]) > 400
    assert hash_text("latest") not in set(arrays["item"].tolist())


def test_saved_and_loaded_it_gives_the_same_scores(rec: Recommender, late: pl.DataFrame, tmp_path: Path):
    newer = rec.update(late.head(100))
    newer.save(tmp_path)
    loaded = Recommender.load(tmp_path)
    assert loaded.version == "000001"
    assert loaded.as_of == newer.as_of
    assert ranked(loaded) == ranked(newer)
    np.testing.assert_array_equal(scores(loaded, late[150:]), scores(newer, late[150:]))
    rest = late.filter(pl.col("t") > late["t"][100])
    assert ranked(loaded.update(rest)) == ranked(newer.update(rest))
    assert loaded.summary == newer.summary


def test_an_update_links_the_files_that_did_not_change(rec: Recommender, late: pl.DataFrame, tmp_path: Path):
    first = rec.save(tmp_path)
    second = rec.update(late).save(tmp_path)
    rec.version = None
    same = "ranker.safetensors"
    assert (first / same).stat().st_ino == (second / same).stat().st_ino
    assert Recommender.load(tmp_path / "current").version == "000002"
    assert Recommender.load(first).version == "000001"
    bundle.point(tmp_path, "000001")
    assert Recommender.load(tmp_path).version == "000001"


@pytest.mark.parametrize(
    "name", ["project.json", "ranker.safetensors", "state.safetensors", "entities/item.arrow", "fit.json"]
)
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_version_is_not_loaded(rec: Recommender, tmp_path: Path, name: str, harm: str):
    rec.version = None
    file = rec.save(tmp_path) / name
    rec.version = None
    content = bytearray(file.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif harm == "cut":
        file.write_bytes(content[:-1])
    else:
        file.unlink()
    with pytest.raises(BundleError, match=r"altered|bytes instead of|missing") as caught:
        Recommender.load(tmp_path)
    assert name in str(caught.value)


def test_what_is_no_bundle_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(BundleError, match=r"is not a bundle[\s\S]*memberwise fit PROJECT"):
        Recommender.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"context": {}}, r"reads the event column 'tags'[\s\S]*pass context=\{'tags': \.\.\.\}"),
        ({"context": {"tags": [["g1"], ["g2"]], "num": 1, "cat": "u"}}, "2 values of 'tags' for 3 items"),
        ({"context": {"tags": [["g1"]] * 3, "num": [1.0] * 2, "cat": "u"}}, "2 values of 'num' for 3 items"),
        ({"items": []}, "no items are given"),
        ({"items": "i1"}, r"pass a list: items=\['i1'\]"),
        ({"items": ["i1", None, "i2"]}, "items: None is not an id"),
        ({"items": ["i1", "", "i2"]}, "items: '' is not an id"),
        ({"member": ""}, "member: '' is not an id"),
        ({"member": None}, "member: None is not an id"),
        ({"member": "\ud800"}, "member: .* is not an id"),
        ({"at": datetime(2000, 1, 1)}, "would see its future"),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(rec: Recommender, options: Context, says: str):
    ask: Context = {"member": "m1", "items": ["i1", "i2", "i3"]}
    ask["context"] = {"tags": [["g1"]] * 3, "num": 1.0, "cat": "u"}
    with pytest.raises(DataError, match=says):
        rec.rank(**ask | options)


@pytest.mark.parametrize("member", ["m1", 17, 17.0, 2**63, "never seen", "🎬", "x" * 100_000])
def test_any_member_gets_a_ranking(rec: Recommender, member: Any):
    ask = {"tags": [["never"], None, []], "num": [None, float("nan"), 1e300], "cat": [None, "new", ""]}
    found = rec.rank(member, ["i1", "never", 10**20], 2, context=ask)
    assert found.columns == ["item", "score", "y", "z"]
    assert len(found) == 2
    assert found["score"].is_sorted(descending=True)
    assert found.select(pl.col("score", "y", "z").is_finite().all()).row(0) == (True, True, True)


def test_the_same_id_as_number_or_text_is_the_same_member(tmp_path: Path):
    raw = impressions(600).with_columns(m=pl.col("m").str.slice(1).cast(pl.Int64))
    raw.write_parquet(tmp_path / "log.parquet")
    rec = Recommender.fit(Project.from_dict(project_values("log.parquet"), tmp_path))
    ask: Context = {"tags": [["g1"]] * 2, "num": 0.0, "cat": "u"}
    results = [rec.rank(m, ["i1", "i2"], context=ask)["score"].to_list() for m in (3, "3", 3.0, np.int32(3))]
    assert results[0] == results[1] == results[2] == results[3]
    assert results[0] != rec.rank("4", ["i1", "i2"], context=ask)["score"].to_list()


def test_all_items_of_the_table_are_candidates(rec: Recommender):
    found = rec.rank("m1", k=None, context={"tags": [["g1"]] * 15, "num": 1.0, "cat": "u"})
    assert sorted(found["item"]) == sorted(f"i{k}" for k in range(15))


def test_the_project_is_prepared_once_for_all_settings_of_training(
    rec: Recommender, project: Project, monkeypatch: pytest.MonkeyPatch
):
    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("prepared anew")

    monkeypatch.setattr(fitting, "prepare", again)
    values = project.to_dict()
    values["training"]["lr"] = 0.01
    values["ranker"]["blocks"][0]["hidden"] = [4]
    other = Recommender.fit(Project.from_dict(values, project.base))
    assert other.ranker is not rec.ranker
    monkeypatch.setattr(fitting, "prepare", prepare)


def test_a_log_that_changed_since_the_fit_is_not_scored_with_other_codes(tmp_path: Path, early: pl.DataFrame):
    early.write_parquet(tmp_path / "log.parquet")
    project = Project.from_dict(project_values("log.parquet"), tmp_path)
    rec = Recommender.fit(project)
    assert rec.evaluate(draws=20).metrics
    early.with_columns(m=pl.format("x{}", "m")).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match="the project's log has changed since this version was fitted"):
        rec.evaluate(draws=20)


def test_the_same_seed_gives_the_same_version(tmp_path: Path, early: pl.DataFrame):
    results = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        early.write_parquet(tmp_path / name / "log.parquet")
        rec = Recommender.fit(Project.from_dict(project_values("log.parquet"), tmp_path / name))
        results.append(rec.evaluate(draws=20).metrics)
    assert results[0] == results[1]


def test_an_unknown_baseline_names_the_known_ones(rec: Recommender):
    with pytest.raises(ConfigError, match=r"'xgboost' is not a baseline[\s\S]*item popularity"):
        rec.evaluate(baselines=["xgboost"], draws=20)


def test_unusable_rows_of_an_evaluation_are_noted(rec: Recommender, late: pl.DataFrame):
    notes: list[str] = []
    bad = late.with_columns(y=pl.when(pl.int_range(pl.len()) < 3).then(None).otherwise("y"))
    assert len(scores(rec, bad, notes)) == len(late) - 3
    assert "3 of 300 rows could not be used" in notes[0].replace(str(len(late)), "300")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ({"m": pl.lit(None, pl.String)}, "member id is missing"),
        ({"t": pl.lit("garbage")}, "time cannot be read"),
        ({"tags": pl.lit([[1]])}, "List"),
    ],
)
def test_events_that_do_not_fit_say_why(rec: Recommender, late: pl.DataFrame, spoil: Context, says: str):
    for use in (rec.update, rec.evaluate):
        with pytest.raises(DataError, match=says):
            use(late.with_columns(**spoil))
    with pytest.raises(DataError, match="column 'num' missing"):
        rec.update(late.drop("num"))
    with pytest.raises(DataError, match="the log is empty"):
        rec.update(late[:0])


def test_an_evaluation_says_which_rows_the_version_knows_already(
    early: pl.DataFrame, late: pl.DataFrame, tmp_path: Path
) -> None:
    rec = Recommender.fit(make(tmp_path, early, effects={}))
    train_end = rec.summary["splits"]["train"]["last"]
    assert not rec.evaluate(late, draws=20).context.cautions
    assert not rec.evaluate(draws=20).context.cautions
    old = rec.evaluate(early, draws=20).context.cautions
    trained = int((early["t"].cast(pl.Int64) <= train_end).sum())
    assert any(
        n.startswith(f"{trained:,} of {len(early):,} rows are not later than the end of train") for n in old
    )
    assert not any("updates have taught" in n for n in old)
    rec.save()
    newer = rec.update(late[:200])
    newer.save()
    (note,) = newer.evaluate(draws=20).context.cautions
    test = rec.summary["splits"]["test"]["rows"]
    assert note.startswith(f"{test:,} of {test:,} rows come before")
    assert "(effects)" in note
    found = newer.evaluate(late.filter(pl.col("t") > late["t"][199]), draws=20)
    assert not found.context.cautions
    assert found.subject().startswith("version 000002, as of ")
