"""The modules beside open_clip's own, under DistributedDataParallel: values, and the gradients that a training step sees."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from helpers import error
from processes import run_processes
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import clipfast
from clipfast.bench.peers import open_clip_losses

pytestmark = [
    pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo"),
    pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="needs open_clip (the extra 'peers')"),
]
EACH = 7  # pairs of every rank: open_clip's losses take equal batches


class Towers(nn.Module):
    """Two linear towers, scale and bias: float64, so that nothing but the definition of a gradient makes a difference."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = (nn.Linear(10, 6, dtype=torch.float64) for _ in range(2))
        self.log_scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(-3.0, dtype=torch.float64))

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features = F.normalize(self.image(images), dim=1), F.normalize(self.text(texts), dim=1)
        return *features, self.log_scale.exp(), self.bias


def step(loss: Callable[..., Tensor], images: Tensor, texts: Tensor, ddp: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    towers = Towers()
    model = DistributedDataParallel(towers) if ddp else towers
    value = loss(*model(images, texts))
    value.backward()
    return value.detach(), {name: p.grad for name, p in towers.named_parameters()}


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    count = EACH * dist.get_world_size()
    return torch.randn(count, 10, dtype=torch.float64), torch.randn(count, 10, dtype=torch.float64)


def same(got: dict[str, Tensor], want: dict[str, Tensor], factors: dict[str, float] | None = None) -> bool:
    """Whether all gradients agree; ``factors`` multiply those of a parameter's module."""
    of = {name: (factors or {}).get(name.split(".")[0], 1.0) for name in want}
    size = {name: max(float(want[name].abs().max()), 1e-3) for name in want}
    return all(float((got[name] - of[name] * want[name]).abs().max()) < 1e-12 * size[name] for name in want)


@pytest.mark.parametrize("ranks", [2, 3])  # open_clip exchanges in both directions from 3 on
def test_both_losses(ranks: int, tmp_path: Path) -> None:
    run_processes(compare, tmp_path, ranks)


def compare(rank: int) -> None:
    everything = inputs()
    own = tuple(x[rank * EACH : (rank + 1) * EACH] for x in everything)
    world = {"rank": rank, "world_size": dist.get_world_size()}
    clip(everything, own, world)
    siglip(everything, own, world)


def clip(everything: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], world: dict[str, int]) -> None:
    value, want = step(clipfast.ClipLoss(), *everything, ddp=False)
    ranks = world["world_size"]
    for local_loss in (False, True):
        for with_grad in (False, True):
            options = {"local_loss": local_loss, "gather_with_grad": with_grad, **world}
            got, gradients = step(clipfast.ClipLoss(**options), *own)
            assert error(got, value) < 1e-12
            assert same(gradients, want)
            their_value, theirs = step(open_clip_losses().ClipLoss(**options), *own)
            dist.all_reduce(their_value)
            assert error(their_value / ranks, value) < 1e-12
            if with_grad:
                assert same(gradients, theirs)
            elif not local_loss:  # the towers' gradients come out divided by the number of ranks, the scale's does not
                assert same(gradients, theirs, {"image": ranks, "text": ranks})
            else:  # a rank's features get no gradient from where they are other ranks' negatives
                assert not same(gradients, theirs, {"image": ranks, "text": ranks})
                assert not same(gradients, theirs)


def siglip(everything: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], world: dict[str, int]) -> None:
    value, want = step(clipfast.SigLipLoss(), *everything, ddp=False)
    for implementation in ("bidir", "shift", "reduce", "gather"):
        got, gradients = step(clipfast.SigLipLoss(dist_impl=implementation, **world), *own)
        assert error(got, value) < 1e-12
        assert same(gradients, want)
        their_value, theirs = step(open_clip_losses().SigLipLoss(dist_impl=implementation, **world), *own)
        dist.all_reduce(their_value)
        assert error(their_value / world["world_size"], value) < 1e-12
        assert same(gradients, theirs), implementation


def test_a_wrong_rank_is_an_error(tmp_path: Path) -> None:
    run_processes(wrong_rank, tmp_path, 2)


def wrong_rank(rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank and world_size of ClipLoss must be {rank} and 2, .* got 0 and 3"):
        clipfast.ClipLoss(rank=0, world_size=3)
    with pytest.raises(ValueError, match=r"dist_impl must be one of 'bidir', .* got 'tree'"):
        clipfast.SigLipLoss(rank=rank, world_size=2, dist_impl="tree")
