"""Block coordinate descent: each block is solved with the scores of all others as its offset."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from memberwise.bayes.design import Design
from memberwise.bayes.laplace import DENSE_LIMIT, absorb_at
from memberwise.bayes.likelihood import BernoulliLikelihood, FloatArray
from memberwise.bayes.objective import Objective
from memberwise.bayes.posterior import GaussianPosterior
from memberwise.bayes.random_effect import Plan
from memberwise.bayes.site_prior import nonparametric_sites
from memberwise.bayes.solver import cholesky_direction, conjugate_gradient_direction, minimise

if TYPE_CHECKING:
    from memberwise.bayes.mixed import MixedEffectsLogisticRegression


class BlockDescent:
    """One increment in flight: coefficients and scores of every block, nothing yet written.

    Parameters
    ----------
    model : MixedEffectsLogisticRegression
        Whose blocks learn.
    features : array or CSR [n, p]
        Of the fixed effect.
    y, weights, offset : float64 [n]
        Labels, case weights, known parts of the logit.
    prior : GaussianPosterior
        Of the fixed effect.
    plans : dict of Plan
        The batch as each random effect sees it.
    frozen : collection of str
        Blocks that do not learn.
    """

    def __init__(
        self, model: MixedEffectsLogisticRegression, features: Any, y: FloatArray, weights: FloatArray,
        offset: FloatArray, prior: GaussianPosterior, plans: dict[str, Plan], frozen: Collection[str],
    ) -> None:  # fmt: skip
        self.model, self.y, self.weights, self.offset = model, y, weights, offset
        self.prior, self.plans, self.frozen = prior, plans, frozen
        self.design = Design(features, model.fit_intercept)
        self.w = prior.mean
        self.scores = {"fixed": self.design.dot(self.w)}
        self.means = {}
        for name, plan in plans.items():
            self.means[name] = model.states_[name].means(plan)
            known = bool((plan.slots >= 0).any())
            self.scores[name] = model.states_[name].scores(plan)[0] if known else np.zeros(y.size)

    def eta(self) -> FloatArray:
        """The logit of each row, [n]."""
        return self.offset + np.sum(list(self.scores.values()), axis=0)

    def explore(self, max_sweeps: int, tol: float) -> tuple[bool, int]:
        """Sweep without writing until the logits stand still; learn variances on the way."""
        before = self.eta()
        for count in range(1, max_sweeps + 1):
            self._fixed()
            moved = 0.0
            for name in self._learning():
                moved = max(moved, self._effect(name, None))
            after = self.eta()
            change = float(np.sqrt(np.mean((after - before) ** 2)))
            before = after
            if (change < tol and moved < 10 * tol) or not self.plans:
                return True, count
        return False, max_sweeps

    def commit(self, step: int, batch: str | None) -> bool:
        """Sweep once more and write every posterior; False, and nothing written, if the fixed solve fails."""
        fixed = self.model.fixed_
        if "fixed" not in self.frozen and not self._fixed():
            return False
        for name in self._learning():
            self._effect(name, step)
        if "fixed" in self.frozen:
            fixed.posterior_ = fixed.posterior_.record(batch)
            return True
        objective = self._objective()
        fixed.posterior_ = absorb_at(objective, objective.at(self.w), batch=batch)
        fixed.n_steps_ += 1
        return True

    def _learning(self) -> Iterator[str]:
        return (name for name in self.plans if name not in self.frozen)

    def _objective(self) -> Objective:
        others = self.eta() - self.scores["fixed"]
        return Objective(BernoulliLikelihood(), self.design, self.y, self.weights, others, self.prior)

    def _fixed(self) -> bool:
        """Solve the fixed effect given the others."""
        if "fixed" in self.frozen:
            return True
        direct = self.design.size <= DENSE_LIMIT
        solution = minimise(
            self._objective(), self.w, tol=1e-10 if direct else 1e-6, max_iter=self.model.max_iter,
            direction=cholesky_direction if direct else conjugate_gradient_direction,
        )  # fmt: skip
        self.w = solution.point.w
        self.scores["fixed"] = self.design.dot(self.w)
        return solution.converged

    def _effect(self, name: str, step: int | None) -> float:
        """Solve one block given the others; return how far its prior variances moved."""
        state, plan = self.model.states_[name], self.plans[name]
        others = self.eta() - self.scores[name]
        self.scores[name], variance = state.solve(
            plan, self.y, self.weights, others, self.means[name],
            step=step, tol=self.model.tol, max_iter=self.model.max_iter,
        )  # fmt: skip
        if step is not None or not state.effect.learn_variance:
            return 0.0
        if state.effect.prior == "dirichlet_process":
            nonparametric_sites(state, plan, self.means[name], variance)
            return 0.0
        return state.learn_variance(plan, self.means[name], variance)
