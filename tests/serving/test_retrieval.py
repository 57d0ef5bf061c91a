"""A request without candidates: found by the graph for whom it knows, popular for the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient

from memberwise.project import Project
from memberwise.recommender import Recommender
from memberwise.recommender.parts.graph import GraphPart
from memberwise.recommender.retrieval import popular
from memberwise.serving.app import Server, create_app
from memberwise.serving.settings import ServingSettings
from support.logs import impressions
from support.projects import personal

CONTEXT = {"num": 0.5, "cat": "u", "tags": ["g1", "g2"]}


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    return impressions(700, members=25, items=40)


@pytest.fixture(scope="module")
def graphed(log: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = personal(tmp_path_factory.mktemp("graphed"), log, meta=None)
    Recommender.fit(project).save()
    return project


@pytest.fixture
def client(graphed: Project) -> Iterator[TestClient]:
    settings = ServingSettings(engine="torch", clock="log", retrieve=12)
    with TestClient(create_app(Server(graphed, settings))) as client:
        yield client
    (graphed.output / "forgotten.jsonl").unlink(missing_ok=True)


def ask(client: TestClient, member: str, **values: Any) -> dict[str, Any]:
    answer = client.post("/rank", json={"member": member, "context": CONTEXT, "k": 100} | values)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_server_finds_what_the_recommender_finds(client: TestClient, graphed: Project) -> None:
    rec = Recommender.load(graphed.bundles)
    for member in ("m3", "m7", "never seen"):
        answer = ask(client, member)
        ranked = rec.rank(member, k=None, context=CONTEXT)
        if member == "never seen":  # the server takes the most popular, Python all there are
            found = popular(rec, 12)
            assert found is not None
            assert answer["retrieved"] == "popular"
            assert {i["item"] for i in answer["items"]} == set(found.items)
            assert len(ranked) == 40
            ranked = ranked.filter(pl.col("item").is_in(found.items.implode()))
        else:
            assert answer["retrieved"] == "graph"
        assert [i["item"] for i in answer["items"]] == ranked["item"].to_list()
        utilities = [i["utility"] for i in answer["items"]]
        np.testing.assert_allclose(utilities, ranked["score"].to_numpy(), atol=2e-6)


def test_what_was_chosen_is_gone_before_the_best_are_taken(
    client: TestClient, graphed: Project, log: pl.DataFrame
) -> None:
    """A brute-force twin: the inner product of the keys of all items that the member has not chosen."""
    part = Recommender.load(graphed.bundles).parts["graph"]
    assert isinstance(part, GraphPart)
    ids, keys = part.graph.nodes["item"].ids, part._now["item"].keys
    assert keys is not None
    hidden = 0
    for member in log["m"].unique().sort()[:8]:
        chosen = set(log.filter((pl.col("m") == member) & ((pl.col("y") == 1) | (pl.col("num") > 0)))["i"])
        row = part.graph.nodes["member"].find(pl.Series([member]))
        query = part.encoder.embed(part.graph, "member", row, part.moment).keys
        assert query is not None
        best = ids[np.argsort(-(keys @ query[0]), kind="stable")].to_list()
        expected = [i for i in best if i not in chosen][:8]
        assert {i["item"] for i in ask(client, member)["items"]} == set(expected)
        hidden += bool(chosen & set(best[:8]))
    assert hidden >= 4  # for these, removing behind the top 8 would have left fewer


def test_explains_how_near_the_graph_sees_them(client: TestClient, graphed: Project) -> None:
    """The items that the graph found come in its own order of similarity, whatever the ranker says."""
    part = Recommender.load(graphed.bundles).parts["graph"]
    found = part.candidates("m3", part.moment)  # type: ignore[attr-defined]
    assert found is not None
    items = ask(client, "m3", explain=True)["items"]
    assert {name for i in items for name in i["shares"]} == {"ranker"}  # the graph has no logit of its own
    near = {i["item"]: i["similarity"] for i in items}
    assert sorted(near, key=lambda i: -near[i]) == found.to_list()
    assert all("similarity" not in i for i in ask(client, "m3")["items"])
    assert all("similarity" not in i for i in ask(client, "never seen", explain=True)["items"])
    named = ask(client, "m3", candidates=["i1", "unheard of"], explain=True)["items"]
    assert {i["item"] for i in named if "similarity" in i} == {"i1"}


def test_named_candidates_are_not_said_to_be_found(client: TestClient) -> None:
    assert "retrieved" not in ask(client, "m3", candidates=["i1", "i2"])


def test_a_forgotten_member_is_not_found_by_its_vector(client: TestClient) -> None:
    assert ask(client, "m3")["retrieved"] == "graph"
    assert client.delete("/members/m3").status_code == 202
    assert ask(client, "m3")["retrieved"] == "popular"
    assert ask(client, "m3")["items"] == ask(client, "never seen")["items"]


def test_without_an_item_table_the_graph_knows_the_items(log: pl.DataFrame, tmp_path: Path) -> None:
    base = personal(tmp_path, log, meta=None)
    values = base.to_dict() | {"entities": {"member": {"id": "m"}, "item": {"id": "i"}}}
    values["features"] = [f for f in values["features"] if f["kind"] != "vector"]
    project = Project.from_dict(values, tmp_path)
    rec = Recommender.fit(project)
    rec.save()
    most = log.head(560)["i"].value_counts(sort=True)["i"][0]
    with TestClient(create_app(Server(project, ServingSettings(engine="torch", clock="log")))) as client:
        assert ask(client, "m3")["retrieved"] == "graph"
        answer = ask(client, "never seen")
    assert answer["retrieved"] == "popular"
    assert len(answer["items"]) == log["i"].n_unique()
    found = popular(rec)
    assert found is not None
    assert found.items[0] == most


def test_where_no_item_is_known_the_client_is_told(log: pl.DataFrame, tmp_path: Path) -> None:
    values = personal(tmp_path, log, meta=None, graph=None).to_dict()
    values["entities"] = {"member": {"id": "m"}, "item": {"id": "i"}}
    values["features"] = [f for f in values["features"] if f["kind"] != "vector"]
    project = Project.from_dict(values, tmp_path)
    Recommender.fit(project).save()
    with TestClient(create_app(Server(project, ServingSettings(engine="torch", clock="log")))) as client:
        answer = client.post("/rank", json={"member": "m3", "context": CONTEXT})
    assert answer.status_code == 422
    assert "no item table" in answer.json()["error"]
