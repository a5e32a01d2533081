"""The machine model: one rank's device and its links, as a few rates, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from clipfast.common.toml_files import read_toml
from clipfast.plan.problem import DEVICES

DEFAULT, FILE, FLAG, MEASURED = "default", "file", "flag", "measured here"


@dataclass(frozen=True)
class Machine:
    """One rank. Rates are per rank and per direction; GB and Tflop are powers of ten, GiB of two.

    The defaults are an H200 in a node of eight: product and copy rates seen on one such GPU (bfloat16; the float32 and
    float64 rates are its data sheet's), links at 80% of the data sheets of NVLink and of a 400 Gb/s network card for each
    GPU. Share, overhead and latencies are assumptions.
    """

    name: str = "H200, eight to a node, 400 Gb/s network for each (assumed)"
    device: str = "cuda"
    product_tflops: float = 780.0
    """Of large products in the features' dtype."""
    sweep_share: float = 0.6
    """Of that rate, what the sweep reaches with everything it does beside its products."""
    copy_gb_s: float = 4300.0
    """Of memory, bytes read plus bytes written."""
    tile_us: float = 20.0
    """Of starting one tile in one pass, which adds to its arithmetic."""
    memory_gib: float = 139.0
    node_ranks: int = 8
    node_gb_s: float = 360.0
    node_us: float = 5.0
    """Of starting one message."""
    network_gb_s: float = 40.0
    network_us: float = 15.0
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Of the figures that are no defaults."""

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise ValueError(f"device must be one of {', '.join(DEVICES)}; got {self.device!r}")
        for name in FIGURES:
            _check(name, getattr(self, name))
        if self.node_ranks != int(self.node_ranks):
            raise ValueError(f"node_ranks must be a whole number; got {self.node_ranks}")

    def source(self, name: str) -> str:
        return self.sources.get(name, DEFAULT)

    def updated(self, source: str, **values: Any) -> Machine:
        """With ``values`` in place of its own, each marked as coming from ``source``."""
        return replace(self, sources={**self.sources, **dict.fromkeys(values, source)}, **values)

    def figures(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "sources"}


FIGURES = tuple(f.name for f in fields(Machine) if f.name not in ("name", "device", "sources"))
NOTHING_ALLOWED = ("tile_us", "node_us", "network_us")
PRODUCT_TFLOPS = {"bfloat16": 780.0, "float16": 780.0, "float32": 67.0, "float64": 67.0}


def _check(name: str, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < float("inf") or (value == 0 and name not in NOTHING_ALLOWED):
        raise ValueError(f"{name} must be a finite number above 0; got {value!r}")


def default(dtype: str) -> Machine:
    return Machine(product_tflops=PRODUCT_TFLOPS[dtype])


def read(path: Path, dtype: str) -> Machine:
    """A machine from a TOML file of ``Machine``'s fields; ``product_tflops`` may be a table by dtype.

    Raises ValueError for a file that cannot be read or says something else.
    """
    given = read_toml(path)
    unknown = sorted(given.keys() - {"name", "device", *FIGURES})
    if unknown:
        raise ValueError(f"{path}: unknown {', '.join(unknown)}; accepted: name, device, {', '.join(FIGURES)}")
    rates = given.get("product_tflops")
    if isinstance(rates, dict):
        if dtype not in rates:
            raise ValueError(f"{path}: the table product_tflops has no {dtype}; it has {', '.join(rates) or 'nothing'}")
        given["product_tflops"] = rates[dtype]
    try:
        return default(dtype).updated(FILE, **{"name": path.stem, **given})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
