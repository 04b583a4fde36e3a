"""One trial on mmengine: configuration, loop, evaluation, latency, distributions.

Importing the package imports the detector first, which makes mmdet importable without mmcv's compiled extension.
"""

import gfl_lab.detector  # noqa: F401
