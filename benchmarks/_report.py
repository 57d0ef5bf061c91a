"""What every benchmark prints: a table for people and, last, one line of JSON for programs."""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Target:
    """A claim and the number that decides it.

    Parameters
    ----------
    measure : str
        The name of the measure.
    bound : float
        The number to reach.
    claim : str
        The sentence that the number stands for.
    at_most : bool
        Whether the measure must stay below the bound instead of above it.
    """

    measure: str
    bound: float
    claim: str
    at_most: bool = False

    def holds(self, measures: Mapping[str, float]) -> bool:
        """Whether the measure was taken and is on the right side of the bound."""
        value = measures.get(self.measure)
        if value is None:
            return False
        return value <= self.bound if self.at_most else value >= self.bound


def quick_asked(description: str) -> bool:
    """Read the command line of a benchmark: nothing but ``--quick``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean nothing")
    return bool(parser.parse_args().quick)


class Report:
    """Collects measures and prints the tables and the closing line.

    Parameters
    ----------
    benchmark : str
        Name.
    targets : sequence of Target
        The claims.
    """

    def __init__(self, benchmark: str, targets: Sequence[Target]) -> None:
        self.benchmark = benchmark
        self.targets = targets
        self.measures: dict[str, float] = {}
        self.versions: dict[str, str] = {"python": platform.python_version()}
        self._started = time.perf_counter()
        self._console = Console(width=118, soft_wrap=False)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table; floats get three significant digits, the first column stands left."""
        self._console.print(f"\n{title}", style="bold")
        table = Table()
        for i, column in enumerate(columns):
            table.add_column(column, justify="left" if i == 0 else "right")
        for row in rows:
            table.add_row(*(_text(cell) for cell in row))
        self._console.print(table)

    def holds(self) -> bool:
        """Whether every target is met."""
        return all(target.holds(self.measures) for target in self.targets)

    def finish(self) -> None:
        """Print each claim with its number, then the line of JSON."""
        rows = [
            (
                target.claim,
                self.measures.get(target.measure, float("nan")),
                f"{'<=' if target.at_most else '>='} {target.bound:g}",
                "yes" if target.holds(self.measures) else "NO",
            )
            for target in self.targets
        ]
        self.table("Claims", ["claim", "measured", "target", "holds"], rows)
        # `measures` in JSON carry four significant digits: more would be noise.
        line = {
            "benchmark": self.benchmark,
            "measures": {name: float(f"{value:.4g}") for name, value in self.measures.items()},
            "targets": {target.measure: target.bound for target in self.targets},
            "holds": self.holds(),
            "seconds": round(time.perf_counter() - self._started, 1),
            "versions": self.versions,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        print(json.dumps(line, allow_nan=False))


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"
    return str(cell)
