"""One row as every later stage sees it: prompt, answer, legal choices, and the side it is on."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import itertools
import math
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from linklab.cli import UserError
from linklab.tables.schema import read_number
from linklab.tasks.splits import FRACTIONS, rank_key, split_of
from linklab.tasks.task import Target, Task
from linklab.tasks.templates import read_list, read_lists

_FRACTION = r"-?(?:0|[1-9][0-9]{0,9})\.[0-9]{1,4}"
_FRACTIONS = re.compile(rf"(?:\[{_FRACTION}(?:,{_FRACTION})*+\]\0)*+")  # list cells of them, each ended by NUL


@dataclasses.dataclass
class Example:
    """A row ready for a model or a rule.

    `values` holds what each legal choice is worth, aligned with `choices`; {} where nobody knows. `row` holds the raw
    cells, {} when the example came from JSONL.
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


class Columns(NamedTuple):
    """What a JSONL line holds of an `Example`, of many rows: a sequence for each field."""

    ids: Sequence[str]
    groups: Sequence[str]
    splits: Sequence[str]
    prompts: Sequence[str]
    answers: Sequence[str]
    targets: list[Sequence[str]]  # one for each target
    choices: list[Sequence[list[str]]]  # one for each target whose rows have their own
    values: list[Sequence[str]]  # JSON, one for each target that has a utility


class ExampleMaker:
    """Turns raw rows of one file into examples."""

    def __init__(self, task: Task, *, group_field: str | None = None, seed: int = 0, fractions=FRACTIONS) -> None:
        """`group_field` names the column whose equal cells stay on one side; the schema's group column by default."""
        self.task, self.seed, self.fractions = task, seed, fractions
        self.names, self.template = task.schema.names, task.template
        self.with_own_choices = [t for t in task.targets if t.kind == "class" and t.choices_from]
        self.numbers = [t.name for t in task.targets if t.kind == "number"]
        self.id_column = task.schema.one_of_role("id")
        self.group_column = task.schema[group_field] if group_field else task.schema.one_of_role("group")
        self.shown = sorted(task.template.columns, key=task.schema.names.index)

    def make(self, cells: list[str], number: int) -> Example:
        """Return the example of data row `number` (from 1); raises a UserError naming the column that cannot serve."""
        row = dict(zip(self.names, cells, strict=True))
        target = {t.name: row[t.name] for t in self.task.targets}
        for name, text in target.items():
            if not text.strip():
                raise UserError(f"column '{name}' is empty; a row without its target cannot be learnt or scored")
        for name in self.numbers:
            if math.isnan(read_number(target[name])):
                raise UserError(
                    f"column '{name}' = {target[name][:80]!r} is no number, as the column's other cells are; a row "
                    f"without its target cannot be learnt or scored: leave it out"
                )
        choices, values = self._choices(row, target)
        lists = {t.choices_from: choices[t.name] for t in self.with_own_choices}
        if self.group_column:
            group = row[self.group_column.name]
        else:  # what looks the same to a model must stay together, whatever its answer: the shown cells are the group
            group = _hash(row[name] for name in self.shown)
        return Example(
            row[self.id_column.name] if self.id_column else f"row-{number}",
            group,
            split_of(group, self.seed, self.fractions),
            self.template.render(row, lists),
            self.task.write_answer(target),
            target,
            choices,
            values,
            row,
        )

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

    def make_columns(self, rows: Sequence[Sequence[str]], first: int) -> Columns:
        """Return what `make` gives for rows `first`, `first` + 1, …, column by column: in half the time.

        Raises a ValueError or a UserError, which names no row, where `make` might refuse one: it has the last word.
        """
        cells = dict(zip(self.names, zip(*rows, strict=True), strict=True))
        targets = [cells[t.name] for t in self.task.targets]
        lists, choices, values = {}, [], []
        for t, texts in zip(self.task.targets, targets, strict=True):
            _require(all(map(str.strip, texts)))
            if t.kind == "number":
                _require(not any(map(math.isnan, map(read_number, set(texts)))))
            elif t.choices_from:
                lists[t.choices_from] = legal = read_lists(t.choices_from, cells[t.choices_from])
                choices.append(legal)
                _require(all(map(operator.contains, legal, texts)))
            else:
                legal = itertools.repeat(t.choices or (), len(rows))
                _require(set(texts) <= set(t.choices or ()))
            if t.kind == "class" and t.utility:
                values.append(write_floats(t.utility, cells[t.utility]))
                _require([text.count(",") + 1 for text in values[-1]] == list(map(len, legal)))
        if self.group_column:
            groups = cells[self.group_column.name]
        else:
            groups = list(map(_hash, zip(*(cells[name] for name in self.shown), strict=True)))
        side = {group: split_of(group, self.seed, self.fractions) for group in set(groups)}
        return Columns(
            cells[self.id_column.name] if self.id_column else [f"row-{first + i}" for i in range(len(rows))],
            groups,
            [side[group] for group in groups],
            self.template.render_rows(cells, lists),
            list(map(self.task.separator.join, zip(*targets, strict=True))),
            targets,
            choices,
            values,
        )


def write_floats(name: str, cells: Sequence[str]) -> list[str]:
    """Return a column's list cells as JSON lists of floats: `[480.500,12]` -> `[480.5,12.0]`.

    Raises a ValueError or a UserError, which names no row, where a list is empty or holds anything but finite numbers.
    """
    joined = "\0".join((*cells, ""))
    if _FRACTIONS.fullmatch(joined):  # of so few digits, repr(float(text)) is the text less the zeros at its end
        while "0," in joined or "0]" in joined:
            joined = joined.replace("0,", ",").replace("0]", "]")
        return joined.replace(".,", ".0,").replace(".]", ".0]").split("\0")[:-1]
    lists = [list(map(float, texts)) for texts in read_lists(name, cells)]
    _require(all(lists) and all(map(math.isfinite, itertools.chain.from_iterable(lists))))
    return [json_floats(numbers) for numbers in lists]


def json_floats(numbers: Iterable[float]) -> str:
    """Return finite numbers as a JSON list: what json.dumps gives without spaces."""
    return f"[{','.join(map(repr, numbers))}]"


def _hash(cells: Iterable[str]) -> str:
    return hashlib.sha256("\x1f".join(cells).encode()).hexdigest()[:16]


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError("a row that may not serve")


def legal_choices(target: Target, row: Mapping[str, str]) -> list[str]:
    """Return what may be answered for a class target: the row's own choices, or those all rows share."""
    if target.choices_from:
        return read_list(target.choices_from, row[target.choices_from])
    return list(target.choices or ())


def iter_examples(csv_path: str | Path, task: Task, **how) -> Iterator[Example]:
    """Yield the example of every row; a row that cannot serve is a UserError naming file and line."""
    from linklab.tables.csv_stream import iter_rows

    return make_examples(csv_path, ExampleMaker(task, **how), iter_rows(csv_path))


def make_examples(csv_path: str | Path, maker: ExampleMaker, rows: Iterable, first: int = 1) -> Iterator[Example]:
    """Yield the examples of rows (line number, cells) of a file, which are its rows `first`, `first` + 1, …"""
    for number, (line, cells) in enumerate(rows, start=first):
        try:
            yield maker.make(cells, number)
        except UserError as error:
            raise UserError(f"{csv_path}:{line}: {error}") from error


def read_examples(
    csv_path: str | Path, task: Task, split: str | None = None, max_rows: int | None = None, **how
) -> list[Example]:
    """Return a split's examples, in rank order (see `splits.rank_key`), holding no more than `max_rows` in memory.

    Copies of a row (one id) are kept for training, where somebody balanced the data with them, and count once
    elsewhere: a copy tells a scorer nothing. Raises a UserError when nothing is left.
    """
    chosen = (example for example in iter_examples(csv_path, task, **how) if split in (None, example.split))
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
