"""Train a small CLIP on icons: random pairs, the fused loss, AdamW under a one-cycle schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from clipfast.demo.captions import Vocabulary, caption
from clipfast.demo.icons import TRAINING_STYLES, Icons, pixels
from clipfast.demo.report import ZeroShot
from clipfast.models import CLIP, ClipConfig, TextConfig, VisionConfig


@dataclass(frozen=True)
class Recipe:
    """The training's numbers. ``shift`` is in pixels, ``turn`` in radians, ``zoom`` a share of the size."""

    steps: int = 700
    batch_size: int = 250
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    warm_up: float = 0.1
    shift: float = 1.0
    zoom: float = 0.08
    turn: float = 0.05
    styled_captions: float = 0.5
    evaluations: int = 10


@dataclass
class History:
    """What the curve shows: the loss of every step, and the held-out style's accuracy now and then."""

    losses: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, ZeroShot]] = field(default_factory=list)


class Pairs:
    """Random batches of (picture, caption) in which no name comes twice: a second one would be a false negative."""

    def __init__(self, icons: Icons, vocabulary: Vocabulary, recipe: Recipe, seed: int) -> None:
        self.images = torch.stack([icons.images[style] for style in TRAINING_STYLES])
        wordings = (*TRAINING_STYLES, None)
        self.tokens = torch.stack([vocabulary.encode(caption(name, style) for name in icons.names) for style in wordings])
        self.recipe = recipe
        self.batch_size = min(recipe.batch_size, len(icons.names))
        self.random = Generator().manual_seed(seed)
        self._waiting = torch.empty(0, dtype=torch.long)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Pictures (B, 1, size, size), each in a random style and place, and captions (B, L), some naming the style."""
        names = self._next_names()
        styles = torch.randint(len(self.images), names.shape, generator=self.random)
        styled = torch.rand(names.shape, generator=self.random) < self.recipe.styled_captions
        wordings = torch.where(styled, styles, len(self.tokens) - 1)
        moved = move(self.images[styles, names], self.recipe, self.random)
        return pixels(moved), self.tokens[wordings, names]

    def _next_names(self) -> Tensor:
        if len(self._waiting) < self.batch_size:
            self._waiting = torch.randperm(self.images.shape[1], generator=self.random)
        names, self._waiting = self._waiting[: self.batch_size], self._waiting[self.batch_size :]
        return names


def move(images: Tensor, recipe: Recipe, random: Generator) -> Tensor:
    """(B, size, size), each shifted, zoomed and turned a little at random: with three drawings of a name, the model
    would otherwise learn their pixels."""

    def between(limit: float) -> Tensor:
        return (torch.rand(len(images), generator=random) * 2 - 1) * limit

    zoom, turn = 1 + between(recipe.zoom), between(recipe.turn)
    right, down = (between(2 * recipe.shift / images.shape[-1]) for _ in range(2))  # the grid spans -1 to 1
    cos, sin = zoom * turn.cos(), zoom * turn.sin()
    matrix = torch.stack([cos, -sin, right, sin, cos, down], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, [len(images), 1, *images.shape[1:]], align_corners=False)
    return F.grid_sample(images.unsqueeze(1), grid, align_corners=False).squeeze(1)


def build_model(image_size: int, vocabulary: Vocabulary, seed: int) -> CLIP:
    """A CLIP of a third of a million parameters for 500 names, the same for the same seed."""
    vision = VisionConfig(image_size=image_size, patch_size=8, width=96, layers=2, heads=3, channels=1)
    text = TextConfig(vocabulary.context_length, len(vocabulary), width=64, layers=1, heads=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIP(ClipConfig(64, vision, text))


def train(
    model: CLIP,
    pairs: Pairs,
    recipe: Recipe,
    evaluate: Callable[[], ZeroShot],
    after_step: Callable[[int, float], None],
) -> History:
    """Train ``model`` in place. ``after_step(pairs in the batch, loss)`` shows the progress.

    ``evaluate`` only feeds the curve: nothing is chosen by it, and the last step's weights are the result.
    """
    optimizer = _optimizer(model, recipe)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=max(recipe.steps, 2), pct_start=recipe.warm_up
    )
    history, every = History(), max(1, recipe.steps // recipe.evaluations)
    for step in range(1, recipe.steps + 1):
        images, texts = pairs.draw()
        loss = model.contrastive_loss(images, texts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        model.clamp_logit_scale()
        history.losses.append(loss.item())
        after_step(len(images), history.losses[-1])
        if step % every == 0 or step == recipe.steps:
            history.evaluations.append((step, evaluate()))
    return history


def _optimizer(model: CLIP, recipe: Recipe) -> torch.optim.Optimizer:
    """Weights decay towards zero; gains, biases and the scale do not."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
