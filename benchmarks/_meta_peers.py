"""Loops of `higher` and `torchopt` over tasks, in an environment of their own, served like `_child` scripts.

Run as a script it answers calls; imported it makes the environment. Only the standard library and `_child`
are imported before a call asks for more.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import _child

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache" / "venv-bench-meta"
CONSTRAINTS = ROOT / "constraints.txt"
PACKAGES = ("higher==0.2.1", "torchopt==0.7.3", "torch", "numpy")


def python() -> Path:
    """Return the peers' interpreter, making its environment if need be."""
    interpreter, stamp = FOLDER / "bin" / "python", FOLDER / "made-from.sha256"
    wanted = hashlib.sha256(repr((PACKAGES, CONSTRAINTS.read_bytes(), sys.version)).encode()).hexdigest()
    if not (interpreter.exists() and stamp.is_file() and stamp.read_text() == wanted):
        print(f"making {FOLDER.name} for the peers (once)", file=sys.stderr)
        pip = [str(interpreter), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        pip += ["-c", str(CONSTRAINTS)]
        commands = [[sys.executable, "-m", "venv", "--clear", str(FOLDER)]]
        if index := os.environ.get("TORCH_INDEX"):
            commands.append([*pip, "--index-url", index, "torch"])
        for command in [*commands, [*pip, *PACKAGES]]:
            subprocess.run(command, check=True, stdout=sys.stderr)
        stamp.write_text(wanted)
    return interpreter


def setup(path: str) -> dict[str, str]:
    """Read the tasks: ``model.*``, ``x``, ``y``, ``qx``, ``qy``, one task a row."""
    import numpy as np
    import torch
    import torchopt

    torch.set_num_threads(1)
    global DATA, NET
    DATA = {k: torch.from_numpy(v) for k, v in np.load(path).items()}
    widths = [len(DATA["weights.0"]), *(len(DATA[f"biases.{i}"]) for i in range(_layers()))]
    parts: list[Any] = []
    for i in range(_layers()):
        linear = torch.nn.Linear(widths[i], widths[i + 1])
        with torch.no_grad():
            linear.weight.copy_(DATA[f"weights.{i}"].T)
            linear.bias.copy_(DATA[f"biases.{i}"])
        parts += [linear, torch.nn.ReLU()]
    NET = torch.nn.Sequential(*parts[:-1])
    return {"torch": torch.__version__, "higher": "0.2.1", "torchopt": torchopt.__version__}


def _layers() -> int:
    return sum(k.startswith("biases.") for k in DATA)


def run(peer: str, steps: int, rate: float, second_order: bool) -> dict[str, Any]:
    """One outer step over all tasks: mean query loss, and its gradient for the initial weights."""
    import torch

    bce = torch.nn.functional.binary_cross_entropy_with_logits
    NET.zero_grad(set_to_none=True)
    one = _higher if peer == "higher" else _torchopt
    total = 0.0
    tasks = len(DATA["x"])
    for i in range(tasks):
        total += one(i, steps, rate, second_order, bce) / tasks
    gradient = torch.cat([p.grad.T.reshape(-1) if p.dim() == 2 else p.grad for p in NET.parameters()])
    return {"loss": total, "gradient": (gradient / tasks).tolist()}


def _higher(i: int, steps: int, rate: float, second_order: bool, bce: Any) -> float:
    import higher
    import torch

    optimiser = torch.optim.SGD(NET.parameters(), lr=rate)
    with higher.innerloop_ctx(
        NET, optimiser, copy_initial_weights=False, track_higher_grads=second_order
    ) as (net, inner):
        for _ in range(steps):
            inner.step(bce(net(DATA["x"][i]), DATA["y"][i]))
        loss = bce(net(DATA["qx"][i]), DATA["qy"][i])
        if second_order:
            loss.backward()
        else:  # without tracking, the gradient at the adapted weights is the first-order one
            for p, g in zip(NET.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True):
                p.grad = g if p.grad is None else p.grad + g
    return float(loss.detach())


def _torchopt(i: int, steps: int, rate: float, second_order: bool, bce: Any) -> float:
    import torch
    import torchopt

    optimiser = torchopt.MetaSGD(NET, lr=rate)
    start = torchopt.extract_state_dict(NET, by="reference")
    begin = torchopt.extract_state_dict(optimiser)
    initial = list(NET.parameters())
    for _ in range(steps):
        loss = bce(NET(DATA["x"][i]), DATA["y"][i])
        if second_order:
            optimiser.step(loss)
        else:
            grads = torch.autograd.grad(loss, list(NET.parameters()))
            moved = [p - rate * g for p, g in zip(NET.parameters(), grads, strict=True)]
            _replace(moved)
    loss = bce(NET(DATA["qx"][i]), DATA["qy"][i])
    grads = torch.autograd.grad(loss, initial)
    torchopt.recover_state_dict(NET, start)
    torchopt.recover_state_dict(optimiser, begin)
    for p, g in zip(initial, grads, strict=True):
        p.grad = g if p.grad is None else p.grad + g
    return float(loss.detach())


def _replace(values: list[Any]) -> None:
    linears = [m for m in NET if hasattr(m, "weight")]
    for k, module in enumerate(linears):
        module._parameters["weight"], module._parameters["bias"] = values[2 * k], values[2 * k + 1]


DATA: dict[str, Any] = {}
NET: Any = None

if __name__ == "__main__":
    _child.serve({"setup": setup, "run": run})
