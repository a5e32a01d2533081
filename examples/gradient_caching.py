"""Gradient caching: one batch of 512 pairs, with the activations of 64 in memory at a time, and the same gradients."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn

from clipfast import clip_loss
from clipfast.training import CachedStep

PAIRS, CHUNK, WIDTH, STEPS = 512, 64, 32, 20


class Activations:
    """The most bytes that autograd holds at once for the backward pass, while the context is open."""

    def __enter__(self) -> Activations:
        self.held = self.peak = 0
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda box: box[0])
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.hooks.__exit__(*error)

    def pack(self, x: Tensor) -> Box:
        box = Box([x.detach()])
        self.held += x.nbytes
        self.peak = max(self.peak, self.held)
        weakref.finalize(box, self.release, x.nbytes)
        return box

    def release(self, size: int) -> None:
        self.held -= size


class Box(list):
    """A list that a weak reference can watch: it dies when the graph releases the tensors that it holds."""


def tower(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, WIDTH))


def main() -> None:
    torch.manual_seed(0)
    causes = torch.randn(PAIRS, 16)  # what an image and its text have in common
    images = causes @ torch.randn(16, 48) + 0.5 * torch.randn(PAIRS, 48)
    texts = causes @ torch.randn(16, 24) + 0.5 * torch.randn(PAIRS, 24)
    image_tower, text_tower = tower(48), tower(24)
    log_scale = nn.Parameter(torch.tensor(2.0))
    parameters = [*image_tower.parameters(), *text_tower.parameters(), log_scale]

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return clip_loss(a, b, log_scale.exp(), normalize=True)

    with Activations() as plain:
        loss(image_tower(images), text_tower(texts)).backward()
    wanted = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None

    step = CachedStep([image_tower, text_tower], loss, chunk_size=CHUNK)
    with Activations() as cached:
        step(images, texts)
    difference = max(float((p.grad - w).norm() / w.norm()) for p, w in zip(parameters, wanted, strict=True))
    print(f"largest relative difference of a gradient: {difference:.0e}")
    print(f"saved for the backward pass: {plain.peak / 2**20:.2f} MiB at once, cached {cached.peak / 2**20:.2f} MiB")

    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    for i in range(1, STEPS + 1):
        optimizer.zero_grad()
        result = step(images, texts)
        optimizer.step()
        if i % 5 == 0:
            print(f"step {i:2d}: loss {result.loss.item():.3f}")


if __name__ == "__main__":
    main()
