"""What compression saves and what it costs: size, time and AUC of each choice, and the gate of int8."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.errors import DataError
from memberwise.metrics import auc
from memberwise.nn.rowwise_int8 import compress_tables
from memberwise.project import Project
from memberwise.ranking.ranker import Ranker
from memberwise.recommender import Recommender
from memberwise.recommender.own_rows import own_rows
from memberwise.serving.engine import (
    GATE,
    Engine,
    Inputs,
    OnnxEngine,
    example,
    folder_of,
    prepare,
    quantise,
)
from memberwise.serving.fast import FastScorer
from memberwise.serving.plan import make_plan

F32 = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[Any]]
LOSS = 5e-4
"""Most AUC that the int8 core may lose on valid."""
COMPANY = 31
"""Other candidates around each row when a request is made up from it."""


@dataclass(frozen=True)
class Choice:
    """One way to keep a version.

    Attributes
    ----------
    name
        What is compressed.
    table_mb, core_mb
        Embedding tables, and the exported dense part.
    ms
        CPU time of the dense part for 256 candidates.
    auc : list of float
        By task, on test.
    change : list of float
        Against float32 on the same rows.
    """

    name: str
    table_mb: float
    core_mb: float
    ms: float
    auc: list[float]
    change: list[float]


def compress(project: Project, rows: int = 20_000) -> list[Choice]:
    """Measure the choices for the current version, and write the gate of its int8 core.

    Parameters
    ----------
    project
        Whose current version is looked at; its log must be there.
    rows
        Rows of valid and of test that the int8 core is tried on.
    """
    bundle = (project.bundles / "current").resolve()
    rec = Recommender.load(bundle)
    float32 = OnnxEngine(prepare(rec, bundle), "float32")
    folder = folder_of(rec)
    quantise(folder / "float32.onnx", folder / "int8.onnx")
    int8 = OnnxEngine(folder / "int8.onnx", "int8")
    test = _rows(rec, "test")
    base = _aucs(test, rec.score(test))
    valid_change, _ = _try(rec, int8, float32, _rows(rec, "valid"), rows)
    test_change, test_auc = _try(rec, int8, float32, test, rows)
    passed = bool(min(valid_change) >= -LOSS)
    gate = {"passed": passed, "valid change": valid_change, "test change": test_change, "limit": -LOSS}
    (folder / GATE).write_text(json.dumps(gate, indent=1))
    sizes = [_megabytes(folder / n) for n in ("float32.onnx", "int8.onnx")]
    inputs = [t.numpy() for t in example(rec.ranker, make_plan(rec.pipeline, rec.ranker), 256)]
    times = [milliseconds(e, inputs) for e in (float32, int8)]
    tables = _table_megabytes(rec.ranker)
    choices = [Choice("float32", tables, sizes[0], times[0], base, [0.0] * len(base))]
    name = "int8 dense part" + ("" if passed else " (refused by the gate)")
    choices.append(Choice(name, tables, sizes[1], times[1], test_auc, test_change))
    compress_tables(rec.ranker.embeddings)
    scored = _aucs(test, rec.score(test))
    change = [a - b for a, b in zip(scored, base, strict=True)]
    choices.append(Choice("int8 tables", _table_megabytes(rec.ranker), sizes[0], times[0], scored, change))
    return choices


def refit(project: Project, factor: int, base: Sequence[float]) -> list[Choice]:
    """Fit again with tables of quotients and remainders, `factor` times fewer rows in the large ones.

    Nothing is published: the tables are a choice of the project file (``remainders``).

    Returns
    -------
    list of Choice
        In float32 and with int8 tables; changes against `base`.
    """
    rec = Recommender.fit(with_quotients(project, Recommender.load(project.bundles), factor))
    test = _rows(rec, "test")
    found = []
    for int8 in (False, True):
        if int8:
            compress_tables(rec.ranker.embeddings)
        scored = _aucs(test, rec.score(test))
        change = [a - b for a, b in zip(scored, base, strict=True)]
        name = f"{factor}x fewer rows" + (", int8 tables" if int8 else "")
        found.append(Choice(name, _table_megabytes(rec.ranker), float("nan"), float("nan"), scored, change))
    return found


def with_quotients(project: Project, rec: Recommender, factor: int, least: int = 1000) -> Project:
    """The project with `remainders` on every vocabulary of at least so many rows.

    ``n / R + R`` rows instead of n: R is the smaller root at which that is ``n / factor``.
    """
    values = project.to_dict()
    for f in values["features"]:
        table = f.get("table") or f.get("name") or f.get("column")
        vocabulary = rec.pipeline.vocabularies.get(table) if f["kind"] == "categorical" else None
        if vocabulary is None or vocabulary.encoding == "hash" or vocabulary.rows < least:
            continue
        n = vocabulary.rows
        inside = (n / factor) ** 2 - 4 * n
        root = (n / factor - inside**0.5) / 2 if inside > 0 else n**0.5
        f["remainders"] = max(2, round(root))
    values["name"] = f"{values['name']}-qr{factor}"
    return Project.from_dict(values, project.base)


def milliseconds(engine: Engine, inputs: Inputs, times: int = 50) -> float:
    """Median CPU time of a call."""
    for _ in range(5):
        engine(inputs)
    taken = []
    for _ in range(times):
        started = time.thread_time()
        engine(inputs)
        taken.append(time.thread_time() - started)
    return float(np.median(taken)) * 1e3


def _rows(rec: Recommender, split: str) -> Arrays:
    """Rows of a split of the project's log, vectors gathered."""
    prepared = own_rows(rec)
    arrays = {k: np.array(v) for k, v in prepared.packed.rows(split).items()}
    return arrays | prepared.pipeline.gather_vectors(arrays)


def _aucs(arrays: Arrays, scores: F32) -> list[float]:
    found = []
    for t in range(scores.shape[1]):
        labels = arrays["labels"][:, t]
        some = np.isin(labels, (0.0, 1.0))
        found.append(float(auc(labels[some], scores[some, t])))
    return found


def _table_megabytes(ranker: Ranker) -> float:
    tables = ranker.embeddings.values()
    return sum(b.numel() * b.element_size() for t in tables for b in t.buffers() if b.dim() == 2) / 1e6


def _megabytes(path: Path) -> float:
    """Size of an exported core; torch may put its weights into a file beside it."""
    return sum(p.stat().st_size for p in path.parent.glob(path.name + "*")) / 1e6


def _try(
    rec: Recommender, engine: Engine, reference: Engine, arrays: Arrays, rows: int
) -> tuple[list[float], list[float]]:
    """Change of AUC, and AUC, of an engine on requests made up from labelled rows.

    Each row is scored as one of several candidates of its request: int8 takes its ranges from all of them.
    """
    scorer, n = FastScorer(rec, reference), len(arrays["time"])
    if n <= COMPANY:
        raise DataError(f"{n} rows are too few to try the int8 ranker on", where="split")
    rng = np.random.default_rng(rec.project.config.seed)
    picked = rng.permutation(n)[:rows]
    logits = np.empty((2, len(picked), len(rec.project.config.tasks)), np.float32)
    for k, i in enumerate(picked):
        inputs = scorer.inputs_of(arrays, np.append(i, rng.integers(0, n, COMPANY)))
        for e, which in enumerate((engine, reference)):
            logits[e, k] = which(inputs)[0][0]
    some = {"labels": arrays["labels"][picked]}
    mine, theirs = _aucs(some, logits[0]), _aucs(some, logits[1])
    return [a - b for a, b in zip(mine, theirs, strict=True)], mine
