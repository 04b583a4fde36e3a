"""The pages, in the order of the navigation. A page is an entry here, its file in ``views``, and its row in docs/dashboard.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

VIEWS = Path(__file__).with_name("views")


@dataclass(frozen=True)
class PageEntry:
    """One page.

    Attributes:
        name: of its file in ``views`` and of its address. title: in the navigation. icon: of Streamlit's Material icons.
        heading: part of its first heading; empty where that is the experiment's question.
        of_experiment: it shows the experiment that is chosen above the page.
    """

    name: str
    title: str
    icon: str
    heading: str
    of_experiment: bool = True

    @property
    def file(self) -> Path:
        """The file of the page."""
        return VIEWS / f"{self.name}.py"


OVERVIEW = PageEntry("overview", "Overview", ":material/grid_view:", "Experiments", of_experiment=False)
MOVED = ("localisation",)
"""Addresses of earlier versions. Each has a file in ``views`` that leads to the page of today."""
PAGES: tuple[PageEntry, ...] = (
    OVERVIEW,
    PageEntry("table", "Table", ":material/table_rows:", ""),
    PageEntry("curves", "Curves", ":material/show_chart:", "Training curves"),
    PageEntry("boxes", "Boxes", ":material/stacked_bar_chart:", "Learned box distributions"),
    PageEntry("calibration", "Calibration", ":material/my_location:", "Calibration and distributions in numbers"),
    PageEntry("compare", "Compare", ":material/compare_arrows:", "Two variants side by side"),
    PageEntry("trials", "Trials", ":material/list_alt:", "Trials and failures"),
    PageEntry("guide", "Guide", ":material/menu_book:", "How to read this", of_experiment=False),
)
