"""The profile of a column's values, added up block by block: counts, ranges, classes."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from linklab.tables.cells import Cells
from linklab.tables.schema import Column

MAX_CLASSES = 1000  # a text column with more values than this is not counted by value
QUANTILES = (1, 5, 25, 50, 75, 95, 99)


@dataclasses.dataclass
class Numbers:
    """Count, range, mean and spread of numbers; the sum of two describes the numbers of both."""

    n: int = 0
    low: float = np.inf
    high: float = -np.inf
    mean: float = 0.0
    square_sum: float = 0.0  # of deviations from the mean

    @classmethod
    def of(cls, values: np.ndarray) -> Numbers:
        """Return the figures of some numbers."""
        if not len(values):
            return cls()
        mean = float(values.mean())
        away = values - mean
        away *= away  # not `away @ away`: BLAS would start threads of its own, which costs ten times the sum
        return cls(len(values), float(values.min()), float(values.max()), mean, float(away.sum()))

    def __add__(self, other: Numbers) -> Numbers:
        n = self.n + other.n
        if not n:
            return self
        step = other.mean - self.mean
        return Numbers(
            n,
            min(self.low, other.low),
            max(self.high, other.high),
            self.mean + step * other.n / n,
            self.square_sum + other.square_sum + step * step * self.n * other.n / n,
        )

    def to_dict(self) -> dict:
        if not self.n:
            return {}
        spread = np.sqrt(self.square_sum / (self.n - 1)) if self.n > 1 else 0.0
        figures = {"min": self.low, "max": self.high, "mean": self.mean, "std": float(spread)}
        return {name: float(f"{value:.6g}") if name in ("mean", "std") else value for name, value in figures.items()}


@dataclasses.dataclass
class Profile:
    """Counts, ranges and classes of one column."""

    n: int = 0
    missing: int = 0
    invalid: int = 0
    numbers: Numbers = dataclasses.field(default_factory=Numbers)
    lengths: Numbers = dataclasses.field(default_factory=Numbers)
    classes: Counter | None = None

    def __add__(self, other: Profile) -> Profile:
        classes = None
        if self.classes is not None and other.classes is not None:
            classes = self.classes
            classes.update(other.classes)
        return Profile(
            self.n + other.n,
            self.missing + other.missing,
            self.invalid + other.invalid,
            self.numbers + other.numbers,
            self.lengths + other.lengths,
            classes if classes is not None and len(classes) <= MAX_CLASSES else None,
        )

    def to_dict(self, column: Column) -> dict:
        """Return the profile for the report."""
        value: dict = {"role": column.role, "kind": column.kind} | ({"unit": column.unit} if column.unit else {})
        value |= {"rows": self.n, "missing": self.missing, "invalid": self.invalid}
        value |= self.numbers.to_dict()
        if self.lengths.n:
            value["length"] = self.lengths.to_dict() | {"elements": int(round(self.lengths.mean * self.lengths.n))}
        if self.classes is not None:
            value["distinct"] = len(self.classes)
            value["classes"] = dict(sorted(self.classes.items(), key=lambda item: (-item[1], item[0])))
        elif column.kind == "str" and column.role not in ("id", "group"):
            value["distinct"] = f"more than {MAX_CLASSES}"
        return value


def profile_cells(cells: Cells) -> Profile:
    """Return the profile of a column of one block."""
    column, n = cells.column, len(cells.ok)
    profile = Profile(n, cells.n_missing, int(n - cells.ok.sum()) - cells.n_missing)
    if cells.values is not None:
        profile.numbers = Numbers.of(cells.good_values)
    if cells.offsets is not None:
        profile.lengths = Numbers.of(cells.lengths[cells.ok].astype(float))
    if column.role not in ("id", "group") and (column.kind == "str" or column.class_target):
        profile.classes = _count(cells)
    return profile


def _count(cells: Cells) -> Counter | None:
    counted = pc.value_counts(cells.texts.filter(pa.array(cells.ok)))
    if len(counted) > MAX_CLASSES:
        return None
    words, numbers = counted.flatten()
    return Counter(dict(zip((word.decode("utf-8") for word in words.to_pylist()), numbers.to_pylist(), strict=True)))
