"""Locks that the system releases when their process ends, however it ends.

They are file locks (flock, or the Windows equivalent), so they also work between containers that share a disk, where
process numbers mean nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from linklab.aside import lock_beside
from linklab.cli import UserError, say

if TYPE_CHECKING:  # imported inside functions: without the package a script still says in one line what is missing
    from filelock import FileLock

SUFFIX = ".lock"


def _acquire(lock: FileLock, what: str, wait_s: float) -> None:
    """Acquire a lock; raises a UserError if another process still holds it after `wait_s` seconds."""
    from filelock import Timeout

    try:
        lock.acquire(timeout=0)
        return
    except Timeout:
        if wait_s > 0:
            say(f"{what}: another run is writing here; waiting up to {wait_s:.0f} s for it to stop")
    try:
        lock.acquire(timeout=wait_s, poll_interval=0.2)
    except Timeout:
        raise UserError(f"{what}: another run is writing here; wait for it or stop it first") from None


@contextlib.contextmanager
def claim(path: Path, *, wait: bool = False) -> Iterator[int | None]:
    """Hold the lock file `path` during the block, and yield its open file number.

    If another process holds it: yield None at once, or with `wait` wait for it. A child process that keeps the file
    open (`pipeline.call`) keeps the lock if this process is killed: no other worker takes a run that still trains.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    opened: list[int] = []
    lock = FileLock(path, on_acquired=opened.append)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield None
        return
    handle = os.dup(opened[-1])  # filelock closes its own in a forked child
    try:
        yield handle
    finally:
        lock.release()
        os.close(handle)


def is_free(path: Path) -> bool:
    """Say whether no process holds `path`."""
    if not path.exists():
        return True
    with claim(path) as handle:
        return handle is not None


@contextlib.contextmanager
def locked_folder(folder: str | os.PathLike, *, wait_s: float = 60.0) -> Iterator[None]:
    """Hold a lock on `folder` during the block: two runs that write checkpoints to one folder would ruin both.

    Waits for a run that is stopping. Raises a UserError if another process still holds it after `wait_s` seconds.
    """
    from filelock import FileLock

    lock = FileLock(Path(folder) / SUFFIX)
    _acquire(lock, str(folder), wait_s)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def only_writer(out: Path, *, wait_s: float = 10.0, inside: bool = False) -> Iterator[None]:
    """Be the only process that writes the file or folder `out` during the block.

    The lock is a file beside `out` (`inside`: in it), removed afterwards. Raises the same error as `locked_folder`.
    """
    from filelock import FileLock

    path = out / f".linklab{SUFFIX}" if inside else lock_beside(out)
    lock = FileLock(path)
    try:
        _acquire(lock, str(out), wait_s)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot write here ({(error.strerror or str(error)).lower()})") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows cannot remove an open file; waiting processes check that it exists
            os.unlink(path)
        lock.release()
