"""What every command shares: the application, the console, and arguments of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    name="memberwise",
    help="Turn a log of who saw what and what they did into a ranker that is personal to every member.\n\n"
    "Start with [bold]memberwise demo[/], then [bold]memberwise init your_events.parquet[/] on your own log.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
out = Console()

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
