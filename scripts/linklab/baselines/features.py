"""Tables for the boosted trees: one line per row (any CSV), or one per candidate (rows with their own choices)."""

from __future__ import annotations

import collections
import itertools
import json
import math
from collections.abc import Iterable, Sequence

import numpy as np

from linklab.baselines.dates import DATE_FEATURES, find_date_format, read_dates
from linklab.tables.schema import Column
from linklab.tasks.examples import Example
from linklab.tasks.task import Target

MAX_CATEGORIES = 200  # scikit-learn's trees take 255; rarer texts become one "other"
MAX_POSITIONS = 32  # elements used of a list that is not aligned with another
MAX_KEYS = 64  # features of a list aligned with another: one for each value of the other list, e.g. each channel


def read_cell(text: str) -> float:
    """Return a cell as a number, NaN if it is empty or not a number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def parse_list(text: str) -> list:
    """Return a list cell; an empty one for an empty cell."""
    return json.loads(text) if text else []


class FlatFeatures:
    """Columns as numbers. Categories, date formats and list features are learnt from the training rows.

    Numbers stay numbers; dates become age, year, month, weekday and hour; other texts become categories; a list
    aligned with another becomes one feature for each value of the other list (the noise *on 5180*, NaN if 5180 is not
    offered); any other list becomes its first elements.
    """

    def __init__(self, examples: Sequence[Example], columns: Sequence[Column]) -> None:
        """Learn from `examples` how to encode `columns`, the columns that a baseline may see."""
        self.columns = list(columns)
        bases = {column.aligned_with for column in self.columns if column.aligned_with}
        self.codes: dict[str, dict] = {}
        self.date_formats: dict[str, str] = {}
        for column in self.columns:
            cells = [example.row[column.name] for example in examples]
            if column.kind == "str":
                if date_format := find_date_format(cells):
                    self.date_formats[column.name] = date_format
                else:
                    self.codes[column.name] = _most_common(cells, MAX_CATEGORIES)
            elif column.name in bases:
                self.codes[column.name] = _most_common(itertools.chain(*map(parse_list, cells)), MAX_KEYS)
            elif column.kind == "list_str":
                self.codes[column.name] = _most_common(itertools.chain(*map(parse_list, cells)), MAX_CATEGORIES)
        self.bases = bases
        self.widths = {column.name: self._width(column, examples) for column in self.columns}
        self.categorical = np.array([
            column.kind == "str" and column.name not in self.date_formats
            for column in self.columns for _ in range(self.widths[column.name])
        ], bool)  # fmt: skip

    def _width(self, column: Column, examples: Sequence[Example]) -> int:
        if column.name in self.date_formats:
            return len(DATE_FEATURES)
        if not column.kind.startswith("list_"):
            return 1
        if column.aligned_with or column.name in self.bases:
            return len(self.codes[column.aligned_with or column.name])
        return min(MAX_POSITIONS, max((len(parse_list(example.row[column.name])) for example in examples), default=0))

    def table(self, examples: Sequence[Example], *, lists: bool = True) -> np.ndarray:
        """Return (rows, features); with `lists` False without the features of list columns."""
        shown = [column for column in self.columns if lists or not column.kind.startswith("list_")]
        parts = [self._column(column, examples) for column in shown]
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(examples), 0))

    def _column(self, column: Column, examples: Sequence[Example]) -> np.ndarray:
        cells = [example.row[column.name] for example in examples]
        if column.name in self.date_formats:
            return read_dates(cells, self.date_formats[column.name])
        codes = self.codes.get(column.aligned_with or column.name, {})
        if column.kind == "str":
            return np.array([[codes.get(cell, math.nan)] for cell in cells], dtype=float)
        if not column.kind.startswith("list_"):
            return np.array([[read_cell(cell)] for cell in cells], dtype=float)
        values = np.full((len(cells), self.widths[column.name]), math.nan)
        for i, cell in enumerate(cells):
            items = parse_list(cell)
            if column.name in self.bases:
                places = [(codes[item], 1.0) for item in items if item in codes]
            elif column.aligned_with:
                keys = parse_list(examples[i].row[column.aligned_with])
                places = [(codes[key], item) for key, item in zip(keys, items, strict=True) if key in codes]
            else:
                places = [(at, codes.get(item, item)) for at, item in enumerate(items[: values.shape[1]])]
            for at, item in places:
                values[i, at] = item if isinstance(item, int | float) else math.nan
        return values


def _most_common(items: Iterable, limit: int) -> dict:
    """Return the code of each of the `limit` most frequent items, in a fixed order."""
    counts = collections.Counter(items)
    kept = sorted(counts, key=lambda item: (-counts[item], str(item)))[:limit]
    return {item: code for code, item in enumerate(sorted(kept, key=str))}


def candidate_table(examples: Sequence[Example], target: Target, flat: FlatFeatures) -> tuple[np.ndarray, np.ndarray]:
    """Return (candidates, features) and the row number of each candidate, rows and candidates in their order.

    A candidate has its own number, its value in each list aligned with the choices, every difference of two of those
    (RSSI minus noise is the SNR), each value's rank and distance from the row's largest and smallest, and the row's
    number, date and text columns.
    """
    aligned = [column for column in flat.columns if column.aligned_with == target.choices_from]
    tables, owners = [], []
    shared = flat.table(examples, lists=False)
    for i, example in enumerate(examples):
        own = np.array([[read_cell(text) for text in example.choices[target.name]]], dtype=float)
        lists = np.array([parse_list(example.row[column.name]) for column in aligned], dtype=float)
        pairs = [lists[a] - lists[b] for a, b in itertools.combinations(range(len(aligned)), 2)]
        values = np.vstack([lists, *pairs]) if len(aligned) else np.zeros((0, own.shape[1]))
        ranks = (values[:, None, :] > values[:, :, None]).sum(axis=2)  # how many of the row's candidates are higher
        most, least = values.max(axis=1, keepdims=True), values.min(axis=1, keepdims=True)
        relative = [values, ranks, most - values, values - least]
        size = np.full_like(own, own.shape[1])
        features = np.vstack([own, size, *relative]).T
        tables.append(np.hstack([features, np.repeat(shared[i : i + 1], len(features), axis=0)]))
        owners.append(np.full(len(features), i))
    return np.concatenate(tables), np.concatenate(owners)
