"""Where a script's rows come from: `--csv FILE` or `--data DIR`, the same examples either way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from linklab import files
from linklab.cli import UserError
from linklab.manifest import MANIFEST
from linklab.tasks import conversations, examples, jsonl, row_cells
from linklab.tasks.examples import Example
from linklab.tasks.task import Task, make_task

Reader = Callable[[str, int | None], list[Example]]


def open_source(args) -> tuple[Task, Reader]:
    """Return the task, and a function (split, max_rows) -> examples in rank order.

    Reads `args.csv` or `args.data`, and with the CSV `target_field`, `prompt_template`, `ask` and `split_seed`.
    """
    if args.csv:
        path = files.require_file(args.csv)
        task = make_task(path, args.target_field, args.prompt_template, ask=args.ask)
        return task, lambda split, n: examples.read_examples(path, task, split, n, seed=args.split_seed)
    if args.target_field or args.prompt_template or args.ask:
        raise UserError(
            "--target-field, --prompt-template and --ask belong to --csv; a JSONL folder has them in it already"
        )
    return open_folder(args.data, args.split_seed)


def open_folder(data: str | Path, split_seed: int = 0) -> tuple[Task, Reader]:
    """Return the task and the reader of `--data`: a converted folder, or conversations somebody else wrote.

    `split_seed` divides the latter; a converted folder is divided already.
    """
    if conversations.conversation_files(data):
        return conversations.make_task(), lambda split, n: conversations.read_conversations(data, split, n, split_seed)
    task = jsonl.read_task(data)
    return task, lambda split, n: read_with_cells(data, task, split, n)


def read_with_cells(folder: str | Path, task: Task, split: str, max_rows: int | None) -> list[Example]:
    """Return a split's examples of a converted folder, with their shown cells where the folder holds them."""
    found = jsonl.read_examples(folder, split, max_rows)
    return row_cells.attach_cells(folder, task, found) if (Path(folder) / row_cells.CELLS_FILE).exists() else found


def source_files(args) -> dict:
    """Return the inputs a manifest names: the CSV, the converted folder's own manifest, or the conversations' files."""
    if args.csv:
        return {args.csv: None}
    foreign = conversations.conversation_files(args.data)
    return dict.fromkeys(foreign) if foreign else {f"{args.data}/{MANIFEST}": None}
