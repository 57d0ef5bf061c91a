"""`Recommender`: a fitted version that evaluates, ranks, and moves forward with new events."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise import bundle
from memberwise.data.files import Source
from memberwise.data.frame import Frame
from memberwise.data.hashing import hash_values
from memberwise.data.negatives import NegativeSampler
from memberwise.data.pipeline import FeaturePipeline
from memberwise.data.prepare import Prepared, Progress, check_new_events
from memberwise.errors import ConfigError, DataError
from memberwise.nn.run_folder import Watcher
from memberwise.project import Project
from memberwise.ranking.predict import sigmoid
from memberwise.ranking.ranker import Ranker
from memberwise.recommender import evaluating, request, retrieval, storing
from memberwise.recommender.exploring import Explore, ranked
from memberwise.recommender.fitting import fit_parts, fitting_alone, prepared_rows, train
from memberwise.recommender.increment import Observed, learn_parts, see_and_score
from memberwise.recommender.parts import Fitting, Part, Setting
from memberwise.recommender.parts.graph import GraphPart
from memberwise.recommender.scoring import adjusted, ranker_logits
from memberwise.recommender.seen import Seen, known
from memberwise.report import Report
from memberwise.schema import to_micros

Arrays = dict[str, npt.NDArray[Any]]


class Recommender:
    """A fitted version of a project.

    Make one with `fit` or `load`. Versions do not change: `update` returns a new one.

    Attributes
    ----------
    project
        What it was fitted for.
    ranker
        The model.
    pipeline
        Encoders, and aggregates and histories as of the last event seen.
    seen
        Train rows of every member and item.
    summary, log, fit_seconds
        What happened during the fit.
    parts
        What stands beside the ranker, by name (`memberwise.recommender.parts`).

    Examples
    --------
    ::

        project = mw.Project.load("project.yaml")
        rec = mw.Recommender.fit(project)
        report = rec.evaluate()
        newer = rec.update("events/2013-09-01.parquet")
        newer.rank(member="17", items=["0770828", "1300854"], k=10)
    """

    def __init__(
        self,
        project: Project,
        ranker: Ranker,
        pipeline: FeaturePipeline,
        seen: Seen,
        negatives: NegativeSampler | None,
        summary: dict[str, Any],
        log: Sequence[Mapping[str, Any]],
        fit_seconds: float,
        parts: Mapping[str, Part] = MappingProxyType({}),
    ) -> None:
        self.project, self.ranker, self.pipeline, self.seen = project, ranker, pipeline, seen
        self.negatives, self.summary, self.log, self.fit_seconds = negatives, summary, list(log), fit_seconds
        self.parts = dict(parts)
        self.version: str | None = None
        self.stored: storing.Stored | None = None

    def __repr__(self) -> str:
        return f"Recommender({self.project.config.name!r}, version={self.version}, as_of={self.as_of})"

    @property
    def as_of(self) -> datetime | None:
        """Time of the last event that this version has seen (UTC)."""
        moment = self.pipeline.last_event
        return pl.Series([moment], dtype=pl.Int64).cast(pl.Datetime("us", "UTC"))[0] if moment else None

    # -- make, save, load -------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        project: Project,
        *,
        resume: bool = False,
        watchers: Sequence[Watcher] = (),
        progress: Progress = lambda what, done, of: None,
    ) -> Self:
        """Prepare the project's log and train its ranker.

        Parameters
        ----------
        project
            What to fit.
        resume
            Go on from the last checkpoint of an interrupted fit; the result is the same as without the stop.
        watchers, progress
            See the training and the preparation go by.

        Raises
        ------
        DataError, ConfigError
            If the log does not hold what the project says, or another fit of it is at work.
        """
        started = time.monotonic()
        project.output.mkdir(parents=True, exist_ok=True)
        with project.located(), fitting_alone(project):
            prepared = prepared_rows(project, progress)
            fitting = Fitting(project, prepared, resume, watchers, progress)
            fit_parts(fitting, "before")
            trainer = train(project, prepared, resume=resume, watchers=watchers)
            fitting.ranker = trainer.ranker.cpu()
            fit_parts(fitting, "along")
            fit_parts(fitting, "after")
        return cls(
            project,
            fitting.ranker,
            prepared.pipeline,
            Seen.of(prepared.packed.rows("train")),
            prepared.negatives,
            prepared.summary,
            trainer.records,
            time.monotonic() - started,
            fitting.parts,
        )

    def save(
        self,
        bundles: str | Path | None = None,
        info: Mapping[str, Any] = MappingProxyType({}),
        accept: Callable[[Mapping[str, Mapping[str, Any]]], None] = lambda files: None,
    ) -> Path:
        """Publish as a new version and make it current.

        Parameters
        ----------
        bundles
            Directory of all versions; default: that of the project.
        info
            What else the manifest is to say, as plain values.
        accept
            Looks at the files before they are published (`memberwise.bundle.publish`).

        Returns
        -------
        Path
            Directory of the version.
        """
        directory = Path(bundles) if bundles is not None else self.project.bundles
        parent = directory / self.version if self.version else None
        about = {"name": self.project.config.name, "as_of": str(self.as_of), "fit_seconds": self.fit_seconds}
        path = bundle.publish(
            directory, lambda folder: storing.write(self, folder), {**about, **info}, parent, accept
        )
        self.version, self.stored = path.name, storing.Stored.of(self, path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load a version: ``bundles/000001``, ``bundles/current`` or ``bundles``.

        Raises
        ------
        BundleError
            If a file is missing, truncated, altered, or of a newer format.
        """
        folder = bundle.resolve(Path(path))
        bundle.verify(folder)
        rec = cls(*storing.read(folder))
        rec.version, rec.stored = folder.name, storing.Stored.of(rec, folder)
        return rec

    # -- score ------------------------------------------------------------------------------------

    def score(self, arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Probabilities of rows: the one door for evaluation, ranking and serving.

        Parameters
        ----------
        arrays
            `FeaturePipeline.batch_arrays` of the rows.

        Returns
        -------
        ndarray of float32, shape [n, T]
        """
        read, logits = ranker_logits(self.ranker, self.parts, arrays)
        return sigmoid(adjusted(self.parts, read, logits))

    def _score_packed(self, arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Probabilities of packed rows, whose vectors are still to be gathered."""
        found = [np.zeros((0, len(self.project.config.tasks)), np.float32)]
        for start in range(0, len(arrays["time"]), 8192):
            piece = {k: np.array(v[start : start + 8192]) for k, v in arrays.items()}
            found.append(self.score(piece | self.pipeline.gather_vectors(piece)))
        return np.concatenate(found)

    # -- evaluate ---------------------------------------------------------------------------------

    def evaluate(
        self, events: Source | None = None, *, baselines: bool | Sequence[str] = False, draws: int = 1000
    ) -> Report:
        """Score events with labels and report how well the ranking agrees.

        Parameters
        ----------
        events
            Files or a table; default: the test split of the project's log. Rows see the past exactly as the
            declared delays allow, events of the same call included. This version does not change.
        baselines
            Also fit the simple models (all that apply, or those named) on the same rows; this needs the
            project's log.
        draws
            Bootstrap draws of members behind the intervals.

        Raises
        ------
        DataError
            If the events lack columns, or too many rows are unusable.
        """
        return evaluating.evaluate(self, events, baselines, draws)

    def _prepared(self) -> Prepared:
        """The packed rows of the project's own log, with this version's vectors."""
        prepared = prepared_rows(self.project)
        for field in self.pipeline.layout.vectors:
            if field.made:
                prepared.attach(field.name, self.pipeline.vectors[field.name])
        return prepared

    def _sampler(self) -> NegativeSampler | None:
        if self.negatives is None:
            return None
        copy = NegativeSampler(self.project.config)
        copy.load_arrays(self.negatives.to_arrays())
        return copy

    # -- rank -------------------------------------------------------------------------------------

    def rank(
        self,
        member: str | int,
        items: Sequence[str | int] | None = None,
        k: int | None = 10,
        *,
        at: datetime | None = None,
        context: Mapping[str, Any] | None = None,
        explore: bool | Explore = False,
        seed: int | None = None,
    ) -> pl.DataFrame:
        """Order items for a member, best first.

        Parameters
        ----------
        member
            Id; one never seen gets what is known of new members.
        items
            Candidates; default: those that the graph finds for the member among what it has not chosen yet,
            or all items that the version knows by id, those with most rows in train first.
        k
            How many to return; None for all.
        at
            Moment of the request (UTC if it has no zone); default: just after the last event seen.
        context
            Values of the event columns that features read (one value, or one per item).
        explore
            Order by a draw from what is known instead of by its mean (the project's ``exploration``
            section says how), or by the policy given.
        seed
            Of the draw; new every time if not given.

        Returns
        -------
        polars.DataFrame
            ``item``, ``score`` and one probability per task. The score is the sum of the probabilities times
            the tasks' ``utility``; when exploring, that of the draw. Then ``propensity`` too: the probability
            that this policy puts this item at this place.

        Raises
        ------
        DataError
            If a column that a feature needs is not in `context`, or the moment is before the last event seen.
        ConfigError
            If it is to explore, and the version has no exploring head.
        """
        moment = (self.pipeline.last_event or 0) + 1 if at is None else to_micros(at)
        if items is None:
            found = retrieval.by_part(self, member, moment) or retrieval.popular(self)
            candidates = request.nothing() if found is None else found.items
        else:
            candidates = request.candidates(items)
        rows = request.rows(self.project.config, member, candidates, moment, dict(context or {}))
        with self.pipeline.held():
            arrays = self.pipeline.batch_arrays(Frame(rows, self.project.config, self.pipeline.tables))
        if explore:
            return ranked(
                self, candidates, arrays, k, explore if isinstance(explore, Explore) else None, seed
            )
        probabilities = self.score(arrays)
        utilities = np.array([t.utility for t in self.project.config.tasks], np.float32)
        columns = {"item": candidates, "score": probabilities @ utilities}
        columns |= {t: probabilities[:, i] for i, t in enumerate(self.project.config.task_names)}
        best = pl.DataFrame(columns).sort("score", descending=True, maintain_order=True)
        return best if k is None else best.head(k)

    def unknown(self, entity: Literal["member", "item"], ids: Sequence[str | int]) -> list[str]:
        """Those of these members or items of whom this version knows nothing of their own.

        Parameters
        ----------
        entity
            ``member`` or ``item``.
        ids
            To look for; they come back in their order.
        """
        names = [request.as_id(i, entity) for i in ids]
        there = known(self.pipeline, self.seen, entity, hash_values(pl.Series(names, dtype=pl.String)))
        return [name for name, found in zip(names, there, strict=True) if not found]

    def similar(self, entity: str, id: str | int, k: int = 10) -> pl.DataFrame:
        """The members or items that are most like one, by their graph embeddings as of the last event.

        Parameters
        ----------
        entity
            ``member`` or ``item``.
        id
            Of the one.
        k
            How many.

        Returns
        -------
        polars.DataFrame
            ``id`` and ``cosine``, best first.

        Raises
        ------
        ConfigError
            If the project has no section ``graph``.
        DataError
            If the id is not known.
        """
        part = self.parts.get("graph")
        if not isinstance(part, GraphPart):
            raise ConfigError(
                "this version has no graph embeddings", fix="add a section graph: {} to the project and fit"
            )
        return part.similar(entity, request.as_id(id, entity), k)

    # -- move forward -----------------------------------------------------------------------------

    def update(self, events: Source) -> Recommender:
        """A new version that knows further events.

        Aggregates and histories move forward, and so does every part; the ranker learns too where the
        project has a section ``incremental``.

        Raises
        ------
        DataError
            If an event is older than what this version has seen: each event counts once, in time order.
        """
        return self.learn(self.observe(events))

    def observe(self, events: Source) -> Observed:
        """Check and score new events, each row as this version would have seen it, without learning.

        Raises
        ------
        DataError
            As `update`.
        """
        with TemporaryDirectory() as work:
            sampler = self._sampler()
            log, _ = check_new_events(self.project.config, events, Path(work), None, sampler)
            first, last = int(log.times()[0]), self.pipeline.last_event
            if last is not None and first <= last:
                raise DataError(
                    f"the events begin at {_when(first)}, this version has seen events up to {_when(last)}",
                    fix="give only events that are newer: each counts once",
                )
            pipeline = self.pipeline.copy()
            return Observed(see_and_score(log, pipeline, self.ranker, self.parts), pipeline, sampler)

    def learn(
        self, observed: Observed, *, without: Collection[str] = (), train: bool | None = None
    ) -> Recommender:
        """The version after what this one has observed.

        Parameters
        ----------
        observed
            From `observe` of this version.
        without
            Parts that stay as they are, by name.
        train
            Whether the ranker learns; None leaves it to the settings of ``incremental``.
        """
        increment = replace(observed.increment, train=train)
        setting = Setting(self.project, observed.pipeline, self.ranker)
        learning = {name: part for name, part in self.parts.items() if name not in without}
        found, ranker = learn_parts(learning, increment, setting)
        for part in found.values():
            for feature, vectors in part.vectors().items():
                observed.pipeline.attach(feature, vectors)
        return self.but(
            ranker=ranker,
            pipeline=observed.pipeline,
            negatives=observed.negatives,
            parts={**self.parts, **found},
        )

    def but(self, **changes: Any) -> Recommender:
        """A version like this one but for some of the constructor's arguments; of the same files."""
        kept = {
            name: getattr(self, name)
            for name in (
                "project",
                "ranker",
                "pipeline",
                "seen",
                "negatives",
                "summary",
                "log",
                "fit_seconds",
                "parts",
            )
        }
        other = Recommender(**(kept | changes))
        other.version, other.stored = self.version, self.stored
        return other


def _when(us: int) -> str:
    return str(pl.Series([us]).cast(pl.Datetime("us"))[0]) + " UTC"
