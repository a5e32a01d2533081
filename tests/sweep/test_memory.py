"""Peak memory, measured by the kernel in a process of its own (Linux)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import CLIP, LOSSES, Loss, each_sweep, error, random_pairs

from clipfast.common.limits import limits
from clipfast.sweep.schedule import Budget, Extent, Schedule
from clipfast.sweep.tile_operations import Workspace

MIB = 2**20
FEATURES = 16_384 * 512 * 4
PROBE = """
import json, resource, sys, time
import torch
sys.path.insert(0, sys.argv[1])
from helpers import LOSSES

name, n, d, options = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), json.loads(sys.argv[5])
loss = next(x for x in LOSSES if x.name == name)

def resident(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))

def step(n):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, d, generator=generator).requires_grad_() for _ in range(2))
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")  # the high-water mark starts again from what is resident now
    before = resident("VmRSS")
    start = time.perf_counter()
    value = loss(a, b, loss.knob(10.0), normalize=True, **options)
    value.backward()
    seconds, extra = time.perf_counter() - start, resident("VmHWM") - before
    assert value.isfinite() and a.grad.isfinite().all() and b.grad.isfinite().all()
    return {"extra": extra, "gradients": 8 * n * d, "seconds": seconds, "value": value.item()}

step(2048)  # libraries, thread pools, generated code and their buffers
print(json.dumps(step(n)))
"""


def probe(loss: Loss, n: int, d: int, **options) -> dict[str, float]:
    command = [
        sys.executable,
        "-c",
        PROBE,
        str(Path(__file__).parents[1] / "support"),
        loss.name,
        str(n),
        str(d),
        json.dumps(options),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "clear_refs" in done.stderr:
        pytest.skip("the kernel does not let a process reset its high-water mark")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_extra_memory_is_the_gradients_and_the_workspace(loss: Loss) -> None:
    """16,384 rows of 512: a dense matrix of logits takes 1 GiB, its gradient another."""
    used = probe(loss, loss.pairs(16_384), 512)
    assert used["extra"] <= used["gradients"] + 64 * MIB, f"{(used['extra'] - used['gradients']) / MIB:.0f} MiB"


@linux
def test_a_batch_whose_logits_alone_would_take_17_gigabytes() -> None:
    n = 65_536
    used = probe(CLIP, n, 64)
    vectors = 16 * 8 * 2 * n  # norms, sums, losses: a few float64 numbers per row and column, little beside wider features
    assert used["extra"] <= used["gradients"] + 64 * MIB + vectors, f"{(used['extra'] - used['gradients']) / MIB:.0f} MiB"


@linux
def test_a_smaller_workspace_is_a_smaller_peak() -> None:
    peaks = {mib: probe(CLIP, 4096, 64, workspace_bytes=mib * MIB) for mib in (4, 64, 128)}
    for mib, used in peaks.items():
        assert used["extra"] <= used["gradients"] + (mib + 8) * MIB  # 8: what the library packs, and the allocator rounds
    assert peaks[4]["extra"] < peaks[64]["extra"] < peaks[128]["extra"]
    assert len({round(used["value"], 4) for used in peaks.values()}) == 1


@each_sweep
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_the_smallest_workspace_gives_the_same_result(loss: Loss, backend: str) -> None:
    results = []
    for workspace_bytes in (4 * 2 * 64 * (64 + 24), 2**20, 2**26):
        a, b = (x.float().requires_grad_() for x in random_pairs(300, 24))
        value = loss(a, b, loss.knob(10.0), backend=backend, workspace_bytes=workspace_bytes)
        value.backward()
        results.append((value.detach(), a.grad, b.grad))
    for other in results[1:]:
        assert all(error(x, y) < 1e-6 for x, y in zip(results[0], other, strict=True))


def test_the_budget_is_divided_within_its_bound() -> None:
    for workspace in (2**18, 2**22, 2**26, 2**28):
        for width in (1, 64, 256):
            budget = Budget(workspace, 4, width)
            side = budget.side
            assert 64 <= side <= limits().tile_side
            assert side % 64 == 0
            assert 4 * 2 * side * (side + width) <= workspace
    message = "workspace_bytes must be at least 36864, which one tile of features 8 wide takes; got 100"
    with pytest.raises(ValueError, match=message):
        Budget(100, 4, 8)


def test_pass_2_finds_the_tiles_that_pass_1_kept() -> None:
    """Ragged tiles in memory for 100 elements: the same ones in both passes, though a smaller one would fit later."""
    schedule = Schedule(Extent(20, (20,)), side=8, height=8, kept=100, exact_side=8)
    kept = [tile for tile in schedule.tiles(0) if tile.slot is not None]
    assert [(tile.slot, tile.area) for tile in kept] == [(0, 36), (36, 42)]
    workspace = Workspace(torch.zeros(1), torch.arange(100.0), schedule.largest)
    assert all(workspace.kept(tile)[0, 0] == tile.slot for tile in kept)
