"""One row as every later stage sees it: prompt, answer, legal choices, and the side it is on."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import math
import operator
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from linklab.cli import UserError
from linklab.data.prompts import read_list
from linklab.data.schema import read_number
from linklab.data.splits import FRACTIONS, rank_key, split_of
from linklab.data.task import Target, Task


@dataclasses.dataclass
class Example:
    """A row ready for a model or a rule.

    `values` holds what each legal choice is worth, aligned with `choices`; {} where nobody knows. `row` holds the raw
    cells (those the other fields were made from, where the maker was told so), {} when the example came from JSONL.
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


class ExampleMaker:
    """Turns raw rows of one file into examples."""

    def __init__(
        self,
        task: Task,
        *,
        split_by: str | None = None,
        seed: int = 0,
        fractions=FRACTIONS,
        whole_rows: bool = True,
    ) -> None:
        """`split_by` names the column whose equal cells stay on one side; the schema's group column by default."""
        self.task, self.seed, self.fractions = task, seed, fractions
        self.names, self.template = task.schema.names, task.template
        self.with_own_choices = [t for t in task.targets if t.kind == "class" and t.choices_from]
        self.numbers = [t.name for t in task.targets if t.kind == "number"]
        self.id_column = task.schema.one_of_role("id")
        self.group_column = task.schema[split_by] if split_by else task.schema.one_of_role("group")
        self.shown = sorted(task.template.columns, key=task.schema.names.index)
        self._pick = None
        if not whole_rows:
            used = {*self.shown, *(t.name for t in task.targets)}
            used |= {name for t in task.targets for name in (t.choices_from, t.utility) if name}
            used |= {column.name for column in (self.id_column, self.group_column) if column}
            if len(used) > 1:  # itemgetter gives no tuple for one
                self.names = [name for name in task.schema.names if name in used]
                self._pick = operator.itemgetter(*map(task.schema.names.index, self.names))

    def make(self, cells: list[str], number: int) -> Example:
        """Return the example of data row `number` (from 1); raises a UserError naming the column that cannot serve."""
        row = dict(zip(self.names, self._pick(cells) if self._pick else cells, strict=True))
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
            group = hashlib.sha256("\x1f".join(row[name] for name in self.shown).encode()).hexdigest()[:16]
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


def legal_choices(target: Target, row: Mapping[str, str]) -> list[str]:
    """Return what may be answered for a class target: the row's own choices, or those all rows share."""
    if target.choices_from:
        return read_list(target.choices_from, row[target.choices_from])
    return list(target.choices or ())


def iter_examples(csv_path: str | Path, task: Task, **how) -> Iterator[Example]:
    """Yield the example of every row; a row that cannot serve is a UserError naming file and line."""
    from linklab.data.csv_stream import iter_rows

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
