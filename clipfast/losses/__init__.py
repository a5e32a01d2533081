"""The losses: public functions and modules, their checks, and the dense definitions."""

from clipfast.losses.functional import ClipStats, clip_loss, info_nce_loss, nt_xent_loss, siglip_loss
from clipfast.losses.modules import ClipLoss, SigLipLoss

__all__ = ["ClipLoss", "ClipStats", "SigLipLoss", "clip_loss", "info_nce_loss", "nt_xent_loss", "siglip_loss"]
