"""The class loss without a tensor of targets, against the one with it: every variant, memory order, padding and precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from gfl_lab.detector import background_loss, losses, positives
from tests.support.heads import FIVE, THREE, batch, feats, make_head, metas
from tests.test_detector_head import _check_losses, _pair
from tests.test_detector_variants import HOST_COUNTS, IDS, VARIANTS

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmengine.structures import InstanceData

SIZE = (96, 128)
PADDED = [(96, 128), (64, 128), (96, 96)]


@pytest.fixture(params=[False, True], ids=["by blocks", "as on a GPU"])
def by_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch goes the way of large ones, in blocks that end anywhere; or with as many positives as there can be."""
    monkeypatch.setattr(background_loss, "WORTHWHILE", 0)
    monkeypatch.setattr(background_loss, "_BLOCK", 101)
    monkeypatch.setattr(positives, "ALWAYS_PADDED", request.param)


@pytest.mark.parametrize("kind", ["none", "one", "crowded"])
@pytest.mark.parametrize("variant", ["gfl", "atss"])
@pytest.mark.usefixtures("by_blocks")
def test_losses_and_gradients_of_the_stock_head(variant: str, kind: str) -> None:
    _check_losses(*_pair(variant, FIVE), FIVE, kind, (128, 160))
    _check_losses(*_pair(variant, THREE), THREE, kind, (128, 160), padded=[(128, 160), (64, 160), (96, 128)], seed=4)


def _terms_and_gradients(
    head: Any, kind: str, padded: list[tuple[int, int]] | None, order: torch.memory_format
) -> tuple[dict[str, Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    maps, boxes = feats(THREE, SIZE, generator), batch(kind, SIZE, generator)
    outs = [[level.detach().contiguous(memory_format=order).requires_grad_() for level in levels] for levels in head(maps)]
    terms = head.loss_by_feat(*outs, batch_gt_instances=boxes, batch_img_metas=metas(3, SIZE, padded))
    sum(terms.values()).backward()
    return terms, [torch.zeros_like(level) if level.grad is None else level.grad for levels in outs for level in levels]


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
@pytest.mark.parametrize(
    ("as_on_a_gpu", "padded"),
    [
        pytest.param(False, None, id="by blocks-one shape"),
        pytest.param(True, PADDED, id="as on a GPU-padded"),
        pytest.param(False, PADDED, id="by blocks-padded", marks=pytest.mark.exhaustive),
        pytest.param(True, None, id="as on a GPU-one shape", marks=pytest.mark.exhaustive),
    ],
)
def test_equals_the_loss_with_targets(
    variant: dict[str, Any], padded: list[tuple[int, int]] | None, as_on_a_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = make_head(**variant)
    for kind in ("crowded", "one", "huge", "none"):
        expected, gradients = _terms_and_gradients(head, kind, padded, torch.contiguous_format)
        with monkeypatch.context() as patch:
            patch.setattr(background_loss, "WORTHWHILE", 0)
            patch.setattr(background_loss, "_BLOCK", 97)
            patch.setattr(positives, "ALWAYS_PADDED", as_on_a_gpu)
            for order in (torch.contiguous_format, torch.channels_last):
                terms, found = _terms_and_gradients(head, kind, padded, order)
                assert terms.keys() == expected.keys()
                for name, value in terms.items():
                    torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
                for one, other in zip(found, gradients, strict=True):
                    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("beta", [0.0, 1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("factored", [False, True])
def test_background_and_its_gradient_in_float64_terms(beta: float, factored: bool) -> None:
    """Sum and gradient against the plain formula differentiated in float64, up to logits of +-60, and over several blocks."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 7, 9, generator=generator) * 4
    logits.view(-1)[:4] = torch.tensor([60.0, -60.0, 20.0, 0.0])
    quality = torch.randn(2, 1, 7, 9, generator=generator)
    inputs = [logits, quality] if factored else [logits]
    exact = [part.double().requires_grad_() for part in inputs]
    score = exact[0].sigmoid() * (exact[1].sigmoid() if factored else 1)
    plain = score**beta * (-torch.log1p(-score) if factored else torch.nn.functional.softplus(exact[0]))
    plain.sum().backward()

    ours = [part.clone().requires_grad_() for part in inputs]
    nothing = torch.zeros(0, dtype=torch.long)
    at = positives.LevelPositives.locate(nothing, nothing, [(7, 9)])
    total, classes, factors = background_loss.background_and_positives(ours[:1], ours[1:] or None, at, beta, None)
    total.backward()
    assert total.item() == pytest.approx(plain.sum().item(), rel=1e-5) and classes.shape == (0, 3)
    assert (factors is None) != factored
    for part, reference in zip(ours, exact, strict=True):
        assert part.grad is not None and reference.grad is not None
        torch.testing.assert_close(part.grad.double(), reference.grad, rtol=1e-4, atol=1e-6)


def test_bfloat16_maps_keep_a_float32_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    level = (torch.randn(2, 4, 8, 8, generator=generator) - 2).bfloat16().requires_grad_()
    image, location = torch.tensor([0, 1]), torch.tensor([5, 63])
    total, own, _ = background_loss.background_and_positives(
        [level], None, positives.LevelPositives.locate(image, location, [(8, 8)]), 2.0, None
    )
    reference = losses.quality_focal_loss(level.detach(), torch.zeros_like(level))
    assert total.dtype == own.dtype == torch.float32 and total.item() == pytest.approx(reference.sum().item(), rel=1e-5)
    (total + own.sum()).backward()
    assert level.grad is not None and level.grad.dtype == torch.bfloat16
    assert level.grad[0, :, 0, 5].mean() > 0.9 > level.grad[0, :, 0, 6].mean()


def test_positives_come_back_in_their_order() -> None:
    sizes = [(4, 6), (2, 3), (1, 2)]
    maps = [torch.arange(2 * h * w, dtype=torch.float32).view(2, 1, h, w) + 1000 * level for level, (h, w) in enumerate(sizes)]
    image, location = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([31, 3, 30, 23, 24])
    at = positives.LevelPositives.locate(image, location, sizes)
    assert at.gather(maps).flatten().tolist() == [2001, 3, 2002, 24 + 23, 1006]
    zeros = [torch.zeros_like(level) for level in maps]
    at.add(zeros, torch.tensor([[1.0], [2], [3], [4], [5]]))
    assert at.gather(zeros).flatten().tolist() == [1, 2, 3, 4, 5] and sum(level.sum() for level in zeros) == 15


@pytest.mark.parametrize("padded", [pytest.param(None, id="one shape", marks=pytest.mark.exhaustive), pytest.param(PADDED, id="padded")])
@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_nothing_is_asked_of_the_device(
    variant: dict[str, Any], padded: list[tuple[int, int]] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses and gradients are computed of tensors without values: whatever had to know one, and so to wait for it, would raise."""
    if variant.get("assigner") in HOST_COUNTS:
        pytest.skip("it asks for the number of positives (docs/decisions/0042-assigners.md); test_cuda_path has the one wait")
    head = make_head(**variant)
    generator = torch.Generator().manual_seed(3)
    maps, boxes = feats(THREE, SIZE, generator), batch("crowded", SIZE, generator)
    outs = [[level.detach() for level in levels] for levels in head(maps)]
    head.geometry([tuple(level.shape[-2:]) for level in outs[0]], torch.device("cpu"))

    def run(mode: FakeTensorMode) -> None:
        fake = [[mode.from_tensor(level).requires_grad_() for level in levels] for levels in outs]
        own = [InstanceData(bboxes=mode.from_tensor(one.bboxes), labels=mode.from_tensor(one.labels)) for one in boxes]
        terms = head.loss_by_feat(*fake, batch_gt_instances=own, batch_img_metas=metas(3, SIZE, padded))
        sum(terms.values()).backward()
        assert all(level.grad.shape == level.shape for level in fake[0])

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        with pytest.raises(DynamicOutputShapeException):
            run(mode)  # the way of a CPU asks how many positives there are
        monkeypatch.setattr(positives, "ALWAYS_PADDED", True)
        run(mode)


def test_positives_in_arrays_of_any_length() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [(4, 5), (2, 3), (1, 1)]
    maps = [torch.randn(3, 2, h, w, generator=generator) for h, w in sizes]
    joined = torch.cat([level.flatten(2) for level in maps], 2)
    mask = torch.rand(3, 27, generator=generator) < 0.3
    image, location = mask.nonzero(as_tuple=True)
    values = torch.randn(len(image), 2, generator=generator)
    for most in (len(image), len(image) + 1, 81):
        at = positives.PaddedPositives.find(mask, most, sizes)
        found_image, found_location, real = at.image, at.location, at.real
        assert real.tolist() == [True] * len(image) + [False] * (most - len(image))
        assert torch.equal(found_image[real], image) and torch.equal(found_location[real], location)
        gathered = at.gather(maps)
        assert torch.equal(gathered[real], joined[image, :, location]) and not gathered[~real].any()
        sums = [level.clone() for level in maps]
        at.add(sums, torch.cat([values, torch.full((most - len(image), 2), 7.0)]))
        expected = joined.clone()
        expected[image, :, location] += values
        assert torch.equal(torch.cat([level.flatten(2) for level in sums], 2), expected)


def test_places_without_a_positive_are_spread_over_each_level() -> None:
    """CUDA adds values of one place one after another: with all of them at one place a backward pass took twice the time."""
    sizes, images = [(4, 5), (2, 3), (1, 1)], 3
    at = positives.PaddedPositives.find(torch.zeros(images, 27, dtype=torch.bool), 81, sizes)
    for (height, width), (image, y, x, own) in zip(sizes, at.levels, strict=True):
        places = torch.stack([image, y, x])
        assert not own.any() and (places.amax(1) < torch.tensor([images, height, width])).all()
        counts = places.unique(dim=1, return_counts=True)[1]
        assert len(counts) == images * height * width and int(counts.max()) <= -(-81 // len(counts))
