"""The process group of a run, in two processes of torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import gc, weakref
import torch
import torch.distributed as dist
from clipfast.training.processes.world import join_world

with join_world("cpu") as world:
    group = weakref.ref(dist.group.WORLD)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    del model
    gc.collect()
print("gone" if group() is None else "alive")
"""


def test_the_group_is_gone_when_the_run_has_left_it(tmp_path: Path) -> None:
    """What outlives it would take gloo's threads to the end of the interpreter, where they may abort the process."""
    (tmp_path / "script.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*launcher, str(tmp_path / "script.py")], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout.count("gone"), done.stdout.count("alive")) == (2, 0)
