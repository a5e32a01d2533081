"""``available_models`` and ``load``, as in OpenAI's ``clip``: weights by name or from a file, with their preprocessing."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from torch import nn

from clipfast.common.download import cache_folder, download
from clipfast.hub.torchscript import load_archive
from clipfast.images.preprocess import Preprocess
from clipfast.models import (
    CLIP,
    ClipConfig,
    config_from_state_dict,
    convert_weights,
    create_model,
    load_checkpoint,
    model_config,
)
from clipfast.models.checkpoints import is_torchscript, read_config, read_state_dict

SERVER = "https://openaipublic.azureedge.net/clip/models"
MODELS = {
    "RN50": ("RN50.pt", "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"),
    "RN101": ("RN101.pt", "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599"),
    "RN50x4": ("RN50x4.pt", "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd"),
    "RN50x16": ("RN50x16.pt", "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa"),
    "RN50x64": ("RN50x64.pt", "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c"),
    "ViT-B/32": ("ViT-B-32.pt", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),
    "ViT-B/16": ("ViT-B-16.pt", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
    "ViT-L/14": ("ViT-L-14.pt", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
    "ViT-L/14@336px": ("ViT-L-14-336px.pt", "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"),
}
"""The files of OpenAI's models on its server, and their sha256, which are also their folders there."""


def available_models() -> list[str]:
    """The names of the models that ``load`` downloads: OpenAI's. Other models are loaded from files."""
    return list(MODELS)


def load(
    name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    jit: bool = False,
    download_root: str | os.PathLike[str] | None = None,
    *,
    model: str | ClipConfig | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[nn.Module, Preprocess]:
    """A trained model in evaluation mode, and the preprocessing of its pictures.

    ``name`` is one of ``available_models()``, downloaded to ``download_root`` (``~/.cache/clip``) unless it is there, or a
    file: a TorchScript archive, a state dict saved by torch, or safetensors. ``device`` is by default "cuda" if there is a
    GPU, otherwise "cpu". ``jit=True`` returns the archive's own TorchScript code instead of this package's model.

    Two arguments are not in the original. ``model`` is the name or configuration of the model, for a file that does not tell
    it ("ViT-B-16-SigLIP"). By default the file has OpenAI's names and QuickGELU, or its configuration in it, as the files of
    ``python -m clipfast train`` have. ``dtype`` is that of matrices and convolutions. By default it is float32 if ``model`` is
    given or clipfast trained the file; otherwise float16, as in the original, then widened to float32 on the CPU. So a float32
    checkpoint is rounded, unless ``dtype=torch.float32``.

    Raises RuntimeError for an unknown name and for a download that fails, ValueError for a file of another kind.
    """
    device = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    path = _file(name, download_root)
    if jit and is_torchscript(path):
        return _archive(path, device, model, dtype)
    if jit:
        warnings.warn(f"File {path} is not a JIT archive. Loading as a state dict instead", stacklevel=2)
    loaded = _filled(path, model, dtype)
    if dtype is None and device.type == "cpu":
        loaded.float()
    return loaded.to(device).eval(), preprocess_of(loaded.config)


def preprocess_of(config: ClipConfig) -> Preprocess:
    """The preprocessing for a model: SigLIP's if its loss is the sigmoid loss, otherwise OpenAI's, at its pictures' size."""
    family = Preprocess.siglip if config.loss == "sigmoid" else Preprocess.openai
    return family(config.vision.image_size)


def _file(name: str | os.PathLike[str], download_root: str | os.PathLike[str] | None) -> Path:
    if name in MODELS:
        file, sha256 = MODELS[os.fspath(name)]
        return download(f"{SERVER}/{sha256}/{file}", sha256, cache_folder() if download_root is None else download_root)
    if os.path.isfile(name):
        return Path(name)
    raise RuntimeError(f"Model {name} not found; available models = {available_models()}")


def _filled(path: Path, model: str | ClipConfig | None, dtype: torch.dtype | None) -> CLIP:
    state = read_state_dict(path)
    trained_here = read_config(path)
    if model is not None:
        config = model_config(model) if isinstance(model, str) else model
    elif trained_here is not None:
        config = ClipConfig.from_dict(trained_here)
    else:
        config, dtype = config_from_state_dict(state), dtype or torch.float16
    empty = create_model(config, device="meta")  # so that no values are drawn which the file would replace
    if dtype is not None:
        convert_weights(empty, dtype)
    load_checkpoint(empty, state)
    return empty


def _archive(
    path: Path, device: torch.device, model: str | ClipConfig | None, dtype: torch.dtype | None
) -> tuple[nn.Module, Preprocess]:
    if model is not None or dtype is not None:
        raise ValueError(
            f"model and dtype must be None with jit=True, which returns the archive as it is; got {model!r} and {dtype}"
        )
    loaded = load_archive(path, device)
    return loaded, Preprocess.openai(int(loaded.input_resolution))
