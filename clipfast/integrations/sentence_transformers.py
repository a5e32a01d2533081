"""sentence-transformers' loss with in-batch negatives, computed without the matrix of similarities."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from clipfast.common.argument_checks import check_whole_number
from clipfast.losses import clip_loss, info_nce_loss

try:
    from sentence_transformers.base.losses import CachedLossMixin, has_static_embedding_input
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.util import cos_sim, dot_score
except ImportError as error:
    raise ImportError(
        f"{__name__} needs sentence-transformers 6 or newer: pip install 'sentence-transformers[train]>=6'"
    ) from error


class FusedMultipleNegativesRankingLoss(CachedLossMixin, MultipleNegativesRankingLoss):
    """``MultipleNegativesRankingLoss``, and with ``mini_batch_size`` ``CachedMultipleNegativesRankingLoss``, fused.

    Inputs are (anchor, positive) pairs with any number of hard negatives; labels are not used. The values and gradients are
    those of the library's losses. ``info_nce_loss`` compares every anchor with all documents of the batch. With
    ``directions=("query_to_doc", "doc_to_query")`` and ``partition_mode="per_direction"``, ``clip_loss`` also compares every
    positive with all anchors.

    ``gather_across_devices`` compares with the documents of all processes. The gradients are again the library's; the value is
    the mean over the anchors of all processes, while the library's is the mean over the process's own.

    ``similarity_fct`` is ``cos_sim`` or ``dot_score`` of ``sentence_transformers.util``. ``mini_batch_size`` or
    ``mini_batch_num_tokens`` (tokens in a mini-batch) encode the batch in parts, by the library's own gradient caching.
    ``workspace_bytes`` is an argument of the loss.

    Raises ValueError for options whose loss is not a plain softmax over the documents (joint partitions of several
    directions, hardness weighting) and for other similarities, and TypeError for a scale that is not a number.
    """

    mini_batch_size: Any  # None if the batch is encoded at once, or in parts by tokens

    def __init__(
        self,
        model: Any,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = cos_sim,
        gather_across_devices: bool = False,
        directions: tuple[Literal["query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"], ...] = ("query_to_doc",),
        partition_mode: Literal["joint", "per_direction"] = "joint",
        hardness_mode: Literal["in_batch_negatives", "hard_negatives", "all_negatives"] | None = None,
        hardness_strength: float = 0.0,
        *,
        mini_batch_size: int | None = None,
        mini_batch_num_tokens: int | None = None,
        workspace_bytes: int | None = None,
    ) -> None:
        _check_numbers(scale, mini_batch_size=mini_batch_size, mini_batch_num_tokens=mini_batch_num_tokens)
        super().__init__(
            model, scale, similarity_fct, gather_across_devices, directions, partition_mode, hardness_mode, hardness_strength
        )
        self.mini_batch_size = mini_batch_size
        self.mini_batch_num_tokens = mini_batch_num_tokens
        self.workspace_bytes = workspace_bytes
        self.uses_gradient_cache = mini_batch_size is not None or mini_batch_num_tokens is not None
        if self.uses_gradient_cache and has_static_embedding_input(model):
            raise ValueError(
                "mini_batch_size and mini_batch_num_tokens must be None for a StaticEmbedding, whose input cannot be cut into "
                f"mini-batches; got {mini_batch_size} and {mini_batch_num_tokens}"
            )
        self._check_options()

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Any = None) -> Tensor:
        """The mean loss of the batch: one dict of model inputs for each column, anchors first."""
        if self.uses_gradient_cache:
            return self.forward_cached(sentence_features, labels)
        return super().forward(sentence_features, labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Any = None) -> Tensor:
        """The mean loss of columns of embeddings (N, D): anchors, positives, hard negatives."""
        self._check_options()  # again, as attributes may have been assigned
        if len(embeddings) < 2:
            raise ValueError(
                f"embeddings must have columns of anchors and positives, in this order; got {len(embeddings)} column"
            )
        queries, documents = embeddings[0], torch.cat(embeddings[1:])
        options: dict[str, Any] = {
            "normalize": self.similarity_fct is cos_sim,
            "workspace_bytes": self.workspace_bytes,
            "group": dist.group.WORLD if self.gather_across_devices else None,
        }
        if "doc_to_query" not in self.directions:
            return info_nce_loss(queries, documents, self.scale, **options)
        hard_negatives = len(embeddings) > 2  # no anchor's positives, so they are compared with no anchors
        targets = torch.arange(len(queries), device=queries.device) if hard_negatives else None
        loss = clip_loss(queries, documents, self.scale, targets=targets, **options)
        assert isinstance(loss, Tensor)
        return loss

    def calculate_loss(self, reps: list[list[Tensor]], labels: Any = None, *, with_backward: bool = False) -> Tensor:
        """The loss of columns of mini-batches of embeddings, for the library's gradient caching."""
        loss = self.compute_loss_from_embeddings([torch.cat(column) for column in reps], labels)
        if not with_backward:
            return loss
        loss.backward()
        return loss.detach()

    def get_config_dict(self) -> dict[str, Any]:
        """The arguments, for the model card."""
        own = ("mini_batch_size", "mini_batch_num_tokens", "workspace_bytes")
        return {**super().get_config_dict(), **{name: getattr(self, name) for name in own}}

    def _check_options(self) -> None:
        if problem := self._problem():
            cached = "Cached" if self.uses_gradient_cache else ""
            raise ValueError(f"{problem}; for others use {cached}MultipleNegativesRankingLoss")

    def _problem(self) -> str | None:
        """Which option no fused loss has; None if all are served."""
        if self.similarity_fct is not cos_sim and self.similarity_fct is not dot_score:
            return f"similarity_fct must be cos_sim or dot_score of sentence_transformers.util; got {self.similarity_fct!r}"
        directions = set(self.directions)
        both = directions == {"query_to_doc", "doc_to_query"} and self.partition_mode == "per_direction"
        if directions != {"query_to_doc"} and not both:
            return (
                "directions must be 'query_to_doc', or with partition_mode='per_direction' also 'doc_to_query'; "
                f"got directions={self.directions!r} with partition_mode={self.partition_mode!r}"
            )
        if self.hardness_mode is not None and self.hardness_strength > 0:
            return f"hardness_mode must be None, as the others change single logits; got {self.hardness_mode!r}"
        return None


def _check_numbers(scale: float, **sizes: int | None) -> None:
    if not isinstance(scale, (int, float)):
        raise TypeError(f"scale must be a number, as this loss has no parameters of its own; got {type(scale).__name__}")
    for name, size in sizes.items():
        if size is not None:
            check_whole_number(name, size, 1)
