"""Transformers' Trainer takes the same steps with the fused models as with CLIPModel and SiglipModel."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import error
from peer_imports import peer
from tiny_clip import KINDS, collate, models, pairs
from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")
both_models = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def transformers() -> ModuleType:
    return peer("transformers")


@both_models
def test_loss_and_gradients(kind: str):
    theirs, ours = models(kind, double=True)
    batch = collate(pairs(torch.float64))
    want, got = theirs(**batch), ours(**batch)
    for name in ("loss", "image_embeds", "text_embeds"):
        assert error(got[name].detach(), want[name].detach()) < 1e-12, name
    assert got.logits_per_image is None
    want.loss.backward()
    got.loss.backward()
    ours_by_name = dict(ours.named_parameters())
    gradients = [(ours_by_name[name].grad, p.grad) for name, p in theirs.named_parameters() if p.grad is not None]
    assert error(*(torch.cat([x.flatten() for x in side]) for side in zip(*gradients, strict=True))) < 1e-10
    assert error(ours.logit_scale.grad, theirs.logit_scale.grad) < 1e-10


def train(model: Any, folder: Path, collator: Any) -> tuple[list[float], float, Tensor]:
    """The steps' losses, the evaluation's loss, and all parameters, after four steps of two batches each."""
    transformers = peer("transformers")
    peer("accelerate")
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=4, gradient_accumulation_steps=2, num_train_epochs=2,
        learning_rate=1e-2, adam_epsilon=1e-3, logging_steps=1, report_to="none", save_strategy="no", use_cpu=True,
        disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model, args=arguments, data_collator=collator, train_dataset=pairs(), eval_dataset=pairs()
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, trainer.evaluate()["eval_loss"], torch.cat([p.detach().flatten() for p in model.parameters()])


@both_models
def test_steps_of_the_trainer(kind: str, tmp_path: Path):
    theirs, ours = models(kind)
    want_losses, want_evaluation, want = train(theirs, tmp_path, collate)
    losses, evaluation, got = train(ours, tmp_path, None)  # its default collator: the fused models need no return_loss
    assert len(losses) == 4
    assert losses == pytest.approx(want_losses, rel=1e-5)
    assert evaluation == pytest.approx(want_evaluation, rel=1e-5)
    assert error(got, want) < 1e-5


@both_models
def test_folders_and_outputs_without_a_loss_are_the_base_classs(kind: str, tmp_path: Path):
    theirs, ours = models(kind)
    batch = {**collate(pairs()), "return_loss": False}
    torch.testing.assert_close(ours(**batch).logits_per_image, theirs(**batch).logits_per_image, rtol=0, atol=0)
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    for model, folder in ((theirs, "ours"), (ours, "theirs")):
        again = type(model).from_pretrained(tmp_path / folder)
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
