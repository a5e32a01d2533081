"""The number format of a run: its dtype, autocast and gradient scaling."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

AUTOCAST = ("bfloat16", "float16")


class Precision:
    """``dtype`` of the parameters, ``autocast()`` around a step, and a ``scaler`` that only float16 turns on.

    Under autocast parameters stay float32. For float16 the loss is scaled, so that small gradients do not become zero; a
    step whose scaled gradients overflow is skipped, and the scale halved.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = name, device
        self.dtype = torch.float32 if name in AUTOCAST else getattr(torch, name)
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "float16")

    def autocast(self) -> AbstractContextManager[object]:
        if self.name not in AUTOCAST:
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.name))
