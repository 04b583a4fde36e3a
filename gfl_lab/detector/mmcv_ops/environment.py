"""Lines of mmcv's environment report that name its compiler."""

from __future__ import annotations

import torch

from gfl_lab.detector.mmcv_ops.extension import operator


@operator
def get_compiler_version() -> str:
    """Return the text of mmcv's environment report in place of a compiler."""
    return "none (gfl-lab serves torchvision's kernels)"


@operator
def get_compiling_cuda_version() -> str:
    """Return the text of mmcv's environment report in place of the compiler's CUDA version."""
    return f"none (torch {torch.version.cuda or 'without CUDA'})"
