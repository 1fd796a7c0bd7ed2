"""Counts of a split: rows of each side, training rows of each class, groups."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping

from linklab.cli import UserError
from linklab.tables.table import Table
from linklab.tables.table_warnings import warn_of_split
from linklab.tasks.splits import FRACTIONS, SPLITS
from linklab.tasks.task import Task

FEW_FOR_TRAINING = 0.6  # share of the rows; the user is warned if fewer are for training


class SplitCount:
    """Counts the rows of each side of the split, the training rows of each class, and the groups."""

    def __init__(self, task: Task, is_new: Callable[[str], bool] | None = None) -> None:
        """`is_new` returns whether a text was never seen before; it is needed if groups do not fit in memory."""
        self.task = task
        self.is_new = is_new
        self.rows = dict.fromkeys(SPLITS, 0)
        self.classes: dict[str, Counter[str]] = {
            t.name: Counter() for t in task.targets if t.kind == "class" and t.choices
        }
        self.has_groups = task.group_field is not None or task.schema.one_of_role("group") is not None
        self.groups: set[str] = set()
        self.n_groups = 0

    def add(self, split: str, group: str, target: Mapping[str, str]) -> None:
        """Count a row."""
        self.rows[split] += 1
        if self.has_groups:
            self._add_group(group)
        if split == "train":
            for name, counts in self.classes.items():
                counts[target[name]] += 1

    def merge(self, other: SplitCount) -> None:
        """Add the counts of other rows."""
        for side, n in other.rows.items():
            self.rows[side] += n
        for name, counts in other.classes.items():
            self.classes[name].update(counts)
        for group in other.groups:
            self._add_group(group)

    def _add_group(self, group: str) -> None:
        if self.is_new is None:
            self.groups.add(group)
            self.n_groups = len(self.groups)
        else:
            self.n_groups += self.is_new(group)

    def finish(self, table: Table, *, need_training: bool = True) -> Task:
        """Return the task with the counts and their warnings in its record."""
        if need_training and not self.rows["train"]:
            raise UserError(f"{table}: no rows in the training split; use more rows, or other groups")
        record = self.task.table
        if self.task.split and self.task.split.fractions != FRACTIONS:
            note = "so few groups that a side would be empty: each side gets its share of them, by the order of a hash"
            record = record | {"notes": [*record.get("notes", []), note]}
            n, total = self.rows["train"], sum(self.rows.values())
            if n < FEW_FOR_TRAINING * total:
                few = (f"only {n:,} of {total:,} rows are for training: rows of a group stay on one side, and there "
                       f"are few groups; a --group-field with more groups divides better")  # fmt: skip
                record["warnings"] = [*record.get("warnings", []), few]
        record = record | {
            "rows": sum(self.rows.values()),
            "splits": self.rows,
            "left_out": record.get("left_out", {}) | {why: len(lines) for why, lines in table.left_out.items()},
            "warnings": record.get("warnings", []) + warn_of_split(self.rows, self.classes, self.task.schema),
        }
        if self.has_groups:
            record["groups"] = self.n_groups
            record["group_field"] = self.task.group_field
        return dataclasses.replace(self.task, table=record)
