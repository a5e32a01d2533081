"""A batch of 20,000 pairs, forward and backward, in bounded memory: the logits alone would take 1.5 GiB."""

from __future__ import annotations

import sys
import time

import torch

from clipfast import clip_loss

PAIRS, WIDTH = 20_000, 64
MIB = 2**20


def peak_rss() -> int | None:
    """The largest resident memory of this process so far, in bytes; None where the system does not report it."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    torch.manual_seed(0)
    images = torch.randn(PAIRS, WIDTH, requires_grad=True)
    texts = (images.detach() + torch.randn(PAIRS, WIDTH)).requires_grad_()
    scale = torch.tensor(14.3, requires_grad=True)
    clip_loss(images[:256], texts[:256], scale, normalize=True).backward()  # libraries make their buffers on first use
    images.grad = texts.grad = scale.grad = None

    before, start = peak_rss(), time.perf_counter()
    loss = clip_loss(images, texts, scale, normalize=True)
    loss.backward()
    seconds, after = time.perf_counter() - start, peak_rss()

    print(f"{PAIRS} pairs of width {WIDTH}: loss {loss.item():.4f}, forward and backward in {seconds:.1f} s")
    print(f"one float32 matrix of logits: {4 * PAIRS**2 / MIB:.0f} MiB (not formed)")
    print(f"gradients: {4 * 2 * PAIRS * WIDTH / MIB:.0f} MiB; workspace: 64 MiB at most")
    if before is not None and after is not None:
        print(f"peak resident memory: {before / MIB:.0f} MiB before the loss, {after / MIB:.0f} MiB after")


if __name__ == "__main__":
    main()
