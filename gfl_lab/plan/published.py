"""Published rows and the variants that can produce them, matched by settings. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gfl_lab.records.plan import Reference
from gfl_lab.spec.file_models import Profile, PublishedRow, PublishedTable
from gfl_lab.spec.files import resolve_settings
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import DataSpec

COCO_VALIDATION = "coco_minival"
"""Published split that is COCO 2017's validation images, the ones that trials on COCO are evaluated on."""


def matching_row(settings: Settings, table: PublishedTable) -> PublishedRow | None:
    """Return the row of ``table`` with the settings of a variant; the most specific of several; None if there is none."""
    values = settings.model_dump(mode="json")
    matches = [
        row for row in table.rows if not row.why_not and all(key in values and values[key] == value for key, value in row.settings.items())
    ]
    return max(matches, key=lambda row: len(row.settings), default=None)


def differences(settings: Settings, table: PublishedTable, row: PublishedRow) -> list[str]:
    """Return the names of the settings that differ from ``row``: its own over its table's over the defaults, which are the paper's."""
    published = resolve_settings(table.settings, row.settings)
    return [key for key in Settings.model_fields if getattr(settings, key) != getattr(published, key)]


def reference(settings: Settings, profile: Profile, data: DataSpec, published: PublishedTable) -> Reference | None:
    """Return the published row whose settings agree with the variant's, and whether ours may be compared with it.

    It may when the data have COCO's counts, the row is of COCO's validation images, and no setting differs from those that
    the row was made with.
    """
    row = matching_row(settings, published)
    if row is None:
        return None
    reasons = []
    if not looks_like_coco(data):
        reasons.append(f"other data ({data.name}, not COCO 2017)")
    if published.split != COCO_VALIDATION:
        reasons.append(f"other images ({published.split}, ours are COCO's validation images)")
    if different := differences(settings, published, row):
        shown = ", ".join(different[:4]) + (f" and {len(different) - 4} more" if len(different) > 4 else "")
        reasons.append(f"other settings than published (profile {profile.name}): {shown}")
    if published.differs:
        reasons.append(published.differs)
    return Reference(
        row=row.name,
        metrics={key: value for key, value in row.metrics.items() if value is not None},
        source=published.source,
        split=published.split,
        comparable=not reasons,
        why_not="; ".join(reasons),
    )


def looks_like_coco(data: DataSpec) -> bool:
    """Return True if the data are COCO 2017 by their counts: 80 classes, 5,000 validation and about 118,000 training images."""
    return len(data.classes) == 80 and data.val_images == 5000 and 117_000 <= data.train_images <= 118_287


@dataclass(frozen=True)
class Candidate:
    """A variant of an experiment that names a published table."""

    experiment: str
    table: str
    variant: str
    settings: Settings


@dataclass(frozen=True)
class Entry:
    """A published row, and the experiment and variant that produce it; None if nothing does, with the reason in ``why_not``."""

    table: PublishedTable
    row: PublishedRow
    experiment: str | None
    variant: str | None
    why_not: str

    @property
    def runnable(self) -> bool:
        """True if an experiment has the row as a variant."""
        return self.experiment is not None


NO_EXPERIMENT = "No experiment has a variant with these settings."


def survey(tables: Iterable[PublishedTable], candidates: Iterable[Candidate]) -> list[Entry]:
    """Return every row of every table, in order, with the first of ``candidates`` that names its table and matches it."""
    tables = list(tables)
    by_id = {table.id: table for table in tables}
    first: dict[tuple[str, str], Candidate] = {}
    for candidate in candidates:
        table = by_id.get(candidate.table)
        row = matching_row(candidate.settings, table) if table else None
        if row is not None:
            first.setdefault((candidate.table, row.name), candidate)
    entries = []
    for table in tables:
        for row in table.rows:
            found = first.get((table.id, row.name))
            entries.append(
                Entry(
                    table,
                    row,
                    found.experiment if found else None,
                    found.variant if found else None,
                    "" if found else row.why_not or NO_EXPERIMENT,
                )
            )
    return entries
