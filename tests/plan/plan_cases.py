"""What the tests of the plan share: which gradients a loss can have, and allocations counted one by one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from helpers import LOSSES
from torch.profiler import ProfilerActivity, profile

from clipfast.losses.declaration import named
from clipfast.plan.problem import GRADIENTS

SERVED = [
    (loss, gradients)
    for loss in LOSSES
    for gradients in GRADIENTS
    if gradients in ("both", "none") or not named(loss.name).symmetric
]
"""Each loss with each choice of gradients that it takes: a symmetric one has both sides' or none."""


def peak_allocated(run: Callable[[], object]) -> int:
    """The most bytes that torch's allocator had given out during ``run``, beside those from before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    events = found.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate((change for _, change in changes), initial=0))
