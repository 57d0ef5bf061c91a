"""How a server behaves: where it listens, whom it lets in, how much it takes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from memberwise.errors import ConfigError
from memberwise.schema import Model

TOKEN_VARIABLE = "MEMBERWISE_TOKEN"


class ServingSettings(Model):
    """Settings of one server; times in seconds."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8600, ge=0, le=65535)
    workers: int = Field(1, ge=1, le=64, description="Processes; each holds the whole version.")
    token: str | None = Field(None, description="What a client must send as a bearer token.", repr=False)
    clock: Literal["wall", "log"] = Field(
        "wall", description="Moment of a request: now, or just after the last event seen (for old logs)."
    )
    engine: Literal["auto", "float32", "int8", "aoti", "torch"] = Field(
        "auto",
        description="What multiplies: ONNX Runtime where the ranker allows it, machine code, or torch.",
    )
    tables: Literal["float32", "int8"] = Field("float32", description="Numbers of the embedding tables.")
    store: str = Field(
        "memory",
        description="Where vectors of requests come from: memory (the version), lmdb, or redis://HOST/DB.",
        repr=False,  # it may hold a password
    )
    max_body: int = Field(4_000_000, ge=1_000, description="Bytes of a request.")
    max_candidates: int = Field(10_000, ge=1)
    max_events: int = Field(10_000, ge=1, description="Events of one request.")
    retrieve: int = Field(1_000, ge=1, description="Items ranked where a request names none.")
    timeout: float = Field(1.0, gt=0, description="A request that waited this long is refused with 503.")
    queue: int = Field(64, ge=1, description="Requests that wait; more are refused with 503.")
    connections: int = Field(1_000, ge=1, description="Connections at a time.")
    read_timeout: float = Field(10.0, gt=0, description="Time for a client to send a request.")
    watch: float = Field(0.5, gt=0, description="Time between looks at the current version.")
    drain: float = Field(10.0, ge=0, description="Time for open requests when the server stops.")
    future: float = Field(300.0, ge=0, description="How far ahead of the clock an event may lie.")

    def with_token(self, file: Path | None) -> Self:
        """The same with the token from a file, else from the environment.

        Raises
        ------
        ConfigError
            If the file cannot be read or holds nothing.
        """
        if file is None:
            token = os.environ.get(TOKEN_VARIABLE, "").strip()
        else:
            try:
                token = file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"the token cannot be read: {error}", where=str(file)) from error
            if not token:
                raise ConfigError("holds no token", where=str(file), fix="write one line of text into it")
        return self.model_copy(update={"token": token or None})


def settings(**values: Any) -> ServingSettings:
    """Settings from options of the command line.

    Raises
    ------
    ConfigError
        Names the option that cannot be.
    """
    try:
        return ServingSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise ConfigError(f"{first['msg']} (got {first['input']!r})", where=option) from error
