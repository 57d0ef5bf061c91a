"""Every storage of the precision against the dense matrix it stands for, and the posterior's own laws."""

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from memberwise.bayes import GaussianPosterior
from memberwise.bayes.precision import DiagonalPrecision, Factor, FullPrecision, LowRankPrecision
from memberwise.errors import BundleError, ConfigError, DataError

D = 7


def precision(form: str, seed: int = 0):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((D, D))
    if form == "full":
        return FullPrecision(root @ root.T + np.eye(D))
    base = rng.uniform(0.5, 3.0, D)
    return DiagonalPrecision(base) if form == "diagonal" else LowRankPrecision(base, root[:, :3])


def posterior(form: str, seed: int = 0) -> GaussianPosterior:
    mean = np.random.default_rng(seed + 1).standard_normal(D)
    return GaussianPosterior(tuple("abcdefg"), mean, precision(form, seed))


FORMS = pytest.mark.parametrize("form", ["full", "diagonal", "low_rank"])


@FORMS
def test_every_storage_agrees_with_its_dense_matrix(form):
    p = precision(form)
    dense, v = p.dense(), np.arange(1.0, D + 1)
    covariance = np.linalg.inv(dense)
    rows = np.random.default_rng(3).standard_normal((5, D))
    np.testing.assert_allclose(p.dot(v), dense @ v)
    np.testing.assert_allclose(p.solve(v), covariance @ v)
    np.testing.assert_allclose(p.diagonal(), np.diag(dense))
    np.testing.assert_allclose(p.variances(), np.diag(covariance))
    expected = np.einsum("nd,de,ne->n", rows, covariance, rows)
    np.testing.assert_allclose(p.row_variances(rows), expected)
    np.testing.assert_allclose(p.row_variances(scipy.sparse.csr_array(rows)), expected)


@FORMS
def test_samples_have_the_posterior_covariance(form):
    q = posterior(form)
    draws = q.sample(200_000, seed=5)
    covariance = np.linalg.inv(q.precision.dense())
    spread = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert np.abs(draws.mean(axis=0) - q.mean).max() < 0.02
    assert np.abs((np.cov(draws.T) - covariance) / spread).max() < 0.02


@FORMS
def test_penalty_gradient_is_the_derivative_of_the_penalty(form):
    q, w, h = posterior(form), np.linspace(-1, 1, D), 1e-6
    numeric = [(q.penalty(w + h * e) - q.penalty(w - h * e)) / (2 * h) for e in np.eye(D)]
    np.testing.assert_allclose(q.penalty_gradient(w), numeric, rtol=1e-6)
    assert q.penalty(q.mean) == 0.0


@FORMS
@given(delta=st.floats(0, 1), steps=st.integers(0, 6), floor=st.floats(1e-3, 1e3))
@settings(max_examples=25)
def test_lazy_forgetting_equals_forgetting_step_by_step(form, delta, steps, floor):
    slow = posterior(form)
    for _ in range(steps):
        slow = slow.forget(delta, floor, center=0.3)
    lazy = posterior(form).forget(delta, floor, center=0.3, steps=steps)
    np.testing.assert_allclose(lazy.mean, slow.mean, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(lazy.precision.dense(), slow.precision.dense(), rtol=1e-9, atol=1e-12)


@FORMS
def test_without_data_forgetting_ends_at_the_prior(form):
    end = posterior(form).forget(0.5, 2.0, center=-1.0, steps=200)
    np.testing.assert_allclose(end.mean, -1.0)
    np.testing.assert_allclose(end.precision.dense(), 2.0 * np.eye(D), atol=1e-12)


def test_forgetting_one_coefficient_leaves_the_mean_of_all():
    q = posterior("full")
    delta = np.ones(D)
    delta[2] = 0.25
    after = q.forget(delta, 1e-12)
    np.testing.assert_allclose(after.mean, q.mean, atol=1e-9)
    np.testing.assert_allclose(after.precision.dense()[2, 2], 0.25 * q.precision.dense()[2, 2])
    assert np.linalg.eigvalsh(after.precision.dense())[0] > 0


def test_a_diagonal_keeps_variances_and_not_the_diagonal_of_the_hessian():
    prior = GaussianPosterior.isotropic("ab", precision=1.0, form="diagonal")
    hessian = np.array([[10.0, 9.0], [9.0, 10.0]])
    after = prior.absorb(hessian, np.zeros(2))
    np.testing.assert_allclose(after.variances(), np.diag(np.linalg.inv(np.eye(2) + hessian)))
    assert (after.precision.diagonal() < 1.0 + np.diag(hessian)).all()


def test_low_rank_is_exact_up_to_its_rank_and_exact_on_the_diagonal_beyond():
    rng = np.random.default_rng(2)
    thin = scipy.sparse.csr_array(rng.standard_normal((3, D)))
    prior = GaussianPosterior.isotropic("abcdefg", form="low_rank", rank=3)
    exact = prior.absorb(Factor(thin), np.zeros(D))
    np.testing.assert_allclose(exact.precision.dense(), np.eye(D) + (thin.T @ thin).toarray(), atol=1e-10)
    more = exact.absorb(Factor(scipy.sparse.csr_array(rng.standard_normal((9, D)))), np.zeros(D))
    whole = exact.precision.plus(np.zeros(D)).diagonal()
    assert (more.precision.diagonal() > whole).all()
    assert np.linalg.eigvalsh(more.precision.dense())[0] >= 1.0 - 1e-9


def test_the_same_batch_is_refused_twice():
    once = posterior("full").absorb(np.ones(D), np.zeros(D), batch="2026-01-01")
    with pytest.raises(DataError, match="already absorbed"):
        once.absorb(np.ones(D), np.zeros(D), batch="2026-01-01")
    with pytest.raises(DataError, match="not finite"):
        once.absorb(np.full(D, np.nan), np.zeros(D))


@FORMS
def test_extend_adds_by_name_and_changes_nothing_that_is_known(form):
    q = posterior(form)
    wider = q.extend(["b", "new", "a"], precision=4.0, mean=0.5)
    assert wider.names == (*q.names, "new")
    np.testing.assert_allclose(wider.precision.dense()[:D, :D], q.precision.dense())
    np.testing.assert_allclose(wider.precision.dense()[D], [0.0] * D + [4.0])
    assert wider.mean[D] == 0.5
    assert q.extend(["a"]) is q


@FORMS
def test_arrow_round_trip_is_float32_in_precision_and_exact_in_mean(form):
    q = posterior(form).absorb(np.ones(D), np.linspace(0, 1, D), batch="k")
    back = GaussianPosterior.from_arrow(q.to_arrow())
    assert back.names == q.names
    assert back.batches == ("k",)
    np.testing.assert_array_equal(back.mean, q.mean)
    np.testing.assert_allclose(back.precision.dense(), q.precision.dense(), rtol=1e-6, atol=1e-6)
    assert q.to_arrow()["precision"].type == pa.float32()


def test_an_ill_conditioned_matrix_is_kept_in_float64():
    v = np.ones((D, 1))
    q = GaussianPosterior(tuple("abcdefg"), np.zeros(D), FullPrecision(1e8 * v @ v.T + np.eye(D)))
    back = GaussianPosterior.from_arrow(q.to_arrow())
    np.testing.assert_allclose(back.variances(), q.variances(), rtol=1e-6)


def test_a_foreign_or_damaged_table_is_refused():
    with pytest.raises(BundleError, match="not a posterior"):
        GaussianPosterior.from_arrow(pa.table({"name": ["a"]}))
    table = posterior("diagonal").to_arrow()
    damaged = table.set_column(2, "precision", pa.array(np.full(D, -1.0, np.float32)))
    with pytest.raises(BundleError, match="not positive"):
        GaussianPosterior.from_arrow(damaged)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: GaussianPosterior.isotropic(["a", "a"]),
        lambda: GaussianPosterior.isotropic(["a"], precision=0.0),
        lambda: GaussianPosterior.isotropic(["a"], form="sparse"),
        lambda: posterior("full").forget(1.5, 1.0),
        lambda: posterior("full").forget(0.5, -1.0),
        lambda: GaussianPosterior(("a",), np.zeros(2), DiagonalPrecision(np.ones(2))),
    ],
)
def test_impossible_posteriors_are_refused(wrong):
    with pytest.raises(ConfigError):
        wrong()


def test_upper_bound_and_probability_widen_with_uncertainty():
    sure, unsure = (GaussianPosterior.isotropic("ab", precision=p, mean=1.0) for p in (100.0, 0.1))
    rows = np.array([[1.0, 0.5]])
    assert unsure.upper_bound(rows, 2.0)[0] > sure.upper_bound(rows, 2.0)[0] > sure.predict(rows)[0][0]
    assert 0.5 < unsure.probability(rows)[0] < sure.probability(rows)[0]
