"""A program for torchrun: the integrations among several processes. Each rank writes what it saw to ``<folder>/<rank>.pt``."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning_runs
import open_clip_runs
import tiny_clip
import tiny_sentences
import torch
import torch.distributed as dist
from peer_imports import load
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from clipfast.integrations import open_clip as integration

EXACT = ["--gather-with-grad"]  # without it, open_clip's gradients are not those of its loss
OPEN_CLIP = {"clip": EXACT, "clip local": [*EXACT, "--local-loss"], "siglip": ["--siglip"]}
SENTENCES: dict[str, dict[str, Any]] = {
    "one direction": {},
    "both directions": {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
}


@contextmanager
def for_the_cpu(trainer: Any) -> Iterator[None]:
    """Make up for two assumptions of open_clip's trainer: devices have numbers, and a program trains once."""
    first = dist.init_process_group
    dist.init_process_group = lambda **options: None if dist.is_initialized() else first(**options)
    nn.parallel.DistributedDataParallel = lambda model, device_ids, **options: DistributedDataParallel(model, **options)
    yield
    dist.init_process_group, nn.parallel.DistributedDataParallel = first, DistributedDataParallel


def open_clip_losses(folder: Path) -> dict[str, list[float]]:
    """This rank's loss at every step, by run; rank 0 writes the parameters to checkpoints."""
    trainer = load("open_clip_train.main")
    open_clip_runs.quiet(trainer, folder)
    make, seen = trainer.create_loss, {}
    with for_the_cpu(trainer):
        for name, flags in OPEN_CLIP.items():
            for side, train in (("theirs", trainer.main), ("ours", integration.main)):
                trainer.create_loss = make
                with open_clip_runs.losses() as values:
                    train(open_clip_runs.arguments(folder, f"{side} {name}", *flags))
                seen[f"{side} {name}"] = [value for _, value in values]
    return seen


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def sentences(folder: Path, rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The value and gradients of the loss of this rank's half of the texts."""
    theirs = load("sentence_transformers.sentence_transformer.losses").MultipleNegativesRankingLoss
    fused = load("clipfast.integrations.sentence_transformers").FusedMultipleNegativesRankingLoss
    kinds = {"theirs": (theirs, {}), "ours": (fused, {}), "cached": (fused, {"mini_batch_size": 3})}
    encoder, found = tiny_sentences.read_encoder(folder / "encoder").double(), {}
    texts = [column[4 * rank : 4 * rank + 4] for column in tiny_sentences.columns(8, 3).values()]
    for name, options in SENTENCES.items():
        for side, (kind, parts) in kinds.items():
            model = copy.deepcopy(encoder)
            loss = kind(model, gather_across_devices=True, **options, **parts)
            loss.model = DistributedDataParallel(model, find_unused_parameters=True)  # as the library's trainer does
            features = [model.preprocess(column) for column in texts]
            value = loss(features, None)
            value.backward()
            found[f"{side} {name}"] = (value.detach(), gradients(model))
    return found


def fused_models(rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The values and gradients of Transformers' models on this rank's pairs: 5 on one rank, 3 on the other."""
    found = {}
    for kind in tiny_clip.KINDS:
        model = tiny_clip.models(kind, double=True)[1]
        model.gather_across_devices = True
        mine = tiny_clip.pairs(torch.float64)[:5] if rank == 0 else tiny_clip.pairs(torch.float64)[5:8]
        ddp = DistributedDataParallel(model, find_unused_parameters=True)
        loss = ddp(**tiny_clip.collate(mine)).loss
        loss.backward()
        found[kind] = (loss.detach(), gradients(model))
    return found


def lightning() -> Tensor:
    """All parameters after two epochs under Lightning's DDP, with 10 pairs a step in each process."""
    example = lightning_runs.example()
    model, pairs = lightning_runs.model_and_pairs(example)
    in_order = DistributedSampler(pairs, shuffle=False)  # Lightning's own would shuffle
    example.trainer(max_epochs=2, devices=2, strategy="ddp").fit(model, DataLoader(pairs, batch_size=10, sampler=in_order))
    return lightning_runs.flat(model)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    load("pytorch_lightning")
    seen: dict[str, Any] = {
        "open_clip": open_clip_losses(folder),
        "sentences": sentences(folder, rank),
        "models": fused_models(rank),
    }
    seen["lightning"] = lightning()
    torch.save(seen, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
