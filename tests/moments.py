"""What a kill at any moment would leave: the states a folder goes through while something runs in this process."""

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

State = dict[str, bytes | None]  # path below the folder -> its bytes, None for a folder
CHANGES = {"open", "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}
_watching: list[tuple[Path, list[State]]] = []


def read_state(folder: Path) -> State:
    """Return all that a folder holds."""
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
            for path in sorted(folder.rglob("*"))}  # fmt: skip


def restore(folder: Path, state: State) -> None:
    """Let a folder hold what it held in this state, and nothing else."""
    shutil.rmtree(folder)
    folder.mkdir()
    for name, content in state.items():
        if content is None:
            (folder / name).mkdir(parents=True)
        else:
            (folder / name).write_bytes(content)


def states_during(folder: Path, run: Callable[[], object]) -> list[State]:
    """Return what `folder` holds before each change that `run` makes in it, each state of files and names once."""
    if not _hooked:
        sys.addaudithook(_note)
        os.register_at_fork(after_in_child=_watching.clear)
        _hooked.append(True)
    states: list[State] = []
    _watching.append((folder, states))
    try:
        run()
    finally:
        _watching.clear()
    found = {_shape(state): state for state in states}
    return list(found.values())


_hooked: list[bool] = []


def _note(event: str, args: tuple) -> None:
    """Note the state of the watched folder; Python calls this before it opens, renames or removes a file."""
    if not _watching or event not in CHANGES or isinstance(args[0], int):
        return
    if event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    folder, states = _watching[0]
    if Path(os.path.abspath(os.fsdecode(args[0]))).is_relative_to(folder):
        watching = _watching.pop()  # reading the state opens files, too
        states.append(read_state(folder))
        _watching.append(watching)


def _shape(state: State) -> tuple:
    """Return which files are there and which of them are empty; random letters in their names do not count."""
    return tuple(sorted((re.sub(r"linklab-[a-z0-9_]{8}\.tmp", "linklab-*.tmp", name), content == b"")
                        for name, content in state.items()))  # fmt: skip
