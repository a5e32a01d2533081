"""The machine model: one rank's device and its links, as a few rates, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from clipfast.common.argument_checks import check_choice
from clipfast.common.toml_files import read_toml
from clipfast.plan.problem import DEVICES

DEFAULT, FILE, FLAG, MEASURED = "default", "file", "flag", "measured here"


def _figure(default: float, unit: str = "", *, of_device: bool = False, may_be_zero: bool = False) -> Any:
    """A field with its unit. ``of_device``: the default is a GPU's and says nothing of a CPU."""
    return field(default=default, metadata={"unit": unit, "of_device": of_device, "may_be_zero": may_be_zero})


@dataclass(frozen=True)
class Machine:
    """One rank. Rates are per rank and per direction; GB and Tflop are powers of ten, GiB of two.

    The defaults are an H200 in a node of eight: product and copy rates as measured on one such GPU (bfloat16; the float32 and
    float64 rates are from its data sheet), links at 80% of the data sheets of NVLink and of a 400 Gb/s network card for each
    GPU. ``sweep_share``, ``tile_us`` and the latencies are assumptions.
    """

    name: str = "H200, eight to a node, 400 Gb/s network for each (assumed)"
    device: str = "cuda"
    product_tflops: float = _figure(780.0, "Tflop/s", of_device=True)
    """Rate of large products in the features' dtype."""
    sweep_share: float = _figure(0.6, of_device=True)
    """Share of that rate that the sweep reaches, with everything it does beside its products."""
    copy_gb_s: float = _figure(4300.0, "GB/s", of_device=True)
    """Rate of memory: bytes read plus bytes written."""
    tile_us: float = _figure(20.0, "us", of_device=True, may_be_zero=True)
    """Time to start one tile in one pass, which adds to its arithmetic."""
    memory_gib: float = _figure(139.0, "GiB", of_device=True)
    node_ranks: int = _figure(8)
    """Ranks that share a node."""
    node_gb_s: float = _figure(360.0, "GB/s")
    """Rate of a link within a node."""
    node_us: float = _figure(5.0, "us", may_be_zero=True)
    """Time to start one message within a node."""
    network_gb_s: float = _figure(40.0, "GB/s")
    """Rate of a link between nodes."""
    network_us: float = _figure(15.0, "us", may_be_zero=True)
    """Time to start one message between nodes."""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Where each figure comes from that is not a default."""

    def __post_init__(self) -> None:
        check_choice("device", self.device, DEVICES)
        for name in FIGURES:
            _check(name, getattr(self, name))
        if self.node_ranks != int(self.node_ranks):
            raise ValueError(f"node_ranks must be a whole number; got {self.node_ranks}")

    def source(self, name: str) -> str:
        return self.sources.get(name, DEFAULT)

    def updated(self, source: str, **values: Any) -> Machine:
        """This machine with ``values`` in place of its own, each marked as coming from ``source``."""
        return replace(self, sources={**self.sources, **dict.fromkeys(values, source)}, **values)

    def figures(self) -> dict[str, Any]:
        """Name, device and figures, without their sources."""
        return {name: getattr(self, name) for name in ("name", "device", *FIGURES)}


FIGURES = {f.name: f.metadata for f in fields(Machine) if "unit" in f.metadata}
"""What is declared of each figure, by name: its unit, whether it describes the device, whether 0 is allowed."""
PRODUCT_TFLOPS = {"bfloat16": 780.0, "float16": 780.0, "float32": 67.0, "float64": 67.0}


def _check(name: str, value: Any) -> None:
    may_be_zero = FIGURES[name]["may_be_zero"]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < float("inf") or (value == 0 and not may_be_zero):
        raise ValueError(f"{name} must be a finite number {'of at least' if may_be_zero else 'above'} 0; got {value!r}")


def default(dtype: str) -> Machine:
    """The assumed machine, with its rate of products in ``dtype``."""
    return Machine(product_tflops=PRODUCT_TFLOPS[dtype])


def read(path: Path, dtype: str) -> Machine:
    """A machine from a TOML file of ``Machine``'s fields; ``product_tflops`` may be a table by dtype.

    Raises ValueError, which names the file, for one that cannot be read or has anything else in it.
    """
    given = read_toml(path)
    accepted = ("name", "device", *FIGURES)
    unknown = sorted(given.keys() - set(accepted))
    if unknown:
        raise ValueError(f"{path}: keys must be among {', '.join(accepted)}; got {', '.join(unknown)}")
    rates = given.get("product_tflops")
    if isinstance(rates, dict):
        if dtype not in rates:
            raise ValueError(f"{path}: product_tflops must have an entry for {dtype}; got {', '.join(rates) or 'none'}")
        given["product_tflops"] = rates[dtype]
    try:
        return default(dtype).updated(FILE, **{"name": path.stem, **given})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
