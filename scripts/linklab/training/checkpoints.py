"""Checkpoints that are either whole or not there, and that are continued only with what they were made from."""

from __future__ import annotations

import shutil
from pathlib import Path

from linklab import files
from linklab.cli import UserError, say
from linklab.manifest import describe_files, find_changed

COMPLETE = "complete.json"  # written last: the files of the checkpoint with their hashes, and the settings
PREFIX = "checkpoint-"


def mark_complete(folder: Path, settings: dict) -> None:
    """Write the mark of a whole checkpoint."""
    made = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != COMPLETE]
    entries = describe_files(dict.fromkeys(made), base=folder)
    files.write_json(folder / COMPLETE, {"settings": settings, "files": entries}, force=True)


def is_whole(folder: Path) -> bool:
    """Say whether a checkpoint's mark is there and every file has the bytes it names."""
    try:
        mark = files.read_json(folder / COMPLETE)
    except UserError:
        return False
    return {"settings", "files"} <= mark.keys() and find_changed(mark["files"], folder) is None


def steps_of(folder: Path) -> int:
    """Return the step a checkpoint folder was written at: checkpoint-120 -> 120."""
    return int(folder.name.removeprefix(PREFIX))


def list_all(folder: Path) -> list[Path]:
    """Return the checkpoints below `folder`, whole or not, in the order of their steps."""
    found = [p for p in folder.glob(f"{PREFIX}*") if p.is_dir() and p.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=steps_of)


def find_last_whole(folder: Path) -> tuple[Path | None, list[Path]]:
    """Return the newest whole checkpoint below `folder`, or None, and the torn ones that are newer."""
    torn = []
    for path in reversed(list_all(folder)):
        if is_whole(path):
            return path, torn
        torn.append(path)
    return None, torn


def refuse_other_settings(folder: Path, settings: dict) -> None:
    """Raise a UserError naming the first difference when a checkpoint was made from other data, model or settings."""
    made_from = files.read_json(folder / COMPLETE)["settings"]
    for name in sorted(settings.keys() | made_from.keys()):
        if made_from.get(name) != settings.get(name):
            raise UserError(
                f"{folder}: was made with {name} = {made_from.get(name)!r}, and now it is {settings.get(name)!r}; "
                f"go back to that, or start afresh with --force or another --out-dir"
            )


def choose(folder: Path, resume: str | None, settings: dict) -> Path | None:
    """Return the checkpoint `--resume` means, None to start at the beginning; remove torn ones."""
    if resume is None:
        return None
    if resume == "auto":
        found, torn = find_last_whole(folder)
        for path in torn:
            say(f"{path}: not whole (the machine stopped while it was written); left out")
            shutil.rmtree(path)
    else:
        found = Path(resume)
        if not is_whole(found):
            raise UserError(f"{found}: no whole checkpoint; --resume auto finds the last whole one")
    if found:
        refuse_other_settings(found, settings)
        say(f"continuing from {found}")
    else:
        say("no checkpoint yet; starting at the beginning")
    return found
