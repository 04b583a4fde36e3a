"""Published rows and the variants that can produce them, matched by settings. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gfl_lab.records.plan import Reference
from gfl_lab.spec import cfg_options
from gfl_lab.spec.choices import OWN, ROLES
from gfl_lab.spec.file_models import Profile, PublishedRow, PublishedTable
from gfl_lab.spec.files import resolve_settings
from gfl_lab.spec.needs import completed, needs_of, without_needs
from gfl_lab.spec.settings import Settings, inactive
from gfl_lab.spec.trial import DataSpec
from gfl_lab.wording import first_of

COCO_VALIDATION = "coco_minival"
"""Published split that is COCO 2017's validation images, the ones that trials on COCO are evaluated on."""


def matching_row(settings: Settings, table: PublishedTable) -> PublishedRow | None:
    """Return the row of ``table`` with the settings of a variant; the most specific of several; None if there is none."""
    matches = [row for row in table.rows if not row.why_not and _is_row(settings, row)]
    return max(matches, key=lambda row: len(row.settings), default=None)


def _is_row(settings: Settings, row: PublishedRow) -> bool:
    """Return True if a variant has the detector of a row and all settings that the row states.

    For an mmdet detector, the changes of its model must be exactly the row's: each change makes another detector.
    """
    stated = cfg_options.spread(row.settings)
    if stated.get("detector", OWN) != settings.detector:
        return False
    of_model = settings.cfg_options.keys() - set(cfg_options.of_recipe(settings.cfg_options))
    if settings.detector != OWN and not {f"{cfg_options.PREFIX}{path}" for path in of_model} <= stated.keys():
        return False
    return all(_agrees(settings, key, value) for key, value in stated.items())


def _agrees(settings: Settings, key: str, value: Any) -> bool:
    if key in ROLES:
        needed = next((need.settings for need in needs_of(settings) if need.role == key), None)
        return needed is not None and all(_agrees(needed, own, wanted) for own, wanted in value.items())
    if cfg_options.is_option(key):
        return key.removeprefix(cfg_options.PREFIX) in settings.cfg_options and cfg_options.setting_value(settings, key) == value
    values = settings.model_dump(mode="json")
    return key in values and bool(values[key] == value)


def differences(settings: Settings, table: PublishedTable, row: PublishedRow) -> list[str]:
    """Return the names of the settings that differ from ``row``: its own over its table's over the defaults, which are the paper's.

    A setting that is inactive on either side is left out: there the setting that makes it inactive differs, or nothing does.
    """
    published = completed(resolve_settings(table.settings, row.settings), lambda own: resolve_settings(without_needs(table.settings), own))
    return list(_different(settings, published))


def _different(ours: Settings, theirs: Settings) -> Iterator[str]:
    idle = inactive(ours).keys() | inactive(theirs).keys()
    for key in Settings.model_fields:
        mine, published = getattr(ours, key), getattr(theirs, key)
        if key in idle or mine == published:
            continue
        if key == "cfg_options":
            yield from (
                f"{cfg_options.PREFIX}{path}" for path in sorted(mine.keys() | published.keys()) if mine.get(path) != published.get(path)
            )
        elif key in ROLES and mine and published:
            yield from (f"{key}.{own}" for own in _different(*(Settings(**_settings_of(given)) for given in (mine, published))))
        else:
            yield key


def _settings_of(need: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in the description of a needed trial, without its seed and its data."""
    return {key: value for key, value in need.items() if key in Settings.model_fields}


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
        reasons.append(f"other settings than published (profile {profile.name}): {first_of(different, 4)}")
    reasons += [text for text in (published.differs, row.differs) if text]
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
