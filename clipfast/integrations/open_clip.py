"""open_clip's trainer with the fused losses: ``python -m clipfast.integrations.open_clip`` with the trainer's own flags."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from torch import nn

from clipfast.common.extras import require
from clipfast.losses.modules import ClipLoss, SigLipLoss


def create_loss(args: Any) -> nn.Module:
    """The loss for the trainer's parsed arguments, in place of ``open_clip.create_loss``.

    ``SigLipLoss`` with ``--siglip``, ``ClipLoss`` otherwise. ValueError for distillation and CoCa, whose losses are others, and
    for Horovod.
    """
    if reason := _why_not(args):
        raise ValueError(reason)
    if args.siglip:
        return SigLipLoss(rank=args.rank, world_size=args.world_size, dist_impl=args.loss_dist_impl)
    return ClipLoss(
        local_loss=args.local_loss,
        gather_with_grad=args.gather_with_grad,
        cache_labels=True,
        rank=args.rank,
        world_size=args.world_size,
    )


def main(argv: Sequence[str] | None = None) -> Any:
    """``open_clip_train.main.main`` with ``create_loss`` of this module; ``argv`` is the command line by default."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        trainer: Any = require("open_clip_train.main", "open_clip's trainer", "open_clip_torch[training]", extra="peers")
    except ModuleNotFoundError as error:
        raise SystemExit(f"error: {error}") from error
    if reason := _why_not(trainer.parse_args(arguments)):  # before the model is made, and not after
        raise SystemExit(f"error: {reason}")
    trainer.create_loss = create_loss
    return trainer.main(arguments)


def _why_not(args: Any) -> str | None:
    if args.distill_model is not None and args.distill_pretrained is not None:
        return "the distillation loss is not among clipfast's losses; run open_clip_train.main for --distill-model"
    if "coca" in args.model.lower():
        return f"CoCa's captioning loss is not among clipfast's losses; run open_clip_train.main for --model {args.model}"
    if args.horovod:
        return "Horovod is not supported; start the processes with torchrun, without --horovod"
    return None


if __name__ == "__main__":
    main()
