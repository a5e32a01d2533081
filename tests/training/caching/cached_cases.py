"""Small towers with dropout, the step that CachedStep replaces, and comparisons of all gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clipfast import clip_loss

WIDTH = 6


class Pair(nn.Module):
    """Two towers and a scale in one module: (images, texts) -> both features and the scale, as DDP needs it."""

    def __init__(self, dropout: float = 0.3, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.image, self.text = (
            nn.Sequential(nn.Linear(5, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, WIDTH)) for _ in range(2)
        )
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.to(dtype)

    def forward(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        return self.image(batch[0]), self.text(batch[1]), self.log_scale.exp()

    def loss(self, images: Tensor, texts: Tensor) -> Tensor:
        return fused(images, texts, self.log_scale.exp())


def fused(images: Tensor, texts: Tensor, scale: Tensor | float) -> Tensor:
    loss = clip_loss(images, texts, scale, normalize=True)
    assert isinstance(loss, Tensor)
    return loss


def whole(outputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return fused(*outputs)


def pairs(n: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images, texts = torch.randn(2, n, 5, generator=generator, dtype=torch.float64).to(dtype)
    return images, texts


def gradients(module: nn.Module) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


def plain(
    module: nn.Module, towers: Sequence[Callable], loss: Callable[..., Tensor], inputs: Sequence[Any], chunk: int, seed: int = 1
) -> tuple[Tensor, dict[str, Tensor | None]]:
    """The uncached step, with all graphs in memory at once; it draws its random numbers chunk by chunk too."""
    module.zero_grad()
    torch.manual_seed(seed)
    features = [torch.cat([tower(part) for part in x.split(chunk)]) for tower, x in zip(towers, inputs, strict=True)]
    value = loss(*features)
    value.backward()
    return value.detach(), gradients(module)


def cached(module: nn.Module, step: Callable[..., Any], inputs: Sequence[Any], seed: int = 1) -> tuple[Tensor, dict]:
    module.zero_grad()
    torch.manual_seed(seed)
    value = step(*inputs).loss
    return value, gradients(module)


def assert_same(got: tuple[Tensor, dict], want: tuple[Tensor, dict], tolerance: float = 0.0) -> None:
    """Equal values and gradients: bit for bit, or to a relative error in norm."""
    numbers = {"value": (got[0], want[0]), **{name: (got[1][name], g) for name, g in want[1].items()}}
    for name, (x, y) in numbers.items():
        assert (x is None) == (y is None), name
        if x is not None:
            error = float((x - y).norm() / y.norm()) if not torch.equal(x, y) else 0.0
            assert error <= tolerance, f"{name}: relative error {error}"


def towers(model: Pair) -> list[nn.Module]:
    return [model.image, model.text]


def norm_pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 6)).double() for _ in range(2))
    return first, second
