"""One door to what benchmarks share; ``python benchmarks/_harness.py --make-env`` prepares the peers.

A benchmark is a file with its targets, a function per table, and a ``main`` that ends in
``Report.finish()``. Systems under measurement are processes of one thread (`Worker`), called in turn
(`interleave`), so that each pays its own imports, memory and CPU time.
"""

from __future__ import annotations

import argparse

from _environment import BENCHMARKS, ROOT, peers_python
from _report import Report, Target, quick_asked
from _worker import ONE_THREAD, Reply, Worker, interleave

__all__ = [
    "BENCHMARKS",
    "ONE_THREAD",
    "ROOT",
    "Reply",
    "Report",
    "Target",
    "Worker",
    "interleave",
    "peers_python",
    "quick_asked",
]


def main() -> None:
    """Make the peers' environment and print its Python."""
    parser = argparse.ArgumentParser(description="What the benchmarks share.")
    parser.add_argument("--make-env", action="store_true", help="make .venv-bench, if need be")
    if parser.parse_args().make_env:
        print(peers_python())
    else:
        parser.print_help()


if __name__ == "__main__":
    main()
