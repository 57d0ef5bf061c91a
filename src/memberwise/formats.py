"""Numbers of formats: what files mean, so that no other reading of them goes unnoticed.

Whoever writes files gives them a number, and raises it when what is in them comes to mean something else,
even if the files still look the same. Files without a number are of the first format.
"""

from __future__ import annotations

from pathlib import Path

from memberwise.errors import BundleError

FIRST = 1


def check_format(found: int, known: int, path: Path, oldest: int = FIRST, what: str = "") -> None:
    """Refuse what a newer memberwise wrote, and what an older one wrote that means something else today.

    Parameters
    ----------
    found
        Format of the files.
    known
        Format that is written today.
    path
        Where they lie.
    oldest
        The oldest format that is still read.
    what
        Which of the files, where `path` holds several.

    Raises
    ------
    BundleError
        If it is another; says what to do.
    """
    subject = f"{what} has format {found}" if what else f"has format {found}"
    if found > known:
        raise BundleError(
            f"{subject}, this memberwise reads up to {known}",
            where=str(path),
            fix="install a newer memberwise",
        )
    if found < oldest:
        raise BundleError(
            f"{subject}, of which the numbers would mean something else today: this memberwise reads "
            f"{f'{oldest} to {known}' if oldest < known else known}",
            where=str(path),
            fix="fit again: memberwise fit PROJECT; or use the memberwise that made it",
        )
