"""How MLflow is imported. Two threads of a driver do it: the mirror's, and that of Ray Tune, which looks for callbacks of MLflow's.

Its modules import each other in circles, which Python ends with an error (``_DeadlockError``) if two threads are in one. It reads
its settings when it is imported, so whichever thread is first must have set them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # By default a server that is down blocks each call for four minutes. No retry in the HTTP client: it also repeats requests whose
    # answer was lost, and so makes a run twice. The mirror looks at what the server has, then tries again.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

_turn = threading.Lock()


@contextlib.contextmanager
def importing_mlflow() -> Iterator[None]:
    """Let one thread at a time import modules of MLflow: telemetry off, short timeouts (unless the user set them)."""
    with _turn:
        for key, value in _ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        yield
