"""Names of what is written aside before it takes the place of a file or folder; the standard library alone."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path


def aside_prefix(out: Path) -> str:
    """Return what the name of a file or folder begins with that is written aside, to take the place of `out` later."""
    return f".{out.name}.linklab-"


def left_overs(out: Path) -> Iterator[Path]:
    """Yield what killed runs have written aside for `out`; a person's `.out.backup.tmp` has another name."""
    made_by_us = re.compile(re.escape(aside_prefix(out)) + r"[a-z0-9_]{8}\.tmp")  # as tempfile ends it
    yield from (path for path in out.parent.glob(f"{glob.escape(aside_prefix(out))}*.tmp")
                if made_by_us.fullmatch(path.name))  # fmt: skip
