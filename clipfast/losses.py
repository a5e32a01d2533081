"""The losses as modules: open_clip's ``ClipLoss`` and ``SigLipLoss``, argument for argument."""

from __future__ import annotations

from torch import Tensor, nn

from clipfast.functional import clip_loss, siglip_loss


def _one_process(module: nn.Module, world_size: int, **unsupported: object) -> None:
    if world_size > 1 or any(unsupported.values()):
        asked = ", ".join([f"world_size={world_size}", *(f"{k}={v!r}" for k, v in unsupported.items() if v)])
        raise NotImplementedError(
            f"{type(module).__name__}({asked}): losses across processes are not in this version (see 'Not yet' in "
            "README.md); use world_size=1, where each process takes its own batch's negatives"
        )


class ClipLoss(nn.Module):
    """``open_clip.ClipLoss`` with the fused ``clip_loss``. ``cache_labels`` is accepted and has nothing to cache."""

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ) -> None:
        super().__init__()
        # local_loss and gather_with_grad choose among distributed gradients; with one process they change nothing.
        _one_process(self, world_size, use_horovod=use_horovod)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """The loss, or ``{"contrastive_loss": loss}``. Features (N, D) as the model gives them (normalised)."""
        loss = clip_loss(image_features, text_features, logit_scale, logit_bias)
        assert isinstance(loss, Tensor)
        return {"contrastive_loss": loss} if output_dict else loss


class SigLipLoss(nn.Module):
    """``open_clip.SigLipLoss`` with the fused ``siglip_loss``."""

    def __init__(self, cache_labels: bool = False, rank: int = 0, world_size: int = 1, dist_impl: str | None = None) -> None:
        super().__init__()
        _one_process(self, world_size)
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
        loss = siglip_loss(image_features, text_features, logit_scale, logit_bias)
        return {"contrastive_loss": loss} if output_dict else loss
