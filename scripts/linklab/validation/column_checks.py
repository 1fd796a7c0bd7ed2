"""Turn the cells of many rows into checked arrays: the fast path of the validator, and an exact path.

The fast path only finds cells that are certainly valid. All others go to `cell_checks.check_cell`, one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from linklab.tables.cells import Cells
from linklab.tables.schema import Column
from linklab.validation.cell_checks import CellCheck, check_cell

_INT = r"(?:0|-?[1-9][0-9]{0,14})"  # at most 15 digits: exact in float64; longer ones take the exact path
_PLAIN_TEXT = r"^[!-~](?:[ -~]*[!-~])?$"


FailedChecks = list[tuple[int, CellCheck]]


def split_cells(data: bytes, n_columns: int) -> list[pa.Array] | None:
    """Split plain CSV text (`csv_stream.is_plain`) into binary columns; None if only the exact reader can read it."""
    names = [str(i) for i in range(n_columns)]
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(use_threads=False, column_names=names, block_size=len(data) + 1),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            convert_options=arrow_csv.ConvertOptions(
                column_types={name: pa.binary() for name in names}, strings_can_be_null=False, check_utf8=False
            ),
        )
    except pa.ArrowInvalid:
        return None
    return [column.combine_chunks() if column.num_chunks != 1 else column.chunk(0) for column in table.columns]


def check_column(column: Column, texts: pa.Array, *, lenient: bool) -> tuple[Cells, FailedChecks]:
    """Check every cell of a column and return its values with the checks that failed, by row."""
    if column.kind == "list_str":
        return check_exactly(column, texts, lenient=lenient)
    sure = _certainly_valid(column, texts)
    values = offsets = None
    if column.kind != "str":
        if column.kind.startswith("list_"):
            values, offsets = _parse_lists(texts, sure)
        else:
            values = _parse_numbers(texts, sure)
        _unmark_out_of_range(column, values, offsets, sure)
        if offsets is not None and not sure.all():
            values, offsets = _drop_lists(values, offsets, sure)
    doubtful = np.flatnonzero(~sure)
    cells = Cells(column, texts, sure, 0, values, offsets)
    failed: FailedChecks = []
    for row in doubtful.tolist():
        check = check_cell(column, cells.text(row), lenient=lenient)
        if check.value is not None:  # valid, but in a spelling that the fast path does not know
            return check_exactly(column, texts, lenient=lenient)
        if check.code:
            failed.append((row, check))
        cells.n_missing += check.code in ("", "missing_value")
    if values is not None and offsets is None and len(doubtful):
        values[doubtful] = 0.0
    return cells, failed


def check_exactly(column: Column, texts: pa.Array, *, lenient: bool) -> tuple[Cells, FailedChecks]:
    """Return the same as `check_column`, from a check of every cell."""
    cells = Cells(column, texts, np.zeros(len(texts), bool))
    checks = [check_cell(column, cells.text(row), lenient=lenient) for row in range(len(texts))]
    found: list[Any] = [check.value for check in checks]  # number, text or list; None if it failed or is missing
    cells.ok = np.array([value is not None for value in found], bool)
    cells.n_missing = sum(check.value is None and check.code in ("", "missing_value") for check in checks)
    if column.kind in ("int", "float"):
        cells.values = np.array([value or 0.0 for value in found], float)
    elif column.kind.startswith("list_"):
        cells.offsets = np.cumsum([0, *(len(value or ()) for value in found)])
        if column.kind == "list_str":
            cells.lists = {row: value for row, value in enumerate(found) if value is not None}
        else:
            cells.values = np.array([element for value in found for element in value or ()], float)
    return cells, [(row, check) for row, check in enumerate(checks) if check.code]


def _number_pattern(column: Column) -> str:
    if column.kind.endswith("int"):
        return _INT
    decimals = 9 if column.decimals is None else min(column.decimals, 9)
    return r"-?(?:0|[1-9][0-9]{0,14})" + (rf"(?:\.[0-9]{{1,{decimals}}})?" if decimals else "")


def _certainly_valid(column: Column, texts: pa.Array) -> np.ndarray:
    """Mark the cells with a spelling that is certainly valid."""
    if column.choices is not None and column.kind in ("str", "int"):
        known = pc.is_in(texts, value_set=pa.array([choice.encode() for choice in column.choices], pa.binary()))
        if column.kind == "str":
            return _writable(known)
    if column.kind == "str":
        return _writable(pc.match_substring_regex(texts, _PLAIN_TEXT))
    number = _number_pattern(column)
    pattern = rf"^\[{number}(?:,{number})*\]$" if column.kind.startswith("list_") else f"^{number}$"
    sure = _writable(pc.match_substring_regex(texts, pattern))
    if column.choices is not None:
        sure &= _writable(known) if column.kind == "int" else False
    return sure


def _writable(mask: pa.BooleanArray) -> np.ndarray:
    return np.array(mask.to_numpy(zero_copy_only=False), dtype=bool)


def _parse_numbers(texts: pa.Array, sure: np.ndarray) -> np.ndarray:
    values = np.zeros(len(texts))
    values[sure] = texts.filter(pa.array(sure)).cast(pa.string()).cast(pa.float64()).to_numpy()
    return values


def _parse_lists(texts: pa.Array, sure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all elements of the sure cells, such as `[1,-2.5]`, and the start of each cell's elements (n + 1,)."""
    lists = pc.split_pattern(pc.ascii_trim(texts.filter(pa.array(sure)).cast(pa.string()), characters="[]"), ",")
    lengths = np.zeros(len(texts), np.int64)
    lengths[sure] = pc.list_value_length(lists).to_numpy()
    return np.array(lists.flatten().cast(pa.float64())), np.append(0, np.cumsum(lengths))


def _unmark_out_of_range(column: Column, values: np.ndarray, offsets: np.ndarray | None, sure: np.ndarray) -> None:
    """Unmark cells in `sure` that hold a number outside the column's range."""
    low = -np.inf if column.low is None else column.low
    high = np.inf if column.high is None else column.high
    outside = np.flatnonzero((values < low) | (values > high))
    sure[outside if offsets is None else np.searchsorted(offsets, outside, side="right") - 1] = False


def _drop_lists(values: np.ndarray, offsets: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.diff(offsets)
    return values[np.repeat(keep, lengths)], np.append(0, np.cumsum(np.where(keep, lengths, 0)))
