"""Fused contrastive losses for PyTorch whose memory does not grow with the square of the batch."""

from clipfast.functional import ClipStats, clip_loss, info_nce_loss, nt_xent_loss, siglip_loss
from clipfast.losses import ClipLoss, SigLipLoss
from clipfast.registry import backends

__version__ = "0.1.0"
__all__ = [
    "ClipLoss",
    "ClipStats",
    "SigLipLoss",
    "backends",
    "clip_loss",
    "info_nce_loss",
    "nt_xent_loss",
    "siglip_loss",
]
