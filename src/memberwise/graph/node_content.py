"""What the schema says of nodes beside their edges: content vectors, and numeric columns of their table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.entities import EntityEmbeddings
from memberwise.data.files import need_columns
from memberwise.data.frame import EntityTable
from memberwise.data.hashing import as_text, hash_values
from memberwise.errors import DataError
from memberwise.schema import Numeric, Schema, Vector


def content_of(
    schema: Schema,
    tables: Mapping[str, EntityTable],
    base: Path | None,
    entity: str,
    ids: pl.Series,
    before: np.int64,
) -> npt.NDArray[np.float32] | None:
    """Vectors that the schema gives for an entity, side by side. [n, d]

    Raises
    ------
    DataError
        If their cut-off is after `before`.
    """
    parts = []
    hashes = hash_values(ids)
    for feature in schema.features:
        if not isinstance(feature, Vector) or feature.entity != entity:
            continue
        made = _embeddings(feature, tables, base)
        if made is None:
            continue
        if made.cutoff > before:
            raise DataError(
                "the vectors have seen events that the graph must not know",
                where=f"vector of {entity}",
                fix="use vectors whose cut-off is not after that of the graph; in a fit, not after "
                "the share 'graph.learn' of train",
            )
        parts.append(made.gather(made.rows(hashes)))
    return np.concatenate(parts, axis=1) if parts else None


def numeric_of(
    schema: Schema, entity: str, table: EntityTable, ids: pl.Series
) -> npt.NDArray[np.float32] | None:
    """Numeric columns of an entity's table, standardised; missing is 0, and a column that says so. [n, 2d]"""
    rows = table.rows(hash_values(ids))
    columns = []
    for feature in schema.features:
        if isinstance(feature, Numeric) and feature.column.startswith(f"{entity}."):
            values = table.numbers(feature.column.partition(".")[2], rows)
            known = ~np.isnan(values)
            mean, spread = (np.mean(values[known]), np.std(values[known])) if known.any() else (0.0, 1.0)
            columns += [np.where(known, (values - mean) / (spread if spread > 0 else 1.0), 0.0), ~known]
    return np.stack(columns, axis=1).astype(np.float32) if columns else None


def _embeddings(
    feature: Vector, tables: Mapping[str, EntityTable], base: Path | None
) -> EntityEmbeddings | None:
    """Vectors of a feature that come from outside; None for those that the project itself makes."""
    if feature.entity is None:
        return None
    if feature.column is not None:
        table = tables[feature.entity]
        need_columns(table.table.columns, [feature.column], where=f"the table of entity '{feature.entity}'")
        lists = table.table[feature.column]
        return EntityEmbeddings.from_column(feature.entity, as_text(table.ids), lists, feature.column)
    if feature.path is not None:
        return EntityEmbeddings.read(feature.path if base is None else base / feature.path)
    return None
