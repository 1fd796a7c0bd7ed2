"""The folder of a study: its name is a hash of the settings that decide its results, so other settings get another."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from linklab import files
from linklab.cli import UserError, say
from linklab.locks import claim
from linklab.manifest import MANIFEST, check_out_files, read_manifest, write_manifest

if TYPE_CHECKING:
    from linklab.studies.options import StudySettings
    from linklab.tasks.source import Source

SETTINGS_FILE = "study.json"
PREFIX = "study-"


def name_study(settings: dict) -> str:
    """Return the name of the study with these settings: `study-` and eight hex digits."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return PREFIX + hashlib.sha256(text.encode()).hexdigest()[:8]


def check_study_dir(out_dir: str | Path) -> None:
    """Raise a UserError if `out_dir` holds anything but studies, or cannot be written."""
    out_dir = Path(out_dir)
    if out_dir.exists() and not out_dir.is_dir():
        raise UserError(f"{out_dir}: is a file; --out-dir needs a folder")
    for path in sorted(out_dir.iterdir()) if out_dir.exists() else ():
        if not path.name.startswith((PREFIX, ".")):
            raise UserError(f"{out_dir}: holds '{path.name}', not written by a study; choose another --out-dir")
    files.require_writable(out_dir)


def open_study(study: StudySettings, own: dict, results: Sequence[str], *, script: str) -> Path:
    """Return the study's folder below --out-dir, created if new, and print what differs from the latest other study.

    `own` are the settings of this kind of study; others decide its results too. Raises a UserError before any work if
    one of the `results` exists and may not be replaced (`results_of`).
    """
    settings = own | {"base_model": study.base_model, "mode": study.mode, "training": list(study.training)}
    settings |= fingerprint_data(study.source)
    out_dir = Path(study.out_dir)
    folder = out_dir / name_study(settings)
    if (folder / SETTINGS_FILE).exists():
        say(f"{folder}: continuing this study")
    else:
        others = sorted(out_dir.glob(f"{PREFIX}*/{SETTINGS_FILE}"), key=lambda path: path.stat().st_mtime)
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / SETTINGS_FILE, settings, force=True)
        why = ""
        if others:
            changed = ", ".join(describe_changes(files.read_json(others[-1]), settings))
            why = f", because a setting changed ({changed}); {others[-1].parent} is kept"
        say(f"{folder}: a new study{why}")
    with results_of(folder, results, script=script):
        return folder


@contextlib.contextmanager
def results_of(folder: Path, names: Sequence[str], *, script: str) -> Iterator[files.FileSet]:
    """Yield a FileSet for the study's new results, which replace the old ones; one process at a time.

    `names` are all files the study may write, with `*` for any text. Raises a UserError for an existing one that
    `script` did not write or that was changed since: the rule of `check_out_dir`.
    """
    with claim(folder / ".results", wait=True):
        existing = sorted(_find(folder, names))
        check_out_files(existing, folder / MANIFEST, script=script, force=True)
        with files.FileSet(force=True) as together:
            yield together
        if together.aside:  # not before: what a killed run left aside shows that the results in place are its own
            files.remove_all_left_overs(folder)


def _find(folder: Path, names: Sequence[str]) -> set[Path]:
    """Return the paths of `names`; for a name with `*`, those of existing files."""
    return {path for name in names for path in (folder.glob(name) if "*" in name else [folder / name])}


def write_results(
    folder: Path, study: StudySettings, names: Sequence[str], table: tuple[str, Iterable[Iterable[object]]],
    make_summary: Callable[[], str], images: Mapping[str, bytes], *, script: str, seed: int | None, extra: dict,
) -> None:  # fmt: skip
    """Write a study's table (its name and lines), summary.md, images and manifest, one process at a time.

    `names` are all files the study may write; old ones that it does not write now are removed. Table and summary are
    computed when it is this process's turn, from all results until then.
    """
    from linklab.tasks.source import source_files

    with results_of(folder, names, script=script) as together:
        with together.open(folder / table[0]) as handle:
            writer = files.SheetWriter(handle)
            for line in table[1]:
                writer.writerow(line)
        with together.open(folder / "summary.md") as handle:
            handle.write(make_summary())
        for name, png in images.items():
            with together.open(folder / name, binary=True) as handle:
                handle.write(png)
        for path in _find(folder, names) - together.aside.keys():
            path.unlink(missing_ok=True)
        outputs = dict.fromkeys([folder / SETTINGS_FILE, *together.aside])
        write_manifest(
            folder / MANIFEST, together=together, script=script, argv=study.argv, seed=seed,
            inputs=source_files(study.source), outputs=outputs, extra=extra,
        )  # fmt: skip


def describe_changes(before: dict, now: dict) -> list[str]:
    """Return the settings that differ: `seed = 1 -> 2`."""
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return [f"{name} = {_show(before.get(name))} -> {_show(now.get(name))}" for name in names]


def _show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def fingerprint_data(source: Source) -> dict:
    """Return what identifies the rows: hashes of the CSV and the template, or of a converted folder's shards."""
    if source.data:
        outputs = read_manifest(Path(source.data) / MANIFEST)["outputs"]
        text = json.dumps(sorted((entry["path"], entry["sha256"]) for entry in outputs))
        return {"data": hashlib.sha256(text.encode()).hexdigest()}
    assert source.csv, "one of the two is required"
    targets = list(source.table.target_fields) or None
    found: dict = {"csv": files.sha256_file(source.csv), "targets": targets, "split_seed": source.split_seed or 0}
    words = dataclasses.replace(source.table, target_fields=()).words()
    words += dataclasses.replace(source, prompt_template=None).question_words()
    found |= {"words": words} if words else {}
    return found | {"template": files.sha256_file(source.prompt_template) if source.prompt_template else None}
