"""Point-in-time history: a member's last N events strictly before the row's cut-off."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data._kernels import walk_history
from memberwise.data.arrays import Arrays
from memberwise.data.events import DRAWN, label_column, where_column
from memberwise.data.frame import Frame
from memberwise.data.hashing import U64, HashIndex, hash_values
from memberwise.data.layers import Rows, Views, key_view, whole
from memberwise.data.pending import Pending
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
        self._rows = Rows(
            {
                "ring_items": np.zeros((0, spec.length), np.uint64),
                "ring_actions": np.zeros((0, spec.length), np.int32),
                "ring_times": np.zeros((0, spec.length), np.int64),
                "total": np.zeros(0, np.int64),
            }
        )  # by member code
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
        self._rows.make_room(len(self._members))
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
        before = self._rows.get(members)
        queue = p.hold()

        def back() -> None:
            self._rows.put(members, before)
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
        acting = p.columns["member"]
        moving = slice(int(p.done[0]), int(add[-1])) if len(add) else slice(0, 0)
        taken = self._rows.take([acting[moving]], [members])
        rows = taken.arrays
        walk_history(
            add,
            taken.codes(members),
            times,
            p.done,
            p.times,
            taken.codes(acting, [moving]),
            p.columns["item"],
            p.columns["action"],
            rows["ring_items"],
            rows["ring_actions"],
            rows["ring_times"],
            rows["total"],
            items,
            actions,
            ages,
            known,
        )
        taken.give_back()
        if len(limits):
            p.moved(int(limits[-1]), keep_window=False)
        values = np.append(self._actions.keys, np.uint64(0))
        return HistoryRows(items, values[actions], ages, known)

    def knows(self, members: U64) -> npt.NDArray[np.bool_]:
        """Which of these members it has a place for."""
        return self._members.find(members) >= 0

    def copy(self) -> HistoryState:
        """An independent state, which shares what neither of them changes."""
        other = copy.copy(self)
        other._members, other._actions = self._members.copy(), self._actions.copy()
        other._rows, other._pending = self._rows.copy(), self._pending.copy()
        return other

    def views(self) -> Views:
        """As `to_arrays`, without copying what is shared with the state that this one was copied from."""
        state = {"members": key_view(self._members), "actions": self._actions.keys} | self._rows.views()
        return state | {f"pending.{k}": v for k, v in self._pending.to_arrays().items()}

    def to_arrays(self) -> Arrays:
        """The whole state as arrays, for saving."""
        return whole(self.views())

    def load_arrays(self, state: Arrays) -> None:
        """The inverse of `to_arrays`."""
        self._members = HashIndex(np.asarray(state["members"], np.uint64))
        self._actions = HashIndex(np.asarray(state["actions"], np.uint64))
        names = ("ring_items", "ring_actions", "ring_times", "total")
        self._rows = Rows({name: np.array(state[name]) for name in names})
        prefix = "pending."
        self._pending.load_arrays({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
