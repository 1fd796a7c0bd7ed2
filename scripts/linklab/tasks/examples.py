"""One row as all later stages use it: questions and answers, legal choices, and its side of the split."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from linklab.cli import UserError
from linklab.tables.schema import read_number
from linklab.tables.table import Table
from linklab.tables.understand import reopen_table, side_of
from linklab.tasks.splits import FRACTIONS, SPLITS, SplitRule, choose_rule, rank_key, split_of
from linklab.tasks.task import Target, Task
from linklab.tasks.templates import read_list


class Question(NamedTuple):
    """One question to a model: about a whole row (`choice` None), or about one choice of the row.

    `answer` is None if it is not known: field data has the throughput of only the channel in use. `history` holds
    (role, text) of the earlier turns if the question belongs to a longer conversation.
    """

    choice: str | None
    prompt: str
    answer: str | None
    history: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass
class Example:
    """A row ready for a model or a rule.

    `prompt` and `answer` cover the whole row: every choice, every target. `questions` are what a model is asked and
    taught: with `--ask row` that one question; with `--ask choices` one per choice, in the order of the choices, with
    a shared header and the choice's own last line as prompt. `values` holds the worth of each legal choice, aligned
    with `choices`; {} if it is not known. `row` holds the raw cells, {} if the example was read from JSONL.
    """

    id: str
    group: str
    split: str
    prompt: str
    answer: str
    target: dict[str, str]
    choices: dict[str, list[str]]
    values: dict[str, list[float]]
    row: dict[str, str]
    questions: tuple[Question, ...] = ()

    def __post_init__(self) -> None:
        if not self.questions:
            self.questions = (Question(None, self.prompt, self.answer),)

    @property
    def answered(self) -> tuple[Question, ...]:
        """The questions whose answers are known: what training learns from."""
        return tuple(question for question in self.questions if question.answer is not None)


class ExampleMaker:
    """Turns raw rows of one file into examples."""

    def __init__(
        self,
        task: Task,
        *,
        group_field: str | None = None,
        seed: int = 0,
        fractions: tuple[float, float, float] = FRACTIONS,
    ) -> None:
        """Rows with equal cells in `group_field` stay on one side of the split; default: the schema's group column."""
        self.task, self.seed, self.fractions = task, seed, fractions
        self.names, self.template = task.schema.names, task.template
        self.numbers = [t.name for t in task.targets if t.kind == "number"]
        self.id_column = task.schema.one_of_role("id")
        group_field = group_field or task.group_field
        self.group_column = task.schema[group_field] if group_field else task.schema.one_of_role("group")
        self.split_column = task.schema.one_of_role("split")
        named = {side_of(cell) for cell in self.split_column.choices or ()} if self.split_column else set()
        self.unnamed_sides = set(SPLITS) - named
        self.shown = sorted(task.template.columns, key=task.schema.names.index)

    def make(self, cells: list[str], number: int) -> Example:
        """Return the example of data row `number` (from 1); raises a UserError that names an unusable column."""
        row = dict(zip(self.names, cells, strict=True))
        target = {t.name: row[t.name] for t in self.task.targets}
        for name, text in target.items():
            if not text.strip():
                raise UserError(
                    f"column '{name}' is empty; a row without a target cannot be used for training or scoring"
                )
        for name in self.numbers:
            if math.isnan(read_number(target[name])):
                raise UserError(
                    f"column '{name}' = {target[name][:80]!r} is not a number, unlike the column's other cells; a row "
                    f"without a target cannot be used for training or scoring: leave it out"
                )
        choices, values = self._choices(row, target)
        group, split = self.group_and_split(row)
        prompt, questions = write_questions(self.task, row, choices, values, target)
        return Example(
            row[self.id_column.name] if self.id_column else f"row-{number}",
            group,
            split,
            prompt,
            self.task.write_answer(target),
            target,
            choices,
            values,
            row,
            questions,
        )

    def group_and_split(self, row: Mapping[str, str]) -> tuple[str, str]:
        """Return the group and the side of the split of a row.

        The table's own split column decides the side. A side that it never names (often validation) is taken from its
        training rows by the usual rule.
        """
        group = self.group_of(row)
        split = split_of(group, self.seed, self.fractions)
        if self.split_column is None:
            return group, split
        own = side_of(row[self.split_column.name])
        return group, split if own == "train" and split in self.unnamed_sides else own

    def group_of(self, row: Mapping[str, str]) -> str:
        """Return the group of a row: the cell of the group column.

        Without one, it is a hash of the shown cells: rows that look the same to a model must stay together.
        """
        if self.group_column:
            return row[self.group_column.name]
        return _hash(row[name] for name in self.shown)

    def choose_rule(self, rows: Iterable[list[str]]) -> SplitRule:
        """Return the split rule of a table's rows; no side stays empty if there are enough groups."""
        by_name = (dict(zip(self.names, cells, strict=True)) for cells in rows)
        if self.split_column is None:
            return choose_rule(self.seed, map(self.group_of, by_name))
        if not self.unnamed_sides:
            return SplitRule(self.seed)
        name = self.split_column.name  # the sides it never names are taken from its training rows
        divided = (self.group_of(row) for row in by_name if side_of(row[name]) == "train")
        return choose_rule(self.seed, divided, {"train", *self.unnamed_sides})

    def _choices(self, row: dict, target: dict) -> tuple[dict[str, list[str]], dict[str, list[float]]]:
        choices: dict[str, list[str]] = {}
        values: dict[str, list[float]] = {}
        for t in self.task.targets:
            if t.kind != "class":
                continue
            choices[t.name] = legal_choices(t, row)
            if target[t.name] not in choices[t.name]:
                where = f"'{t.choices_from}'" if t.choices_from else "the known classes"
                raise UserError(f"column '{t.name}' = {target[t.name]!r} is not among {where}")
            if t.utility:
                values[t.name] = [float(v) for v in read_list(t.utility, row[t.utility])]
                if not all(map(math.isfinite, values[t.name])):
                    raise UserError(f"column '{t.utility}' holds a number too large to work with")
                if len(values[t.name]) != len(choices[t.name]):
                    raise UserError(
                        f"column '{t.utility}' has {len(values[t.name])} values for {len(choices[t.name])} choices"
                    )
        return choices, values


def write_questions(
    task: Task,
    row: Mapping[str, str],
    choices: Mapping[str, list[str]],
    values: Mapping[str, list[float]],
    target: Mapping[str, str],
) -> tuple[str, tuple[Question, ...]]:
    """Return the prompt of a whole row, and with `--ask choices` the question about each of its choices.

    Answers come from `values`, else from `target`, which has only that of the right choice; if both are {}, there are
    none. Raises a UserError if the row's cells cannot be shown.
    """
    lists = {t.choices_from: choices[t.name] for t in task.targets if t.choices_from}
    lines = task.template.render_lines(row, lists)
    prompt = "\n".join(itertools.chain.from_iterable(lines))
    if task.ask == "row":
        return prompt, ()
    if len(lines[-1]) != len(choices[task.choice_target.name]):
        raise UserError(
            f"{len(lines[-1])} lines of the prompt for {len(choices[task.choice_target.name])} choices of "
            f"'{task.choice_target.name}'"
        )
    header = "".join(f"{line}\n" for line in itertools.chain.from_iterable(lines[:-1]))
    prompts = [header + line for line in lines[-1]]
    asked = task.choice_target
    answers: list[str | None]
    if asked.name in values:
        answers = [task.write_worth(value) for value in values[asked.name]]
    elif target:
        assert task.worth_target, "a task with --ask choices has a worth per choice"
        worth = task.write_worth(read_number(target[task.worth_target.name]))
        answers = [worth if choice == target[asked.name] else None for choice in choices[asked.name]]
    else:
        answers = [None] * len(prompts)
    return prompt, tuple(map(Question, choices[asked.name], prompts, answers))


def ask_about_all(example: Example, task: Task) -> Example:
    """Return an example with questions about all its choices; missing ones are written from its cells."""
    if len(example.questions) == len(example.choices[task.choice_target.name]):
        return example
    prompt, questions = write_questions(task, example.row, example.choices, example.values, example.target)
    return dataclasses.replace(example, prompt=prompt, questions=questions)


def _hash(cells: Iterable[str]) -> str:
    return hashlib.sha256("\x1f".join(cells).encode()).hexdigest()[:16]


def legal_choices(target: Target, row: Mapping[str, str]) -> list[str]:
    """Return the legal answers of a class target: the row's own choices, or those that all rows share."""
    if target.choices_from:
        return read_list(target.choices_from, row[target.choices_from])
    return list(target.choices or ())


def iter_examples(csv_path: str | Path | Table, task: Task, **options: Any) -> Iterator[Example]:
    """Yield the example of every row; raises a UserError with file and line of an unusable row."""
    table = reopen_table(csv_path, task.schema, task.table)
    return make_examples(table, ExampleMaker(task, **options), table.rows())


def make_examples(
    csv_path: str | Path | Table, maker: ExampleMaker, rows: Iterable, first: int = 1
) -> Iterator[Example]:
    """Yield the examples of a file's `rows` (line number, cells); they are numbered from `first`."""
    for number, (line, cells) in enumerate(rows, start=first):
        try:
            yield maker.make(cells, number)
        except UserError as error:
            raise UserError(f"{csv_path}:{line}: {error}") from error


def read_examples(
    csv_path: str | Path | Table, task: Task, split: str | None = None, max_rows: int | None = None, **options: Any
) -> list[Example]:
    """Return a split's examples, in rank order (see `splits.rank_key`), holding no more than `max_rows` in memory.

    Copies of a row (same id) are kept for training, because they may balance the data, and left out elsewhere: scoring
    a row twice adds nothing. Raises a UserError if no rows are left.
    """
    chosen = (example for example in iter_examples(csv_path, task, **options) if split in (None, example.split))
    found = lowest_ranked(chosen if split == "train" else first_of_each_id(chosen), max_rows)
    if not found:
        raise UserError(f"{csv_path}: no rows in the {split or 'whole'} split; generate or collect more rows")
    return found


def first_of_each_id(examples: Iterable[Example]) -> Iterator[Example]:
    """Leave out every later example of an id."""
    seen: set[str] = set()
    for example in examples:
        if example.id not in seen:
            seen.add(example.id)
            yield example


def lowest_ranked(examples: Iterable[Example], n: int | None) -> list[Example]:
    """Return the `n` examples of lowest rank, in rank order, from a stream of any length; all of them for None."""
    if n is None:
        return sorted(examples, key=lambda example: rank_key(example.id))
    return heapq.nsmallest(n, examples, key=lambda example: rank_key(example.id))
