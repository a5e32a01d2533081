"""Gradient caching (Gao et al., 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup")."""

from __future__ import annotations

import functools
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clipfast.training.caching import step_checks
from clipfast.training.caching.discover import batch_statistics, modules_of, parameters_of, unique
from clipfast.training.caching.encoded import Encoded, Tower, encode
from clipfast.training.caching.gradient_sync import all_gradients_expected, synchronising, without_sync
from clipfast.training.caching.peak_memory import Meter, PeakMemory
from clipfast.training.caching.replay import Buffers, ForwardSync, without_autocast
from clipfast.training.caching.trees import Batch
from clipfast.training.processes.random_state import RandomState


class StepResult(NamedTuple):
    """What a step returns, all detached.

    ``loss`` (): the sum of the losses. ``losses``: each by name ("loss" for a single one). ``features``: what each tower
    returned for the whole batch. ``memory``: peak bytes of towers and loss, None unless measured on CUDA.
    """

    loss: Tensor
    losses: dict[str, Tensor]
    features: tuple[Any, ...]
    memory: PeakMemory | None


class CachedStep:
    """Forward and backward of a large batch with the memory of a small one. It replaces, with the same gradients::

        loss(*(tower(x) for tower, x in zip(towers, inputs))).backward()

    The towers encode the batch in chunks, without a graph; the losses and their gradients are computed at the features of
    the whole batch; then each chunk is encoded again, with a graph and the same random numbers, and the gradients of its
    features are backpropagated. Gradients accumulate in ``.grad`` of all parameters that take part, including a scale in
    the loss.

    ``towers``: modules or functions, one for each input; each takes a batch (rows first: a tensor, or dicts, tuples and
    lists of tensors) and returns features (rows, width) in any such structure, optionally with single numbers beside them,
    such as a scale. A tower whose features need no gradient encodes the batch once.
    ``loss``: a function of the towers' outputs that returns a scalar, or a dict of such functions, whose sum is minimised.
    ``chunk_size``: how many rows are encoded at once; one number, or one for each tower.
    ``scaler``: a GradScaler, whose scale multiplies the losses; its ``step`` and ``update`` are left to the training loop.
    ``modules``: modules that towers use and that cannot be discovered. Of a tower that is a function the closure and the
    globals are searched, but not the functions that it calls. DDP, FSDP, BatchNorm and buffers must be discovered or named.
    ``verify``: compare every chunk's features with those of the first encoding; waits for the device.
    ``measure_memory``: report peak memory on CUDA, which resets the peak statistics of ``torch.cuda``.

    Raises ValueError or TypeError for arguments that it cannot serve. A step that fails, for example for lack of memory,
    leaves random state and buffers as they were before it, and clears gradients that were None before.
    """

    def __init__(
        self,
        towers: Sequence[Callable[[Any], Any]],
        loss: Callable[..., Tensor] | Mapping[str, Callable[..., Tensor]],
        chunk_size: int | Sequence[int],
        *,
        scaler: torch.amp.GradScaler | None = None,
        modules: Iterable[nn.Module] = (),
        verify: bool = False,
        measure_memory: bool = False,
    ) -> None:
        functions = step_checks.towers(towers)
        sizes = step_checks.chunk_sizes(chunk_size, len(functions))
        further = step_checks.modules(modules)
        self.losses = step_checks.losses(loss)
        self.scaler = step_checks.scaler(scaler)
        self.towers = [
            Tower(f"tower {i}", function, size, unique([*modules_of(function), *further]))
            for i, (function, size) in enumerate(zip(functions, sizes, strict=True))
        ]
        self.verify, self.measure_memory = verify, measure_memory
        self._warned = False
        self._synchronising()  # raises for modules that it cannot serve

    def __call__(self, *inputs: Any, synchronize: bool = True) -> StepResult:
        """One step over ``inputs``, one for each tower. Call it inside autocast, if you use that: backward passes leave it.

        ``synchronize=False`` keeps the last chunk's gradients from other processes too, to accumulate over several steps.
        """
        step_checks.gradients_enabled()
        if len(inputs) != len(self.towers):
            raise ValueError(f"inputs must be one for each of the {len(self.towers)} towers; got {len(inputs)} inputs")
        batches = [Batch(x, f"input {i}") for i, x in enumerate(inputs)]
        self._warn_of_batch_statistics(batches)
        meter = Meter(self.measure_memory)
        with self._rollback_on_error() as (buffers, forward_sync):
            with without_sync(self._synchronising()):
                with meter.phase("towers"):
                    encoded = [encode(tower, batch) for tower, batch in zip(self.towers, batches, strict=True)]
                with meter.phase("loss"):
                    losses = self._losses(encoded)
            with meter.phase("towers"):
                self._backward(encoded, buffers, forward_sync, synchronize)
        total = functools.reduce(operator.add, losses.values())
        return StepResult(total, losses, tuple(e.detached for e in encoded), meter.result())

    def _losses(self, encoded: list[Encoded]) -> dict[str, Tensor]:
        """The losses' values; leaves their gradients at the features, and at the parameters that the losses use themselves."""
        values: dict[str, Tensor] = {}
        features = [e.features for e in encoded]
        trained = False
        for name, loss in self.losses.items():
            value = step_checks.loss_value(loss(*features), name)
            if value.requires_grad:
                trained = True
                with without_autocast():
                    (value if self.scaler is None else self.scaler.scale(value)).backward()
            values[name] = value.detach()
        if not trained:
            raise ValueError(
                "loss must depend on something that requires a gradient; got none that does; unlock a tower, or evaluate "
                "without CachedStep"
            )
        return values

    def _backward(self, encoded: list[Encoded], buffers: Buffers, forward_sync: ForwardSync, synchronize: bool) -> None:
        """Encode again in the order of the first encoding, so that buffers pass through the same values."""
        after = RandomState.capture()
        chosen = [e for e in encoded if e.needs_backward()]
        buffers.restore([m for e in chosen for m in e.tower.modules])
        forward_sync.restore()
        last = {id(m): e for e in chosen for m in synchronising(e.tower.modules)}
        everywhere = self._synchronising()
        for e in chosen:
            for i in range(len(e.chunks)):
                final = synchronize and i == len(e.chunks) - 1
                due = [m for m in everywhere if final and last.get(id(m)) is e]
                with without_sync(m for m in everywhere if all(m is not d for d in due)), all_gradients_expected(due):
                    e.backward_chunk(i, self.verify)
        after.restore()

    def _synchronising(self) -> list[Any]:
        return synchronising(m for tower in self.towers for m in tower.modules)

    @contextmanager
    def _rollback_on_error(self) -> Iterator[tuple[Buffers, ForwardSync]]:
        modules = unique(m for tower in self.towers for m in tower.modules)
        parameters = unique(p for f in (*modules, *self.losses.values()) for p in parameters_of(f))
        random, buffers, forward_sync = RandomState.capture(), Buffers(modules), ForwardSync(self._synchronising())
        without_grad = [p for p in parameters if p.grad is None]
        try:
            yield buffers, forward_sync
        except BaseException:
            random.restore()
            buffers.restore(modules)
            for p in without_grad:
                p.grad = None
            raise

    def _warn_of_batch_statistics(self, batches: list[Batch]) -> None:
        chunked = [tower for tower, batch in zip(self.towers, batches, strict=True) if batch.rows > tower.chunk_size]
        layers = {name: None for tower in chunked for name in batch_statistics(tower.modules)}
        if layers and not self._warned:
            self._warned = True
            warnings.warn(
                f"{', '.join(list(layers)[:3])}{', ...' if len(layers) > 3 else ''}: batch normalisation takes its statistics "
                "from each chunk, so the features are not those of the whole batch. Put these layers into eval(), freeze them, "
                "or use a normalisation of single rows (LayerNorm, GroupNorm)",
                stacklevel=3,
            )
