"""Train a small CLIP on scikit-learn's digits, then fine-tune all of it on a few pictures of another kind.

The texts are ten sentences, so a batch contains every sentence many times. CLIP's loss compares a picture with all
sentences of the batch, and would count other pictures' copies of the right sentence as negatives. Here a picture is
compared with the ten sentences only: ``info_nce_loss`` with ``targets``, where several queries share one key.
"""

from __future__ import annotations

import copy
import time

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from clipfast import ZeroShotClassifier, create_model, info_nce_loss, tokenize
from clipfast.models import CLIP, BagOfWordsConfig, ClipConfig, VisionConfig

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATE = "a drawing of the number {}."
TRAIN, FEW = 1200, 100  # pictures to train on, and to fine-tune on; the other 597 are for testing
BATCH = 64


def digits() -> tuple[Tensor, Tensor]:
    """Pictures (1797, 1, 8, 8) in [-1, 1], strokes positive, and their digits (1797,), in a fixed random order."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    pictures = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    return pictures[order], torch.tensor(found.target)[order]


def small_clip() -> CLIP:
    """A vision transformer on 16 patches, and CLIP's bag of words: 0.05 million parameters to train.

    The embedding of OpenAI's vocabulary stays random: that tells ten names apart, and it is forty times as large as the rest.
    """
    vision = VisionConfig(8, 2, width=48, layers=2, heads=2, channels=1, mlp_width=96, activation="gelu")
    model = create_model(ClipConfig(32, vision, BagOfWordsConfig(context_length=16, vocab_size=49408, width=32)))
    model.token_embedding.requires_grad_(False)
    return model


def train(model: CLIP, pictures: Tensor, labels: Tensor, steps: int, learning_rate: float) -> float:
    """Train with AdamW and a one-cycle schedule on random batches; returns the last batch's loss."""
    texts = tokenize([TEMPLATE.format(name) for name in NAMES], context_length=model.context_length)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    model.train()
    for _ in range(steps):
        batch = torch.randint(0, len(pictures), (BATCH,))
        images, sentences = model.encode_image(pictures[batch]), model.encode_text(texts)
        loss = info_nce_loss(images, sentences, model.logit_scale.exp(), targets=labels[batch], normalize=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        model.clamp_logit_scale()
    return loss.item()


def accuracy(model: CLIP, pictures: Tensor, labels: Tensor) -> float:
    """Zero-shot accuracy: no classifier was trained; the ten sentences are the classes."""
    return (ZeroShotClassifier(model, NAMES, TEMPLATE).predict(pictures) == labels).float().mean().item()


def main() -> None:
    torch.manual_seed(0)
    pictures, labels = digits()
    test, test_labels = pictures[TRAIN:], labels[TRAIN:]
    mirrored = test.flip(3)

    start, model = time.perf_counter(), small_clip()
    loss = train(model, pictures[:TRAIN], labels[:TRAIN], steps=200, learning_rate=6e-3)
    print(f"trained on {TRAIN} pictures in {time.perf_counter() - start:.1f} s, loss {loss:.3f}")
    print(f"  {len(test)} unseen ones:        {accuracy(model, test, test_labels):.1%}")
    print(f"  the same, mirrored:      {accuracy(model, mirrored, test_labels):.1%}")

    tuned, fresh = copy.deepcopy(model), small_clip()
    for network in (tuned, fresh):
        train(network, pictures[:FEW].flip(3), labels[:FEW], steps=60, learning_rate=3e-3)
    print(f"after 60 steps with all weights on {FEW} mirrored pictures")
    print(f"  from the trained model:  {accuracy(tuned, mirrored, test_labels):.1%}")
    print(f"  from random weights:     {accuracy(fresh, mirrored, test_labels):.1%}")


if __name__ == "__main__":
    main()
