"""All columns are gathered on every rank at once, and what is left at them is reduced to their owners."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from clipfast.distributed import traffic
from clipfast.distributed.blocks import blocks
from clipfast.distributed.exchange import ColumnOutput, Show
from clipfast.distributed.group import Members, all_gather, explained, reduce_scatter, reduced


class Gather(Members):
    """One all-gather, one sweep over all columns, one reduce-scatter. Memory: all ranks' features and column outputs.

    The collectives take equal pieces, so each rank's is padded to the longest. Without padding the ranks' columns are one
    block; otherwise each rank's is a block of its own.
    """

    @property
    def blocks(self) -> tuple[int, ...]:
        return blocks("gather", self.cols, self.rank)

    def for_each_block(self, inputs: tuple[Tensor, ...], outputs: Sequence[ColumnOutput], show: Show) -> list[Tensor]:
        everything = tuple(self._gathered(x) for x in inputs)
        totals = [output.new(self.ranks * max(self.cols), inputs[0]) for output in outputs]
        first = 0
        for count, piece in zip(self.blocks, self._pieces(), strict=True):
            show(self.start(self.rank) - first, tuple(x[piece] for x in everything), [x[piece] for x in totals])
            first += count
        del everything
        return [self._own_part(output, total) for output, total in zip(outputs, totals, strict=True)]

    def _pieces(self) -> list[slice]:
        """Where the blocks lie among the padded pieces."""
        if len(self.blocks) == 1:
            return [slice(0, sum(self.cols))]
        longest = max(self.cols)
        return [slice(rank * longest, rank * longest + count) for rank, count in enumerate(self.cols)]

    def _gathered(self, x: Tensor) -> Tensor:
        longest = max(self.cols)
        piece = x.contiguous() if x.shape[0] == longest else torch.cat([x, x.new_zeros(longest - x.shape[0], *x.shape[1:])])
        everything = x.new_empty(self.ranks * longest, *x.shape[1:])
        with explained("all-gather", self.group):
            traffic.note("gather", piece)
            all_gather(everything, piece, group=self.group)
        return everything

    def _own_part(self, output: ColumnOutput, total: Tensor) -> Tensor:
        longest, own = max(self.cols), self.cols[self.rank]
        if output.largest:
            return reduced(self.group, total, dist.ReduceOp.MAX).view(self.ranks, longest)[self.rank, :own].clone()
        piece = total.new_empty(longest, *total.shape[1:])
        with explained("reduce-scatter", self.group):
            traffic.note("reduce_scatter", total)
            reduce_scatter(piece, total, group=self.group)
        return piece[:own]
