"""One process at a time: locks on files, which a crash lets go by itself."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memberwise.errors import MemberwiseError

_LOOK_AGAIN = 0.05
"""Seconds between two tries."""


@contextmanager
def alone(file: Path, refusal: MemberwiseError, wait: float = 0.0) -> Iterator[None]:
    """Inside, no other process (nor thread) is inside the same file's lock.

    Parameters
    ----------
    file : Path
        Made if it is not there, and left; its folder is made too.
    refusal
        What is raised if another still holds it after the wait.
    wait
        Seconds to wait for another; ``math.inf`` waits for as long as it takes.

    Raises
    ------
    MemberwiseError
        The refusal.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + wait
    with file.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() >= until:
                    raise refusal from error
                time.sleep(_LOOK_AGAIN)
        yield
