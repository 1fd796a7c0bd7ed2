"""Run scripts in sequence, each in its own process: finished ones are skipped, and stopping this process stops them."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from linklab import manifest

_ROOM = Path(__file__).parent
SCRIPTS = _ROOM / "scripts" if (_ROOM / "scripts").is_dir() else _ROOM.parent  # installed, or in a checkout
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes of a script that a signal stopped


@dataclasses.dataclass(frozen=True)
class Stage:
    """One script, its arguments, and the manifest that shows it is finished."""

    name: str
    shows: str
    script: str
    words: list[str]
    manifest: Path


def stale_reason(stage: Stage) -> str | None:
    """Return why a stage must run, or None if its manifest shows that it is finished."""
    return manifest.stale_reason(stage.manifest, script=stage.script, argv=stage.words)


def command_of(stage: Stage) -> list[str]:
    """Return the script and words that run a stage, with --force if it ran before."""
    # Only a finished stage needs --force; an interrupted training is continued, not replaced.
    force = ["--force"] if stage.manifest.exists() else []
    return [os.path.relpath(SCRIPTS / stage.script), *stage.words, *force]


def call(
    command: list[str],
    *,
    log: IO[str] | None = None,
    hold: Sequence[int] = (),
    watch: Callable[[], bool] | None = None,
    every_s: float = 1.0,
) -> int:
    """Run a command, wait until it ends, and return its exit code; Ctrl-C and SIGTERM are passed on to it.

    If this process is killed, the command gets SIGTERM (Linux), so that no training continues unnoticed. Its output
    goes to `log` instead of stderr. `hold` are open files that it keeps open, and so locked, until it ends. `watch` is
    called every `every_s` seconds; once it returns True, the command gets SIGTERM.
    """
    out: dict[str, Any] = {"stdout": log, "stderr": log} if log else {"stdout": sys.stderr}
    end = _end_with(os.getpid())
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=end, pass_fds=tuple(hold), **out)
    before = signal.signal(signal.SIGTERM, lambda number, frame: child.send_signal(number))
    asked_to_stop = False
    try:
        while True:
            try:
                code = child.wait(every_s if watch else None)
                return code if code >= 0 else 128 - code
            except subprocess.TimeoutExpired:
                if watch and not asked_to_stop and watch():
                    asked_to_stop = True
                    child.terminate()
            except KeyboardInterrupt:
                continue  # the terminal has sent Ctrl-C to the child too; it is writing its checkpoint
    finally:
        signal.signal(signal.SIGTERM, before)
        if child.poll() is None:  # `watch` raised an error
            child.terminate()
            child.wait()


def _end_with(parent: int) -> Callable[[], None]:
    """Return a function that a new process calls first: the kernel then stops it when its parent ends."""
    if not sys.platform.startswith("linux"):
        return lambda: None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, linux/prctl.h
        if os.getppid() != parent:  # the parent ended before the call
            os._exit(128 + signal.SIGTERM)

    return ask
