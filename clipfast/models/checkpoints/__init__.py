"""Reading and writing checkpoints in the layouts of OpenAI, OpenCLIP, timm, EVA-CLIP and Hugging Face."""

from clipfast.models.checkpoints.architecture import config_from_state_dict
from clipfast.models.checkpoints.load import LoadReport, load_checkpoint
from clipfast.models.checkpoints.save import export_state_dict, save_checkpoint
from clipfast.models.checkpoints.weight_files import is_torchscript, read_config, read_state_dict

__all__ = [
    "LoadReport",
    "config_from_state_dict",
    "export_state_dict",
    "is_torchscript",
    "load_checkpoint",
    "read_config",
    "read_state_dict",
    "save_checkpoint",
]
