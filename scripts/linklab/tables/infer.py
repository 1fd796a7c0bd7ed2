"""Scan every column in one pass over the rows: kinds of cells, number formats, distinct values, missing cells."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from linklab.cli import UserError
from linklab.tables.number_format import NUMBER_SHARE, PLAIN, NumberFormat, NumberShapes, choose_format, file_decimal
from linklab.tables.schema import NUMBER
from linklab.tables.table import Table

CLASS_MAX_INTEGERS = 20  # an integer target with at most this many values is a class: measurements have more
MAX_CHOICES = 1000  # a target with more different texts is free text: its values are not listed
FEW_WORDS = 20  # the validator expects only known words in a text column with at most this many values
BATCH_ROWS = 2000
SAMPLE_ROWS, SAMPLE_CELLS = 20_000, 1_000_000  # rows kept for the warnings
# MySQL writes \N; the words with # are error cells of spreadsheets.
_ERRORS = ("#N/A", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#NULL!", "\\N")
_NO_VALUE = frozenset(("nan", "-nan", "na", "n/a", "<na>", "null", "none", "#na", *map(str.lower, _ERRORS)))
NOT_A_VALUE = _NO_VALUE | {"inf", "-inf", "+inf", "infinity", "-infinity"}  # not allowed as a number
# Words that pandas reads as "no value" in a text column; lower-case `none` is not here: it may be a real word.
MISSING_WORDS = frozenset(("NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "<NA>", "#NA",
                           "#N/A N/A", *_ERRORS))  # fmt: skip

# UTF-8 é read as Windows-1252 is Ã©: the character of a first byte (C2-F4), then of a following byte (80-BF).
_MOJIBAKE_HINT = re.compile("\ufffd|[\u00c2-\u00f4][^\x00-\x7f]")

_INT = r"(?:0|-?[1-9][0-9]{0,17})"  # a leading zero makes a code (a postcode, a serial number), not a number
_FLOAT = f"(?:{NUMBER})"
_KINDS = {
    "int": _INT,
    "float": _FLOAT,
    "list_int": rf"\[(?:{_INT}(?:, ?{_INT})*)?\]",
    "list_float": rf"\[(?:{_FLOAT}(?:, ?{_FLOAT})*)?\]",
}
# One match tests a whole batch of cells, each ended by NUL: twenty times faster than cell by cell.
_CELL_IS = {kind: re.compile(pattern) for kind, pattern in _KINDS.items()}
_ALL_ARE = {kind: re.compile(rf"(?:{pattern}\0)*+") for kind, pattern in _KINDS.items()}
_LISTS = (("list_int",), ("list_float", "list_int"), ("list_str", "list_float", "list_int"))


def is_missing_word(text: str) -> bool:
    """True for an empty cell and for words that programs write for "no value": `NA`, `NaN`, `null`."""
    text = text.strip()
    return not text or text in MISSING_WORDS


def is_missing_number(text: str) -> bool:
    """True for a cell that means "no value" in a number column: `NA`, `nan`, `#DIV/0!`; not for `inf`."""
    return text.strip().lower() in _NO_VALUE


def looks_like_mojibake(text: str) -> bool:
    """True for text such as `CafÃ©`, or with a replacement character."""
    if text.isascii() or not _MOJIBAKE_HINT.search(text):
        return False
    if "\ufffd" in text:
        return True
    for encoding in ("cp1252", "latin-1"):
        try:
            return text.encode(encoding).decode("utf-8") != text
        except UnicodeError:
            continue
    return False


@dataclasses.dataclass
class ColumnScan:
    """Counts over the cells of one column."""

    n: int = 0
    empty: int = 0
    kinds: Counter[str] = dataclasses.field(default_factory=Counter)
    shapes: NumberShapes = dataclasses.field(default_factory=NumberShapes)
    written: NumberShapes = dataclasses.field(default_factory=NumberShapes)  # cells not in plain spelling
    values: Counter[str] | None = dataclasses.field(default_factory=Counter)  # None: too many to list
    likely: str = "int"  # the kind that the next batch is tested for first
    longest: int = 0  # characters of the longest cell

    def add(self, texts: Sequence[str]) -> None:
        """Count some cells."""
        filled = [text for text in texts if text and not text.isspace()]
        self.n += len(texts)
        self.empty += len(texts) - len(filled)
        self.longest = max(self.longest, max(map(len, filled), default=0))
        if self.values is not None:
            self.values.update(filled)
            if len(self.values) > MAX_CHOICES:
                self.values = None
        joined = "\0".join((*filled, ""))
        for kind in (self.likely, *_ALL_ARE):
            if kind != "str" and _ALL_ARE[kind].fullmatch(joined):
                self.likely = kind
                whole = kind.replace("float", "int")  # a few 3.0 must not make all integers floats
                n_whole = len(filled) if whole == kind else sum(map(bool, map(_CELL_IS[whole].fullmatch, filled)))
                self.kinds[whole] += n_whole
                self.kinds[kind] += len(filled) - n_whole
                if kind in ("int", "float"):
                    self.shapes.add_plain(filled, n_whole)
                return
        for text in filled:
            kind = _kind_of(text)
            if kind in ("int", "float", "str") and self.shapes.add(text) and kind == "str":
                kind = "written"
                self.written.add(text)
            self.kinds[kind] += 1
        self.likely = self.kinds.most_common(1)[0][0] if self.kinds else "int"
        if self.likely not in _ALL_ARE:
            self.likely = "int"

    @property
    def n_filled(self) -> int:
        """Cells with a value: neither empty nor NaN or the like."""
        return self.kinds.total() - self.kinds["nothing"]

    def n_missing(self, kind: str) -> int:
        """Return how many cells have no value in a column of this kind: empty; for numbers, also `NA` and the like."""
        return self.empty + (self.kinds["nothing"] if kind in ("int", "float") else 0)

    def list_kind(self) -> str | None:
        """Return the narrowest list kind that fits nearly all cells, or None."""
        for kinds in _LISTS:
            if self.n_filled and sum(self.kinds[kind] for kind in kinds) >= NUMBER_SHARE * self.n_filled:
                return kinds[0]
        return None

    def number_kind(self, number_format: NumberFormat, tolerance: float = 0.0) -> str:
        """Return "int" if at most a share `tolerance` of the column's numbers is not whole, else "float"."""
        whole = self.kinds["int"] + (self.kinds["float"] if number_format.thousands == "." else 0)
        for (shape, _), n in self.written.counts.items():
            plain = number_format.read(shape)
            whole += n * (plain is not None and plain.isdigit())
        total = self.kinds["int"] + self.kinds["float"] + self.kinds["written"]
        return "int" if total and whole >= (1 - tolerance) * total else "float"

    def n_odd(self, number_format: NumberFormat) -> int:
        """Return how many filled cells are not numbers in this format."""
        return self.n_filled - self.shapes.read_by((number_format.decimal, number_format.thousands))

    def words(self, tolerance: float = 0.0) -> list[str]:
        """Return the column's values, without rare ones that differ from a common one only in case or outer spaces."""
        counts = self.values or Counter()
        common: dict[str, str] = {}
        for text, _ in counts.most_common():
            common.setdefault(text.strip().casefold(), text)
        rare = tolerance * counts.total()
        return sorted(t for t, n in counts.items() if common[t.strip().casefold()] == t or n > rare)


@dataclasses.dataclass
class Scan:
    """The result of one pass over a table."""

    n_rows: int
    columns: list[ColumnScan]
    formats: dict[int, NumberFormat]  # of the number columns
    sample: list[list[str]]  # the first rows

    @property
    def rewritten(self) -> dict[int, NumberFormat]:
        """The formats of the number columns that have cells not in plain spelling."""
        return {at: f for at, f in self.formats.items() if f != PLAIN or self.columns[at].written.counts.total()}


def scan_table(table: Table, *, rows: Iterator[tuple[int, list[str]]], known: dict[str, NumberFormat]) -> Scan:
    """Read every cell once. Raises a UserError for a table without rows, or a column whose numbers are ambiguous."""
    columns = [ColumnScan() for _ in table.names]
    limit = min(SAMPLE_ROWS, max(200, SAMPLE_CELLS // max(1, len(columns))))
    sample: list[list[str]] = []
    while batch := [cells for _, cells in islice(rows, BATCH_ROWS)]:
        sample += batch[: limit - len(sample)]
        for column, texts in zip(columns, zip(*batch, strict=True), strict=True):
            column.add(texts)
    if not columns or not columns[0].n:
        raise UserError(f"{table.path}: no rows below the header")
    decimal = table.options.decimal or file_decimal(
        {name: column.shapes for name, column in zip(table.names, columns, strict=True)
         if column.shapes.counts.total() >= NUMBER_SHARE * column.n_filled}
    )  # fmt: skip
    if decimal is None and table.dialect.kind == "csv" and table.dialect.delimiter == ",":
        decimal = "."
    formats = {at: found for at in range(len(columns)) if (found := _format_of(table, at, columns[at], decimal, known))}
    return Scan(columns[0].n, columns, formats, sample)


def _format_of(
    table: Table, at: int, column: ColumnScan, decimal: str | None, known: dict[str, NumberFormat]
) -> NumberFormat | None:
    """Return a column's number format; None if it is not a number column, or is dropped."""
    name, is_csv = table.names[at], table.dialect.kind == "csv"
    if column.list_kind() is not None or name in table.options.drop_columns:
        return None
    is_typed = not is_csv and column.shapes.read_by((".", "")) == column.shapes.counts.total()
    try:
        return choose_format(
            name, column.shapes, n_filled=column.n_filled, decimal="." if is_typed else decimal, known=known.get(name),
            given=is_csv and table.options.decimal is not None,
        )  # fmt: skip
    except UserError as error:
        raise UserError(f"{table.path}: {error}") from error


def _kind_of(text: str) -> str:
    for kind, pattern in _CELL_IS.items():
        if pattern.fullmatch(text):
            return kind
    if text.strip().lower() in NOT_A_VALUE:
        return "nothing"
    if text.startswith("["):
        try:
            return "list_str" if isinstance(json.loads(text), list) else "str"
        except (ValueError, RecursionError):
            return "str"
    return "str"
