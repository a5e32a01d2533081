"""CLIP's modified ResNet (Radford et al., 2021, section 2.4): three stem convolutions, average pooling before every
strided convolution (ResNet-D and blur pooling), and attention pooling at the end."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipfast.models.layers import Part, check_images
from clipfast.models.tower_configs import ResNetConfig

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut: (B, channels, H, W) -> (B, 4 * planes, H / stride, W / stride)."""

    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, EXPANSION * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(EXPANSION * planes)
        self.downsample = self._shortcut(channels, EXPANSION * planes)
        nn.init.zeros_(self.bn3.weight)  # every block starts as its shortcut

    def _shortcut(self, channels: int, wide: int) -> nn.Sequential | None:
        if self.stride == 1 and channels == wide:
            return None
        pool = nn.AvgPool2d(self.stride)  # OpenAI names it "-1", so that "0" and "1" are the layers with parameters
        return nn.Sequential(
            OrderedDict([("-1", pool), ("0", nn.Conv2d(channels, wide, 1, bias=False)), ("1", nn.BatchNorm2d(wide))])
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = y if self.stride == 1 else F.avg_pool2d(y, self.stride)
        return F.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class AttentionPool2d(nn.Module):
    """The mean of all positions attends to itself and the positions: (B, width, grid, grid) -> (B, embed_dim)."""

    def __init__(self, tokens: int, width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(tokens, width))
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, embed_dim)
        for projection in (self.k_proj, self.q_proj, self.v_proj, self.c_proj):
            nn.init.normal_(projection.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        tokens = tokens + self.positional_embedding.to(tokens.dtype)
        query, key, value = (
            projected.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(tokens[:, :1]), self.k_proj(tokens), self.v_proj(tokens))
        )
        return self.c_proj(F.scaled_dot_product_attention(query, key, value).flatten(1))


class ModifiedResNet(nn.Module):
    """Pictures (B, channels, image_size, image_size) to features (B, embed_dim), not normalised."""

    def __init__(self, config: ResNetConfig, embed_dim: int) -> None:
        super().__init__()
        self.config = config
        self.input_resolution = config.image_size
        self.output_dim = embed_dim
        self.grad_checkpointing = False
        width, half = config.width, config.width // 2
        self.conv1 = nn.Conv2d(config.channels, half, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, config.layers[0], stride=1)
        self.layer2 = _stage(4 * width, 2 * width, config.layers[1], stride=2)
        self.layer3 = _stage(8 * width, 4 * width, config.layers[2], stride=2)
        self.layer4 = _stage(16 * width, 8 * width, config.layers[3], stride=2)
        self.attnpool = AttentionPool2d(config.tokens, 32 * width, config.heads, embed_dim)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the convolutions."""
        return self.conv1.weight.dtype

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, self.config.channels, self.input_resolution)
        x = F.relu(self.bn1(self.conv1(images.to(self.dtype))))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.avg_pool2d(F.relu(self.bn3(self.conv3(x))), 2)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = self._through(block, x)
        return self.attnpool(x)

    def _through(self, block: nn.Module, x: Tensor) -> Tensor:
        if not (self.grad_checkpointing and self.training):
            return block(x)
        return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(block)))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory in training: the backward pass computes each block's activations again."""
        self.grad_checkpointing = enable

    def groups(self) -> list[list[Part]]:
        """The parts that are locked or unlocked together, from the pixels to the feature: stem, four stages, pooling."""
        stem: list[Part] = [self.conv1, self.bn1, self.conv2, self.bn2, self.conv3, self.bn3]
        return [stem, [self.layer1], [self.layer2], [self.layer3], [self.layer4], [self.attnpool]]


def _stage(channels: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (Bottleneck(EXPANSION * planes, planes, 1) for _ in range(1, blocks))
    return nn.Sequential(Bottleneck(channels, planes, stride), *rest)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Keep the running statistics while a checkpointed block is computed again, as its batch was counted the first time."""
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
