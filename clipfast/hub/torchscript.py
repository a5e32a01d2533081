"""OpenAI's TorchScript archives, whose graphs were traced for a GPU in half precision, on any device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

FLOAT16, FLOAT32 = 5, 6  # the numbers of these dtypes in a graph


def load_archive(path: Path, device: torch.device) -> Any:
    """The ``torch.jit.ScriptModule`` in ``path`` on ``device``, in evaluation mode; on the CPU in float32.

    The archive's graphs name the device on which it was traced, and cast to float16: both are replaced.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # all of TorchScript is deprecated
        model = torch.jit.load(str(path), map_location=device).eval()
    for graph in _graphs(model):
        for constant in graph.findAllNodes("prim::Constant"):
            if constant.output().type().kind() == "DeviceObjType" and constant.s("value").startswith("cuda"):
                constant.s_("value", str(device))
        if device.type == "cpu":
            for cast in graph.findAllNodes("aten::to"):
                _widen(graph, cast)
    return model.float() if device.type == "cpu" else model


def _graphs(model: Any) -> Iterator[Any]:
    """The graph of every method of every module: encode_image and encode_text are methods beside forward."""
    for module in model.modules():
        for name in module._c._method_names():
            yield module._c._get_method(name).graph


def _widen(graph: Any, cast: Any) -> None:
    """Turn a cast to float16 into one to float32, with a new constant, as the constant 5 may have other users."""
    inputs = list(cast.inputs())
    for place in (1, 2):  # the dtype is the first argument, or the second after a device
        value = inputs[place]
        if value.type().kind() == "IntType" and value.toIValue() == FLOAT16:
            with graph.insert_point_guard(cast):
                cast.replaceInput(place, graph.insertConstant(FLOAT32))
