"""The notes below a table, which explain its numbers: plain sentences, once each."""

from __future__ import annotations

from collections.abc import Sequence

from gfl_lab import naming
from gfl_lab.report.statistics import FAINT
from gfl_lab.report.table_rows import TableRow
from gfl_lab.results.rows import VariantRow
from gfl_lab.rundir import TrialState
from gfl_lab.wording import joined


def footnotes(rows: Sequence[TableRow], columns: Sequence[str], published: Sequence[str], baseline: VariantRow | None) -> list[str]:
    """Return the notes of a table.

    Args:
        columns: metrics that are shown. published: those that some published row has a value for.
    """
    notes = [*_spreads(rows), *_differences(rows, baseline), *_incomplete(rows)]
    notes += [*_undefined(rows, columns), *_failures(rows), *_accumulated(rows), *_published(rows, published)]
    devices = sorted({trial.device for row in rows for trial in row.trials if trial.device and trial.state is TrialState.DONE})
    if len(devices) > 1:
        notes.append(f"fps was measured on different devices ({', '.join(devices)}): do not compare it between rows.")
    return notes


def _spreads(rows: Sequence[TableRow]) -> list[str]:
    notes = []
    sizes = {found.n for row in rows for found in row.metrics.values()}
    if any(n > 1 for n in sizes):
        notes.append("± is the sample standard deviation over seeds.")
    if 1 in sizes:
        single = [row.variant for row in rows if any(found.n == 1 for found in row.metrics.values())]
        where = "" if len(single) == len([row for row in rows if row.metrics]) else f" ({', '.join(single)})"
        notes.append(f"One seed{where}: no spread can be given, so a difference may be chance.")
    return notes


def _differences(rows: Sequence[TableRow], baseline: VariantRow | None) -> list[str]:
    if baseline is None:
        return []
    notes = []
    deltas = [delta for row in rows for delta in row.delta.values()]
    if any(delta.seeds for delta in deltas):
        notes.append(f"Signed numbers are differences to the baseline ({baseline.name}), paired over the seeds that both have finished.")
    elif deltas:
        notes.append(
            f"Signed numbers are differences to the mean of the baseline ({baseline.name}): trainings of different projects do not pair. ± beside "
            "them is the standard deviation of the difference of two trainings, one of each."
        )
    notes += _left_out(rows, baseline)
    if unpaired := [row.variant for row in rows if not row.baseline and row.metrics and not row.delta]:
        reason = f"no finished seed is shared with the baseline ({baseline.name})"
        notes.append(f"No difference can be given for {joined(unpaired)}: {reason}.")
    return notes


def _left_out(rows: Sequence[TableRow], baseline: VariantRow) -> list[str]:
    """Return a note for rows whose difference is not that of the two means, since a seed of one of them has no partner."""
    own = next((row.metrics for row in rows if row.baseline), {})
    groups: dict[tuple[int, int, int], list[str]] = {}
    for row in rows:
        for key, delta in row.delta.items():
            counts = (delta.n, row.metrics[key].n, own[key].n) if key in own and key in row.metrics else (0, 0, 0)
            if delta.seeds and counts[0] < max(counts[1:]):
                groups.setdefault(counts, []).append(row.variant)
                break
    return [
        f"{joined(names)}: the difference uses {paired} {'seed' if paired == 1 else 'seeds'} of {has}, and {paired} of {others} of the "
        f"baseline ({baseline.name}): the others have no partner. So it is not the difference of the two means."
        for (paired, has, others), names in groups.items()
    ]


def _incomplete(rows: Sequence[TableRow]) -> list[str]:
    notes = []
    for row in rows:
        done = row.counts.get(TrialState.DONE.value, 0)
        if done < len(row.trials):
            rest = ", ".join(f"{n} {state}" for state, n in row.counts.items() if state != TrialState.DONE.value)
            notes.append(f"Incomplete: {row.variant} has {done} of {len(row.trials)} trials done ({rest}).")
    return notes


def _accumulated(rows: Sequence[TableRow]) -> list[str]:
    """Return a note for each trial whose batches were split after it had run out of memory."""
    return [
        f"{row.variant}, seed {trial.seed} (trial {trial.id}) ran out of memory: from step {trial.parts_since + 1} on its "
        f"batches were done in {trial.parts} parts, so its numbers are not quite those of whole batches."
        for row in rows
        for trial in row.trials
        if trial.parts > 1
    ]


def _undefined(rows: Sequence[TableRow], columns: Sequence[str]) -> list[str]:
    """Return the AP columns without a number in finished trials, and the rows whose AP is 0 throughout."""
    notes = []
    done = [row for row in rows if row.counts.get(TrialState.DONE.value)]
    for key in columns:
        if key in naming.AP_METRICS and (missing := [row.variant for row in done if key not in row.metrics]):
            where = "" if len(missing) == len(done) else f" for {joined(missing)}"
            kind = "no box of that size" if key in ("AP_S", "AP_M", "AP_L") else "no box"
            notes.append(
                f"No {naming.METRICS[key].title}{where}: it is undefined in every finished trial. Validation has {kind}, or the evaluation gave no number."
            )
    ends = {row.variant: [trial.metrics.get("AP") for trial in row.trials if trial.state is TrialState.DONE] for row in done}
    if silent := [name for name, values in ends.items() if all(value is not None and abs(value) < FAINT for value in values)]:
        notes.append(f"AP is 0.0 in every trial of {joined(silent)}: nothing was learned, or no detection lies on a box.")
    return notes


def _failures(rows: Sequence[TableRow]) -> list[str]:
    notes = []
    for row in rows:
        for trial in row.trials:
            if trial.state is TrialState.FAILED:
                why = f"{trial.failure.kind}: {trial.failure.reason}" if trial.failure else "no reason recorded"
                notes.append(f"Failed: {row.variant}, seed {trial.seed} (trial {trial.id}): {' '.join(why.split())}")
    return notes


def _published(rows: Sequence[TableRow], published: Sequence[str]) -> list[str]:
    """Return one sentence for each (source, split, reason), however many rows share it."""
    if not published:
        return []
    grouped: dict[tuple[str, str, bool, str], list[str]] = {}
    for row in rows:
        if row.reference:
            key = (row.reference.source, row.reference.split, row.reference.comparable, row.reference.why_not)
            grouped.setdefault(key, []).append(row.variant)
    notes = []
    for (source, split, comparable, why_not), variants in grouped.items():
        which = "" if len(grouped) == 1 else f" for {joined(variants)}"
        verdict = "comparable" if comparable else "not comparable" + (f" ({why_not})" if why_not else "")
        notes.append(f"Published values{which}: {source}{f', {split}' if split else ''}; {verdict}.")
    return notes
