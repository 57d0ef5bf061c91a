"""Graph embeddings in a version: no leak, the same after loading, refresh, retrieval, forgetting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from memberwise.data.entities import EntityEmbeddings
from memberwise.data.hashing import hash_text
from memberwise.errors import ConfigError, DataError
from memberwise.graph.inference import embed_all
from memberwise.project import Project
from memberwise.recommender import Recommender
from memberwise.recommender.parts.graph import GraphPart
from memberwise.schema import DAY

GRAPH: dict[str, Any] = {
    "encoder": {"dim": 16, "heads": 2, "temporal": {"length": 4, "heads": 2, "prefix": 2, "long_term": None}},
    "training": {"epochs": 2, "batch_size": 64, "negatives": 8, "workers": 0},
    "neighbourhood": {"fan_out": 4},
    "retrieval": {"candidates": 6},
}


def _log(rows: int = 900, members: int = 25, items: int = 15, start: int = 0, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    who, what = rng.integers(0, members, rows), rng.integers(0, items, rows)
    liked = ((who + what) % 2 == 0) ^ (rng.random(rows) < 0.1)
    when = start + np.sort(rng.integers(0, 20 * 86_400, rows))
    return pl.DataFrame(
        {
            "t": when + 1_600_000_000,
            "m": [f"m{k}" for k in who],
            "i": [f"i{k}" for k in what],
            "y": liked.astype(np.int8),
        }
    )


def _project(folder: Path, log: pl.DataFrame, **settings: Any) -> Project:
    folder.mkdir(parents=True, exist_ok=True)
    log.write_parquet(folder / "log.parquet")
    content = np.random.default_rng(1).normal(1, 1, (16, 3)).tolist()
    items = {"i": [f"i{k}" for k in range(16)], "kind": [str(k % 3) for k in range(16)], "content": content}
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    values: dict[str, Any] = {
        "events": {"path": "log.parquet", "time": "t"},
        "entities": {"member": {"id": "m"}, "item": {"id": "i", "path": "items.parquet"}},
        "tasks": [{"name": "y", "label": "y = 1"}],
        "features": [{"kind": "categorical", "column": "item.kind"}],
        "training": {"epochs": 1, "batch_size": 128},
        "graph": GRAPH,
    }
    return Project.from_dict(values | settings, folder)


CONTENT: dict[str, Any] = {
    "features": [
        {"kind": "categorical", "column": "item.kind"},
        {"kind": "vector", "entity": "item", "column": "content"},
    ],
    "graph": GRAPH | {"densify": {"k": 3, "moments": 2}},
}
RESEMBLES = ("item", "resembles", "item")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Recommender]:
    project = _project(tmp_path_factory.mktemp("graph"), _log())
    return project, Recommender.fit(project)


@pytest.fixture(scope="module")
def densified(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return Recommender.fit(_project(tmp_path_factory.mktemp("densified"), _log(), **CONTENT))


def _part(rec: Recommender) -> GraphPart:
    part = rec.parts["graph"]
    assert isinstance(part, GraphPart)
    return part


def test_the_features_declare_themselves(fitted: tuple[Project, Recommender]) -> None:
    project, rec = fitted
    made = [f for f in project.config.features if f.kind == "vector"]
    assert [(f.made_by, f.entity, f.dim) for f in made] == [("graph", "member", 16), ("graph", "item", 16)]
    assert set(rec.pipeline.vectors) == {"graph(member)", "graph(item)"}


@pytest.mark.parametrize("densify", [False, True])
def test_no_vector_and_no_weight_knows_the_rows_that_meet_it(
    densify: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Other events from a moment on leave everything that a row before it meets as it was."""
    rec = request.getfixturevalue("densified") if densify else request.getfixturevalue("fitted")[1]
    log = _log()
    moment = 1_600_000_000 + 14 * 86_400
    other = _log(seed=9).filter(pl.col("t") >= moment)
    changed = pl.concat(
        [log.filter(pl.col("t") < moment), other.head(len(log.filter(pl.col("t") >= moment)))]
    )
    late = len(log) - len(changed)
    changed = pl.concat([changed, changed.tail(1).sample(late, with_replacement=True)]) if late else changed
    assert len(changed) == len(log)  # so that the splits are the same
    again = Recommender.fit(_project(tmp_path, changed, **(CONTENT if densify else {})))
    for name in ("graph(member)", "graph(item)"):
        one, two = rec.pipeline.vectors[name], again.pipeline.vectors[name]
        early = one.cutoffs <= moment * 1_000_000
        same = two.cutoffs <= moment * 1_000_000
        assert early.sum() > 20
        np.testing.assert_array_equal(one.keys[early], two.keys[same])
        np.testing.assert_array_equal(one.vectors[early], two.vectors[same])


def test_scores_and_answers_are_the_same_after_loading(
    fitted: tuple[Project, Recommender], tmp_path: Path
) -> None:
    _, rec = fitted
    rec.save(tmp_path / "bundles")
    loaded = Recommender.load(tmp_path / "bundles")
    assert rec.rank("m3").equals(loaded.rank("m3"))
    assert rec.similar("item", "i3", 5).equals(loaded.similar("item", "i3", 5))
    newer = _log(60, start=25 * 86_400, seed=3)
    assert rec.update(newer).rank("m3").equals(loaded.update(newer).rank("m3"))


def test_an_update_refreshes_exactly_whom_it_touches(fitted: tuple[Project, Recommender]) -> None:
    _, rec = fitted
    last = int(_log()["t"].max())  # type: ignore[arg-type]
    events = pl.DataFrame({"t": [last + 1, last + 2], "m": ["m3", "nobody"], "i": ["i4", "i5"], "y": [1, 1]})
    newer = rec.update(events)
    before, after = rec.pipeline.vectors["graph(member)"], newer.pipeline.vectors["graph(member)"]
    added = after.keys[after.cutoffs > int(before.cutoffs.max())]
    assert set(added) == {np.uint64(hash_text("m3")), np.uint64(hash_text("nobody"))}
    assert len(before) == len(rec.pipeline.vectors["graph(member)"])  # the version before stays as it was
    assert rec.parts["graph"] is not newer.parts["graph"]
    assert len(newer.rank("nobody", k=None)) == 6


def test_a_dislike_makes_no_edge(fitted: tuple[Project, Recommender]) -> None:
    _, rec = fitted
    events = pl.DataFrame({"t": [1_605_000_000], "m": ["m3"], "i": ["i4"], "y": [0]})
    newer = rec.update(events)
    assert len(newer.pipeline.vectors["graph(member)"]) == len(rec.pipeline.vectors["graph(member)"])


def test_rank_without_items_finds_what_the_member_has_not_chosen(fitted: tuple[Project, Recommender]) -> None:
    _, rec = fitted
    log = _log().filter((pl.col("m") == "m3") & (pl.col("y") == 1))
    ranked = rec.rank("m3", k=None)
    assert 0 < len(ranked) <= 6
    assert not set(ranked["item"]) & set(log["i"])
    everything = rec.rank("never seen", k=None)
    assert len(everything) == 16  # nothing is known of it: all of the item table


def test_similar(fitted: tuple[Project, Recommender]) -> None:
    _, rec = fitted
    found = rec.similar("item", "i3", 4)
    assert found.columns == ["id", "cosine"]
    assert len(found) == 4
    assert "i3" not in found["id"].to_list()
    assert found["cosine"].is_sorted(descending=True)
    with pytest.raises(DataError, match="not a known member"):
        rec.similar("member", "who")
    with pytest.raises(DataError, match="has no vectors"):
        rec.similar("genre", "x")


def test_a_forgotten_member_leaves_nothing(fitted: tuple[Project, Recommender]) -> None:
    _, rec = fitted
    gone = np.array([hash_text("m3")], np.uint64)
    part = _part(rec).forget(gone)
    assert "m3" not in part.graph.nodes["member"].ids.to_list()
    assert not np.isin(part.lines["member"].keys, gone).any()
    assert part.candidates("m3", part.moment) is None
    assert part.candidates("m4", part.moment) is not None
    assert len(part.encoder.ids.known) == len(_part(rec).encoder.ids.known) - 1
    assert "m3" in _part(rec).graph.nodes["member"].ids.to_list()


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    for graph, message in [
        ({"predict": {}}, "nothing to learn"),
        ({"predict": {"item:is:genre": 1.0}}, "does not lead from member to item"),
        ({"predict": {"member:clicks:item": 1.0}}, "no events make edges .* they make member:engages:item"),
        (
            {"edges": [{"kind": "attribute", "column": "item.genre"}]},
            "no events make edges .* add an engagement",
        ),
        ({"encoder": {"destination_neighbours": 4}}, "depend on the item"),
        ({"encodr": {}}, "unknown key"),
        ({"densify": {}}, "no content vectors of member, item"),
        ({"densify": {"low": 95}}, "low 95 must be below high 90"),
        ({"edges": [{"kind": "engagement", "name": "resembles"}]}, "is what 'densify' makes"),
    ]:
        with pytest.raises(ConfigError, match=message):
            _project(tmp_path, _log(50), graph=graph)
    plain = Recommender.fit(_project(tmp_path / "plain", _log(200), graph=None))
    with pytest.raises(ConfigError, match="no graph embeddings"):
        plain.similar("item", "i3")


def test_densify_names_the_entity_without_content(tmp_path: Path) -> None:
    graph = GRAPH | {"densify": {"node_types": ["item", "member"]}}
    with pytest.raises(ConfigError, match="no content vectors of member;"):
        _project(tmp_path, _log(50), **(CONTENT | {"graph": graph}))


def test_content_that_has_seen_what_the_encoder_may_not_is_refused(tmp_path: Path) -> None:
    cutoff = 1_600_000_000_000_000 + 15 * DAY
    late = EntityEmbeddings("item", pl.Series(["i1"]), np.ones((1, 2), np.float32), "v1", cutoff)
    late.write(tmp_path / "late.arrow")
    features = [{"kind": "vector", "entity": "item", "path": "late.arrow"}]
    project = _project(tmp_path, _log(300), features=features)
    with pytest.raises(DataError, match="have seen events that the graph must not know"):
        Recommender.fit(project)


def test_cold_items_and_only_they_hear_from_items_like_them(densified: Recommender) -> None:
    """Artificial edges change the vectors of the cold; they make nobody look more active."""
    part = _part(densified)
    edges = part.graph.adjacency[RESEMBLES].coo()
    cold = np.unique(edges.source)
    assert 0 < len(cold) < 15
    assert not set(cold) & set(edges.target)
    assert edges.time is not None
    assert edges.time.max() < part.lines["item"].cutoffs.min()  # known before the first vector
    others = {e: a for e, a in part.graph.adjacency.items() if e != RESEMBLES}
    plain = replace(part, graph=replace(part.graph, adjacency=others))
    one, two = (embed_all(p.encoder, p.graph, p.moment)["item"].vectors for p in (part, plain))
    differs = (one != two).any(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(differs), cold)
    np.testing.assert_array_equal(part._last_events(), plain._last_events())


def test_a_densified_version_moves_on(densified: Recommender, tmp_path: Path) -> None:
    """Loaded, updated with a new item, and without a member, it keeps its artificial edges."""
    densified.save(tmp_path / "bundles")
    loaded = Recommender.load(tmp_path / "bundles")
    newer = _log(60, start=25 * 86_400, seed=3)
    newer = pl.concat([newer, newer.tail(1).with_columns(i=pl.lit("brand new"), y=pl.lit(1, pl.Int8))])
    versions = [v.update(newer) for v in (densified, loaded)]
    assert versions[0].rank("m3").equals(versions[1].rank("m3"))
    assert len(versions[1].similar("item", "brand new", 3)) == 3
    before = _part(densified).graph.adjacency[RESEMBLES].coo()
    gone = np.array([hash_text("m3")], np.uint64)
    for part in (_part(versions[0]), _part(versions[1]), _part(versions[1]).forget(gone)):
        assert part.graph.count("item") == 17
        after = part.graph.adjacency[RESEMBLES].coo()
        for name in ("source", "target", "time", "weight"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        assert part.candidates("m4", part.moment) is not None
    assert _part(versions[1]).forget(gone).candidates("m3", part.moment) is None
