"""The states that a kill at any moment would leave: all states of a folder while a function runs."""

import contextlib
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

State = dict[str, bytes | None]  # path below the folder -> its bytes, None for a folder
CHANGES = {"open", "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}


class Watch:
    """The folder watched in this process, and whether its state is being read (that opens files too)."""

    folder: Path | None = None
    states: list[State] = []
    reading = hooked = False
    lock = threading.RLock()  # a training's log is written by another thread


def read_state(folder: Path) -> State:
    """Return the content of a folder."""
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
            for path in sorted(folder.rglob("*"))}  # fmt: skip


def restore(folder: Path, state: State) -> None:
    """Restore a folder to this state."""
    shutil.rmtree(folder)
    folder.mkdir()
    for name, content in state.items():
        if content is None:
            (folder / name).mkdir(parents=True)
        else:
            (folder / name).write_bytes(content)


def states_during(folder: Path, run: Callable[[], object]) -> list[State]:
    """Return the state of `folder` before each change that `run` makes, each combination of names and files once."""
    if not Watch.hooked:
        sys.addaudithook(_note)
        os.register_at_fork(after_in_child=_stop)
        Watch.hooked = True
    Watch.folder, Watch.states = folder, []
    try:
        run()
    finally:
        states = Watch.states
        _stop()
    found = {_shape(state): state for state in states}
    return list(found.values())


def _stop() -> None:
    Watch.folder = None


def _note(event: str, args: tuple) -> None:
    """Record the state of the watched folder; Python calls this before it opens, renames or removes a file."""
    folder = Watch.folder
    if folder is None or event not in CHANGES or isinstance(args[0], int):
        return
    if event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    if not Path(os.path.abspath(os.fsdecode(args[0]))).is_relative_to(folder):
        return
    with Watch.lock:
        if not Watch.reading:
            Watch.reading = True
            with contextlib.suppress(OSError):  # another thread removed a file meanwhile, and records that itself
                Watch.states.append(read_state(folder))
            Watch.reading = False


def _shape(state: State) -> tuple:
    """Return the names of the files and which are empty; random letters in names are replaced."""
    return tuple(sorted((re.sub(r"linklab-[a-z0-9_]{8}\.tmp", "linklab-*.tmp", name), content == b"")
                        for name, content in state.items()))  # fmt: skip
