"""Transformers' Trainer takes the same steps with the fused models as with CLIPModel and SiglipModel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import error
from peer_imports import load, peer
from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")
PAIRS, CLIP, SIGLIP = 16, "CLIP", "Siglip"
both_models = pytest.mark.parametrize("kind", [CLIP, SIGLIP])
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**SIZES, "image_size": 16, "patch_size": 8}
TEXT = {**SIZES, "vocab_size": 50, "max_position_embeddings": 6, "bos_token_id": 0, "eos_token_id": 49}


def models(kind: str, double: bool = False) -> tuple[Any, Any]:
    """The model of Transformers and the fused one, with the same random weights."""
    transformers = peer("transformers")
    fused = getattr(load("clipfast.integrations.transformers"), f"Fused{kind}Model")
    config = getattr(transformers, f"{kind}Config")(text_config=TEXT, vision_config=VISION, projection_dim=8)
    torch.manual_seed(0)
    theirs, ours = getattr(transformers, f"{kind}Model")(config), fused(config)
    with torch.no_grad():
        for value in theirs.parameters():
            value.add_(0.1 * torch.randn_like(value))
    ours.load_state_dict(theirs.state_dict())
    return (theirs.double(), ours.double()) if double else (theirs, ours)


def pairs(dtype: torch.dtype = torch.float32) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 49, (PAIRS, 6), generator=generator)
    ids[:, -1] = 49  # the end, where CLIP reads its feature
    images = torch.randn(PAIRS, 3, 16, 16, generator=generator, dtype=torch.float64).to(dtype)
    return [{"pixel_values": image, "input_ids": row} for image, row in zip(images, ids, strict=True)]


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Any]:
    """A batch as CLIPModel needs it; the fused models take ``return_loss`` as well, and need it not."""
    return {**{name: torch.stack([row[name] for row in rows]) for name in rows[0]}, "return_loss": True}


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
    """Losses of the steps, the evaluation's, and all parameters, after four steps of two batches each."""
    transformers = peer("transformers")
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
