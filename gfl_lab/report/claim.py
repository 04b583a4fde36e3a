"""A claim on two variants of an ablation, with everything that a reader needs to judge and repeat it. ``writers.claim_page`` lays it out.

All numbers are those of the table (``report.table``) and of the comparison of two variants (``report.variant_comparison``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gfl_lab import naming
from gfl_lab.report.claim_boxes import BoxPair
from gfl_lab.report.comparison import Comparison, Lookup, by_seed, compare_two, shared
from gfl_lab.report.differences import Differing
from gfl_lab.report.fairness import UNFAIR, unfair
from gfl_lab.report.footnotes import footnotes
from gfl_lab.report.formatting import format_number
from gfl_lab.report.look_notes import look_notes
from gfl_lab.report.table import Table, build_table
from gfl_lab.report.table_rows import Delta, TableRow, delta_of
from gfl_lab.report.variant_comparison import DifferenceRow
from gfl_lab.results.rows import ExperimentRow, Recorded, VariantRow
from gfl_lab.wording import joined

SHOWN = naming.AP_METRICS
"""The metrics of a claim: AP at its thresholds and sizes."""
_WARNINGS = ("Warning: ", "Extended after it was read: ")
"""Beginnings of a table's notes that hold for every row and that no page may leave out."""
_VERSIONS = ("gfl-lab", "commit", "python", "torch", "mmdet")
"""Entries of a trial's environment that a page names."""


@dataclass(frozen=True)
class Parts:
    """The sources of the difference: rows by size, class and type of error; ``missing`` is why there are none."""

    rows: tuple[DifferenceRow, ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class Boxes:
    """Learned distributions of the same boxes.

    Attributes:
        seed: of the two trials. rule: how the boxes were chosen, a sentence. missing: why there are none, a sentence.
        notes: sentences on variants that have one distance for a side.
    """

    pairs: tuple[BoxPair, ...] = ()
    seed: int = 0
    rule: str = ""
    missing: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A variant against another one, by default the baseline.

    Attributes:
        table: of the experiment, for its names and data.
        variant, reference: their rows of the table.
        delta: differences by metric. comparisons: by metric, AP, AP50 and AP75.
        by_seed: (variant's, other's) values of all finished seeds, by metric.
        trials: (variant's, other's) id by the seeds that both have finished.
        unfair: in what the two differ beyond the declared axes, a sentence each.
        warnings: notes that no page may leave out, on fairness and imported files. notes: the others of the table, on these two rows. planned: day of the plan.
        settings: everything in which the two differ but numbers.
        commands: that repeat the claim, in order. facts: data, versions and machine, by name.
    """

    table: Table
    variant: TableRow
    reference: TableRow
    val_images: int
    delta: Mapping[str, Delta]
    comparisons: Mapping[str, Comparison]
    by_seed: Mapping[str, tuple[Mapping[int, float], Mapping[int, float]]]
    trials: Mapping[int, tuple[str, str]]
    unfair: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    planned: str = ""
    settings: tuple[Differing, ...] = ()
    parts: Parts = Parts()
    boxes: Boxes = Boxes()
    commands: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def main(self) -> Comparison:
        """The comparison in AP, on which the verdict rests."""
        return self.comparisons["AP"]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that one of the two has."""
        return tuple(key for key in SHOWN if key in self.variant.metrics or key in self.reference.metrics)


def build_claim(
    experiment: ExperimentRow, variant: VariantRow, reference: VariantRow, resampled: Lookup | None = None, min_effect: float | None = None
) -> Claim:
    """Return a claim with what follows from the rows alone: its fields that have defaults are left at them.

    Args:
        experiment: with both variants, which share a finished seed.
        resampled, min_effect: as of ``build_table``.
    """
    table = build_table(experiment, resampled, min_effect)
    rows = {row.variant: row for row in table.rows}
    first, second = rows[variant.name], rows[reference.name]
    two = dataclasses.replace(experiment, variants=(reference, variant))
    problems = tuple(unfair(two))
    delta = {key: found for key in SHOWN if (found := delta_of(experiment, variant, reference, key))}
    comparisons = {each.metric: each for each in compare_two(experiment, variant, reference, resampled, min_effect)}
    published = [key for key in SHOWN if any(row.reference and key in row.reference.metrics for row in (first, second))]
    plain = [dataclasses.replace(row, delta={}) for row in (second, first)]
    return Claim(
        table=table,
        variant=first,
        reference=second,
        val_images=experiment.data.val_images,
        delta=delta,
        comparisons=comparisons,
        unfair=problems,
        warnings=(
            *(f"{UNFAIR} Unfair: {problem}." for problem in problems),
            *(each for each in table.footnotes if each.startswith(_WARNINGS)),
        ),
        notes=(
            *(each for each in experiment.notes if not each.startswith(_WARNINGS)),
            *(each for each in look_notes(two, [comparisons["AP"]] if "AP" in comparisons else []) if not each.startswith(_WARNINGS)),
            *_published_values(first, second),
            *footnotes(plain, [key for key in SHOWN if key in table.columns], published, None),
            *_seeds(first, second, delta, comparisons.get("AP")),
        ),
        by_seed={metric: (_values(variant, metric), _values(reference, metric)) for metric in SHOWN},
        trials={seed: (one.id, other.id) for seed, ((_, one), (_, other)) in shared(variant, reference).items()},
        planned=experiment.created[:10],
    )


def facts(experiment: ExperimentRow, trials: Sequence[Recorded]) -> dict[str, str]:
    """Return data, versions and machine of the trials of a claim, as people read them; what is not recorded is left out."""
    data = experiment.data

    def recorded(*names: str) -> str:
        texts = [", ".join(str(trial.environment[name]) for name in names if name in trial.environment) for trial in trials]
        return " / ".join(dict.fromkeys(text for text in texts if text))

    codes = "" if experiment.is_imported else " / ".join(dict.fromkeys(str(trial.code) for trial in trials))
    versions = [(name, recorded(name)) for name in _VERSIONS]
    threads = recorded("threads")
    found = {
        "data": f"{data.name}, digest {data.digest}",
        "versions": ", ".join([f"{name} {text}" for name, text in versions if text] + ([f"training code {codes}"] if codes else [])),
        "machine": recorded("processor", "device") + (f", threads {threads}" if threads else ""),
    }
    return {name: text for name, text in found.items() if text}


def _values(variant: VariantRow, metric: str) -> dict[int, float]:
    return {seed: value for seed, (value, _) in by_seed(variant, metric).items()}


def _published_values(variant: TableRow, reference: TableRow) -> list[str]:
    """Return one sentence with the published AP of both, where there is one."""
    known = [(row.variant, row.reference.metrics["AP"]) for row in (variant, reference) if row.reference and "AP" in row.reference.metrics]
    if not known:
        return []
    return ["Published AP: " + ", ".join(f"{format_number('AP', value)} for {name}" for name, value in known) + "."]


def _seeds(variant: TableRow, reference: TableRow, delta: Mapping[str, Delta], compared: Comparison | None) -> list[str]:
    """Return sentences where rows, differences and the verdict rest on different seeds."""
    found = delta.get("AP")
    if found is None or not found.seeds:
        return []
    notes = []
    if more := [row.variant for row in (variant, reference) if "AP" in row.metrics and row.metrics["AP"].n > found.n]:
        both = ", ".join(map(str, found.seeds))
        notes.append(
            f"The difference is over the seeds that both have finished ({both}); {joined(more)} {'has' if len(more) == 1 else 'have'} more."
        )
    if compared is not None and compared.found.seeds != found.n:
        notes.append(f"Verdict and interval rest on {compared.found.seeds} of these {found.n} seeds.")
    return notes
