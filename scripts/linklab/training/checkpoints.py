"""Checkpoints: marked when complete, and continued only with the same data, model and settings."""

from __future__ import annotations

from pathlib import Path

from linklab import files
from linklab.aside import is_left_over
from linklab.cli import UserError, say
from linklab.manifest import describe_files, find_changed, is_entry

COMPLETE = "complete.json"  # in a checkpoint, written last: its files with their hashes, and the settings
WRITTEN = "written.json"  # beside the checkpoints, from the start of a training: the steps of those it began to write
PREFIX = "checkpoint-"


def announce(folder: Path, *steps: int) -> None:
    """Record that a training runs in `folder`, and the steps of the checkpoints it is about to write.

    So incomplete checkpoints after a kill, and logs without a checkpoint yet, are known as files of this training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / WRITTEN, {"steps": sorted(announced(folder) | set(steps))}, force=True)


def announced(folder: Path) -> set[int]:
    """Return the steps of the checkpoints that a training began to write in a folder."""
    try:
        return {step for step in files.read_json(folder / WRITTEN)["steps"] if isinstance(step, int)}
    except (UserError, KeyError, TypeError):
        return set()


def find_foreign(folder: Path) -> str | None:
    """Return a path among the checkpoints, relative to the parent folder, that no training created, or None.

    A checkpoint was created by a training if it is complete or was announced; the name checkpoint-500 is not enough.
    """
    if folder.is_symlink() or not folder.is_dir():
        return folder.name
    ours = announced(folder)
    for path in sorted(folder.iterdir()):
        if path.name == WRITTEN or is_left_over(path.name):
            continue
        checkpoint = path.name.removeprefix(PREFIX).isdigit() and path.name.startswith(PREFIX)
        if not checkpoint or path.is_symlink() or not path.is_dir():
            return f"{folder.name}/{path.name}"
        if steps_of(path) not in ours and not is_complete(path):
            return f"{folder.name}/{path.name}"
    return None


def mark_complete(folder: Path, settings: dict) -> None:
    """Write complete.json into a finished checkpoint."""
    made = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != COMPLETE]
    entries = describe_files(dict.fromkeys(made), base=folder)
    files.write_json(folder / COMPLETE, {"settings": settings, "files": entries}, force=True)


def is_complete(folder: Path) -> bool:
    """Say whether a checkpoint has its complete.json and no file changed since."""
    try:
        mark = files.read_json(folder / COMPLETE)
    except UserError:
        return False
    entries = mark.get("files")
    if "settings" not in mark or not isinstance(entries, list) or not all(map(is_entry, entries)):
        return False
    return find_changed(entries, folder) is None


def steps_of(folder: Path) -> int:
    """Return the step a checkpoint folder was written at: checkpoint-120 -> 120."""
    return int(folder.name.removeprefix(PREFIX))


def list_all(folder: Path) -> list[Path]:
    """Return the checkpoints below `folder`, complete or not, in the order of their steps."""
    found = [p for p in folder.glob(f"{PREFIX}*") if p.is_dir() and p.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=steps_of)


def find_last_complete(folder: Path) -> tuple[Path | None, list[Path]]:
    """Return the last complete checkpoint below `folder`, or None, and the incomplete ones after it."""
    incomplete: list[Path] = []
    for path in reversed(list_all(folder)):
        if is_complete(path):
            return path, incomplete
        incomplete.append(path)
    return None, incomplete


def refuse_other_settings(folder: Path, settings: dict) -> None:
    """Raise a UserError that names the first difference if a checkpoint has other data, model or settings."""
    if difference := find_difference(folder, settings):
        raise UserError(
            f"{folder}: was trained with {difference}; use the same settings, or start over with --force or "
            f"another --out-dir"
        )


def read_settings(folder: Path) -> dict:
    """Return the settings stored in a complete checkpoint, {} if there are none."""
    settings = files.read_json(folder / COMPLETE).get("settings")
    return settings if isinstance(settings, dict) else {}


def find_difference(folder: Path, settings: dict) -> str | None:
    """Return the first setting that differs between a checkpoint and `settings`, in words, or None."""
    made_from = read_settings(folder)
    for name in sorted(settings.keys() | made_from.keys()):
        if made_from.get(name) != settings.get(name):
            return f"{name} = {made_from.get(name)!r}, now it is {settings.get(name)!r}"
    return None


def choose(folder: Path, resume: str | None, settings: dict, *, remove_incomplete: bool = True) -> Path | None:
    """Return the checkpoint that `--resume` means, None to start at the beginning; removes incomplete ones."""
    if resume is None:
        return None
    if resume == "auto":
        found, incomplete = find_last_complete(folder)
        if incomplete and (foreign := find_foreign(folder)):
            raise UserError(f"{folder.parent / foreign}: not created by a training run; move it away")
        for path in incomplete if remove_incomplete else ():
            say(f"{path}: incomplete checkpoint (the machine stopped while it was written), skipped")
            files.remove_folder(path)
    else:
        found = Path(resume)
        if not is_complete(found):
            raise UserError(f"{found}: incomplete checkpoint; --resume auto finds the last complete one")
    if found:
        refuse_other_settings(found, settings)
        say(f"continuing from {found}")
    else:
        say("no checkpoint yet; starting at the beginning")
    return found
