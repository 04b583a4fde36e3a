"""Text in HTML."""

from __future__ import annotations

import html

from gfl_lab.report.formatting import one_line


def escaped(text: str) -> str:
    """Return any text on one line of HTML, as it is, in an element or an attribute."""
    return html.escape(one_line(text), quote=True)
