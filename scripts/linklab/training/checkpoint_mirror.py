"""Copies of a training's checkpoints in a second folder, on a disk that survives the machine (a mounted Drive)."""

from __future__ import annotations

import shutil
from pathlib import Path

from linklab import files
from linklab.cli import UserError, say
from linklab.manifest import staged_folder
from linklab.training import checkpoints


def prepare(folder: Path, *, force: bool, resume: str | None) -> None:
    """Raise a UserError unless copies may be written to `folder`; creates it if it is missing."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; --drive-dir needs a folder")
    if checkpoints.list_all(folder) and not force and resume is None:
        raise UserError(f"{folder}: already holds checkpoints of a training; continue it with --resume auto, replace "
                        f"them with --force or choose another --drive-dir")  # fmt: skip
    files.require_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files.remove_all_left_overs(folder, checkpoints.PREFIX)  # other scripts may use this folder, too


def refuse_foreign(folder: Path, settings: dict, *, force: bool) -> None:
    """Raise a UserError if `folder` holds a checkpoint that this script did not copy, or one of another training.

    With `force`, unchanged checkpoints of another training are allowed: `clear` removes them.
    """
    for path in checkpoints.list_all(folder):
        if path.is_symlink() or not (path / checkpoints.COMPLETE).is_file():
            raise UserError(f"{path}: {checkpoints.COMPLETE} is missing, so no training copied it here; it is never "
                            f"removed: choose another --drive-dir")  # fmt: skip
        if _is_of(path, settings):
            continue
        if not force:
            checkpoints.refuse_other_settings(path, settings)
        if not checkpoints.is_complete(path):
            raise UserError(f"{path}: was changed after it was copied; it is never removed, not even with --force: "
                            f"choose another --drive-dir")  # fmt: skip


def _is_of(path: Path, settings: dict) -> bool:
    """Say whether a checkpoint belongs to the training with these settings."""
    try:
        return checkpoints.find_difference(path, settings) is None
    except UserError:  # no readable complete.json
        return False


def clear(folder: Path) -> None:
    """Remove the checkpoints of earlier trainings; call `refuse_foreign` first."""
    for path in checkpoints.list_all(folder):
        files.remove_folder(path)


def mirror(local: Path, folder: Path) -> None:
    """Copy each complete checkpoint from `local` to `folder`, then remove this training's other checkpoints there.

    A copy gets its name only after every byte has been read back and hashed, and nothing is removed before: whenever
    the machine stops, the last complete checkpoint is there. Files of other trainings or other people stay.
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
    """Copy the checkpoints in `folder` back to `local` if the last complete one there is later than in `local`."""
    found, incomplete = checkpoints.find_last_complete(folder)
    for path in incomplete:
        say(f"{path}: incomplete checkpoint, skipped")
    if found is None:
        return
    checkpoints.refuse_other_settings(found, settings)  # even if it is not needed: it would be removed later
    here, _ = checkpoints.find_last_complete(local)
    if here and checkpoints.steps_of(here) >= checkpoints.steps_of(found):
        return
    say(f"copying {found.name} back from {folder}")
    for path in checkpoints.list_all(folder):
        if checkpoints.is_complete(path):  # the best one so far is needed too
            checkpoints.announce(local, checkpoints.steps_of(path))
            _copy(path, local / path.name)


def _copy(source: Path, target: Path) -> None:
    """Copy a complete checkpoint and verify the copy; does nothing if the same checkpoint is there already."""
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
            if not checkpoints.is_complete(stage):
                raise UserError(f"{target}: the copy differs from {source}, which is complete; check the disk")
    except (OSError, shutil.Error) as error:
        raise UserError(f"{target.parent}: cannot copy {source.name} there ({str(error)[:200]}); {source} is complete: "
                        f"free some space, then run again with --resume auto") from error  # fmt: skip
