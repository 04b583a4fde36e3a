"""``python dashboard [OPTIONS OF streamlit run]``: the app, served by a process that reads the pages' libraries beforehand.

`streamlit run` imports them at the first request of a browser, which then waits for seconds.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as app.py does

from streamlit.web import cli


def _import_ahead() -> None:
    import dashboard.experiments
    import dashboard.figures  # noqa: F401


if __name__ == "__main__":
    threading.Thread(target=_import_ahead, daemon=True).start()
    cli.main(["run", str(Path(__file__).with_name("app.py")), *sys.argv[1:]], prog_name="dashboard")
