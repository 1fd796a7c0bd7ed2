"""Names of what is written aside before it takes the place of a file or folder; the standard library alone."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path

_LEFT_OVER = re.compile(r"\.(.+)\.linklab-(?:[a-z0-9_]{8}\.tmp|lock)", re.DOTALL)  # as tempfile ends it; `lock_beside`


def aside_prefix(out: Path) -> str:
    """Return what the name of a file or folder begins with that is written aside, to take the place of `out` later."""
    return f".{out.name}.linklab-"


def lock_beside(out: Path) -> Path:
    """Return the file that whoever writes `out` locks; it is gone with the writer, unless that is killed."""
    return out.parent / f"{aside_prefix(out)}lock"


def is_left_over(name: str) -> bool:
    """Say whether a killed run may have left a file or folder of this name beside what it wrote."""
    return _LEFT_OVER.fullmatch(name) is not None


def all_left_overs(folder: Path) -> dict[Path, Path]:
    """Return what killed runs may have left in a folder, each with the file or folder it was written beside."""
    found = {path: _LEFT_OVER.fullmatch(path.name) for path in folder.iterdir()} if folder.is_dir() else {}
    return {path: folder / match[1] for path, match in found.items() if match}


def left_overs(out: Path) -> Iterator[Path]:
    """Yield what killed runs have written aside for `out`; a person's `.out.backup.tmp` has another name."""
    yield from (path for path in out.parent.glob(f"{glob.escape(aside_prefix(out))}*.tmp") if is_left_over(path.name))
