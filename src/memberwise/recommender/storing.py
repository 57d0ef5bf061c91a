"""The files of a version.

=====================  ============================================================================
``project.json``       all settings, and where the project stood
``ranker.safetensors`` weights
``state.safetensors``  vocabularies, numeric transforms, aggregates, histories, members and items seen
``entities/*.arrow``   the entity tables that features read
``vectors/*.arrow``    entity embeddings that are features, as of all moments
``parts/*/``           what stands beside the ranker, a folder each
``fit.json``           what happened during the fit
=====================  ============================================================================
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from memberwise.data.arrays import load_arrays, save_arrays
from memberwise.data.frame import EntityTable
from memberwise.data.negatives import NegativeSampler
from memberwise.data.pipeline import FeaturePipeline
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.errors import BundleError
from memberwise.project import Project
from memberwise.recommender.fitting import new_ranker
from memberwise.recommender.parts import PARTS, Setting
from memberwise.recommender.seen import Seen

if TYPE_CHECKING:
    from memberwise.recommender.core import Recommender


def write(rec: Recommender, folder: Path) -> None:
    """Write all files of a version into a folder."""
    project = {
        "config": rec.project.to_dict(),
        "base": str(rec.project.base.resolve()),
        "train_end": rec.pipeline.train_end,
    }
    (folder / "project.json").write_text(json.dumps(project, indent=1))
    save_file({k: v.contiguous() for k, v in rec.ranker.state_dict().items()}, folder / "ranker.safetensors")
    parts = rec.pipeline.to_arrays() | {"seen": rec.seen.to_arrays()}
    if rec.negatives is not None:
        parts["negatives"] = rec.negatives.to_arrays()
    save_arrays(folder / "state.safetensors", parts)
    (folder / "entities").mkdir()
    for name, table in rec.pipeline.tables.items():
        table.table.write_ipc(folder / "entities" / f"{name}.arrow", compression="zstd")
    (folder / "vectors").mkdir()
    for name, vectors in rec.pipeline.vectors.items():
        vectors.write(folder / "vectors" / f"{name}.arrow")
    for name, part in rec.parts.items():
        (folder / "parts" / name).mkdir(parents=True)
        part.write(folder / "parts" / name)
    fit = {"summary": rec.summary, "log": rec.log, "fit_seconds": rec.fit_seconds}
    (folder / "fit.json").write_text(json.dumps(fit))


def read(folder: Path) -> tuple[Any, ...]:
    """Arguments of `Recommender` from the files of a version.

    Raises
    ------
    BundleError
        If the files do not fit together.
    """
    try:
        saved = json.loads((folder / "project.json").read_text())
        fit = json.loads((folder / "fit.json").read_text())
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot be read: {error}", where=str(folder)) from error
    project = Project.from_dict(saved["config"], saved["base"])
    tables = {
        name: EntityTable(name, pl.read_ipc(folder / "entities" / f"{name}.arrow"), entity.table_key)
        for name, entity in project.config.entities.items()
        if entity.path is not None
    }
    vectors = {p.stem: EmbeddingTimeline.read(p) for p in (folder / "vectors").glob("*.arrow")}
    pipeline = FeaturePipeline(project.config, tables, saved["train_end"], vectors=vectors)
    parts = load_arrays(folder / "state.safetensors")
    pipeline.load_arrays(parts)
    sampler = None
    if project.config.negatives is not None:
        sampler = NegativeSampler(project.config)
        sampler.load_arrays(parts["negatives"])
    ranker = new_ranker(project, pipeline)
    try:
        ranker.load_state_dict(load_file(folder / "ranker.safetensors"))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise BundleError(f"the weights do not fit the project: {error}", where=str(folder)) from error
    setting = Setting(project, pipeline, ranker)
    beside = {
        kind.name: kind.read(folder / "parts" / kind.name, setting)
        for kind in PARTS
        if (folder / "parts" / kind.name).is_dir()
    }
    return (
        project,
        ranker,
        pipeline,
        Seen(parts["seen"]),
        sampler,
        fit["summary"],
        fit["log"],
        fit["fit_seconds"],
        beside,
    )
