"""A Lightning module with the fused CLIP loss: towers, a learned scale, and retrieval on pairs that it never saw."""

from __future__ import annotations

import math

import pytorch_lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from clipfast import clip_loss, recall_at_k

CAUSES, IMAGE, TEXT, WIDTH = 16, 48, 24, 32
TRAIN, HELD_OUT, BATCH, EPOCHS = 4096, 500, 512, 10


class TwoTowers(L.LightningModule):
    """Any two encoders will do: the loss takes their features as they come, before normalisation."""

    def __init__(self, learning_rate: float = 3e-3) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.image = nn.Sequential(nn.Linear(IMAGE, 64), nn.GELU(), nn.Linear(64, WIDTH))
        self.text = nn.Sequential(nn.Linear(TEXT, 64), nn.GELU(), nn.Linear(64, WIDTH))
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        return self.image(images), self.text(texts)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        everybody = torch.distributed.group.WORLD  # all processes' pairs are compared; None if there is one process
        loss = clip_loss(*self(*batch), self.log_scale.exp(), normalize=True, group=everybody)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def on_train_batch_end(self, *_: object) -> None:
        with torch.no_grad():
            self.log_scale.clamp_(0, math.log(100))  # as CLIP's authors did

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        recall = recall_at_k(*self(*batch), ks=(1,))["image_to_text"]
        self.log("recall", recall[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate)


def synthetic_pairs(count: int, mixing: tuple[Tensor, Tensor]) -> TensorDataset:
    """Images and texts that show the same hidden causes, with noise."""
    causes = torch.randn(count, CAUSES)
    return TensorDataset(*(torch.tanh(causes @ m) + 0.4 * torch.randn(count, m.shape[1]) for m in mixing))


def trainer(**options: object) -> L.Trainer:
    """Lightning's trainer on the CPU, without log files and progress bar."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", **quiet, **options)


def main() -> None:
    L.seed_everything(0)
    mixing = torch.randn(CAUSES, IMAGE) / CAUSES**0.5, torch.randn(CAUSES, TEXT) / CAUSES**0.5
    training = DataLoader(synthetic_pairs(TRAIN, mixing), BATCH, shuffle=True, drop_last=True)
    held_out = DataLoader(synthetic_pairs(HELD_OUT, mixing), HELD_OUT)
    model, lightning = TwoTowers(), trainer(max_epochs=EPOCHS)
    before = lightning.validate(model, held_out, verbose=False)[0]["recall"]
    lightning.fit(model, training, held_out)
    logged = lightning.callback_metrics
    print(f"loss of the last epoch {logged['loss'].item():.3f}, scale {model.log_scale.exp().item():.1f}")
    print(f"image to text, top-1 of {HELD_OUT} unseen pairs: {before:.1%} before, {logged['recall'].item():.1%} after")


if __name__ == "__main__":
    main()
