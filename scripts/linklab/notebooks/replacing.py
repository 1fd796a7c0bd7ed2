"""Replace a file's content in one step, with only the standard library, and remove temporary files of killed runs.

`linklab.files` is not used: it needs the package filelock and leaves a lock file; a hook must do neither.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from linklab.aside import aside_prefix, left_overs

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed
    fcntl = None  # type: ignore[assignment]


def replace_bytes(path: Path, data: bytes) -> None:
    """Replace a file's content: even if this process is killed, the file holds the old or the new bytes, never a part.

    The bytes are first written to a file beside it; that file is locked until it replaces the old one.
    """
    remove_left_overs(path)
    number, name = tempfile.mkstemp(prefix=aside_prefix(path), suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as handle:
            _lock(number)
            handle.write(data)
            handle.flush()
            os.fsync(number)
            os.chmod(name, path.stat().st_mode & 0o7777)
            if fcntl is not None:
                os.replace(name, path)
        if fcntl is None:  # Windows does not rename an open file
            os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def remove_left_overs(path: Path) -> None:
    """Remove the temporary files of killed runs beside `path`: only exact names, and only if no process holds them."""
    for left in left_overs(path):
        if left.is_file() and not left.is_symlink():
            with contextlib.suppress(OSError):  # locked by a running process
                _remove_unheld(left)


def _remove_unheld(path: Path) -> None:
    with open(path, "rb") as handle:
        _lock(handle.fileno())
        if fcntl is not None:
            path.unlink()
            return
    path.unlink()


def _lock(number: int) -> None:
    """Lock an open file for this process; raises OSError if another process holds it."""
    if fcntl is not None:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
