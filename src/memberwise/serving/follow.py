"""The near-line follower: new events in, new versions out, each event once.

The position in each source stands in the manifest of the version that holds everything before it. Publishing
is one rename: after a crash at any moment, the current version and the positions agree, and going back to an
older version also goes back to its positions.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import polars as pl

from memberwise import bundle
from memberwise.data.events import ROW, TIME, EventChecker, Rejects
from memberwise.data.pending import NEVER
from memberwise.errors import BundleError, ConfigError, MemberwiseError
from memberwise.fresh.gate import GateError
from memberwise.fresh.update import next_version, size_gate, told
from memberwise.project import Project
from memberwise.recommender import Recommender
from memberwise.serving.intake import table
from memberwise.serving.journal import INBOX
from memberwise.serving.leftovers import Leftovers
from memberwise.serving.sources import Directory, Event, EventSource, Piece, Position

log = logging.getLogger("memberwise.serving")
Update = Callable[[Recommender, pl.DataFrame], tuple[Recommender, Mapping[str, Any]] | None]
"""From a version and new events, in time order, to the next version and what its manifest is to say of the
update; None where the policy declines."""
KEY = "follow"
"""Where the position stands in a manifest."""
_BACKLOG = 10
"""Steps' worth of events that are kept waiting while versions are refused; the source keeps the others."""


@dataclass
class Step:
    """What one step did.

    Attributes
    ----------
    counted, held
        Events in the new version, and events that wait for a later step.
    left_out
        Events that cannot be used, by reason.
    version
        What was published.
    refused
        Why the gate did not let a new version through; its events wait.
    """

    counted: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    held: int = 0
    version: str | None = None
    refused: str | None = None


def by_policy(project: Project) -> Update:
    """The update policy and the gate of a project (`memberwise.fresh`), with its limits as they are now."""

    def update(rec: Recommender, events: pl.DataFrame) -> tuple[Recommender, Mapping[str, Any]]:
        newer, outcome = next_version(rec, events, limits=project.config.fresh)
        return newer, told(outcome)

    return update


class Follower:
    """Reads a source, updates the current version and publishes.

    Parameters
    ----------
    project
        Whose versions are moved forward.
    source
        Where events come from.
    update
        What makes the next version; default: the project's update policy and gate.
    limit
        Events of one step.
    settle
        Seconds. Younger events wait for the next step, so that one that comes a little late finds its place.
    clock
        Microseconds since 1970; for tests.
    """

    def __init__(
        self,
        project: Project,
        source: EventSource,
        update: Update | None = None,
        limit: int = 100_000,
        settle: float = 2.0,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.project, self.source = project, source
        self.update = by_policy(project) if update is None else update
        self.limit, self.settle, self.clock = limit, settle, clock
        self._name = _name(project, source)
        self.patience = 60.0
        """Seconds to wait for another update that is at work."""
        self._leftovers = Leftovers(project.output)
        self._checker = EventChecker(project.config)
        self._rec: Recommender | None = None
        self._ahead: tuple[str | None, Position] = (None, {})
        self._refused: tuple[str | None, int] = (None, 0)

    def step(self) -> Step:
        """Take what is there, update, publish.

        If the gate refuses the new version, the one in service stays, and the events wait in memory for the
        next that come; after a crash, the source gives them again.

        Raises
        ------
        MemberwiseError
            If there is no version, or the update fails; the position has not moved then.
        """
        with bundle.writer(self.project.bundles, self.patience):
            return self._step()

    def _step(self) -> Step:
        rec = self._current()
        state = self._state(rec)
        before, sources = state.get("held", []), state.get("sources", {})
        # Versions of earlier days knew one position, of whichever source they had read.
        at = sources.get(self._name, state.get("at", {}))
        piece = Piece([], at)
        if len(before) < _BACKLOG * self.limit:
            piece = self.source.read(at, self.limit)
        sources = {**sources, self._name: piece.position}
        waiting: list[Event] = [*before, *piece.events]
        done = Step()
        if not waiting and not piece.broken:
            return done
        rejected: list[tuple[str, Any]] = [("no event", line) for line in piece.broken]
        events, good, young = self._usable(rec, waiting, rejected)
        made = None
        # The same events would be refused again.
        if good and self._refused != (rec.version, len(good)):
            try:
                if (made := self.update(rec, events)) is not None:
                    newer, about = made
                    info = {**about, KEY: {"sources": sources, "held": young}}
                    accept = size_gate(self.project, rec)
                    done.version = newer.save(self.project.bundles, info=info, accept=accept).name
            except GateError as error:
                made, done.refused = None, str(error)
                self._refused = (rec.version, len(good))
        done.left_out = self._leftovers.add(rec.version, rejected)
        if made is not None:
            self._rec, done.counted = made[0], len(good)
            self._leftovers.settled(done.version)
            self.source.settled(piece.position)
        # Where nothing was published this is known here alone: after a crash it is read, and judged, again.
        held = young if made is not None else [*good, *young]
        done.held = len(held)
        self._ahead = (self._rec.version if self._rec else None, {"sources": sources, "held": held})
        return done

    def run(self, pause: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Step for ever; a step that fails is told and tried again after a pause that grows to a minute."""
        wait = pause
        while not stop():
            try:
                done = self.step()
                wait = pause
            except MemberwiseError as error:
                log.error("the step failed", extra={"fields": {"reason": str(error)}})
                self._rec = None
                wait = min(60.0, wait * 2)
            else:
                if done.version is not None:
                    log.info(
                        "published",
                        extra={
                            "fields": {
                                "version": done.version,
                                "events": done.counted,
                                "left_out": dict(done.left_out),
                            }
                        },
                    )
                    continue
                if done.refused is not None:
                    fields = {"reason": done.refused, "in_service": bundle.current(self.project.bundles)}
                    log.warning("refused", extra={"fields": {**fields, "waiting": done.held}})
            time.sleep(wait)

    def _current(self) -> Recommender:
        now = bundle.current(self.project.bundles)
        if now is None:
            raise BundleError(
                "there is no version to move forward",
                where=str(self.project.bundles),
                fix="memberwise fit PROJECT",
            )
        if self._rec is None or self._rec.version != now:
            self._rec = Recommender.load(self.project.bundles / now)
        return self._rec

    def _state(self, rec: Recommender) -> Position:
        version, state = self._ahead
        return state if version == rec.version else position_of(self.project.bundles, rec.version)

    def _usable(
        self, rec: Recommender, waiting: Sequence[Event], rejected: list[tuple[str, Any]]
    ) -> tuple[pl.DataFrame, list[Event], list[Event]]:
        """Events that count now, in time order, as a table and as they came, and those that are too young.

        The others are added to the rejected.
        """
        raw = table(waiting, self._checker.columns, self.project.config.events.time)
        rejects = Rejects()
        checked = self._checker.check(raw, 0, rejects)
        place, moment = checked[ROW].to_numpy(), checked[TIME].to_numpy()
        last = rec.pipeline.last_event
        late = moment <= (NEVER if last is None else last)
        young = ~late & (moment > self.clock() - int(self.settle * 1e6))
        rejected += [("older than what the version has seen", waiting[i]) for i in place[late]]
        if (bad := rejects.table()) is not None:
            pairs = zip(bad["reason"], bad["source_row"], strict=True)
            rejected += [(reason, waiting[int(row)]) for reason, row in pairs]
        good = np.flatnonzero(~late & ~young)
        order = place[good[np.argsort(moment[good], kind="stable")]]
        return raw[order], [waiting[i] for i in order], [waiting[i] for i in place[young]]


def _name(project: Project, source: EventSource) -> str:
    """Of a source in manifests: a directory within the project moves with it."""
    path, base = Path(source.name), project.base.resolve()
    inside = path.is_absolute() and path.is_relative_to(base)
    return path.relative_to(base).as_posix() if inside else source.name


def position_of(bundles: Path, version: str | None) -> Position:
    """The positions of a version: its own, or those of the version it came from; {} if none has any."""
    while version is not None:
        try:
            manifest = bundle.read_manifest(bundles / version)
        except BundleError:
            return {}
        if KEY in manifest.info:
            found: dict[str, Any] = manifest.info[KEY]
            return found
        version = manifest.parent
    return {}


def source_of(project: Project, where: str | None) -> EventSource:
    """A source by its address: a directory, or ``redis://HOST:PORT/DB?stream=NAME``; default: the inbox.

    Raises
    ------
    ConfigError
        If the address is no directory, names no stream, or Redis cannot be reached.
    """
    if where is None:
        return Directory(project.output / INBOX)
    url = urlsplit(where)
    if url.scheme not in ("redis", "rediss", "unix"):
        if not Path(where).is_dir():
            raise ConfigError(
                "is not a directory", where=where, fix="name the directory that events come into"
            )
        return Directory(Path(where))
    stream = parse_qs(url.query).get("stream")
    if not stream:
        raise ConfigError("names no stream", where=where, fix="write it like redis://host/0?stream=events")
    try:
        from memberwise.serving.redis_stream import RedisStream
    except ImportError as error:
        raise ConfigError("redis is not installed", fix="pip install 'memberwise[redis]'") from error
    return RedisStream(where.partition("?")[0], stream[0])
