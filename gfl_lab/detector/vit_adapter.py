"""ViT-Adapter (arXiv 2205.08534): a plain vision transformer beside a small convolutional pyramid, joined by deformable attention.

The layers bear the names of the authors' detection code, so that its checkpoints load by name under ``backbone.``;
``from_deit`` selects from a DeiT file what the transformer starts from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import StochasticDepth

from gfl_lab.detector.msda import MultiScaleDeformableAttention, Shapes
from gfl_lab.errors import InputError, Problem
from gfl_lab.spec.settings import Settings
from gfl_lab.wording import first_of

HEADS = 6
"""Attention heads of the transformer; each is ``base_channels`` wide."""

PATCH = 16
"""Side of a patch, px. Fixed: the transformer's map is the adapter's stride-16 level."""

PRETRAINED_GRID = 14
"""Patches along a side of the images that ``pos_embed`` was trained on (224 px)."""

PYRAMID_STRIDES = (8, 16, 32)
"""Strides of the maps that exchange information with the transformer; the stride-4 map stays outside."""

EPS = 1e-6
"""Epsilon of every LayerNorm, as in DeiT."""


class Geometry(NamedTuple):
    """Grids of one input size. A pyramid's tokens are its levels one after the other, each row by row."""

    patches: tuple[int, int]
    """(height, width) of the transformer's map."""
    patch_centres: Tensor
    """(1, P, 2) x and y of the cells, 0..1."""
    pyramid: Shapes
    """(height, width) at each of ``PYRAMID_STRIDES``."""
    pyramid_centres: Tensor
    """(1, S, 2) x and y of the cells, each level in its own 0..1."""


def cell_centres(shapes: Shapes, device: torch.device | None = None) -> Tensor:
    """Return centres of the cells of each grid, x and y in 0..1 of that grid: (1, S, 2), float32."""
    levels = []
    for height, width in shapes:
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        levels.append(torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).flatten(0, 1))
    return torch.cat(levels)[None]


def _tokens(feature_map: Tensor) -> Tensor:
    """Reshape (N, D, H, W) to (N, H * W, D)."""
    return feature_map.flatten(2).transpose(1, 2)


def _map(tokens: Tensor, shape: tuple[int, int]) -> Tensor:
    """Reshape (N, H * W, D) to (N, D, H, W)."""
    return tokens.transpose(1, 2).unflatten(2, shape)


def _maps(tokens: Tensor, shapes: Shapes) -> list[Tensor]:
    """Reshape the concatenated tokens of a pyramid to one (N, D, H, W) for each level."""
    parts = tokens.split([height * width for height, width in shapes], dim=1)
    return [_map(part, shape) for part, shape in zip(parts, shapes, strict=True)]


class PatchEmbed(nn.Module):
    """Image patches to tokens."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dims, PATCH, stride=PATCH)

    def forward(self, images: Tensor) -> Tensor:
        return _tokens(self.proj(images))


class Attention(nn.Module):
    """Self-attention of a map's tokens, over the whole map or inside windows.

    Args:
        dims: D, channels of a token.
        window: side of a window in tokens, or None for attention over the whole map. The last windows of a row or column
            are filled up with tokens whose query, key and value are zero; as in the authors' code these take part in the
            softmax of the real tokens.
    """

    def __init__(self, dims: int, window: int | None) -> None:
        super().__init__()
        self.window = window
        self.qkv = nn.Linear(dims, 3 * dims)
        self.proj = nn.Linear(dims, dims)

    def forward(self, tokens: Tensor, shape: tuple[int, int]) -> Tensor:
        """Map tokens (N, H * W, D) of a map of ``shape`` (H, W) to the same shape."""
        images, count, dims = tokens.shape
        qkv = self.qkv(tokens)
        if self.window is None:
            attended = _attend(qkv.view(images, count, 3, HEADS, -1))
            return self.proj(attended.reshape(images, count, dims))

        (height, width), side = shape, self.window
        down, across = math.ceil(height / side), math.ceil(width / side)
        qkv = F.pad(qkv.view(images, height, width, 3 * dims), (0, 0, 0, across * side - width, 0, down * side - height))
        windows = qkv.view(images, down, side, across, side, 3, HEADS, -1).transpose(2, 3)
        attended = _attend(windows.reshape(images * down * across, side * side, 3, HEADS, -1))
        attended = attended.reshape(images, down, across, side, side, dims).transpose(2, 3)
        attended = attended.reshape(images, down * side, across * side, dims)[:, :height, :width]
        return self.proj(attended.reshape(images, count, dims))


def _attend(qkv: Tensor) -> Tensor:
    """Return scaled dot-product attention of (B, T, 3, heads, d): (B, T, heads, d)."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


class Mlp(nn.Module):
    """Two linear layers with exact GELU between."""

    def __init__(self, dims: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dims, hidden)
        self.fc2 = nn.Linear(hidden, dims)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Transformer block: both residual branches scaled by a learnt vector, 1 at the start, so that DeiT's weights fit."""

    def __init__(self, dims: int, window: int | None, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dims, eps=EPS)
        self.attn = Attention(dims, window)
        self.norm2 = nn.LayerNorm(dims, eps=EPS)
        self.mlp = Mlp(dims, int(dims * mlp_ratio))
        self.gamma1 = nn.Parameter(torch.ones(dims))
        self.gamma2 = nn.Parameter(torch.ones(dims))
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, tokens: Tensor, shape: tuple[int, int]) -> Tensor:
        tokens = tokens + self.drop_path(self.gamma1 * self.attn(self.norm1(tokens), shape))
        return tokens + self.drop_path(self.gamma2 * self.mlp(self.norm2(tokens)))


class SpatialPriorModule(nn.Module):
    """Convolutions that keep the detail the patches lose: images to four (N, D, H, W) at strides 4, 8, 16, 32."""

    def __init__(self, inner: int, dims: int, norm_cfg: dict[str, Any]) -> None:
        super().__init__()

        def conv(fan_in: int, fan_out: int, stride: int) -> list[nn.Module]:
            return [
                nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False),
                build_norm_layer(norm_cfg, fan_out)[1],
                nn.ReLU(inplace=True),
            ]

        self.stem = nn.Sequential(
            *conv(3, inner, 2), *conv(inner, inner, 1), *conv(inner, inner, 1), nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        )
        self.conv2 = nn.Sequential(*conv(inner, 2 * inner, 2))
        self.conv3 = nn.Sequential(*conv(2 * inner, 4 * inner, 2))
        self.conv4 = nn.Sequential(*conv(4 * inner, 4 * inner, 2))
        self.fc1 = nn.Conv2d(inner, dims, 1)
        self.fc2 = nn.Conv2d(2 * inner, dims, 1)
        self.fc3 = nn.Conv2d(4 * inner, dims, 1)
        self.fc4 = nn.Conv2d(4 * inner, dims, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        c1 = self.stem(images)
        c2 = self.conv2(c1)
        c3 = self.conv3(c2)
        c4 = self.conv4(c3)
        return self.fc1(c1), self.fc2(c2), self.fc3(c3), self.fc4(c4)


class DepthwiseConv(nn.Module):
    """One depthwise 3x3 convolution over every level of a pyramid."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dims, dims, 3, padding=1, groups=dims)

    def forward(self, tokens: Tensor, shapes: Shapes) -> Tensor:
        return torch.cat([_tokens(self.dwconv(level)) for level in _maps(tokens, shapes)], dim=1)


class ConvFFN(nn.Module):
    """Feed-forward layer of the pyramid's tokens, with a convolution before the activation."""

    def __init__(self, dims: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dims, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, dims)

    def forward(self, tokens: Tensor, shapes: Shapes) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(tokens), shapes)))


class Injector(nn.Module):
    """Pyramid to transformer: ``x + gamma * attention(x, c)``; gamma is 0 at the start, so that DeiT's features stay."""

    def __init__(self, dims: int, heads: int, points: int, ratio: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(dims, eps=EPS)
        self.feat_norm = nn.LayerNorm(dims, eps=EPS)
        self.attn = MultiScaleDeformableAttention(dims, heads, len(PYRAMID_STRIDES), points, ratio)
        self.gamma = nn.Parameter(torch.zeros(dims))

    def forward(self, x: Tensor, c: Tensor, geometry: Geometry) -> Tensor:
        attended = self.attn(self.query_norm(x), geometry.patch_centres, self.feat_norm(c), geometry.pyramid)
        return x + self.gamma * attended


class Extractor(nn.Module):
    """Transformer to pyramid: ``c + attention(c, x)``, then a ``ConvFFN``."""

    def __init__(self, dims: int, heads: int, points: int, ratio: float, ffn_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(dims, eps=EPS)
        self.feat_norm = nn.LayerNorm(dims, eps=EPS)
        self.attn = MultiScaleDeformableAttention(dims, heads, 1, points, ratio)
        self.ffn = ConvFFN(dims, int(dims * ffn_ratio))
        self.ffn_norm = nn.LayerNorm(dims, eps=EPS)
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, c: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
        c = c + self.attn(self.query_norm(c), geometry.pyramid_centres, self.feat_norm(x), [geometry.patches])
        return c + self.drop_path(self.ffn(self.ffn_norm(c), geometry.pyramid))


class Interaction(nn.Module):
    """Injector, some transformer blocks (owned by the backbone), extractor; the last one has ``extra`` extractors more."""

    def __init__(self, injector: Injector, extractor: Extractor, extra: Sequence[Extractor]) -> None:
        super().__init__()
        self.injector = injector
        self.extractor = extractor
        self.extra_extractors = nn.ModuleList(extra)

    def forward(self, x: Tensor, c: Tensor, blocks: Sequence[nn.Module], geometry: Geometry) -> tuple[Tensor, Tensor]:
        x = self.injector(x, c, geometry)
        for block in blocks:
            x = block(x, geometry.patches)
        for extractor in (self.extractor, *self.extra_extractors):
            c = extractor(c, x, geometry)
        return x, c


@MODELS.register_module()
class ViTAdapter(BaseModule):
    """Backbone of ViT-Adapter-S with the published values as defaults; images (N, 3, H, W) to strides 4, 8, 16, 32.

    Every map has D = 6 * ``base_channels`` channels (``out_channels``). A neck that leaves the stride-4 map out gives
    ``up``, ``norm1`` and ``spm.fc1`` no gradient: distributed training then needs ``find_unused_parameters``.

    Args:
        base_channels: width of an attention head and of the convolutional stem.
        depth: transformer blocks.
        mlp_ratio: hidden width of a block's MLP in units of D.
        drop_path_rate: rate of the last block, growing linearly from 0 in the first; every extractor has the full rate.
        window: side in tokens of the windows of blocks that do not attend globally.
        global_blocks: indices of the blocks that attend over the whole map.
        interaction_indexes: first and last block of each interaction; together they must be all blocks in order.
        n_points: sampling points of a head on a level in deformable attention.
        deform_num_heads: heads of deformable attention.
        cffn_ratio: hidden width of the extractors' feed-forward layer in units of D.
        deform_ratio: width of the values in deformable attention in units of D.
        norm_cfg: mmcv's norm layer of convolutions and outputs. The authors trained with SyncBN, which has the same keys.
        init_cfg: mmengine's, applied after the initialisation of ``init_weights``.

    Raises:
        InputError: values that do not go together; in ``forward``, an input that is no multiple of 32 px.
    """

    def __init__(
        self,
        base_channels: int = 64,
        depth: int = 12,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.2,
        window: int = 14,
        global_blocks: Sequence[int] = (2, 5, 8, 11),
        interaction_indexes: Sequence[Sequence[int]] = ((0, 2), (3, 5), (6, 8), (9, 11)),
        n_points: int = 4,
        deform_num_heads: int = 6,
        cffn_ratio: float = 0.25,
        deform_ratio: float = 1.0,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        dims = HEADS * base_channels
        norm_cfg = norm_cfg or {"type": "BN"}
        _check(dims, depth, global_blocks, interaction_indexes, deform_num_heads, deform_ratio)
        self.out_channels = (dims,) * 4
        self.interaction_indexes = [(first, last) for first, last in interaction_indexes]

        self.patch_embed = PatchEmbed(dims)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + PRETRAINED_GRID**2, dims))
        rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(dims, None if i in global_blocks else window, mlp_ratio, rate) for i, rate in enumerate(rates))

        def extractor() -> Extractor:
            return Extractor(dims, deform_num_heads, n_points, deform_ratio, cffn_ratio, drop_path_rate)

        last = len(self.interaction_indexes) - 1
        self.spm = SpatialPriorModule(base_channels, dims, norm_cfg)
        self.level_embed = nn.Parameter(torch.zeros(len(PYRAMID_STRIDES), dims))
        self.interactions = nn.ModuleList(
            Interaction(
                Injector(dims, deform_num_heads, n_points, deform_ratio), extractor(), [extractor(), extractor()] if i == last else []
            )
            for i in range(last + 1)
        )
        self.up = nn.ConvTranspose2d(dims, dims, 2, stride=2)
        for i in range(1, 5):
            setattr(self, f"norm{i}", build_norm_layer(norm_cfg, dims)[1])

    def init_weights(self) -> None:
        """Initialise the adapter as its authors do, and the transformer for training from nothing. ``init_cfg`` goes on top.

        Linear layers and the transformer's embeddings: normal of deviation 0.02, cut at +-2; convolutions: normal of
        variance 2 / fan-out; norms: 1 and 0; ``level_embed``: standard normal; deformable attention, last: its own.
        """
        if not self.is_init:
            for module in self.modules():
                _initialise(module)
            nn.init.trunc_normal_(self.patch_embed.proj.weight, std=0.02)
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
            nn.init.normal_(self.level_embed)
            for module in self.modules():
                if isinstance(module, Block):
                    nn.init.ones_(module.gamma1)
                    nn.init.ones_(module.gamma2)
                elif isinstance(module, Injector):
                    nn.init.zeros_(module.gamma)
                elif isinstance(module, MultiScaleDeformableAttention):
                    module.reset_parameters()
        super().init_weights()

    def _position(self, shape: tuple[int, int]) -> Tensor:
        """Return ``pos_embed`` without the class token's, resized to a map of ``shape``: (1, H * W, D)."""
        trained = _map(self.pos_embed[:, 1:], (PRETRAINED_GRID, PRETRAINED_GRID))
        return _tokens(F.interpolate(trained, size=shape, mode="bicubic", align_corners=False))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map (N, 3, H, W), normalised pixels, H and W multiples of 32, to four (N, D, H / s, W / s), s = 4, 8, 16, 32."""
        height, width = images.shape[-2:]
        if height % 32 or width % 32:
            raise InputError(
                Problem(
                    f"an input of {height} x {width} px (height x width) does not fit ViT-Adapter: both must be multiples of 32",
                    hint="Set pad_to: 32, or a multiple of it, so that batches are padded.",
                )
            )
        pyramid = [(height // stride, width // stride) for stride in PYRAMID_STRIDES]
        patches = (height // PATCH, width // PATCH)
        geometry = Geometry(patches, cell_centres([patches], images.device), pyramid, cell_centres(pyramid, images.device))

        c1, *levels = self.spm(images)
        c = torch.cat([_tokens(level) + embed for level, embed in zip(levels, self.level_embed, strict=True)], dim=1)
        x = self.patch_embed(images) + self._position(patches)
        for (first, last), interaction in zip(self.interaction_indexes, self.interactions, strict=True):
            x, c = interaction(x, c, [self.blocks[i] for i in range(first, last + 1)], geometry)

        c2, c3, c4 = _maps(c, pyramid)
        x = _map(x, patches)
        maps = []
        for norm, level in zip((self.norm1, self.norm2, self.norm3, self.norm4), (self.up(c2) + c1, c2, c3, c4), strict=True):
            resized = x if level.shape[-2:] == x.shape[-2:] else F.interpolate(x, level.shape[-2:], mode="bilinear", align_corners=False)
            maps.append(norm(level + resized))
        return tuple(maps)


def _check(
    dims: int,
    depth: int,
    global_blocks: Sequence[int],
    interaction_indexes: Sequence[Sequence[int]],
    deform_num_heads: int,
    deform_ratio: float,
) -> None:
    problems = []
    covered = [block for first, last in interaction_indexes for block in range(first, last + 1)]
    if covered != list(range(depth)):
        problems.append(f"interaction_indexes {interaction_indexes} must cover the blocks 0 to {depth - 1}, each once and in order")
    if outside := sorted(set(global_blocks) - set(range(depth))):
        problems.append(f"global_blocks {outside} do not exist: depth is {depth}, blocks count from 0")
    if int(dims * deform_ratio) % deform_num_heads:
        problems.append(
            f"deform_num_heads {deform_num_heads} must divide the width of the values, 6 * base_channels * deform_ratio = {int(dims * deform_ratio)}"
        )
    if problems:
        raise InputError([Problem(problem, place="ViTAdapter") for problem in problems])


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm | _BatchNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def vit_adapter(options: Mapping[str, Any], settings: Settings, stages: int) -> tuple[dict[str, Any], list[int]]:
    """Return config and channels of ViT-Adapter-S, which has all its maps whatever ``stages`` the pyramid uses."""
    config = {"type": "ViTAdapter", "base_channels": settings.base_channels, "drop_path_rate": settings.drop_path}
    return config, [HEADS * settings.base_channels] * 4


def read_weights(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Callable[[str], bool]]:
    """Return the part of a file's weights that the backbone takes, and a predicate of the names that the file must hold.

    A file with a ViT alone, as DeiT's, lacks the adapter, which then starts from nothing.
    """
    if any(key.startswith("interactions.") for key in state):
        return dict(state), lambda key: True
    own = from_deit(state) if "cls_token" in state else dict(state)
    return own, lambda key: key.startswith(("pos_embed", "patch_embed.", "blocks.")) and ".gamma" not in key


def from_deit(state: Mapping[str, Tensor], depth: int = 12) -> dict[str, Tensor]:
    """Return the part of a ``ViTAdapter``'s weights that a DeiT classifier has: the file's entry ``model``, names as they are.

    The class token, the last norm and the classifier are left out. Parameters that the result does not name keep their initial value,
    ``gamma1`` and ``gamma2`` (1) of the blocks among it.

    Args:
        state: weights of DeiT without distillation, 16 px patches, 224 px images.
        depth: transformer blocks.

    Raises:
        InputError: a weight of the transformer is missing, or one is there that no layer takes; lists them.
    """
    layers = [f"blocks.{i}.{layer}" for i in range(depth) for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")]
    wanted = ["pos_embed", *(f"{layer}.{kind}" for layer in ("patch_embed.proj", *layers) for kind in ("weight", "bias"))]
    unused = {"cls_token", "norm.weight", "norm.bias", "head.weight", "head.bias"}
    problems = []
    if missing := [key for key in wanted if key not in state]:
        problems.append(Problem(f"DeiT weights lack {first_of(missing, 5)}"))
    if surplus := [key for key in state if key not in unused.union(wanted)]:
        problems.append(
            Problem(
                f"DeiT weights hold {first_of(surplus, 5)}, which a ViT-Adapter with {depth} blocks has no layer for",
                hint="Distilled DeiT files and other depths or widths do not fit; deit_small_patch16_224 is the published start.",
            )
        )
    if problems:
        raise InputError(problems)
    return {key: state[key] for key in wanted}
