"""What fixes the shape of a tower, in plain values: two kinds of image towers, two kinds of text towers."""

from __future__ import annotations

from dataclasses import dataclass

from clipfast.models.config_checks import check_choice, check_divides, check_positive

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_tanh", "silu")


@dataclass(frozen=True)
class BlockConfig:
    """A residual block of attention and MLP. ``post_norm`` normalises the branches' results instead of their inputs;
    ``gated`` multiplies the MLP's hidden layer by an activated second projection (SwiGLU with "silu"); ``sub_norm`` adds
    LayerNorms inside attention and MLP, before their last projections; without ``key_bias`` only queries and values
    have one."""

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

    ``mlp_width`` is 4 * width by default. ``input_norm``: a LayerNorm before the blocks. ``pool``: "class" reads the
    class token, "attention" a learnt query's attention over all tokens (SigLIP). ``projection`` to the embedding:
    "matrix", "linear" (with a bias), or "none". ``rope_grid``: rotary positions scaled to a grid of this size, beside the
    learnt ones. ``ignore_remainder`` allows a patch size that does not divide the image size: the last rows and columns
    of pixels are then not read. ``weights`` says how the parameters are initialised: "clip", "siglip" or "eva".
    The other fields are those of ``BlockConfig``.
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
        check_divides("VisionConfig", self.width, self.heads)
        check_choice(self, "activation", ACTIVATIONS)
        check_choice(self, "pool", ("class", "attention"))
        check_choice(self, "projection", ("matrix", "linear", "none"))
        check_choice(self, "weights", ("clip", "siglip", "eva"))
        if self.image_size % self.patch_size and not self.ignore_remainder:
            raise ValueError(
                f"patch_size {self.patch_size} does not divide image_size {self.image_size}: choose another size, or "
                "ignore_remainder=True to leave the last pixels unread"
            )
        if self.pool == "class" and not self.class_token:
            raise ValueError('VisionConfig.pool is "class", which needs class_token=True')
        if self.rope_grid and (self.width // self.heads) % 4:
            raise ValueError(f"rotary positions need a head width divisible by 4, but it is {self.width // self.heads}")

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
            raise ValueError(f"ResNetConfig.layers must be four numbers of at least 1, but is {self.layers}")
        check_positive(self, "image_size", "width", "heads", "channels")
        check_divides("ResNetConfig", 32 * self.width, self.heads)
        if self.width % 2:
            raise ValueError(f"a ResNet's width must be even, since its stem has half of it, but is {self.width}")
        if self.image_size % 32:
            raise ValueError(f"a ResNet's image_size must be a multiple of 32, but is {self.image_size}")

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

    ``pool``: "highest" reads the feature at the highest id, which ends a text in OpenAI's vocabulary; "last" at the last
    of exactly ``context_length`` positions (SigLIP). ``projection`` and ``weights`` as in ``VisionConfig``.
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
        check_divides("TextConfig", self.width, self.heads)
        check_choice(self, "activation", ACTIVATIONS)
        check_choice(self, "pool", ("highest", "last"))
        check_choice(self, "projection", ("matrix", "linear", "none"))
        check_choice(self, "weights", ("clip", "siglip"))

    @property
    def block(self) -> BlockConfig:
        hidden = self.mlp_width or 4 * self.width
        return BlockConfig(self.width, self.heads, hidden, self.activation, self.norm_eps, self.causal)


@dataclass(frozen=True)
class BagOfWordsConfig:
    """CLIP's CBOW text encoder (Radford et al., 2021, figure 3), of which no dimensions were published. Ours: the mean
    of the embeddings of all tokens but ``pad_id``, a LayerNorm, and a projection."""

    context_length: int
    vocab_size: int
    width: int
    pad_id: int = 0
    norm_eps: float = 1e-5
    projection: str = "matrix"

    def __post_init__(self) -> None:
        check_positive(self, "context_length", "vocab_size", "width")
        check_choice(self, "projection", ("matrix", "linear", "none"))
