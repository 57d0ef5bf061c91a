"""Look at files and propose a project: complete, working, and with a reason beside every line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from memberwise.project import Project
from memberwise.starter import words, write
from memberwise.starter.findings import Findings, find
from memberwise.starter.labels import Label
from memberwise.starter.plan import Plan


@dataclass(frozen=True)
class Proposal:
    """A proposed project file.

    Attributes
    ----------
    yaml : str
        Its text.
    notes : list of str
        What the reader should check, one sentence each.
    """

    yaml: str
    notes: list[str] = field(default_factory=list)


def propose(
    files: str | Path | Sequence[str | Path],
    *,
    name: str | None = None,
    base: str | Path = ".",
    time: str | None = None,
    member: str | None = None,
    item: str | None = None,
    request: str | None = None,
    labels: Sequence[str] = (),
) -> Proposal:
    """Look at an event log and the tables beside it, and propose a project file.

    Every column is counted over all rows, in one pass whose memory does not grow with the files; the rest is
    judged on a sample of at most 200,000 rows.

    Parameters
    ----------
    files
        The log and, if there are any, tables of members, items or other entities: files, directories or
        patterns; Parquet, CSV or Arrow. Files with the same columns are parts of one table.
    name
        Of the project; default: made from the log's file.
    base
        Where the project file will stand; paths below it are written relative to it.
    time, member, item, request, labels
        Columns of the log, where the names do not say it.

    Returns
    -------
    Proposal
        Its text loads as a `memberwise.project.Project`.

    Raises
    ------
    DataError
        If a file is empty, damaged or of an unknown kind, or no time, member or item can be recognised.
    """
    given = {"time": time, "member": member, "item": item, "request": request}
    found = find(files, Path(base), given, labels)
    text = _text(found, name or words.plain_name(Path(found.log.paths[0].rstrip("/*")).stem))
    Project.from_dict(yaml.safe_load(text), base)  # what is proposed must load
    return Proposal(text, found.notes)


def _text(f: Findings, name: str) -> str:
    parts = [
        write.comment(
            "Proposed by `memberwise init`. Read it, change what you know better, then: memberwise fit"
        ),
        f"name: {write.scalar(name)}",
        _events(f),
        _entities(f),
        _tasks(f),
    ]
    if f.negatives:
        parts.append(_negatives(f))
    parts.append(write.section("features", f.plan.features, "What the ranker looks at."))
    parts.append(
        write.section(
            "aggregates",
            f.plan.aggregates,
            "What happened before under a key: rates of the tasks and counts, strictly from the past, as old "
            f"as 'delay' says in training and in serving alike. {f.delay_reason}",
        )
    )
    parts.append(_left_out(f.plan))
    parts.append(_split(f))
    return "\n\n".join(p for p in parts if p) + "\n"


def _events(f: Findings) -> str:
    log, roles = f.log, f.roles
    values: dict[str, object] = {"path": log.paths[0] if len(log.paths) == 1 else list(log.paths)}
    values["time"] = roles.time
    comments = {"path": f"{log.rows:,} rows", "time": f"{roles.reasons['time']}; {f.first} to {f.last} (UTC)"}
    if log.columns[roles.time].kind in ("int", "float"):
        values["time_unit"] = roles.unit
        comments["time_unit"] = "the unit in which the numbers are times since 1990"
    if roles.request is not None:
        values["request"] = roles.request
        comments["request"] = "rows of one request were shown together"
    return write.block("events", values, comments)


def _entities(f: Findings) -> str:
    lines = ["entities:"]
    for entity, column in {"member": f.roles.member, "item": f.roles.item, **f.others}.items():
        reason = f.roles.reasons.get(entity, "a table describes it")
        lines += [f"  {entity}:"]
        lines += [f"    id: {write.scalar(column)}  # {reason}; {f.log.columns[column].facts()}"]
        if entity in f.files:
            table = f.files[entity]
            path = table.table.paths[0] if len(table.table.paths) == 1 else list(table.table.paths)
            lines += [f"    path: {write.scalar(path)}  # {table.found:.0%} of the log's ids are in it"]
            if table.key != column:
                lines += [f"    key: {write.scalar(table.key)}"]
    return "\n".join(lines)


def _tasks(f: Findings) -> str:
    if f.negatives:
        task = ({"name": "chosen", "label": "1"}, "every event is a choice; see negatives")
        return write.section("tasks", [task], "What to predict.")
    return write.section("tasks", [_task(label) for label in f.labels], "What to predict, as a probability.")


def _task(label: Label) -> tuple[dict[str, object], str]:
    values: dict[str, object] = {"name": label.name, "label": label.expression}
    if label.mask is not None:
        values["mask"] = label.mask
    return values, f"{label.share:.1%} positive; {label.why}"


def _negatives(f: Findings) -> str:
    return write.block(
        "negatives",
        {"per_positive": 4, "draw": "popularity"},
        {
            "per_positive": "drawn items for each event",
            "draw": "'uniform' makes popular items look better than they are",
        },
        "The log holds only what was chosen. What could have been chosen and was not is drawn from the items "
        "with an event before that moment. If you log what was shown, use that log instead. Column 'within' "
        "(for example a store or a country) restricts the draw to what was available there.",
    )


def _left_out(plan: Plan) -> str:
    if not plan.left_out:
        return ""
    lines = [write.comment("Columns left out, and why:")]
    return "\n".join(lines + [write.comment(f"  {name}: {why}") for name, why in plan.left_out])


def _split(f: Findings) -> str:
    about = "By time: the first rows train, the next choose when to stop, the last judge."
    return write.block("split", f.split, f.split_comments, about)
