"""Forget members on disk: in every version and file of a project, and say what is left of them elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
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
from memberwise.errors import BundleError, ConfigError, DataError, MemberwiseError
from memberwise.project import Project
from memberwise.recommender import storing
from memberwise.recommender.core import Recommender
from memberwise.recommender.forgetting import TRACES, forget, remains
from memberwise.recommender.own_rows import FORGOTTEN
from memberwise.recommender.removal_files import clean, held, mentioned, owners, still_hold
from memberwise.recommender.seen import known


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
    unknown
        Ids just named that no version, event or file of the project knows, and that are blocked all the same.
    needs_fit
        Whether rows of the project's log that the current version was fitted or judged on are left out now:
        until the next fit nothing can be measured on them.
    """

    members: int
    published: str | None = None
    rewritten: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    traces: list[str] = field(default_factory=lambda: list(TRACES))
    outside: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    needs_fit: bool = False


def remove(
    project: Project, members: Sequence[str] = (), *, wait: float = 60.0, unseen: bool = False
) -> Removal:
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
    unseen
        Also block ids that nothing of the project knows: their events may be on their way.

    Raises
    ------
    ConfigError
        If an id is empty, or nobody is to be forgotten; or if nothing of the project knows an id, which may
        be mistyped: nothing is done then.
    BundleError
        If another writer does not come to an end.
    """
    if not all(members):
        raise ConfigError("an id is empty", where="--member")
    before = tombstones.read(project.output)
    hashed = {member: hash_text(member) for member in members}
    gone = np.union1d(before, np.array(list(hashed.values()), np.uint64))
    if not len(gone):
        raise ConfigError("nobody is to be forgotten", fix="name a member: --member ID")
    events = _events_of(project, gone)
    strange = _strangers(project, np.setdiff1d(gone, before), events)
    unknown = [member for member, hashed_id in hashed.items() if hashed_id in strange]
    if unknown and not unseen:
        raise ConfigError(
            f"no version, event or file of this project knows {', '.join(map(repr, unknown))}: is it "
            "mistyped? Nothing was done",
            where="--member",
            fix="name members as the log does; or add --unseen to forget, and block, such an id all the same",
        )
    tombstones.add(project.output, members)
    project.config.leave_out(gone.tolist())
    done = Removal(len(gone), unknown=unknown)
    with bundle.writer(project.bundles, wait):
        updates = _files_of_updates(project.bundles)
        _versions(project, gone, events, done)
    done.files = clean(project, gone)
    done.outside = still_hold(project, updates, gone)
    return done


def take_back(project: Project, members: Sequence[str]) -> None:
    """Let events of members who were on the list of the forgotten count again.

    Nothing that was erased comes back; the next fit reads what the project's log still holds.

    Raises
    ------
    ConfigError
        If one is not on the list.
    """
    listed = set(tombstones.read(project.output).tolist())
    others = [member for member in members if hash_text(member) not in listed]
    if others or not members:
        raise ConfigError(
            f"{', '.join(map(repr, others))}: not on the list of the forgotten"
            if others
            else "nobody is named",
            where="--member",
            fix="name whom forget was told, letter by letter; the list holds no names",
        )
    tombstones.take_off(project.output, members)
    project.config.leave_out(tombstones.read(project.output).tolist())


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


def _strangers(project: Project, members: U64, events: pl.DataFrame | None) -> set[int]:
    """Those of whom neither the log, nor a version, nor a file that the project keeps knows anything."""
    left = members
    if events is not None:
        left = np.setdiff1d(left, hash_values(events[project.config.entities["member"].id]))
    for path in reversed(bundle.versions(project.bundles)):
        if not len(left):
            break
        with suppress(MemberwiseError):  # damaged, or of an older format: it tells nothing
            rec = Recommender.load(path)
            left = left[~known(rec.pipeline, rec.seen, "member", left)]
            waiting = bundle.read_manifest(path).info
            left = np.setdiff1d(left, owners(waiting, project.config.entities["member"].id))
    left = np.setdiff1d(left, mentioned(project, left))
    return set(left[~held(_files_of_updates(project.bundles), project, left)].tolist())


def _versions(project: Project, members: U64, events: pl.DataFrame | None, done: Removal) -> None:
    """Take members out of every version."""
    paths = bundle.versions(project.bundles)
    current = bundle.current(project.bundles)
    if not paths or current is None:
        return
    stands = Recommender.load(project.bundles)
    if remains(stands, members):
        newer = forget(stands, members, events)
        done.published = newer.save(project.bundles, {FORGOTTEN: len(members)}).name
        done.needs_fit = events is not None and len(events) > 0
    else:
        done.published = current
    for path in paths:
        if path.name == done.published:
            continue
        try:
            old = Recommender.load(path)
        except MemberwiseError as error:  # damaged, or of an older format: it cannot be cleaned, so it goes
            shutil.rmtree(path)
            done.removed.append(f"{path.name} ({error.what})")
            continue
        info = bundle.read_manifest(path).info
        kept = _without_events(info, project.config.entities["member"].id, set(members.tolist()))
        if remains(old, members) or kept != info:
            newer = forget(old, members, events)
            told = kept | {FORGOTTEN: len(members)}
            bundle.rewrite(path, lambda folder, newer=newer: storing.write(newer, folder), told)  # type: ignore[misc]
            done.rewritten.append(path.name)


def _files_of_updates(bundles: Path) -> list[str]:
    """Files whose events updates have learned from, as the manifests tell."""
    found: list[str] = []
    for path in bundle.versions(bundles):
        with suppress(BundleError):  # what is damaged tells nothing, and is removed
            found += bundle.read_manifest(path).info.get("update", {}).get("files", [])
    return found


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
