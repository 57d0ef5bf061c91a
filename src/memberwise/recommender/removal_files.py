"""Members' own events in files: taken out of what the project keeps, and named where a file is the user's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.files import expand, record_batches
from memberwise.data.hashing import U64, hash_text, hash_values
from memberwise.errors import DataError, counted
from memberwise.project import Project

INBOX, REJECTS, REJECTS_OF_FOLLOWER = "inbox", "rejects.parquet", "rejects.follow.jsonl"
Found = dict[str, str]
"""What was done, by name of the file."""


def clean(project: Project, members: U64) -> Found:
    """Take members out of caches, checkpoints, rejected rows, and events that came through the server.

    Returns
    -------
    dict
        By name of the file: what happened to it.
    """
    output, column = project.output, project.config.entities["member"].id
    done: Found = {}
    if (output / "cache").is_dir():
        shutil.rmtree(output / "cache")
        done["cache"] = "prepared rows deleted"
    for folder in ("run", "tune"):
        learned = [p for p in (output / folder).rglob("*") if p.suffix in (".safetensors", ".arrow")]
        for path in learned:
            path.unlink()
        if learned:
            done[folder] = f"{counted(len(learned), 'file')} deleted: checkpoints and caches"
    if found := _rejected(output / REJECTS, column, members):
        done[REJECTS] = f"{counted(found, 'row')} removed"
    if found := _rejected_by_follower(output / REJECTS_OF_FOLLOWER, column, members):
        done[REJECTS_OF_FOLLOWER] = f"{counted(found, 'event')} removed"
    for path in _inbox(output):
        if found := _blank(path, column, members):
            done[f"{INBOX}/{path.name}"] = f"{counted(found, 'event')} removed"
    return done


def mentioned(project: Project, members: U64) -> U64:
    """Those of these members of whom a file that `clean` looks into holds an event."""
    output, column = project.output, project.config.entities["member"].id
    found = [np.zeros(0, np.uint64)]
    if len(members) and (output / REJECTS).is_file():
        rows = pl.read_parquet(output / REJECTS)
        if column in rows.columns:
            found.append(hash_values(rows[column].cast(pl.String)))
    for path in (output / REJECTS_OF_FOLLOWER, *_inbox(output)) if len(members) else ():
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            with suppress(ValueError):  # what a crash left, or what was no event
                found.append(owners(json.loads(line), column))
    return np.intersect1d(members, np.concatenate(found))


def sent(project: Project, member: str) -> bool:
    """Whether an event of a member that came through the server is kept: in the inbox, or among the rejected.

    For the server, which must not parse all of them: only lines that hold the id as text are looked into.
    """
    column, hashed = project.config.entities["member"].id, hash_text(member)
    text = json.dumps(member, ensure_ascii=False)[1:-1].encode()
    for path in (project.output / REJECTS_OF_FOLLOWER, *_inbox(project.output)):
        with suppress(FileNotFoundError), path.open("rb") as file:
            for line in file:
                with suppress(ValueError):  # what a crash left, or what was no event
                    if text in line and hashed in owners(json.loads(line), column):
                        return True
    return False


def owners(said: Any, column: str) -> U64:
    """Whose events stand anywhere in plain values."""
    found: list[int] = []
    waiting = [said]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            found += [hash_text(str(value[column]))] if column in value else []
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return np.unique(np.array(found, np.uint64))


def _inbox(output: Path) -> list[Path]:
    return sorted((output / INBOX).glob("**/*.jsonl"))


def still_hold(project: Project, more: Iterable[str], members: U64) -> list[str]:
    """Files of the user that hold rows of these members, or cannot be read to tell.

    The files of the project's own log and of its table of members, and `more`: those that updates were made
    of.
    """
    member = project.config.entities["member"]
    named = [(p, member.id) for p in _files(project.config.events.path, project.base)]
    named += [(p, member.id) for p in more if "://" in p or Path(p).exists()]
    named += [(p, member.table_key) for p in _files(member.path, project.base)]
    found = []
    for path, column in dict.fromkeys(named):
        try:
            pieces = record_batches(path, [column], text=[column])
            if any(np.isin(hash_values(piece[column]), members).any() for piece in pieces):
                found.append(path)
        except DataError as error:
            found.append(f"{path} (not looked into: {error.what})")
    return found


def held(files: Iterable[str], project: Project, members: U64) -> npt.NDArray[np.bool_]:
    """Which of these members have a row in one of these files of events, as far as they can be read."""
    column, found = project.config.entities["member"].id, np.zeros(len(members), np.bool_)
    for path in dict.fromkeys(files) if len(members) else ():
        with suppress(DataError):  # gone: nothing is found there
            for piece in record_batches(path, [column], text=[column]):
                found |= np.isin(members, hash_values(piece[column]))
    return found


def _files(path: str | list[str] | None, base: Path) -> list[str]:
    try:
        return expand(path, base) if path is not None else []
    except DataError:
        return []  # gone: there is nothing to clean


def _rejected(path: Path, column: str, members: U64) -> int:
    """Leave rejected rows of the members out; returns how many. Without an id, nothing is kept."""
    if not path.is_file():
        return 0
    rows = pl.read_parquet(path)
    known = column in rows.columns
    hashed = hash_values(rows[column].cast(pl.String)) if known else np.zeros(0, np.uint64)
    there = np.isin(hashed, members)
    if there.any() or not known:
        # Whole or not at all: a half would keep every later call from reading it.
        spare = path.with_name(f".{path.name}.forget")
        (rows.filter(pl.Series(~there)) if known else rows.clear()).write_parquet(spare)
        spare.replace(path)
    return int(there.sum())


def _rejected_by_follower(path: Path, column: str, members: U64) -> int:
    """Leave the members' events out of what the follower could not use; returns how many."""
    if not path.is_file():
        return 0
    gone, lines = set(members.tolist()), path.read_bytes().splitlines(keepends=True)

    def whose(line: bytes) -> int | None:
        try:
            return hash_text(str(json.loads(line)["event"].get(column)))
        except (ValueError, KeyError, AttributeError):  # what was no event names nobody
            return None

    kept = [line for line in lines if whose(line) not in gone]
    if len(kept) < len(lines):
        spare = path.with_name(f".{path.name}.forget")
        spare.write_bytes(b"".join(kept))
        spare.replace(path)
    return len(lines) - len(kept)


def _blank(path: Path, column: str, members: U64) -> int:
    """Overwrite the members' events in a file of events, where they stand; returns how many.

    A line keeps its length: a server may be appending behind it, and readers know how far they have come by
    the byte.
    """
    gone, found, at = set(members.tolist()), 0, 0
    with path.open("r+b") as file:
        for line in file.read().splitlines(keepends=True):
            here, at = at, at + len(line)
            try:
                said = json.loads(line)
            except ValueError:  # what a crash left of a request that nobody was told had succeeded
                continue
            events: list[dict[str, Any]] = said if isinstance(said, list) else [said]
            kept = [e for e in events if hash_text(str(e.get(column))) not in gone]
            if len(kept) == len(events):
                continue
            found += len(events) - len(kept)
            body = json.dumps(kept, separators=(",", ":"), ensure_ascii=False).encode()
            if len(body) >= len(line):
                raise DataError("a line would grow", where=str(path), fix="report this line's form")
            file.seek(here)
            file.write(body + b" " * (len(line) - 1 - len(body)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return found
