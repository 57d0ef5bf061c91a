"""A hot path that says something else than the general path is found out, and not used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from memberwise.project import Project
from memberwise.recommender import Recommender
from memberwise.serving import probe
from memberwise.serving.app import Server, create_app
from memberwise.serving.engine import TorchEngine
from memberwise.serving.fast import FastScorer, SideInputs
from memberwise.serving.features import RequestFeatures
from memberwise.serving.settings import ServingSettings
from support.logs import impressions
from support.projects import make

CONTEXT = {"num": 0.5, "cat": "u", "tags": ["g1", "g2"]}
ITEMS = [f"i{k}" for k in range(15)]
Tamper = Callable[[FastScorer, pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version whose weights are large enough to tell columns apart."""
    rec = Recommender.fit(make(tmp_path_factory.mktemp("probe"), impressions(600)))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in rec.ranker.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
        rec.ranker.wide.weight[1:].normal_(std=0.3, generator=generator)
    return rec.save()


def tried(saved: Path, tables: str = "float32") -> tuple[Recommender, FastScorer, int]:
    rec = Recommender.load(saved)
    return rec, FastScorer.load(rec, saved, "torch", tables), (rec.pipeline.last_event or 0) + 1


def places_swapped(fast: FastScorer, patch: pytest.MonkeyPatch) -> None:
    """Two id fields of the item's side change places in x0."""
    for table in (t for t in fast.own._tables if len(t._places) > 1):
        table._places = table._places[::-1].copy()
        return
    table = next(t for t in fast.shared._tables if len(t._places) > 1)
    table._places = table._places[::-1].copy()


def numbers_shifted(fast: FastScorer, patch: pytest.MonkeyPatch) -> None:
    """Normalised numbers stand one column off."""
    plain = SideInputs.__call__

    def shifted(self: SideInputs, *found: Any) -> Any:
        out, at, n = plain(self, *found), self._dense_at, self._transform.width
        out[:, at : at + n] = np.roll(out[:, at : at + n], 1, axis=1)
        return out

    patch.setattr(SideInputs, "__call__", shifted)


def wide_left_out(fast: FastScorer, patch: pytest.MonkeyPatch) -> None:
    fast.shared._wide = None


def history_of_nobody(fast: FastScorer, patch: pytest.MonkeyPatch) -> None:
    plain = RequestFeatures.history

    def empty(self: RequestFeatures, frame: Any) -> Any:
        return {n: (np.full_like(i, -1), a, g) for n, (i, a, g) in plain(self, frame).items()}

    patch.setattr(RequestFeatures, "history", empty)


def breaks(fast: FastScorer, patch: pytest.MonkeyPatch) -> None:
    fast.shared._dense_at = 10**9


def no_number(fast: FastScorer, patch: pytest.MonkeyPatch) -> None:
    plain = fast.engine

    class Broken:
        name = "torch"

        def __call__(self, inputs: Any) -> Any:
            found = plain(inputs)
            found[0][-1] = np.nan
            return found

    fast.engine = Broken()


@pytest.mark.parametrize("tables", ["float32", "int8"])
def test_trusts_what_agrees(saved: Path, tables: str) -> None:
    assert probe.mistrust(*tried(saved, tables)) is None


@pytest.mark.parametrize(
    "tamper", [places_swapped, numbers_shifted, wide_left_out, history_of_nobody, breaks, no_number]
)
def test_finds_what_is_wrong(saved: Path, tamper: Tamper, monkeypatch: pytest.MonkeyPatch) -> None:
    rec, fast, moment = tried(saved)
    tamper(fast, monkeypatch)
    reason = probe.mistrust(rec, fast, moment)
    assert reason is not None
    assert ("fails" if tamper is breaks else "differ") in reason


def test_the_loss_of_int8_does_not_hide_a_wrong_layout(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rec, fast, moment = tried(saved)

    class Coarse(TorchEngine):
        name = "int8"

        def __call__(self, inputs: Any) -> Any:
            logits, *rest = super().__call__(inputs)
            return [logits + np.float32(0.01), *rest]

    fast.engine = coarse = Coarse(fast.engine.core)  # type: ignore[attr-defined]
    assert probe.mistrust(rec, fast, moment) is None
    assert fast.engine is coarse
    monkeypatch.setattr(probe, "INT8_TOLERANCE", 1.0)
    places_swapped(fast, monkeypatch)
    assert "torch" in (probe.mistrust(rec, fast, moment) or "")
    assert fast.engine is coarse


def test_the_requests_reach_pasts_and_contexts(saved: Path) -> None:
    rec, fast, _ = tried(saved)
    asks = list(probe._requests(rec, fast.plan))
    known = [rec.seen.rows("member", np.array([a.hashes["m"]]))[0] > 0 for a in asks]
    assert known == [True] * probe.MEMBERS + [False]
    assert (rec.seen.rows("item", asks[0].items) > 0).sum() >= 10
    assert rec.seen.rows("item", asks[0].items)[-1] == 0
    tags = rec.pipeline.vocabularies["tags"].index.find(np.array([a.hashes["tags"] for a in asks]))
    assert tags[0] == -1  # the first request has no context
    assert (tags[1:] >= 0).all()
    assert len(set(tags[1:])) > 1


@pytest.fixture
def wrong(fitted: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A server whose hot path reads columns in a wrong order."""
    plain = SideInputs.__call__
    monkeypatch.setattr(SideInputs, "__call__", lambda *a: np.ascontiguousarray(plain(*a)[:, ::-1]))
    settings = ServingSettings(engine="torch", clock="log")
    with TestClient(create_app(Server(fitted, settings))) as client:
        yield client


def test_a_server_answers_by_the_general_path(
    wrong: TestClient, fitted: Project, caplog: pytest.LogCaptureFixture
) -> None:
    answer = wrong.post("/rank", json={"member": "m1", "candidates": ITEMS, "context": CONTEXT, "k": 15})
    ranked = Recommender.load(fitted.bundles).rank("m1", ITEMS, 15, context=CONTEXT)
    assert [i["item"] for i in answer.json()["items"]] == ranked["item"].to_list()
    assert [i["utility"] for i in answer.json()["items"]] == pytest.approx(
        ranked["score"].to_list(), abs=1e-6
    )
    assert "differ" in wrong.get("/version").json()["slow"]
    assert 'memberwise_fallbacks_total{reason="mistrust"} 1.0' in wrong.get("/metrics").text


def test_a_good_server_takes_the_hot_path(fitted: Project) -> None:
    with TestClient(create_app(Server(fitted, ServingSettings(engine="torch", clock="log")))) as client:
        client.post("/rank", json={"member": "m1", "candidates": ITEMS, "context": CONTEXT})
        assert client.get("/version").json()["slow"] is None
        assert "memberwise_fallbacks_total{" not in client.get("/metrics").text
