"""What the doctor found: each with how bad it is, where it stands, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

Severity = Literal["error", "warning", "note"]
_ORDER: tuple[Severity, ...] = ("error", "warning", "note")
_STYLE = {"error": "bold red", "warning": "yellow", "note": "dim"}


@dataclass(frozen=True)
class Finding:
    """One thing that a person should know before training.

    Attributes
    ----------
    severity
        ``error``: training would fail or its result would mean nothing. ``warning``: look at it first.
        ``note``: good to know.
    check
        Short name of the check that found it.
    what
        What was found, with numbers.
    where
        Key of the project file: ``features.3.column``.
    fix
        What to do; empty for a note that asks for nothing.
    """

    severity: Severity
    check: str
    what: str
    where: str
    fix: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings about a project, worst first.

    Attributes
    ----------
    name
        Of the project.
    facts
        What was looked at: rows, span of time, members, items.
    lines
        Line of the project file for the keys that findings are about.
    """

    name: str
    findings: tuple[Finding, ...]
    facts: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, findings: Iterable[Finding], facts: dict[str, str] | None = None) -> Diagnosis:
        """A diagnosis with its findings in order of severity."""
        ordered = sorted(findings, key=lambda f: _ORDER.index(f.severity))
        return cls(name, tuple(ordered), facts or {})

    @property
    def ok(self) -> bool:
        """Whether there is no error: what the exit code tells."""
        return not any(f.severity == "error" for f in self.findings)

    def count(self, severity: Severity) -> int:
        """Number of findings of one severity."""
        return sum(f.severity == severity for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        findings = [asdict(f) for f in self.findings]
        return {"name": self.name, "ok": self.ok, "facts": dict(self.facts), "findings": findings}

    def render(self) -> RenderableType:
        """The diagnosis for a terminal."""
        parts: list[RenderableType] = [Text(f"{self.name}: {self._verdict()}", style="bold")]
        if self.facts:
            parts.append(Text("  " + ", ".join(f"{k} {v}" for k, v in self.facts.items()), style="dim"))
        for f in self.findings:
            where = f"line {self.lines[f.where]}: {f.where}" if f.where in self.lines else f.where
            line = Text.assemble((f"{f.severity:<8}", _STYLE[f.severity]), (where, "cyan"), ": ", f.what)
            parts.append(Padding(line, (1, 0, 0, 0)))
            if f.fix:
                parts.append(Padding(Text(f"-> {f.fix}"), (0, 0, 0, 8)))
        return Group(*parts)

    def _verdict(self) -> str:
        counts = [(self.count(s), s) for s in _ORDER]
        told = [f"{n} {s}{'s' if n > 1 else ''}" for n, s in counts if n]
        return ", ".join(told) if told else "nothing found that would hinder training"
