"""Guess the schema of any CSV from one streamed pass over its cells."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from linklab.cli import UserError
from linklab.tables import csv_stream
from linklab.tables.schema import NUMBER, Column, Schema

CLASS_MAX_INTEGERS = 20  # an integer target with at most so many values is a class: nobody measures only 20 numbers
MAX_CHOICES = 1000  # a text target with more values than this is free text; they are not listed
FEW_WORDS = 20  # a text column with at most so many values is a list of words
BATCH_ROWS = 2000
NOT_A_VALUE = frozenset(("nan", "na", "n/a", "null", "none", "inf", "-inf", "+inf", "infinity", "-infinity"))

_INT = r"(?:0|-?[1-9][0-9]{0,17})"  # a leading zero makes a code (a postcode, a serial number), not a number
_FLOAT = f"(?:{NUMBER})"
_KINDS = {
    "int": _INT,
    "float": _FLOAT,
    "list_int": rf"\[(?:{_INT}(?:, ?{_INT})*)?\]",
    "list_float": rf"\[(?:{_FLOAT}(?:, ?{_FLOAT})*)?\]",
}
# A whole batch of cells, each ended by NUL, matches at once: twenty times faster than cell by cell.
_CELL_IS = {kind: re.compile(pattern) for kind, pattern in _KINDS.items()}
_ALL_ARE = {kind: re.compile(rf"(?:{pattern}\0)*+") for kind, pattern in _KINDS.items()}


def infer_schema(
    csv_path: str | Path,
    target_fields: Sequence[str],
    input_fields: Sequence[str] | None = None,
    id_field: str | None = None,
    group_field: str | None = None,
    *,
    tolerance: float = 0.0,
) -> Schema:
    """Return the columns of a CSV as its cells suggest them.

    A column's kind is the narrowest that fits all filled cells but a share of `tolerance` (0..1): a converter takes
    every cell at its word (0), a validator lets a few damaged cells not turn a number column into text.
    A target is a class when its cells are text, or integers with at most 20 values; otherwise it is a number.
    Columns outside `input_fields` (default: all that have no other role) are hidden. An unknown name is a UserError.
    """
    names = csv_stream.scan_header(csv_path).names if tolerance else csv_stream.read_header(csv_path)
    roles = _roles(csv_path, names, target_fields, input_fields, id_field, group_field)
    cells = [_Cells() for _ in names]
    rows = (row for _, row in csv_stream.iter_rows(csv_path, skip_damaged=tolerance > 0))
    while batch := list(islice(rows, BATCH_ROWS)):
        for column, texts in zip(cells, zip(*batch, strict=True), strict=True):
            column.add(texts)
    if not cells[0].n:
        raise UserError(f"{csv_path}: no rows below the header")
    return Schema(
        tuple(column.describe(name, role, tolerance) for name, role, column in zip(names, roles, cells, strict=True))
    )


def _roles(path, names, targets, inputs, id_field, group_field) -> list[str]:
    asked = [*targets, *(inputs or []), *filter(None, (id_field, group_field))]
    for name in asked:
        if name not in names:
            raise UserError(f"{path}: no column '{name}'; the columns are: {', '.join(names)}")
    twice = [name for name, count in Counter(asked).items() if count > 1]
    if twice:
        raise UserError(f"column '{twice[0]}' is asked to be two things: a column is id, group, input or target")

    def role(name: str) -> str:
        if name in targets:
            return "target"
        if name == id_field:
            return "id"
        if name == group_field:
            return "group"
        return "input" if inputs is None or name in inputs else "hidden"

    return [role(name) for name in names]


@dataclasses.dataclass
class _Cells:
    """What has been seen of one column."""

    n: int = 0
    empty: int = 0
    kinds: Counter = dataclasses.field(default_factory=Counter)
    values: Counter | None = dataclasses.field(default_factory=Counter)  # None: too many to list
    likely: str = "int"

    def add(self, texts: Iterable[str]) -> None:
        filled = [text for text in texts if text and not text.isspace()]
        self.n += len(texts)
        self.empty += len(texts) - len(filled)
        if self.values is not None:
            self.values.update(filled)
            if len(self.values) > MAX_CHOICES:
                self.values = None
        joined = "\0".join((*filled, ""))
        for kind in (self.likely, *_ALL_ARE):
            if kind != "str" and _ALL_ARE[kind].fullmatch(joined):
                self.likely = kind
                whole = kind.replace("float", "int")  # a few 3.0 among integers must not count for all of them
                n_whole = 0 if whole == kind else sum(map(bool, map(_CELL_IS[whole].fullmatch, filled)))
                self.kinds[whole] += n_whole
                self.kinds[kind] += len(filled) - n_whole
                return
        self.kinds.update(map(_kind_of, filled))
        self.likely = self.kinds.most_common(1)[0][0] if self.kinds else "int"
        if self.likely not in _ALL_ARE:
            self.likely = "int"

    def kind(self, tolerance: float) -> str:
        """Return the narrowest kind that fits; words such as NaN stand for a value that is not there."""
        filled = self.kinds.total() - self.kinds["nothing"]
        if not filled:
            return "str"
        for kinds in (
            ("int",),
            ("float", "int"),
            ("list_int",),
            ("list_float", "list_int"),
            ("list_str", "list_float", "list_int"),
        ):
            if sum(self.kinds[kind] for kind in kinds) >= (1 - tolerance) * filled:
                return kinds[0]
        return "str"

    def describe(self, name: str, role: str, tolerance: float) -> Column:
        kind = self.kind(tolerance)
        is_class = role == "target" and (
            kind not in ("int", "float")
            or (kind == "int" and self.values is not None and len(self._words(tolerance)) <= CLASS_MAX_INTEGERS)
        )
        listed = is_class or (tolerance and kind == "str" and role in ("input", "hidden"))
        choices = self._words(tolerance) if listed and self.values is not None else None
        if choices is not None and not is_class and len(choices) > FEW_WORDS:
            choices = None
        if choices is not None and kind == "int":
            choices = sorted((text for text in choices if _kind_of(text) == "int"), key=int)
        return Column(
            name=name,
            role=role,
            kind=kind,
            choices=tuple(choices) if choices else None,
            nullable=role != "target" and self.empty > tolerance * self.n,
            class_target=is_class,
        )

    def _words(self, tolerance: float) -> list[str]:
        """Return the column's values; a rare one that differs from a common one by case or space only is a slip."""
        counts = self.values or Counter()
        common: dict[str, str] = {}
        for text, _ in counts.most_common():
            common.setdefault(text.strip().casefold(), text)
        rare = tolerance * counts.total()
        return sorted(t for t, n in counts.items() if common[t.strip().casefold()] == t or n > rare)


def _kind_of(text: str) -> str:
    for kind, pattern in _CELL_IS.items():
        if pattern.fullmatch(text):
            return kind
    if text.strip().lower() in NOT_A_VALUE:
        return "nothing"
    if text.startswith("["):
        try:
            return "list_str" if isinstance(json.loads(text), list) else "str"
        except ValueError:
            return "str"
    return "str"
