"""What every command shares: the application, the console, and arguments of the same name."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from memberwise.project import Project
    from memberwise.recommender import Recommender

app = typer.Typer(
    name="memberwise",
    help="Turn a log of who saw what and what they did into a ranker that is personal to every member.\n\n"
    "Start with **memberwise demo**, then **memberwise init your_events.parquet** on your own log.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)


def called() -> str:
    """How this command line was called, so that what it advises can be typed as it stands."""
    script = Path(sys.argv[0])
    if script.parts[-3:] == ("memberwise", "cli", "__main__.py"):
        python = shutil.which("python")
        same = python is not None and Path(python).absolute() == Path(sys.executable).absolute()
        return f"{'python' if same else sys.executable} -m memberwise.cli"
    if script.name == "memberwise" and shutil.which("memberwise") is None:
        return str(script)
    return "memberwise"


def as_called(text: str) -> str:
    """Advice such as ``memberwise fit PROJECT`` with the name under which this command line was called."""
    if (name := called()) == "memberwise":
        return text
    commands = [c.name or c.callback.__name__ for c in app.registered_commands if c.callback is not None]
    commands += [g.name for g in app.registered_groups if g.name]
    return re.sub(rf"\bmemberwise (?=(?:{'|'.join(commands)})\b)", lambda found: f"{name} ", text)


class Say(Console):
    """A console whose advice can be typed as it stands."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich does."""
        super().print(*(as_called(o) if isinstance(o, str) else o for o in objects), **options)


out = Say()

START, FIT, FRESH, SERVE, INSIDE = (
    "Begin",
    "Fit, judge, rank",
    "New events",
    "In production",
    "Look inside",
)
"""Headings under which ``--help`` lists the commands, in the order in which one needs them."""

ProjectPath = Annotated[
    Path,
    typer.Argument(metavar="PROJECT", help="The project file, or the directory that holds project.yaml."),
]
EventFiles = Annotated[
    list[str],
    typer.Argument(metavar="EVENTS...", help="Parquet, CSV or Arrow: files, directories, globs, URLs."),
]


def literal(text: str) -> str:
    """Text that rich prints as it stands."""
    return text.replace("[", "\\[")


def beside(text: str) -> None:
    """Say something beside the answer, on standard error: standard output may be read by a program."""
    Say(stderr=True, highlight=False).print(f"[yellow]{literal(text)}[/]", soft_wrap=True)


def say_if_ahead(project: Project, rec: Recommender) -> None:
    """Tell who has changed the project file since the fit that the version does not know it."""
    if changed := project.changed(rec.project):
        beside(
            f"The project has changed since version {rec.version} was fitted ({', '.join(changed)}): the "
            "version goes by what it was fitted with, until the next memberwise fit."
        )
