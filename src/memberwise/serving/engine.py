"""What multiplies: ONNX Runtime or machine code of an exported ranker, or torch."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from memberwise.ranking.ranker import Ranker
from memberwise.recommender import Recommender
from memberwise.serving.core import DenseCore
from memberwise.serving.plan import Plan, make_plan

F32 = npt.NDArray[np.float32]
Inputs = Sequence[npt.NDArray[Any]]
"""``shared, own, wide, candidate, numbers, numbers``, then items, actions, ages, mask of each history."""
FORMAT = 2
FLOAT32, COMPILED = "float32.onnx", "compiled.pt2"
_PATIENCE = 1800
GATE = "gate.json"
"""What `memberwise compress` found of the int8 core beside it."""
log = logging.getLogger("memberwise.serving")


class Engine(Protocol):
    """Runs a `DenseCore`."""

    name: str

    def __call__(self, inputs: Inputs) -> list[F32]:
        """Logits ``[n, T]``, and what enters the last layer if the core was made so."""
        ...


class TorchEngine:
    """The core itself, eager."""

    name = "torch"

    def __init__(self, core: DenseCore) -> None:
        self.core = core.eval()

    def __call__(self, inputs: Inputs) -> list[F32]:
        """See `Engine`."""
        with torch.inference_mode():
            found = self.core(*(torch.from_numpy(i) for i in inputs))
        return [t.numpy() for t in (found if isinstance(found, tuple) else (found,))]


class OnnxEngine:
    """An exported core in ONNX Runtime, one thread.

    Parameters
    ----------
    path : Path
        Of `export`.
    name
        ``float32`` or ``int8``.
    """

    def __init__(self, path: Path, name: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [i.name for i in self._session.get_inputs()]
        self._order = [(n, int(n.removeprefix("in"))) for n in names]
        self.name = name

    def __call__(self, inputs: Inputs) -> list[F32]:
        """See `Engine`."""
        found: list[F32] = self._session.run(None, {n: inputs[k] for n, k in self._order})
        return found


class CompiledEngine:
    """A compiled core, one thread.

    Parameters
    ----------
    path : Path
        Of `compile_core`.
    """

    name = "aoti"

    def __init__(self, path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._run = torch._inductor.aoti_load_package(str(path))

    def __call__(self, inputs: Inputs) -> list[F32]:
        """See `Engine`."""
        with torch.inference_mode():
            found = self._run(*(torch.from_numpy(i) for i in inputs))
        return [t.numpy() for t in (found if isinstance(found, list | tuple) else (found,))]


def example(ranker: Ranker, plan: Plan, rows: int) -> list[torch.Tensor]:
    """Inputs of the right shapes."""
    dims = {t.name: t.dim or ranker.config.embedding_dim for t in ranker.layout.tables}
    looked = [dims[h.item_table] for h, _, looks in plan.histories if looks]
    inputs = [
        torch.randn(1, len(plan.shared.columns)),
        torch.randn(rows, len(plan.own.columns)),
        torch.randn(rows, len(ranker.layout.tasks)),
        torch.randn(rows, looked[0]) if looked else torch.zeros(1, 1),
        torch.randn(1, len(plan.shared.dense) if plan.shared.curves else 1),
        torch.randn(rows, len(plan.own.dense) if plan.own.curves else 1),
    ]
    for h, _, _ in plan.histories:
        ages = torch.rand(1, h.length) * 100
        inputs += [
            torch.randn(1, h.length, dims[h.item_table]),
            torch.randn(1, h.length, dims[h.action_table]),
            ages,
            torch.arange(h.length)[None] < h.length // 2 + 1,
        ]
    return inputs


def exported(core: DenseCore, inputs: Sequence[torch.Tensor]) -> torch.export.ExportedProgram:
    """A core as a graph of torch (`torch.export`); any number of candidates fits."""
    n = torch.export.Dim("n", min=1, max=1_000_000)
    shapes = [{0: n} if len(i) > 1 else {} for i in inputs[:6]]
    rest: tuple[Any, ...] = (tuple({} for _ in inputs[6:]),) if len(inputs) > 6 else ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about torch
        return torch.export.export(core.eval(), tuple(inputs), dynamic_shapes=(*shapes, *rest), strict=False)


def export(core: DenseCore, inputs: Sequence[torch.Tensor], path: Path) -> None:
    """Write a core as ONNX."""
    names = [f"in{k}" for k in range(len(inputs))]
    # Left to itself, the ONNX exporter would quietly fix the number of candidates where the export fails.
    graph = exported(core, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(graph, dynamo=True, input_names=names, verbose=False)
    assert program is not None
    program.save(str(path), external_data=False)


def compile_core(core: DenseCore, inputs: Sequence[torch.Tensor], path: Path) -> None:
    """Write a core as machine code (AOTInductor); this needs a C++ compiler, and minutes."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch._inductor.aoti_compile_and_package(exported(core, inputs), package_path=str(path))


def quantise(source: Path, target: Path) -> None:
    """Dynamic int8 of all matrix products: weights by output channel, inputs by their range in each call."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(source).graph
    matrices = {i.name for i in graph.initializer if len(i.dims) == 2}
    products = [n for n in graph.node if n.op_type == "MatMul"]
    # Products of two activations (attention, pooling) and stacks of small matrices stay as they are.
    left = [n.name for n in products if n.input[1] not in matrices]
    with _unadvised():
        quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8, nodes_to_exclude=left)


@contextmanager
def _unadvised() -> Iterator[None]:
    """Without the advice to pre-process, which dynamic int8 of matrix products does not need.

    It is given to the root logger, which would put a handler on whatever standard error is now, for good.
    """
    root, silent = logging.getLogger(), logging.NullHandler()

    def other(record: logging.LogRecord) -> bool:
        return "pre-processing before quantization" not in record.getMessage()

    root.addHandler(silent)
    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)
        root.removeHandler(silent)


def identity(rec: Recommender) -> str:
    """Names everything that an exported core depends on: its weights and its wiring."""
    tables = ("embeddings.", "wide.weight", "curve_effects.")
    digest = hashlib.sha256()
    config = rec.project.config
    parts = [FORMAT, torch.__version__, reads_hidden(rec), json.loads(config.ranker.model_dump_json())]
    parts += [json.loads(f.model_dump_json()) for f in config.features]
    parts += [json.loads(e.model_dump_json()) for e in config.entities.values()]
    digest.update(json.dumps(parts, sort_keys=True).encode())
    for name, value in sorted(rec.ranker.state_dict().items()):
        if not name.startswith(tables):
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def reads_hidden(rec: Recommender) -> bool:
    """Whether a part beside the ranker asks for its last hidden layer."""
    return any(part.reads_hidden for part in rec.parts.values())


def core_of(rec: Recommender) -> DenseCore:
    """The core of a version."""
    return DenseCore(rec.ranker.eval(), make_plan(rec.pipeline, rec.ranker), reads_hidden(rec))


def folder_of(rec: Recommender) -> Path:
    """Where the exported core of a version stands; versions with the same weights share it."""
    return rec.project.output / "engines" / identity(rec)


def prepare(rec: Recommender, bundle: Path, name: str = FLOAT32) -> Path:
    """The exported core of a version, made in another process if it is not there.

    Exporting takes seconds of Python: in the server's own process it would delay requests.

    Parameters
    ----------
    name
        `FLOAT32` (ONNX) or `COMPILED`.

    Raises
    ------
    RuntimeError
        If the export fails; the message is that of the other process.
    """
    path = folder_of(rec) / name
    if path.is_file():
        return path
    command = [sys.executable, "-m", "memberwise.serving.engine", str(bundle), name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"the ranker is not exported after {_PATIENCE} s") from error
    if done.returncode or not path.is_file():
        raise RuntimeError(f"the ranker cannot be exported: {done.stderr.strip()[-2000:]}")
    return path


def fast_engine(rec: Recommender, bundle: Path, name: str) -> Engine:
    """The engine of a version; int8 only where `memberwise compress` has found it good enough."""
    if name == "aoti":
        try:
            return CompiledEngine(prepare(rec, bundle, COMPILED))
        except RuntimeError as error:  # no compiler, most of all
            log.warning("no machine code", extra={"fields": {"reason": str(error)}})
    path = prepare(rec, bundle)
    if name == "int8":
        small, gate = path.with_name("int8.onnx"), path.with_name(GATE)
        if small.is_file() and gate.is_file() and json.loads(gate.read_text())["passed"]:
            return OnnxEngine(small, "int8")
        reason = "the gate has refused it" if gate.is_file() else "run: memberwise compress PROJECT"
        log.warning("no int8", extra={"fields": {"reason": reason}})
    return OnnxEngine(path, "float32")


def make(rec: Recommender, name: str = FLOAT32) -> Path:
    """Export the core of a version, here and now."""
    folder = folder_of(rec)
    folder.mkdir(parents=True, exist_ok=True)
    plan = make_plan(rec.pipeline, rec.ranker)
    core = core_of(rec)
    partial = folder / f"partial-{os.getpid()}{Path(name).suffix}"
    try:
        write = export if name == FLOAT32 else compile_core
        write(core, example(rec.ranker, plan, 3), partial)
        partial.replace(folder / name)
    finally:
        partial.unlink(missing_ok=True)
    return folder / name


if __name__ == "__main__":
    os.nice(10)
    make(Recommender.load(sys.argv[1]), sys.argv[2])
