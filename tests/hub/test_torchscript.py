"""An archive whose graphs were traced for a GPU in half precision, on the CPU."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from clipfast.hub.torchscript import load_archive


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.to(torch.device("cuda:0"), torch.half))


class MadeForAGpu(nn.Module):
    """Graphs like those in OpenAI's archives: with CUDA devices and casts to half, in methods and in submodules."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Part()

    @torch.jit.export
    def encode_image(self, x: Tensor) -> Tensor:
        five = torch.ones([5, 4], device=torch.device("cuda"))  # the constant 5 as a size, where it does not mean float16
        return self.part(x.to(torch.half)) * five.to(torch.half).sum(0)

    @torch.jit.export
    def encode_text(self, x: Tensor) -> Tensor:
        return x.to(torch.half)

    def forward(self, x: Tensor) -> Tensor:
        return self.encode_image(x)


def test_an_archive_made_for_a_gpu_runs_on_the_cpu(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = MadeForAGpu().half()
        torch.jit.script(made).save(str(tmp_path / "gpu.pt"))
    loaded, x = load_archive(tmp_path / "gpu.pt", torch.device("cpu")), torch.randn(3, 4)
    assert loaded.encode_image(x).dtype == loaded(x).dtype == loaded.encode_text(x).dtype == torch.float32
    torch.testing.assert_close(loaded(x), 5 * made.part.linear.float()(x))
    assert torch.equal(loaded.encode_text(x), x)
