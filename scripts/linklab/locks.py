"""Locks that go with their process: whatever kills it, what it held is free again and nothing else is."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from linklab.cli import UserError, say


def _flock(handle: int, *, wait: bool) -> bool:
    try:
        import fcntl
    except ImportError:
        raise UserError("this system has no file locks (fcntl); run studies on Linux, macOS or WSL") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def claim(path: Path, *, wait: bool = False) -> Iterator[int | None]:
    """Hold `path` for the length of the block; yields None at once when another process holds it, or waits for it.

    Yields the open file's number otherwise. A child that keeps that file open keeps the claim, see `pipeline.call`: a
    run whose worker was killed is not taken up before its training has ended.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield handle if _flock(handle, wait=wait) else None
    finally:
        os.close(handle)


def is_free(path: Path) -> bool:
    """Say whether nobody holds `path`."""
    if not path.exists():
        return True
    with claim(path) as handle:
        return handle is not None


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold `path` for the length of the block, after waiting for whoever holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _flock(handle, wait=True)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked_folder(folder: str | os.PathLike, *, wait_s: float = 60.0) -> Iterator[None]:
    """Hold `folder` for this process: two runs writing checkpoints to one place would ruin both.

    Waits for one that is just stopping. Raises a UserError when another process holds it for longer than `wait_s`. The
    lock goes with its process, however that ends. A no-op where the system has no file locks (Windows).
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path = Path(folder) / ".lock"
    with open(path, "a+") as handle:
        deadline = time.monotonic() + wait_s
        said = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise UserError(f"{folder}: another run is writing here; wait for it or stop it first") from error
                if not said:
                    say(f"{folder}: another run is writing here; waiting up to {wait_s:.0f} s for it to stop")
                    said = True
                time.sleep(0.5)
        yield
