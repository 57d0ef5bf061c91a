"""The command line: parse, call, print. A command stands in the file of its group."""

from __future__ import annotations

import json
import sys
from typing import Annotated, NoReturn

import typer

from memberwise import __version__

from memberwise.cli import _model, _fresh, _production, _graph, _bundles  # isort: skip
from memberwise.cli._app import INSIDE, Say, app, literal, out
from memberwise.errors import MemberwiseError

__all__ = ["app", "main"]

GROUPS = (_model, _fresh, _production, _graph, _bundles)
"""Importing a group registers its commands, in the order in which ``--help`` lists them."""


def main() -> None:
    """Entry point: a user's mistake ends with a message and exit code 2, not with a traceback."""
    try:
        app()
    except MemberwiseError as error:
        _fail(str(error))
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        _fail(f"{error.filename}: {error.strerror}")


def _fail(message: str) -> NoReturn:
    Say(stderr=True, highlight=False).print(f"[bold red]Error[/] {literal(message)}", soft_wrap=True)
    sys.exit(2)


def _version(value: bool) -> None:
    if value:
        out.print(f"memberwise {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command(rich_help_panel=INSIDE)
def schema() -> None:
    """Print the JSON Schema of project.yaml, for completion and checks in your editor.

    In VS Code, save it as project.schema.json and put this on the first line of project.yaml:

        # yaml-language-server: $schema=project.schema.json
    """
    from memberwise.project import json_schema

    print(json.dumps(json_schema(), indent=1))
