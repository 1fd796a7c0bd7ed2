"""The output folder of a training: who may write it, and how a new training replaces a finished one.

The first training runs in the folder itself. A later one runs in `.next` below it, and replaces the finished training
only when it is complete. `--resume auto` continues the one that was interrupted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from linklab import files, locks
from linklab.cli import UserError, say
from linklab.manifest import (
    MANIFEST,
    NEW,
    PLACING,
    READY,
    RESERVED,
    check_place,
    find_foreign,
    finish_replacing,
    list_content,
    replace_content,
)
from linklab.training import checkpoint_mirror, checkpoints

NEXT = ".next"  # subfolder in which a training runs that will replace the finished one
LOCK = locks.SUFFIX
CHECKPOINTS = "checkpoints"
LOGS = ("trainer_log.csv", "tensorboard")  # written during a training
COMMITTED = "committed"  # in `.next`: the hash of the manifest that replaces the old one
_HIDDEN = RESERVED | {LOCK, NEXT}


def work_folder(folder: Path) -> Path:
    """Return where a training for `folder` runs: in it, or in its `.next` if it holds a finished training."""
    return folder / NEXT if (folder / MANIFEST).exists() else folder


def check(folder: Path, *, script: str, force: bool, resume: str | None, reads: Iterable[str | None] = ()) -> None:
    """Raise a UserError if a training may not write to `folder`; same rule as `manifest.check_out_dir`."""
    check_place(folder, reads)
    if folder.is_dir():
        recover(folder)
        if foreign := _find_foreign(folder, script):
            raise UserError(f"{folder}: holds {foreign}; it is never replaced, not even with --force: move it away or "
                            f"choose another --out-dir")  # fmt: skip
        if list_content(folder, _HIDDEN) and not force and resume is None:
            raise UserError(
                f"{folder}: already holds a training; continue it with --resume auto or replace it with --force"
            )
    files.require_writable(folder)


def _find_foreign(folder: Path, script: str) -> str | None:
    """Return what in a training's folder is not an unchanged output of it, in the words of `manifest.find_foreign`."""
    found = find_foreign(folder, script, _HIDDEN | {CHECKPOINTS, *_unfinished_logs(folder)})
    for place in (folder, folder / NEXT):
        if found is None and os.path.lexists(place / CHECKPOINTS):
            if name := checkpoints.find_foreign(place / CHECKPOINTS):
                return f"'{(place / name).relative_to(folder)}', which {Path(script).name} did not write"
    return found


def _unfinished_logs(folder: Path) -> tuple[str, ...]:
    """Return the names of the log files if a training in `folder` has started and not finished, else ()."""
    begun = (folder / CHECKPOINTS / checkpoints.WRITTEN).exists()
    return LOGS if begun and not (folder / MANIFEST).exists() else ()


def recover(folder: Path) -> None:
    """Finish the replacement of a training's results that a kill interrupted, if there is one."""
    if any((folder / name).exists() for name in (READY, PLACING)) or (folder / NEXT / COMMITTED).exists():
        with locks.locked_folder(folder):
            _finish_replacing_training(folder)


@contextlib.contextmanager
def opened(
    folder: Path, *, script: str, force: bool, resume: str | None, reads: Iterable[str | None] = ()
) -> Iterator[Path]:
    """Lock `folder` for a training, `check` it again and yield where the training runs. Leaves no empty folder."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locks.locked_folder(folder):
            shutil.rmtree(folder / NEW, ignore_errors=True)
            for place in (folder, folder / NEXT):
                files.remove_all_left_overs(place)
                files.remove_all_left_overs(place / CHECKPOINTS)
            _finish_replacing_training(folder)
            check(folder, script=script, force=force, resume=resume, reads=reads)
            work = work_folder(folder)
            try:
                yield work
            finally:
                for place in {folder, work} if work.exists() else {folder}:
                    if not checkpoints.list_all(place / CHECKPOINTS):
                        _remove(place, *_unfinished_logs(place), CHECKPOINTS)
                if work != folder and work.exists() and not checkpoints.list_all(work / CHECKPOINTS):
                    files.remove_folder(work)
    finally:
        if made and not list_content(folder, {LOCK}):
            shutil.rmtree(folder, ignore_errors=True)


def choose_start(
    folder: Path, work: Path, *, force: bool, resume: str | None, drive: Path | None, fingerprint: dict, first: bool
) -> Path | None:
    """Return the checkpoint to continue from, None to start from the beginning; prepares the folders for that.

    Call it after all checks, so that a misspelt option deletes no checkpoint. With several processes only the `first`
    one changes the folders.
    """
    if drive and first:
        checkpoint_mirror.refuse_foreign(drive, fingerprint, force=force)
    if force and resume == "auto" and not _can_continue(folder, work, fingerprint):
        resume = None
    if resume == "auto" and first:
        _take_checkpoints_back(folder, work, fingerprint)
        if drive:
            checkpoint_mirror.fetch(drive, work / CHECKPOINTS, fingerprint)
    found = checkpoints.choose(work / CHECKPOINTS, resume, fingerprint, remove_incomplete=first)
    if drive and first and found:
        checkpoint_mirror.mirror(work / CHECKPOINTS, drive)  # finish a copy that a kill interrupted
    if found is None and first:
        _remove(work, *LOGS, CHECKPOINTS)  # left by an earlier training
        checkpoints.announce(work / CHECKPOINTS)
        if drive and force and resume is None:
            checkpoint_mirror.clear(drive)
    return found


def _can_continue(folder: Path, work: Path, fingerprint: dict) -> bool:
    """Say whether the last complete checkpoint belongs to a training with these settings."""
    old = [place / CHECKPOINTS for place in (work, folder) if checkpoints.list_all(place / CHECKPOINTS)]
    last = checkpoints.find_last_complete(old[0])[0] if old else None
    return last is not None and checkpoints.find_difference(last, fingerprint) is None


def _remove(folder: Path, *names: str) -> None:
    """Remove these files and folders from a folder, if they exist."""
    for name in names:
        path = folder / name
        files.remove_folder(path) if path.is_dir() else path.unlink(missing_ok=True)


def _take_checkpoints_back(folder: Path, work: Path, fingerprint: dict) -> None:
    """Move the checkpoints of a finished training to `work`, where it continues (some of its results are missing)."""
    if work == folder or checkpoints.list_all(work / CHECKPOINTS):
        return
    last, _ = checkpoints.find_last_complete(folder / CHECKPOINTS)
    if last:
        checkpoints.refuse_other_settings(last, fingerprint)
        work.mkdir(exist_ok=True)
        files.remove_folder(work / CHECKPOINTS)
        os.rename(folder / CHECKPOINTS, work / CHECKPOINTS)


@contextlib.contextmanager
def results(folder: Path, work: Path, *, script: str) -> Iterator[Path]:
    """Yield a temporary folder for the results of the training in `work`; at the end they replace those in `folder`.

    The TensorBoard log is in it already. Write the manifest to it last.
    """
    stage = folder / NEW
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    try:
        if (work / "tensorboard").is_dir():
            shutil.copytree(work / "tensorboard", stage / "tensorboard")
        yield stage
        os.chmod(stage, 0o777 & ~files.umask())
        for path in stage.rglob("*"):
            if path.is_file():
                os.chmod(path, 0o666 & ~files.umask())  # safetensors lets only the owner read its files
                files.fsync_file(path)
        if foreign := _find_foreign(folder, script):
            raise UserError(f"{folder}: holds {foreign}; the training is complete in {work / CHECKPOINTS}: move that "
                            f"away and run again with --resume auto")  # fmt: skip
        if work != folder:
            files.write_text(work / COMMITTED, files.sha256_file(stage / MANIFEST), force=True)
        replace_content(folder, stage)
        _finish_replacing_training(folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _finish_replacing_training(folder: Path) -> None:
    """Finish replacing a training: its results, then its checkpoints."""
    finish_replacing(folder)
    work, mark = folder / NEXT, folder / NEXT / COMMITTED
    if not mark.exists():
        return
    if mark.read_text() != files.sha256_file(folder / MANIFEST):  # killed before the results were replaced
        mark.unlink()
        return
    if (work / CHECKPOINTS).exists():
        files.remove_folder(folder / CHECKPOINTS)
        os.rename(work / CHECKPOINTS, folder / CHECKPOINTS)
    files.remove_folder(work)
    say(f"{folder}: the new training has replaced the old one")
