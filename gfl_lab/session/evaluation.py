"""A trained detector evaluated again, under other test settings if any are given, beside its recorded numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gfl_lab.inference.reevaluate import Evaluation, evaluate
from gfl_lab.inference.trained_detector import SETTABLE, TrainedDetector
from gfl_lab.naming import setting_text
from gfl_lab.wording import plural

AS_TRAINED = "as trained"


@dataclass(frozen=True)
class EvaluationReport:
    """An evaluation, and the one that it is compared with.

    Attributes:
        detector: as it was trained. changed: under ``changes``.
        rows: metrics by the name of their row: as trained, if that is known, and evaluated now.
        evaluation: the one of now.
    """

    detector: TrainedDetector
    changed: TrainedDetector
    changes: Mapping[str, object]
    rows: Mapping[str, Mapping[str, float]]
    evaluation: Evaluation

    @property
    def differences(self) -> dict[str, float]:
        """Return second minus first row, for metrics that both have; empty with one row."""
        if len(self.rows) < 2:
            return {}
        before, after = self.rows.values()
        return {key: round(after[key] - before[key], 6) for key in before if key in after}

    @property
    def heading(self) -> str:
        """Return the detector, images and device in a sentence."""
        done, name = self.evaluation, self.detector.name
        which = f"all {plural(done.images, 'validation image')}"
        if done.images < done.all_images:
            which = f"the first {done.images} of {plural(done.all_images, 'validation image')}"
        return f"{'trial ' if self.detector.is_trial else ''}{name} on {which} of {self.detector.spec.data.name}, {done.device}"

    @property
    def device_note(self) -> str:
        """Return a note on a trial that was trained on another kind of device; empty for others."""
        trained = self.detector.device
        if not self.detector.is_trial or _kind(trained) == _kind(self.evaluation.device):
            return ""
        return f"It was trained on {trained}; another device alone changes the last digits."

    def to_json(self) -> dict[str, object]:
        """Return the report as `gfl-lab evaluate --json` prints it (docs/command-line.md)."""
        detector, done = self.detector, self.evaluation
        settings = self.changed.spec.settings.model_dump(mode="json")
        return {
            "trial": detector.name if detector.is_trial else None,
            "weights": None if detector.is_trial else detector.name,
            "data": detector.spec.data.name,
            "images": done.images,
            "all_images": done.all_images,
            "device": done.device,
            "set": {key: settings[key] for key in self.changes},
            "settings": {key: settings[key] for key in SETTABLE},
            "rows": [{"name": name, "metrics": metrics} for name, metrics in self.rows.items()],
            "differences": self.differences,
            "per_class": done.per_class,
        }


def evaluate_again(
    detector: TrainedDetector,
    changes: Mapping[str, object] | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> EvaluationReport:
    """Evaluate a trained detector under changed test settings.

    Args:
        changes: by setting, those of ``SETTABLE``.
        limit: only the first so many validation images. A trial's recorded numbers are of all images: beside some of them it is
            evaluated on the same ones, if there are changes.
        progress: called after each image with how many are done, and of how many; for two evaluations one after the other.

    Raises:
        InputError: a setting that may not be changed, or weights that do not fit. DataError, ResourceError: of ``evaluate``.
    """
    changes = changes or {}
    changed = detector.under(changes)
    before: Mapping[str, float] | None = detector.metrics
    if limit and before is not None and limit < detector.spec.data.val_images:
        before = evaluate(detector, limit, progress).metrics if changes else None
    done = evaluate(changed, limit, progress)
    rows: dict[str, Mapping[str, float]] = {} if before is None else {AS_TRAINED: before}
    unchanged = "again" if rows else AS_TRAINED if detector.is_trial else "weights"
    name = " ".join(f"{key}={setting_text(value)}" for key, value in changes.items()) or unchanged
    return EvaluationReport(detector, changed, changes, rows | {name: done.metrics}, done)


def _kind(device: str) -> str:
    """Return ``cpu`` or ``cuda`` of ``cuda:0`` or ``cuda (NVIDIA H100)``."""
    return device.partition(" ")[0].partition(":")[0]
