"""Where a script's rows come from: `--csv FILE` or `--data DIR`, the same examples either way."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

from linklab import cli
from linklab.cli import UserError
from linklab.manifest import MANIFEST, read_manifest, require_unchanged
from linklab.tables.table import Table, TableOptions, open_table
from linklab.tables.table_record import lines_of_record
from linklab.tables.understand import reopen_table
from linklab.tasks import conversations, examples, jsonl, row_cells
from linklab.tasks.examples import Example, ExampleMaker
from linklab.tasks.split_count import SplitCount
from linklab.tasks.splits import SplitRule
from linklab.tasks.task import Task, make_task
from linklab.tasks.templates import Template
from linklab.tasks.training_record import read_record

Reader = Callable[[str, int | None], list[Example]]


@dataclasses.dataclass(frozen=True)
class Source:
    """The rows of a script: a table with the options to read it and to write questions, or a converted folder."""

    table: TableOptions
    csv: str | None
    data: str | None = None
    prompt_template: str | None = None
    system_prompt: str | None = None
    ask: str | None = None
    answer_format: str | None = None
    split_seed: int | None = None

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Source:
        """Return the source of a script that called `cli.add_source_options`, or `add_row_options` and --csv."""
        return cli.read_settings(cls, args, table=TableOptions.from_args(args))

    def paths(self) -> list[str]:
        """Return the files and folders that are read."""
        return [path for path in (self.csv, self.data, self.prompt_template) if path]

    def question_words(self) -> list[str]:
        """Return the command-line words that let another script ask the same questions."""
        given = {option: getattr(self, option[2:].replace("-", "_")) for option, _ in cli.QUESTION_OPTIONS}
        return [word for option, value in given.items() if value for word in (option, value)]

    def words(self) -> list[str]:
        """Return the command-line words that give another script the same rows."""
        if self.data:
            return ["--data", self.data]
        words = ["--csv", self.csv or "", *self.table.words(), *self.question_words()]
        return words + (["--split-seed", str(self.split_seed)] if self.split_seed else [])


def open_source(
    source: Source,
    trained: Task | None = None,
    *,
    allow_other_prompt: bool = False,
    allow_other_split: bool = False,
) -> tuple[Task, Reader]:
    """Return the task, and a function (split, max_rows) -> examples in rank order.

    `trained` is the task of a trained model: its targets, prompt, way of asking and split are used. Options or data
    that differ from it raise a UserError, unless allowed.
    """
    rule = _split_rule(source, trained, allow_other_split)
    if source.csv:
        table, task = _table_task(source, trained, allow_other_prompt)
        if trained is None or trained.split is None:
            rule = ExampleMaker(task, seed=rule.seed).choose_rule(cells for _, cells in table.rows())
        task = count_split(table, task, rule)
        return task, lambda split, n: examples.read_examples(
            table, task, split, n, seed=rule.seed, fractions=rule.fractions
        )
    assert source.data, "one of the two is required"
    refuse_table_options(source)
    task, read = open_folder(source.data, rule.seed, trained.split if trained else None)
    if trained and not allow_other_prompt and (difference := find_difference(task, trained)):
        raise UserError(f"{source.data}: {difference}; convert the rows like the training rows, or pass "
                        f"--allow-other-prompt, and the report will say so")  # fmt: skip
    return task, read


def open_folder(
    data: str | Path, split_seed: int | None = 0, trained_split: SplitRule | None = None
) -> tuple[Task, Reader]:
    """Return the task and the reader of `--data`: a converted folder, or conversations from another tool.

    Such conversations are split by the trained model's rule, else by `split_seed`; a converted folder is split already.
    """
    if conversations.conversation_files(data):
        rule = trained_split or conversations.choose_rule(data, split_seed or 0)
        rule = dataclasses.replace(rule, seed=split_seed or 0)
        task = dataclasses.replace(conversations.make_task(), split=rule)
        return task, lambda split, n: conversations.read_conversations(data, split, n, rule)
    task = jsonl.read_task(data)
    return task, lambda split, n: read_with_cells(data, task, split, n)


def _split_rule(source: Source, trained: Task | None, allow_other_split: bool) -> SplitRule:
    """Return the split rule: that of a trained model, else of `--split-seed`."""
    rule = trained.split if trained and trained.split else SplitRule(source.split_seed or 0)
    if source.split_seed in (None, rule.seed):
        return rule
    if not allow_other_split:
        raise UserError(f"--split-seed {source.split_seed}: the model was trained with --split-seed {rule.seed}, so "
                        f"unseen rows are those of that split; leave the option out, or pass --allow-training-rows"
                        )  # fmt: skip
    return dataclasses.replace(rule, seed=source.split_seed)


def _table_task(source: Source, trained: Task | None, allow_other_prompt: bool) -> tuple[Table, Task]:
    """Return the table of a CSV and its task: that of a trained model, else the one that options and cells give."""
    if trained is None:
        return open_table_task(source)
    ours = [target.name for target in trained.targets]
    names = list(source.table.target_fields) or ours
    if names != ours and not allow_other_prompt:
        raise UserError(f"--target-field {','.join(names)}: the model was trained to answer {','.join(ours)}; leave "
                        f"the option out, or pass --allow-other-prompt, and the report will say so")  # fmt: skip
    if source.table.words() or source.question_words():
        asked = dataclasses.replace(
            source, table=dataclasses.replace(source.table, target_fields=tuple(names)),
            ask=source.ask or trained.ask, answer_format=source.answer_format or trained.answer_format,
        )  # fmt: skip
        table, task = open_table_task(asked)
        if names == ours and not (source.prompt_template or source.system_prompt):
            task = dataclasses.replace(task, template=Template(trained.template.text, task.schema))
        difference = find_difference(task, trained)
        if difference and not allow_other_prompt:
            raise UserError(f"{difference}; leave --prompt-template, --system-prompt, --ask and --answer-format "
                            f"out, or pass --allow-other-prompt, and the report will say so")  # fmt: skip
        return table, task if difference else _answer_as(trained, task)
    assert source.csv, "asked for a table"
    table = reopen_table(source.csv, trained.schema, trained.table)
    if table.names == trained.schema.names:
        return table, trained
    found = make_task(table, ask=trained.ask, answer_format=trained.answer_format)
    return table, _answer_as(trained, found)


def _answer_as(trained: Task, task: Task) -> Task:
    """Return a table's task with the prompt and the legal answers of the trained model."""
    return dataclasses.replace(task, template=Template(trained.template.text, task.schema), targets=trained.targets)


def read_trained_task(model: str) -> Task | None:
    """Return the task of a trained model, None for a base model."""
    if not (Path(model) / jsonl.TASK_FILE).exists():
        return None
    read_record(model)  # raises a UserError if a file, also task.json, changed since the training
    return jsonl.read_task(model)


def find_difference(task: Task, trained: Task) -> str | None:
    """Return how a task's questions differ from those of a trained model's task, None if they do not."""
    if [(t.name, t.kind) for t in task.targets] != [(t.name, t.kind) for t in trained.targets]:
        ours, theirs = (", ".join(t.name for t in one.targets) for one in (task, trained))
        return f"asks for {ours}, but the model was trained to answer {theirs}"
    if task.ask != trained.ask:
        return f"asks with --ask {task.ask}, but the model was trained with --ask {trained.ask}"
    if task.answer_format != trained.answer_format:
        return (f"asks with --answer-format {task.answer_format}, but the model was trained with --answer-format "
                f"{trained.answer_format}")  # fmt: skip
    if task.template.text != trained.template.text:
        return "asks with another prompt than the model was trained with"
    return None


def refuse_table_options(source: Source) -> None:
    """Raise a UserError for options about a table: a converted folder already contains them."""
    given = [word.partition("=")[0] for word in source.table.words()] + source.question_words()[::2]
    if given:
        raise UserError(
            f"{', '.join(given)} appl{'ies' if len(given) == 1 else 'y'} only to --csv; the folder of --data was "
            f"converted with its own settings: leave them out, or convert the table again"
        )


def read_with_cells(folder: str | Path, task: Task, split: str, max_rows: int | None) -> list[Example]:
    """Return a split's examples of a converted folder, with their shown cells if the folder has cells.csv.

    Choices without a known answer have no conversation: the questions about them are written from the cells.
    """
    found = jsonl.read_examples(folder, split, max_rows)
    if not (Path(folder) / row_cells.CELLS_FILE).exists():
        return found
    require_unchanged(folder, lambda name: name == row_cells.CELLS_FILE, remedy=jsonl.REMEDY)
    with_cells = row_cells.attach_cells(folder, task, found)
    return [examples.ask_about_all(example, task) for example in with_cells] if task.ask == "choices" else with_cells


def open_table_task(source: Source) -> tuple[Table, Task]:
    """Return the source's table and the task that its options and cells give."""
    assert source.csv, "asked for a table"
    table = open_table(source.csv, source.table)
    task = make_task(
        table, template_file=source.prompt_template, ask=source.ask, system_prompt=source.system_prompt,
        answer_format=source.answer_format,
    )  # fmt: skip
    return table, task


def count_split(table: Table, task: Task, rule: SplitRule) -> Task:
    """Return the task with the counts of its split in its record: rows per side, training rows per class, groups.

    Reads the table once more.
    """
    task = dataclasses.replace(task, split=rule)
    maker = ExampleMaker(task, seed=rule.seed, fractions=rule.fractions)
    count = SplitCount(task)
    for _, cells in table.rows():
        row = dict(zip(task.schema.names, cells, strict=True))
        group, split = maker.group_and_split(row)
        count.add(split, group, row)
    return count.finish(table, need_training=False)


def say_table(task: Task) -> None:
    """Print the record of a task's table."""
    for line in lines_of_record(task.table) if task.table else ():
        cli.say(line)


def source_files(source: Source) -> dict:
    """Return a manifest's inputs: CSV and template, a converted folder's files but its card, or conversation files."""
    if source.csv:
        return {path: None for path in (source.csv, source.prompt_template) if path}
    assert source.data, "one of the two is required"
    if foreign := conversations.conversation_files(source.data):
        return dict.fromkeys(foreign)
    names = [entry["path"] for entry in read_manifest(source.data)["outputs"] if entry["path"] != "README.md"]
    return {f"{source.data}/{name}": None for name in (MANIFEST, *names)}
