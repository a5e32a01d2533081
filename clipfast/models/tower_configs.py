"""The shapes of towers, in plain values: two kinds of image towers, two kinds of text towers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clipfast.common.argument_checks import check_choice
from clipfast.models.activations import ACTIVATIONS


@dataclass(frozen=True)
class BlockConfig:
    """A residual block of attention and MLP.

    ``post_norm`` normalises the branches' results instead of their inputs. ``gated`` multiplies the MLP's hidden layer by an
    activated second projection (SwiGLU with "silu"). ``sub_norm`` adds LayerNorms inside attention and MLP, before their last
    projections. Without ``key_bias`` only queries and values have a bias.
    """

    width: int
    heads: int
    mlp_width: int
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5
    causal: bool = False
    post_norm: bool = False
    gated: bool = False
    sub_norm: bool = False
    key_bias: bool = True


@dataclass(frozen=True)
class VisionConfig:
    """A vision transformer over square patches of a square picture. The defaults are CLIP's.

    - ``mlp_width``: by default 4 * width.
    - ``input_norm``: a LayerNorm before the blocks.
    - ``pool``: the feature is read at the "class" token, or by a learnt query's "attention" over all tokens (SigLIP).
    - ``projection`` to the embedding: "matrix", "linear" (with a bias), or "none".
    - ``rope_grid``: rotary positions scaled to a grid of this size, in addition to the learnt positions.
    - ``ignore_remainder``: the patch size need not divide the image size; the last rows and columns of pixels are not read.
    - ``weights``: how the parameters are initialised, "clip", "siglip" or "eva".
    - The other fields are those of ``BlockConfig``.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    channels: int = 3
    mlp_width: int | None = None
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5
    class_token: bool = True
    patch_bias: bool = False
    input_norm: bool = True
    post_norm: bool = False
    gated: bool = False
    sub_norm: bool = False
    key_bias: bool = True
    rope_grid: int | None = None
    pool: str = "class"
    projection: str = "matrix"
    ignore_remainder: bool = False
    weights: str = "clip"

    def __post_init__(self) -> None:
        check_positive(self, "image_size", "patch_size", "width", "layers", "heads", "channels", "mlp_width", "rope_grid")
        _check_heads(self, self.width)
        _check_choice(self, "activation", tuple(ACTIVATIONS))
        _check_choice(self, "pool", ("class", "attention"))
        _check_choice(self, "projection", ("matrix", "linear", "none"))
        _check_choice(self, "weights", ("clip", "siglip", "eva"))
        if self.image_size % self.patch_size and not self.ignore_remainder:
            raise ValueError(
                f"VisionConfig.image_size must be a multiple of patch_size, {self.patch_size}; got {self.image_size}; choose "
                "another size, or ignore_remainder=True to leave the last pixels unread"
            )
        if self.pool == "class" and not self.class_token:
            raise ValueError("VisionConfig.pool must be 'attention' without a class_token; got 'class'")
        if self.rope_grid and (self.width // self.heads) % 4:
            raise ValueError(f"a head's width must be a multiple of 4 for rotary positions; got {self.width // self.heads}")

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """The patches and the class token."""
        return self.grid**2 + self.class_token

    @property
    def block(self) -> BlockConfig:
        hidden = self.mlp_width or 4 * self.width
        sizes = (self.width, self.heads, hidden, self.activation, self.norm_eps)
        return BlockConfig(*sizes, post_norm=self.post_norm, gated=self.gated, sub_norm=self.sub_norm, key_bias=self.key_bias)


@dataclass(frozen=True)
class ResNetConfig:
    """CLIP's modified ResNet: ``layers`` bottlenecks in each of four stages of widths ``width`` times 1, 2, 4, 8, then
    attention pooling with ``heads`` heads over 32 * width channels. ``image_size`` is a multiple of 32."""

    image_size: int
    layers: tuple[int, int, int, int]
    width: int
    heads: int
    channels: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))  # a list, from a JSON file or a checkpoint
        if len(self.layers) != 4 or min(self.layers) < 1:
            raise ValueError(f"ResNetConfig.layers must be four numbers of at least 1; got {self.layers}")
        check_positive(self, "image_size", "width", "heads", "channels")
        _check_heads(self, 32 * self.width)
        if self.width % 2:
            raise ValueError(f"ResNetConfig.width must be even, as the stem has half of it; got {self.width}")
        if self.image_size % 32:
            raise ValueError(f"ResNetConfig.image_size must be a multiple of 32; got {self.image_size}")

    @property
    def grid(self) -> int:
        """Positions along a side before the pooling."""
        return self.image_size // 32

    @property
    def tokens(self) -> int:
        """The positions and their mean."""
        return self.grid**2 + 1


@dataclass(frozen=True)
class TextConfig:
    """A text transformer over ``context_length`` token ids below ``vocab_size``. The defaults are CLIP's.

    ``pool`` says where the feature is read: at the "highest" id, which ends a text in OpenAI's vocabulary, or at the "last"
    of exactly ``context_length`` positions (SigLIP). ``projection`` and ``weights`` are as in ``VisionConfig``.
    """

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int | None = None
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5
    causal: bool = True
    pool: str = "highest"
    projection: str = "matrix"
    weights: str = "clip"

    def __post_init__(self) -> None:
        check_positive(self, "context_length", "vocab_size", "width", "layers", "heads", "mlp_width")
        _check_heads(self, self.width)
        _check_choice(self, "activation", tuple(ACTIVATIONS))
        _check_choice(self, "pool", ("highest", "last"))
        _check_choice(self, "projection", ("matrix", "linear", "none"))
        _check_choice(self, "weights", ("clip", "siglip"))

    @property
    def block(self) -> BlockConfig:
        hidden = self.mlp_width or 4 * self.width
        return BlockConfig(self.width, self.heads, hidden, self.activation, self.norm_eps, self.causal)


@dataclass(frozen=True)
class BagOfWordsConfig:
    """CLIP's CBOW text encoder (Radford et al., 2021, figure 3), whose details were not published. Here: the mean of the
    embeddings of all tokens but ``pad_id``, a LayerNorm, and a projection."""

    context_length: int
    vocab_size: int
    width: int
    pad_id: int = 0
    norm_eps: float = 1e-5
    projection: str = "matrix"

    def __post_init__(self) -> None:
        check_positive(self, "context_length", "vocab_size", "width")
        _check_choice(self, "projection", ("matrix", "linear", "none"))


def check_positive(config: Any, *fields: str) -> None:
    """ValueError for a field below 1; None stands for a default."""
    for name in fields:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{type(config).__name__}.{name} must be at least 1; got {value}")


def _check_choice(config: Any, field: str, accepted: tuple[str, ...]) -> None:
    check_choice(f"{type(config).__name__}.{field}", getattr(config, field), accepted)


def _check_heads(config: Any, width: int) -> None:
    """ValueError unless the heads divide the width of the attention."""
    if width % config.heads:
        raise ValueError(f"{type(config).__name__}.heads must divide the width {width}; got {config.heads}")
