"""Gene expression in colon tissue: which genes differ between tumour and normal, and how sure is that?

Fits an empirical-Bayes prior to 2,000 z-values of Alon et al.'s arrays (40 tumour, 22 normal; bundled), draws
the z-values with the fitted prior, lists the surest genes, and compares two classifiers.

    python examples/gene_expression.py [--out runs/gene_expression]
"""

from __future__ import annotations

import argparse
from importlib.resources import as_file, files
from pathlib import Path

import matplotlib as mpl
import numpy as np
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score

from memberwise.bayes import EmpiricalBayesClassifier, SparseMeans
from memberwise.bayes.two_sample import compare, empirical_null
from memberwise.ranking.progress import ProgressBar


def load() -> tuple[np.ndarray, np.ndarray]:
    """Return logged expression [62, 2000], standardised array by array, and labels 't' or 'n'."""
    with as_file(files("memberwise.bayes") / "data" / "alon.npz") as path, np.load(path) as data:
        X, y = data["X"].astype(float), data["y"]
    X = np.log2(np.clip(X, 100, 16_000)) if X.max() > 100 else X
    return (X - X.mean(axis=1, keepdims=True)) / X.std(axis=1, keepdims=True), y


def draw(z: np.ndarray, model: SparseMeans, path: Path) -> None:
    """Draw z-values, the marginal density under the fitted prior, its atoms, and the shrinkage."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    grid = np.linspace(z.min() - 1, z.max() + 1, 400)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    left.hist(z, bins=60, density=True, color="#d0d7de", label="z-values of 2,000 genes")
    left.plot(
        grid, np.exp(model.prior_.log_marginal(grid)), color="#0969da", label="density under the fitted prior"
    )
    shown = model.prior_.weights > 1e-3
    left.vlines(
        model.prior_.means[shown], 0, model.prior_.weights[shown] * 0.3,
        color="#cf222e", lw=2, label="fitted prior (weights, scaled)",
    )  # fmt: skip
    left.set(xlabel="z", ylabel="density", title="z-values and the prior that they share")
    left.legend(frameon=False)
    right.plot(grid, grid, color="#d0d7de", label="no shrinkage")
    right.plot(grid, model.posterior_mean(grid), color="#0969da", label="posterior mean")
    right.plot(grid, model.false_sign_rate(grid), color="#cf222e", label="probability of a wrong sign")
    right.set(xlabel="z", title="What one z-value tells")
    right.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Fit, draw, list, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, default=Path("runs/gene_expression"))
    out = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)

    X, y = load()
    two = compare(X, y == "t")
    centre, spread = empirical_null(two.z)
    print(
        f"{X.shape[1]:,} genes; middle half of z: centre {centre:+.2f}, spread {spread:.2f} (independent: 1)"
    )

    # Correlated genes widen the null: z in units of its own spread is what the prior should explain.
    z = two.z / spread
    with ProgressBar() as bar:
        model = SparseMeans().fit(z, progress=bar.stage)
    draw(z, model, out / "z_values.svg")
    print(f"fitted prior: {model.prior_.null_weight:.0%} of genes make no difference; {out / 'z_values.svg'}")

    rate = model.false_sign_rate(z)
    print("\nsurest genes   z    estimate   wrong sign")
    for gene in np.argsort(rate, kind="stable")[:8]:
        print(f"{gene:10d} {z[gene]:+6.2f} {model.posterior_mean(z[[gene]])[0]:+9.2f}   {rate[gene]:.1e}")

    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=4, random_state=0)
    print("\nerror in 5-fold cross-validation, four repeats")
    for covariance in ("independent", "shrinkage", "auto"):
        classifier = EmpiricalBayesClassifier(covariance=covariance)
        errors = 1.0 - cross_val_score(classifier, X, y, cv=folds)
        print(f"{covariance:>12}  {errors.mean():.1%}")


if __name__ == "__main__":
    main()
