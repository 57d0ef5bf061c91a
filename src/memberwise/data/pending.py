"""Events that are not yet past, or still inside a window, kept in time order."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np

from memberwise.data.arrays import Arrays
from memberwise.data.times import I64
from memberwise.errors import DataError

NEVER = int(np.iinfo(np.int64).min)


class Pending:
    """A queue of events: added to the state when they are past, dropped again when a window closes.

    Parameters
    ----------
    columns : dict of arrays
        Empty arrays, one per event column (``[0]`` or ``[0, W]``); an event has one row in each.
    entries : dict of arrays
        Empty arrays with one row per (event, key) pair.
    owner : str
        Named in errors.
    """

    def __init__(self, columns: Arrays, entries: Arrays, owner: str) -> None:
        self.owner = owner
        self.times: I64 = np.zeros(0, np.int64)
        self.offsets: I64 = np.zeros(1, np.int64)
        self.columns = columns
        self.entries = entries
        self.done: I64 = np.zeros(2, np.int64)  # how many are added, how many are dropped
        self.past_before = NEVER  # every event before this moment has been added

    def append(self, times: I64, lengths: I64, columns: Arrays, entries: Arrays) -> None:
        """Queue events in time order; event i has ``lengths[i]`` entries.

        Raises
        ------
        DataError
            If an event is older than the past that rows have already seen.
        """
        if len(times) == 0:
            return
        newest = self.times[-1] if len(self.times) else NEVER
        if times[0] < max(self.past_before, newest):
            raise DataError(
                "events are older than events already counted; each counts once, in time order",
                where=self.owner,
            )
        self.times = np.concatenate([self.times, times])
        self.offsets = np.concatenate([self.offsets, self.offsets[-1] + np.cumsum(lengths)])
        self.columns = {k: np.concatenate([v, columns[k]]) for k, v in self.columns.items()}
        self.entries = {k: np.concatenate([v, entries[k]]) for k, v in self.entries.items()}

    def until(self, limits: I64, window: int) -> tuple[I64, I64]:
        """How many events each row sees as added, and how many as dropped.

        Raises
        ------
        DataError
            If a row's cut-off lies before the past that has already been added: it would see its future.
        """
        if len(limits) and limits[0] < self.past_before:
            raise DataError(
                "a row is older than events already counted, and would see its future",
                where=self.owner,
                fix="score rows at or after the last event that the model has seen",
            )
        add = np.searchsorted(self.times, limits, side="left")
        drop = np.searchsorted(self.times, limits - window, side="left") if window else np.zeros_like(add)
        return add.astype(np.int64), drop.astype(np.int64)

    def moving(self, add: I64, drop: I64) -> tuple[slice, ...]:
        """Entries of the events that rows see added, and dropped, for the first time; as `until` says."""
        if not len(add):
            return ()
        ends = (int(add[-1]), int(drop[-1]))
        parts = [(int(first), last) for first, last in zip(self.done, ends, strict=True)]
        return tuple(slice(int(self.offsets[a]), int(self.offsets[b])) for a, b in parts if a < b)

    def moved(self, limit: int, keep_window: bool) -> None:
        """Note that everything before `limit` is added, and let go of events no longer needed."""
        self.past_before = max(self.past_before, limit)
        gone = int(self.done[1] if keep_window else self.done[0])
        if gone == 0:
            return
        first = int(self.offsets[gone])
        self.times = self.times[gone:].copy()
        self.offsets = self.offsets[gone:] - first
        self.columns = {k: v[gone:].copy() for k, v in self.columns.items()}
        self.entries = {k: v[first:].copy() for k, v in self.entries.items()}
        self.done -= gone
        if not keep_window:
            self.done[1] = 0

    def hold(self) -> Callable[[], None]:
        """What brings the queue back to where it stands now."""
        before = (self.times, self.offsets, self.columns, self.entries, self.done.copy(), self.past_before)

        def back() -> None:
            self.times, self.offsets, self.columns, self.entries, self.done, self.past_before = before

        return back

    def copy(self) -> Pending:
        """An independent queue; events are shared, they do not change."""
        other = copy.copy(self)
        other.done = self.done.copy()
        return other

    def to_arrays(self) -> Arrays:
        """Everything, for saving."""
        state: Arrays = {
            "times": self.times,
            "offsets": self.offsets,
            "done": self.done,
            "past_before": np.array([self.past_before]),
        }
        state |= {f"column.{k}": v for k, v in self.columns.items()}
        return state | {f"entry.{k}": v for k, v in self.entries.items()}

    def load_arrays(self, state: Arrays) -> None:
        """The inverse of `to_arrays`."""
        self.times, self.offsets = state["times"], state["offsets"]
        self.done = np.array(state["done"], np.int64)
        self.past_before = int(state["past_before"][0])
        self.columns = {k: state[f"column.{k}"] for k in self.columns}
        self.entries = {k: state[f"entry.{k}"] for k in self.entries}
