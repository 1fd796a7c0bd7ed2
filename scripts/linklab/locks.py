"""Locks that go with their process: whatever kills it, what it held is free again and nothing else is.

They are the system's file locks (flock, on Windows its own kind), so they hold between containers that share a disk,
where process numbers mean nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from linklab.aside import lock_beside
from linklab.cli import UserError, say

if TYPE_CHECKING:  # imported inside functions: outside the environment a script says in one line what is missing
    from filelock import FileLock

SUFFIX = ".lock"


def _acquire(lock: FileLock, what: str, wait_s: float) -> None:
    """Acquire a lock; a UserError when another process holds it for longer than `wait_s` seconds."""
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
    """Hold `path` for the length of the block; yields None at once when another process holds it, or waits for it.

    Yields the number of an open file otherwise. A child process that keeps it open (`pipeline.call`) keeps the claim
    when this process is killed: a run whose worker was killed is not taken up before its training has ended.
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
    """Hold `folder` for this process: two runs writing checkpoints to one place would ruin both.

    Waits for one that is just stopping. Raises a UserError when another process holds it for longer than `wait_s`.
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
    """Be the only process that writes the file or folder `out` for the length of the block.

    The lock is a file beside it (`inside`: in it), which is gone afterwards. Raises as `locked_folder` does.
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
        with contextlib.suppress(OSError):  # Windows keeps an open file; whoever waits looks whether its file is there
            os.unlink(path)
        lock.release()
