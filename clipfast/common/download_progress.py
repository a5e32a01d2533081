"""The progress of a download: a bar if rich or tqdm is installed, otherwise a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec

MIB = 2**20
LINES = 10  # at most, of the plain display


def progress(name: str, start: int, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    """Gives ``advance(bytes)``. ``start`` bytes are there already; ``total`` is None if the server does not say it."""
    if sys.stderr.isatty() and find_spec("rich") is not None:
        return _rich(name, start, total)
    if sys.stderr.isatty() and find_spec("tqdm") is not None:
        return _tqdm(name, start, total)
    return _lines(name, start, total)


@contextmanager
def _rich(name: str, start: int, total: int | None) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total, completed=start)
        yield lambda count: bar.advance(task, count)


@contextmanager
def _tqdm(name: str, start: int, total: int | None) -> Iterator[Callable[[int], None]]:
    from tqdm import tqdm

    with tqdm(desc=name, initial=start, total=total, unit="iB", unit_scale=True, unit_divisor=1024) as bar:
        yield lambda count: bar.update(count) and None


@contextmanager
def _lines(name: str, start: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """For logs: a line for each tenth of the file, or for every 100 MiB if its size is unknown."""
    done, step = start, max(1, -(-total // LINES)) if total else 100 * MIB
    of = f" of {total / MIB:.1f}" if total else ""
    print(f"downloading {name}: {done / MIB:.1f}{of} MiB", file=sys.stderr, flush=True)

    def advance(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if before // step != done // step:
            print(f"downloading {name}: {done / MIB:.1f}{of} MiB", file=sys.stderr, flush=True)

    yield advance
