"""Check new rows against a model's training rows, which inputs.json in the model folder describes.

A row with a value that training never saw gets an answer and a warning: nothing supports the answer. A row with an
invalid cell (text in a number column) gets an error and no answer.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from linklab import files
from linklab.cli import UserError
from linklab.tables.infer import is_missing_number
from linklab.tables.schema import Column, read_number
from linklab.tasks.examples import Example
from linklab.tasks.row_cells import shown_columns
from linklab.tasks.task import Task
from linklab.tasks.templates import read_list

INPUTS_FILE = "inputs.json"
MAX_VALUES = 200  # a text column with more different values is free text: any text is allowed
MAX_WHOLE_NUMBERS = 12  # a whole-number column with at most this many values may have fixed steps: 20, 40, 80, 160 MHz
TIMES_SEEN = 10  # average number of cells per value from which no other values are expected
MAX_SHOWN = 8  # values a message lists


@dataclasses.dataclass(frozen=True)
class SeenColumn:
    """The values of one column in the training rows. For a list column all fields describe its elements."""

    kind: str
    low: float | None = None  # smallest and largest number
    high: float | None = None
    values: tuple[str, ...] | None = None  # all different values, if they are few
    may_be_empty: bool = False


@dataclasses.dataclass(frozen=True)
class Finding:
    """The problems of a row: with an error it is not answered, with a warning it is. Each is one text, "" for none."""

    error: str = ""
    warning: str = ""


def describe_inputs(examples: Sequence[Example], task: Task) -> dict:
    """Return the JSON value of inputs.json: the values of each shown column in the training rows."""
    choice_columns = {target.choices_from for target in task.targets}
    seen = {
        c.name: _describe_column(c, [e.row[c.name] for e in examples], holds_choices=c.name in choice_columns)
        for c in shown_columns(task)
    }
    columns = {
        name: {key: value for key, value in dataclasses.asdict(column).items() if value not in (None, False)}
        for name, column in seen.items()
    }
    return {"rows": len(examples), "columns": columns}


def _describe_column(column: Column, cells: Sequence[str], *, holds_choices: bool) -> SeenColumn:
    numeric = column.kind in ("int", "float")
    filled = [cell for cell in cells if cell.strip() and not (numeric and is_missing_number(cell))]
    may_be_empty = len(filled) < len(cells)
    if column.kind.startswith("list_"):
        elements = [element for cell in filled for element in read_list(column.name, cell)]
    else:
        elements = filled
    counts = Counter(elements)
    often = len(elements) >= TIMES_SEEN * len(counts)
    if column.kind in ("str", "list_str"):
        listed = len(counts) <= MAX_VALUES and 2 * len(counts) <= len(elements)
    elif column.kind == "list_int":
        listed = holds_choices and often and len(counts) <= MAX_VALUES
    else:
        listed = column.kind == "int" and often and len(counts) <= MAX_WHOLE_NUMBERS
    values = tuple(sorted(counts, key=_order)) if listed and counts else None
    if column.kind in ("str", "list_str"):
        return SeenColumn(column.kind, values=values, may_be_empty=may_be_empty)
    numbers = [number for number in map(read_number, counts) if math.isfinite(number)]
    return SeenColumn(
        column.kind, min(numbers, default=None), max(numbers, default=None), values, may_be_empty=may_be_empty
    )


def _order(text: str) -> tuple[float, str]:
    number = read_number(text)
    return (math.inf if math.isnan(number) else number), text


def read_inputs(model_folder: str | Path) -> dict[str, SeenColumn] | None:
    """Return the columns of a model's inputs.json by name; None if the model folder has no such file."""
    path = Path(model_folder) / INPUTS_FILE
    if not path.exists():
        return None
    try:
        columns = files.read_json(path)["columns"]
        return {
            name: SeenColumn(**(entry | {"values": tuple(entry["values"]) if "values" in entry else None}))
            for name, entry in columns.items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not written by a training run ({error}); train again or remove it") from error


def check_row(row: Mapping[str, str], seen: Mapping[str, SeenColumn]) -> Finding:
    """Return the problems of a row of raw cells, of all columns together."""
    errors, warnings = [], []
    for name, column in seen.items():
        cell = row[name].strip()
        if not cell or (column.kind in ("int", "float") and is_missing_number(cell)):
            if not column.may_be_empty:
                warnings.append(f"{name} is {cell or 'empty'}, which no training row was")
            continue
        try:
            elements = read_list(name, cell) if column.kind.startswith("list_") else [cell]
        except UserError as error:
            errors.append(str(error))
            continue
        numeric = column.kind not in ("str", "list_str")
        wrong = [text for text in elements if numeric and math.isnan(read_number(text))]
        if wrong:
            errors.append(f"{name} = {wrong[0][:80]!r} is not a number")
        elif message := _compare(elements, column):
            warnings.append(f"{name} = {message}")
    return Finding("; ".join(errors), "; ".join(warnings))


def _compare(elements: Sequence[str], column: SeenColumn) -> str:
    """Return which elements training did not see, and what it saw; "" if there are none."""
    if column.values is not None:
        numbers = {read_number(value) for value in column.values} if column.kind not in ("str", "list_str") else set()
        new = [text for text in elements if text not in column.values and read_number(text) not in numbers]
        return f"{_join(new)}: training saw only {_join(column.values)}" if new else ""
    if column.low is None or column.high is None:
        return ""
    new = [text for text in elements if not column.low <= read_number(text) <= column.high]
    return f"{_join(new)}: training saw {column.low:g} to {column.high:g}" if new else ""


def _join(texts: Iterable[str]) -> str:
    texts = list(dict.fromkeys(texts))
    more = f" and {len(texts) - MAX_SHOWN} more" if len(texts) > MAX_SHOWN else ""
    return ", ".join(text[:80] for text in texts[:MAX_SHOWN]) + more
