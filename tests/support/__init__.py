"""Helpers of the tests."""

from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "data"
"""Recorded files; each folder tells in its README how it was made."""
