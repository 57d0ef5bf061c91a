"""A version in service: who is asked what, and what it answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memberwise.errors import ConfigError, DataError
from memberwise.recommender import Recommender, request
from memberwise.recommender.retrieval import by_part, popular
from memberwise.schema import to_micros
from memberwise.serving.fast import FastScorer
from memberwise.serving.messages import Problem, RankedItem, RankRequest, RankResponse, Refused
from memberwise.serving.probe import mistrust
from memberwise.serving.scoring import (
    GeneralScorer,
    Looked,
    Scores,
    context_columns,
    finish,
    finish_exploring,
)
from memberwise.serving.settings import ServingSettings
from memberwise.serving.stores import VectorStore
from memberwise.serving.vectors import VectorReader

log = logging.getLogger("memberwise.serving")
F32 = npt.NDArray[np.float32]
NOBODY = "\x00nobody"
"""Stands for a member who was forgotten: an id that no log holds."""


class Served:
    """One loaded version.

    Parameters
    ----------
    rec
        The version; nobody else moves its state.
    settings
        Limits and the clock.
    fast
        The hot path; without one, every request takes the general one.
    """

    def __init__(self, rec: Recommender, settings: ServingSettings, fast: FastScorer | None = None) -> None:
        self.rec, self.settings = rec, settings
        self.version = rec.version or "unsaved"
        self.as_of = rec.as_of.isoformat() if rec.as_of is not None else None
        config = rec.project.config
        self.tasks = config.task_names
        self.utilities = np.array([t.utility for t in config.tasks], np.float32)
        self.general = GeneralScorer(rec)
        self.fast = fast
        self.fallback: str | None = None
        """Why the last request took the slower path, if it did."""
        self.mistrusted: str | None = None
        """Why no request takes the hot path, if none does."""
        self.misses: dict[str, int] = {}
        """Members and items of the last request that the version does not know."""
        self.cpu = 0.0
        """Seconds of CPU from ids to probabilities of the last request."""
        self.popular = popular(rec, settings.retrieve)
        """Candidates of members whom no part of the version can find some for."""
        self.vectors: VectorReader | None = None
        """Where the vectors of requests come from, if from a store."""
        self.last_scores = np.zeros((0, len(self.tasks)), np.float32)
        self._moment = (rec.pipeline.last_event or 0) + 1

    @classmethod
    def load(cls, path: Path, settings: ServingSettings) -> Served:
        """Load, check and warm a version.

        Raises
        ------
        MemberwiseError
            If it cannot be served.
        """
        rec = Recommender.load(path)
        return cls(rec, settings, FastScorer.load(rec, path, settings.engine, settings.tables))

    def warm(self) -> None:
        """Answer before anyone asks: compile kernels, touch the tables, and compare the two paths.

        Where they differ, the version is served by the general path alone. Refusing it would leave members
        with an older model although the code that evaluation runs can serve this one; what is lost is time.

        Raises
        ------
        DataError
            If the version answers with something that is no probability.
        """
        if self.fast is not None:
            self.mistrusted = mistrust(self.rec, self.fast, self.moment())
        if self.mistrusted is not None:
            self.fast = None
            fields = {"version": self.version, "reason": self.mistrusted}
            log.error("the hot path is not used", extra={"fields": fields})
        for part in self.rec.parts.values():
            part.ready()
        if self.popular is None or not len(items := self.popular.items.to_list()):
            return
        context = dict.fromkeys(context_columns(self.rec))
        for scorer in (self.general, self.fast or self.general):
            for count in (256, 1):
                looked = scorer.look("warm", items[:count], self.moment(), context)
                scores = finish(self.rec, looked)
        if not np.isfinite(scores.probabilities).all():
            raise DataError("the version answers with numbers that are not finite", where=self.version)

    def read_from(self, store: VectorStore, version: str) -> None:
        """Take the vectors of requests from a store from now on, those of this version by its name there."""
        self.vectors = VectorReader(self.rec.pipeline.vectors, store, version)
        self.general.vectors = self.vectors
        if self.fast is not None:
            self.fast.vectors = self.vectors

    def moment(self) -> int:
        """Now in microseconds: never back, and after every event that the version has seen."""
        if self.settings.clock == "wall":
            self._moment = max(self._moment, time.time_ns() // 1000)
        return self._moment

    def rank(self, ask: RankRequest) -> RankResponse:
        """Answer a request.

        Raises
        ------
        Refused
            If it cannot be answered as it stands.
        """
        tasks = self._tasks(ask.tasks)
        weights = self._weights(ask.utility)
        moment = self.moment() if ask.at is None else to_micros(ask.at)
        started = time.thread_time()
        try:
            candidates, retrieved = self._candidates(ask, moment)
            looked = self._look(ask, candidates, moment)
            scores = finish(self.rec, looked, ask.explain)
            self.cpu = time.thread_time() - started
            if ask.explore:
                utilities = weights.astype(np.float64)
                ranking, believed = finish_exploring(self.rec, looked, ask.k, utilities)
                utility, best, propensity = ranking.scores, ranking.order, ranking.propensity.tolist()
                scores = Scores(believed, scores.shares)
            else:
                utility = (scores.probabilities @ weights).astype(np.float64)
                best = np.argsort(-utility, kind="stable")[: ask.k]
                propensity = [None] * len(best)
        except (DataError, ConfigError) as error:
            raise Refused(422, Problem.of(error)) from error
        self.last_scores = scores.probabilities
        near = self._similarities(ask, candidates, moment) if ask.explain else {}
        items = [
            self._item(candidates[i], i, scores, float(utility[i]), tasks, p, near.get(i))
            for i, p in zip(best.tolist(), propensity, strict=True)
        ]
        return RankResponse(self.version, self.as_of, items, retrieved)

    def _look(self, ask: RankRequest, candidates: Sequence[str], moment: int) -> Looked:
        self.fallback = None
        if ask.at is not None:
            self.fallback = "moment"  # a state that had moved ahead to it would not come back
        elif self.fast is None:
            self.fallback = "mistrust"
        elif not self.fast.suits(ask.context):
            self.fallback = "context"
        if self.fallback is None and self.fast is not None:
            looked = self.fast.look(ask.member, candidates, moment, ask.context)
            self.misses = self.fast.misses
            return looked
        self.misses = {}
        return self.general.look(ask.member, candidates, moment, ask.context)

    def _item(
        self,
        item: str,
        i: int,
        scores: Scores,
        utility: float,
        tasks: Sequence[int],
        propensity: float | None,
        similarity: float | None,
    ) -> RankedItem:
        row = scores.probabilities[i].tolist()
        shares = {
            name: {self.tasks[t]: float(logits[i, t]) for t in tasks}
            for name, logits in scores.shares.items()
        }
        return RankedItem(
            item, utility, {self.tasks[t]: row[t] for t in tasks}, propensity, shares or None, similarity
        )

    def _similarities(self, ask: RankRequest, candidates: Sequence[str], moment: int) -> dict[int, float]:
        """Of the candidates that a part sees near or far, by their place."""
        for part in self.rec.parts.values():
            found = part.similarities(str(ask.member), candidates, moment)
            if found is not None:
                return {i: float(s) for i, s in enumerate(found) if np.isfinite(s)}
        return {}

    def _candidates(self, ask: RankRequest, moment: int) -> tuple[Sequence[str], str | None]:
        """Ids to rank, and how they were found where the request names none."""
        asked = ask.candidates
        if asked is None:
            found = by_part(self.rec, ask.member, moment) or self.popular
            if found is None:
                request.nothing()
            return found.items.to_list(), found.by
        if not asked:
            raise Refused(422, Problem("no candidates are given", where="candidates"))
        if len(asked) > self.settings.max_candidates:
            raise Refused(
                422,
                Problem(
                    f"{len(asked):,} candidates, at most {self.settings.max_candidates:,} are ranked",
                    where="candidates",
                    fix="retrieve fewer, or raise --max-candidates",
                ),
            )
        return [i if isinstance(i, str) else str(i) for i in asked], None

    def _tasks(self, asked: Sequence[str] | None) -> Sequence[int]:
        if asked is None:
            return range(len(self.tasks))
        self._know(asked, "tasks")
        return [self.tasks.index(t) for t in asked]

    def _weights(self, asked: dict[str, float] | None) -> F32:
        if asked is None:
            return self.utilities
        self._know(asked, "utility")
        return np.array([asked.get(t, 0.0) for t in self.tasks], np.float32)

    def _know(self, tasks: Sequence[str] | dict[str, float], where: str) -> None:
        for task in tasks:
            if task not in self.tasks:
                raise Refused(
                    422, Problem(f"{task!r} is not a task", where, f"use some of: {', '.join(self.tasks)}")
                )
