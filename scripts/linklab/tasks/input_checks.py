"""Whether new rows look like those a model was trained on: inputs.json beside the model, and the checks against it.

A value that training never saw gets an answer that nothing supports: it is answered with a warning. A cell that cannot
be what its column is (text in a number column) gets an error and no answer.
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
MAX_VALUES = 200  # a text column with more different values is free text, and any text is fine
MAX_WHOLE_NUMBERS = 12  # a whole-number column with so few values is a scale of steps: 20, 40, 80 and 160 MHz
TIMES_SEEN = 10  # how often each of those must occur on average, so that they are all there are
MAX_SHOWN = 8  # values a message lists


@dataclasses.dataclass(frozen=True)
class SeenColumn:
    """What the training rows held in one column. For a list column everything is said of its elements."""

    kind: str
    low: float | None = None  # smallest and largest number
    high: float | None = None
    values: tuple[str, ...] | None = None  # all different values, where they are few
    may_be_empty: bool = False


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is wrong with a row: an error leaves it unanswered, a warning does not. Each is one text, "" for none."""

    error: str = ""
    warning: str = ""


def describe_inputs(examples: Sequence[Example], task: Task) -> dict:
    """Return the JSON value of inputs.json: what the training rows held in each shown column."""
    bases = {target.choices_from for target in task.targets}
    seen = {
        column.name: _describe_column(column, [example.row[column.name] for example in examples], column.name in bases)
        for column in shown_columns(task)
    }
    columns = {
        name: {key: value for key, value in dataclasses.asdict(column).items() if value not in (None, False)}
        for name, column in seen.items()
    }
    return {"rows": len(examples), "columns": columns}


def _describe_column(column: Column, cells: Sequence[str], is_base: bool) -> SeenColumn:
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
        listed = is_base and often and len(counts) <= MAX_VALUES
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
    """Return what a model's training rows held, by column; None for a model whose folder does not say."""
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
    """Return what is wrong with a row of raw cells, all columns together."""
    errors, warnings = [], []
    for name, column in seen.items():
        cell = row[name].strip()
        if not cell or (column.kind in ("int", "float") and is_missing_number(cell)):
            if not column.may_be_empty:
                warnings.append(f"{name} is {cell or 'empty'}; no training row was")
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
    """Return which elements training did not see, and what it saw; "" where all is as it was."""
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
