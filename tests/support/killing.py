"""An update, or a removal, in a process of its own, which dies by kill -9 at a chosen moment."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

from memberwise.fresh.update import update
from memberwise.project import Project


def update_and_die(
    project: str, events: str, where: tuple[str, ...], moment: int | None, link: Connection
) -> None:
    """Update; kill this process at the given audit event (a file opened, linked, renamed, ...) that names
    a path with one of `where` in it.

    An audit event comes before the deed. Without a moment, say how many there were.
    """
    loaded = Project.load(project)
    touches = die_at(where, moment)
    update(loaded, events, train=True)
    link.send(touches())


def forget_and_die(
    project: str, member: str, where: tuple[str, ...], moment: int | None, link: Connection
) -> None:
    """The same of ``memberwise forget``."""
    from typer.testing import CliRunner

    from memberwise.cli import app

    touches = die_at(where, moment)
    done = CliRunner().invoke(app, ["forget", project, "--member", member])
    assert done.exit_code == 0, (done.output, done.exception)
    link.send(touches())


def die_at(where: tuple[str, ...], moment: int | None) -> Callable[[], int]:
    """Kill this process at an audit event that names a path with one of `where` in it; returns a count."""
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        # os.kill is an event too: what does not count must not ask again, or the hook calls itself for ever.
        names = [str(a) for a in arguments if isinstance(a, str | os.PathLike)]
        if not any(part in name for part in where for name in names):
            return
        count += 1
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return lambda: count
