"""The files of a version.

======================= ===========================================================================
``project.json``        all settings, where the project stood, and the formats of all that follows
``ranker.safetensors``  weights
``state.safetensors``   vocabularies, numeric transforms, aggregates, histories, members and items seen, and
                        large arrays of what stands beside the ranker
``state-N.safetensors`` what has changed in them since, in order (`memberwise.data.segments`)
``entities/*.arrow``    the entity tables that features read
``vectors/*.arrow``     entity embeddings that are features, as of all moments
``parts/*/``            what stands beside the ranker, a folder each
``fit.json``            what happened during the fit
======================= ===========================================================================
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from memberwise.data import segments
from memberwise.data.arrays import Arrays, load_arrays, save_arrays
from memberwise.data.frame import EntityTable
from memberwise.data.layers import Views, whole
from memberwise.data.negatives import NegativeSampler
from memberwise.data.pipeline import FeaturePipeline
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.errors import BundleError, ConfigError
from memberwise.formats import FIRST, check_format
from memberwise.project import Project
from memberwise.ranking.ranker import Ranker
from memberwise.recommender.fitting import new_ranker
from memberwise.recommender.parts import PARTS, Setting
from memberwise.recommender.seen import Seen

if TYPE_CHECKING:
    from memberwise.recommender.core import Recommender


_STATE, _RANKER = "state.safetensors", "ranker.safetensors"
FORMATS = {"ranker": 1, "state": 1, "entities": 1, "vectors": 1}
"""Of the files; those of parts are theirs. Raised when what is in them comes to mean something else: a
version of another format is refused rather than read with today's meaning."""
_FIX = "fit again, or use the memberwise that made it"
_MISFITS = (KeyError, IndexError, TypeError, ValueError, FileNotFoundError, pl.exceptions.PolarsError)
"""What files raise that are not what their reader takes them for; a machine short of memory raises others."""
MAX_SEGMENTS = 16
"""Segments after which the state is written whole again; or when they hold half as much as it."""


@dataclass(frozen=True)
class Stored:
    """What a version's files hold, so that the next version need not write what is the same.

    Where numbers must not stay on disk, as when a member is forgotten, a version is written without it
    (``rec.stored = None``): a segment does not erase what its base says.

    Attributes
    ----------
    folder
        The version.
    state
        The arrays of its state: views of objects that do not change, and that the next version shares.
    segments
        How many segments stand behind its base.
    ranker, tables
        The objects that its files were made of.
    """

    folder: Path
    state: dict[str, Views]
    segments: int
    ranker: Ranker
    tables: Mapping[str, EntityTable]

    @classmethod
    def of(cls, rec: Recommender, folder: Path) -> Stored:
        """After a version was written or read."""
        segments = len(list(folder.glob("state-*.safetensors")))
        return cls(folder, _state(rec), segments, rec.ranker, dict(rec.pipeline.tables))


def write(rec: Recommender, folder: Path) -> None:
    """Write all files of a version into a folder beside the version before, whose files it may share."""
    before = rec.stored
    if before is not None and before.folder.parent.resolve() != folder.parent.resolve():
        before = None
    base, bundles = rec.project.base.resolve(), folder.parent.resolve()
    project = {
        "config": rec.project.to_dict(),
        "base": str(base),
        "base from bundles": os.path.relpath(base, bundles),
        "train_end": rec.pipeline.train_end,
        "formats": FORMATS | {_part(name): part.format for name, part in rec.parts.items()},
    }
    (folder / "project.json").write_text(json.dumps(project, indent=1))
    if not (before is not None and rec.ranker is before.ranker and _shared(before, folder, _RANKER)):
        save_file({k: v.contiguous() for k, v in rec.ranker.state_dict().items()}, folder / _RANKER)
    _write_state(rec, folder, before)
    (folder / "entities").mkdir()
    for name, table in rec.pipeline.tables.items():
        file = f"entities/{name}.arrow"
        same = before is not None and table is before.tables.get(name) and _shared(before, folder, file)
        if not same:
            table.table.write_ipc(folder / file, compression="zstd")
    (folder / "vectors").mkdir()
    for name, vectors in rec.pipeline.vectors.items():
        vectors.write(folder / "vectors" / f"{name}.arrow")
    for name, part in rec.parts.items():
        (folder / _part(name)).mkdir(parents=True)
        part.write(folder / _part(name))
    fit = {"summary": rec.summary, "log": rec.log, "fit_seconds": rec.fit_seconds}
    (folder / "fit.json").write_text(json.dumps(fit))


def _state(rec: Recommender) -> dict[str, Views]:
    parts = rec.pipeline.views() | {"seen": dict(rec.seen.to_arrays())}
    if rec.negatives is not None:
        parts["negatives"] = dict(rec.negatives.to_arrays())
    beside: dict[str, Views] = {_part(name): dict(part.state()) for name, part in rec.parts.items()}
    return parts | {name: arrays for name, arrays in beside.items() if arrays}


def _write_state(rec: Recommender, folder: Path, before: Stored | None) -> None:
    """What has changed since the version before, behind its own files; all of it if that is much."""
    new = _state(rec)
    if before is None or before.segments >= MAX_SEGMENTS:
        save_arrays(folder / _STATE, {name: whole(views) for name, views in new.items()})
        return
    names = [_STATE, *(_segment(k) for k in range(1, before.segments + 1))]
    segment = segments.changes(before.state, new)
    told = sum((before.folder / name).stat().st_size for name in names[1:] if (before.folder / name).exists())
    if told + segments.size(segment) > segments.size(new) // 2 or not all(
        _shared(before, folder, name) for name in names
    ):
        for name in names:
            (folder / name).unlink(missing_ok=True)
        save_arrays(folder / _STATE, {name: whole(views) for name, views in new.items()})
        return
    save_arrays(folder / _segment(before.segments + 1), segment)


def _segment(number: int) -> str:
    return f"state-{number}.safetensors"


def _shared(before: Stored, folder: Path, name: str) -> bool:
    """Link a file of the version before; False where it is gone or cannot be linked."""
    try:
        os.link(before.folder / name, folder / name)
    except OSError:
        return False
    return True


def _read_state(folder: Path) -> dict[str, Arrays]:
    parts = load_arrays(folder / _STATE)
    for number in range(1, len(list(folder.glob("state-*.safetensors"))) + 1):
        parts = segments.applied(parts, load_arrays(folder / _segment(number)))
    return parts


def _project(saved: Mapping[str, Any], bundles: Path) -> Project:
    """The project of a version, where it stands now: it may have been moved with all that it keeps."""
    bundles = bundles.resolve()
    if "base from bundles" in saved:
        moved = Project.from_dict(saved["config"], (bundles / saved["base from bundles"]).resolve())
        if moved.bundles.resolve() == bundles:
            return moved
    return Project.from_dict(saved["config"], saved["base"])


def _part(name: str) -> str:
    return f"parts/{name}"


def _check_formats(saved: Mapping[str, Any], folder: Path) -> None:
    """Refuse files that would be read with another meaning than they were written with."""
    found = saved.get("formats", {})
    known = FORMATS | {
        _part(kind.name): kind.format for kind in PARTS if (folder / _part(kind.name)).is_dir()
    }
    for name, number in known.items():
        check_format(found.get(name, FIRST), number, folder, oldest=number, what=name)


def read(folder: Path) -> tuple[Any, ...]:
    """Arguments of `Recommender` from the files of a version.

    Raises
    ------
    BundleError
        If the files do not fit together, or are of another format.
    """
    try:
        saved = json.loads((folder / "project.json").read_text())
        fit = json.loads((folder / "fit.json").read_text())
        _check_formats(saved, folder)
        return _built(_project(saved, folder.parent), saved["train_end"], fit, folder)
    except ConfigError as error:
        raise BundleError(
            f"its settings are of another memberwise, and mean nothing to this one: {error.what}",
            where=str(folder),
            fix=_FIX,
        ) from error
    except _MISFITS as error:
        raise BundleError(
            f"its files do not fit together: {type(error).__name__}: {error}", where=str(folder), fix=_FIX
        ) from error


def _built(project: Project, train_end: int, fit: Mapping[str, Any], folder: Path) -> tuple[Any, ...]:
    tables = {
        name: EntityTable(name, pl.read_ipc(folder / "entities" / f"{name}.arrow"), entity.table_key)
        for name, entity in project.config.entities.items()
        if entity.path is not None
    }
    vectors = {p.stem: EmbeddingTimeline.read(p) for p in (folder / "vectors").glob("*.arrow")}
    pipeline = FeaturePipeline(project.config, tables, train_end, vectors=vectors)
    parts = _read_state(folder)
    pipeline.load_arrays(parts)
    sampler = None
    if project.config.negatives is not None:
        sampler = NegativeSampler(project.config)
        sampler.load_arrays(parts["negatives"])
    ranker = new_ranker(project, pipeline)
    try:
        ranker.load_state_dict(load_file(folder / _RANKER))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise BundleError(f"the weights do not fit the project: {error}", where=str(folder)) from error
    setting = Setting(project, pipeline, ranker)
    beside = {
        kind.name: kind.read(folder / _part(kind.name), setting).with_state(parts.get(_part(kind.name), {}))
        for kind in PARTS
        if (folder / _part(kind.name)).is_dir()
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
