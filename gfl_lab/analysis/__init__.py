"""Box distributions: those that a trained detector predicts, and the side distances of a data set.

The detector is imported first: it makes mmdet importable without mmcv's compiled extension.
"""

from __future__ import annotations

import gfl_lab.detector  # noqa: F401
