"""Backbones: configs of the published ones by name, and the forms that mmdet lacks (``vd``, deformable from scratch).

Widths of every backbone are in proportion to ``base_channels``; 64 gives the published ones.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmdet.models.backbones import Res2Net, ResNet, ResNetV1d, ResNeXt
from mmdet.registry import MODELS
from torch import nn

from gfl_lab.errors import InputError, Problem
from gfl_lab.spec.settings import BACKBONES, Settings

_DCN = {"v1": "DCN", "v2": "DCNv2"}

_RESNETS = {
    "r18": ("ResNet", 18),
    "r34": ("ResNet", 34),
    "r50": ("ResNet", 50),
    "r101": ("ResNet", 101),
    "r18vd": ("ResNetVd", 18),
    "r34vd": ("ResNetVd", 34),
    "r50vd": ("ResNetVd", 50),
    "r101vd": ("ResNetVd", 101),
    "x101-32x4d": ("ResNeXt", 101),
    "x101-32x8d": ("ResNeXt", 101),
    "r2-101": ("Res2Net", 101),
}
"""Class and depth of each member of the ResNet family."""


@MODELS.register_module()
class ResNetVd(ResNetV1d):
    """ResNet variant d with PaddleDetection's shortcuts (He et al., arXiv 1812.01187; ppdet ``variant: d``).

    The stem is three 3x3 convolutions; a shortcut that halves the map pools before its 1x1 convolution. In depths 50
    and 101 this is mmdet's ``ResNetV1d``, in structure and names. In depths 18 and 34 PaddleDetection has a 1x1
    projection also in the first block of the first stage, where mmdet's shortcut is the identity.

    Names here, and PaddleDetection's in its dynamic-graph weight files::

        stem.{0,3,6}, stem.{1,4,7}     conv1.conv1_{1,2,3}.{conv, norm}
        layer{s}.{b}.conv{k}, .bn{k}   res{s+1}.res{s+1}{block b}.branch2{a,b,c}.{conv, norm}, k-th letter
        layer{s}.0.downsample.{1,2}    res{s+1}.res{s+1}a.short.{conv, norm}       s = 1
                                       res{s+1}.res{s+1}a.short.conv.{conv, norm}  s > 1, after the pool

    Blocks b of a stage are a, b, c, ...; in the third stage of depth 101: a, b1, b2, ... ``downsample.0`` is the pool
    (nothing to pool for s = 1) and has no weights.
    """

    def make_res_layer(self, **kwargs: Any) -> nn.Module:
        layer = super().make_res_layer(**kwargs)
        if layer[0].downsample is None:
            channels = kwargs["planes"] * self.block.expansion
            layer[0].downsample = nn.Sequential(
                nn.Identity(),  # the pool's place, so that the names are the same in each stage
                build_conv_layer(self.conv_cfg, kwargs["inplanes"], channels, kernel_size=1, bias=False),
                build_norm_layer(self.norm_cfg, channels)[1],
            )
        return layer


class _DeformableStart:
    """Deformable convolutions start as plain ones: their offsets are zero after ``init_weights`` too.

    mmdet initialises every ``Conv2d`` of a backbone without pretrained weights, and with it the one that predicts offsets.
    """

    def init_weights(self) -> None:
        super().init_weights()
        for name, parameter in self.named_parameters():
            if ".conv_offset." in name:
                nn.init.zeros_(parameter)


@MODELS.register_module()
class DeformableResNet(_DeformableStart, ResNet):
    """mmdet's ``ResNet``, for use with ``dcn``."""


@MODELS.register_module()
class DeformableResNeXt(_DeformableStart, ResNeXt):
    """mmdet's ``ResNeXt``, for use with ``dcn``; the deformable convolutions keep the groups."""


@MODELS.register_module()
class DeformableRes2Net(_DeformableStart, Res2Net):
    """mmdet's ``Res2Net``, for use with ``dcn``; each scale's convolution is deformable."""


def backbone_config(settings: Settings, stages: int) -> tuple[dict[str, Any], list[int]]:
    """mmdet config of the backbone, and the channels of its maps.

    Args:
        settings: group model is used.
        stages: 1..4, stages that the pyramid uses; a ResNet has no others. ViT-Adapter and a class of the user's have
            all their maps in any case.

    Returns:
        The config, a new dict each time, which building does not change; and the channels of the maps at strides 4, 8,
        16, 32: ``stages`` of them, or more where ``stages`` is not used.

    Raises:
        InputError: a class of the user's that is not registered, does not take its arguments, or does not say its
            ``out_channels``.
    """
    if settings.backbone == "vit-adapter-s":
        config = {"type": "ViTAdapter", "base_channels": settings.base_channels, "drop_path_rate": settings.drop_path}
        return config, [6 * settings.base_channels] * 4
    if settings.backbone not in BACKBONES:
        config = {"type": settings.backbone, **copy.deepcopy(settings.component_args.get("backbone", {}))}
        return config, _channels_of(config, stages)
    return _resnet_config(settings, stages)


def _resnet_config(settings: Settings, stages: int) -> tuple[dict[str, Any], list[int]]:
    kind, depth = _RESNETS[settings.backbone]
    base = settings.base_channels
    config: dict[str, Any] = {
        "type": kind,
        "depth": depth,
        "base_channels": base,
        "num_stages": stages,
        "strides": (1, 2, 2, 2)[:stages],
        "dilations": (1,) * stages,
        "out_indices": tuple(range(stages)),
        "frozen_stages": min(settings.frozen_stages, stages),
        "norm_cfg": {"type": "BN", "requires_grad": settings.bn_requires_grad},
        "norm_eval": settings.norm_eval,
        "style": "pytorch",
    }
    if kind == "ResNeXt":  # fewer groups of the published width
        config |= {"groups": base // 2, "base_width": int(settings.backbone[-2])}
    if kind == "Res2Net":
        config |= {"scales": 4, "base_width": 26 * base / 64}
    if settings.dcn != "none":
        with_dcn = (False, settings.dcn_stages == "c3-c5", True, True)[:stages]
        # `fallback_on_stride` is left at its default: blocks would pop it out of this very dict
        config |= {"type": f"Deformable{kind}", "dcn": {"type": _DCN[settings.dcn], "deform_groups": 1}, "stage_with_dcn": with_dcn}
    expansion = 1 if depth < 50 else 4
    return config, [base * 2**stage * expansion for stage in range(stages)]


def _channels_of(config: dict[str, Any], stages: int) -> list[int]:
    """``out_channels`` of a class of the user's; it may depend on the arguments, so the backbone is built once."""
    name = config["type"]
    if MODELS.get(name) is None:
        raise InputError(
            Problem(
                f"backbone {name} is not registered",
                hint=f"It must be one of {', '.join(BACKBONES)}, or a class of yours that your file registers with mmdet.registry.MODELS.",
            )
        )
    with torch.random.fork_rng():  # the trial's random numbers stay what they are
        try:
            backbone = MODELS.build(copy.deepcopy(config))
        except TypeError as error:
            raise InputError(Problem(f"backbone {name} cannot be built: {error}", hint="Its arguments are arguments.backbone.")) from error
    channels = getattr(backbone, "out_channels", None)
    is_list = isinstance(channels, list | tuple) and all(isinstance(c, int) and c > 0 for c in channels)
    if not is_list or not stages <= len(channels) <= 4:
        raise InputError(
            Problem(
                f"backbone {name} has out_channels {channels!r}; this pyramid needs those of {stages} maps",
                hint="Give the class an attribute out_channels: the channels of its maps at strides 4, 8, 16 and 32, e.g. [64, 128, 256, 512].",
            )
        )
    return list(channels)
