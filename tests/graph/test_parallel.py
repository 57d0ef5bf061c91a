"""Two processes that train one model make the steps that one process makes on the batches of both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memberwise.graph.config import GraphTrainingConfig
from memberwise.graph.feed import BatchRequest
from memberwise.graph.link_batch import LinkBatch
from memberwise.graph.linking import link_loss
from memberwise.graph.optimizer import GraphOptimizer
from memberwise.graph.parallel import Team
from memberwise.nn.checkpoint import load_tensors, save_tensors
from support.graphs import communities, small, world

TESTS = Path(__file__).resolve().parent.parent


def _moved(folder: Path, rank: int, size: int) -> None:
    """Two steps of a process on its own batches, the second with a longer message, and the weights then."""
    w = world(communities(), small())
    w.model.eval()
    w.model.input.train()  # so that the id table learns, without dropout
    w.model.input.id_dropout = 0.0
    config = GraphTrainingConfig(accumulate=4 // size, optimizer_scaling="none", clip_norm=0.1)
    optimizer = GraphOptimizer(w.model, config, 10, Team(rank, size))
    for step, fan_out in enumerate((2, 5)):
        for index in range(rank, 4, size):
            arrays = w.feed(32).batch(BatchRequest(4 * step + index, fan_out, 4, 0))
            batch = LinkBatch.from_arrays(arrays, w.table.numbers.types)
            optimizer.add(link_loss(w.model, batch, config))
        assert optimizer.ready
        optimizer.step(5 + step)
    save_tensors(folder / f"{size}-{rank}.safetensors", w.model.state_dict(), {})


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import torch.distributed as dist\n"
        "from pathlib import Path; from graph.test_parallel import _moved\n"
        "folder, rank = Path(sys.argv[2]), int(sys.argv[3])\n"
        "dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2)\n"
        "_moved(folder, rank, 2); dist.destroy_process_group(); print(json.dumps('done'))"
    )
    command = [sys.executable, "-c", code, str(TESTS), str(tmp_path)]
    processes = [subprocess.Popen([*command, str(r)], stdout=subprocess.PIPE) for r in range(2)]
    for process in processes:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        assert json.loads(out.splitlines()[-1]) == "done"
    _moved(tmp_path, 0, 1)
    one, *two = (load_tensors(tmp_path / f"{n}.safetensors")[0] for n in ("1-0", "2-0", "2-1"))
    for name, value in one.items():
        assert torch.equal(two[0][name], two[1][name]), name
        torch.testing.assert_close(
            two[0][name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
