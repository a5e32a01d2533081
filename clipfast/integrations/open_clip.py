"""open_clip's trainer with the fused losses: ``python -m clipfast.integrations.open_clip`` with the trainer's own flags."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from torch import nn

from clipfast.common.extras import require
from clipfast.losses import ClipLoss, SigLipLoss


def create_loss(args: Any) -> nn.Module:
    """The loss for the trainer's parsed arguments, in place of ``open_clip.create_loss``.

    ``SigLipLoss`` with ``--siglip``, ``ClipLoss`` otherwise. Raises ValueError for distillation and CoCa, whose losses
    clipfast does not have, and for Horovod.
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
    if reason := _why_not(trainer.parse_args(arguments)):  # before the trainer has made the model
        raise SystemExit(f"error: {reason}")
    trainer.create_loss = create_loss
    return trainer.main(arguments)


def _why_not(args: Any) -> str | None:
    """Why clipfast has no loss for these arguments; None if it has one."""
    if args.distill_model is not None and args.distill_pretrained is not None:
        return (
            "--distill-model must be left out, as distillation is not among clipfast's losses; run open_clip_train.main for it"
        )
    if "coca" in args.model.lower():
        return (
            "--model must be other than CoCa, whose captioning loss is not among clipfast's losses; "
            f"got {args.model}; run open_clip_train.main for it"
        )
    if args.horovod:
        return "--horovod must be left out, as it is not supported; start the processes with torchrun"
    return None


if __name__ == "__main__":
    main()
