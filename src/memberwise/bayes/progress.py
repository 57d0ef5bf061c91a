"""How far a long fit is, also where nobody knows beforehand how many steps it takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and of how much: ``ProgressBar.stage`` draws it."""


def quiet(what: str, done: int, of: int) -> None:
    """Tell nobody."""


class Counted:
    """Tells how many of so many equal steps are done."""

    def __init__(self, progress: Progress, what: str, steps: int) -> None:
        self._progress, self._what, self._steps, self._done = progress, what, steps, 0
        progress(what, 0, steps)

    def step(self) -> None:
        """One more is done."""
        self._done += 1
        self._progress(self._what, self._done, self._steps)


class Converging:
    r"""Tells how far iterations are that stop as soon as their gain falls below a limit.

    .. math:: \log(g_1 / g_k) / \log(g_1 / \mathrm{limit})

    of the way after a gain of g_k: gains of such iterations shrink by about the same factor each time. What
    was told is never taken back, and the last hundredth is for the end.

    Parameters
    ----------
    progress
        Whom to tell, in hundredths.
    what
        The stage.
    runs
        How many fits there are, one after the other.
    """

    def __init__(self, progress: Progress, what: str, runs: int = 1) -> None:
        self._progress, self._what, self._runs = progress, what, runs
        self._done, self._told, self._first = 0, 0, 0.0
        progress(what, 0, 100 * runs)

    def gained(self, gain: float, limit: float) -> None:
        """After an iteration of the fit under way."""
        if gain <= 0 or limit <= 0 or gain <= limit:
            return
        self._first = max(self._first, gain)
        share = np.log(self._first / gain) / np.log(self._first / limit)
        self._tell(100 * self._done + min(99, int(100 * share)))

    def ended(self) -> None:
        """After a fit."""
        self._done, self._first = self._done + 1, 0.0
        self._tell(100 * self._done)

    def _tell(self, hundredths: int) -> None:
        if hundredths > self._told:
            self._told = hundredths
            self._progress(self._what, hundredths, 100 * self._runs)
