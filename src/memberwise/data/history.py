"""Point-in-time history: a member's last N events strictly before the row's cut-off."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data._kernels import walk_history
from memberwise.data.arrays import Arrays
from memberwise.data.events import DRAWN, label_column, where_column
from memberwise.data.frame import Frame
from memberwise.data.hashing import U64, HashIndex, hash_values
from memberwise.data.pending import Pending, grown
from memberwise.data.times import cutoffs
from memberwise.schema import History


@dataclass(frozen=True)
class HistoryRows:
    """What each row knows of its member's past, newest first.

    Attributes
    ----------
    items, actions : ndarray of uint64, shape [n, N]
        Hashed values; 0 behind the last event.
    ages : ndarray of float32, shape [n, N]
        Seconds from the event to the row.
    known : ndarray of bool, shape [n, N]
        Whether there is an event at all.
    """

    items: U64
    actions: U64
    ages: npt.NDArray[np.float32]
    known: npt.NDArray[np.bool_]


class HistoryState:
    """The last N events of every member, as of a moment that only moves forward.

    A ring of N places per member: memory does not grow with the length of a member's past.

    Parameters
    ----------
    spec
        The declaration.
    tasks
        Names of the tasks: their labels are the action, unless the declaration names a column.
    item_column
        Column of the item's id, the default of ``spec.item``.
    train_end : int, optional
        Last moment of train in microseconds, for the delay ``frozen``.
    """

    def __init__(
        self, spec: History, tasks: Sequence[str], item_column: str, train_end: int | None = None
    ) -> None:
        self.spec, self.tasks, self.train_end = spec, tuple(tasks), train_end
        self.item_column = spec.item or item_column
        self._members, self._actions = HashIndex(), HashIndex()
        self._ring_items = np.zeros((0, spec.length), np.uint64)
        self._ring_actions = np.zeros((0, spec.length), np.int32)
        self._ring_times = np.zeros((0, spec.length), np.int64)
        self._total = np.zeros(0, np.int64)
        columns: Arrays = {
            "member": np.zeros(0, np.int32),
            "item": np.zeros(0, np.uint64),
            "action": np.zeros(0, np.int32),
        }
        self._pending = Pending(columns, {}, owner=f"history '{spec.name}'")

    def absorb(self, frame: Frame) -> None:
        """Queue events; they count for rows whose cut-off comes after them."""
        keep = np.ones(len(frame), bool)
        if self.spec.where is not None:
            keep = frame.events[where_column(self.spec.name)].to_numpy()
        if DRAWN in frame.events.columns:  # what was not chosen did not happen
            keep = keep & ~frame.events[DRAWN].to_numpy()
        if self.spec.delay == "frozen" and self.train_end is not None:
            keep = keep & (frame.times <= self.train_end)
        members = self._members.add(frame.ids("member")[keep])
        size = len(self._members)
        self._ring_items = grown(self._ring_items, size)
        self._ring_actions = grown(self._ring_actions, size)
        self._ring_times = grown(self._ring_times, size)
        self._total = grown(self._total, size)
        columns: Arrays = {
            "member": members,
            "item": frame.values(self.item_column)[keep],
            "action": self._actions.add(self._action_values(frame)[keep]),
        }
        times = frame.times[keep]
        self._pending.append(times, np.zeros(len(times), np.int64), columns, {})

    def _action_values(self, frame: Frame) -> U64:
        if self.spec.action is not None:
            return frame.values(self.spec.action)
        # The labels of all tasks, one sign each: + above one half, - below, ? undefined.
        signs = [
            pl.when(pl.col(label_column(t)).is_nan())
            .then(pl.lit("?"))
            .when(pl.col(label_column(t)) > 0.5)
            .then(pl.lit("+"))
            .otherwise(pl.lit("-"))
            for t in self.tasks
        ]
        return hash_values(frame.events.select(pl.concat_str(signs).alias("action"))["action"])

    def read(self, frame: Frame) -> HistoryRows:
        """The history of each row. Rows in time order.

        Raises
        ------
        DataError
            If a row would see its future.
        """
        limits = cutoffs(frame.times, self.spec.delay, self.train_end)
        return self._walk(limits, self._members.find(frame.ids("member")), frame.times)

    def advance(self, moment: int) -> None:
        """Let every event count that is past for a row at `moment`."""
        now = np.array([moment], np.int64)
        limit = cutoffs(now, self.spec.delay, self.train_end)
        if limit[0] > self._pending.past_before:
            self._walk(limit, np.array([-1], np.int32), now)

    def hold(self) -> Callable[[], None]:
        """What brings the state back to this moment after rows were read; costs what is in the queue."""
        p = self._pending
        members = np.unique(p.columns["member"][int(p.done[0]) :])
        members = members[members >= 0]
        arrays: list[npt.NDArray[Any]] = [
            self._ring_items,
            self._ring_actions,
            self._ring_times,
            self._total,
        ]
        before = [a[members] for a in arrays]
        queue = p.hold()

        def back() -> None:
            for array, values in zip(arrays, before, strict=True):
                array[members] = values
            queue()

        return back

    def _walk(
        self, limits: npt.NDArray[np.int64], members: npt.NDArray[np.int32], times: npt.NDArray[np.int64]
    ) -> HistoryRows:
        p, shape = self._pending, (len(limits), self.spec.length)
        add, _ = p.until(limits, 0)
        items = np.zeros(shape, np.uint64)
        actions = np.full(shape, -1, np.int32)
        ages = np.zeros(shape, np.float32)
        known = np.zeros(shape, np.bool_)
        walk_history(
            add,
            members,
            times,
            p.done,
            p.times,
            p.columns["member"],
            p.columns["item"],
            p.columns["action"],
            self._ring_items,
            self._ring_actions,
            self._ring_times,
            self._total,
            items,
            actions,
            ages,
            known,
        )
        if len(limits):
            p.moved(int(limits[-1]), keep_window=False)
        values = np.append(self._actions.keys, np.uint64(0))
        return HistoryRows(items, values[actions], ages, known)

    def copy(self) -> HistoryState:
        """An independent state: costs a copy of memory, however many members there are."""
        other = copy.copy(self)
        other._members, other._actions = self._members.copy(), self._actions.copy()
        other._ring_items, other._ring_actions = self._ring_items.copy(), self._ring_actions.copy()
        other._ring_times, other._total = self._ring_times.copy(), self._total.copy()
        other._pending = self._pending.copy()
        return other

    def to_arrays(self) -> Arrays:
        """The whole state as arrays, for saving."""
        size = len(self._members)
        state: Arrays = {
            "members": self._members.keys,
            "actions": self._actions.keys,
            "ring_items": self._ring_items[:size],
            "ring_actions": self._ring_actions[:size],
            "ring_times": self._ring_times[:size],
            "total": self._total[:size],
        }
        return state | {f"pending.{k}": v for k, v in self._pending.to_arrays().items()}

    def load_arrays(self, state: Arrays) -> None:
        """The inverse of `to_arrays`."""
        self._members = HashIndex(np.asarray(state["members"], np.uint64))
        self._actions = HashIndex(np.asarray(state["actions"], np.uint64))
        self._ring_items, self._ring_actions = np.array(state["ring_items"]), np.array(state["ring_actions"])
        self._ring_times, self._total = np.array(state["ring_times"]), np.array(state["total"])
        prefix = "pending."
        self._pending.load_arrays({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
