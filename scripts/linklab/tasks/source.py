"""Where a script's rows come from: `--csv FILE` or `--data DIR`, the same examples either way."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from linklab import cli
from linklab.cli import UserError
from linklab.manifest import MANIFEST
from linklab.tables.table import Table, TableOptions, open_table
from linklab.tables.understand import lines_of_record
from linklab.tasks import conversations, examples, jsonl, row_cells
from linklab.tasks.examples import Example, ExampleMaker
from linklab.tasks.split_count import SplitCount
from linklab.tasks.task import Task, make_task

Reader = Callable[[str, int | None], list[Example]]


def open_source(args: argparse.Namespace) -> tuple[Task, Reader]:
    """Return the task, and a function (split, max_rows) -> examples in rank order.

    Reads `args.csv` with what `cli.add_source_options` says about it, or `args.data`.
    """
    if args.csv:
        table, task = open_table_task(args)
        task = divide(table, task, args.split_seed)
        return task, lambda split, n: examples.read_examples(table, task, split, n, seed=args.split_seed)
    refuse_table_options(args)
    return open_folder(args.data, args.split_seed)


def open_folder(data: str | Path, split_seed: int = 0) -> tuple[Task, Reader]:
    """Return the task and the reader of `--data`: a converted folder, or conversations somebody else wrote.

    `split_seed` divides the latter; a converted folder is divided already.
    """
    if conversations.conversation_files(data):
        return conversations.make_task(), lambda split, n: conversations.read_conversations(data, split, n, split_seed)
    task = jsonl.read_task(data)
    return task, lambda split, n: read_with_cells(data, task, split, n)


def refuse_table_options(args: argparse.Namespace) -> None:
    """Raise a UserError for an option about a table, where a converted folder says all of it."""
    given = [word.partition("=")[0] for word in cli.table_words(args)]
    names = ("prompt_template", "system_prompt", "ask")
    given += [f"--{name.replace('_', '-')}" for name in names if getattr(args, name)]
    if given:
        raise UserError(
            f"{', '.join(given)} belong to --csv; the folder of --data has them in it already: leave them out, or "
            f"convert the table again"
        )


def read_with_cells(folder: str | Path, task: Task, split: str, max_rows: int | None) -> list[Example]:
    """Return a split's examples of a converted folder, with their shown cells where the folder holds them.

    The cells also say what to ask about choices whose answer is not known, which have no conversation.
    """
    found = jsonl.read_examples(folder, split, max_rows)
    if not (Path(folder) / row_cells.CELLS_FILE).exists():
        return found
    with_cells = row_cells.attach_cells(folder, task, found)
    return [examples.ask_about_all(example, task) for example in with_cells] if task.ask == "choices" else with_cells


def open_table_task(args: argparse.Namespace) -> tuple[Table, Task]:
    """Return the table of `args.csv` and the task that its options and cells make."""
    table = open_table(args.csv, TableOptions.from_args(args))
    task = make_task(table, template_file=args.prompt_template, ask=args.ask, system_prompt=args.system_prompt)
    return table, task


def divide(table: Table, task: Task, seed: int = 0) -> Task:
    """Return the task with how its rows divide in its record: rows and training classes of each side, groups.

    Reads the table once more.
    """
    maker = ExampleMaker(task, seed=seed)
    count = SplitCount(task)
    for _, cells in table.rows():
        row = dict(zip(task.schema.names, cells, strict=True))
        group, split = maker.place(row)
        count.add(split, group, row)
    return count.finish(table, need_training=False)


def say_table(task: Task) -> None:
    """Print what was understood of the table that a task is about."""
    for line in lines_of_record(task.table) if task.table else ():
        cli.say(line)


def source_files(args) -> dict:
    """Return the inputs a manifest names: the CSV, the converted folder's own manifest, or the conversations' files."""
    if args.csv:
        return {args.csv: None}
    foreign = conversations.conversation_files(args.data)
    return dict.fromkeys(foreign) if foreign else {f"{args.data}/{MANIFEST}": None}
