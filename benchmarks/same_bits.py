"""Whether the losses on the CPU give, bit for bit, what another checkout's give: for a change that is to change no result.

    git worktree add /tmp/before COMMIT && (cd /tmp/before && python setup.py build_ext --inplace)
    python benchmarks/same_bits.py --other /tmp/before [--here PATH] [--only TEXT]

Each checkout runs in processes of its own, through public functions alone. A case has its inputs from a seed and leaves a
digest of all that the call gives: value, gradients and statistics, or the class of its error. Prints the cases that differ,
and by how much; the exit status is 1 if there are any. ``--only`` takes the cases whose name contains TEXT.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

LOSSES, REDUCTIONS, STRATEGIES = ("clip", "info_nce", "nt_xent", "siglip"), ("mean", "sum", "none"), ("ring", "gather")
DTYPES, BACKENDS = ("float32", "bfloat16", "float16", "float64"), (None, "cpu", "torch", "reference")
INPUTS, YES_OR_NO = ("a", "b", "scale", "bias"), (False, True)
WANTS = tuple(wants for count in range(5) for wants in itertools.combinations(INPUTS, count))
SMALL, SWEPT, LARGE = (20, 20), (500, 500), (2100, 2100)
# Up to 384 * 384 logits (192 pairs of NT-Xent's) a batch runs as one tile or as the reference; from 1100 on there are several.
SQUARES = ((1, 1), (2, 2), SMALL, (192, 192), (193, 193), (384, 384), (385, 385), SWEPT, (1100, 1100))
RECTANGLES = ((20, 50), (50, 20), (500, 300), (300, 1100), (1100, 700))


@dataclass(frozen=True)
class Case:
    """One call. With a ``strategy`` two ranks make it, of which the second has ``uneven`` more rows and columns."""

    loss: str = "clip"
    size: tuple[int, int] = SMALL
    width: int = 64
    dtype: str = "float32"
    regime: str = "untrained"
    strided: bool = False
    scale: float = 14.3
    wants: tuple[str, ...] = INPUTS
    tensors: bool = False  # scale and bias are tensors even where no gradient is wanted
    numbers: str = "float32"  # their dtype
    targets: str = ""
    normalize: bool = False
    reduction: str = "mean"
    stats: bool = False
    backend: str | None = None
    workspace: str = "default"
    api: str = "function"
    weighted: bool = False  # the gradient from above is not one
    again: bool = False  # a second backward pass
    strategy: str = ""
    uneven: int = 0
    gradient_reduction: str = "mean"

    @property
    def name(self) -> str:
        told = {k: v for k, v in asdict(self).items() if k in ("loss", "size") or v != getattr(Case, k)}
        return " ".join(f"{k}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in told.items())

    @property
    def threads(self) -> int:
        """Gradients of rows that share a column are added by index_put_: with two threads in the order in which they come."""
        return 1 if self.targets == "shared" or self.strategy else 2

    @property
    def workspace_bytes(self) -> int | None:
        """Of elements: the fewest that hold a tile, one less, larger tiles, some tiles kept between the passes, and all."""
        fewest = 2 * 64 * (64 + self.width)
        sizes = {"smallest": fewest, "too small": fewest - 1, "small": 2**17, "some kept": 4_300_000, "all kept": 2**26}
        itemsize = 8 if self.dtype == "float64" else 4
        return None if self.workspace == "default" else sizes[self.workspace] * itemsize


def grid(loss: str, **options: Any) -> Iterator[Case]:
    """Every combination of the options' choices."""
    for values in itertools.product(*options.values()):
        yield Case(loss, **dict(zip(options, values, strict=True)))


def chosen(loss: str) -> Iterator[Case]:
    """What a sample might miss."""
    yield from grid(loss, size=SQUARES, backend=BACKENDS)
    yield from grid(loss, size=[SWEPT], dtype=DTYPES, reduction=REDUCTIONS, normalize=YES_OR_NO, weighted=[True])
    yield from grid(loss, size=(SMALL, SWEPT), reduction=("mean", "none"), wants=WANTS)
    yield from grid(loss, dtype=DTYPES, numbers=DTYPES, normalize=YES_OR_NO, weighted=[True])
    yield from grid(loss, size=[LARGE], workspace=("smallest", "small", "default", "some kept"))
    # No window of float32 (at 3000, of float64) holds these logits: the range guard takes the exact path.
    yield from grid(loss, size=[SWEPT], scale=[300.0], regime=("converged", "opposite"), backend=BACKENDS, again=YES_OR_NO)
    yield Case(loss, SWEPT, dtype="float64", scale=3000.0)
    yield Case(loss, LARGE, scale=300.0, workspace="some kept")
    yield from grid(loss, size=(SMALL, SWEPT), regime=("nan", "zeros", "overflow"), dtype=DTYPES, normalize=YES_OR_NO)
    apis = ("autocast", "cached", "create_graph", *(["module"] if loss in ("clip", "siglip") else []))
    yield from grid(loss, size=(SMALL, SWEPT), api=apis, weighted=[True])


def wrong(loss: str) -> Iterator[Case]:
    """Most of these are errors, whose classes must stay."""
    yield from grid(loss, targets=("shared", "outside", "all ignored"), reduction=REDUCTIONS)
    yield from grid(loss, dtype=["float64"], backend=["cpu", "cuda", "unknown"])
    yield from (Case(loss, (20, 10)), Case(loss, reduction="max"), Case(loss, scale=float("inf")))
    yield Case(loss, backend="torch", workspace="too small")


def drawn(chance: random.Random, **fixed: Any) -> Case:
    """A case that may differ from the default in anything at once."""
    options: dict[str, tuple] = {
        "loss": LOSSES, "size": (*SQUARES, *RECTANGLES), "width": (64, 64, 24, 37), "dtype": DTYPES, "strided": YES_OR_NO,
        "regime": ("untrained", "untrained", "converged", "opposite", "norms"), "scale": (14.3, 100.0, 300.0, 0.0, -20.0),
        "wants": (INPUTS, INPUTS, *WANTS), "tensors": YES_OR_NO, "numbers": DTYPES, "normalize": YES_OR_NO,
        "targets": ("", "permuted", "ignored", "shared"), "reduction": REDUCTIONS, "stats": YES_OR_NO,
        "backend": (None, *BACKENDS), "workspace": ("default", "smallest", "small", "some kept", "all kept"),
        "api": (*["function"] * 5, "no_grad"), "weighted": YES_OR_NO, "again": YES_OR_NO,
    }  # fmt: skip
    return served(Case(**{**{name: chance.choice(some) for name, some in options.items()}, **fixed}))


def served(case: Case) -> Case:
    """The nearest call that is no error."""
    targets = case.targets if case.loss in ("clip", "info_nce") else ""
    if case.loss == "clip" and targets == "shared":
        targets = "permuted"
    rows, cols = case.size
    square = not targets and (case.loss != "info_nce" or rows > cols)
    backend = "torch" if case.backend == "cpu" and case.dtype == "float64" else case.backend
    size, stats = (rows, rows) if square else case.size, case.stats and case.loss == "clip"
    return replace(case, size=size, targets=targets, backend=backend, stats=stats)


def one_process_cases() -> Iterator[Case]:
    for loss in LOSSES:
        yield from (*chosen(loss), *wrong(loss))
    chance = random.Random(0)
    yield from (drawn(chance) for _ in range(1500))
    strips = {"loss": "info_nce", "size": (1100, 1500), "backend": None, "workspace": "some kept", "reduction": "mean"}
    yield from (drawn(chance, **strips) for _ in range(20))  # both passes over a strip of rows at once


def two_rank_cases() -> Iterator[Case]:
    chance = random.Random(1)
    for loss, strategy, uneven, reduction in itertools.product(LOSSES, STRATEGIES, (0, 37), REDUCTIONS):
        fixed = {"loss": loss, "strategy": strategy, "uneven": uneven, "reduction": reduction, "api": "function"}
        for size, dtype in (((700, 750), "float32"), ((20, 20), chance.choice(DTYPES))):
            more = {"backend": chance.choice((None, "torch")), "gradient_reduction": chance.choice(("mean", "sum"))}
            yield drawn(chance, size=size, dtype=dtype, **fixed, **more)
    yield from (Case(loss, api="module", strategy=s, uneven=5) for loss in ("clip", "siglip") for s in STRATEGIES)
    yield from (Case(loss, api="cached", strategy=s, uneven=5) for loss in LOSSES for s in STRATEGIES)
    yield from (Case(targets="all ignored", strategy="ring"), Case(backend="reference", strategy="ring"))


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
        """By name. NT-Xent's scale is a temperature."""
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
        """Columns of their own, or shared ones; -100 for the rows that find none, and from "ignored" on for a third."""
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
    """The digest of what the call gives, which stays in ``folder`` under that name; or its error's class."""
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
    """A line of JSON for each case."""
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
    dist.barrier()  # nobody leaves while the other still exchanges
    dist.destroy_process_group()


def record_checkout(checkout: Path, folder: Path, only: str) -> None:
    """In a process that has ``checkout`` first on its path."""
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
    """The first output of a case that differs. The paths end in what was found, and errors have no files."""
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
