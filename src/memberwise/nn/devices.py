"""Which device tensors live on."""

from __future__ import annotations

import torch

from memberwise.errors import ConfigError


def choose_device(name: str, where: str) -> torch.device:
    """The device of a name; ``auto`` takes a GPU if there is one.

    Raises
    ------
    ConfigError
        If the device is not there; `where` is the key that names it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"{name!r} is not a device of this machine", where=where, fix="use auto or cpu"
        ) from error
    return device
