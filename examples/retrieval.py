"""Retrieval: find the lower half of a digit by its upper half, among all others, and measure recall@k.

Two small encoders learn it with the fused CLIP loss. Each upper half has two right answers: its lower half under two
kinds of noise, as a photograph has several captions.
"""

from __future__ import annotations

import torch
from finetune_digits import TRAIN, digits
from torch import Tensor, nn

from clipfast import clip_loss, recall_at_k, top_k

STEPS, BATCH, NOISE = 300, 256, 0.1


def encoder() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32))


def noisy(halves: Tensor) -> Tensor:
    return halves + NOISE * torch.randn_like(halves)


def train(upper: nn.Module, lower: nn.Module, pictures: Tensor) -> None:
    log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
    optimizer = torch.optim.AdamW([*upper.parameters(), *lower.parameters(), log_scale], lr=2e-3, weight_decay=0.1)
    for step in range(1, STEPS + 1):
        batch = pictures[torch.randperm(len(pictures))[:BATCH]]
        loss = clip_loss(upper(noisy(batch[:, :, :4])), lower(noisy(batch[:, :, 4:])), log_scale.exp(), normalize=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}")


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    pictures, labels = digits()
    upper, lower = encoder(), encoder()
    with torch.enable_grad():
        train(upper, lower, pictures[:TRAIN])

    test = pictures[TRAIN:]
    owner = torch.arange(len(test)).repeat(2)
    queries, keys = upper(test[:, :, :4]), lower(noisy(test[owner][:, :, 4:]))
    print(f"{len(queries)} unseen upper halves, {len(keys)} lower halves")
    for direction, shares in recall_at_k(queries, keys, (1, 5, 10), targets=owner).items():
        print(f"  {direction.replace('image', 'upper').replace('text', 'lower')}:", end=" ")
        print(", ".join(f"recall@{k} {share:.1%}" for k, share in shares.items()))

    scores, found = top_k(queries[:1], keys, 4, normalize=True)
    halves = ", ".join(f"of a {labels[TRAIN + owner[i]]} ({score:.2f})" for i, score in zip(found[0], scores[0], strict=True))
    print(f"best lower halves for the upper half of a {labels[TRAIN]}: {halves}")


if __name__ == "__main__":
    main()
