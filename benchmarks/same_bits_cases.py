"""The calls of the losses that ``same_bits.py`` makes in both checkouts: grids, errors, and a sample drawn from a seed.

What each loss accepts is written out here. The declarations of one checkout say nothing of the other, which may be older than
they are, and both must get the same calls.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

LOSSES, REDUCTIONS, STRATEGIES = ("clip", "info_nce", "nt_xent", "siglip"), ("mean", "sum", "none"), ("ring", "gather")
MODULES, WITH_TARGETS = ("clip", "siglip"), ("clip", "info_nce")
DTYPES, BACKENDS = ("float32", "bfloat16", "float16", "float64"), (None, "cpu", "torch", "reference")
INPUTS, YES_OR_NO = ("a", "b", "scale", "bias"), (False, True)
WANTS = tuple(wants for count in range(5) for wants in itertools.combinations(INPUTS, count))
SMALL, SWEPT, LARGE = (20, 20), (500, 500), (2100, 2100)
# Up to 384 * 384 logits (192 pairs for NT-Xent) a batch runs as one tile or as the reference; from 1100 on in several tiles.
SQUARES = ((1, 1), (2, 2), SMALL, (192, 192), (193, 193), (384, 384), (385, 385), SWEPT, (1100, 1100))
RECTANGLES = ((20, 50), (50, 20), (500, 300), (300, 1100), (1100, 700))


@dataclass(frozen=True)
class Case:
    """One call. With a ``strategy`` two ranks make it; the second has ``uneven`` more rows and columns."""

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
    weighted: bool = False  # the upstream gradient is not 1
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
        """One where index_put_ adds the gradients of rows that share a column: two threads would add them in any order."""
        return 1 if self.targets == "shared" or self.strategy else 2

    @property
    def workspace_bytes(self) -> int | None:
        """The sizes, in numbers: the fewest that hold a tile, one less, larger tiles, some tiles kept between passes, all."""
        fewest = 2 * 64 * (64 + self.width)
        sizes = {"smallest": fewest, "too small": fewest - 1, "small": 2**17, "some kept": 4_300_000, "all kept": 2**26}
        itemsize = 8 if self.dtype == "float64" else 4
        return None if self.workspace == "default" else sizes[self.workspace] * itemsize


def grid(loss: str, **options: Any) -> Iterator[Case]:
    """Every combination of the options' choices."""
    for values in itertools.product(*options.values()):
        yield Case(loss, **dict(zip(options, values, strict=True)))


def chosen(loss: str) -> Iterator[Case]:
    """Cases that a sample might miss."""
    yield from grid(loss, size=SQUARES, backend=BACKENDS)
    yield from grid(loss, size=[SWEPT], dtype=DTYPES, reduction=REDUCTIONS, normalize=YES_OR_NO, weighted=[True])
    yield from grid(loss, size=(SMALL, SWEPT), reduction=("mean", "none"), wants=WANTS)
    yield from grid(loss, dtype=DTYPES, numbers=DTYPES, normalize=YES_OR_NO, weighted=[True])
    yield from grid(loss, size=[LARGE], workspace=("smallest", "small", "default", "some kept"))
    # No window of float32 (at scale 3000: of float64) holds the exponentials of these logits, so the exact path runs.
    yield from grid(loss, size=[SWEPT], scale=[300.0], regime=("converged", "opposite"), backend=BACKENDS, again=YES_OR_NO)
    yield Case(loss, SWEPT, dtype="float64", scale=3000.0)
    yield Case(loss, LARGE, scale=300.0, workspace="some kept")
    yield from grid(loss, size=(SMALL, SWEPT), regime=("nan", "zeros", "overflow"), dtype=DTYPES, normalize=YES_OR_NO)
    apis = ("autocast", "cached", "create_graph", *(["module"] if loss in MODULES else []))
    yield from grid(loss, size=(SMALL, SWEPT), api=apis, weighted=[True])


def wrong(loss: str) -> Iterator[Case]:
    """Mostly errors: their classes must stay the same."""
    yield from grid(loss, targets=("shared", "outside", "all ignored"), reduction=REDUCTIONS)
    yield from grid(loss, dtype=["float64"], backend=["cpu", "cuda", "unknown"])
    yield from (Case(loss, (20, 10)), Case(loss, reduction="max"), Case(loss, scale=float("inf")))
    yield Case(loss, backend="torch", workspace="too small")


def drawn(chance: random.Random, **fixed: Any) -> Case:
    """A case in which any number of options may differ from the defaults."""
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
    """``case``, changed where the call would be an error."""
    targets = case.targets if case.loss in WITH_TARGETS else ""
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
    yield from (Case(loss, api="module", strategy=s, uneven=5) for loss in MODULES for s in STRATEGIES)
    yield from (Case(loss, api="cached", strategy=s, uneven=5) for loss in LOSSES for s in STRATEGIES)
    yield from (Case(targets="all ignored", strategy="ring"), Case(backend="reference", strategy="ring"))
