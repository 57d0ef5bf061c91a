"""The variational mixture against its bound and brute force; the NPMLE by certificate; shards; bad input."""

import io
import subprocess
from itertools import pairwise
from shutil import which

import numpy as np
import pytest
from rich.console import Console
from scipy.integrate import quad
from scipy.special import betaln, psi, softmax, xlogy
from scipy.stats import norm
from sklearn.base import clone

from memberwise.bayes import InputError, MixturePrior, SparseMeans
from memberwise.bayes.dirichlet_mixture import (
    BaseMeasure,
    data_constant,
    grid_start,
    lower_bound,
    update_base,
    update_clusters,
    update_responsibilities,
)
from memberwise.bayes.mixture_kernels import exponentials
from memberwise.bayes.normal_means import Points, summarise
from memberwise.bayes.npmle import _quadratic_step, npmle
from memberwise.bayes.progress import Converging
from memberwise.errors import BundleError, ConfigError
from memberwise.ranking.progress import ProgressBar


def observations(p=3000, s=60, size=4.0, seed=0):
    theta = np.where(np.arange(p) < s, size, 0.0)
    return theta, theta + np.random.default_rng(seed).standard_normal(p)


def raw_points(x, noise=1.0):
    return Points(x, np.broadcast_to(np.asarray(noise, float), x.shape).copy(), np.ones(x.size))


def explicit_bound(x, noise, phi, clusters, base):
    """The evidence lower bound written out term by term, for any responsibilities."""
    T = phi.shape[1]
    a, b, p, m, v = (
        clusters.stick_one, clusters.stick_two, clusters.null, clusters.mean, clusters.variance,
    )  # fmt: skip
    log_v, log_rest = psi(a) - psi(a + b), psi(b) - psi(a + b)
    log_pi = np.zeros(T)
    log_pi[:-1] += log_v
    log_pi[1:] += np.cumsum(log_rest)
    square = x[:, None] ** 2 - 2 * x[:, None] * (1 - p) * m + (1 - p) * (m**2 + v)
    r = noise[:, None] ** -2.0
    total = (phi * (log_pi - 0.5 * np.log(2 * np.pi / r) - 0.5 * r * square)).sum() - xlogy(phi, phi).sum()
    alpha, w, slab = base.concentration, base.null_weight, base.slab_variance
    total += (np.log(alpha) + (alpha - 1) * log_rest).sum()
    total -= (-betaln(a, b) + (a - 1) * log_v + (b - 1) * log_rest).sum()
    kl = 0.5 * (v / slab + m**2 / slab - 1 - np.log(v / slab))
    return total - (xlogy(p, p / w) + xlogy(1 - p, (1 - p) / (1 - w)) + (1 - p) * kl).sum()


@pytest.mark.parametrize("learn", [(), ("concentration", "null_weight", "slab_scale")])
@pytest.mark.parametrize("unequal", [False, True])
def test_no_block_update_ever_lowers_the_bound(learn, unequal):
    rng = np.random.default_rng(0)
    _, x = observations(p=400, s=40, size=3.0)
    noise = rng.uniform(0.5, 2.0, 400) if unequal else np.ones(400)
    shards, base = [raw_points(x, noise)], BaseMeasure(1.0, 0.5, 9.0)
    phi = rng.dirichlet(np.ones(6), 400)
    previous = -np.inf
    for _ in range(40):
        r = noise**-2.0
        statistics = type(grid_start(shards, np.zeros(6)))(phi.sum(0), phi.T @ r, phi.T @ (r * x))
        clusters = update_clusters(statistics, base)
        bounds = [explicit_bound(x, noise, phi, clusters, base)]
        base = update_base(clusters, base, learn)
        bounds.append(explicit_bound(x, noise, phi, clusters, base))
        slope, level, constant = clusters.scores()
        phi = softmax(r[:, None] * (x[:, None] * slope - level) + constant, axis=1)
        bounds.append(explicit_bound(x, noise, phi, clusters, base))
        shortcut = lower_bound(
            clusters, update_responsibilities(clusters, shards), base, data_constant(shards)
        )
        assert shortcut == pytest.approx(bounds[-1], abs=1e-7)
        for bound in bounds:
            assert bound >= previous - 1e-9 * abs(bound)
            previous = bound


def test_the_exposed_bound_is_monotone():
    _, x = observations()
    model = SparseMeans(learn=("concentration", "null_weight"), tol=1e-9).fit(x)
    assert (np.diff(model.lower_bounds_) >= -1e-7).all()
    assert model.lower_bound_ == model.lower_bounds_[-1]


def test_the_kernel_equals_the_plain_softmax():
    rng = np.random.default_rng(1)
    x, noise, count = (
        rng.normal(0, 3, 1000),
        rng.uniform(0.3, 2, 1000),
        rng.integers(1, 5, 1000).astype(float),
    )
    shards = [Points(x, noise, count)]
    clusters = update_clusters(grid_start(shards, np.linspace(-6, 6, 7)), BaseMeasure(1.0, 0.3, 4.0))
    slope, level, constant = clusters.scores()
    r = noise**-2.0
    phi = softmax(r[:, None] * (x[:, None] * slope - level) + constant, axis=1) * count[:, None]
    found = update_responsibilities(clusters, shards)
    np.testing.assert_allclose(found.N, phi.sum(0), rtol=1e-11)
    np.testing.assert_allclose(found.B, phi.T @ r, rtol=1e-11)
    np.testing.assert_allclose(found.A, phi.T @ (r * x), rtol=1e-9, atol=1e-9)


def test_the_written_out_exponential_is_exact():
    values = np.linspace(-700, 0, 20_001)
    found = values.copy()
    exponentials(found)
    np.testing.assert_allclose(found, np.exp(values), rtol=1e-12)


def test_large_observations_do_not_overflow():
    _, x = observations()
    x[:3] = [500.0, -900.0, 4000.0]
    model = SparseMeans().fit(x)
    np.testing.assert_allclose(model.posterior_mean(x)[:3], x[:3], rtol=0.02)


@pytest.mark.parametrize("unequal", [False, True])
def test_shards_give_the_answer_of_one_pass(unequal):
    theta, x = observations(p=60_000, s=900)
    noise = np.random.default_rng(3).uniform(0.5, 1.5, x.size) if unequal else np.ones(x.size)
    x = theta + noise * (x - theta)
    whole = SparseMeans(max_iter=40, tol=0.0).fit(x, noise)
    cuts = np.split(np.arange(x.size), [100, 17_000, 17_001, 44_000])
    parts = SparseMeans(max_iter=40, tol=0.0).fit_shards((x[i], noise[i]) for i in cuts)
    np.testing.assert_allclose(parts.posterior_mean(x, noise), whole.posterior_mean(x, noise), atol=1e-9)
    np.testing.assert_allclose(parts.lower_bounds_, whole.lower_bounds_, rtol=1e-12)


def test_binning_changes_nothing_that_matters(monkeypatch):
    _, x = observations(p=19_000, s=300)
    exact = SparseMeans(max_iter=60, tol=0.0).fit(x)
    monkeypatch.setattr("memberwise.bayes.normal_means.RAW_LIMIT", 100)
    binned = SparseMeans(max_iter=60, tol=0.0).fit(x)
    assert len(summarise([x])[0].x) < 3000
    np.testing.assert_allclose(binned.posterior_mean(x), exact.posterior_mean(x), atol=2e-3)


def test_a_count_of_two_is_the_observation_twice():
    _, x = observations(p=500)
    counts = np.random.default_rng(0).integers(1, 4, 500).astype(float)
    once = npmle(Points(x, np.ones(500), counts), n_grid=120)[0]
    many = npmle(raw_points(np.repeat(x, counts.astype(int))), n_grid=120)[0]
    np.testing.assert_allclose(once.posterior_mean(x), many.posterior_mean(x), atol=1e-3)


def test_order_does_not_matter_and_units_are_respected():
    _, x = observations()
    reference = SparseMeans().fit(x).posterior_mean(x)
    np.testing.assert_allclose(SparseMeans().fit(x[::-1]).posterior_mean(x), reference, atol=1e-9)
    scaled = SparseMeans().fit(7.0 * x, 7.0)
    np.testing.assert_allclose(scaled.posterior_mean(7.0 * x, 7.0) / 7.0, reference, atol=1e-6)


def test_the_npmle_carries_a_certificate_of_optimality():
    _, x = observations()
    prior, gap = npmle(raw_points(x), n_grid=300, tol=1e-7)
    assert gap < 1e-7
    grid = np.linspace(x.min(), x.max(), 300)
    density = norm.pdf(x[:, None] - prior.means) @ prior.weights
    gradient = (norm.pdf(x[:, None] - grid) / density[:, None]).mean(axis=0) - 1.0
    assert gradient.max() < 1e-6
    assert prior.weights.sum() == pytest.approx(1.0)


def test_a_step_from_a_prior_that_hardly_reaches_an_observation_stays_on_the_simplex():
    x = np.append(np.random.default_rng(0).standard_normal(500), 7.0)
    grid = np.append(np.linspace(-0.5, 0.5, 30), 7.0)
    columns = np.exp(-0.5 * (x[:, None] - grid) ** 2)
    start = np.append(np.full(30, 1 / 30), 0.0)
    weights = _quadratic_step(columns, np.full(501, 1 / 501), start)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1.0)
    assert weights[-1] > 0


@pytest.mark.slow
def test_the_npmle_equals_mixsqp(tmp_path):
    if which("Rscript") is None:
        pytest.skip("R is not installed")
    _, x = observations(p=500)
    np.savetxt(tmp_path / "x", x)
    script = f"""
      if (!requireNamespace("mixsqp", quietly=TRUE)) quit(status=7)
      x <- scan("{tmp_path}/x", quiet=TRUE); g <- seq(min(x), max(x), length.out=120)
      L <- outer(x, g, function(a, b) dnorm(a - b))
      cat(mean(log(L %*% mixsqp::mixsqp(L, control=list(verbose=FALSE))$x)))"""
    result = subprocess.run(["Rscript", "-e", script], capture_output=True, text=True, check=False)
    if result.returncode == 7:
        pytest.skip("mixsqp is not installed")
    ours = npmle(raw_points(x), n_grid=120)[0].log_marginal(x).mean()
    assert ours >= float(result.stdout) - 1e-6


def test_the_authors_start_is_kept_for_replication_and_the_grid_repairs_it():
    theta, x = observations(p=10_000, s=50)
    published = SparseMeans(init="uniform", prior="hard", min_iter=1, tol=1e-3).fit(x)
    assert np.abs(published.posterior_mean(x)).max() < 0.5
    repaired = SparseMeans().fit(x)
    assert ((repaired.posterior_mean(x) - theta) ** 2).sum() < 0.4 * (theta**2).sum()


@pytest.mark.parametrize(("s", "size", "sheet"), [(50, 4, 221), (50, 7, 5), (500, 4, 991), (500, 5, 448)])
def test_the_table_of_ten_thousand_means_within_noise(s, size, sheet):
    errors = []
    for seed in range(3):
        theta, x = observations(p=10_000, s=s, size=float(size), seed=seed)
        errors.append(((SparseMeans().fit(x).posterior_mean(x) - theta) ** 2).sum())
    # three draws against the mean of eight: about 12 % for 50 signals, 5 % for 500
    assert np.mean(errors) < 1.25 * sheet + 5


def test_the_start_whose_prior_explains_the_data_best_wins():
    """Few far signals: the start from a grid finds them, the one from quantiles may have the better bound."""
    rng = np.random.default_rng([0, 5])
    theta = np.where(np.arange(10_000) < 5, 5.0, 0.0)
    x = theta + rng.standard_normal(10_000)
    alone, both = SparseMeans(n_restarts=0).fit(x), SparseMeans(n_restarts=1).fit(x)
    fits = [alone.prior_.log_marginal(x).sum(), both.prior_.log_marginal(x).sum()]
    assert fits[1] >= fits[0] - 1e-6
    assert np.sum((both.posterior_mean(x) - theta) ** 2) < 60


def test_nothing_is_found_where_there_is_nothing():
    x = np.random.default_rng(0).standard_normal(10_000)
    model = SparseMeans().fit(x)
    assert (model.posterior_mean(x) ** 2).sum() < 5.0
    assert model.prior_.null_weight > 0.99


class TestThePosteriorOfOneObservation:
    prior = MixturePrior(np.array([0.7, 0.2, 0.1]), np.array([0.0, 3.0, -2.0]), np.array([0.0, 0.5, 0.0]))

    def brute(self, x, s, f):
        """Integrate over the three components by quadrature."""
        top = bottom = 0.0
        for w, m, v in zip(self.prior.weights, self.prior.means, self.prior.variances, strict=True):
            if v == 0:
                part, value = w * norm.pdf(x, m, s), w * norm.pdf(x, m, s) * f(m)
            else:
                density = lambda t, m=m, v=v: norm.pdf(t, m, np.sqrt(v)) * norm.pdf(x, t, s)  # noqa: E731
                part = w * quad(density, -10, 10, points=[0.0, x])[0]
                value = w * quad(lambda t: density(t) * f(t), -10, 10, points=[0.0, x])[0]  # noqa: B023
            top, bottom = top + value, bottom + part
        return top / bottom

    @pytest.mark.parametrize(("x", "s"), [(0.3, 1.0), (2.5, 0.7), (-1.4, 1.6)])
    def test_every_summary_equals_quadrature(self, x, s):
        at = (np.array([x]), s)
        mean = self.brute(x, s, lambda t: t)
        assert self.prior.posterior_mean(*at)[0] == pytest.approx(mean, abs=1e-7)
        variance = self.brute(x, s, lambda t: (t - mean) ** 2)
        assert self.prior.posterior_variance(*at)[0] == pytest.approx(variance, abs=1e-7)
        null = self.brute(x, s, lambda t: float(t == 0.0))
        assert self.prior.null_probability(*at)[0] == pytest.approx(null, abs=1e-7)
        below = self.brute(x, s, lambda t: float(t <= 0.0))
        above = self.brute(x, s, lambda t: float(t >= 0.0))
        assert self.prior.false_sign_rate(*at)[0] == pytest.approx(min(below, above), abs=1e-6)

    def test_draws_have_the_posterior_moments(self):
        x = np.array([0.5, 2.0])
        draws = self.prior.sample(x, 1.0, size=60_000, seed=1)
        np.testing.assert_allclose(draws.mean(axis=0), self.prior.posterior_mean(x), atol=0.02)
        np.testing.assert_allclose(draws.var(axis=0), self.prior.posterior_variance(x), rtol=0.03)


def test_rules_agree_and_the_sparse_one_is_sparse():
    _, x = observations()
    model = SparseMeans().fit(x)
    full, sparse, variational = (model.posterior_mean(x, rule=r) for r in ("prior", "sparse", "variational"))
    assert (sparse == 0).mean() > 0.9
    np.testing.assert_array_equal(sparse[sparse != 0], full[sparse != 0])
    assert np.abs(full - variational).mean() < 0.05
    with pytest.raises(ConfigError):
        model.posterior_mean(x, rule="best")


def test_files_and_clones(tmp_path):
    _, x = observations(p=500)
    for model in (SparseMeans(learn=("null_weight",)).fit(x), SparseMeans(method="npmle").fit(x)):
        model.save(tmp_path / "model")
        back = SparseMeans.load(tmp_path / "model")
        np.testing.assert_array_equal(back.posterior_mean(x), model.posterior_mean(x))
        assert clone(model).get_params() == back.get_params()
    with pytest.raises(BundleError):
        SparseMeans.load(tmp_path / "missing")


@pytest.mark.parametrize(
    ("x", "noise", "message"),
    [
        ([], 1.0, "non-empty"),
        ([1.0, np.nan], 1.0, "finite"),
        ([1.0, 2.0], [1.0, 0.0], "positive"),
        ([1.0, 2.0], [1.0], "noise of shape"),
        (np.zeros((3, 2)), 1.0, "vector"),
    ],
)
def test_observations_that_cannot_be_used_are_refused(x, noise, message):
    with pytest.raises(InputError, match=message):
        SparseMeans().fit(x, noise)


@pytest.mark.parametrize("wrong", [{"method": "em"}, {"prior": "x"}, {"learn": ("T",)}, {"null_weight": 1.0}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError):
        SparseMeans(**wrong).fit([0.0, 1.0])


@pytest.mark.parametrize("method", ["dirichlet", "npmle"])
def test_one_observation_and_equal_observations(method):
    for x in ([3.0], [2.0, 2.0, 2.0], np.zeros(5)):
        assert np.isfinite(SparseMeans(method=method).fit(x).posterior_mean(x)).all()


@pytest.mark.parametrize("settings", [{"n_restarts": 2}, {"method": "npmle"}, {"init": "uniform"}])
def test_a_fit_tells_how_far_it_is(settings):
    rng = np.random.default_rng(1)
    x = rng.standard_normal(3000) + np.where(np.arange(3000) < 60, rng.uniform(3, 7, 3000), 0.0)
    told: list[tuple[str, int, int]] = []
    model = SparseMeans(**settings).fit(x, progress=lambda *how_far: told.append(how_far))
    done = [k for _, k, _ in told]
    runs = settings.get("n_restarts", 0) + 1
    assert {(what, of) for what, _, of in told} == {("sparse means", 100 * runs)}
    assert done[0] == 0
    assert done[-1] == 100 * runs
    assert all(b > a for a, b in pairwise(done))
    assert len(done) > 4 * runs  # it moves on the way, and not only at the ends
    assert model.prior_.weights.tobytes() == SparseMeans(**settings).fit(x).prior_.weights.tobytes()
    with ProgressBar(Console(file=io.StringIO())) as bar:
        SparseMeans(**settings).fit(x, progress=bar.stage)


def test_gains_that_shrink_by_one_factor_are_told_evenly():
    told: list[int] = []
    far = Converging(lambda what, done, of: told.append(done), "x")
    for k in range(11):
        far.gained(2.0**-k, 2.0**-10)
    far.gained(1.0, 2.0**-10)  # a gain that is larger again takes nothing back
    far.gained(0.0, 0.0)
    far.ended()
    assert told == [0, *range(10, 100, 10), 100]
