"""Logs as one JSON object a line."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec


class JsonLines(logging.Formatter):
    """Time, level, logger, message, and what stands in ``extra={"fields": {...}}``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at that moment: one that was replaced may be closed."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        pass


def to_json(stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Send the logs of the server to a stream (default: stderr) as JSON lines."""
    handler = _StandardError() if stream is None else logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    for name in ("memberwise", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level if name == "memberwise" else max(level, logging.WARNING))
