"""torch's DataLoader as this package uses it: whole batches, no random numbers of its own, workers that heed no signals."""

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
    """Batches in the order of ``keys``, or of the data set, made by ``workers`` processes; 0 stands for this one."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_signals,
        generator=torch.Generator(),  # the loader draws a number, which must not come from the training's generator
        persistent_workers=persistent and workers > 0,
        pin_memory=pin and torch.cuda.is_available(),
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals(worker: int) -> None:
    """A signal to all processes of a job is the training's to heed, which may still need this one for its last step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
