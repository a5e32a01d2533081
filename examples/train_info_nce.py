"""Train a small embedding model with InfoNCE: find each noisy query's key, measured on pairs that it never saw."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipfast import info_nce_loss

LATENT, OBSERVED, WIDTH = 16, 48, 32
TRAIN, HELD_OUT, BATCH, STEPS = 8192, 1000, 512, 80


def synthetic_pairs(count: int, mixing: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two observations (count, OBSERVED) of each hidden vector, through different mixings and with noise."""
    hidden = torch.randn(count, LATENT)
    query, key = (torch.tanh(hidden @ m) + 0.1 * torch.randn(count, OBSERVED) for m in mixing)
    return query, key


def encoder() -> nn.Module:
    return nn.Sequential(nn.Linear(OBSERVED, 64), nn.GELU(), nn.Linear(64, WIDTH))


@torch.no_grad()
def top1(queries: Tensor, keys: Tensor) -> float:
    """Share of the queries whose own key is the nearest of all keys by cosine similarity."""
    similarity = nn.functional.normalize(queries, dim=1) @ nn.functional.normalize(keys, dim=1).T
    return (similarity.argmax(1) == torch.arange(len(queries))).float().mean().item()


def main() -> None:
    torch.manual_seed(0)
    mixing = torch.randn(LATENT, OBSERVED) / LATENT**0.5, torch.randn(LATENT, OBSERVED) / LATENT**0.5
    queries, keys = synthetic_pairs(TRAIN, mixing)
    test_queries, test_keys = synthetic_pairs(HELD_OUT, mixing)
    query_encoder, key_encoder = encoder(), encoder()
    log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
    parameters = [*query_encoder.parameters(), *key_encoder.parameters(), log_scale]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)

    print(f"before: top-1 of {HELD_OUT} unseen pairs {top1(query_encoder(test_queries), key_encoder(test_keys)):.1%}")
    for step in range(1, STEPS + 1):
        batch = torch.randint(0, TRAIN, (BATCH,)).unique()  # a pair drawn twice would be its own negative
        loss = info_nce_loss(query_encoder(queries[batch]), key_encoder(keys[batch]), log_scale.exp(), normalize=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step:3d}: loss {loss.item():.3f}, scale {log_scale.exp().item():.1f}")
    print(f"after:  top-1 of {HELD_OUT} unseen pairs {top1(query_encoder(test_queries), key_encoder(test_keys)):.1%}")


if __name__ == "__main__":
    main()
