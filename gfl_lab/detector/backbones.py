"""The ResNet family, with the forms that mmdet lacks (``vd``, deformable from scratch), and configs of every backbone.

The entries are in ``spec/backbones.py``.
Widths of every backbone are in proportion to ``base_channels``; 64 gives the published ones.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmdet.models.backbones import Res2Net, ResNet, ResNetV1d, ResNeXt
from mmdet.registry import MODELS
from torch import nn

from gfl_lab.errors import InputError, Problem
from gfl_lab.spec.backbones import BACKBONES, PUBLISHED_WIDTH, load_function
from gfl_lab.spec.settings import Settings

_DCN = {"v1": "DCN", "v2": "DCNv2"}


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
        """Return a stage of mmdet's, whose first block has a projection."""
        layer = super().make_res_layer(**kwargs)
        if layer[0].downsample is None:
            channels = kwargs["planes"] * self.block.expansion
            layer[0].downsample = nn.Sequential(
                nn.Identity(),  # the pool's place, so that the names are the same in each stage
                build_conv_layer(self.conv_cfg, kwargs["inplanes"], channels, kernel_size=1, bias=False),
                build_norm_layer(self.norm_cfg, channels)[1],
            )
        return layer


def _start_plain(backbone: nn.Module) -> None:
    """Set what predicts the offsets of deformable convolutions to zero, so that they start as plain ones.

    mmdet initialises every ``Conv2d`` of a backbone without pretrained weights, and with it the one that predicts offsets.
    """
    for name, parameter in backbone.named_parameters():
        if ".conv_offset." in name:
            nn.init.zeros_(parameter)


@MODELS.register_module()
class DeformableResNet(ResNet):
    """mmdet's ``ResNet``, for use with ``dcn``."""

    def init_weights(self) -> None:
        """Initialise as mmdet does, with offsets of zero."""
        super().init_weights()
        _start_plain(self)


@MODELS.register_module()
class DeformableResNeXt(ResNeXt):
    """mmdet's ``ResNeXt``, for use with ``dcn``; the deformable convolutions keep the groups."""

    def init_weights(self) -> None:
        """Initialise as mmdet does, with offsets of zero."""
        super().init_weights()
        _start_plain(self)


@MODELS.register_module()
class DeformableRes2Net(Res2Net):
    """mmdet's ``Res2Net``, for use with ``dcn``; each scale's convolution is deformable."""

    def init_weights(self) -> None:
        """Initialise as mmdet does, with offsets of zero."""
        super().init_weights()
        _start_plain(self)


def backbone_config(settings: Settings, stages: int) -> tuple[dict[str, Any], list[int]]:
    """Return the mmdet config of the backbone, and the channels of its maps.

    Args:
        settings: group model is used.
        stages: 1..4, stages that the pyramid uses; a ResNet has no others. ViT-Adapter and a class of the user's have
            all their maps in any case.

    Returns:
        The config, a new dict each time, which building does not change; and the channels of the maps at strides 4, 8,
        16, 32: ``stages`` of them, or more where ``stages`` is not used.

    Raises:
        InputError: a class of the user's that is not registered, does not take its arguments, or does not name its
            ``out_channels``.
    """
    entry = BACKBONES.get(settings.backbone)
    if entry is None:
        config = {"type": settings.backbone, **copy.deepcopy(settings.component_args.get("backbone", {}))}
        return config, _channels_of(config, stages)
    config, channels = load_function(entry.build)(entry.options, settings, stages)
    return config, channels


def resnet(options: Mapping[str, Any], settings: Settings, stages: int) -> tuple[dict[str, Any], list[int]]:
    """Return config and channels of a member of the ResNet family.

    Args:
        options: ``type`` (class), ``depth``, and for a ResNeXt ``group_width``, the published channels of a group.
        settings: group model is used.
        stages: 1..4, stages that the pyramid uses; there are no others.
    """
    kind, depth, base = options["type"], options["depth"], settings.base_channels
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
        config |= {"groups": base // 2, "base_width": options["group_width"]}
    if kind == "Res2Net":
        config |= {"scales": 4, "base_width": 26 * base / PUBLISHED_WIDTH}
    if settings.dcn != "none":
        with_dcn = (False, settings.dcn_stages == "c3-c5", True, True)[:stages]
        # `fallback_on_stride` is left at its default: blocks would pop it out of this very dict
        config |= {"type": f"Deformable{kind}", "dcn": {"type": _DCN[settings.dcn], "deform_groups": 1}, "stage_with_dcn": with_dcn}
    expansion = 1 if depth < 50 else 4
    return config, [base * 2**stage * expansion for stage in range(stages)]


def _channels_of(config: dict[str, Any], stages: int) -> list[int]:
    """Return ``out_channels`` of a class of the user's; it may depend on the arguments, so the backbone is built once."""
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
    channels: Any = getattr(backbone, "out_channels", None)
    is_list = isinstance(channels, list | tuple) and all(isinstance(c, int) and c > 0 for c in channels)
    if not is_list or not stages <= len(channels) <= 4:
        raise InputError(
            Problem(
                f"backbone {name} has out_channels {channels!r}; this pyramid needs those of {stages} maps",
                hint="Give the class an attribute out_channels: the channels of its maps at strides 4, 8, 16 and 32, e.g. [64, 128, 256, 512].",
            )
        )
    return list(channels)
