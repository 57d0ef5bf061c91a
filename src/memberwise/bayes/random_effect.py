"""One random-effect block: the small posteriors of every member, or item, or member and type."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from memberwise.bayes.entity_kernels import score_entities, solve_entities
from memberwise.bayes.entity_records import (
    count_features,
    list_features,
    recall_entities,
    store_entities,
)
from memberwise.bayes.entity_store import EntityStore
from memberwise.bayes.grouped_rows import GroupedRows
from memberwise.bayes.likelihood import FloatArray
from memberwise.errors import ConfigError

IntArray = npt.NDArray[np.int64]
_CHUNK = 4_000_000  # packed precision numbers handled at once: 32 MB a copy


@dataclass(frozen=True, kw_only=True)
class RandomEffect:
    r"""A block of effects ``z'b_e``, one coefficient vector per entity, ``b_e ~ N(0, diag(tau^2))``.

    Parameters
    ----------
    name : str
        Name of the block, e.g. "member".
    group : str, optional
        Column of ids when the data is a frame; ``name`` by default.
    columns : tuple of str
        Columns of the frame that the effect multiplies.
    intercept : bool
        Whether each entity has a constant.
    variance : float
        Prior variance tau^2 of every coefficient, or its start when it is learnt.
    learn_variance : bool
        Estimate tau^2 of each column by empirical Bayes in `fit`.
    prior : {"gaussian", "dirichlet_process"}
        A nonparametric prior is possible for a block that is an intercept only.
    covariance : {"full", "diagonal"}
        What is stored per entity.
    forgetting : float
        Forgetting factor per step; silent entities are forgotten lazily, when next seen.
    """

    name: str
    group: str | None = None
    columns: tuple[str, ...] = ()
    intercept: bool = True
    variance: float = 1.0
    learn_variance: bool = True
    prior: str = "gaussian"
    covariance: str = "full"
    forgetting: float = 1.0

    def __post_init__(self) -> None:
        if not (self.variance > 0 and 0 <= self.forgetting <= 1):
            raise ConfigError(f"effect {self.name!r}: variance must be positive, forgetting in [0, 1]")
        if self.covariance not in ("full", "diagonal"):
            raise ConfigError(f"effect {self.name!r}: covariance must be full or diagonal")
        if self.prior not in ("gaussian", "dirichlet_process"):
            raise ConfigError(f"effect {self.name!r}: prior must be gaussian or dirichlet_process")


@dataclass
class Plan:
    """Where the coefficients of a batch's entities stand, and what is known of them.

    Parameters
    ----------
    rows : GroupedRows
        The batch.
    slots : int64 [E]
        Slot of each entity in the store, -1 if it is new.
    size, mean_at, pack_at : int64 [E]
        Its record when the plan was made: coefficients, and where they start.
    coef_ptr : int64 [E + 1]
        Its coefficients in the batch, known ones first.
    feature : int32 [sum of d_e]
        Column of each coefficient, -1 for the constant.
    kept : float64 [E]
        What forgetting has left of its record.
    site_mean, site_precision : float64 [E], optional
        A prior of its own for each entity.
    """

    rows: GroupedRows
    slots: IntArray
    size: IntArray
    mean_at: IntArray
    pack_at: IntArray
    coef_ptr: IntArray
    feature: npt.NDArray[np.int32]
    kept: FloatArray
    site_mean: FloatArray | None = field(default=None)
    site_precision: FloatArray | None = field(default=None)

    def chunks(self) -> Iterator[tuple[int, int, IntArray]]:
        """Yield ranges of entities whose precisions fit into a bounded buffer, with their pointers."""
        d = np.diff(self.coef_ptr)
        packed = np.concatenate([[0], np.cumsum(d * (d + 1) // 2)])
        lo = 0
        while lo < self.slots.size:
            hi = max(lo + 1, int(np.searchsorted(packed, packed[lo] + _CHUNK, side="right")) - 1)
            yield lo, hi, packed - packed[lo]
            lo = hi


@dataclass
class EffectState:
    """The block's store, its prior, and the operations that a sweep needs.

    Parameters
    ----------
    effect : RandomEffect
        What was asked for.
    store : EntityStore
        Posterior of each entity.
    variance : float64 [p]
        Prior variance of each column.
    constant_variance : float
        Prior variance of the constant.
    sparse : bool
        Whether entities hold only the columns they have shown (CSR designs) or all of them.
    n_threads : int
        Threads over which kernels are split.
    n_failed : int
        Entities whose last solve failed.
    """

    effect: RandomEffect
    store: EntityStore
    variance: FloatArray
    constant_variance: float
    sparse: bool = False
    n_threads: int = 1
    n_failed: int = 0

    def plan(self, rows: GroupedRows, step: int) -> Plan:
        """Match a batch with the store: slots, features old and new, and how much is forgotten."""
        slots = self.store.find(rows.ids)
        known = slots >= 0
        record = [np.where(known, self._stored(name, slots), 0) for name in ("dim", "mean_at", "pack_at")]
        size, at, pack_at = (part.astype(np.int64) for part in record)
        silent = np.where(known, step - self._stored("last_step", slots), 0)
        kept = np.power(self.effect.forgetting, np.maximum(silent, 0)).astype(float)
        coef_ptr, feature = self._features(rows, size, at)
        return Plan(rows, slots, size, at, pack_at, coef_ptr, feature, kept)

    def _stored(self, name: str, slots: IntArray) -> npt.NDArray[Any]:
        data = getattr(self.store, name).data
        return data[np.maximum(slots, 0)] if data.size else np.zeros_like(slots)

    def _features(
        self, rows: GroupedRows, size: IntArray, at: IntArray
    ) -> tuple[IntArray, npt.NDArray[np.int32]]:
        """Return coefficient pointers and the column of each coefficient."""
        constant = self.effect.intercept
        if not scipy.sparse.issparse(rows.design):
            one = np.arange(-1 if constant else 0, rows.n_columns, dtype=np.int32)
            coef_ptr = np.arange(rows.n_entities + 1, dtype=np.int64) * one.size
            return coef_ptr, np.tile(one, rows.n_entities)
        _, indptr, indices, _, p = rows.arrays()
        coef_ptr = np.empty(rows.n_entities + 1, np.int64)
        known = (self.store.feature.data, at, size)
        same = (rows.row_ptr, rows.order, indptr, indices, p, constant, *known, coef_ptr)
        count_features(*same)
        feature = np.empty(coef_ptr[-1], np.int32)
        list_features(*same, feature)
        return coef_ptr, feature

    def recall(self, plan: Plan, lo: int, hi: int, pack_ptr: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return prior means (all of the plan's, filled for lo .. hi) and packed precisions of a chunk."""
        mean = np.empty(plan.coef_ptr[-1])
        precision = np.empty(pack_ptr[hi])
        if plan.site_mean is not None and plan.site_precision is not None:
            mean[:], precision[:] = plan.site_mean, plan.site_precision[lo:hi]
            return mean, precision
        s, floor, centre = self.store, 1.0 / self.variance, np.zeros_like(self.variance)
        self._spread(
            recall_entities, lo, hi, plan, plan.coef_ptr, plan.feature, pack_ptr,
            plan.size, plan.mean_at, plan.pack_at, s.mean.data, s.pack.data, s.full,
            plan.kept, floor, centre, 1.0 / self.constant_variance, mean, precision,
        )  # fmt: skip
        return mean, precision

    def scores(self, plan: Plan, *, variance: bool = False) -> tuple[FloatArray, FloatArray]:
        """Return each row's score ``z'b`` at the prior mean, [n], and its variance, [n] or empty."""
        n = plan.rows.order.size
        score, spread = np.zeros(n), np.zeros(n if variance else 0)
        for lo, hi, pack_ptr in plan.chunks():
            mean, precision = self.recall(plan, lo, hi, pack_ptr)
            self._spread(
                score_entities, lo, hi, plan, plan.rows.row_ptr, plan.rows.order, *plan.rows.arrays(),
                plan.coef_ptr, plan.feature, pack_ptr, mean, precision, score, spread,
            )  # fmt: skip
        return score, spread

    def means(self, plan: Plan) -> FloatArray:
        """Return the prior means of every coefficient of the plan."""
        mean = np.empty(plan.coef_ptr[-1])
        for lo, hi, pack_ptr in plan.chunks():
            part, _ = self.recall(plan, lo, hi, pack_ptr)
            mean[plan.coef_ptr[lo] : plan.coef_ptr[hi]] = part[plan.coef_ptr[lo] : plan.coef_ptr[hi]]
        return mean

    def solve(
        self, plan: Plan, y: FloatArray, weights: FloatArray, offset: FloatArray, mean: FloatArray, *,
        step: int | None, tol: float, max_iter: int,
    ) -> tuple[FloatArray, FloatArray]:  # fmt: skip
        """Fit every entity of the batch; ``mean`` is the start and is overwritten with the modes.

        Parameters
        ----------
        plan : Plan
            The batch.
        y, weights, offset : float64 [n]
            Labels, case weights, and the score of all other blocks.
        mean : float64 [sum of d_e]
            Coefficients.
        step : int or None
            When given, the posteriors are written to the store as of this step.
        tol, max_iter
            Decrease in nats that may be left before the last step, largest number of Newton steps.

        Returns
        -------
        score : float64 [n]
            ``z'b`` at the new coefficients.
        variance : float64 [sum of d_e]
            Posterior variance of each coefficient.
        """
        rows, self.n_failed = plan.rows, 0
        score, variance = np.zeros(rows.order.size), np.empty(mean.size)
        slots = plan.slots
        if step is not None:
            slots = self.store.make_room(rows.ids, plan.slots, np.diff(plan.coef_ptr))
        status = np.zeros(plan.slots.size, np.int8)
        for lo, hi, pack_ptr in plan.chunks():
            before, prior = self.recall(plan, lo, hi, pack_ptr)
            posterior = np.empty_like(prior)
            self._spread(
                solve_entities, lo, hi, plan, rows.row_ptr, rows.order, *rows.arrays(), y, weights, offset,
                plan.coef_ptr, plan.feature, pack_ptr, before, prior, mean, posterior, variance, score,
                status, max_iter, tol,
            )  # fmt: skip
            if step is not None:
                store = self.store
                self._spread(
                    store_entities, lo, hi, plan, plan.coef_ptr, plan.feature, pack_ptr, mean, posterior,
                    variance, store.full, store.mean_at.data[slots], store.pack_at.data[slots],
                    store.feature.data, store.mean.data, store.pack.data,
                )  # fmt: skip
        self.n_failed = int(np.count_nonzero(status))
        if step is not None:
            left = (plan.slots >= 0) & (plan.mean_at != self.store.mean_at.data[slots])
            self.store.erase(plan.mean_at[left], plan.pack_at[left], plan.size[left])
            self.store.last_step.data[slots] = step
            np.add.at(self.store.n_rows.data, slots, np.diff(rows.row_ptr))
        return score, variance

    def learn_variance(self, plan: Plan, mean: FloatArray, variance: FloatArray) -> float:
        r"""Move the prior variances one step towards maximum marginal likelihood; return the largest change.

        .. math:: \tau_j^2 \leftarrow \frac{\sum_e b_{ej}^2}{\sum_e (1 - V_{ej} / \tau_j^2)}

        over the entities that have column j [1]_. The denominator counts the coefficients that the data
        determine. A step changes a variance at most fourfold; the change returned is in logarithms.

        References
        ----------
        .. [1] D. MacKay, "Bayesian interpolation" (1992), section 4.2.
        """
        largest = 0.0
        columns = np.append(self.variance, self.constant_variance)
        feature = np.where(plan.feature < 0, self.variance.size, plan.feature)
        p = columns.size
        squares = np.bincount(feature, weights=mean**2, minlength=p)
        determined = np.bincount(feature, weights=1.0 - variance / columns[feature], minlength=p)
        present = np.bincount(feature, minlength=p) > 1
        target = squares[present] / np.maximum(determined[present], 1e-10)
        new = np.clip(target, columns[present] / 4, columns[present] * 4)
        new = np.maximum(new, 1e-6)
        if new.size:
            largest = float(np.abs(np.log(new / columns[present])).max())
        columns[present] = new
        self.variance, self.constant_variance = columns[:-1], float(columns[-1])
        return largest

    def _spread(self, kernel: Any, lo: int, hi: int, plan: Plan, *arguments: Any) -> None:
        """Run a kernel on lo .. hi-1, split over threads by the number of rows."""
        if self.n_threads <= 1 or hi - lo < 2:
            kernel(lo, hi, *arguments)
            return
        rows = plan.rows.row_ptr[lo : hi + 1]
        cuts = np.searchsorted(rows, np.linspace(rows[0], rows[-1], self.n_threads + 1)[1:-1]) + lo
        ends = np.unique(np.concatenate([[lo], cuts, [hi]])).tolist()
        with ThreadPoolExecutor(self.n_threads) as pool:
            list(pool.map(lambda a, b: kernel(a, b, *arguments), ends[:-1], ends[1:]))
