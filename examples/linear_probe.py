"""A linear probe: logistic regression on the features of a frozen image tower, its L2 penalty chosen by a sweep.

The tower is a small CLIP, trained on captioned digits here; with a checkpoint of your own take ``clipfast.load`` instead.
The probe has a few labelled pictures that the tower never saw.
"""

from __future__ import annotations

import numpy as np
import torch
from finetune_digits import TRAIN, accuracy, digits, small_clip, train
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from torch import Tensor

from clipfast.inference.zero_shot import evaluation
from clipfast.models import CLIP

LABELLED, FOLDS = 60, 3
PENALTIES = np.logspace(3, -4, 15)  # scikit-learn's 1/C; the strongest first, so that it wins a tie


def features(model: CLIP, pictures: Tensor) -> np.ndarray:
    """Normalised features (B, D), after the projection; the paper probes the layer before it."""
    with evaluation(model):
        return torch.nn.functional.normalize(model.encode_image(pictures), dim=1).numpy()


def swept(x: np.ndarray, y: np.ndarray) -> tuple[float, LogisticRegression]:
    """The penalty that is best in cross-validation, and a probe trained with it on all of ``x``."""
    probes = {float(penalty): LogisticRegression(C=1 / penalty, max_iter=2000) for penalty in PENALTIES}
    best = max(probes, key=lambda penalty: cross_val_score(probes[penalty], x, y, cv=FOLDS).mean())
    return best, probes[best].fit(x, y)


def main() -> None:
    torch.manual_seed(0)
    pictures, labels = digits()
    model = small_clip()
    train(model, pictures[:TRAIN], labels[:TRAIN], steps=200, learning_rate=6e-3)

    rest, y = pictures[TRAIN:], labels[TRAIN:].numpy()
    print(f"{LABELLED} labelled digits, tested on {len(rest) - LABELLED} others")
    for name, x in (("features", features(model, rest)), ("pixels", rest.flatten(1).numpy())):
        penalty, found = swept(x[:LABELLED], y[:LABELLED])
        print(f"  probe on {name:8} (width {x.shape[1]}): {found.score(x[LABELLED:], y[LABELLED:]):.1%}, penalty {penalty:.2g}")
    print(f"  zero-shot, no labels:          {accuracy(model, rest[LABELLED:], labels[TRAIN + LABELLED :]):.1%}")


if __name__ == "__main__":
    main()
