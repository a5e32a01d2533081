"""The losses: one file each, with its definition and its public function; modules, and how a call is computed."""

# isort: off  The order of the imports is the catalogue's: of the commands' choices and the documentation's table.
from clipfast.losses.clip import ClipStats, clip_loss
from clipfast.losses.info_nce import info_nce_loss
from clipfast.losses.modules import ClipLoss, SigLipLoss
from clipfast.losses.nt_xent import nt_xent_loss
from clipfast.losses.siglip import siglip_loss

# isort: on

__all__ = ["ClipLoss", "ClipStats", "SigLipLoss", "clip_loss", "info_nce_loss", "nt_xent_loss", "siglip_loss"]
