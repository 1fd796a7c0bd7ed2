"""Copies of a training's checkpoints in a second folder, on a disk that outlives the machine (a mounted Drive)."""

from __future__ import annotations

import shutil
from pathlib import Path

from linklab import files
from linklab.cli import UserError, say
from linklab.manifest import staged_folder
from linklab.training import checkpoints


def prepare(folder: Path, *, force: bool, resume: str | None) -> None:
    """Raise a UserError unless copies may be written to `folder`; makes it where it is missing."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; --drive-dir needs a folder")
    if checkpoints.list_all(folder) and not force and resume is None:
        raise UserError(f"{folder}: already holds checkpoints of a training; continue it with --resume auto, replace "
                        f"them with --force or choose another --drive-dir")  # fmt: skip
    files.require_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files.remove_all_left_overs(folder)


def refuse_foreign(folder: Path, settings: dict, *, force: bool) -> None:
    """Raise a UserError for a checkpoint in `folder` that this script did not copy there, or another training's.

    With `force` those of another training are allowed if they are unchanged: `clear` removes them.
    """
    for path in checkpoints.list_all(folder):
        if path.is_symlink() or not (path / checkpoints.COMPLETE).is_file():
            raise UserError(f"{path}: {checkpoints.COMPLETE} is missing, so no training copied it here; it is never "
                            f"removed: choose another --drive-dir")  # fmt: skip
        if _is_of(path, settings):
            continue
        if not force:
            checkpoints.refuse_other_settings(path, settings)
        if not checkpoints.is_whole(path):
            raise UserError(f"{path}: was changed after it was copied; it is never removed, not even with --force: "
                            f"choose another --drive-dir")  # fmt: skip


def _is_of(path: Path, settings: dict) -> bool:
    """Say whether a checkpoint is one of the training with these settings."""
    try:
        return checkpoints.find_difference(path, settings) is None
    except UserError:  # no mark that can be read
        return False


def clear(folder: Path) -> None:
    """Remove the checkpoints of earlier trainings; `refuse_foreign` comes first."""
    for path in checkpoints.list_all(folder):
        files.remove_folder(path)


def mirror(local: Path, folder: Path) -> None:
    """Make this training's checkpoints in `folder` those in `local`: copy each complete one, remove its own others.

    A copy appears under its name only when every byte of it has been read back and hashed, and nothing is removed
    before that: whenever the machine vanishes, the last complete checkpoint is there. What another training or
    anybody else keeps there stays.
    """
    wanted = [path for path in checkpoints.list_all(local) if (path / checkpoints.COMPLETE).exists()]
    for path in wanted:
        _copy(path, folder / path.name)
    names = {path.name for path in wanted}
    settings = files.read_json(wanted[-1] / checkpoints.COMPLETE)["settings"] if wanted else {}
    for path in checkpoints.list_all(folder):
        if path.name not in names and _is_of(path, settings):
            files.remove_folder(path)


def fetch(folder: Path, local: Path, settings: dict) -> None:
    """Bring the checkpoints in `folder` back when a whole one there is later than every whole one in `local`."""
    found, torn = checkpoints.find_last_whole(folder)
    for path in torn:
        say(f"{path}: incomplete checkpoint, skipped")
    if found is None:
        return
    checkpoints.refuse_other_settings(found, settings)  # even when it is not needed: it would be removed later
    here, _ = checkpoints.find_last_whole(local)
    if here and checkpoints.steps_of(here) >= checkpoints.steps_of(found):
        return
    say(f"bringing {found.name} back from {folder}")
    for path in checkpoints.list_all(folder):
        if checkpoints.is_whole(path):  # the best one so far is needed too
            checkpoints.announce(local, checkpoints.steps_of(path))
            _copy(path, local / path.name)


def _copy(source: Path, target: Path) -> None:
    """Copy a whole checkpoint and verify the copy; one that is there already, with the same mark, stays."""
    mark = checkpoints.COMPLETE
    if target.exists():
        if (target / mark).exists() and (target / mark).read_bytes() == (source / mark).read_bytes():
            return
        settings = files.read_json(source / mark)["settings"]
        if not _is_of(target, settings) and checkpoints.steps_of(target) not in checkpoints.announced(target.parent):
            raise UserError(f"{target}: is not a checkpoint of this training; move it away or choose another folder")
        files.remove_folder(target)
    try:
        with staged_folder(target) as stage:
            shutil.copytree(source, stage, dirs_exist_ok=True)
            if not checkpoints.is_whole(stage):
                raise UserError(f"{target}: the copy differs from the original; check that disk; {source} is complete")
    except (OSError, shutil.Error) as error:
        raise UserError(f"{target.parent}: cannot copy {source.name} there ({str(error)[:200]}); {source} is complete: "
                        f"free some space, then run again with --resume auto") from error  # fmt: skip
