"""The documents as a site: it builds without a warning and without a network, and holds every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_every_document_is_a_page_and_in_the_navigation(site: Path) -> None:
    documents = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert all((site / name).with_suffix(".html").exists() for name in documents) and not list(site.rglob("*.py"))
    listed = re.findall(r"[\w-]+\.md", str(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert {name for name in documents if "/" not in name} == set(listed) and len(listed) == len(set(listed))


def test_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=[\"']?(https?:[^\"' >]*)", text) + re.findall(
            r"url\([\"']?(https?:[^)]*)", text
        )
        assert not fetched, path


def test_links_out_of_the_documents_become_names(site: Path) -> None:
    text = (site / "chaos.html").read_text(encoding="utf-8")
    assert "<code>benchmarks/results/chaos_" in text and 'href="../benchmarks' not in text
    assert not [path for path in site.rglob("*.html") if 'href="../../' in path.read_text(encoding="utf-8")]
