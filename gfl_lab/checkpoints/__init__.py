"""Weights on disk: safe reading and writing, published weights, and conversion from other projects.

The detector is imported first: it makes mmdet importable without mmcv's compiled extension.
"""

from __future__ import annotations

import gfl_lab.detector  # noqa: F401
