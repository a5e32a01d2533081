"""Whether the losses on the CPU give the same bits as another checkout's: for changes that must not change a result.

    git worktree add /tmp/before COMMIT && (cd /tmp/before && python setup.py build_ext --inplace)
    python benchmarks/same_bits.py --other /tmp/before [--here PATH] [--only TEXT]

Each checkout runs in processes of its own and is called through public functions alone. The calls are those of
``same_bits_cases.py``. A case draws its inputs from a seed and leaves a digest of all that the call returns: value, gradients
and statistics, or the class of its error. Prints the cases that differ, and by how much; the exit status is 1 if there are any.
``--only`` takes the cases whose name contains TEXT.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from same_bits_cases import INPUTS, Case, one_process_cases, two_rank_cases
from torch import Tensor, nn


class Call:
    """A case on one rank: its inputs, and the loss called with them."""

    def __init__(self, case: Case, rank: int, group: dist.ProcessGroup | None) -> None:
        self.case, self.group = case, group
        self.rows, self.cols = (count + rank * case.uneven for count in case.size)
        self.generator = torch.Generator().manual_seed(zlib.crc32(case.name.encode()) + rank)
        self.inputs, self.targets = self._inputs(), self._targets() if case.targets else None

    def _unit(self, rows: int) -> Tensor:
        x = torch.randn(rows, self.case.width, generator=self.generator, dtype=torch.float64)
        return F.normalize(x, dim=1)

    def _features(self) -> list[Tensor]:
        a, b, regime, paired = self._unit(self.rows), self._unit(self.cols), self.case.regime, min(self.rows, self.cols)
        if regime == "converged":
            b[:paired] = F.normalize(a[:paired] + 0.1 * b[:paired], dim=1)
        elif regime == "opposite":  # every pair's cosine is close to -1
            centre = self._unit(1)
            a, b = F.normalize(centre + 0.1 * a, dim=1), F.normalize(0.1 * b - centre, dim=1)
        elif regime == "norms":
            a, b = a * torch.logspace(-1, 1, self.rows).unsqueeze(1), b * torch.logspace(1, -1, self.cols).unsqueeze(1)
        elif regime != "untrained":
            a[0] = b[-1] = torch.full((self.case.width,), {"nan": torch.nan, "zeros": 0.0, "overflow": 1e25}[regime])
        dtypes = (self.case.dtype, "bfloat16" if self.case.api == "autocast" else self.case.dtype)
        given = [x.to(getattr(torch, dtype)) for x, dtype in zip((a, b), dtypes, strict=True)]
        return [x.t().contiguous().t() if self.case.strided else x for x in given]

    def _inputs(self) -> dict[str, Any]:
        """The loss's arguments by name. NT-Xent takes a temperature in place of the scale."""
        case, scale = self.case, self.case.scale
        if case.loss == "nt_xent":
            scale = 1 / scale if scale else float("inf")
        given: dict[str, Any] = dict(zip(INPUTS, (*self._features(), scale, -10.0), strict=True))
        if case.loss in ("info_nce", "nt_xent") or (case.loss == "clip" and "bias" not in case.wants):
            del given["bias"]
        for name in ("scale", "bias"):
            if name in given and (case.tensors or name in case.wants):
                value = [given[name]] if case.numbers == "float64" else given[name]  # with one dimension, or none
                given[name] = torch.tensor(value, dtype=getattr(torch, case.numbers))
        return {k: x.requires_grad_(k in case.wants) if isinstance(x, Tensor) else x for k, x in given.items()}

    def _targets(self) -> Tensor:
        """Each row's column, of its own or a "shared" one; -100 for none, and unless "permuted" for every third row."""
        shared, kind = torch.randint(self.cols, (self.rows,), generator=self.generator), self.case.targets
        own = torch.randperm(max(self.rows, self.cols), generator=self.generator)[: self.rows]
        found = shared if kind == "shared" else own.where(own < self.cols, -100)
        if kind != "permuted":
            found[:: 1 if kind == "all ignored" else 3] = self.cols if kind == "outside" else -100
        return found

    def loss(self, *inputs: Any) -> Any:
        import clipfast

        case, options = self.case, {}
        if self.group:
            options = {"group": self.group, "strategy": case.strategy, "gradient_reduction": case.gradient_reduction}
        if case.api == "module":
            return {"clip": clipfast.ClipLoss, "siglip": clipfast.SigLipLoss}[case.loss](**options)(*inputs)
        options |= {"normalize": case.normalize, "reduction": case.reduction, "workspace_bytes": case.workspace_bytes}
        options |= {"targets": self.targets} if case.targets else {}
        options |= {"return_stats": True} if case.stats else {}
        return getattr(clipfast, f"{case.loss}_loss")(*inputs, backend=case.backend, **options)

    def outputs(self) -> dict[str, Tensor]:
        if self.case.api == "cached":
            return self._cached()
        api, grad = self.case.api, torch.no_grad() if self.case.api == "no_grad" else torch.enable_grad()
        with grad, torch.autocast("cpu", enabled=api == "autocast"):
            result = self.loss(*self.inputs.values())
        value, stats = result if self.case.stats else (result, None)
        found = {} if stats is None else {f"stats.{name}": x for name, x in stats._asdict().items()}
        return {"value": value.detach(), **found, **(self._gradients(value) if value.requires_grad else {})}

    def _gradients(self, value: Tensor) -> dict[str, Tensor]:
        wanted = {k: x for k, x in self.inputs.items() if isinstance(x, Tensor) and x.requires_grad}
        if self.case.weighted:
            value = value * (torch.randn(value.shape, generator=self.generator, dtype=value.dtype) if value.dim() else 3.0)
        found, options = {}, {"retain_graph": True, "create_graph": self.case.api == "create_graph", "allow_unused": True}
        for time in range(1 + self.case.again):
            gradients = torch.autograd.grad(value.sum(), list(wanted.values()), **options)
            found |= {f"gradient {time} of {k}": g.detach() for k, g in zip(wanted, gradients, strict=True) if g is not None}
        return found

    def _cached(self) -> dict[str, Tensor]:
        """Gradient caching over towers of one layer each."""
        import clipfast

        torch.manual_seed(0)
        towers, (a, b, *rest) = [nn.Linear(self.case.width, self.case.width) for _ in range(2)], self.inputs.values()
        result = clipfast.CachedStep(towers, lambda x, y: self.loss(x, y, *rest), chunk_size=7)(a.detach(), b.detach())
        leaves = [*rest, *(x for tower in towers for x in tower.parameters())]
        grads = [x.grad for x in leaves if isinstance(x, Tensor) and x.grad is not None]
        return {"value": result.loss, **{f"gradient {i}": grad for i, grad in enumerate(grads)}}


def bits(x: Tensor) -> Tensor:
    return x.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def outcome(call: tuple[Case, int, dist.ProcessGroup | None], folder: Path) -> str:
    """The digest of what the call returns, which stays in ``folder`` under that name; or the class of its error."""
    torch.set_num_threads(call[0].threads)
    try:
        found = Call(*call).outputs()
    except Exception as error:
        return type(error).__name__
    digest = hashlib.sha256()
    for name, x in found.items():
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode() + bits(x).numpy().tobytes())
    torch.save(found, folder / digest.hexdigest())
    return digest.hexdigest()


def record(cases: Iterator[Case], only: str, folder: Path, rank: int = 0, group: dist.ProcessGroup | None = None) -> None:
    """Write a line of JSON for each case."""
    name = f" rank={rank}" if group else ""
    with open(folder / f"cases{name}.jsonl", "w", buffering=1) as file:
        for case in dict.fromkeys(cases):
            if only in case.name:
                line = {"case": case.name + name, "found": outcome((case, rank, group), folder)}
                file.write(json.dumps(line) + "\n")


def one_rank(rank: int, folder: Path, only: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store, patience = f"file://{folder}/store", timedelta(seconds=30)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=patience)
    record(two_rank_cases(), only, folder, rank, dist.group.WORLD)
    dist.barrier()  # no rank leaves while the other still exchanges
    dist.destroy_process_group()


def record_checkout(checkout: Path, folder: Path, only: str) -> None:
    """Run all cases in this process, whose path must begin with ``checkout``."""
    import clipfast

    if Path(clipfast.__file__).resolve().parents[1] != checkout:
        raise SystemExit(f"{checkout}: clipfast was imported from {clipfast.__file__}")
    usable = " ".join(name for name, reason in clipfast.backends().items() if reason is None)
    (folder / "backends.jsonl").write_text(json.dumps({"case": "usable backends", "found": usable}) + "\n")
    record(one_process_cases(), only, folder)
    torch.multiprocessing.spawn(one_rank, (folder, only), nprocs=2)


def found_by(checkout: Path, folder: Path, only: str) -> dict[str, str]:
    folder.mkdir()
    command = [sys.executable, str(Path(__file__).resolve()), "--record", str(folder), "--here", str(checkout), "--only", only]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_WAIT_POLICY": "passive"}
    status = subprocess.run(command, env=environment, cwd=folder, check=False).returncode
    lines = [json.loads(line) for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]
    if status:
        raise SystemExit(f"{checkout}: exit status {status} after {lines[-1]['case'] if lines else 'no case'}")
    return {line["case"]: line["found"] for line in lines}


def difference(here: Path, there: Path) -> str:
    """Which output of a case differs first, and by how much. The paths' names are the findings; an error has no file."""
    if not (here.is_file() and there.is_file()):
        return f"{here.name[:20]} here, {there.name[:20]} there"
    mine, theirs = (torch.load(path, weights_only=True) for path in (here, there))
    for name, x in mine.items():
        y = theirs.get(name)
        if y is None or (x.dtype, x.shape) != (y.dtype, y.shape):
            return f"{name}: {x.dtype} {tuple(x.shape)} here, {'nothing' if y is None else (y.dtype, tuple(y.shape))} there"
        other = bits(x) != bits(y)
        if other.any():
            largest = float((x.double() - y.double())[other].abs().max())
            return f"{name}: {int(other.sum())} of {x.numel()} numbers differ, by {largest:.3g} at most"
    return f"{', '.join(theirs.keys() - mine.keys())}: only there"


def compare(checkouts: tuple[Path, Path], only: str) -> int:
    with tempfile.TemporaryDirectory() as name:
        folders = Path(name) / "here", Path(name) / "there"
        mine, theirs = (found_by(path.resolve(), folder, only) for path, folder in zip(checkouts, folders, strict=True))
        names = list(dict.fromkeys([*mine, *theirs]))
        different = [case for case in names if mine.get(case) != theirs.get(case)]
        for case in different:
            here, there = (folder / found.get(case, "missing") for folder, found in zip(folders, (mine, theirs), strict=True))
            print(f"{case}\n    {difference(here, there)}")
    errors = collections.Counter(found for found in mine.values() if found.endswith("Error"))
    print(f"{len(names)} cases, {len(names) - len(different)} equal; errors here: {dict(errors)}")
    return 1 if different else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required="--record" not in sys.argv, help="the checkout to compare with")
    parser.add_argument("--here", type=Path, default=Path(__file__).parents[1], help="this checkout")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.record:
        return compare((options.here, options.other), options.only)
    record_checkout(options.here, options.record, options.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
