"""For the site: links that lead out of docs/ have no page there and become the name of the file."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """mkdocs calls this with each page before it is rendered."""
    folder = posixpath.dirname(page.file.src_uri)

    def local(match: re.Match[str]) -> str:
        text, target, _anchor = match.groups()
        if "://" in target:
            return match[0]
        place = posixpath.normpath(posixpath.join(folder, target))
        if not place.startswith("../"):
            return match[0]
        name = place.removeprefix("../")
        return f"`{name}`" if text.strip("`") in (name, posixpath.basename(name)) else f"{text} (`{name}`)"

    return _LINK.sub(local, markdown)
