"""Point-in-time aggregates: rates, counts, distinct counts and recency, strictly from the past.

One `AggregateState` per declared aggregate walks the log once. Events wait in a queue until the cut-off of
a row passes them (the declared delay); then they enter the sums under their keys, and leave them when a
window closes. Reading a row touches only its keys. The state is the same object in training, evaluation
and serving; it can be saved, and moves forward with every batch of new events.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from memberwise.data._kernels import F64, walk_distinct, walk_sums
from memberwise.data.arrays import Arrays
from memberwise.data.events import label_column
from memberwise.data.frame import Frame
from memberwise.data.hashing import U64, HashIndex, combine
from memberwise.data.keys import keys
from memberwise.data.layers import Codes, Rows, Views, key_view, whole
from memberwise.data.pending import NEVER, Pending
from memberwise.data.times import I64, cutoffs
from memberwise.schema import DAY, Aggregate, aggregate_name

_NOTHING = 1e-250
"""Decayed to less than this, a number of events has no digits left to divide by."""
_TOTAL = np.zeros(1, np.int32)
"""The code of all keys together."""
_FILL = {"last": NEVER}


class AggregateState:
    """Sums under every key of one aggregate, as of a moment that only moves forward.

    Parameters
    ----------
    spec
        The declaration.
    tasks
        Names of all tasks, for the default of ``rates``.
    train_end : int, optional
        Last moment of train in microseconds, for the delay ``frozen``.
    """

    def __init__(self, spec: Aggregate, tasks: Sequence[str], train_end: int | None = None) -> None:
        self.spec = spec
        self.name = aggregate_name(spec)
        self.rates = tuple(tasks) if spec.rates is None else tuple(spec.rates)
        self.train_end = train_end
        self._index = HashIndex()
        self._pair_index = [HashIndex() for _ in spec.distinct]
        # What an event adds: 1, then value and "is defined" of each rate and mean.
        self._width = 1 + 2 * (len(self.rates) + len(spec.means))
        counts = {f"distinct{j}": np.zeros(1, np.int32) for j in range(len(spec.distinct))}
        sums: Arrays = {
            "sums": np.zeros((1, self._width)),
            "at": np.zeros(1, np.int64),  # moment that decaying sums stand at
            "last": np.full(1, NEVER),
        }
        self._rows = Rows(sums | counts, _FILL)  # by key code; key 0 is all keys together
        self._pairs = [Rows({"count": np.zeros(0, np.int32)}) for _ in spec.distinct]
        entries: Arrays = {"code": np.zeros(0, np.int32)}
        entries |= {f"pair{j}": np.zeros(0, np.int32) for j in range(len(spec.distinct))}
        columns: Arrays = {"value": np.zeros((0, self._width), np.float32)}
        self._pending = Pending(columns, entries, owner=f"aggregate '{self.name}'")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the dense columns that `read` returns, in order."""
        names = [f"{self.name}: log-odds of {r}" for r in self.rates]
        names += [f"{self.name}: mean of {m}" for m in self.spec.means]
        names += [f"{self.name}: log count"] if self.spec.count else []
        names += [f"{self.name}: log distinct {d}" for d in self.spec.distinct]
        names += [f"{self.name}: log days since last"] if self.spec.recency else []
        return tuple(names)

    @property
    def keys(self) -> int:
        """Number of distinct keys seen."""
        return len(self._index)

    # -- events in --------------------------------------------------------------------------------

    def absorb(self, frame: Frame) -> None:
        """Queue events; they count for rows whose cut-off comes after them.

        Raises
        ------
        DataError
            If an event is older than what the sums already hold.
        """
        n = len(frame)
        if self.spec.delay == "frozen" and self.train_end is not None:
            n = int(np.searchsorted(frame.times, self.train_end, side="right"))  # later is never past
        flat, offsets = keys(frame, self.spec.by, self.spec.max_values)
        flat, offsets = flat[: offsets[n]], offsets[: n + 1]
        entries: Arrays = {"code": self._index.add(flat) + np.int32(1)}
        row = np.repeat(np.arange(n), np.diff(offsets))
        for j, column in enumerate(self.spec.distinct):
            pair = self._pair_index[j].add(combine(flat, frame.values(column)[row]))
            entries[f"pair{j}"] = pair
            self._pairs[j].make_room(len(self._pair_index[j]))
        self._rows.make_room(len(self._index) + 1)
        self._pending.append(frame.times[:n], np.diff(offsets), {"value": self._values(frame)[:n]}, entries)

    def _values(self, frame: Frame) -> npt.NDArray[np.float32]:
        """What each event adds to the sums. Shape [n, width]."""
        values = np.ones((len(frame), self._width), np.float32)
        channels = [frame.events[label_column(r)].to_numpy() for r in self.rates]
        channels += [frame.numbers(m) for m in self.spec.means]
        for c, channel in enumerate(channels):
            defined = ~np.isnan(channel)
            values[:, 1 + 2 * c] = np.where(defined, channel, 0.0)
            values[:, 2 + 2 * c] = defined
        return values

    # -- rows out ---------------------------------------------------------------------------------

    def read(self, frame: Frame) -> npt.NDArray[np.float32]:
        """The columns of each row, from the events before its cut-off. Rows in time order.

        Returns
        -------
        ndarray of float32, shape [n, len(columns)]
            NaN only where recency finds no event and a mean has none at all.

        Raises
        ------
        DataError
            If a row's cut-off lies before what the sums already hold.
        """
        limits = cutoffs(frame.times, self.spec.delay, self.train_end)
        flat, offsets = keys(frame, self.spec.by, self.spec.max_values)
        codes = self._index.find(flat)
        codes += (codes >= 0).astype(np.int32)  # key 0 is taken
        own, everything, last, distinct = self._walk(limits, offsets, codes)
        return self._features(frame.times, own, everything, last, distinct)

    def advance(self, moment: int) -> None:
        """Let every event count that is past for a row at `moment`."""
        limit = cutoffs(np.array([moment], np.int64), self.spec.delay, self.train_end)
        if limit[0] > self._pending.past_before:
            self._walk(limit, np.zeros(2, np.int64), np.zeros(0, np.int32))

    def hold(self) -> Callable[[], None]:
        """What brings the state back to this moment after rows were read; costs what is in the queue."""
        p, first = self._pending, int(self._pending.done.min())
        waiting = slice(int(p.offsets[first]), None)
        states, places = [self._rows], [np.unique(np.append(p.entries["code"][waiting], 0))]
        for j, state in enumerate(self._pairs):
            pairs = p.entries[f"pair{j}"][waiting]
            states.append(state)
            places.append(np.unique(pairs[pairs >= 0]))
        before = [state.get(at) for state, at in zip(states, places, strict=True)]
        queue = p.hold()

        def back() -> None:
            for state, at, rows in zip(states, places, before, strict=True):
                state.put(at, rows)
            queue()

        return back

    def _walk(
        self, limits: I64, offsets: I64, codes: npt.NDArray[np.int32]
    ) -> tuple[F64, F64, I64, list[F64]]:
        p, n, window = self._pending, len(limits), self.spec.window or 0
        add, drop = p.until(limits, window)
        own, everything = np.zeros((n, self._width)), np.zeros((n, self._width))
        last = np.full(n, NEVER)
        distinct = [np.zeros(n) for _ in self._pairs]
        moving, entries = p.moving(add, drop), p.entries["code"]
        changing: list[Codes] = [_TOTAL, *(entries[part] for part in moving)] if moving else []
        taken = self._rows.take(changing, [_TOTAL, codes])
        rows, codes, entries = taken.arrays, taken.codes(codes), taken.codes(entries, moving)
        for j, out in enumerate(distinct):
            pair = p.entries[f"pair{j}"]
            pairs = self._pairs[j].take([pair[part] for part in moving], [])
            walk_distinct(
                add,
                drop,
                offsets,
                codes,
                p.done.copy(),
                p.offsets,
                entries,
                pairs.codes(pair, moving),
                pairs.arrays["count"],
                rows[f"distinct{j}"],
                out,
            )
            pairs.give_back()
        rate = np.log(2.0) / self.spec.half_life if self.spec.half_life else 0.0
        walk_sums(
            add,
            drop,
            limits,
            offsets,
            codes,
            p.done,
            p.times,
            p.offsets,
            entries,
            p.columns["value"],
            rows["sums"],
            rows["at"],
            rows["last"],
            rate,
            own,
            everything,
            last,
        )
        taken.give_back()
        if n:
            p.moved(int(limits[-1]), keep_window=window > 0)
        return own, everything, last, distinct

    def _features(
        self, times: I64, own: F64, everything: F64, last: I64, distinct: list[F64]
    ) -> npt.NDArray[np.float32]:
        a = self.spec.prior_strength
        columns: list[F64] = []
        for c in range(len(self.rates)):
            s, n = own[:, 1 + 2 * c], own[:, 2 + 2 * c]
            prior = (everything[:, 1 + 2 * c] + 1.0) / (everything[:, 2 + 2 * c] + 2.0)
            rate = np.clip((s + a * prior) / (n + a), 1e-6, 1 - 1e-6)  # taken-away sums may round below 0
            columns.append(np.log(rate / (1.0 - rate)))
        for c in range(len(self.rates), len(self.rates) + len(self.spec.means)):
            s, n = own[:, 1 + 2 * c], own[:, 2 + 2 * c]
            total, of = everything[:, 1 + 2 * c], everything[:, 2 + 2 * c]
            some = of > _NOTHING
            prior = np.where(some, total / np.where(some, of, 1.0), np.nan)
            columns.append((s + a * prior) / (n + a))
        if self.spec.count:
            columns.append(np.log1p(np.maximum(own[:, 0], 0.0)))
        columns += [np.log1p(d) for d in distinct]
        if self.spec.recency:
            days = np.maximum(times - np.where(last == NEVER, times, last), 0) / DAY
            columns.append(np.where(last == NEVER, np.nan, np.log1p(days)))
        if not columns:
            return np.zeros((len(times), 0), np.float32)
        return np.stack(columns, axis=1).astype(np.float32)

    def knows(self, hashes: U64) -> npt.NDArray[np.bool_]:
        """Which of these keys it has seen."""
        return self._index.find(hashes) >= 0

    def copy(self) -> AggregateState:
        """An independent state, which shares what neither of them changes."""
        other = copy.copy(self)
        other._index, other._pair_index = self._index.copy(), [i.copy() for i in self._pair_index]
        other._rows, other._pairs = self._rows.copy(), [r.copy() for r in self._pairs]
        other._pending = self._pending.copy()
        return other

    # -- on disk ----------------------------------------------------------------------------------

    def views(self) -> Views:
        """As `to_arrays`, without copying what is shared with the state that this one was copied from."""
        state = {"keys": key_view(self._index)} | self._rows.views()
        for j, index in enumerate(self._pair_index):
            state[f"pairs{j}"] = key_view(index)
            state[f"pair_count{j}"] = self._pairs[j].views()["count"]
        return state | {f"pending.{k}": v for k, v in self._pending.to_arrays().items()}

    def to_arrays(self) -> Arrays:
        """The whole state as arrays, for saving."""
        return whole(self.views())

    def load_arrays(self, state: Arrays) -> None:
        """The inverse of `to_arrays`."""
        self._index = HashIndex(np.asarray(state["keys"], np.uint64))
        places = range(len(self._pair_index))
        names = ["sums", "at", "last", *(f"distinct{j}" for j in places)]
        self._rows = Rows({k: np.array(state[k]) for k in names}, _FILL)
        self._pair_index = [HashIndex(np.asarray(state[f"pairs{j}"], np.uint64)) for j in places]
        self._pairs = [Rows({"count": np.array(state[f"pair_count{j}"])}) for j in places]
        prefix = "pending."
        self._pending.load_arrays({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
