"""A trial in mmengine's terms: its configuration, its data set, and the components of the user's that it names.

The detector is imported first: it makes mmdet importable without mmcv's compiled extension.
"""

from __future__ import annotations

import gfl_lab.detector  # noqa: F401
