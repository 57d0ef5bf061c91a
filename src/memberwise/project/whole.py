"""`Project`: checked settings, and where they stand."""

from __future__ import annotations

import contextlib
import json
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from memberwise.data import tombstones
from memberwise.errors import ConfigError, MemberwiseError
from memberwise.project.config import ProjectConfig
from memberwise.project.lines import parse
from memberwise.project.mistakes import validate
from memberwise.schema import aggregate_name, feature_name


class Project:
    """A checked project and the directory that its relative paths start from.

    Parameters
    ----------
    config
        The settings.
    base : Path
        Directory of the project file.
    file : Path, optional
        The project file, if it was read from one.
    lines
        Line of each key in that file.
    """

    def __init__(
        self,
        config: ProjectConfig,
        base: Path,
        file: Path | None = None,
        lines: Mapping[tuple[str | int, ...], int] = types.MappingProxyType({}),
    ) -> None:
        self.config, self.base, self.file, self._lines = config, base, file, lines
        config.leave_out(tombstones.read(self.output).tolist())

    def __repr__(self) -> str:
        return f"Project({self.config.name!r}, tasks={list(self.config.task_names)}, base={str(self.base)!r})"

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a project file (YAML), or the ``project.yaml`` of a directory.

        Raises
        ------
        ConfigError
            Names the file, the line, the key and the likely fix.
        """
        path = Path(path)
        if path.is_dir():
            path = path / "project.yaml"
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"cannot be read: {error.strerror}",
                where=str(path),
                fix="make one with: memberwise init YOUR_EVENTS.parquet",
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"is not UTF-8 text: {error.reason}", where=str(path)) from error
        values, marks = parse(text, path)
        return cls(validate(values, str(path), marks), path.parent, path, marks)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], base: str | Path = ".") -> Self:
        """A project from plain values, as a YAML file would hold them."""
        return cls(validate(dict(values), "project", {}), Path(base))

    @property
    def output(self) -> Path:
        """Directory of this project's runs and bundles."""
        if Path(self.config.output) == Path():
            return self.base
        return self.base / self.config.output / self.config.name

    @property
    def bundles(self) -> Path:
        """Directory of the saved versions."""
        return self.output / "bundles"

    def to_dict(self) -> dict[str, Any]:
        """All settings, defaults included, as plain values."""
        return json.loads(self.config.model_dump_json())

    def changed(self, since: Project) -> list[str]:
        """Keys whose settings are not those of an earlier state; what updates read anew does not count."""
        now, then = self.to_dict(), since.to_dict()
        return [key for key in now if key not in ("fresh", "output") and now[key] != then.get(key)]

    def line(self, key: str) -> int | None:
        """Line of a key, such as ``features.3.column`` or ``tasks.click.label``, in the project file.

        A default that the file does not hold has the line of what it belongs to; None where nothing does.
        """
        named = {
            "tasks": [t.name for t in self.config.tasks],
            "features": [feature_name(f) for f in self.config.features],
            "aggregates": [aggregate_name(a) for a in self.config.aggregates],
        }
        head, _, rest = key.partition(".")
        for i, name in enumerate(named.get(head, [])):
            if rest == name or rest.startswith(f"{name}."):
                key = f"{head}.{i}{rest.removeprefix(name)}"
                break
        parts = [int(p) if p.isdecimal() else p for p in key.split(".")]
        places = (tuple(parts[:n]) for n in range(len(parts), 0, -1))
        return next((self._lines[place] for place in places if place in self._lines), None)

    @contextlib.contextmanager
    def located(self) -> Iterator[None]:
        """Inside, an error about a key of the project also names the file and the line of that key."""
        try:
            yield
        except MemberwiseError as error:
            line = self.line(error.where) if error.where else None
            if line is None:
                raise
            raise type(error)(
                error.what, where=f"{self.file}, line {line}: {error.where}", fix=error.fix
            ) from error


def json_schema() -> dict[str, Any]:
    """JSON Schema of the project file, for completion and checks in an editor."""
    schema = ProjectConfig.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "memberwise project",
    }
