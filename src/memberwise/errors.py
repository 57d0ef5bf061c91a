"""Errors that a person can act on: what is wrong, where, and what to do about it."""

from __future__ import annotations


class MemberwiseError(Exception):
    """Base of every error that memberwise raises for a user's mistake or a broken input.

    The command line prints the message without a traceback and exits with status 2.

    Parameters
    ----------
    what : str
        What is wrong, one sentence.
    where : str, optional
        The file, key, column or row it is about.
    fix : str, optional
        What the reader can do.

    Examples
    --------
    >>> print(ConfigError("unknown key 'taks'", where="project.yaml", fix="did you mean 'tasks'?"))
    project.yaml: unknown key 'taks'
      -> did you mean 'tasks'?
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        text = f"{where}: {what}" if where else what
        super().__init__(f"{text}\n  -> {fix}" if fix else text)


class ConfigError(MemberwiseError):
    """The project file (or an argument) asks for something that cannot be."""


class DataError(MemberwiseError):
    """Files, columns or rows do not hold what the project says they hold."""


class BundleError(MemberwiseError):
    """A saved version is missing, damaged, or of another format."""


def counted(n: int, thing: str) -> str:
    """So many things.

    Examples
    --------
    >>> counted(1, "event"), counted(2000, "event")
    ('1 event', '2,000 events')
    """
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


def percent(share: float) -> str:
    """A share as a percentage that is never rounded to nothing.

    Examples
    --------
    >>> percent(0.123), percent(0.00025), percent(0.000001), percent(0), percent(1)
    ('12.3%', '0.025%', '0.0001%', '0%', '100%')
    """
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f}%"
    if abs(value) >= 1:
        return f"{value:.1f}%"
    text = f"{value:.2g}"
    return f"{text}%" if "e" not in text else f"{value:.{1 - int(text.partition('e')[2])}f}".rstrip("0") + "%"
