"""The processes of a run: torchrun's, or this one alone."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT = timedelta(hours=2)  # the other processes wait while the first one evaluates
ENVIRONMENT = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))  # torchrun's variables, and their values without it


@dataclass(frozen=True)
class World:
    """This process among all processes of the run, and the device on which it computes."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that prints, evaluates and writes files."""
        return self.rank == 0

    @property
    def group(self) -> dist.ProcessGroup | None:
        return dist.group.WORLD if self.size > 1 else None

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true in any process; every process gets the same answer."""
        if self.size == 1:
            return flag
        votes = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return bool(votes)

    def gather(self, value: Any) -> list[Any]:
        """Every process's ``value``, by rank, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


@contextmanager
def join_world(device: str | None = None) -> Iterator[World]:
    """Take part in the process group that torchrun's environment describes, or in one that exists already.

    After an error the group stays as it is: the other processes may be waiting in it, and torchrun ends them.
    """
    size, rank, local = (int(os.environ.get(name, default)) for name, default in ENVIRONMENT)
    chosen = _device(device, local)
    if dist.is_available() and dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size(), chosen)
    elif size == 1:
        yield World(0, 1, chosen)
    else:
        # Imported after init_process_group, as DDP does, this module would hold the group in its defaults until the interpreter
        # ends, where gloo's threads now and then abort the process.
        importlib.import_module("torch.distributed.nn.functional")
        # gloo beside NCCL: values that the host needs are exchanged without waiting for the GPU.
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
        yield World(rank, size, chosen)
        dist.destroy_process_group()


def _device(name: str | None, local_rank: int) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", local_rank)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
        raise ValueError(f"device must be one that torch can use here; got {name!r}: {str(error).splitlines()[0]}") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
