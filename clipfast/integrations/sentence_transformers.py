"""sentence-transformers' loss with in-batch negatives, without the matrix of similarities."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

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
    those of the library's losses. Every anchor is compared with all documents of the batch, by ``info_nce_loss``; with
    ``directions=("query_to_doc", "doc_to_query")`` and ``partition_mode="per_direction"`` every positive with all anchors as
    well, by ``clip_loss``.

    ``gather_across_devices`` compares with the documents of all processes: the gradients are again the library's, and the value
    is the mean over all processes' anchors, where the library's is over the process's own.

    ``similarity_fct`` is ``cos_sim`` or ``dot_score`` of ``sentence_transformers.util``. ``mini_batch_size`` or
    ``mini_batch_num_tokens`` (tokens in a mini-batch) encode the batch in parts, by the library's own gradient caching.
    ``workspace_bytes`` is that of the loss.

    Raises ValueError for options whose terms are no plain softmax over the documents (joint partitions of several
    directions, hardness weighting) and for other similarities, and TypeError for a scale that is no number.
    """

    mini_batch_size: Any  # None where the batch is encoded at once, or in parts by tokens

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
            raise ValueError("a StaticEmbedding's input cannot be cut into mini-batches; leave mini_batch_size out")
        self._check_options()

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Any = None) -> Tensor:
        """The mean loss of the batch: one dict of model inputs for each column, anchors first."""
        if self.uses_gradient_cache:
            return self.forward_cached(sentence_features, labels)
        return super().forward(sentence_features, labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Any = None) -> Tensor:
        """The mean loss of columns of embeddings (N, D): anchors, positives, hard negatives."""
        self._check_options()  # they may have been assigned since
        if len(embeddings) < 2:
            raise ValueError(f"{len(embeddings)} column of texts; anchors and positives are needed, in this order")
        queries, documents = embeddings[0], torch.cat(embeddings[1:])
        options: dict[str, Any] = {
            "normalize": self.similarity_fct is cos_sim,
            "workspace_bytes": self.workspace_bytes,
            "group": dist.group.WORLD if self.gather_across_devices else None,
        }
        if "doc_to_query" not in self.directions:
            return info_nce_loss(queries, documents, self.scale, **options)
        hard_negatives = len(embeddings) > 2  # they are nobody's positive, so that they have no direction of their own
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
        problem = None
        if self.similarity_fct is not cos_sim and self.similarity_fct is not dot_score:
            problem = f"similarity_fct={self.similarity_fct!r} (accepted: cos_sim and dot_score of sentence_transformers.util)"
        elif set(self.directions) != {"query_to_doc"} and (
            set(self.directions) != {"query_to_doc", "doc_to_query"} or self.partition_mode != "per_direction"
        ):
            problem = (
                f"directions={self.directions!r} with partition_mode={self.partition_mode!r} (accepted: ('query_to_doc',), and "
                "('query_to_doc', 'doc_to_query') with partition_mode='per_direction')"
            )
        elif self.hardness_mode is not None and self.hardness_strength > 0:
            problem = f"hardness_mode={self.hardness_mode!r}, which changes single logits (accepted: None)"
        if problem:
            cached = "Cached" if self.uses_gradient_cache else ""
            raise ValueError(f"no fused loss has {problem}; use {cached}MultipleNegativesRankingLoss")


def _check_numbers(scale: float, **sizes: int | None) -> None:
    if not isinstance(scale, (int, float)):
        raise TypeError(f"scale is a {type(scale).__name__}; accepted: a number, since this loss has no parameters of its own")
    for name, size in sizes.items():
        if size is not None and (not isinstance(size, int) or size < 1):
            raise ValueError(f"{name}={size!r}; accepted: a positive integer, or None")
