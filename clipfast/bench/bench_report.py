"""A comparison as a table, as JSON, and as a picture of time and memory against N."""

from __future__ import annotations

import json
from pathlib import Path

from rich.table import Table

from clipfast.common.files import write_atomically

MIB = 2**20


def table(comparison: dict) -> Table:
    """One size. A share above 1 means faster than that library's plain products of the same operation count."""
    rates = comparison["product_gflops"]
    caption = ", ".join(f"{library} {rate:.0f} GFLOP/s" for library, rate in rates.items())
    title = (
        f"{comparison['loss']} loss, N = {comparison['n']}, D = {comparison['dim']}, {comparison['dtype']}, forward + backward"
    )
    result = Table(title=title, caption=f"Floor: the operations at the rate of plain products, {caption}")
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


def write_json(path: Path, environment: dict, comparisons: list[dict]) -> None:
    content = json.dumps({"environment": environment, "comparisons": comparisons}, indent=1).encode()
    write_atomically(path, lambda file: file.write(content))


def write_picture(path: Path, environment: dict, comparisons: list[dict]) -> None:
    """Time and memory against N; a dense line ends where its logits no longer fit in memory."""
    try:
        import matplotlib
    except ImportError as error:
        raise SystemExit(f"the picture needs matplotlib ({error}); pip install 'clipfast[bench]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2))
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
    pyplot.close(figure)
