"""Building an exchangeable part of the head, a quality or a box form, from its entry in the head's config."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

Part = TypeVar("Part")


def build_part(kind: str, known: Mapping[str, type[Part]], config: str | Mapping[str, Any]) -> Part:
    """Return the dataclass of ``known`` that ``config`` names, with the fields that it gives.

    Args:
        kind: the head's argument, for messages.
        config: a ``type``, or ``{"type": ..., field: value, ...}``.

    Raises:
        ValueError: no such type, or a field that it does not have.
    """
    given: dict[str, Any] = {"type": config} if isinstance(config, str) else dict(config)
    name: Any = given.pop("type", None)
    if name not in known:
        raise ValueError(f"{kind} is '{name}': it must be one of {', '.join(known)}")
    part = known[name]
    fields = [field.name for field in dataclasses.fields(part) if field.init]  # type: ignore[arg-type]  # each part is a dataclass
    if strange := sorted(given.keys() - set(fields)):
        raise ValueError(f"{kind} '{name}' has no {', '.join(strange)}; it has: {', '.join(fields) or 'no fields'}")
    return part(**given)
