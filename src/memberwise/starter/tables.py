"""Which files make one table, which table is the log, and which describe the log's entities."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memberwise.data.files import column_names, expand
from memberwise.data.hashing import hash_values
from memberwise.errors import DataError
from memberwise.starter import words
from memberwise.starter.columns import Table, read_columns
from memberwise.starter.roles import id_scores, time_candidates


@dataclass(frozen=True)
class EntityFile:
    """A table with one row per id of an entity.

    Attributes
    ----------
    column
        The log's column with the id.
    key
        The table's own id column.
    found
        Share of the log's (sampled) ids that the table knows.
    """

    entity: str
    column: str
    key: str
    table: Table
    found: float


def read_tables(files: str | Path | Sequence[str | Path], base: Path) -> list[Table]:
    """Read the columns of all files; files with the same columns are parts of one table.

    Parameters
    ----------
    files
        Files, directories or glob patterns.
    base
        Where the project file will stand: paths below it become relative.

    Raises
    ------
    DataError
        For unknown endings, damaged, missing or empty files.
    """
    given = [files] if isinstance(files, str | Path) else list(files)
    groups: dict[tuple[str, tuple[str, ...]], list[tuple[str, str]]] = {}
    for argument in given:
        names = [os.path.abspath(f) if "://" not in f else f for f in expand(argument)]
        for file in names:
            ending = Path(file).suffix.lower()
            groups.setdefault((ending, tuple(sorted(column_names(file)))), []).append((str(argument), file))
    if not groups:
        raise DataError("no file is given", fix="name the event log: memberwise init events.parquet")
    members_of: dict[str, set[tuple[str, tuple[str, ...]]]] = {}
    for key, entries in groups.items():
        for argument, _ in entries:
            members_of.setdefault(argument, set()).add(key)
    tables = []
    for entries in groups.values():
        distinct = list(dict.fromkeys(entries))
        paths = [
            # A directory or pattern that is one table stays as it is: tomorrow's file belongs to it too.
            written(argument if len(members_of[argument]) == 1 else file, base)
            for argument, file in distinct
        ]
        tables.append(read_columns(list(dict.fromkeys(f for _, f in distinct)), list(dict.fromkeys(paths))))
    return tables


def written(path: str, base: Path) -> str:
    """A path as it stands in the project file: relative if it lies below the project."""
    if "://" in path:
        return path
    full = Path(os.path.abspath(Path(path).expanduser()))
    home = Path(os.path.abspath(base))
    return str(full.relative_to(home)) if full.is_relative_to(home) else str(full)


def choose_log(tables: Sequence[Table], given: Mapping[str, str | None]) -> Table:
    """The table with a time, a member and an item; of several, the one with the most rows.

    When none has all three the likeliest is returned, so that the search for its columns says what is
    missing.
    """

    def fit(table: Table) -> tuple[int, int]:
        named = sum(name is not None and name in table.columns for name in given.values())
        parts = (
            bool(time_candidates(table)),
            bool(id_scores(table, words.MEMBER)),
            bool(id_scores(table, words.ITEM)),
        )
        return named + sum(parts), table.rows

    return max(tables, key=fit)


def match_entities(
    log: Table, others: Sequence[Table], roles: Mapping[str, str], notes: list[str]
) -> list[EntityFile]:
    """Find for each further table the column of the log whose ids it describes.

    Parameters
    ----------
    roles
        Columns of the log by entity: ``member``, ``item``.
    notes
        Told about tables that fit nowhere.
    """
    found: dict[str, EntityFile] = {}
    for table in others:
        best = max(_matches(log, table, roles), key=lambda m: m[0], default=None)
        if best is None:
            notes.append(
                f"{table.where} is left out: none of its columns is a unique id that knows the log's ids."
            )
            continue
        _, match = best
        if match.entity in found:
            notes.append(f"{table.where} is left out: {match.entity} has {found[match.entity].table.where}.")
            continue
        found[match.entity] = match
    return list(found.values())


def _matches(log: Table, table: Table, roles: Mapping[str, str]) -> list[tuple[float, EntityFile]]:
    entities = {column: entity for entity, column in roles.items()}
    keys = [c for c in table.columns.values() if c.kind in ("int", "text") and c.distinct >= 0.99 * c.rows]
    out = []
    for key in keys:
        for column in log.columns.values():
            if column.kind not in ("int", "text") or column.distinct < 2:
                continue
            same = key.name.lower() == column.name.lower()
            related = same or _same_thing(key.name, column.name, table)
            if not related and column.name not in entities:
                continue
            share = _found(log, column.name, table, key.name)
            # Small whole numbers are found in any numbering: without a related name the ids must be telling.
            if share < 0.5 or (not related and (column.kind == "int" or key.kind == "int")):
                continue
            entity = entities.get(column.name) or words.plain_name(_without_id(column.name))
            score = share + 2.0 * same + related
            out.append((score, EntityFile(entity, column.name, key.name, table, share)))
    return out


def _same_thing(key: str, column: str, table: Table) -> bool:
    """``id`` in a table of movies and ``movie_id`` in the log; ``movie`` and ``movie_id``."""
    thing = [t for t in words.tokens(column) if t not in words.ID]
    own = [t for t in words.tokens(key) if t not in words.ID]
    if own:
        return own == thing
    file = set(words.stems(Path(table.paths[0]).stem)) | set(words.stems(Path(table.paths[0]).parent.name))
    return bool(thing) and set(thing) <= file


def _without_id(name: str) -> str:
    parts = [t for t in words.tokens(name) if t not in words.ID]
    return "_".join(parts) or name


def _found(log: Table, column: str, table: Table, key: str) -> float:
    """Share of the log's sampled distinct ids that the table's key knows."""
    ids = np.unique(hash_values(log.sample[column]))
    known = np.unique(hash_values(table.sample[key]))
    if len(table.sample) < table.rows:  # only part of the keys is at hand: scale what is found
        return min(1.0, float(np.isin(ids, known).mean()) * table.rows / len(table.sample))
    return float(np.isin(ids, known).mean())
