"""The GFL family of detectors: losses, box distributions, head, assignment, operators.

Importing this package makes ``mmdet.models`` importable without a compiled mmcv and registers our modules with mmdet.
Warnings that mmdet and mmcv raise are ignored from then on.
"""

from __future__ import annotations

import warnings

from gfl_lab.processes import no_collections

# Warnings of mmdet and torch about mmdet's own code do not help a person who trains or tests a detector.
warnings.filterwarnings("ignore", category=UserWarning, module=r"mmdet\.|mmcv\.|torch\.functional")

with no_collections():  # torch, mmcv and mmdet
    from gfl_lab.detector import mmcv_ops

    mmcv_ops.install()

    from gfl_lab.detector import backbones as _backbones  # noqa: F401  (after install(); these register their classes)
    from gfl_lab.detector import head as _head  # noqa: F401
    from gfl_lab.detector import mmdet_detector as _mmdet_detector  # noqa: F401
    from gfl_lab.detector import mmdet_heads as _mmdet_heads  # noqa: F401
    from gfl_lab.detector import preprocess as _preprocess  # noqa: F401
    from gfl_lab.detector import trial_detector as _trial_detector  # noqa: F401
    from gfl_lab.detector import vit_adapter as _vit_adapter  # noqa: F401
