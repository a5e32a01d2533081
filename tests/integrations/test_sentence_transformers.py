"""The fused loss is sentence-transformers' own: values, gradients, and steps of its trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from helpers import error
from peer_imports import load, peer
from tiny_sentences import columns, encoder
from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")
BOTH = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}


class Peer(NamedTuple):
    """sentence-transformers, its two losses, and the one under test."""

    package: ModuleType
    plain: Callable[..., Any]
    cached: Callable[..., Any]
    fused: Callable[..., Any]


@pytest.fixture
def st() -> Peer:
    package = peer("sentence_transformers")
    theirs = load("sentence_transformers.sentence_transformer.losses")
    ours = load("clipfast.integrations.sentence_transformers").FusedMultipleNegativesRankingLoss
    return Peer(package, theirs.MultipleNegativesRankingLoss, theirs.CachedMultipleNegativesRankingLoss, ours)


def embeddings(rows: int, number: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randn(rows, 24, generator=generator, dtype=torch.float64) for _ in range(number)]
    return [(x + drawn[0] if i else x).to(dtype).requires_grad_() for i, x in enumerate(drawn)]


def of_embeddings(loss: Any, given: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The value, and the gradients of all columns as one tensor."""
    value = loss.compute_loss_from_embeddings(given, None)
    return value.detach(), torch.stack(torch.autograd.grad(value, given))


@pytest.mark.parametrize("options", [{}, BOTH], ids=["query_to_doc", "both directions"])
@pytest.mark.parametrize("number", [2, 3, 5])
@pytest.mark.parametrize("similarity", ["cos_sim", "dot_score"])
def test_values_and_gradients_at_the_embeddings(st: Peer, options: dict, number: int, similarity: str):
    options = {
        **options,
        "similarity_fct": getattr(st.package.util, similarity),
        "scale": 20.0 if similarity == "cos_sim" else 0.3,
    }
    given = embeddings(33, number, torch.float64)
    (value, gradient), (want, wanted) = (of_embeddings(kind(None, **options), given) for kind in (st.fused, st.plain))
    assert error(value, want) < 1e-12
    assert error(gradient, wanted) < 1e-12


def test_batches_that_are_cut_into_tiles(st: Peer):
    given = embeddings(500, 3, torch.float32)
    for options in ({}, BOTH):
        value, gradient = of_embeddings(st.fused(None, workspace_bytes=2**20, **options), given)
        want, wanted = of_embeddings(st.plain(None, **options), [x.detach().double().requires_grad_() for x in given])
        assert error(value, want) < 1e-6
        assert error(gradient, wanted) < 1e-5


def of_model(model: Any, loss: Any, rows: int, number: int) -> tuple[Tensor, Tensor]:
    """The value, and the gradients of all parameters as one vector, with the same dropout each time."""
    model.train().zero_grad()
    torch.manual_seed(2)
    features = [model.preprocess(texts) for texts in columns(rows, number).values()]
    value = loss(features, None)
    (3 * value).backward()  # multiplied, as by a GradScaler or by gradient accumulation
    return value.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(("options", "number"), [({}, 2), ({}, 4), (BOTH, 3)])
def test_values_and_gradients_of_the_parameters(st: Peer, tmp_path: Path, options: dict, number: int):
    model = encoder(tmp_path, dropout=0.1).double()
    (value, gradient), (want, wanted) = (of_model(model, kind(model, **options), 7, number) for kind in (st.fused, st.plain))
    assert error(value, want) < 1e-12
    assert error(gradient, wanted) < 1e-10


@pytest.mark.parametrize("options", [{}, BOTH], ids=["query_to_doc", "both directions"])
@pytest.mark.parametrize("parts", [{"mini_batch_size": 3}, {"mini_batch_size": 4, "mini_batch_num_tokens": 20}], ids=str)
def test_cached_it_is_the_cached_loss(st: Peer, tmp_path: Path, options: dict, parts: dict):
    model = encoder(tmp_path, dropout=0.1).double()
    kinds = (st.fused, st.cached)
    (value, gradient), (want, wanted) = (of_model(model, kind(model, **parts, **options), 7, 3) for kind in kinds)
    assert error(value, want) < 1e-12
    assert error(gradient, wanted) < 1e-10


def test_cached_and_at_once_agree_without_dropout(st: Peer, tmp_path: Path):
    model = encoder(tmp_path).double()
    (value, gradient), (want, wanted) = (of_model(model, st.fused(model, mini_batch_size=size), 7, 3) for size in (2, None))
    assert error(value, want) < 1e-12
    assert error(gradient, wanted) < 1e-10


def train(st: Peer, folder: Path, kind: Callable[..., Any], **options: Any) -> tuple[list[float], float, Tensor]:
    """The steps' losses, the evaluation's loss, and all parameters, after three steps of two batches each."""
    datasets = peer("datasets")
    peer("accelerate")
    model = encoder(folder / "model")
    rows = datasets.Dataset.from_dict(columns(24, 3))
    arguments = st.package.SentenceTransformerTrainingArguments(
        output_dir=str(folder / "runs"), per_device_train_batch_size=4, gradient_accumulation_steps=2, num_train_epochs=1,
        learning_rate=1e-2, adam_epsilon=1e-3, logging_steps=1, report_to="none", save_strategy="no", use_cpu=True,
        disable_tqdm=True, per_device_eval_batch_size=6,
    )  # fmt: skip
    trainer = st.package.SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=rows, eval_dataset=rows, loss=kind(model, **options)
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    parameters = torch.cat([p.detach().flatten() for p in model.parameters()])
    return losses, trainer.evaluate()["eval_loss"], parameters


def test_steps_of_the_trainer(st: Peer, tmp_path: Path):
    want_losses, want_evaluation, want = train(st, tmp_path, st.plain)
    assert len(want_losses) == 3
    for parts in ({}, {"mini_batch_size": 3}):
        losses, evaluation, got = train(st, tmp_path, st.fused, **parts)
        assert losses == pytest.approx(want_losses, rel=1e-5)
        assert evaluation == pytest.approx(want_evaluation, rel=1e-5)
        assert error(got, want) < 1e-5


def test_inside_matryoshka(st: Peer, tmp_path: Path):
    model = encoder(tmp_path).double()
    wrap = load("sentence_transformers.sentence_transformer.losses").MatryoshkaLoss
    for parts, theirs in (({}, st.plain), ({"mini_batch_size": 3}, st.cached)):
        losses = (wrap(model, kind(model, **parts), matryoshka_dims=[16, 5]) for kind in (st.fused, theirs))
        (value, gradient), (want, wanted) = (of_model(model, loss, 7, 3) for loss in losses)
        assert error(value, want) < 1e-12
        assert error(gradient, wanted) < 1e-10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"similarity_fct": torch.cdist},
            r"similarity_fct must be cos_sim or dot_score.*; got .*use MultipleNegativesRankingLoss",
        ),
        ({"directions": ("query_to_doc", "doc_to_query")}, r"per_direction.*; got .*partition_mode='joint'"),
        ({"directions": ("query_to_doc", "query_to_query")}, r"directions=.*query_to_query"),
        ({"hardness_mode": "hard_negatives", "hardness_strength": 5.0, "mini_batch_size": 2}, r"use CachedMultipleNegatives"),
        ({"mini_batch_size": 0}, r"mini_batch_size must be a whole number of at least 1; got 0"),
        ({"scale": -1.0}, r"[Ss]cale must be"),
    ],
)
def test_what_it_cannot_express_is_refused(st: Peer, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        st.fused(torch.nn.Sequential(torch.nn.Identity()), **options)


def test_options_are_checked_when_they_are_used(st: Peer):
    loss = st.fused(None)
    loss.directions = ("query_to_doc", "doc_to_doc")
    with pytest.raises(ValueError, match="doc_to_doc"):
        loss.compute_loss_from_embeddings(embeddings(4, 2, torch.float32))
    with pytest.raises(ValueError, match="must have columns of anchors and positives, in this order; got 1"):
        st.fused(None).compute_loss_from_embeddings(embeddings(4, 1, torch.float32))
    with pytest.raises(TypeError, match=r"scale must be a number, .*; got Parameter"):
        st.fused(None, scale=torch.nn.Parameter(torch.tensor(20.0)))


def test_the_model_card_has_its_arguments(st: Peer):
    config = st.fused(None, scale=30.0).get_config_dict()
    assert config.items() >= {"scale": 30.0, "similarity_fct": "cos_sim", "mini_batch_size": None}.items()
