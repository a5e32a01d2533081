"""Transformers' CLIP and SigLIP with the fused losses, for its ``Trainer`` and for any other loop."""

from __future__ import annotations

from typing import Any, cast

import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from clipfast.losses import clip_loss, siglip_loss

try:
    from transformers import CLIPModel, SiglipModel
    from transformers.models.clip.modeling_clip import CLIPOutput
    from transformers.models.siglip.modeling_siglip import SiglipOutput
except ImportError as error:
    raise ImportError(f"{__name__} needs transformers 5 or newer: pip install 'transformers>=5'") from error


class _FusedLoss:
    """The forward pass that both models share: two towers, one loss, no matrix of logits.

    ``Trainer`` reads its signature: as it takes no ``**kwargs``, gradient accumulation takes the loss for a mean over one
    batch, and as ``return_loss`` is True by default, evaluation needs no labels.
    """

    Output: type[Any]
    gather_across_devices: bool = False
    """Set it on a model to compare with the pairs of all processes; then each process's loss is the loss of all pairs."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_loss: bool = True,
        interpolate_pos_encoding: bool = False,
    ) -> Any:
        """The loss, and the normalised ``image_embeds`` and ``text_embeds``; the base class's with ``return_loss=False``.

        One text for each image: ``input_ids``, ``attention_mask`` and ``position_ids`` are (N, length), ``pixel_values``
        (N, channels, height, width).
        """
        pictures = {"pixel_values": pixel_values, "interpolate_pos_encoding": interpolate_pos_encoding}
        words = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        model, base = cast(Any, self), cast(Any, super())
        if not return_loss:
            return base.forward(**pictures, **words, return_loss=False)
        images = model.get_image_features(**pictures).pooler_output
        texts = model.get_text_features(**words).pooler_output
        embeds = {"image_embeds": F.normalize(images, dim=-1), "text_embeds": F.normalize(texts, dim=-1)}
        return self.Output(loss=model.contrastive_loss(images, texts), **embeds)

    def _group(self) -> Any:
        return dist.group.WORLD if self.gather_across_devices else None


class FusedCLIPModel(_FusedLoss, CLIPModel):
    """``CLIPModel`` whose forward pass gives ``clip_loss``. Checkpoints and configurations are CLIPModel's."""

    Output = CLIPOutput

    def contrastive_loss(self, images: Tensor, texts: Tensor) -> Tensor:
        """The loss of features (N, D) before their normalisation."""
        loss = clip_loss(images, texts, self.logit_scale.exp(), normalize=True, group=self._group())
        assert isinstance(loss, Tensor)
        return loss


class FusedSiglipModel(_FusedLoss, SiglipModel):
    """``SiglipModel`` whose forward pass gives ``siglip_loss``. Checkpoints and configurations are SiglipModel's."""

    Output = SiglipOutput

    def contrastive_loss(self, images: Tensor, texts: Tensor) -> Tensor:
        """The loss of features (N, D) before their normalisation."""
        return siglip_loss(images, texts, self.logit_scale.exp(), self.logit_bias, normalize=True, group=self._group())
