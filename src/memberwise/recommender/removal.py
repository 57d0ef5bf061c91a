"""Forget members on disk: every version, checkpoint, cache and event file that the project holds of them."""

from __future__ import annotations

import ast
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from memberwise import bundle
from memberwise.data import tombstones
from memberwise.data.events import EventChecker, Rejects
from memberwise.data.hashing import U64, hash_text, hash_values
from memberwise.data.log import check_events
from memberwise.errors import ConfigError, DataError
from memberwise.project import Project
from memberwise.recommender import storing
from memberwise.recommender.core import Recommender
from memberwise.recommender.forgetting import TRACES, forget, remains

INBOX = "inbox"


@dataclass
class Removal:
    """What was done.

    Attributes
    ----------
    members
        On the list of forgotten members, those of earlier calls included.
    published
        The version that is current now; None without any version.
    rewritten, removed
        Earlier versions without the members, and those that could not be read and are gone.
    files
        Files that were deleted or rewritten, with what happened.
    traces
        What still carries something of them.
    outside
        Files of the user that still hold their rows.
    """

    members: int
    published: str | None = None
    rewritten: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    traces: list[str] = field(default_factory=lambda: list(TRACES))
    outside: list[str] = field(default_factory=list)


def remove(project: Project, members: Sequence[str] = (), *, wait: float = 60.0) -> Removal:
    """Forget these members, and those of whom an earlier call was interrupted, in all that the project keeps.

    First the list of forgotten members is on disk; then the current version is published without them, and
    every other version rewritten in its place. A crash in between loses no version in service, and the next
    call goes on.

    Parameters
    ----------
    project
        Its output and bundles.
    members
        Ids; none to complete what was begun, or what the server was asked for.
    wait
        Seconds to wait for an update that is at work.

    Raises
    ------
    ConfigError
        If an id is empty, or nobody is to be forgotten.
    BundleError
        If another writer does not come to an end.
    """
    if not all(members):
        raise ConfigError("an id is empty", where="--member")
    hashed = [np.uint64(hash_text(m)) for m in members]
    gone = np.unique(np.append(tombstones.read(project.output), np.array(hashed, np.uint64)))
    if not len(gone):
        raise ConfigError("nobody is to be forgotten", fix="name a member: --member ID")
    events = _events_of(project, gone)
    tombstones.add(project.output, members)
    project.config.leave_out(gone.tolist())
    done = Removal(len(gone))
    with bundle.writer(project.bundles, wait):
        _versions(project, gone, events, done)
    _files(project, gone, done)
    done.outside = [project.config.events.path] if isinstance(project.config.events.path, str) else []
    done.outside += project.config.events.path if isinstance(project.config.events.path, list) else []
    own = project.config.entities["member"].path
    done.outside += [own] if isinstance(own, str) else own or []
    return done


def refuse_forgotten(project: Project, version: Path) -> None:
    """Raise if a version knows somebody who was to be forgotten.

    Raises
    ------
    DataError
        Names what it still holds.
    """
    gone = tombstones.read(project.output)
    if not len(gone):
        return
    found = remains(Recommender.load(version), gone)
    if found:
        raise DataError(
            f"this version still knows members who were to be forgotten ({', '.join(found)})",
            where=str(version),
            fix="take them out of every version first: memberwise forget PROJECT",
        )


def _events_of(project: Project, members: U64) -> pl.DataFrame | None:
    """The members' own events of the project's log, as far as it can still be read."""
    config = project.config
    before = config.forgotten
    config.leave_out(())
    try:
        column, found = config.entities["member"].id, []
        for piece in check_events(
            config.events.path, EventChecker(config), Rejects(kept_rows=0), project.base
        ):
            found.append(piece.filter(pl.Series(np.isin(hash_values(piece[column]), members))))
        return pl.concat(found) if found else None
    except DataError:
        return None  # the log is gone or elsewhere: combined keys are then found by what tables know
    finally:
        config.leave_out(before)


def _versions(project: Project, members: U64, events: pl.DataFrame | None, done: Removal) -> None:
    paths = bundle.versions(project.bundles)
    current = bundle.current(project.bundles)
    if not paths or current is None:
        return
    stands = Recommender.load(project.bundles)
    if remains(stands, members):
        newer = forget(stands, members, events)
        done.published = newer.save(project.bundles, {"forgotten": len(members)}).name
    else:
        done.published = current
    for path in paths:
        if path.name == done.published:
            continue
        try:
            old = Recommender.load(path)
        except Exception as error:  # damaged, or of an older format: it cannot be cleaned, so it goes
            shutil.rmtree(path)
            done.removed.append(f"{path.name} ({type(error).__name__})")
            continue
        info = bundle.read_manifest(path).info
        kept = _without_events(info, project.config.entities["member"].id, set(members.tolist()))
        if remains(old, members) or kept != info:
            newer = forget(old, members, events)
            bundle.rewrite(path, lambda folder, newer=newer: storing.write(newer, folder), kept)  # type: ignore[misc]
            done.rewritten.append(path.name)


def _without_events(value: Any, column: str, gone: set[int]) -> Any:
    """Plain values without these members' events in any list: a follower keeps some that wait."""
    if isinstance(value, dict):
        return {k: _without_events(v, column, gone) for k, v in value.items()}
    if isinstance(value, list):
        kept = [
            v
            for v in value
            if not (isinstance(v, dict) and column in v and hash_text(str(v[column])) in gone)
        ]
        return [_without_events(v, column, gone) for v in kept]
    return value


def _files(project: Project, members: U64, done: Removal) -> None:
    """Caches, checkpoints, rejected rows, and events that came through the server."""
    output = project.output
    if (output / "cache").is_dir():
        shutil.rmtree(output / "cache")
        done.files["cache"] = "prepared rows deleted"
    for folder in ("run", "tune"):
        learned = [p for p in (output / folder).rglob("*") if p.suffix in (".safetensors", ".arrow")]
        for path in learned:
            path.unlink()
        if learned:
            done.files[folder] = f"{len(learned)} checkpoints and caches deleted"
    column = project.config.entities["member"].id
    rejects = output / "rejects.parquet"
    if rejects.is_file():
        rows = pl.read_parquet(rejects)
        there = (
            np.isin(hash_values(rows[column].cast(pl.String)), members) if column in rows.columns else None
        )
        if there is None or there.any():
            kept = rows.clear() if there is None else rows.filter(pl.Series(~there))
            kept.write_parquet(rejects)
            done.files[rejects.name] = f"{len(rows) - len(kept)} rows removed"
    if (removed := _rejected_by_follower(output / "rejects.follow.jsonl", column, members)) > 0:
        done.files["rejects.follow.jsonl"] = f"{removed} events removed"
    for path in sorted((output / INBOX).glob("**/*.jsonl")):
        if removed := _blank(path, column, members):
            done.files[f"{INBOX}/{path.name}"] = f"{removed} events removed"


def _rejected_by_follower(path: Path, column: str, members: U64) -> int:
    """Leave the members' events out of what the follower could not use; returns how many there were."""
    if not path.is_file():
        return 0
    gone, lines = set(members.tolist()), path.read_bytes().splitlines(keepends=True)

    def theirs(line: bytes) -> bool:
        try:
            event = ast.literal_eval(json.loads(line)["event"])
            return hash_text(str(event.get(column))) in gone
        except (ValueError, KeyError, SyntaxError, AttributeError):
            return False

    kept = [line for line in lines if not theirs(line)]
    if len(kept) < len(lines):
        spare = path.with_name(f".{path.name}.forget")
        spare.write_bytes(b"".join(kept))
        spare.replace(path)
    return len(lines) - len(kept)


def _blank(path: Path, column: str, members: U64) -> int:
    """Overwrite the members' events in a file of events, where they stand; returns how many there were.

    A line keeps its length: a server may be appending behind it, and readers know how far they have come by
    the byte.
    """
    gone, removed, at = set(members.tolist()), 0, 0
    with path.open("r+b") as file:
        for line in file.read().splitlines(keepends=True):
            here, at = at, at + len(line)
            try:
                said = json.loads(line)
            except ValueError:  # what a crash left of a request that nobody was told had succeeded
                continue
            events = said if isinstance(said, list) else [said]
            kept = [e for e in events if hash_text(str(e.get(column))) not in gone]
            if len(kept) == len(events):
                continue
            removed += len(events) - len(kept)
            body = json.dumps(kept, separators=(",", ":"), ensure_ascii=False).encode()
            if len(body) >= len(line):
                raise DataError("a line would grow", where=str(path), fix="report this line's form")
            file.seek(here)
            file.write(body + b" " * (len(line) - 1 - len(body)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return removed
