"""Negatives for logs that hold only what was chosen: drawn from what was available at that moment."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
from numba import njit

from memberwise.data.arrays import Arrays
from memberwise.data.events import DRAWN, TIME
from memberwise.data.hashing import U64, HashIndex, combine, hash_values, mix64
from memberwise.data.layers import grown
from memberwise.data.times import I64
from memberwise.schema import Schema

I32 = npt.NDArray[np.int32]
TRIES = 64


class NegativeSampler:
    """Adds to every event the items that the member could have chosen and did not.

    An item is available from the moment after its first event (in the same group, if the project names
    columns that must agree), for as long as the window says. Popularity-weighted draws pick a random past
    event and take its item. The draws depend on the seed and the order of events alone, not on how the log
    is cut into chunks.

    An event of an item that was not available itself gets no label (it still counts as an event): it could
    never have been drawn as a negative, and would teach that what was never seen is always chosen.

    Drawn rows carry the mark ``__drawn``: they are rows to learn from, and no events of a history. They copy
    the columns of the event they belong to: columns that describe the *item* must stand in the item's own
    table, or they would give the answer away.
    """

    def __init__(self, schema: Schema) -> None:
        assert schema.negatives is not None
        self.schema, self.spec = schema, schema.negatives
        self._item, self._member = schema.entities["item"].id, schema.entities["member"].id
        self._groups, self._pairs = HashIndex(), HashIndex()
        self._names = pl.Series("item", [], dtype=pl.String)  # item id of each pair
        self._hashes = np.zeros(0, np.uint64)  # its hash
        self._last = np.zeros(0, np.int64)  # when it was last seen
        self._listed = np.zeros(0, np.bool_)
        # The pairs (or events) of group g: pool[start[g] : start[g] + size[g]], with room for room[g].
        self._pool = np.zeros(1024, np.int32)
        self._start, self._size, self._room = (np.zeros(0, np.int64) for _ in range(3))
        self._used = np.zeros(1, np.int64)
        self._draws = np.array([schema.seed, 0], np.uint64)
        self.positives = self.drawn = self.first = 0

    def expand(self, events: pl.DataFrame) -> pl.DataFrame:
        """The events (a chunk, in time order) and their negatives, in time order."""
        n = len(events)
        events = events.with_columns(pl.col(self._item).cast(pl.String), pl.lit(False).alias(DRAWN))
        items, members = hash_values(events[self._item]), hash_values(events[self._member])
        group_hash = np.ones(n, np.uint64)
        for column in self.spec.within:
            group_hash = combine(group_hash, hash_values(events[column]))
        groups, pairs = self._register(events[self._item], items, group_hash)
        times = events[TIME].to_numpy()
        who = combine(members, times.astype(np.uint64) + np.uint64(1))
        own = HashIndex(combine(who, items))
        self._make_room(n)
        out = np.full((n, self.spec.per_positive), -1, np.int32)
        known = np.zeros(n, np.bool_)
        _draw(
            times,
            groups,
            pairs,
            who,
            own._slots,
            self._hashes,
            self._last,
            self._listed,
            self._pool,
            self._start,
            self._size,
            self._room,
            self._used,
            self._draws,
            self.spec.draw == "popularity",
            self.spec.window or 0,
            known,
            out,
        )
        row, which = np.nonzero(out >= 0)
        self.positives += int(known.sum())
        self.first += n - int(known.sum())
        labels = [c for c in events.columns if c.startswith("label:")]
        events = events.with_columns(
            pl.when(pl.Series(known)).then(pl.col(c)).otherwise(float("nan")).alias(c) for c in labels
        )
        self.drawn += len(row)
        drawn = events[row].with_columns(
            self._names[out[row, which]].alias(self._item),
            pl.lit(True).alias(DRAWN),
            *(pl.lit(0.0, pl.Float32).alias(c) for c in labels),
            *(pl.lit(False).alias(c) for c in events.columns if c.startswith("where:")),
        )
        return pl.concat([events, drawn]).sort(TIME, maintain_order=True)

    def _register(self, names: pl.Series, items: U64, group_hash: U64) -> tuple[I32, I32]:
        groups = self._groups.add(group_hash)
        pair_hash = combine(group_hash, items)
        known = len(self._pairs)
        pairs = self._pairs.add(pair_hash)
        new = np.flatnonzero(pairs >= known)
        _, first = np.unique(pairs[new], return_index=True)  # new pairs in the order of their codes
        self._names = pl.concat([self._names, names[new[first]].alias("item")])
        self._hashes = np.concatenate([self._hashes, items[new[first]]])
        self._last = grown(self._last, len(self._pairs))
        self._listed = grown(self._listed, len(self._pairs))
        self._start = grown(self._start, len(self._groups))
        self._size = grown(self._size, len(self._groups))
        self._room = grown(self._room, len(self._groups))
        return groups, pairs

    def _make_room(self, events: int) -> None:
        """Lists double when full: four times their final size bounds what a chunk can use up."""
        need = int(self._used[0]) + 4 * (int(self._size.sum()) + events)
        self._pool = grown(self._pool, need)

    def statement(self) -> str:
        """One sentence for the report."""
        where = f" within the same {', '.join(self.spec.within)}" if self.spec.within else ""
        short = self.positives * self.spec.per_positive - self.drawn
        left = f"; {short:,} could not be drawn for want of available items" if short else ""
        if self.first:
            left += f"; {self.first:,} events of items not available before have no label"
        return (
            f"{self.drawn:,} negatives were drawn for {self.positives:,} events "
            f"({self.spec.per_positive} each, {self.spec.draw}, from items seen strictly before{where}){left}"
        )

    def to_arrays(self) -> Arrays:
        """The whole state as arrays, for saving."""
        names = [name.encode() for name in self._names.to_list()]
        used, groups, pairs = int(self._used[0]), len(self._groups), len(self._pairs)
        return {
            "groups": self._groups.keys,
            "pairs": self._pairs.keys,
            "names": np.frombuffer(b"".join(names), np.uint8).copy(),
            "name_bytes": np.array([len(name) for name in names], np.int64),
            "hashes": self._hashes,
            "last": self._last[:pairs],
            "listed": self._listed[:pairs],
            "pool": self._pool[:used],
            "start": self._start[:groups],
            "size": self._size[:groups],
            "room": self._room[:groups],
            "used": self._used,
            "draws": self._draws,
            "totals": np.array([self.positives, self.drawn, self.first]),
        }

    def load_arrays(self, state: Arrays) -> None:
        """The inverse of `to_arrays`."""
        self._groups = HashIndex(np.asarray(state["groups"], np.uint64))
        self._pairs = HashIndex(np.asarray(state["pairs"], np.uint64))
        text, ends = bytes(np.asarray(state["names"], np.uint8)), np.cumsum(state["name_bytes"]).tolist()
        names = [text[first:last].decode() for first, last in zip([0, *ends], ends, strict=False)]
        self._names = pl.Series("item", names, dtype=pl.String)
        for key in ("hashes", "last", "listed", "pool", "start", "size", "room", "used", "draws"):
            setattr(self, f"_{key}", np.array(state[key]))
        self.positives, self.drawn, self.first = (int(x) for x in np.asarray(state["totals"]))


@njit(cache=True, nogil=True)
def _contains(slots: U64, h: np.uint64) -> bool:
    mask = np.uint64(len(slots) - 1)
    p = mix64(h) & mask
    while slots[p] != 0:
        if slots[p] == h:
            return True
        p = (p + np.uint64(1)) & mask
    return False


@njit(cache=True, nogil=True)
def _append(pair: int, group: int, pool: I32, start: I64, size: I64, room: I64, used: I64) -> None:
    if size[group] == room[group]:
        bigger = max(4, 2 * room[group])
        for j in range(size[group]):
            pool[used[0] + j] = pool[start[group] + j]
        start[group] = used[0]
        room[group] = bigger
        used[0] += bigger
    pool[start[group] + size[group]] = pair
    size[group] += 1


@njit(cache=True, nogil=True)
def _one(
    r: int,
    d: int,
    t: int,
    group: int,
    who: U64,
    own: U64,
    hashes: U64,
    last: I64,
    pool: I32,
    start: I64,
    size: I64,
    draws: U64,
    window: int,
    out: I32,
) -> int:
    """One available pair that the member did not choose, or -1."""
    one = np.empty(1, np.uint64)
    other = np.empty(1, np.uint64)
    one[0] = who[r]
    for _ in range(TRIES):
        if size[group] == 0:
            return -1
        draws[1] += np.uint64(1)
        number = mix64(mix64(draws[0] + np.uint64(0x9E3779B97F4A7C15)) + draws[1])
        pick = pool[start[group] + np.int64(number % np.uint64(size[group]))]
        if window > 0 and last[pick] < t - window:
            continue
        other[0] = hashes[pick]
        if _contains(own, combine(one, other)[0]):
            continue
        taken = False
        for e in range(d):
            taken = taken or (out[r, e] >= 0 and hashes[out[r, e]] == hashes[pick])
        if not taken:
            return pick
    return -1


@njit(cache=True, nogil=True)
def _draw(
    times: I64,
    groups: I32,
    pairs: I32,
    who: U64,
    own: U64,
    hashes: U64,
    last: I64,
    listed: npt.NDArray[np.bool_],
    pool: I32,
    start: I64,
    size: I64,
    room: I64,
    used: I64,
    draws: U64,
    popularity: bool,
    window: int,
    known: npt.NDArray[np.bool_],
    out: I32,
) -> None:
    """Moment by moment: first draw for all its events, then make its items available.

    ``known[r]`` tells whether the item of event r was itself available; nothing is drawn for it if not.
    """
    i = 0
    while i < len(times):
        j = i
        while j < len(times) and times[j] == times[i]:
            j += 1
        for r in range(i, j):
            if groups[r] < 0 or pairs[r] < 0 or not listed[pairs[r]]:
                continue
            if window > 0 and last[pairs[r]] < times[r] - window:
                continue
            known[r] = True
            for d in range(out.shape[1]):
                out[r, d] = _one(
                    r, d, times[r], groups[r], who, own, hashes, last, pool, start, size, draws, window, out
                )
        for r in range(i, j):
            if pairs[r] < 0:
                continue
            if popularity or not listed[pairs[r]]:
                _append(pairs[r], groups[r], pool, start, size, room, used)
                listed[pairs[r]] = True
            last[pairs[r]] = times[r]
        i = j
