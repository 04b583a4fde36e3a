"""Published rows and the variants that can produce them, matched by settings. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gfl_lab.spec.files import PublishedRow, PublishedTable, resolve_settings
from gfl_lab.spec.settings import Settings


def matching_row(settings: Settings, table: PublishedTable) -> PublishedRow | None:
    """The row of ``table`` whose settings a variant has: of several, the one that states most; None when there is none."""
    values = settings.model_dump(mode="json")
    matches = [
        row for row in table.rows if not row.why_not and all(key in values and values[key] == value for key, value in row.settings.items())
    ]
    return max(matches, key=lambda row: len(row.settings), default=None)


def differences(settings: Settings, table: PublishedTable, row: PublishedRow) -> list[str]:
    """Names of the settings that are not those of ``row``: its own over its table's over the defaults, which are the paper's."""
    published = resolve_settings(table.settings, row.settings)
    return [key for key in Settings.model_fields if getattr(settings, key) != getattr(published, key)]


@dataclass(frozen=True)
class Candidate:
    """A variant of an experiment that names a published table."""

    experiment: str
    table: str
    variant: str
    settings: Settings


@dataclass(frozen=True)
class Entry:
    """A published row, and the experiment and variant that produce it; None where nothing does, and ``why_not`` says why."""

    table: PublishedTable
    row: PublishedRow
    experiment: str | None
    variant: str | None
    why_not: str

    @property
    def runnable(self) -> bool:
        """Whether an experiment has the row as a variant."""
        return self.experiment is not None


NO_EXPERIMENT = "No experiment has a variant with these settings."


def survey(tables: Iterable[PublishedTable], candidates: Iterable[Candidate]) -> list[Entry]:
    """Every row of every table, in order, with the first of ``candidates`` that names its table and matches it."""
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
