"""The one place of the dashboard that reads: the store, and what is costly, kept while the file behind it does not change."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd
import streamlit as st
from cachetools import LRUCache, TTLCache
from numpy.typing import NDArray

from gfl_lab import naming
from gfl_lab.errors import InputError, StoreError
from gfl_lab.metrics.coco_records import Records
from gfl_lab.report import bimodal, calibration, difference_images, side_answer, variant_comparison
from gfl_lab.report import sides as side_rows
from gfl_lab.report.boxes import box_view
from gfl_lab.report.close_up import side_thumbnail
from gfl_lab.report.comparison import Comparison, compare
from gfl_lab.report.epoch_trend import EpochTrend, epoch_trends
from gfl_lab.report.ranking import Ranking, rank
from gfl_lab.report.side_list import SideFilter, side_list
from gfl_lab.report.variant_pair import VariantPair
from gfl_lab.results.rows import ExperimentRow, VariantRow
from gfl_lab.results.search import read_search_of, search_stamp
from gfl_lab.results.store import Stamp, Store, open_store, store_root

T = TypeVar("T")

INDEX_COLUMNS = ("image_id", "annotation_id", "category", "det_score")
IMAGE_SECONDS = 300.0
"""Images have no stamp: they are read again after so long."""
BIMODAL_SIDES = 40
THUMBNAIL = 168
"""px: width and height."""

_LIMITS = {
    "ranking": 16, "boxes": 16, "bimodal": 16, "edge counts": 64, "box rows": 64, "side list": 32, "thumbnail": 256, "reliability": 64, "sides": 32, "coincidence": 64,
    "comparison": 16, "comparable": 64, "comparisons": 64, "difference images": 32, "has sides": 64,
}  # fmt: skip
"""Kinds of values, and how many of each are kept."""


class Reader:
    """Reads one store for all sessions. Values are shared: pages must not change them. All methods raise StoreError."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store: Store = open_store(root)
        self._lock = threading.Lock()
        self._values: dict[str, LRUCache[Hashable, tuple[Hashable, Any]]] = {kind: LRUCache(limit) for kind, limit in _LIMITS.items()}
        self._images: TTLCache[tuple[str, int], NDArray[np.uint8]] = TTLCache(32, IMAGE_SECONDS)

    def _kept(self, kind: str, key: Hashable, stamp: Hashable, make: Callable[[], T]) -> T:
        """Return the value of ``make``; the one of the last call while ``stamp`` is the same."""
        with self._lock:
            held = self._values[kind].get(key)
        if held is not None and held[0] == stamp:
            return cast(T, held[1])
        value = make()
        with self._lock:
            self._values[kind][key] = (stamp, value)
        return value

    # --- searches ---

    def ranking(self, experiment: ExperimentRow) -> Ranking:
        """Return a search, ranked."""
        name, profile = experiment.name, experiment.profile
        trials = tuple((trial.id, trial.state, trial.epochs, tuple(sorted(trial.metrics.items()))) for trial in experiment.trials)
        stamp = (search_stamp(self.root, name, profile), experiment.question, trials)
        return self._kept("ranking", (name, profile), stamp, lambda: self._rank(name, profile))

    def _rank(self, name: str, profile: str) -> Ranking:
        try:
            ranking = rank(read_search_of(self.root, name, profile))
            assert len(ranking.dimensions) == len(ranking.keys)
            for _, row in ranking.rows:
                for key in ranking.keys:
                    naming.setting_text(row.settings[key])
        except StoreError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError) as error:
            raise StoreError(f"{naming.SEARCH} of {name} ({profile}) is damaged: {type(error).__name__} {error}") from None
        return ranking

    # --- ablations ---

    def comparisons(self, experiment: ExperimentRow) -> dict[str, Comparison]:
        """Return each variant's comparison with the baseline in AP, as the table has it, by the variant's name."""
        trials = [trial for variant in experiment.variants for trial in variant.done]
        stamp = tuple((trial.id, trial.seed, tuple(sorted(trial.metrics.items())), self.store.records_stamp(trial.id)) for trial in trials)
        failed = tuple(variant.name for variant in experiment.variants if variant.failed)

        def make() -> dict[str, Comparison]:
            return {each.variant: each for each in compare(experiment, self.store.resampled_or_none) if each.metric == "AP"}

        return self._kept("comparisons", (experiment.name, experiment.profile), (stamp, failed, repr(experiment.design)), make)

    # --- boxes ---

    def boxes(self, trial_id: str) -> pd.DataFrame:
        """Return every box of a trial: ``INDEX_COLUMNS``."""
        return self._of_distributions("boxes", trial_id, lambda: self._distributions(trial_id, INDEX_COLUMNS))

    def has_sides(self, variant: VariantRow, trial_id: str) -> bool:
        """Return True if the head of a trial gives distances or distributions of box sides: its boxes have locations then."""

        def make() -> bool:
            return bool((self._distributions(trial_id, ("level",))["level"] >= 0).any())

        return variant.is_own_detector or self._of_distributions("has sides", trial_id, make)

    def most_bimodal(self, trial_id: str) -> pd.DataFrame:
        """Return ``report.bimodal.most_bimodal`` of a trial."""

        def make() -> pd.DataFrame:
            return bimodal.most_bimodal(self.store.distributions(trial_id, bimodal.RANKING_INPUT), BIMODAL_SIDES)

        return self._of_distributions("bimodal", trial_id, make)

    def box_rows(self, trial_id: str, image_id: int) -> list[dict[str, Any]]:
        """Return the boxes of one image of a trial, all columns."""

        def make() -> list[dict[str, Any]]:
            frame = self.store.distributions(trial_id, image_id=image_id)
            return [] if frame is None else [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]

        return self._of_distributions("box rows", trial_id, make, image_id)

    def epoch_trends(self, trial_id: str, image_id: int, annotation_id: int) -> tuple[EpochTrend, ...]:
        """Return the sides of a box after each epoch; empty for a box that is not followed. Raises ValueError for damaged rows."""
        frame = self.store.history(trial_id, image_id, annotation_id)
        return () if frame is None else epoch_trends(frame)

    def image(self, trial_id: str, image_id: int) -> NDArray[np.uint8]:
        """Return a validation image: (height, width, 3) RGB."""
        with self._lock:
            held = self._images.get((trial_id, image_id))
        if held is None:
            held = self.store.image(trial_id, image_id)
            with self._lock:
                self._images[trial_id, image_id] = held
        return held

    # --- distributions in numbers, calibration ---

    def sides(self, trial_id: str) -> pd.DataFrame:
        """Return ``report.sides.sides`` of a trial."""
        return self._of_distributions("sides", trial_id, lambda: side_rows.sides(self.store.distributions(trial_id, side_rows.INPUT)))

    def edge_counts(self, trial_id: str) -> side_answer.EdgeCounts | None:
        """Return ``report.side_answer.edge_counts`` of a trial."""

        def make() -> side_answer.EdgeCounts | None:
            return side_answer.edge_counts(self.store.distributions(trial_id, side_answer.EDGE_INPUT))

        return self._of_distributions("edge counts", trial_id, make)

    def side_list(self, trial_id: str, order: str, only: SideFilter, other: str | None) -> pd.DataFrame:
        """Return ``report.side_list.side_list`` of a trial; ``other``: the trial that it may disagree with."""
        beside = None if other is None else self.sides(other)
        stamp = None if other is None else self.store.distributions_stamp(other)
        return self._of_distributions(
            "side list", trial_id, lambda: side_list(self.sides(trial_id), order, only, beside), (order, only, other, stamp)
        )

    def thumbnail(self, trial_id: str, image_id: int, annotation_id: int, side: str, colours: tuple[str, str]) -> str:
        """Return one side of a box with its distribution, drawn, as the address of a PNG that holds it. Raises ValueError, StopIteration.

        Args:
            colours: of the box and of the page, ``#rrggbb``.
        """

        def make() -> str:
            row = next(row for row in self.box_rows(trial_id, image_id) if row["annotation_id"] == annotation_id)
            picture, file = side_thumbnail(self.image(trial_id, image_id), box_view(row), side, THUMBNAIL, *colours), io.BytesIO()
            picture.save(file, "PNG")
            return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

        return self._of_distributions("thumbnail", trial_id, make, (image_id, annotation_id, side, colours))

    def coincidence(self, trial_id: str) -> side_rows.Coincidence:
        """Return ``report.sides.coincidence`` of a trial."""
        return self._of_distributions("coincidence", trial_id, lambda: side_rows.coincidence(self.sides(trial_id)))

    def reliability(self, trial_id: str) -> calibration.Reliability | None:
        """Return ``report.calibration.reliability`` of a finished trial; None while it has no records."""

        def make() -> calibration.Reliability | None:
            records = self.store.records(trial_id)
            return None if records is None else calibration.reliability(records)

        return self._kept("reliability", trial_id, self.store.records_stamp(trial_id), make)

    # --- two variants ---

    def not_comparable(self, pair: VariantPair) -> str:
        """Return why the variants of two experiments may not be compared, as a sentence; empty if they may."""
        key = (pair.names, *pair.trials.values())
        stamp = (
            self._stamps(pair.trials.values()),
            pair.experiment.data,
            pair.other.data,
            repr((pair.variant.settings, pair.reference.settings)),
        )
        return self._kept("comparable", key, stamp, lambda: pair.not_comparable(self.store.records))

    def comparison(self, pair: VariantPair, error_iou: float) -> list[variant_comparison.DifferenceRow]:
        """Return ``VariantPair.compare``."""
        context = pair.context(self.store.resampled_or_none)
        key, stamp = (pair.names, *pair.compared, error_iou), (self._stamps(pair.compared), repr(context))
        return self._kept("comparison", key, stamp, lambda: self._compare(pair, error_iou))

    def _compare(self, pair: VariantPair, error_iou: float) -> list[variant_comparison.DifferenceRow]:
        with st.spinner("Comparing image by image …"):
            try:
                return pair.compare(self.store, error_iou=error_iou)
            except StoreError:
                raise
            except InputError as error:
                raise StoreError(error.problems) from None

    def _stamps(self, pairs: Iterable[tuple[str | None, str | None]]) -> tuple[Stamp, ...]:
        return tuple(self.store.records_stamp(trial) for pair in pairs for trial in pair if trial is not None)

    def _records(self, pairs: tuple[tuple[str, str], ...]) -> list[tuple[Records, Records]]:
        found = []
        for pair in pairs:
            first, second = (self.store.records(trial) for trial in pair)
            if first is None or second is None:
                raise StoreError("a trial has no evaluation records")
            found.append((first, second))
        return found

    def difference_images(
        self, pairs: tuple[tuple[str, str], ...], group: str, name: str, iou: float, score: float
    ) -> list[difference_images.ImageDifference]:
        """Return the images of ``report.difference_images`` for a class or a type of error of pairs of trial ids."""

        def make() -> list[difference_images.ImageDifference]:
            records = self._records(pairs)
            if group == variant_comparison.CLASS:
                return difference_images.class_images(records, name, iou, score)
            return difference_images.error_images(records, name, iou)

        return self._kept("difference images", (pairs, group, name, iou, score), self._stamps(pairs), make)

    # --- shared ---

    def _of_distributions(self, kind: str, trial_id: str, make: Callable[[], T], part: Hashable = None) -> T:
        return self._kept(kind, (trial_id, part), self.store.distributions_stamp(trial_id), make)

    def _distributions(self, trial_id: str, columns: tuple[str, ...]) -> pd.DataFrame:
        frame = self.store.distributions(trial_id, columns)
        return pd.DataFrame(columns=list(columns)) if frame is None else frame


@st.cache_resource(show_spinner=False)
def _reader(root: str) -> Reader:
    return Reader(Path(root))


def reader() -> Reader:
    """Return the reader of the store at GFL_LAB_HOME, shared by all sessions."""
    return _reader(str(store_root()))
