"""Numeric columns made fit for a network, with what was learned from train only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from memberwise.data.arrays import Arrays

F32 = npt.NDArray[np.float32]
KNOTS = 101
CLIP = 10.0
_SAMPLE = 500_000


@dataclass(frozen=True)
class DenseColumn:
    """One numeric column of the batch.

    Attributes
    ----------
    name
        As shown in reports.
    transform
        ``standard``: (x - mean) / std. ``log1p``: the same of sign(x) log(1 + |x|). ``quantile``: the
        normal score of its rank in train, values that are tied sharing their middle rank (so that a mass
        at zero stays one value). ``none``: as it is.
    indicator
        Whether a second column says where the value is missing.
    """

    name: str
    transform: str = "standard"
    indicator: bool = False


class Normaliser:
    """Transforms the dense columns: ``x -> (f(x) - mean) / std``, missing values to 0.

    Parameters
    ----------
    columns
        The raw columns. The result has these first, then one indicator for each that asks for it. A column
        that never varies in train is zero for ever, and so is the indicator of one that has no gap there.
    """

    def __init__(self, columns: Sequence[DenseColumn]) -> None:
        self.columns = tuple(columns)
        d = len(self.columns)
        self.mean, self.std = np.zeros(d), np.ones(d)
        self.knots, self.scores = np.zeros((d, KNOTS)), np.zeros((d, KNOTS))
        self.gaps = np.ones(d)  # 1 where train has missing values
        self._indicators = np.array([i for i, c in enumerate(self.columns) if c.indicator], np.int64)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the resulting columns."""
        return tuple(c.name for c in self.columns) + tuple(
            f"{self.columns[i].name} is missing" for i in self._indicators
        )

    def fit(self, raw: F32) -> None:
        """Learn from the raw train rows, shape [n, d] (an evenly spaced sample of at most half a million)."""
        sample = np.array(raw[:: max(1, len(raw) // _SAMPLE)], np.float64)
        for j, column in enumerate(self.columns):
            x = sample[:, j]
            self.gaps[j] = not np.isfinite(x).all()
            x = x[np.isfinite(x)]
            if len(x) == 0 or column.transform == "none":
                continue
            if column.transform == "quantile":
                self.knots[j], self.scores[j] = _quantile_knots(x)
            x = self._shape(x, j)
            self.mean[j] = x.mean()
            std = x.std()
            # What never varies in train taught nothing, and must say nothing when it varies later.
            self.std[j] = std if std > 1e-8 * max(1.0, abs(self.mean[j])) else np.inf

    def _shape(self, x: npt.NDArray[np.float64], j: int) -> npt.NDArray[np.float64]:
        match self.columns[j].transform:
            case "log1p":
                return np.sign(x) * np.log1p(np.abs(x))
            case "quantile":
                return np.interp(x, self.knots[j], self.scores[j])
            case _:
                return x

    def transform(self, raw: F32) -> F32:
        """Raw columns [n, d] to the columns a network sees [n, len(names)]; finite whatever comes in."""
        out = np.zeros((len(raw), len(self.names)), np.float32)
        missing = ~np.isfinite(raw)
        for j, column in enumerate(self.columns):
            x = self._shape(np.where(missing[:, j], 0.0, raw[:, j]).astype(np.float64), j)
            if column.transform != "none":
                x = np.clip((x - self.mean[j]) / self.std[j], -CLIP, CLIP)
            out[:, j] = np.where(missing[:, j], 0.0, x)
        out[:, len(self.columns) :] = missing[:, self._indicators] * self.gaps[self._indicators]
        return out

    def to_arrays(self) -> Arrays:
        """What was learned, for saving."""
        return {
            "mean": self.mean,
            "std": self.std,
            "knots": self.knots,
            "scores": self.scores,
            "gaps": self.gaps,
        }

    def load_arrays(self, state: Arrays) -> None:
        """The inverse of `to_arrays`."""
        self.mean, self.std, self.knots, self.scores, self.gaps = (
            np.asarray(state[k], np.float64) for k in ("mean", "std", "knots", "scores", "gaps")
        )


def _quantile_knots(x: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Distinct quantiles and the normal score of their middle rank, padded to `KNOTS`."""
    ordered = np.sort(x)
    knots = np.unique(np.quantile(ordered, np.linspace(0, 1, KNOTS), method="nearest"))
    rank = (np.searchsorted(ordered, knots, "left") + np.searchsorted(ordered, knots, "right")) / 2
    scores = ndtri(np.clip(rank / len(ordered), 0.001, 0.999))
    pad = KNOTS - len(knots)
    return np.pad(knots, (0, pad), mode="edge"), np.pad(scores, (0, pad), mode="edge")
