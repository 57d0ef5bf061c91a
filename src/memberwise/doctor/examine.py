"""All checks, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from memberwise.doctor import columns, leaks, rows, splits, tables
from memberwise.doctor.evidence import Evidence, gather, when
from memberwise.doctor.findings import Diagnosis, Finding
from memberwise.doctor.naming import check_names, refused
from memberwise.errors import MemberwiseError
from memberwise.project import Project

Check = Callable[[Evidence], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    rows.check_rejects,
    rows.check_repeats,
    rows.check_order,
    rows.check_moments,
    rows.check_zones,
    rows.check_span,
    splits.check_split,
    splits.check_labels,
    splits.check_unseen,
    splits.check_heavy_members,
    columns.check_types,
    columns.check_values,
    columns.check_cardinality,
    columns.check_histories,
    leaks.check_leaks,
    leaks.check_negatives,
    leaks.check_totals,
    tables.check_tables,
    tables.check_requests,
)
"""A new check is a function from the evidence to findings, and a line here."""


def examine(project: Project, *, sample_rows: int = 200_000) -> Diagnosis:
    """Check a project against its data before any training.

    One pass over the whole log checks every row, counts and times; columns are judged on every k-th row.

    Parameters
    ----------
    project
        What to check.
    sample_rows
        At most so many events are sampled.

    Returns
    -------
    Diagnosis
        What loading or training would refuse is among the findings, not raised.
    """
    found = _examine(project, sample_rows)
    lines = {f.where: line for f in found.findings if (line := project.line(f.where)) is not None}
    return replace(found, lines=lines)


def _examine(project: Project, sample_rows: int) -> Diagnosis:
    schema = project.config
    named = list(check_names(schema, project.base))
    # A column that is not there cannot be looked at; the other findings about names let the rows be read.
    if any(f.check in ("refused", "missing column") for f in named):
        return Diagnosis.of(schema.name, named)
    try:
        evidence = gather(schema, project.base, sample_rows)
    except MemberwiseError as error:
        return Diagnosis.of(schema.name, [*named, refused(error, "events")])
    found = [*named]
    for check in CHECKS:
        try:
            found += check(evidence)
        except MemberwiseError as error:  # a column that encoding would refuse as well
            finding = refused(error, "events")
            found += [] if finding in found else [finding]
    return Diagnosis.of(schema.name, found, _facts(evidence))


def _facts(e: Evidence) -> dict[str, str]:
    ids = {n: e.first_seen[e.schema.entities[n].id].height for n in ("member", "item")}
    facts = {
        "rows": f"{e.rejects.read:,}",
        "from": when(e.sorted_times[0]),
        "to": when(e.sorted_times[-1]),
        "members": f"{ids['member']:,}",
        "items": f"{ids['item']:,}",
    }
    if len(e.events) < len(e.times):
        facts["sampled"] = f"{len(e.events):,}"
    return facts
