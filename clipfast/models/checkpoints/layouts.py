"""Where other projects' files have each of our parameters: a table of renaming rules for each tower and layout.

The rules work in both directions: reading joins a file's tensors to a parameter, writing cuts a parameter into them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """Where a file has one parameter: in ``parts``, names with their shares of the parameter's rows, perhaps ``transposed``
    there, and with ``leading`` dimensions of size 1 in front."""

    parts: tuple[tuple[str, int], ...]
    transposed: bool = False
    leading: int = 0

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.parts]

    def join(self, tensors: list[Tensor], dimensions: int) -> Tensor:
        """The file's tensors as one parameter of ``dimensions`` dimensions."""
        value = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        while value.ndim > dimensions and value.shape[0] == 1:
            value = value[0]
        return value.T if self.transposed else value

    def cut(self, value: Tensor) -> dict[str, Tensor]:
        """The parameter as the file has it, in new tensors."""
        value = value.detach().T if self.transposed else value.detach()
        value = value[(None,) * self.leading]
        if len(self.parts) == 1:
            return {self.names[0]: value.clone(memory_format=torch.contiguous_format)}
        share = len(value) // sum(count for _, count in self.parts)
        pieces = value.split([share * count for _, count in self.parts])
        return {name: piece.clone() for name, piece in zip(self.names, pieces, strict=True)}


@dataclass(frozen=True)
class Rule:
    """Parameters whose whole name matches ``pattern`` are at ``places``, in which \\1 is the pattern's first group."""

    pattern: str
    places: tuple[str, ...]
    shares: tuple[int, ...] = ()
    transposed: bool = False
    leading: int = 0

    def place(self, name: str, prefix: str) -> Place | None:
        found = re.fullmatch(self.pattern, name)
        if found is None:
            return None
        names = [prefix + found.expand(place) for place in self.places]
        shares = self.shares or (1,) * len(names)
        return Place(tuple(zip(names, shares, strict=True)), self.transposed, self.leading)


def find(rules: Iterable[Rule], name: str, prefix: str = "") -> Place | None:
    """The place of ``name`` by the first rule that knows it."""
    return next((place for rule in rules if (place := rule.place(name, prefix)) is not None), None)


SAME = (Rule(r"(.*)", (r"\1",)),)

_BLOCK = r"transformer\.resblocks\.(\d+)\."
_Q_K_V = ("q_proj", "k_proj", "v_proj")


def _qkv(block: str, kind: str) -> tuple[str, ...]:
    return tuple(rf"{block}{name}.{kind}" for name in _Q_K_V)


_TIMM = (
    Rule(r"conv1\.(.*)", (r"patch_embed.proj.\1",)),
    Rule(r"class_embedding", ("cls_token",), leading=2),
    Rule(r"positional_embedding", ("pos_embed",), leading=1),
    Rule(r"ln_pre\.(.*)", (r"norm_pre.\1",)),
    Rule(r"ln_post\.(.*)", (r"norm.\1",)),
    Rule(r"proj", ("head.weight",), transposed=True),
    Rule(r"proj\.(.*)", (r"head.\1",)),
    Rule(r"attn_pool\.probe", ("attn_pool.latent",), leading=2),
    Rule(r"attn_pool\.in_proj_(.*)", (r"attn_pool.q.\1", r"attn_pool.kv.\1"), shares=(1, 2)),
    Rule(r"attn_pool\.out_proj\.(.*)", (r"attn_pool.proj.\1",)),
    Rule(r"attn_pool\.ln\.(.*)", (r"attn_pool.norm.\1",)),
    Rule(r"attn_pool\.mlp\.c_fc\.(.*)", (r"attn_pool.mlp.fc1.\1",)),
    Rule(r"attn_pool\.mlp\.c_proj\.(.*)", (r"attn_pool.mlp.fc2.\1",)),
    Rule(_BLOCK + r"ln_(\d)\.(.*)", (r"blocks.\1.norm\2.\3",)),
    Rule(_BLOCK + r"attn\.out_proj\.(.*)", (r"blocks.\1.attn.proj.\2",)),
)
_FUSED = (
    Rule(_BLOCK + r"attn\.in_proj_(.*)", (r"blocks.\1.attn.qkv.\2",)),
    Rule(_BLOCK + r"attn\.(q|v)_bias", (r"blocks.\1.attn.\2_bias",)),
)
_SPLIT_WEIGHTS = (
    Rule(_BLOCK + r"attn\.in_proj_weight", _qkv(r"blocks.\1.attn.", "weight")),
    Rule(_BLOCK + r"attn\.in_proj_bias", _qkv(r"blocks.\1.attn.", "bias")),
)
_SPLIT_BIASES = (Rule(_BLOCK + r"attn\.(q|v)_bias", (r"blocks.\1.attn.\2_proj.bias",)),)
_TIMM_INNER = (
    Rule(_BLOCK + r"attn\.ln\.(.*)", (r"blocks.\1.attn.norm.\2",)),
    Rule(_BLOCK + r"mlp\.ln\.(.*)", (r"blocks.\1.mlp.norm.\2",)),
)
_PLAIN_MLP = (
    Rule(_BLOCK + r"mlp\.c_fc\.(.*)", (r"blocks.\1.mlp.fc1.\2",)),
    Rule(_BLOCK + r"mlp\.c_proj\.(.*)", (r"blocks.\1.mlp.fc2.\2",)),
)
_TIMM_GATED_MLP = (
    Rule(_BLOCK + r"mlp\.gate\.(.*)", (r"blocks.\1.mlp.fc1_g.\2",)),
    Rule(_BLOCK + r"mlp\.c_fc\.(.*)", (r"blocks.\1.mlp.fc1_x.\2",)),
    Rule(_BLOCK + r"mlp\.c_proj\.(.*)", (r"blocks.\1.mlp.fc2.\2",)),
)
_EVA_INNER = (
    Rule(_BLOCK + r"attn\.ln\.(.*)", (r"blocks.\1.attn.inner_attn_ln.\2",)),
    Rule(_BLOCK + r"mlp\.ln\.(.*)", (r"blocks.\1.mlp.ffn_ln.\2",)),
)
_EVA_GATED_MLP = (
    Rule(_BLOCK + r"mlp\.gate\.(.*)", (r"blocks.\1.mlp.w1.\2",)),
    Rule(_BLOCK + r"mlp\.c_fc\.(.*)", (r"blocks.\1.mlp.w2.\2",)),
    Rule(_BLOCK + r"mlp\.c_proj\.(.*)", (r"blocks.\1.mlp.w3.\2",)),
)


def timm_vision(split: bool, gated: bool) -> tuple[Rule, ...]:
    """timm's names, in which OpenCLIP stores SigLIP's and EVA's image towers; ``split``: q, k and v are apart."""
    attention = (*_SPLIT_WEIGHTS, *_SPLIT_BIASES) if split else _FUSED
    return (*_TIMM, *attention, *_TIMM_INNER, *(_TIMM_GATED_MLP if gated else _PLAIN_MLP))


def eva_vision(split: bool, gated: bool) -> tuple[Rule, ...]:
    """The names of EVA-CLIP's own repository, in which only the weights of q, k and v may be apart."""
    attention = (*_SPLIT_WEIGHTS, _FUSED[1]) if split else _FUSED
    return (*_TIMM, *attention, *_EVA_INNER, *(_EVA_GATED_MLP if gated else _PLAIN_MLP))


def _hugging_face_blocks(prefix: str) -> tuple[Rule, ...]:
    layer = prefix + r".encoder.layers.\1."
    return (
        Rule(_BLOCK + r"ln_(\d)\.(.*)", (layer + r"layer_norm\2.\3",)),
        Rule(_BLOCK + r"attn\.in_proj_weight", _qkv(layer + "self_attn.", "weight")),
        Rule(_BLOCK + r"attn\.in_proj_bias", _qkv(layer + "self_attn.", "bias")),
        Rule(_BLOCK + r"attn\.out_proj\.(.*)", (layer + r"self_attn.out_proj.\2",)),
        Rule(_BLOCK + r"mlp\.c_fc\.(.*)", (layer + r"mlp.fc1.\2",)),
        Rule(_BLOCK + r"mlp\.c_proj\.(.*)", (layer + r"mlp.fc2.\2",)),
    )


HUGGING_FACE_VISION = (
    Rule(r"conv1\.(.*)", (r"vision_model.embeddings.patch_embedding.\1",)),
    Rule(r"class_embedding", ("vision_model.embeddings.class_embedding",)),
    Rule(r"positional_embedding", ("vision_model.embeddings.position_embedding.weight",)),
    Rule(r"ln_pre\.(.*)", (r"vision_model.pre_layrnorm.\1",)),  # their spelling
    Rule(r"ln_post\.(.*)", (r"vision_model.post_layernorm.\1",)),
    Rule(r"proj", ("visual_projection.weight",), transposed=True),
    Rule(r"attn_pool\.probe", ("vision_model.head.probe",), leading=2),
    Rule(r"attn_pool\.in_proj_(.*)", (r"vision_model.head.attention.in_proj_\1",)),
    Rule(r"attn_pool\.out_proj\.(.*)", (r"vision_model.head.attention.out_proj.\1",)),
    Rule(r"attn_pool\.ln\.(.*)", (r"vision_model.head.layernorm.\1",)),
    Rule(r"attn_pool\.mlp\.c_fc\.(.*)", (r"vision_model.head.mlp.fc1.\1",)),
    Rule(r"attn_pool\.mlp\.c_proj\.(.*)", (r"vision_model.head.mlp.fc2.\1",)),
    *_hugging_face_blocks("vision_model"),
)
HUGGING_FACE_TEXT = (
    Rule(r"token_embedding\.weight", ("text_model.embeddings.token_embedding.weight",)),
    Rule(r"positional_embedding", ("text_model.embeddings.position_embedding.weight",)),
    Rule(r"ln_final\.(.*)", (r"text_model.final_layer_norm.\1",)),
    Rule(r"text_projection", ("text_projection.weight",), transposed=True),
    Rule(r"text_projection\.(.*)", (r"text_model.head.\1",)),
    *_hugging_face_blocks("text_model"),
)
