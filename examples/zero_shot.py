"""Zero-shot classification with prompts: one template, several averaged, and a digit whose sentence was never trained.

The small CLIP is trained here, in seconds, on captioned digits other than 7. With a checkpoint of your own it is
``model, preprocess = clipfast.load("ViT-B/32")``; the classifier stays the same.
"""

from __future__ import annotations

import torch
from finetune_digits import NAMES, TEMPLATE, TRAIN, digits, small_clip, train

from clipfast import ZeroShotClassifier

TEMPLATES = (TEMPLATE, "the number {}", "{}", lambda name: f"a small picture of {name.upper()}")


def main() -> None:
    torch.manual_seed(0)
    pictures, labels = digits()
    model, known = small_clip(), labels[:TRAIN] != 7
    train(model, pictures[:TRAIN][known], labels[:TRAIN][known], steps=200, learning_rate=6e-3)
    test, y = pictures[TRAIN:], labels[TRAIN:]

    for name, templates in (("the trained template", TEMPLATE), (f"{len(TEMPLATES)} templates averaged", TEMPLATES)):
        right = ZeroShotClassifier(model, NAMES, templates).predict(test) == y
        print(f"{name}: {right[y != 7].float().mean():.1%} right, of the sevens {right[y == 7].float().mean():.1%}")

    classifier = ZeroShotClassifier(model, NAMES, TEMPLATES)
    probabilities, places = classifier.top_k(test[:3], k=3)
    for digit, values, found in zip(y[:3], probabilities, places, strict=True):
        best = ", ".join(f"{NAMES[i]} {p:.3f}" for i, p in zip(found, values, strict=True))
        print(f"a picture of {NAMES[digit]}: {best}")


if __name__ == "__main__":
    main()
