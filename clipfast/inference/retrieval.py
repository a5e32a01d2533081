"""Search, and recall, over tiles of similarities: the whole matrix never exists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfast.common.dtypes import compute_dtype
from clipfast.common.limits import DEFAULT_WORKSPACE_BYTES
from clipfast.compute.gemm import TorchGemm, cpu_gemm
from clipfast.losses import arguments as checks
from clipfast.sweep.schedule import Budget, strips

Ranked = tuple[Tensor, Tensor]
"""Scores, the largest first, and the indices of their keys: both (M, k)."""


@torch.no_grad()
def top_k(
    queries: Tensor, keys: Tensor, k: int, *, normalize: bool = False, workspace_bytes: int = DEFAULT_WORKSPACE_BYTES
) -> Ranked:
    """For each query (M, D) the k keys (N, D) with the largest dot products: scores and int64 indices, both (M, k).

    As ``(queries @ keys.T).topk(k)``, the largest first; ``normalize`` divides the rows by their lengths before. Scores are
    float32, or float64 for float64 features; half-precision features are widened first, so that products are not rounded. Keys
    with equal scores come in no particular order, and a NaN score comes first. Apart from the result and ``workspace_bytes``
    the search takes no memory that grows with M or N. No gradient flows.
    """
    queries, keys = checks.features(queries, keys, ("queries", "keys"))
    check_k(k, keys.shape[0])
    dtype = compute_dtype(queries.dtype)
    scores = queries.new_empty((queries.shape[0], k), dtype=dtype)
    indices = torch.empty((queries.shape[0], k), dtype=torch.int64, device=queries.device)
    # A quarter of the workspace is for a tile, a quarter for merging candidates, the rest for the strips of both sides.
    side = Budget(workspace_bytes, 2 * dtype.itemsize, queries.shape[1]).side
    merging = (
        6 * k * (dtype.itemsize + indices.itemsize)
    )  # bytes per query: two lists, their union, and the part of it that is kept
    for first, last in strips(queries.shape[0], max(1, min(side, workspace_bytes // (4 * merging)))):
        rows = _prepared(queries[first:last], dtype, normalize)
        scores[first:last], indices[first:last] = _best(_tiles(rows, keys, side, normalize), k)
    return scores, indices


def _prepared(features: Tensor, dtype: torch.dtype, normalize: bool) -> Tensor:
    features = features.to(dtype)
    return F.normalize(features, dim=1) if normalize else features


def _tiles(rows: Tensor, keys: Tensor, side: int, normalize: bool) -> Iterator[tuple[int, Tensor]]:
    """Tiles: the first key of a strip, and the scores of ``rows`` with the strip. Each tile overwrites the one before."""
    gemm = cpu_gemm()[0] if rows.device.type == "cpu" and rows.dtype == torch.float32 else TorchGemm()
    spans = strips(keys.shape[0], side)
    memory = rows.new_empty(rows.shape[0] * max(last - first for first, last in spans))
    for first, last in spans:
        out = memory[: rows.shape[0] * (last - first)].view(rows.shape[0], last - first)
        yield first, gemm.scores(rows, _prepared(keys[first:last], rows.dtype, normalize), out)


def _best(tiles: Iterator[tuple[int, Tensor]], k: int) -> Ranked:
    best: Ranked | None = None
    for first, scores in tiles:
        values, columns = scores.topk(min(k, scores.shape[1]), dim=1)
        best = (values, columns + first) if best is None else _merge(best, (values, columns + first), k)
    assert best is not None
    return best


def _merge(left: Ranked, right: Ranked, k: int) -> Ranked:
    values, indices = (torch.cat(pair, dim=1) for pair in zip(left, right, strict=True))
    values, place = values.topk(min(k, values.shape[1]), dim=1)
    return values, indices.gather(1, place)


def recall_at_k(
    image_features: Tensor,
    text_features: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    targets: Tensor | None = None,
    *,
    normalize: bool = True,
    workspace_bytes: int = DEFAULT_WORKSPACE_BYTES,
) -> dict[str, dict[int, float]]:
    """The share of queries with a right answer among the first k: ``{"image_to_text": {k: ...}, "text_to_image": {...}}``.

    ``targets`` (T,) int64 is the image that each text (T, D) describes; by default text i describes image i. For an image
    (I, D) with several texts, any of them is a right answer. An image without texts is not a query, and always a wrong answer.
    """
    image_features, text_features = checks.features(image_features, text_features, ("image_features", "text_features"))
    targets = _checked_targets(targets, image_features, text_features)
    ks = _checked_ks(ks, min(len(image_features), len(text_features)))
    search = partial(top_k, k=max(ks), normalize=normalize, workspace_bytes=workspace_bytes)
    images, texts = search(text_features, image_features)[1], search(image_features, text_features)[1]
    rows = torch.arange(len(image_features), device=targets.device)
    described = torch.isin(rows, targets)
    found = {"image_to_text": (targets[texts] == rows[:, None])[described], "text_to_image": images == targets[:, None]}
    return {name: {k: hit[:, :k].any(1).double().mean().item() for k in ks} for name, hit in found.items()}


def check_k(k: int, count: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= count:
        raise ValueError(f"k must be a whole number in [1, {count}], the number to choose from; got {k!r}")


def _checked_ks(ks: Sequence[int], count: int) -> Sequence[int]:
    if not isinstance(ks, Sequence) or not ks:
        raise ValueError(f"ks must be one or more numbers, such as (1, 5, 10); got {ks!r}")
    for k in ks:
        check_k(k, count)
    return ks


def _checked_targets(targets: Tensor | None, images: Tensor, texts: Tensor) -> Tensor:
    if targets is None:
        checks.same_number(images, texts, ("image_features", "text_features"), "pass targets, the image of each text")
        return torch.arange(len(texts), device=texts.device)
    if not isinstance(targets, Tensor) or targets.dtype != torch.int64 or targets.shape != texts.shape[:1]:
        got = f"{targets.dtype} {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise ValueError(f"targets must be int64 ({len(texts)},), the image of each text; got {got}")
    if targets.device != texts.device:
        raise ValueError(f"targets must be on the features' device, {texts.device}; got {targets.device}")
    if len(wrong := targets[(targets < 0) | (targets >= len(images))]):
        raise ValueError(f"targets must be images in [0, {len(images)}); got {int(wrong[0])}")
    return targets
