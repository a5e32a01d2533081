"""A comparison as a table, as JSON, and as a picture of time and memory against N."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from clipfast.common.extras import require
from clipfast.common.files import write_atomically, write_json

MIB = 2**20


def table(comparison: dict) -> Table:
    """One size. A share above 1: faster than as many operations in plain products of that library."""
    rates = comparison["product_gflops"]
    libraries = ", ".join(f"{library} {rate:.0f} GFLOP/s" for library, rate in rates.items())
    loss, n, dim, dtype = (comparison[key] for key in ("loss", "n", "dim", "dtype"))
    title = f"{loss} loss, N = {n}, D = {dim}, {dtype}, forward + backward"
    result = Table(title=title, caption=f"Floor: the operations at the rate of plain products, {libraries}")
    for column in ("", "time", "speed-up", "extra memory", *(f"floor/time, {k}" for k in rates)):
        result.add_column(column, justify="left" if not column else "right", no_wrap=not column)
    base = next((r["median_s"] for r in comparison["results"] if "median_s" in r), None)
    for row in comparison["results"]:
        if "skipped" in row:
            result.add_row(row["name"], row["skipped"], *[""] * (2 + len(rates)))
            continue
        memory = "?" if row["peak_bytes"] is None else f"{row['peak_bytes'] / MIB:.0f} MiB"
        shares = [f"{row['floor_share'][k]:.2f}" for k in rates]
        result.add_row(row["name"], f"{row['median_s'] * 1e3:.1f} ms", f"{base / row['median_s']:.2f}x", memory, *shares)
    return result


def write_results(path: Path, environment: dict, comparisons: list[dict]) -> None:
    write_json(path, {"environment": environment, "comparisons": comparisons})


def new_figure(width: float, height: float, purpose: str = "the picture", extra: str = "bench", **options: Any) -> Any:
    """A figure of matplotlib without pyplot, whose global state and window toolkits a command has no use for.

    ImportError without matplotlib: ``purpose`` needs it, and ``extra`` brings it.
    """
    figure = require("matplotlib.figure", purpose, extra=extra).Figure
    return figure(figsize=(width, height), **options)


def write_picture(path: Path, environment: dict, comparisons: list[dict]) -> None:
    """Time and memory against N; a dense line ends where its logits no longer fit in memory."""
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    for name in dict.fromkeys(r["name"] for c in comparisons for r in c["results"]):
        rows = [(c["n"], r) for c in comparisons for r in c["results"] if r["name"] == name and "median_s" in r]
        style = {"marker": "o", "linestyle": "--" if name.startswith("dense") else "-", "label": name}
        left.plot([n for n, _ in rows], [r["median_s"] for _, r in rows], **style)
        right.plot([n for n, _ in rows], [(r["peak_bytes"] or 0) / MIB for _, r in rows], **style)
    left.set_ylabel("forward + backward, seconds")
    right.set_ylabel("peak extra memory, MiB")
    for axis in (left, right):
        axis.set(xscale="log", yscale="log", xlabel="batch size N")
        axis.set_xscale("log", base=2)
        axis.grid(True, alpha=0.3)
        axis.legend()
    first = comparisons[0]
    figure.suptitle(
        f"{first['loss']} loss, D = {first['dim']}, {first['dtype']}; {environment['processor']}, "
        f"{environment['threads']} threads, torch {environment['torch']}"
    )
    figure.tight_layout()
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=130))
