"""cells.csv of a converted folder: the cells of each row's shown columns; baselines read them instead of prompts."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from linklab import files
from linklab.cli import UserError
from linklab.links.links import LINK_CHOICES_TEMPLATE, RADIO_COLUMNS
from linklab.tables.schema import Column
from linklab.tasks.examples import Example
from linklab.tasks.task import Task

CELLS_FILE = "cells.csv"


def shown_columns(task: Task) -> list[Column]:
    """Return the columns that baselines see, in the order of the schema.

    These are the columns in the prompt and those with a row's legal choices. The short links prompt leaves out columns
    that cost a model more tokens than they help; baselines see them: knowing more makes them only harder to beat.
    """
    shown = {*task.template.columns, *(target.choices_from for target in task.targets)}
    if task.template.text == LINK_CHOICES_TEMPLATE:
        shown |= RADIO_COLUMNS
    return [column for column in task.schema.by_role("input") if column.name in shown]


def csv_lines(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as lines of cells.csv."""
    text = io.StringIO()
    csv.writer(files.CsvLines(text)).writerows(rows)
    return text.getvalue()


def attach_cells(folder: str | Path, task: Task, examples: Sequence[Example]) -> list[Example]:
    """Return the examples of a converted folder with the cells of their shown columns as `row`.

    Raises a UserError if cells.csv is missing, is damaged or lacks a row.
    """
    path = Path(folder) / CELLS_FILE
    if not path.exists():
        raise UserError(f"{path}: no such file; the folder was made by an earlier version: convert the CSV again")
    names = [column.name for column in shown_columns(task)]
    wanted = {example.id for example in examples}
    cells: dict[str, dict[str, str]] = {}
    with open(files.require_file(path), encoding="utf-8", newline="") as handle:
        reader = csv.reader(handle, strict=True)
        try:
            if next(reader)[1:] != names:
                raise UserError(f"{path}:1: the columns are not those that task.json shows; convert the CSV again")
            for line in reader:
                if line and line[0] in wanted:
                    cells[line[0]] = dict(zip(names, line[1:], strict=True))
        except (csv.Error, ValueError) as error:
            raise UserError(f"{path}:{reader.line_num}: {error}; convert the CSV again") from error
    missing = sorted(wanted - cells.keys())
    if missing:
        raise UserError(f"{path}: no row '{missing[0]}' ({len(missing)} of {len(wanted)} missing); convert again")
    return [dataclasses.replace(example, row=cells[example.id]) for example in examples]
