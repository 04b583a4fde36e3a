"""The one place where gfl-lab stands in for private parts of mmcv: its compiled operators, on torchvision and PyTorch.

Why: mmcv has no wheels for present versions of torch, and its extension ``mmcv._ext`` takes a CUDA compiler and half an
hour to build. mmcv-lite has all of mmcv's Python without the extension, and ``import mmdet.models`` fails without it.
There is no public interface to give mmcv other operators. ``VERIFIED_MMCV`` is the version that these files were written
against; a test compares it with the one installed.

``extension.py`` has the mechanism; each operator is one file, for CPU and CUDA alike. Modules built on the operators,
such as ``RoIAlign`` and ``DCNv2``, stay mmcv's, with its parameter names. mmcv's ``RoIPool`` is not served: torchvision's
``roi_pool`` rounds otherwise, and no config of mmdet needs it.
"""

from __future__ import annotations

from gfl_lab.detector.mmcv_ops.carafe import carafe, carafe_naive
from gfl_lab.detector.mmcv_ops.deform_conv import deform_conv2d, modulated_deform_conv2d
from gfl_lab.detector.mmcv_ops.deform_roi_pool import deform_roi_pool
from gfl_lab.detector.mmcv_ops.environment import get_compiler_version, get_compiling_cuda_version
from gfl_lab.detector.mmcv_ops.extension import (
    EXTENSION,
    FUNCTIONS,
    OPERATORS,
    VERIFIED_MMCV,
    OperatorMissing,
    install,
    is_installed,
    operator,
    replaces,
    served,
)
from gfl_lab.detector.mmcv_ops.focal_loss import sigmoid_focal_loss_backward, sigmoid_focal_loss_forward
from gfl_lab.detector.mmcv_ops.masked_conv import masked_conv2d
from gfl_lab.detector.mmcv_ops.ms_deform_attn import MultiScaleDeformableAttnFunction
from gfl_lab.detector.mmcv_ops.nms import nms
from gfl_lab.detector.mmcv_ops.nms_match import nms_match
from gfl_lab.detector.mmcv_ops.roi_align import roi_align
from gfl_lab.detector.mmcv_ops.soft_nms import softnms

__all__ = [
    "EXTENSION",
    "FUNCTIONS",
    "OPERATORS",
    "VERIFIED_MMCV",
    "MultiScaleDeformableAttnFunction",
    "OperatorMissing",
    "carafe",
    "carafe_naive",
    "deform_conv2d",
    "deform_roi_pool",
    "get_compiler_version",
    "get_compiling_cuda_version",
    "install",
    "is_installed",
    "masked_conv2d",
    "modulated_deform_conv2d",
    "nms",
    "nms_match",
    "operator",
    "replaces",
    "roi_align",
    "served",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softnms",
]
