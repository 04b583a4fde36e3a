"""Real images in COCO format: crops in tests/data, and whole sets where ../shared/data holds them."""

from __future__ import annotations

from pathlib import Path

from tests.support import DATA

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
CROPS = {name: DATA / name for name in ("bccd_crop", "coco_crop")}
"""Always there: a few images of each set."""
WHOLE = {name: SHARED / name for name in ("bccd", "coco_people", "coco_slice") if (SHARED / name).is_dir()}
"""An addition, where the sets lie beside the repository."""
REAL = CROPS | WHOLE
