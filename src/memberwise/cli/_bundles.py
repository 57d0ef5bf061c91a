"""Saved versions: bundles list, bundles rollback."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from memberwise.cli._app import INSIDE, ProjectPath, app, out
from memberwise.errors import ConfigError

bundles = typer.Typer(help="List the saved versions of a project, or go back to one.", no_args_is_help=True)
app.add_typer(bundles, name="bundles", rich_help_panel=INSIDE)


@bundles.command("list")
def bundles_list(project: ProjectPath) -> None:
    """List the versions, oldest first; the star marks the current one.

    A version says from which one it came, and up to which event it has seen the log. Files that did not
    change are shared between versions and counted in each.
    """
    from memberwise import bundle
    from memberwise.project import Project

    directory = Project.load(project).bundles
    table = Table("", "version", "created (UTC)", "from", "events up to (UTC)", "size")
    now = bundle.current(directory)
    for path in bundle.versions(directory):
        manifest = bundle.read_manifest(path)
        size = sum(f["bytes"] for f in manifest.files.values())
        table.add_row(
            "*" if path.name == now else "",
            path.name,
            _moment(manifest.created),
            manifest.parent or "",
            _moment(str(manifest.info.get("as_of", ""))),
            f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB",
        )
    out.print(table)


def _moment(iso: str) -> str:
    """A time as people write it, to the minute, UTC."""
    return iso[:16].replace("T", " ")


@bundles.command("rollback")
def bundles_rollback(
    project: ProjectPath,
    version: Annotated[
        str | None, typer.Argument(help="Version to go back to; default: the parent of the current.")
    ] = None,
) -> None:
    """Make an earlier version the current one. Nothing is deleted.

    A server swaps to it by itself. The next update starts from it.
    """
    from memberwise import bundle
    from memberwise.project import Project
    from memberwise.recommender.removal import refuse_forgotten

    loaded = Project.load(project)
    directory = loaded.bundles
    if version is None:
        version = bundle.read_manifest(bundle.resolve(directory)).parent
        if version is None:
            raise ConfigError("the current version has no parent", where=str(directory), fix="name a version")
    if version == bundle.current(directory):
        out.print(f"[bold]{version}[/] is the current version already: nothing changed")
        return
    if version in {path.name for path in bundle.versions(directory)}:
        bundle.verify(directory / version)
        refuse_forgotten(loaded, directory / version)
    bundle.point(directory, version)
    out.print(f"Current version: [bold]{version}[/]")
