"""Replace open_clip's ClipLoss: the dense loss that it computes, and clipfast.ClipLoss, side by side.

open_clip itself is not needed here. Its own trainer takes the fused loss with ``python -m clipfast.integrations.open_clip``,
which has the flags of ``open_clip_train.main``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import clipfast

PAIRS, WIDTH = 2048, 256


def dense_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """The symmetric cross-entropy over the whole matrix of logits."""
    logits = logit_scale * image_features @ text_features.T
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def model_outputs() -> tuple[Tensor, Tensor, Tensor]:
    """What an open_clip model returns: normalised features and the scale, here with some agreement between the pairs."""
    torch.manual_seed(0)
    images = torch.randn(PAIRS, WIDTH)
    texts = images + 1.5 * torch.randn(PAIRS, WIDTH)
    features = (F.normalize(x, dim=1).requires_grad_() for x in (images, texts))
    return *features, torch.tensor(1 / 0.07, requires_grad=True)


def main() -> None:
    outputs = model_outputs()
    before = dense_loss(*outputs)
    after = clipfast.ClipLoss()(*outputs)
    print(f"loss: dense {before.item():.7f}, fused {after.item():.7f}")
    torch.testing.assert_close(after, before)

    dense, fused = (torch.autograd.grad(loss, outputs) for loss in (before, after))
    for name, theirs, ours in zip(("image_features", "text_features", "logit_scale"), dense, fused, strict=True):
        difference = ((ours - theirs).norm() / theirs.norm()).item()
        print(f"gradient of {name}: relative difference {difference:.1e}")
        if difference > 1e-4:
            raise SystemExit(f"the gradients of {name} differ")

    as_dict = clipfast.ClipLoss()(*outputs, output_dict=True)
    print(f"output_dict=True gives {list(as_dict)}")


if __name__ == "__main__":
    main()
