"""What was found wrong with a notebook, and the changes that fix it."""

from __future__ import annotations

from typing import NamedTuple

from linklab.notebooks.json_text import Change, Path


class Finding(NamedTuple):
    """One problem of `key` in the object at `path` (without `key`: of that object), in words, with its fix.

    `fix` completes a sentence ("'metadata' is not allowed: removed"). `changes` is empty if a fix would lose something.
    """

    path: Path
    key: str | None
    problem: str
    fix: str
    changes: tuple[Change, ...]


def holds_nothing(value: object) -> bool:
    """Return whether a value holds no information: null, "", [], {}, or only such values inside."""
    if isinstance(value, dict):
        return all(holds_nothing(part) for part in value.values())
    if isinstance(value, list):
        return all(holds_nothing(part) for part in value)
    return value is None or value == ""
