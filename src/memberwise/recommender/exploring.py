"""One request, answered by a policy that explores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from memberwise.errors import ConfigError
from memberwise.ranking.exploration import Spread
from memberwise.ranking.policies import Ranking, rank
from memberwise.ranking.predict import sigmoid
from memberwise.recommender.parts import Part
from memberwise.recommender.parts.exploration import ExplorationPart
from memberwise.recommender.scoring import Logits, ranker_logits
from memberwise.schema import Model

if TYPE_CHECKING:
    from memberwise.recommender.core import Recommender

Arrays = Mapping[str, npt.NDArray[Any]]


class Explore(Model):
    """How one request explores; what is not given is as the project says."""

    policy: Literal["greedy", "thompson", "ucb"] | None = None
    temperature: float | None = Field(None, ge=0, description="Width of draws and bounds, for all tasks.")
    draws: int | None = Field(None, ge=1, description="Draws behind the propensities.")


def explore(
    rec: Recommender,
    arrays: Arrays,
    k: int | None,
    how: Explore | None = None,
    seed: int | np.random.SeedSequence | None = None,
    utilities: npt.NDArray[np.float64] | None = None,
    found: tuple[Arrays, Logits] | None = None,
) -> tuple[Ranking, npt.NDArray[np.float32]]:
    """Order the rows of one request by a policy that explores.

    Parameters
    ----------
    rec
        The version.
    arrays
        `FeaturePipeline.batch_arrays` of the candidates.
    k
        Places wanted; None for all.
    how
        Policy, temperature and draws, where they are not the project's.
    seed
        Of the draw; new every time if not given.
    utilities : float64 [T], optional
        Worth of a positive of each task; the project's if not given.
    found
        What `ranker_logits` says of the rows, if that is known already.

    Returns
    -------
    ranking : Ranking
    probabilities : float32 [n, T]
        At the posterior mean: what is believed, not what was drawn.

    Raises
    ------
    ConfigError
        If the version has no exploring head.
    """
    config, how = rec.project.config, how or Explore()
    settings = _part(rec.parts).head.config
    spread = logits_spread(rec, arrays, found)
    temperature = settings.temperatures(config.task_names)
    if how.temperature is not None:
        temperature = np.full_like(temperature, how.temperature)
    if utilities is None:
        utilities = np.array([t.utility for t in config.tasks])
    ranking = rank(
        spread,
        utilities,
        policy=how.policy or settings.policy,
        temperature=temperature,
        k=k,
        draws=how.draws or settings.draws,
        seed=seed,
    )
    return ranking, sigmoid(spread.mean.astype(np.float32))


def logits_spread(rec: Recommender, arrays: Arrays, found: tuple[Arrays, Logits] | None = None) -> Spread:
    """The posterior of the logits of one request's candidates, every part counted in."""
    head = _part(rec.parts)
    read, logits = found or ranker_logits(rec.ranker, rec.parts, arrays)
    spread: Spread | None = None
    for part in rec.parts.values():
        if part is head:
            spread = head.spread(read, logits)
        before, logits = logits, part.adjust(read, logits)
        if spread is not None and part is not head:
            spread = spread.moved(logits - before)
    assert spread is not None
    return spread


def ranked(
    rec: Recommender, items: pl.Series, arrays: Arrays, k: int | None, how: Explore | None, seed: int | None
) -> pl.DataFrame:
    """The table that `Recommender.rank` returns when it explores."""
    ranking, probabilities = explore(rec, arrays, k, how, seed)
    columns: dict[str, Any] = {"item": items.gather(ranking.order), "score": ranking.scores[ranking.order]}
    for i, task in enumerate(rec.project.config.task_names):
        columns[task] = probabilities[ranking.order, i]
    return pl.DataFrame(columns | {"propensity": ranking.propensity})


def _part(parts: Mapping[str, Part]) -> ExplorationPart:
    part = parts.get(ExplorationPart.name)
    if not isinstance(part, ExplorationPart):
        raise ConfigError(
            "this version has no exploring head",
            where="explore",
            fix="add the line 'exploration: {}' to project.yaml and fit again",
        )
    return part
