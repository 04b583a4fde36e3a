"""A trained detector on images: predictions, COCO evaluation, latency.

The detector is imported first: it makes mmdet importable without mmcv's compiled extension.
"""

from __future__ import annotations

import gfl_lab.detector  # noqa: F401
