"""What each part adds: the same version scored without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from memberwise.ranking.predict import sigmoid
from memberwise.recommender.parts import Part
from memberwise.recommender.reporting import OURS, predictions
from memberwise.recommender.scoring import adjusted, ranker_logits
from memberwise.report import text
from memberwise.report.evaluation import Cut, evaluate_rows

if TYPE_CHECKING:
    from memberwise.recommender.core import Recommender

WITHOUT = "without "
_PIECE = 8192
_ROWS = 50_000
"""At most so many rows of valid are scored, the latest."""


def contributions(rec: Recommender, *, draws: int = 200) -> Cut | None:
    """Metrics on valid, and their paired differences to the version without each part.

    A part's vectors are zeros then, and it moves no logits; the ranker is not trained anew, so that what
    others could take over from it is not counted. Valid has chosen settings of some parts, which flatters
    them a little; what learns from updates alone, as effects do, adds nothing yet.

    Returns
    -------
    Cut or None
        ``differences["without graph"]["click"]["auc"]`` is what the graph adds; None for a ranker without
        parts that say anything.
    """
    names = [name for name, part in rec.parts.items() if speaks(part)]
    if not names:
        return None
    arrays = {k: np.array(a[-_ROWS:]) for k, a in rec._prepared().packed.rows("valid").items()}
    scores = {OURS: rec._score_packed(arrays)}
    scores |= {WITHOUT + name: score_without(rec, name, arrays) for name in names}
    rows = predictions(rec, arrays, scores)
    return evaluate_rows("valid", rows, draws=draws, seed=rec.project.config.seed)


def table(cut: Cut) -> Table:
    """What `contributions` found, for a terminal: a row for each part and task, with 95 % intervals."""
    found = Table(
        "part", "task", "AUC added", "log-loss added",
        title=f"What each part adds on valid ({cut.rows:,} rows): the same version against itself without it",
        title_justify="left", title_style="",
    )  # fmt: skip
    for name, tasks in cut.differences.items():
        for task, gained in tasks.items():
            cells = [text.interval(gained[metric], signed=True) for metric in ("auc", "log_loss")]
            if gained["log_loss"].value == gained["log_loss"].se == 0:
                cells = ["nothing yet", "learns with updates"]
            found.add_row(text.literal(name.removeprefix(WITHOUT)), text.literal(task), *cells)
    return found


def speaks(part: Part) -> bool:
    """Whether scores depend on a part: it makes vectors, or moves logits."""
    return bool(part.vectors()) or type(part).adjust is not Part.adjust


def score_without(
    rec: Recommender, name: str, arrays: Mapping[str, npt.NDArray[Any]]
) -> npt.NDArray[np.float32]:
    """Probabilities of packed rows as if a version did not have one of its parts, [n, T]."""
    parts = {n: part for n, part in rec.parts.items() if n != name}
    found = [np.zeros((0, len(rec.project.config.tasks)), np.float32)]
    for start in range(0, len(arrays["time"]), _PIECE):
        piece = {k: np.array(v[start : start + _PIECE]) for k, v in arrays.items()}
        piece |= rec.pipeline.gather_vectors(piece)
        piece |= {feature: np.zeros_like(piece[feature]) for feature in rec.parts[name].vectors()}
        read, logits = ranker_logits(rec.ranker, parts, piece)
        found.append(sigmoid(adjusted(parts, read, logits)))
    return np.concatenate(found)
