"""Open what a project names: Parquet, CSV or Arrow; files, directories, globs; local or any fsspec URL."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.dataset as ds

from memberwise.errors import DataError

_FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".arrow": "ipc",
    ".feather": "ipc",
    ".ipc": "ipc",
}

Source: TypeAlias = str | Path | Sequence[str | Path] | pl.DataFrame | pa.Table
"""What may stand for a table: paths of files, or a table in memory."""


def called(source: Source) -> str:
    """What a message calls a table: its path, or the first of several."""
    if isinstance(source, pl.DataFrame | pa.Table):
        return "the table"
    if isinstance(source, str | Path):
        return str(source)
    more = len(source) - 1
    return f"{source[0] if source else 'no file'}" + (f" and {more} more" if more > 0 else "")


def expand(paths: str | Path | Sequence[str | Path], base: Path | None = None) -> list[str]:
    """All files that the paths name, sorted within each pattern.

    Parameters
    ----------
    paths
        Files, directories (all files of a known type below them) or glob patterns.
    base
        Directory that relative local paths start from.

    Raises
    ------
    DataError
        If a path names nothing.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    files: list[str] = []
    for path in paths:
        files.extend(_expand_remote(str(path)) if "://" in str(path) else _expand_local(path, base))
    if not files:
        raise DataError("no path to a table is given", fix="name a file, a directory or a glob pattern")
    return files


def _expand_local(path: str | Path, base: Path | None) -> list[str]:
    full = Path(path).expanduser()
    if base is not None and not full.is_absolute():
        full = base / full
    if full.is_dir():
        names = sorted(p.relative_to(full) for p in full.rglob("*"))
        found = [str(full / p) for p in names if _is_data(p)]
        if not found:
            raise DataError("the directory holds no Parquet, CSV or Arrow file", where=str(full))
        return found
    if full.is_file():
        return [str(full)]
    found = sorted(glob.glob(str(full), recursive=True))
    if not found:
        start = "the project file" if base is not None else "the directory that you are in"
        raise DataError("no such file", where=str(full), fix=f"check the path; it is relative to {start}")
    return found


def _is_data(path: Path) -> bool:
    """Whether a file of a directory is a table; writers keep what is unfinished under ``_`` or ``.``."""
    return path.suffix.lower() in _FORMATS and not any(part.startswith(("_", ".")) for part in path.parts)


def _expand_remote(url: str) -> list[str]:
    try:
        fs, path = fsspec.core.url_to_fs(url)
        if fs.isdir(path):
            below = path.rstrip("/") + "/"
            names = [p for p in sorted(fs.find(path)) if _is_data(Path(p.removeprefix(below)))]
        else:
            names = sorted(fs.glob(path)) if glob.has_magic(path) else [path]
    except (ImportError, OSError, ValueError) as error:
        raise DataError(f"cannot be opened: {error}", where=url) from error
    if not names:
        raise DataError("names no file", where=url)
    return [fs.unstrip_protocol(name) for name in names]


def open_dataset(
    paths: str | Path | Sequence[str | Path],
    base: Path | None = None,
    text: Sequence[str] = (),
    columns: Sequence[str] | None = (),
) -> ds.Dataset:
    """Open files as one Arrow data set.

    Parameters
    ----------
    paths, base
        As in `expand`.
    text
        Columns that a CSV must not turn into numbers: the id ``0816692`` keeps its zero.
    columns
        Columns that will be read, None for all: the files must agree on their types.

    Raises
    ------
    DataError
        For an unknown ending, a mix of formats, a damaged file, a column name that stands twice, or a column
        that holds different kinds of values in different files.
    """
    files = expand(paths, base)
    formats = {_format(f) for f in files}
    if len(formats) > 1:
        raise DataError(f"mixes {' and '.join(sorted(formats))} files", where=called(paths))
    kind = formats.pop()
    file_format: Any = kind
    if kind == "csv":
        types = {name: pa.string() for name in text}
        file_format = ds.CsvFileFormat(convert_options=pacsv.ConvertOptions(column_types=types))
    filesystem = None
    if len({f.partition("://")[0] if "://" in f else "" for f in files}) > 1:
        raise DataError("names files in different places", where=called(paths), fix="bring them to one")
    if "://" in files[0]:
        filesystem, _ = fsspec.core.url_to_fs(files[0])
        files = [filesystem._strip_protocol(f) for f in files]
    try:
        dataset = ds.dataset(files, format=file_format, filesystem=filesystem)
    except (pa.ArrowException, OSError) as error:
        blamed, problem = _blame(files, file_format), _first_line(error)
        if "duplicate field names" in problem or "multiple columns named" in problem:
            raise DataError(
                f"a column name stands twice: {problem}", where=blamed, fix="rename one of them"
            ) from error
        raise DataError(f"cannot be read: {problem}", where=blamed) from error
    check_names(dataset.schema.names, where=files[0])
    if len(files) == 1:
        return dataset
    common = _common_schema(dataset, text, columns, guessed=kind == "csv")
    return ds.dataset(files, schema=common, format=file_format, filesystem=filesystem)


def _common_schema(
    dataset: ds.Dataset, text: Sequence[str], columns: Sequence[str] | None, guessed: bool
) -> pa.Schema:
    """All columns of all files; numbers and times in the wider type, ids of different types as text.

    Where types are `guessed` (CSV), one cell that is no number makes a column of numbers text in its file: it
    is read as text everywhere and made a number again by `_numbers`, so that only that cell is lost.
    """
    fields: dict[str, tuple[pa.Field, str]] = {}
    for fragment in dataset.get_fragments():
        try:
            schema = fragment.physical_schema
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"cannot be read: {_first_line(error)}", where=fragment.path) from error
        check_names(schema.names, where=fragment.path)
        for field in schema:
            known, where = fields.setdefault(field.name, (field, fragment.path))
            if known.type == field.type:
                continue
            if (both := _common_field(known, field, text)) is not None:
                fields[field.name] = both, where
            elif (
                guessed
                and {_is_number(known), _is_number(field)} == {True, False}
                and (pa.types.is_string(known.type) or pa.types.is_string(field.type))
            ):
                fields[field.name] = pa.field(field.name, pa.string(), metadata=_NUMBER), where
            elif columns is None or field.name in columns:
                raise DataError(
                    f"the column {field.name!r} holds {known.type} in {where}, but {field.type} here",
                    where=fragment.path,
                    fix="write it with one type",
                )
    return pa.schema([field for field, _ in fields.values()])


_NUMBER = {b"memberwise": b"number"}
"""Marks a column that is read as text and is one of numbers."""


def _is_number(field: pa.Field) -> bool:
    number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    return number or field.metadata == _NUMBER


def _numbers(rows: pl.DataFrame, schema: pa.Schema) -> pl.DataFrame:
    """Marked columns as numbers; a cell that is none becomes missing."""
    marked = [f.name for f in schema if f.metadata == _NUMBER and f.name in rows.columns]
    return (
        rows.with_columns(pl.col(marked).str.strip_chars().cast(pl.Float64, strict=False)) if marked else rows
    )


def _common_field(one: pa.Field, other: pa.Field, text: Sequence[str]) -> pa.Field | None:
    try:
        pair = [pa.schema([one]), pa.schema([other])]
        return pa.unify_schemas(pair, promote_options="permissive").field(0)
    except pa.ArrowException:
        nested = pa.types.is_nested(one.type) or pa.types.is_nested(other.type)
        return pa.field(one.name, pa.string()) if one.name in text and not nested else None


def _format(file: str) -> str:
    suffix = Path(file).suffix.lower()
    if suffix not in _FORMATS:
        raise DataError(
            f"{suffix or 'no ending'!r} is not a known kind of table",
            where=file,
            fix=f"use one of {', '.join(_FORMATS)}",
        )
    return _FORMATS[suffix]


def _blame(files: list[str], file_format: Any) -> str:
    """The first file that cannot be opened alone."""
    for file in files:
        try:
            ds.dataset([file], format=file_format)
        except (pa.ArrowException, OSError):
            return file
    return files[0]


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def check_names(names: Sequence[str], where: str) -> None:
    """Refuse a table in which a column name stands twice."""
    twice = sorted({n for n in names if list(names).count(n) > 1})
    if twice:
        raise DataError(f"the column name {twice[0]!r} stands twice", where=where, fix="rename one of them")


def need_columns(have: Sequence[str], need: Sequence[str], where: str) -> None:
    """Raise a `DataError` that names the missing columns and those that are there."""
    missing = [c for c in need if c not in have]
    if missing:
        names = ", ".join(repr(c) for c in missing)
        raise DataError(
            f"column{'s' if len(missing) > 1 else ''} {names} missing",
            where=where,
            fix=f"the table has: {', '.join(have)}",
        )


def record_batches(
    source: Source,
    columns: Sequence[str] | None,
    base: Path | None = None,
    text: Sequence[str] = (),
    rows: int = 131_072,
) -> Iterator[pl.DataFrame]:
    """Read a table piece by piece, only the columns asked for.

    Yields
    ------
    polars.DataFrame
        At most `rows` rows each, in the order of the files.
    """
    if isinstance(source, pa.Table):
        check_names(source.column_names, where="the table")
        source = pl.DataFrame(source)
    if isinstance(source, pl.DataFrame):
        if columns is not None:
            need_columns(source.columns, columns, where="the table")
            source = source.select(columns)
        yield from source.iter_slices(rows)
        return
    dataset = open_dataset(source, base, text, columns)
    where = called(source)
    if columns is not None:
        need_columns(dataset.schema.names, columns, where=where)
    try:
        batches = dataset.to_batches(
            columns=list(columns) if columns is not None else None,
            batch_size=rows,
            batch_readahead=2,
            fragment_readahead=1,
            use_threads=True,
        )
        for batch in batches:
            if batch.num_rows:
                yield _numbers(pl.DataFrame(pa.Table.from_batches([batch])), dataset.schema)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"cannot be read: {_first_line(error)}",
            where=where,
            fix="a file is damaged, still being written, or has a value that is not of its column's type",
        ) from error


def read_table(source: Source, base: Path | None = None, text: Sequence[str] = ()) -> pl.DataFrame:
    """Read a small table whole."""
    parts = list(record_batches(source, None, base, text))
    if not parts:
        if isinstance(source, pl.DataFrame):
            return source
        if isinstance(source, pa.Table):
            return pl.DataFrame(source)
        return pl.DataFrame(open_dataset(source, base, text).schema.empty_table())
    return pl.concat(parts, how="vertical_relaxed")


def column_names(source: Source, base: Path | None = None) -> list[str]:
    """Names of the columns of a table, without reading it."""
    if isinstance(source, pl.DataFrame):
        return source.columns
    if isinstance(source, pa.Table):
        check_names(source.column_names, where="the table")
        return list(source.column_names)
    return list(open_dataset(source, base).schema.names)
