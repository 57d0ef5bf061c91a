"""The hot path says what the general path says, and what the exported ranker says is the same again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from memberwise.project import Project
from memberwise.ranking.predict import sigmoid
from memberwise.recommender import Recommender
from memberwise.schema import DAY, HOUR
from memberwise.serving import engine
from memberwise.serving.core import DenseCore
from memberwise.serving.dense import DenseTransform
from memberwise.serving.engine import (
    CompiledEngine,
    Engine,
    OnnxEngine,
    TorchEngine,
    compile_core,
    example,
    export,
    exported,
)
from memberwise.serving.fast import FastScorer
from memberwise.serving.plan import make_plan
from memberwise.serving.probe import mistrust
from memberwise.serving.request_frame import hash_value
from memberwise.serving.scoring import GeneralScorer, finish
from support.logs import impressions, project_values
from support.projects import make

CONTEXT: dict[str, Any] = {"num": 0.5, "cat": "u", "tags": ["g1", "g2"]}
RANKERS: dict[str, dict[str, Any]] = {
    "split": {"blocks": [{"type": "cross", "rank": 3, "layers": 3}, {"type": "mlp", "hidden": [8, 4]}]},
    "full cross": {"blocks": [{"type": "cross", "rank": None}], "batch_norm": False, "wide": False},
    "whole": {
        "blocks": [{"type": "cross", "rank": 2}, {"type": "mlp", "hidden": [8]}],
        "stacked": True,
        "heads": {"type": "shared", "tower": [4]},
        "calibration": {},
        "calibration_features": ["m", "i"],
    },
    "experts": {"blocks": [{"type": "residual_cross"}], "heads": {"type": "mmoe"}},
    "compressed": {"blocks": [{"type": "cross", "rank": 3}], "numeric": {"bins": 4, "dim": 3}},
    "curves": {"blocks": [{"type": "mlp", "hidden": [8], "norm": "batch"}], "calibration": {}},
}


def projects(folder: Path, ranker: dict[str, Any]) -> Project:
    base = project_values("log.parquet")
    features = [
        *base["features"],
        {"kind": "vector", "entity": "item", "column": "v"},
        {"kind": "categorical", "column": "cat", "encoding": "hash", "remainders": 50_000},
        {"kind": "categorical", "column": "tags", "name": "qr", "max_values": 2, "remainders": 2},
        {"kind": "categorical", "column": "item.v0", "table": "shared", "dim": 6},
        {"kind": "numeric", "column": "item.w", "transform": "quantile"},
        {"kind": "numeric", "column": "num", "name": "num2", "transform": "log1p"},
        {"kind": "history", "name": "liked", "length": 3, "where": "y = 1", "encoder": "transformer"},
        {"kind": "age", "since": "item.born"},
    ]
    project = make(folder, impressions(600), features=features, ranker=ranker | {"embedding_dim": 4})
    items = pl.read_parquet(folder / "items.parquet").with_columns(
        v0=pl.col("i").str.slice(1, 1),
        w=pl.int_range(pl.len()).sqrt(),
        born=pl.lit("2019-01-01").str.to_date(),
    )
    items.head(12).write_parquet(folder / "items.parquet")  # some items of the log are not in the table
    return project


def fitted_with(ranker: dict[str, Any], folder: Path) -> Path:
    """A version whose weights are large enough to tell columns apart."""
    rec = Recommender.fit(projects(folder, ranker))
    with torch.no_grad():
        for p in rec.ranker.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    if rec.ranker.curve_effects is not None:
        rec.ranker.curve_effects.weight[1:].normal_(std=0.3)
    rec.ranker.wide.weight[1:].normal_(std=0.3)
    return rec.save()


@pytest.fixture(scope="module", params=RANKERS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted_with(RANKERS[request.param], tmp_path_factory.mktemp("fast"))


def both(path: Path) -> tuple[FastScorer, GeneralScorer]:
    return FastScorer.load(Recommender.load(path), path, "torch"), GeneralScorer(Recommender.load(path))


def agree(fast: FastScorer, general: GeneralScorer, *ask: Any) -> None:
    mine, theirs = (finish(s.rec, s.look(*ask), True) for s in (fast, general))
    logits = theirs.shares["ranker"]
    np.testing.assert_allclose(mine.shares["ranker"], logits, atol=5e-6 * (1 + np.abs(logits).max()))
    np.testing.assert_allclose(mine.probabilities, theirs.probabilities, atol=1e-5)


def test_is_trusted(path: Path) -> None:
    fast, _ = both(path)
    assert mistrust(fast.rec, fast, (fast.rec.pipeline.last_event or 0) + 1) is None


def test_agrees_as_time_goes_on(path: Path) -> None:
    fast, general = both(path)
    start = (fast.rec.pipeline.last_event or 0) + 1
    items = [f"i{k}" for k in range(15)]
    for later in (0, 1, HOUR // 3, HOUR, 5 * HOUR, DAY, 3 * DAY, 40 * DAY):
        for member in ("m1", "m7", "nobody"):
            agree(fast, general, member, items, start + later, CONTEXT)


@pytest.mark.parametrize(
    "context",
    [
        {"num": None, "cat": None, "tags": None},
        {"num": float("nan"), "cat": "", "tags": []},
        {"num": 3, "cat": "v", "tags": ["g1", "g1", "", "g3", "g0", "g2"]},
        {"num": "7.5", "cat": 17, "tags": "g2"},
        {"num": True, "cat": 2.5, "tags": ["unheard of"]},
        {"num": 1e39, "cat": 4.0, "tags": [1, 2]},
    ],
)
def test_agrees_on_any_context(path: Path, context: dict[str, Any]) -> None:
    fast, general = both(path)
    assert fast.suits(context)
    start = (fast.rec.pipeline.last_event or 0) + 1
    agree(fast, general, "m3", ["i1", "unknown", "i14", "i3", "17"], start, context)


def test_one_candidate_and_many_agree(path: Path) -> None:
    fast, _ = both(path)
    moment = (fast.rec.pipeline.last_event or 0) + 1
    items = [f"i{k}" for k in range(15)]
    whole = sigmoid(fast.look("m1", items, moment, CONTEXT).logits)
    alone = [sigmoid(fast.look("m1", [i], moment, CONTEXT).logits)[0] for i in items]
    np.testing.assert_allclose(whole, alone, atol=1e-5)


def test_arrays_for_parts_are_those_of_the_pipeline(path: Path) -> None:
    from memberwise.data.frame import Frame
    from memberwise.recommender import request
    from memberwise.serving.features import hashed, request_arrays

    fast, general = both(path)
    items, moment = ["i1", "i14", "no"], (fast.rec.pipeline.last_event or 0) + HOUR
    f = fast.features
    row = f.shared_row("m1", moment, CONTEXT)
    frame = f.candidates(hashed(items), row)
    shared, own = f.read(f.plan.shared, row), f.read(f.plan.own, frame)
    vectors = fast.vectors.read(shared.keys | own.keys, moment)
    found = request_arrays(f, frame, shared, own, vectors, f.history(row))
    rec = general.rec
    rows = request.rows(rec.project.config, "m1", request.candidates(items), moment, dict(CONTEXT))
    with rec.pipeline.held():
        expected = rec.pipeline.batch_arrays(Frame(rows, rec.project.config, rec.pipeline.tables))
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)


def test_a_context_per_candidate_takes_the_other_path(path: Path) -> None:
    fast, _ = both(path)
    assert not fast.suits(CONTEXT | {"num": [1.0, 2.0]})
    assert not fast.suits(CONTEXT | {"tags": [["g1"], ["g2"]]})


class GraphEngine(TorchEngine):
    """What `torch.export` says, before anybody makes something else of it."""

    def __init__(self, core: DenseCore, inputs: list[torch.Tensor]) -> None:
        self.core = exported(core, inputs).module()  # type: ignore[assignment]


def exported_parity(path: Path, folder: Path, compiled: bool = False) -> None:
    rec = Recommender.load(path)
    plan = make_plan(rec.pipeline, rec.ranker)
    core, few = DenseCore(rec.ranker.eval(), plan), example(rec.ranker, plan, 3)
    engines: list[Engine] = []
    if compiled:
        compile_core(core, few, folder / "core.pt2")
        engines.append(CompiledEngine(folder / "core.pt2"))
    else:
        export(core, few, folder / "core.onnx")
        engines += [OnnxEngine(folder / "core.onnx", "float32"), GraphEngine(core, few)]
    for rows in (1, 2, 77):
        inputs = [t.numpy() for t in example(rec.ranker, plan, rows)]
        theirs = TorchEngine(core)(inputs)[0]
        for one in engines:
            mine = one(inputs)[0]
            assert mine.shape == (rows, 2)
            np.testing.assert_allclose(sigmoid(mine), sigmoid(theirs), atol=1e-5)
            np.testing.assert_allclose(mine, theirs, atol=3e-5 * (1 + np.abs(theirs).max()))


def test_exported_parity(tmp_path: Path) -> None:
    exported_parity(fitted_with(RANKERS["split"], tmp_path), tmp_path)


def test_where_nothing_compiles_onnx_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler, or one that takes too long: told in the log, and served by what there is."""
    path = fitted_with(RANKERS["split"], tmp_path)
    rec = Recommender.load(path)
    engine.prepare(rec, path)
    monkeypatch.setattr(engine, "_PATIENCE", 0.01)
    assert engine.fast_engine(rec, path, "aoti").name == "float32"
    monkeypatch.setattr(engine, "folder_of", lambda rec: tmp_path / "elsewhere")
    assert FastScorer.load(rec, path, "float32").engine.name == "torch"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_parity_and_a_server_that_runs_on_it(tmp_path: Path) -> None:
    path = fitted_with(RANKERS["split"], tmp_path)
    exported_parity(path, tmp_path, compiled=True)
    fast = FastScorer.load(Recommender.load(path), path, "aoti")
    assert fast.engine.name == "aoti"
    assert mistrust(fast.rec, fast, (fast.rec.pipeline.last_event or 0) + 1) is None


@pytest.mark.slow
def test_exported_parity_without_histories(tmp_path: Path) -> None:
    project = projects(tmp_path, RANKERS["split"])
    values = project.to_dict()
    values["features"] = [f for f in values["features"] if f["kind"] != "history"]
    path = Recommender.fit(Project.from_dict(values, project.base)).save()
    exported_parity(path, tmp_path)


@pytest.mark.slow
def test_exported_parity_of_all_kinds(path: Path, tmp_path: Path) -> None:
    exported_parity(path, tmp_path)


def test_dense_transform_is_the_pipelines(path: Path) -> None:
    rec = Recommender.load(path)
    normaliser, norm = rec.pipeline.normaliser, rec.ranker.norm.eval()
    rng = np.random.default_rng(0)
    raw = (rng.normal(size=(200, len(normaliser.columns))) * 10 ** rng.uniform(-3, 3, (200, 1))).astype("f4")
    raw[rng.random(raw.shape) < 0.2] = np.nan
    raw[0], raw[1] = np.inf, -np.inf
    with torch.no_grad():
        expected = norm(torch.from_numpy(normaliser.transform(raw))).numpy()
    columns = list(range(len(normaliser.columns)))
    found = DenseTransform(normaliser, norm, columns)(raw)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", ["17", 17, -3, 2**53 + 1, 2.0, 2.5, True, None, "", "é", float("nan")])
def test_a_value_has_the_hash_of_its_column(value: Any) -> None:
    from memberwise.data.hashing import hash_values

    assert hash_value(value) == int(hash_values(pl.Series([value]))[0])


def test_parts_beside_the_ranker_are_served_as_evaluated(tmp_path: Path) -> None:
    project = projects(tmp_path, RANKERS["split"])
    values = project.to_dict() | {"effects": {}, "exploration": {}}
    project = Project.from_dict(values, project.base)
    rec = Recommender.fit(project)
    rec = rec.update(impressions(200, seed=3, start=(rec.pipeline.last_event or 0) + HOUR))
    saved = rec.save()
    fast, general = both(saved)
    moment = (rec.pipeline.last_event or 0) + 1
    items = [f"i{k}" for k in range(15)]
    for member in ("m1", "m2", "nobody"):
        agree(fast, general, member, items, moment, CONTEXT)
    mine, theirs = (finish(s.rec, s.look("m1", items, moment, CONTEXT), True) for s in (fast, general))
    assert set(mine.shares) == {"ranker", "effects", "exploration"}
    assert np.abs(mine.shares["effects"]).max() > 0
    ranked = rec.rank("m1", items, None, context=CONTEXT)
    order = np.argsort(-theirs.probabilities.sum(1), kind="stable")
    assert ranked["item"].to_list() == [items[i] for i in order]
