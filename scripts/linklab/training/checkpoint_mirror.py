"""Copies of a training's checkpoints in a second folder, on a disk that outlives the machine (a mounted Drive)."""

from __future__ import annotations

import shutil
from pathlib import Path

from linklab import files
from linklab.cli import UserError, say
from linklab.manifest import staged_folder
from linklab.training import checkpoints


def prepare(folder: Path, *, force: bool, resume: str | None) -> None:
    """Raise a UserError unless copies may be written to `folder`; with force remove those of an earlier training."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; --drive-dir needs a folder")
    there = checkpoints.list_all(folder)
    if there and not force and resume is None:
        raise UserError(f"{folder}: holds checkpoints of a training already; continue it with --resume auto, replace "
                        f"them with --force or choose another --drive-dir")  # fmt: skip
    files.require_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in [*folder.glob(f".{checkpoints.PREFIX}*.tmp"), *(there if force else [])]:  # and what a kill left
        shutil.rmtree(path)


def mirror(local: Path, folder: Path) -> None:
    """Make the checkpoints in `folder` those in `local`: copy each whole one that lacks there, remove the others.

    A copy appears under its name only when every byte of it has been read back and hashed, and nothing is removed
    before that: whenever the machine vanishes, the last whole checkpoint is there.
    """
    wanted = [path for path in checkpoints.list_all(local) if (path / checkpoints.COMPLETE).exists()]
    for path in wanted:
        _copy(path, folder / path.name)
    names = {path.name for path in wanted}
    for path in checkpoints.list_all(folder):
        if path.name not in names:
            shutil.rmtree(path)


def fetch(folder: Path, local: Path, settings: dict) -> None:
    """Bring the checkpoints in `folder` back when a whole one there is later than every whole one in `local`."""
    found, torn = checkpoints.find_last_whole(folder)
    for path in torn:
        say(f"{path}: not whole; left out")
    if found is None:
        return
    checkpoints.refuse_other_settings(found, settings)  # even when it is not needed: it would be removed later
    here, _ = checkpoints.find_last_whole(local)
    if here and checkpoints.steps_of(here) >= checkpoints.steps_of(found):
        return
    say(f"bringing {found.name} back from {folder}")
    for path in checkpoints.list_all(folder):
        if checkpoints.is_whole(path):  # the best one so far is needed too
            _copy(path, local / path.name)


def _copy(source: Path, target: Path) -> None:
    """Copy a whole checkpoint and verify the copy; one that is there already, with the same mark, stays."""
    mark = checkpoints.COMPLETE
    if target.exists():
        if (target / mark).exists() and (target / mark).read_bytes() == (source / mark).read_bytes():
            return
        shutil.rmtree(target)
    try:
        with staged_folder(target) as stage:
            shutil.copytree(source, stage, dirs_exist_ok=True)
            if not checkpoints.is_whole(stage):
                raise UserError(f"{target}: the copy is not what was copied; is that disk sound? {source} is whole")
    except (OSError, shutil.Error) as error:
        raise UserError(f"{target.parent}: cannot copy {source.name} there ({str(error)[:200]}); {source} is whole: "
                        f"free some space, then run again with --resume auto") from error  # fmt: skip
