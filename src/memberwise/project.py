"""The project file: read it, check it, and say where a mistake is and how to mend it."""

from __future__ import annotations

import contextlib
import difflib
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from memberwise.data import tombstones
from memberwise.errors import ConfigError, MemberwiseError
from memberwise.graph.section import GraphConfig
from memberwise.meta.config import MetaConfig
from memberwise.ranking.config import RankerConfig, TrainingConfig
from memberwise.ranking.effects import EffectsConfig
from memberwise.ranking.exploration import ExplorationConfig
from memberwise.ranking.incremental import IncrementalConfig
from memberwise.schema import Duration, Model, Schema, aggregate_name, feature_name, parse_duration


class MakesVectors(Protocol):
    """A section of the project that makes vectors for the ranker."""

    def vector_features(self) -> list[dict[str, Any]]:
        """The features, as the project file would declare them: ``kind: vector`` with ``made_by``."""


MAKERS: dict[str, type[BaseModel]] = {"graph": GraphConfig, "meta": MetaConfig}
"""Sections that make vectors, by their key; each class is a `MakesVectors`."""


class FreshConfig(Model):
    """When an update is refused, and when a full retrain is advised."""

    check: float = Field(
        0.3, gt=0, lt=1, description="Share of the new rows, the latest, that are predicted before and after "
        "learning from the others."
    )  # fmt: skip
    check_rows: int = Field(200, ge=1, description="With fewer such rows, nothing is compared.")
    log_loss: float = Field(0.02, gt=0, description="Relative growth of log-loss that refuses a version.")
    calibration: float = Field(
        0.1, gt=0, description="Growth of the gap between observed and expected that refuses a version."
    )
    size: float = Field(2.0, gt=1, description="Growth of the files, as a factor, that refuses a version.")
    retrain: float = Field(
        0.05, gt=0, description="Log-loss on new rows above that of valid, as a share, that asks for a fit."
    )
    increments: int = Field(30, ge=1, description="Increments of the ranker after which a fit is advised.")
    max_ahead: Duration = Field(
        parse_duration("1d"), description="How far ahead of this machine's clock an event may lie.",
        validate_default=False,
    )  # fmt: skip


class ProjectConfig(Schema):
    """A project: what the log means, what ranker to train on it, and how."""

    ranker: RankerConfig = Field(RankerConfig(), description="What the ranker is made of.")
    training: TrainingConfig = Field(TrainingConfig(), description="How it is trained.")
    effects: EffectsConfig | None = Field(
        None, description="Member and item effects that learn with every update; {} for the defaults."
    )
    incremental: IncrementalConfig | None = Field(
        None, description="Let updates train the ranker; {} for the defaults."
    )
    exploration: ExplorationConfig | None = Field(
        None, description="A posterior over the last layer, to explore with; {} for the defaults."
    )
    graph: GraphConfig | None = Field(
        None, description="Graph embeddings of members and items, and retrieval by them; {} for the defaults."
    )
    meta: MetaConfig | None = Field(
        None, description="Embeddings adapted to each entity's latest events; {} for the defaults."
    )
    fresh: FreshConfig = Field(FreshConfig(), description="What updates may do.")
    output: str = Field(
        "runs",
        description="Directory of this project's own directory of runs and bundles, relative to the project "
        "file; '.' keeps them beside the file itself, without a directory of their own.",
    )

    @model_validator(mode="before")
    @classmethod
    def _declare_vectors(cls, values: Any) -> Any:
        """What the graph and meta learning make is shown to the ranker without a further line."""
        if not isinstance(values, dict):
            return values
        features = list(values.get("features") or [])
        for key, section in MAKERS.items():
            if values.get(key) is None or any(
                isinstance(f, dict) and f.get("made_by") == key for f in features
            ):
                continue
            # A mistake inside the section is told with its place when the section itself is validated.
            with contextlib.suppress(ValidationError):
                features += section.model_validate(values[key]).vector_features()  # type: ignore[attr-defined]
        return values | {"features": features} if features else values

    @model_validator(mode="after")
    def _densify_by_content(self) -> Self:
        if self.graph is None or self.graph.densify is None:
            return self
        with_content = {f.entity for f in self.features if f.kind == "vector" and f.made_by is None}
        wanted = self.graph.densify.node_types
        without = sorted(set(wanted) - with_content) if wanted else ([] if with_content else [*self.entities])
        if without:
            raise ValueError(
                f"graph.densify: there are no content vectors of {', '.join(without)}; give it a feature "
                "'kind: vector' with 'path' or 'column', or leave 'densify' out"
            )
        return self


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
        values, marks = _parse(text, path)
        return cls(_validate(values, str(path), marks), path.parent, path, marks)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], base: str | Path = ".") -> Self:
        """A project from plain values, as a YAML file would hold them."""
        return cls(_validate(dict(values), "project", {}), Path(base))

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


Marks = dict[tuple[str | int, ...], int]
"""Line of each key in the file."""


def _parse(text: str, path: Path) -> tuple[dict[str, Any], Marks]:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"is not YAML: {problem}", where=f"{path}{line}") from error
    except ValueError as error:  # a date such as 2013-13-45
        raise ConfigError(f"holds a value that cannot be: {error}", where=str(path)) from error
    if not isinstance(values, dict):
        raise ConfigError("holds no settings", where=str(path), fix="start with: events:, entities:, tasks:")
    marks: Marks = {}
    try:
        _collect(node, (), marks, path)
    except RecursionError:
        raise ConfigError("holds an anchor that contains itself", where=str(path)) from None
    return values, marks


def _collect(node: yaml.Node | None, at: tuple[str | int, ...], marks: Marks, path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = (*at, key.value)
            if name in marks:
                raise ConfigError(
                    f"the key {key.value!r} stands twice", where=f"{path}, line {key.start_mark.line + 1}"
                )
            marks[name] = key.start_mark.line + 1
            _collect(value, name, marks, path)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            marks[(*at, i)] = value.start_mark.line + 1
            _collect(value, (*at, i), marks, path)


def _validate(values: dict[str, Any], where: str, marks: Marks) -> ProjectConfig:
    try:
        return ProjectConfig.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
        messages = [_explain(e, marks) for e in found[:5]]
        if len(found) > 5:
            messages.append(f"... and {len(found) - 5} more")
        raise ConfigError("\n  ".join(messages), where=where) from None


def _explain(error: Mapping[str, Any], marks: Marks) -> str:
    """One mistake in words: line, key, what is wrong, and the nearest key there is."""
    location = tuple(error["loc"])
    plain = _without_tags(location)
    line = next((marks[plain[:n]] for n in range(len(plain), 0, -1) if plain[:n] in marks), None)
    key = ".".join(str(p) for p in plain)
    prefix = (f"line {line}: " if line else "") + (f"{key}: " if key else "")
    match error["type"]:
        case "extra_forbidden":
            known = sorted(_keys_at(location[:-1]))
            close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
            return f"{prefix}unknown key; {hint}"
        case "missing":
            return f"{prefix}this key is needed"
        case "union_tag_invalid":
            tag, expected = error["ctx"]["tag"], error["ctx"]["expected_tags"]
            close = difflib.get_close_matches(str(tag), [e.strip("' ") for e in expected.split(",")], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"use one of {expected}"
            return f"{prefix}{tag!r} is not known; {hint}"
        case "union_tag_not_found":
            return f"{prefix}say what it is with the key {error['ctx']['discriminator']}"
        case "value_error":
            return prefix + str(error["ctx"]["error"])
        case _:
            return f"{prefix}{error['msg']} (got {error['input']!r})"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """All pydantic models inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not None or isinstance(annotation, types.UnionType):
        for part in get_args(annotation):
            yield from _models(part)


def _walk(location: Sequence[str | int]) -> Iterator[tuple[list[type[BaseModel]], bool]]:
    """The models that each step of a location may stand in, and whether the step is a union's tag."""
    current: list[type[BaseModel]] = [ProjectConfig]
    for part in location:
        inner = [
            m
            for c in current
            if part in c.model_fields
            for m in _models(c.model_fields[str(part)].annotation)
        ]
        tagged = [c for c in current if part in _tags(c)]
        field = any(part in c.model_fields for c in current)
        yield current, bool(tagged) and not field
        current = inner if field else (tagged or current)
    yield current, False


def _tags(model: type[BaseModel]) -> set[str]:
    tags: set[str] = set()
    for name in ("kind", "type"):
        if name in model.model_fields and get_origin(model.model_fields[name].annotation) is Literal:
            tags.update(get_args(model.model_fields[name].annotation))
    return tags


def _keys_at(location: Sequence[str | int]) -> set[str]:
    *_, (models, _) = _walk(location)
    return {name for m in models for name in m.model_fields}


def _without_tags(location: Sequence[str | int]) -> tuple[str | int, ...]:
    """The location as it stands in the file: pydantic adds the tag of a union to it."""
    steps = list(_walk(location))
    return tuple(part for part, (_, tag) in zip(location, steps, strict=False) if not tag)
