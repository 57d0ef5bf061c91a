"""From a file of logged decisions to estimates: what ``memberwise offpolicy`` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.files import Source, called, need_columns, read_table
from memberwise.errors import ConfigError, DataError
from memberwise.fresh.offpolicy import LoggedDecisions, OffPolicy, Replay, evaluate, replay


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column of the log says what.

    Attributes
    ----------
    reward
        What followed the action; true/false or a number.
    propensity
        Probability with which the logging policy took the action.
    targets
        Probability with which each policy to judge would have taken it, a column a policy.
    predicted, expected
        A model's reward of the action, and its mean under the policy; with both, the doubly robust
        estimators are computed too (for a single policy).
    member
        Whose decision it was: intervals resample members.
    placed, wanted
        For a replay of shuffled sessions: the item that stood first, and the one that the policy puts first.
    """

    reward: str = "reward"
    propensity: str = "propensity"
    targets: Sequence[str] = ("target",)
    predicted: str | None = None
    expected: str | None = None
    member: str | None = None
    placed: str | None = None
    wanted: str | None = None

    def __post_init__(self) -> None:
        if (self.predicted is None) != (self.expected is None):
            raise ConfigError(
                "a reward model needs both columns",
                where="--predicted, --expected",
                fix="give its reward of the action taken, and its mean under the policy",
            )
        if (self.placed is None) != (self.wanted is None):
            raise ConfigError("a replay needs both columns", where="--placed, --wanted")
        if self.expected is not None and len(self.targets) > 1:
            raise ConfigError(
                "one reward model is given for several policies",
                where="--expected",
                fix="judge one policy at a time: its mean reward is its own",
            )


def judge(
    source: Source, columns: Columns, *, clip: float | None = None, draws: int = 1000, seed: int = 0
) -> dict[str, OffPolicy | Replay]:
    """Estimate the reward of each policy, by name of its column; a replay is called ``wanted``'s name.

    Parameters
    ----------
    source
        Files or a table, a row per decision.
    columns
        What is where.
    clip, draws, seed
        As for `evaluate`.

    Raises
    ------
    DataError
        A column is missing, holds nothing usable, or a probability is out of range.
    """
    log = read_table(source)
    where = called(source)
    replaying = columns.placed is not None and columns.wanted is not None
    names = [columns.reward]
    names += [columns.placed or "", columns.wanted or ""] if replaying else [columns.propensity]
    names += [] if replaying else list(columns.targets)
    names += [n for n in (columns.predicted, columns.expected, columns.member) if n]
    need_columns(log.columns, names, where)
    if not len(log):
        raise DataError("the log holds no decisions", where=where)
    reward = numbers(log, columns.reward)
    members = (
        None if columns.member is None else log[columns.member].rank("dense").to_numpy().astype(np.int64)
    )
    if replaying:
        placed, wanted = log[columns.placed or ""], log[columns.wanted or ""]
        covered = wanted.is_not_null().to_numpy()
        codes = (
            pl.concat([placed.cast(pl.String), wanted.cast(pl.String).fill_null("")]).rank("dense").to_numpy()
        )
        halves = codes[: len(log)], codes[len(log) :]
        found = replay(*halves, reward, covered=covered, clusters=members, draws=draws, seed=seed)
        return {columns.wanted or "": found}
    predicted, expected = (
        None if n is None else numbers(log, n) for n in (columns.predicted, columns.expected)
    )
    propensity = numbers(log, columns.propensity)
    return {
        name: evaluate(
            LoggedDecisions(reward, propensity, numbers(log, name), predicted, expected, members),
            clip=clip,
            draws=draws,
            seed=seed,
        )
        for name in columns.targets
    }


def numbers(log: pl.DataFrame, name: str) -> npt.NDArray[np.float64]:
    """A column as numbers; missing values are NaN, which the estimators refuse with their row.

    Raises
    ------
    DataError
        If it holds text.
    """
    column = log[name]
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        raise DataError(
            f"column {name!r} holds {column.dtype}, not numbers",
            where="off-policy evaluation",
            fix="write rewards and probabilities as numbers, or true and false",
        )
    return column.cast(pl.Float64).fill_null(np.nan).to_numpy()


def records(found: dict[str, OffPolicy | Replay]) -> list[dict[str, Any]]:
    """Plain records of all policies, for the report and for JSON."""
    return [{"policy": name} | record for name, result in found.items() for record in result.to_records()]


def warnings(found: dict[str, OffPolicy | Replay]) -> list[str]:
    """What to know before believing the numbers, policy by policy."""
    said = []
    for name, result in found.items():
        if isinstance(result, OffPolicy):
            said += [f"{name}: {w}" for w in result.warnings]
        elif result.uncovered > 0:
            said.append(
                f"{name}: in {result.uncovered:.1%} of the sessions the policy's first item was not among "
                "the shuffled ones; the log cannot say what it would have earned there."
            )
    return said
