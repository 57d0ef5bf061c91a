"""Members' own events in files: taken out of what the project keeps, and named where a file is the user's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from memberwise.data.files import expand, record_batches
from memberwise.data.hashing import U64, hash_text, hash_values
from memberwise.errors import DataError
from memberwise.project import Project

INBOX = "inbox"
Found = dict[str, str]
"""What was done, by name of the file."""


def clean(project: Project, members: U64) -> tuple[Found, U64]:
    """Take members out of caches, checkpoints, rejected rows, and events that came through the server.

    Returns
    -------
    done : dict
        By name of the file: what happened to it.
    seen : uint64 [k]
        Members whose events were in one of them.
    """
    output, column, done = project.output, project.config.entities["member"].id, {}
    seen: list[int] = []
    if (output / "cache").is_dir():
        shutil.rmtree(output / "cache")
        done["cache"] = "prepared rows deleted"
    for folder in ("run", "tune"):
        learned = [p for p in (output / folder).rglob("*") if p.suffix in (".safetensors", ".arrow")]
        for path in learned:
            path.unlink()
        if learned:
            done[folder] = f"{len(learned)} checkpoints and caches deleted"
    if found := _rejected(output / "rejects.parquet", column, members):
        done["rejects.parquet"] = f"{len(found)} rows removed"
        seen += found
    if found := _rejected_by_follower(output / "rejects.follow.jsonl", column, members):
        done["rejects.follow.jsonl"] = f"{len(found)} events removed"
        seen += found
    for path in sorted((output / INBOX).glob("**/*.jsonl")):
        if found := _blank(path, column, members):
            done[f"{INBOX}/{path.name}"] = f"{len(found)} events removed"
            seen += found
    return done, np.unique(np.array(seen, np.uint64))


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


def _files(path: str | list[str] | None, base: Path) -> list[str]:
    try:
        return expand(path, base) if path is not None else []
    except DataError:
        return []  # gone: there is nothing to clean


def _rejected(path: Path, column: str, members: U64) -> list[int]:
    """Leave rejected rows of the members out; returns whose they were. Without an id, nothing is kept."""
    if not path.is_file():
        return []
    rows = pl.read_parquet(path)
    known = column in rows.columns
    hashed = hash_values(rows[column].cast(pl.String)) if known else np.zeros(0, np.uint64)
    there = np.isin(hashed, members)
    if there.any() or not known:
        # Whole or not at all: a half would keep every later call from reading it.
        spare = path.with_name(f".{path.name}.forget")
        (rows.filter(pl.Series(~there)) if known else rows.clear()).write_parquet(spare)
        spare.replace(path)
    return [int(h) for h in hashed[there]]


def _rejected_by_follower(path: Path, column: str, members: U64) -> list[int]:
    """Leave the members' events out of what the follower could not use; returns whose they were."""
    if not path.is_file():
        return []
    gone, lines = set(members.tolist()), path.read_bytes().splitlines(keepends=True)

    def whose(line: bytes) -> int | None:
        try:
            return hash_text(str(json.loads(line)["event"].get(column)))
        except (ValueError, KeyError, AttributeError):  # what was no event names nobody
            return None

    owners = [whose(line) for line in lines]
    found = [owner for owner in owners if owner in gone]
    if found:
        spare = path.with_name(f".{path.name}.forget")
        spare.write_bytes(
            b"".join(line for line, owner in zip(lines, owners, strict=True) if owner not in gone)
        )
        spare.replace(path)
    return [owner for owner in found if owner is not None]


def _blank(path: Path, column: str, members: U64) -> list[int]:
    """Overwrite the members' events in a file of events, where they stand; returns whose they were.

    A line keeps its length: a server may be appending behind it, and readers know how far they have come by
    the byte.
    """
    gone, found, at = set(members.tolist()), [], 0
    with path.open("r+b") as file:
        for line in file.read().splitlines(keepends=True):
            here, at = at, at + len(line)
            try:
                said = json.loads(line)
            except ValueError:  # what a crash left of a request that nobody was told had succeeded
                continue
            events: list[dict[str, Any]] = said if isinstance(said, list) else [said]
            owners = [hash_text(str(e.get(column))) for e in events]
            kept = [e for e, owner in zip(events, owners, strict=True) if owner not in gone]
            if len(kept) == len(events):
                continue
            found += [owner for owner in owners if owner in gone]
            body = json.dumps(kept, separators=(",", ":"), ensure_ascii=False).encode()
            if len(body) >= len(line):
                raise DataError("a line would grow", where=str(path), fix="report this line's form")
            file.seek(here)
            file.write(body + b" " * (len(line) - 1 - len(body)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return found
