"""What the page shows beside a ranking: a member's history, names of items, and how reliable scores are."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from memberwise.data.hashing import hash_text, hash_values
from memberwise.serving.request_frame import SharedRow
from memberwise.serving.served import Served

_LONGEST = 80  # letters of a name


def history(served: Served, member: str) -> list[dict[str, Any]]:
    """The member's last events as the ranker sees them now, newest first, by history.

    Returns
    -------
    list of dict
        ``name`` and ``events``, each with ``item``, ``name``, ``action`` and ``days``.
    """
    rec, found = served.rec, []
    frame = SharedRow(
        {rec.project.config.entities["member"].id: member},
        served.moment(),
        rec.project.config,
        rec.pipeline.tables,
    )
    actions = _actions(served)
    for name, state in rec.pipeline.histories.items():
        rows = state.read(frame)
        known = rows.known[0]
        items = _of_hashes(served, rows.items[0][known])
        days = rows.ages[0][known] / 86_400
        events = [
            {**item, "action": actions.get(int(a), ""), "days": float(d)}
            for item, a, d in zip(items, rows.actions[0][known], days, strict=True)
        ]
        found.append({"name": name, "events": events})
    return found


def names(served: Served, items: Sequence[str]) -> dict[str, str]:
    """Names of items by id; those that the item table does not have are left out."""
    table = served.rec.pipeline.tables.get("item")
    if table is None or not items:
        return {}
    rows = table.rows(hash_values(pl.Series("id", list(items), dtype=pl.String)))
    return {i: _name(served, int(r)) for i, r in zip(items, rows, strict=True) if r >= 0}


def reliability(report: Path) -> dict[str, Any]:
    """Reliability of each task as the last evaluation found it; empty if there was none."""
    try:
        saved = json.loads(report.read_text(encoding="utf-8"))
        return {"date": saved.get("date"), "tasks": saved["reliability"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {"date": None, "tasks": {}}


def _of_hashes(served: Served, hashes: Any) -> list[dict[str, str]]:
    table = served.rec.pipeline.tables.get("item")
    if table is None:
        return [{"item": f"#{int(h):016x}", "name": ""} for h in hashes]
    rows = table.rows(np.ascontiguousarray(hashes, np.uint64))
    return [
        {"item": str(table.ids[int(r)]), "name": _name(served, int(r))}
        if r >= 0
        else {"item": f"#{int(h):016x}", "name": ""}
        for r, h in zip(rows, hashes, strict=True)
    ]


def _name(served: Served, row: int) -> str:
    """The first column of text in the item's table, the id aside."""
    table = served.rec.pipeline.tables["item"]
    for column in table.table.columns:
        if column != table.ids.name and table.table.schema[column] == pl.String:
            return str(table.table[column][row] or "")[:_LONGEST]
    return ""


def _actions(served: Served) -> dict[int, str]:
    """What the hashes of the tasks' signs stand for: liked, not liked, unknown."""
    tasks = served.tasks
    if len(tasks) > 6:
        return {}
    found = {}
    for signs in itertools.product("+-?", repeat=len(tasks)):
        words = {"+": "", "-": "not ", "?": "? "}
        said = ", ".join(words[s] + t for s, t in zip(signs, tasks, strict=True))
        found[hash_text("".join(signs))] = said
    return found
