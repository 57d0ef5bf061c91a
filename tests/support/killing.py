"""An update in a process of its own, which dies by kill -9 at a chosen moment."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing.connection import Connection

from memberwise.fresh.update import update
from memberwise.project import Project


def update_and_die(project: str, events: str, where: str, moment: int | None, link: Connection) -> None:
    """Update; kill this process at the given audit event (a file opened, linked, renamed, ...) that names
    a path with `where` in it.

    Without a moment, say how many there were.
    """
    loaded, count = Project.load(project), 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        count += any(where in str(a) for a in arguments if isinstance(a, str | os.PathLike))
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    update(loaded, events, train=True)
    link.send(count)
