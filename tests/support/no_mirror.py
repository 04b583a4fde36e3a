"""A run without MLflow, for tests whose claim the mirror is not."""

from __future__ import annotations


class NoMirror:
    """In the place of `session.start_mirror` and of what it returns."""

    def __init__(self, *_: object) -> None:
        pass

    def finish(self, _timeout: float = 0) -> bool:
        return True
