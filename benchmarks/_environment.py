"""The environment that the peers run in: `.venv-bench` beside the project's own, made once.

`peers/requirements.txt` is installed with dependencies, `peers/requirements-no-deps.txt` without: some
peers ask for large packages that serve only a data loader that no benchmark uses.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
FOLDER = ROOT / ".venv-bench"
WITH_DEPENDENCIES = BENCHMARKS / "peers" / "requirements.txt"
WITHOUT_DEPENDENCIES = BENCHMARKS / "peers" / "requirements-no-deps.txt"
CONSTRAINTS = ROOT / "constraints.txt"


def peers_python() -> Path:
    """The Python of the peers' environment, which is made if it is missing or out of date.

    The environment variable ``TORCH_INDEX`` names an index to take torch from, as for `make`.
    """
    python = FOLDER / "bin" / "python"
    with _one_at_a_time():
        if not (python.exists() and _stamp_file().is_file() and _stamp_file().read_text() == _stamp()):
            _make(python)
    return python


def _make(python: Path) -> None:
    print(f"making {FOLDER.name} for the peers (once)", file=sys.stderr)
    _run(sys.executable, "-m", "venv", "--clear", str(FOLDER))
    index = os.environ.get("TORCH_INDEX")
    if index:
        _pip(python, "-c", str(CONSTRAINTS), "--index-url", index, "torch")
    _pip(python, "-c", str(CONSTRAINTS), "-r", str(WITH_DEPENDENCIES))
    _pip(python, "--no-deps", "-r", str(WITHOUT_DEPENDENCIES))
    _stamp_file().write_text(_stamp())


def _pip(python: Path, *arguments: str) -> None:
    _run(str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *arguments)


def _run(*command: str) -> None:
    # Standard output belongs to the benchmark's table and its line of JSON.
    subprocess.run(command, check=True, stdout=sys.stderr)


def _stamp() -> str:
    """What the environment was made from; written last, so that a half-made one is made again."""
    parts = [path.read_bytes() for path in (WITH_DEPENDENCIES, WITHOUT_DEPENDENCIES, CONSTRAINTS)]
    return hashlib.sha256(b"\0".join([*parts, sys.version.encode()])).hexdigest()


def _stamp_file() -> Path:
    return FOLDER / "made-from.sha256"


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    lock = ROOT / ".cache" / "venv-bench.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
