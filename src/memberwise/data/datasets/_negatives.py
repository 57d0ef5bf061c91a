"""Draw products that were on promotion and not bought: uniformly, or as the popular ones are seen."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

_PER_POSITIVE = 4
_OVERDRAW = 6

Ids = NDArray[np.int64]


class Draw(Protocol):
    """How to take products from a pool."""

    def at(self, time: int) -> None:
        """Move to the time of the next basket; times never decrease."""

    def take(self, rng: np.random.Generator, pool: Ids, taken: set[int], need: int) -> list[int]:
        """Up to ``need`` products of the pool that are not taken yet; fewer only if there are fewer."""


class UniformDraw:
    """Every product of the pool is equally likely."""

    def at(self, time: int) -> None:
        """Time does not matter."""

    def take(self, rng: np.random.Generator, pool: Ids, taken: set[int], need: int) -> list[int]:
        """Draw with replacement and reject; what a short draw leaves missing comes from what is left."""
        chosen: list[int] = []
        for product in pool[rng.integers(0, len(pool), _OVERDRAW * need)].tolist():
            if product not in taken and product not in chosen:
                chosen.append(product)
                if len(chosen) == need:
                    return chosen
        left = np.setdiff1d(pool, [*taken, *chosen])
        return chosen + rng.permutation(left)[: need - len(chosen)].tolist()


class PopularityDraw:
    """A product is as likely as one plus the number of its purchases strictly before the basket.

    Parameters
    ----------
    purchases : pl.DataFrame
        Columns ``product_id`` and ``timestamp`` (seconds); one row counts once, whatever its quantity.
    """

    def __init__(self, purchases: pl.DataFrame) -> None:
        ordered = purchases.select("timestamp", "product_id").sort("timestamp")
        self._times = ordered["timestamp"].to_numpy()
        self._ids, self._bought = np.unique(ordered["product_id"].to_numpy(), return_inverse=True)
        self._counts = np.zeros(len(self._ids), np.int64)
        self._seen = 0

    def at(self, time: int) -> None:
        """Count all purchases before this time; an equal time does not count as earlier."""
        until = int(np.searchsorted(self._times, time, side="left"))
        np.add.at(self._counts, self._bought[self._seen : until], 1)
        self._seen = max(self._seen, until)

    def weights(self, pool: Ids) -> NDArray[np.float64]:
        """One plus the purchases so far, for every product of the pool."""
        where = np.minimum(np.searchsorted(self._ids, pool), len(self._ids) - 1)
        return 1.0 + np.where(self._ids[where] == pool, self._counts[where], 0)

    def take(self, rng: np.random.Generator, pool: Ids, taken: set[int], need: int) -> list[int]:
        """Successive draws without replacement: the largest log-weights plus Gumbel noise."""
        free = pool[~np.isin(pool, np.fromiter(taken, np.int64, len(taken)))]
        keys = np.log(self.weights(free)) + rng.gumbel(size=len(free))
        chosen: list[int] = free[np.argsort(-keys, kind="stable")[:need]].tolist()
        return chosen


def draw_negatives(
    positives: pl.DataFrame, promoted: pl.DataFrame, draw: Draw, seed: int = 0
) -> pl.DataFrame:
    """Four products per positive, from its store, week and department, each at most once per basket.

    Parameters
    ----------
    positives : pl.DataFrame
        In order of time, basket and product: ``basket_id``, ``store_id``, ``week``, ``timestamp``,
        ``product_id``, ``department``.
    promoted : pl.DataFrame
        ``store_id``, ``week``, ``department``, ``product_id``.
    draw : Draw
        How to choose from a pool.
    seed : int
        Seed of ``numpy.random.default_rng``.

    Returns
    -------
    pl.DataFrame
        ``basket_id``, ``product_id``.
    """
    ordered = promoted.sort("product_id")
    pools = _pools(ordered, ["store_id", "week", "department"])
    stores = _pools(ordered, ["store_id", "week"])
    rng = np.random.default_rng(seed)
    baskets: list[int] = []
    chosen: list[int] = []
    for _, basket in positives.group_by("basket_id", maintain_order=True):
        basket_id, store, week, time = basket.select("basket_id", "store_id", "week", "timestamp").row(0)
        draw.at(time)
        taken = set(basket["product_id"].to_list())
        start = len(chosen)
        for department in basket["department"]:
            new = draw.take(rng, pools[store, week, department], taken, _PER_POSITIVE)
            taken.update(new)
            if len(new) < _PER_POSITIVE:
                new += draw.take(rng, stores[store, week], taken, _PER_POSITIVE - len(new))
                taken.update(new)
            chosen += new
        baskets += [basket_id] * (len(chosen) - start)
    return pl.DataFrame({"basket_id": baskets, "product_id": chosen})


def _pools(promoted: pl.DataFrame, keys: list[str]) -> dict[tuple[object, ...], Ids]:
    """The products of every group, in the order in which they come."""
    groups = promoted.group_by(keys, maintain_order=True).agg("product_id")
    return {tuple(key): np.array(ids, np.int64) for *key, ids in groups.iter_rows()}
