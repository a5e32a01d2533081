"""Columns go round a ring: each rank sees one rank's block after the other, and never holds more than two."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from clipfast.distributed import traffic
from clipfast.distributed.blocks import blocks, sources
from clipfast.distributed.exchange import ColumnOutput, Show
from clipfast.distributed.group import Members, explained


class Ring(Members):
    """Blocks travel to the next rank; the column outputs of a block follow it one step later.

    While a rank works on one block, the next is on its way to it, and so are the outputs that the previous rank has just
    completed for the present block. After ``ranks`` steps each block's outputs are back at its owner. Each rank adds in the
    same order on every run. Memory: two blocks, and three of each output.
    """

    @property
    def blocks(self) -> tuple[int, ...]:
        return blocks("ring", self.cols, self.rank)

    def for_each_block(self, inputs: tuple[Tensor, ...], outputs: Sequence[ColumnOutput], show: Show) -> list[Tensor]:
        coming, done = _Passing(list(inputs)), None
        for step, source in enumerate(sources(self.ranks, self.rank)):
            block = coming.arrived()
            if step + 1 < self.ranks:
                coming = self._pass_on(block, (source - 1) % self.ranks)
            behind = None if done is None else self._pass_on(done, source)
            done = [output.new(self.cols[source], inputs[0]) for output in outputs]
            show(self.start(self.rank) - self.start(source), tuple(block), done)
            if behind is not None:
                done = [o.combine(mine, theirs) for o, mine, theirs in zip(outputs, done, behind.arrived(), strict=True)]
            del block, behind  # before the next ones take memory
        return self._pass_on(done or [], self.rank).arrived()

    def _pass_on(self, tensors: list[Tensor], source: int) -> _Passing:
        """Send ``tensors`` to the next rank, and receive from the previous one those of the columns of ``source``."""
        if not tensors:
            return _Passing([])
        sent = [x.contiguous() for x in tensors]
        received = [x.new_empty(self.cols[source], *x.shape[1:]) for x in sent]
        after, before = (self.rank + 1) % self.ranks, (self.rank - 1) % self.ranks
        moves = [dist.P2POp(dist.isend, x, group=self.group, group_peer=after) for x in sent]
        moves += [dist.P2POp(dist.irecv, x, group=self.group, group_peer=before) for x in received]
        with explained("ring exchange", self.group):
            traffic.note("ring", *sent)
            return _Passing(received, sent, dist.batch_isend_irecv(moves), self.group)


class _Passing:
    """Tensors on their way; what is sent must stay until they have arrived."""

    def __init__(
        self, received: list[Tensor], sent: Sequence[Tensor] = (), works: Sequence[dist.Work] = (),
        group: dist.ProcessGroup | None = None,
    ) -> None:  # fmt: skip
        self.received, self.sent, self.works, self.group = received, sent, works, group

    def arrived(self) -> list[Tensor]:
        if self.group is not None:
            with explained("ring exchange", self.group):
                for work in self.works:
                    work.wait()
        received, self.received, self.sent, self.group = self.received, [], (), None
        return received
