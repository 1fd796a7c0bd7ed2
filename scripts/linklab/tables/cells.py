"""Columns of checked cells, and helpers for rules between columns: complete rows, aligned lists, broken rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from linklab.tables.schema import Column


def to_binary(texts: Iterable[str]) -> pa.Array:
    """Return cell texts as the binary array that the checks read; surrogate escapes become their original bytes."""
    return pa.array([text.encode("utf-8", "surrogateescape") for text in texts], pa.binary())


@dataclasses.dataclass
class Cells:
    """One column of a block of rows.

    `ok` (n,) marks the cells that hold a value. Numbers: `values` (n,) float64, 0 where not ok. Lists of numbers:
    `values` joins the elements of all cells, `offsets` (n + 1,) is the start of each cell. Texts have no `values`.
    """

    column: Column
    texts: pa.Array  # of bytes, as `to_binary` makes them
    ok: np.ndarray
    n_missing: int = 0
    values: Any = None  # an array, None for texts
    offsets: Any = None  # an array, None if the cells are not lists
    lists: dict[int, list[str]] | None = None  # lists of texts, by row

    def text(self, row: int) -> str:
        """Return the cell's text as written in the file."""
        return self.texts[row].as_py().decode("utf-8", "surrogateescape")

    def codes(self, words: Sequence[str]) -> np.ndarray:
        """Return the index of each text cell in `words`, 0 if it is not one of them."""
        indices = pc.index_in(self.texts, value_set=pa.array([word.encode() for word in words], pa.binary()))
        return pc.fill_null(indices, 0).to_numpy(zero_copy_only=False).astype(np.int64)

    @property
    def good_values(self) -> np.ndarray:
        """The numbers of the cells that are ok: one per cell, or all elements of the lists."""
        return self.values[self.ok] if self.offsets is None else self.values

    @cached_property
    def lengths(self) -> np.ndarray:
        """Elements per list cell, 0 if the cell is not ok."""
        return np.diff(self.offsets)

    @cached_property
    def highest(self) -> np.ndarray:
        """The highest element of each list of numbers, -inf for an empty list."""
        highest = np.full(len(self.ok), -np.inf)
        if len(self.values):
            filled = np.flatnonzero(self.lengths)
            highest[filled] = np.maximum.reduceat(self.values, self.offsets[filled])
        return highest


CheckedColumns = dict[str, Cells]


class BrokenRule(NamedTuple):
    """The rows that break one rule; `expected` returns what the cell of one row should hold."""

    rows: np.ndarray
    column: str
    code: str
    expected: Callable[[int], str]


def complete_rows(columns: CheckedColumns, *names: str, aligned: tuple[str, ...] = ()) -> np.ndarray | None:
    """Return the rows in which all these columns hold a value and the aligned lists are equally long, or None."""
    if any(name not in columns for name in (*names, *aligned)):
        return None
    good = np.logical_and.reduce([columns[name].ok for name in (*names, *aligned)])
    for name in aligned[1:]:
        good &= columns[aligned[0]].lengths == columns[name].lengths
    for name in aligned:
        good &= columns[name].lengths > 0
    return np.flatnonzero(good) if good.any() else None


class RowLists:
    """The lists of chosen rows as flat arrays; `starts` holds the index of each row's first element."""

    def __init__(self, columns: CheckedColumns, rows: np.ndarray, name: str) -> None:
        self.columns, self.rows = columns, rows
        lengths = columns[name].lengths
        self.n = lengths[rows]
        self.starts = np.cumsum(self.n) - self.n

    def flat(self, name: str) -> np.ndarray:
        """Return the elements of a list column (all lists of the chosen rows, one after the other)."""
        cells = self.columns[name]
        if len(self.rows) == len(cells.ok):
            return cells.values
        chosen = np.zeros(len(cells.ok), bool)
        chosen[self.rows] = True
        return cells.values[np.repeat(chosen, cells.lengths)]

    def spread(self, name: str) -> np.ndarray:
        """Return a number column repeated for every element of its row's list."""
        return np.repeat(self.columns[name].values[self.rows], self.n)

    def any(self, bad: np.ndarray) -> np.ndarray:
        """Return the rows with at least one bad element."""
        if not bad.any():
            return self.rows[:0]
        return self.rows[np.logical_or.reduceat(bad, self.starts)]

    def all(self, bad: np.ndarray) -> np.ndarray:
        """Return the rows with only bad elements."""
        return self.rows[np.logical_and.reduceat(bad, self.starts)]
