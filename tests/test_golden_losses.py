"""Training computes the losses that it computed before the rebuild of November 2026.

``python -m tests.support.golden_losses --compare`` prints the differences, which are 0 on the kind of machine that recorded them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.golden_losses import FILE, STEPS, VARIANTS, Losses, difference, generate, train

RECORDED: dict[str, Losses] = json.loads(FILE.read_text())
EARLY = 20
"""Steps within which rounding stays small: another processor (AVX2 instead of AVX-512) moved a term by at most 7e-6 of it, and by 9e-3 within 80."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_are_the_recorded_ones(variant: str, data: Path, tmp_path: Path) -> None:
    found, recorded = train(variant, data, tmp_path), RECORDED[variant]
    assert found.keys() == recorded.keys()
    assert all(len(values) == STEPS for values in found.values())
    early = difference({key: values[:EARLY] for key, values in found.items()}, {key: values[:EARLY] for key, values in recorded.items()})
    assert early < 1e-3
    assert difference(found, recorded) < 5e-2
