"""The rows of a project's own log, as long as they are those that a version was fitted and judged on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memberwise import bundle
from memberwise.data.prepare import Prepared
from memberwise.errors import DataError

if TYPE_CHECKING:
    from memberwise.recommender.core import Recommender

FORGOTTEN = "forgotten"
"""In the manifest of a version that members were taken out of: how many."""


def own_rows(rec: Recommender) -> Prepared:
    """The packed rows of the project's own log, as this version sees them.

    Raises
    ------
    DataError
        As `check_same`.
    """
    prepared = rec._prepared()
    check_same(rec, prepared)
    return prepared


def check_same(rec: Recommender, prepared: Prepared) -> None:
    """Refuse rows that are encoded otherwise than a version's train: they would get meaningless scores.

    Raises
    ------
    DataError
        If the log has changed since the fit, or members were forgotten.
    """
    mine, theirs = rec.pipeline.vocabularies, prepared.pipeline.vocabularies
    same = all(np.array_equal(v.index.keys, theirs[name].index.keys) for name, v in mine.items())
    one, other = rec.pipeline.normaliser.to_arrays(), prepared.pipeline.normaliser.to_arrays()
    if same and all(np.array_equal(one[k], other[k], equal_nan=True) for k in one):
        return
    raise DataError(
        "members were forgotten since this version was fitted, and the rows that it was fitted and "
        "judged on are gone with them"
        if _forgetful(rec)
        else "the project's log has changed since this version was fitted",
        where=str(rec.project.config.events.path),
        fix="fit again: memberwise fit PROJECT; or evaluate events that came later: memberwise evaluate "
        "PROJECT FILES",
    )


def _forgetful(rec: Recommender) -> bool:
    """Whether members were taken out of this version, or of one that it came from."""
    folder = None if rec.stored is None else rec.stored.folder
    while folder is not None and (folder / bundle.MANIFEST).is_file():
        manifest = bundle.read_manifest(folder)
        if FORGOTTEN in manifest.info:
            return True
        folder = folder.with_name(manifest.parent) if manifest.parent is not None else None
    return False
