"""MovieTweetings: ratings that people tweeted; small, real, and bundled."""

from __future__ import annotations

from pathlib import Path

from memberwise.data.datasets._base import Dataset, verified

_FOLDER = Path(__file__).parent / "movietweetings"
_SHA256 = {
    "ratings": "832c084a0a62d6f47ca0cdd0e17825d82d9b2785d8d7609246f3bb12c7502fba",
    "movies": "27a5e1614bd7ba73c06ce0623947121c341d84b3f9aab76d7fd13144ca6fe25c",
}


def movietweetings() -> Dataset:
    """100,000 film ratings of 16,554 people for 10,506 films, March to August 2013.

    ``ratings``: ``user_id``, ``movie_id``, ``rating`` (0 to 10), ``timestamp`` (UTC); ``rating >= 8`` is half
    of the rows. ``movies``: ``movie_id``, ``title``, ``genres`` (a list), ``year``.

    Collected by Simon Dooms, MIT licence; the licence and the reference to cite lie beside the files.

    Returns
    -------
    Dataset
        With the files ``ratings`` and ``movies``.

    Raises
    ------
    DataError
        If a bundled file is missing or damaged.

    Examples
    --------
    >>> import polars as pl
    >>> pl.read_parquet(movietweetings().files["ratings"])["user_id"].n_unique()
    16554
    """
    return Dataset(
        name="MovieTweetings",
        description="100,000 film ratings that 16,554 people tweeted, 2013-02-28 to 2013-09-01",
        licence="MIT",
        files={name: verified(_FOLDER / f"{name}.parquet", sha256) for name, sha256 in _SHA256.items()},
    )
