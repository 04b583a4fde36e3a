"""ViT-Adapter and multi-scale deformable attention, against references written out by hand and the published names and sizes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import gfl_lab.detector  # noqa: F401  (makes mmdet.models importable)
from gfl_lab.detector.msda import MultiScaleDeformableAttention, multi_scale_deformable_attention
from gfl_lab.detector.vit_adapter import Attention, Block, ConvFFN, Geometry, ViTAdapter, cell_centres, from_deit
from gfl_lab.errors import InputError

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttention as MmcvAttention
from mmdet.registry import MODELS

torch.set_num_threads(1)

SHAPES = [(4, 3), (2, 2), (1, 3)]


def _tiny(**arguments: Any) -> ViTAdapter:
    torch.manual_seed(0)
    model = ViTAdapter(**{"base_channels": 8, **arguments})
    model.init_weights()
    return model


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- deformable attention -------------------------------------------------------------------------------------------


def _cell(level: Tensor, row: int, column: int) -> Tensor:
    height, width = level.shape[:2]
    return level[row, column] if 0 <= row < height and 0 <= column < width else torch.zeros_like(level[0, 0])


def _by_hand(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Eq. 3 of Deformable DETR, one sample at a time."""
    images, queries, heads, levels, points, _ = locations.shape
    parts = value.split([h * w for h, w in shapes], dim=1)
    rows = []
    for n in range(images):
        for q in range(queries):
            for h in range(heads):
                total = torch.zeros_like(value[0, 0, 0])
                for level in range(levels):
                    height, width = shapes[level]
                    grid = parts[level][n, :, h].view(height, width, -1)
                    for p in range(points):
                        x = locations[n, q, h, level, p, 0] * width - 0.5  # cell i is centred at (i + 0.5) / width
                        y = locations[n, q, h, level, p, 1] * height - 0.5
                        left, top = math.floor(x.item()), math.floor(y.item())
                        right_share, bottom_share = x - left, y - top
                        sample = (
                            (1 - right_share) * (1 - bottom_share) * _cell(grid, top, left)
                            + right_share * (1 - bottom_share) * _cell(grid, top, left + 1)
                            + (1 - right_share) * bottom_share * _cell(grid, top + 1, left)
                            + right_share * bottom_share * _cell(grid, top + 1, left + 1)
                        )
                        total = total + weights[n, q, h, level, p] * sample
                rows.append(total)
    return torch.stack(rows).view(images, queries, -1)


def _inputs(
    images: int, queries: int, heads: int, width: int, points: int, shapes: list[tuple[int, int]], seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, locations, some of them outside the maps, and weights; double, with gradient."""
    draw = torch.Generator().manual_seed(seed)
    cells = sum(h * w for h, w in shapes)
    value = torch.randn(images, cells, heads, width, generator=draw, dtype=torch.double)
    locations = torch.rand(images, queries, heads, len(shapes), points, 2, generator=draw, dtype=torch.double) * 1.6 - 0.3
    weights = torch.rand(images, queries, heads, len(shapes), points, generator=draw, dtype=torch.double)
    return value.requires_grad_(), locations.requires_grad_(), weights.requires_grad_()


@settings(max_examples=10)
@given(
    images=st.integers(1, 2),
    queries=st.integers(1, 3),
    heads=st.integers(1, 2),
    points=st.integers(1, 2),
    shapes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
def test_attention_is_the_formula_in_value_and_gradient(
    images: int, queries: int, heads: int, points: int, shapes: list[tuple[int, int]], seed: int
) -> None:
    inputs = _inputs(images, queries, heads, 3, points, shapes, seed)
    fast, slow = multi_scale_deformable_attention(inputs[0], shapes, *inputs[1:]), _by_hand(inputs[0], shapes, *inputs[1:])
    torch.testing.assert_close(fast, slow)
    towards = torch.randn_like(slow)
    # materialize: where every point is outside its level, the loop has not touched the value
    expected = torch.autograd.grad(slow, inputs, towards, materialize_grads=True)
    torch.testing.assert_close(torch.autograd.grad(fast, inputs, towards), expected)


def test_attention_gradcheck() -> None:
    value, locations, weights = _inputs(1, 2, 2, 2, 2, SHAPES)
    assert torch.autograd.gradcheck(lambda v, x, w: multi_scale_deformable_attention(v, SHAPES, x, w), (value, locations, weights))


def test_attention_samples_the_value_of_the_cell_it_points_at() -> None:
    """Two levels, 2x2 and 1x2; a point on the centre of cell (0, 1) of the first, one midway between the cells of the second."""
    value = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0, 30.0]).view(1, 6, 1, 1)
    locations = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).view(1, 1, 1, 2, 1, 2)
    weights = torch.tensor([0.25, 0.75]).view(1, 1, 1, 2, 1)
    result = multi_scale_deformable_attention(value, [(2, 2), (1, 2)], locations, weights)
    assert result.item() == pytest.approx(0.25 * 2 + 0.75 * 20)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_computes_in_float32_for_half_precision(dtype: torch.dtype) -> None:
    value, locations, weights = (tensor.detach().to(dtype) for tensor in _inputs(2, 3, 2, 4, 2, SHAPES))
    exact = multi_scale_deformable_attention(value.float(), SHAPES, locations.float(), weights.float())
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            result = multi_scale_deformable_attention(value, SHAPES, locations, weights)
        assert result.dtype == dtype
        assert torch.equal(result, exact.to(dtype))


def test_module_equals_mmcv_s_of_the_same_weights() -> None:
    """mmcv's adds its input and drops out; with zeros to add and in evaluation it is the same function of the same names."""
    torch.manual_seed(0)
    ours = MultiScaleDeformableAttention(24, heads=6, levels=3, points=4, value_ratio=0.5)
    theirs = MmcvAttention(24, num_heads=6, num_levels=3, num_points=4, batch_first=True, value_proj_ratio=0.5).eval()
    torch.testing.assert_close(ours.sampling_offsets.bias, theirs.sampling_offsets.bias)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    query, references = torch.randn(2, 5, 24), torch.rand(1, 5, 2)
    features = torch.randn(2, sum(h * w for h, w in SHAPES), 24)
    expected = theirs(
        query,
        value=features,
        identity=torch.zeros_like(query),
        reference_points=references[:, :, None].expand(2, -1, 3, -1),
        spatial_shapes=torch.tensor(SHAPES),
        level_start_index=torch.tensor([0, 12, 16]),
    )
    torch.testing.assert_close(ours(query, references, features, SHAPES), expected)


def test_module_starts_along_six_directions() -> None:
    attention = MultiScaleDeformableAttention(12, heads=6, levels=2, points=3)
    bias = attention.sampling_offsets.bias.view(6, 2, 3, 2)
    slope = math.tan(math.pi / 6)  # 60 degrees from the x axis: x is the smaller by 1 / sqrt(3)
    expected = [(1, 0), (slope, 1), (-slope, 1), (-1, 0), (-slope, -1), (slope, -1)]
    for level in range(2):
        for point in range(3):
            torch.testing.assert_close(bias[:, level, point], torch.tensor(expected) * (point + 1.0), atol=1e-6, rtol=1e-6)
    assert not attention.sampling_offsets.weight.any()
    assert not attention.attention_weights.weight.any() and not attention.attention_weights.bias.any()
    assert not attention.value_proj.bias.any() and not attention.output_proj.bias.any()
    assert attention.value_proj.weight.abs().max() <= math.sqrt(6 / 24)  # Xavier's bound


def test_cell_centres_are_x_then_y_row_by_row() -> None:
    centres = cell_centres([(2, 1), (1, 2)])
    assert centres.tolist() == [[[0.5, 0.25], [0.5, 0.75], [0.25, 0.5], [0.75, 0.5]]]


# --- the adapter's parts --------------------------------------------------------------------------------------------


def test_feed_forward_layer_convolves_each_level_alone() -> None:
    torch.manual_seed(0)
    ffn = ConvFFN(8, 4)
    tokens = torch.randn(2, 19, 8)
    levels = []
    for part, (height, width) in zip(tokens.split([12, 4, 3], dim=1), SHAPES, strict=True):
        hidden = ffn.fc1(part).transpose(1, 2).reshape(2, 4, height, width)
        hidden = F.conv2d(hidden, ffn.dwconv.dwconv.weight, ffn.dwconv.dwconv.bias, padding=1, groups=4)
        levels.append(ffn.fc2(F.gelu(hidden.flatten(2).transpose(1, 2))))
    torch.testing.assert_close(ffn(tokens, SHAPES), torch.cat(levels, dim=1))


def test_interaction_is_injector_then_extractors() -> None:
    """On 4x6 patches, with the attention's operator replaced by the loop written out."""
    interaction = _tiny(base_channels=1, deform_num_heads=2, n_points=2).interactions[-1].eval()
    for parameter in interaction.parameters():
        nn.init.normal_(parameter, std=0.3)
    patches, pyramid = (4, 6), [(8, 12), (4, 6), (2, 3)]
    geometry = Geometry(patches, cell_centres([patches]), pyramid, cell_centres(pyramid))
    x, c = torch.randn(1, 24, 6), torch.randn(1, 96 + 24 + 6, 6)

    def norm(layer: nn.LayerNorm, tokens: Tensor) -> Tensor:
        return F.layer_norm(tokens, (6,), layer.weight, layer.bias, 1e-6)

    def attend(
        attention: nn.Module, query: Tensor, features: Tensor, shapes: list[tuple[int, int]], grids: list[tuple[int, int]]
    ) -> Tensor:
        centres = [[(column + 0.5) / w, (row + 0.5) / h] for h, w in grids for row in range(h) for column in range(w)]
        offsets = attention.sampling_offsets(query).view(1, len(centres), 2, len(shapes), 2, 2)
        locations = torch.tensor(centres)[None, :, None, None, None] + offsets / torch.tensor([[w, h] for h, w in shapes])[:, None]
        weights = attention.attention_weights(query).view(1, len(centres), 2, -1).softmax(-1).view(1, len(centres), 2, len(shapes), 2)
        value = attention.value_proj(features).view(1, -1, 2, 3)
        return attention.output_proj(_by_hand(value, shapes, locations, weights))

    with torch.no_grad():
        result = interaction(x, c, [lambda tokens, shape: tokens * 2], geometry)
        injector = interaction.injector
        attended = attend(injector.attn, norm(injector.query_norm, x), norm(injector.feat_norm, c), pyramid, [patches])
        x = (x + injector.gamma * attended) * 2
        for extractor in (interaction.extractor, *interaction.extra_extractors):
            c = c + attend(extractor.attn, norm(extractor.query_norm, c), norm(extractor.feat_norm, x), [patches], pyramid)
            c = c + extractor.ffn(norm(extractor.ffn_norm, c), pyramid)
        torch.testing.assert_close(result[0], x, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(result[1], c, atol=1e-4, rtol=1e-4)


def test_spatial_prior_is_the_stack_of_the_facts() -> None:
    spm = _tiny(base_channels=2).spm
    weights = dict(spm.named_parameters())

    def layer(x: Tensor, conv: str, norm: str, stride: int) -> Tensor:
        x = F.conv2d(x, weights[f"{conv}.weight"], stride=stride, padding=1)
        return F.relu(F.batch_norm(x, None, None, weights[f"{norm}.weight"], weights[f"{norm}.bias"], training=True))

    x = images = torch.randn(2, 3, 64, 96)
    for i, stride in ((0, 2), (3, 1), (6, 1)):
        x = layer(x, f"stem.{i}", f"stem.{i + 1}", stride)
    maps = [F.max_pool2d(x, 3, stride=2, padding=1)]
    for i in (2, 3, 4):
        maps.append(layer(maps[-1], f"conv{i}.0", f"conv{i}.1", 2))
    expected = [F.conv2d(level, weights[f"fc{i}.weight"], weights[f"fc{i}.bias"]) for i, level in enumerate(maps, start=1)]
    torch.testing.assert_close(list(spm(images)), expected)


# --- names and sizes of the published model -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> ViTAdapter:
    with torch.device("meta"):
        return MODELS.build({"type": "ViTAdapter"})


def test_parameters_of_the_published_backbone(published: ViTAdapter) -> None:
    assert _count(published) == 27_503_888
    assert published.pos_embed.numel() + _count(published.patch_embed) + _count(published.blocks) == 21_673_728
    assert _count(published.spm) == 1_307_456
    assert {layer.eps for layer in published.modules() if isinstance(layer, nn.LayerNorm)} == {1e-6}
    for i, interaction in enumerate(published.interactions):
        assert _count(interaction.injector) == 380_760
        assert [_count(extractor) for extractor in (interaction.extractor, *interaction.extra_extractors)] == [400_872] * (
            3 if i == 3 else 1
        )
    neck = {
        "type": "FPN",
        "in_channels": list(published.out_channels),
        "out_channels": 256,
        "start_level": 1,
        "add_extra_convs": "on_output",
        "num_outs": 5,
    }
    with torch.device("meta"):
        assert _count(MODELS.build(neck)) == 3_246_080


def _published_keys() -> set[str]:
    """Return the keys of the authors' checkpoints, without the prefix ``backbone.``."""
    keys = {"pos_embed", "level_embed"}

    def layer(name: str, *kinds: str) -> None:
        keys.update(f"{name}.{kind}" for kind in kinds or ("weight", "bias"))

    def norm(name: str) -> None:
        layer(name, "weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def attention(name: str) -> None:
        for part in ("query_norm", "feat_norm"):
            layer(f"{name}.{part}")
        for part in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
            layer(f"{name}.attn.{part}")

    layer("patch_embed.proj")
    for i in range(12):
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            layer(f"blocks.{i}.{part}")
        keys.update({f"blocks.{i}.gamma1", f"blocks.{i}.gamma2"})
    for i in (0, 3, 6):
        layer(f"spm.stem.{i}", "weight")
        norm(f"spm.stem.{i + 1}")
    for i in (2, 3, 4):
        layer(f"spm.conv{i}.0", "weight")
        norm(f"spm.conv{i}.1")
    for i in (1, 2, 3, 4):
        layer(f"spm.fc{i}")
        norm(f"norm{i}")
    for i in range(4):
        attention(f"interactions.{i}.injector")
        keys.add(f"interactions.{i}.injector.gamma")
    for name in (*(f"interactions.{i}.extractor" for i in range(4)), *(f"interactions.3.extra_extractors.{i}" for i in range(2))):
        attention(name)
        for part in ("ffn.fc1", "ffn.dwconv.dwconv", "ffn.fc2", "ffn_norm"):
            layer(f"{name}.{part}")
    layer("up")
    return keys


def test_state_keys_are_the_published_ones(published: ViTAdapter) -> None:
    assert set(published.state_dict()) == _published_keys()


def test_synchronised_norm_has_the_same_keys() -> None:
    with torch.device("meta"):
        assert set(ViTAdapter(base_channels=1, norm_cfg={"type": "SyncBN"}).state_dict()) == _published_keys()


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("pos_embed", (1, 197, 384)),
        ("level_embed", (3, 384)),
        ("patch_embed.proj.weight", (384, 3, 16, 16)),
        ("blocks.11.attn.qkv.weight", (1152, 384)),
        ("blocks.0.mlp.fc1.weight", (1536, 384)),
        ("spm.conv4.0.weight", (256, 256, 3, 3)),
        ("spm.fc2.weight", (384, 128, 1, 1)),
        ("interactions.0.injector.attn.sampling_offsets.weight", (144, 384)),
        ("interactions.0.extractor.attn.sampling_offsets.weight", (48, 384)),
        ("interactions.3.extra_extractors.1.ffn.dwconv.dwconv.weight", (96, 1, 3, 3)),
        ("up.weight", (384, 384, 2, 2)),
    ],
)
def test_shapes_of_the_published_weights(published: ViTAdapter, key: str, shape: tuple[int, ...]) -> None:
    assert tuple(published.state_dict()[key].shape) == shape


# --- the transformer ------------------------------------------------------------------------------------------------


def _softmax_attention(qkv: Tensor, heads: int) -> Tensor:
    """(T, 3 * D) to (T, D), written out."""
    tokens, dims = qkv.shape[0], qkv.shape[1] // 3
    query, key, value = qkv.view(tokens, 3, heads, dims // heads).unbind(1)
    result = torch.zeros(tokens, heads, dims // heads)
    for head in range(heads):
        scores = query[:, head] @ key[:, head].T / math.sqrt(dims // heads)
        result[:, head] = scores.softmax(-1) @ value[:, head]
    return result.view(tokens, dims)


@pytest.mark.parametrize(("height", "width", "window"), [(5, 7, 3), (6, 3, 3), (2, 2, 4)])
def test_windows_are_attended_one_by_one_with_zeros_at_the_edge(height: int, width: int, window: int) -> None:
    torch.manual_seed(0)
    attention = Attention(12, window)
    tokens = torch.randn(2, height * width, 12)
    qkv = attention.qkv(tokens).view(2, height, width, 36)
    expected = torch.zeros(2, height, width, 12)
    for n in range(2):
        for top in range(0, height, window):
            for left in range(0, width, window):
                inside = qkv[n, top : top + window, left : left + window]
                rows, columns = inside.shape[:2]
                whole = torch.zeros(window, window, 36)
                whole[:rows, :columns] = inside
                attended = _softmax_attention(whole.view(-1, 36), 6).view(window, window, 12)
                expected[n, top : top + rows, left : left + columns] = attended[:rows, :columns]
    expected = attention.proj(expected.view(2, -1, 12))
    torch.testing.assert_close(attention(tokens, (height, width)), expected)


def _block_by_hand(block: Block, tokens: Tensor) -> Tensor:
    def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.weight + layer.bias

    attended = torch.stack([_softmax_attention(image, 6) for image in block.attn.qkv(norm(block.norm1, tokens))])
    tokens = tokens + block.gamma1 * block.attn.proj(attended)
    hidden = block.mlp.fc1(norm(block.norm2, tokens))
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return tokens + block.gamma2 * block.mlp.fc2(hidden)


def test_global_block_is_the_formula() -> None:
    torch.manual_seed(0)
    block = Block(12, None, 4.0, 0.2).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    tokens = torch.randn(2, 8, 12)
    torch.testing.assert_close(block(tokens, (4, 2)), _block_by_hand(block, tokens))


def test_drop_path_grows_over_the_blocks() -> None:
    model = _tiny()
    torch.testing.assert_close([block.drop_path.p for block in model.blocks], [0.2 * i / 11 for i in range(12)])
    assert [model.interactions[i].extractor.drop_path.p for i in range(4)] == [0.2] * 4
    assert [block.attn.window for block in model.blocks] == [14, 14, None] * 4


def _plain_tokens(model: ViTAdapter, images: Tensor) -> Tensor:
    """The model's transformer without what the adapter adds."""
    height, width = images.shape[2] // 16, images.shape[3] // 16
    position = model.pos_embed[0, 1:].view(14, 14, -1).permute(2, 0, 1)[None]
    position = F.interpolate(position, (height, width), mode="bicubic", align_corners=False)[0].flatten(1).T
    tokens = model.patch_embed.proj(images).flatten(2).transpose(1, 2) + position
    for block in model.blocks:
        tokens = block(tokens, (height, width))
    return tokens


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_a_closed_injector_leaves_the_plain_transformer(gamma: float) -> None:
    model = _tiny().eval()
    for interaction in model.interactions:
        nn.init.constant_(interaction.injector.gamma, gamma)
    seen: list[Tensor] = []
    model.interactions[-1].register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    with torch.no_grad():
        images = torch.randn(2, 3, 96, 64)
        model(images)
        expected = _plain_tokens(model, images)
    assert torch.allclose(seen[0], expected, atol=1e-5) == (gamma == 0)


# --- the whole backbone ---------------------------------------------------------------------------------------------


def test_maps_are_pyramid_plus_resized_transformer() -> None:
    """With extractors that add nothing, the outputs are the convolutions' maps plus the resized transformer's."""
    model = _tiny().eval()
    for interaction in model.interactions:
        for extractor in (interaction.extractor, *interaction.extra_extractors):
            nn.init.zeros_(extractor.attn.output_proj.weight)
            nn.init.zeros_(extractor.ffn.fc2.weight)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = model(images)
        c1, *levels = model.spm(images)
        c2, c3, c4 = (level + embed[:, None, None] for level, embed in zip(levels, model.level_embed, strict=True))
        x = _plain_tokens(model, images).transpose(1, 2).view(1, 48, 4, 6)
        c1 = model.up(c2) + c1
        for level, scale, result in zip((c1, c2, c3, c4), (4, 2, 1, 0.5), maps, strict=True):
            resized = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
            expected = (level + resized) / math.sqrt(1 + 1e-5)  # BN at its start, in evaluation
            torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bf16"])
def test_a_training_step_is_finite(dtype: torch.dtype | None) -> None:
    model = _tiny()
    for interaction in model.interactions:
        nn.init.constant_(interaction.injector.gamma, 0.1)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        maps = model(torch.randn(2, 3, 96, 64))
    assert [tuple(level.shape) for level in maps] == [(2, 48, 24, 16), (2, 48, 12, 8), (2, 48, 6, 4), (2, 48, 3, 2)]
    assert model.out_channels == (48, 48, 48, 48)
    sum(level.float().square().mean() for level in maps).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_only_the_finest_level_s_own_layers_are_idle_without_it() -> None:
    model = _tiny(drop_path_rate=0.0)
    sum(level.sum() for level in model(torch.randn(2, 3, 64, 64))[1:]).backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert idle == {f"{layer}.{kind}" for layer in ("up", "norm1", "spm.fc1") for kind in ("weight", "bias")}


def test_other_sizes_and_depths() -> None:
    model = _tiny(
        base_channels=2,
        depth=3,
        global_blocks=[2],
        interaction_indexes=[[0, 0], [1, 2]],
        window=2,
        n_points=2,
        deform_num_heads=3,
        deform_ratio=0.5,
        cffn_ratio=0.5,
        mlp_ratio=2.0,
    )
    maps = model(torch.randn(1, 3, 96, 160))
    assert [tuple(level.shape) for level in maps] == [(1, 12, 24, 40), (1, 12, 12, 20), (1, 12, 6, 10), (1, 12, 3, 5)]
    assert len(model.interactions) == 2 and len(model.interactions[1].extra_extractors) == 2


def test_a_size_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"100 x 64 px.*multiples of 32") as caught:
        _tiny()(torch.zeros(1, 3, 100, 64))
    assert "pad_to" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 10, "global_blocks": (2,)}, "cover the blocks 0 to 9"),
        ({"interaction_indexes": ((0, 5), (5, 11))}, "each once"),
        ({"global_blocks": (3, 12)}, r"\[12\] do not exist"),
        ({"deform_num_heads": 5}, "5 must divide .* 48"),
    ],
)
def test_values_that_do_not_go_together_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ViTAdapter(base_channels=8, **arguments)


def test_initial_values() -> None:
    model = _tiny()
    for block in model.blocks:
        assert (block.gamma1 == 1).all() and (block.gamma2 == 1).all()
        assert (block.norm1.weight == 1).all() and not block.attn.qkv.bias.any()
    for interaction in model.interactions:
        assert not interaction.injector.gamma.any()
    assert model.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.interactions[0].extractor.ffn.fc1.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.level_embed.std().item() == pytest.approx(1, rel=0.3)
    assert model.spm.conv4[0].weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 32)), rel=0.1)
    assert model.up.weight.std().item() == pytest.approx(math.sqrt(2 / (4 * 48)), rel=0.1)
    depthwise = [interaction.extractor.ffn.dwconv.dwconv.weight for interaction in model.interactions]
    assert torch.stack(depthwise).std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.2)  # fan-out of one group
    attention = model.interactions[0].injector.attn
    assert attention.sampling_offsets.bias.any(), "deformable attention keeps its own start"
    assert not attention.attention_weights.weight.any()
    assert attention.value_proj.weight.std().item() == pytest.approx(math.sqrt(2 / 96), rel=0.1)


# --- DeiT -----------------------------------------------------------------------------------------------------------


def _deit(dims: int, depth: int) -> dict[str, Tensor]:
    """The entry ``model`` of a DeiT file, names and shapes as published."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dims),
        "pos_embed": (1, 197, dims),
        "patch_embed.proj.weight": (dims, 3, 16, 16),
        "patch_embed.proj.bias": (dims,),
    }
    for i in range(depth):
        for layer, rows, columns in (
            ("attn.qkv", 3 * dims, dims),
            ("attn.proj", dims, dims),
            ("mlp.fc1", 4 * dims, dims),
            ("mlp.fc2", dims, 4 * dims),
        ):
            shapes |= {f"blocks.{i}.{layer}.weight": (rows, columns), f"blocks.{i}.{layer}.bias": (rows,)}
        for layer in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{layer}.weight": (dims,), f"blocks.{i}.{layer}.bias": (dims,)}
    shapes |= {"norm.weight": (dims,), "norm.bias": (dims,), "head.weight": (1000, dims), "head.bias": (1000,)}
    draw = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=draw) for key, shape in shapes.items()}


def test_deit_fills_the_transformer_and_nothing_else() -> None:
    model = _tiny()
    state = _deit(48, 12)
    part = from_deit(state)
    assert set(state) - set(part) == {"cls_token", "norm.weight", "norm.bias", "head.weight", "head.bias"}
    result = model.load_state_dict(part, strict=False)
    assert not result.unexpected_keys
    transformer = {key for key in model.state_dict() if key.startswith(("pos_embed", "patch_embed.", "blocks."))}
    assert transformer & set(result.missing_keys) == {f"blocks.{i}.gamma{j}" for i in range(12) for j in (1, 2)}
    assert transformer - set(result.missing_keys) == set(part)
    for key in part:
        assert torch.equal(model.state_dict()[key], state[key]), key
    assert all((block.gamma1 == 1).all() for block in model.blocks)


def test_deit_of_another_make_is_refused() -> None:
    distilled = {**_deit(6, 12), "dist_token": torch.zeros(1, 1, 6), "head_dist.bias": torch.zeros(1000)}
    with pytest.raises(InputError, match="dist_token, head_dist.bias"):
        from_deit(distilled)
    lacking = _deit(6, 12)
    del lacking["pos_embed"]
    with pytest.raises(InputError, match="lack pos_embed"):
        from_deit(lacking)
    with pytest.raises(InputError, match="blocks.10.*and 7 more"):
        from_deit(_deit(6, 11), depth=10)
    assert from_deit(_deit(6, 3), depth=3).keys() <= _deit(6, 3).keys()
