"""torch's DataLoader for whole batches: it draws none of the training's random numbers, and its workers ignore signals."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from threading import Thread
from typing import Any

import torch
from torch.utils.data import DataLoader


def batch_loader(
    dataset: Any, keys: Iterable[Any] | None, workers: int, *, persistent: bool = False, pin: bool = True
) -> DataLoader[Any]:
    """Batches in the order of ``keys``, or of the data set, made by ``workers`` processes, or with 0 by this one."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # the loader draws a number, which must not come from the training's generator
        persistent_workers=persistent and workers > 0,
        pin_memory=pin and torch.cuda.is_available(),
    )


def _unchanged(batch: Any) -> Any:
    return batch


def _ignore_signals(worker: int) -> None:
    """A worker ignores signals to all processes of a job: the training handles them, and may need the worker once more.

    SIGTERM from the training process itself, with which DataLoader ends its workers, still ends it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # absent on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_exit_on_sigterm, args=(os.getppid(),), daemon=True).start()


def _exit_on_sigterm(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
