"""State dicts in files: torch's own, TorchScript archives and safetensors, recognised by their contents."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipfast.common.extras import require
from clipfast.common.files import write_atomically

WRAPPERS = ("state_dict", "model", "module")
PREFIXES = ("module.", "_orig_mod.")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU, without the wrappers that training scripts put around them.

    Nothing in a pickle is executed (``weights_only=True``). Raises FileNotFoundError, and ValueError for a file of
    another kind; ImportError for a safetensors file if the package safetensors is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if _is_safetensors(path):
        return require("safetensors.torch", "a safetensors file").load_file(path)
    if is_torchscript(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return unwrapped(torch.jit.load(str(path), map_location="cpu").state_dict())
    try:
        return unwrapped(torch.load(path, map_location="cpu", weights_only=True))
    except OSError:
        raise
    except Exception as error:  # the unpickler may raise anything for a file that is not a pickle
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise ValueError(
            f"{path} must be a state dict saved by torch, a TorchScript archive or a safetensors file; got a file that cannot "
            f"be read ({reason}); a pickle may hold only tensors and plain values"
        ) from error


def read_config(path: str | Path) -> dict[str, Any] | None:
    """The model's configuration, if ``python -m clipfast train`` wrote the file; None for any other file."""
    if not zipfile.is_zipfile(path) or is_torchscript(path):
        return None
    contents = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return contents.get("clip_config") if isinstance(contents, dict) else None


def unwrapped(contents: Any) -> dict[str, Tensor]:
    """The state dict inside ``contents``: under "state_dict", "model" or "module", and without the prefixes of
    DistributedDataParallel and torch.compile."""
    while isinstance(contents, Mapping) and (inner := next((contents[w] for w in WRAPPERS if w in contents), None)) is not None:
        contents = inner
    if not isinstance(contents, Mapping):
        raise ValueError(f"a checkpoint must be a mapping of names to tensors; got {type(contents).__name__}")
    state = {str(name): value for name, value in contents.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"a checkpoint must be a mapping of names to tensors; got no tensor under {list(contents)[:5]}")
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def write_state_dict(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Write atomically, as safetensors if ``path`` ends in ".safetensors", otherwise by ``torch.save``."""
    path = Path(path)
    if path.suffix == ".safetensors":
        data = require("safetensors.torch", "a safetensors file").save(dict(state))
        write_atomically(path, lambda file: file.write(data))
    else:
        write_atomically(path, lambda file: torch.save(dict(state), file))


def is_torchscript(path: str | Path) -> bool:
    """Whether the file is an archive of ``torch.jit.save``, as OpenAI's published weights are."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())


def _is_safetensors(path: Path) -> bool:
    """Whether the file starts with the length of a header, 8 bytes, and a header that is a JSON object."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
