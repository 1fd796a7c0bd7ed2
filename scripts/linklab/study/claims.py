"""Locks that go with their process: whatever kills it, what it held is free again and nothing else is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from linklab.cli import UserError


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
    """Hold `path` for the length of the block; yields None at once when somebody else holds it, or waits for them.

    Yields the open file's number otherwise. A child that keeps that file open (`stages.call(hold=…)`) keeps the claim:
    a run whose worker was killed is not taken up before its training has ended.
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
