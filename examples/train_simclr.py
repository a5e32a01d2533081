"""SimCLR on synthetic waves: learn without labels that the tone matters, and that phase, loudness and noise do not."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from clipfast import nt_xent_loss

TONES, SAMPLES = 12, 64  # classes, and points of one wave
BATCH, STEPS, TEMPERATURE = 256, 100, 0.2


def views(tones: Tensor) -> Tensor:
    """One random view (count, SAMPLES) of each tone: its own phase, loudness and noise."""
    time = torch.arange(SAMPLES) / SAMPLES
    phase = 2 * math.pi * torch.rand(len(tones), 1)
    wave = torch.sin(2 * math.pi * (2 + tones.unsqueeze(1)) * time + phase)
    return (0.5 + torch.rand(len(tones), 1)) * wave + 0.6 * torch.randn(len(tones), SAMPLES)


@torch.no_grad()
def nearest_neighbour_accuracy(encoder: nn.Module) -> float:
    """Share of test views whose nearest labelled view, by cosine similarity of the embeddings, has the same tone."""
    known, asked = torch.arange(TONES).repeat(10), torch.arange(TONES).repeat(50)
    left, right = (nn.functional.normalize(encoder(views(tones.float())), dim=1) for tones in (asked, known))
    return (known[(left @ right.T).argmax(1)] == asked).float().mean().item()


def main() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(SAMPLES, 256), nn.ReLU(), nn.Linear(256, 64))
    projector = nn.Sequential(nn.ReLU(), nn.Linear(64, 32))  # the loss sees its output; the embedding is its input
    optimizer = torch.optim.AdamW([*encoder.parameters(), *projector.parameters()], lr=1e-3)

    print(f"before: nearest-neighbour accuracy over {TONES} tones {nearest_neighbour_accuracy(encoder):.1%}")
    for step in range(1, STEPS + 1):
        # Continuous tones: each sample is its own class here, as pictures are in SimCLR.
        tones = (TONES - 1) * torch.rand(BATCH)
        loss = nt_xent_loss(projector(encoder(views(tones))), projector(encoder(views(tones))), TEMPERATURE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step:3d}: loss {loss.item():.3f} (chance {math.log(2 * BATCH - 1):.3f})")
    print(f"after:  nearest-neighbour accuracy over {TONES} tones {nearest_neighbour_accuracy(encoder):.1%}")


if __name__ == "__main__":
    main()
