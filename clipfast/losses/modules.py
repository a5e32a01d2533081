"""The losses as modules: open_clip's ``ClipLoss`` and ``SigLipLoss``, argument for argument, and a process group's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from clipfast.common.argument_checks import check_choice
from clipfast.losses.clip import clip_loss
from clipfast.losses.options import DEFAULTS, RankOptions, check_known, with_options
from clipfast.losses.siglip import siglip_loss
from clipfast.operators.group_operators import group_options

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Unpack

SIGLIP_STRATEGIES: dict[str, Literal["ring", "gather"]] = {
    "bidir": "ring",
    "shift": "ring",
    "reduce": "gather",
    "gather": "gather",
}


def _default_group(module: nn.Module, rank: int, world_size: int) -> ProcessGroup:
    """The group that open_clip's ``rank`` and ``world_size`` speak of."""
    import torch.distributed as dist

    name = type(module).__name__
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            f"{name}(world_size={world_size}) needs torch.distributed.init_process_group first; with one process, leave "
            "world_size at 1"
        )
    found = dist.get_rank(), dist.get_world_size()
    if found != (rank, world_size):
        raise ValueError(
            f"rank and world_size of {name} must be {found[0]} and {found[1]}, as this process has them; got {rank} and "
            f"{world_size}; pass group for a part of the processes"
        )
    group = dist.group.WORLD
    assert group is not None
    return group


class _Loss(nn.Module):
    """What both modules know of the other processes."""

    def __init__(self, rank: int, world_size: int, options: RankOptions) -> None:
        super().__init__()
        names = RankOptions.__annotations__
        check_known(type(self).__name__, options, names)
        given: dict[str, Any] = {**{name: DEFAULTS[name] for name in names}, **options}
        group_options(**given)  # raises for what it does not know
        if given["group"] is None and world_size > 1:
            given["group"] = _default_group(self, rank, world_size)
        self.options = given


class ClipLoss(_Loss):
    """``open_clip.ClipLoss`` with the fused ``clip_loss``.

    ``world_size > 1`` means torch's default process group, ``group`` any other. Every rank's value is the loss of the whole
    batch, and gradients are those of one process on it, with any ``local_loss`` and ``gather_with_grad``. open_clip's values
    with ``local_loss`` are the ranks' parts, whose average this is; its gradients without ``gather_with_grad`` are others
    (docs/guides/distributed.md). ``cache_labels`` is accepted and has nothing to cache. ``group``, ``strategy`` and
    ``gradient_reduction`` are as in ``clip_loss``.
    """

    @with_options(RankOptions, DEFAULTS)
    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
        **options: Unpack[RankOptions],
    ) -> None:
        if use_horovod:
            raise ValueError("use_horovod must be False; got True: Horovod is not supported; use torch.distributed")
        super().__init__(rank, world_size, options)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """The loss, or ``{"contrastive_loss": loss}``. Features (N, D) as the model gives them (normalised)."""
        loss = clip_loss(image_features, text_features, logit_scale, logit_bias, **self.options)
        assert isinstance(loss, Tensor)
        return {"contrastive_loss": loss} if output_dict else loss


class SigLipLoss(_Loss):
    """``open_clip.SigLipLoss`` with the fused ``siglip_loss``.

    ``world_size > 1`` means torch's default process group, ``group`` any other. Every rank's value is the loss of the whole
    batch; open_clip's are the ranks' parts, whose average this is. ``dist_impl`` "bidir" and "shift" choose the strategy
    "ring", "reduce" and "gather" the strategy "gather", and None leaves the choice to ``strategy``.
    """

    @with_options(RankOptions, DEFAULTS)
    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: str | None = None,
        **options: Unpack[RankOptions],
    ) -> None:
        check_choice("dist_impl", dist_impl, (*SIGLIP_STRATEGIES, None))
        if dist_impl is not None:
            options["strategy"] = SIGLIP_STRATEGIES[dist_impl]
        super().__init__(rank, world_size, options)
        self.dist_impl = dist_impl or "bidir"

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """The loss, or ``{"contrastive_loss": loss}``. Features (N, D) as the model gives them (normalised)."""
        loss = siglip_loss(image_features, text_features, logit_scale, logit_bias, **self.options)
        return {"contrastive_loss": loss} if output_dict else loss
