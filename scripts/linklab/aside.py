"""Names of temporary files and folders: new content is written "aside", then renamed. Standard library only."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path

_LEFT_OVER = re.compile(r"\.(.+)\.linklab-(?:[a-z0-9_]{8}\.tmp|lock)", re.DOTALL)  # of tempfile, `lock_beside`


def aside_prefix(out: Path) -> str:
    """Return the name prefix of temporary files and folders that will replace `out`."""
    return f".{out.name}.linklab-"


def lock_beside(out: Path) -> Path:
    """Return the lock file of `out`; its writer removes it at the end, unless the writer is killed."""
    return out.parent / f"{aside_prefix(out)}lock"


def is_left_over(name: str) -> bool:
    """Say whether this is the name of a temporary file or folder, which a killed run may have left."""
    return _LEFT_OVER.fullmatch(name) is not None


def all_left_overs(folder: Path) -> dict[Path, Path]:
    """Return {temporary file or folder in `folder`: the output it belongs to}; killed runs may have left them."""
    found = {path: _LEFT_OVER.fullmatch(path.name) for path in folder.iterdir()} if folder.is_dir() else {}
    return {path: folder / match[1] for path, match in found.items() if match}


def left_overs(out: Path) -> Iterator[Path]:
    """Yield what killed runs left beside `out`; never a user's own file such as `.out.backup.tmp`."""
    yield from (path for path in out.parent.glob(f"{glob.escape(aside_prefix(out))}*.tmp") if is_left_over(path.name))
