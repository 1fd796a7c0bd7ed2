"""The record of a training in the model folder: the model's files, its base model's weights, and the training rows.

It lets scoring refuse rows that the model has seen, whatever the options, and lets loading refuse weights that changed
since the training.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from linklab import files
from linklab.cli import UserError, say
from linklab.manifest import MANIFEST, describe_files, find_changed, is_entry, require_unchanged
from linklab.tasks.examples import Example

RECORD_FILE = "training_record.json"
SEEN_FILE = "training_rows.bin"  # sorted 64-bit hashes, little-endian: eight bytes per group and per row
_NOT_RECORDED = (RECORD_FILE, "README.md")  # a card may be edited without changing an answer
_SEEN = np.dtype("<u8")


@dataclasses.dataclass(frozen=True)
class TrainingRecord:
    """The content of `training_record.json`."""

    files: list[dict]  # path, sha256 and bytes of every file of the model folder
    base: list[dict]  # of the base model's weight files
    seen: frozenset[int]  # hashes of the groups and of the rows that were trained on


def _hash(kind: str, *texts: str) -> int:
    text = "\x1f".join((kind, *texts))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "little")


def hash_example(example: Example) -> tuple[int, int]:
    """Return the hash of an example's group and the hash of the row itself (id and prompt)."""
    return _hash("group", example.group), _hash("row", example.id, example.prompt)


def write_record(
    folder: Path, examples: Iterable[Example], base: Sequence[dict], *, before: TrainingRecord | None = None
) -> None:
    """Write the record of a model folder, as its last files.

    `base` describes the base model's weight files; `before` is the record of a base model that was itself trained here:
    its rows count as seen too.
    """
    seen = {number for example in examples for number in hash_example(example)} | (before.seen if before else set())
    (folder / SEEN_FILE).write_bytes(np.array(sorted(seen), _SEEN).tobytes())
    made = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    made = [path for path in made if path.relative_to(folder).as_posix() not in _NOT_RECORDED]
    record = {"files": describe_files(dict.fromkeys(made), base=folder), "base": list(base)}
    files.write_json(folder / RECORD_FILE, record)


def read_record(folder: str | Path) -> TrainingRecord | None:
    """Return the record of a model folder, after checking every file it names; None if there is no record.

    Raises a UserError that names the file that changed since the training.
    """
    folder = Path(folder)
    path = folder / RECORD_FILE
    if (folder.parent / MANIFEST).is_file():  # the training's, if the folder is still inside it
        name = f"{folder.resolve().name}/{RECORD_FILE}"
        require_unchanged(folder.parent, lambda wanted: wanted == name, remedy="restore it, or train again")
    if not path.exists():
        return None
    value = files.read_json(path)
    for name in ("files", "base"):
        if not isinstance(value.get(name), list) or not all(map(is_entry, value[name])):
            raise UserError(f"{path}: not a record of this toolkit ('{name}' lists no files with their hashes)")
    if changed := find_changed(value["files"], folder):
        raise UserError(f"{changed} since the training; restore it, or train again")
    seen = np.fromfile(folder / SEEN_FILE, _SEEN) if (folder / SEEN_FILE).exists() else np.array([], _SEEN)
    return TrainingRecord(value["files"], value["base"], frozenset(seen.tolist()))


def count_seen(record: TrainingRecord, examples: Iterable[Example]) -> int:
    """Return how many examples were training rows, or share their group with one."""
    return sum(not record.seen.isdisjoint(hash_example(example)) for example in examples)


def check_unseen(model: str, examples: Sequence[Example], *, may_be_seen: bool) -> list[str]:
    """Return warnings for the report: rows that the model was trained on, or may have been trained on.

    Raises a UserError for training rows, unless `may_be_seen`.
    """
    record = read_record(model)
    if record is None:
        say(f"{model}: no training_record.json, so nothing shows that these rows are unseen")
        return ["nothing shows that these rows were not training rows"]
    seen = count_seen(record, examples)
    if not seen:
        return []
    warning = f"{seen:,} of {len(examples):,} rows were training rows, or share their group with one"
    if not may_be_seen:
        raise UserError(
            f"{model}: {warning}; score unseen rows, or pass --allow-training-rows, and the report will say so"
        )
    say(f"warning: {warning}")
    return [warning]
