"""One reader for every script: any table file as clean rows of texts, with notes on what was changed."""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import difflib
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from linklab import files
from linklab.cli import UserError
from linklab.tables import csv_stream
from linklab.tables.csv_stream import Block, OnDamage
from linklab.tables.dialect import SNIFFED_ROWS, Dialect, have_row_names, sniff
from linklab.tables.number_format import NumberFormat
from linklab.tables.raw_rows import Row, encoding_error, formula_columns, read_raw_rows, sheet_names
from linklab.tables.schema import read_number

ROW_NAME = "row_name"  # the name for a first column without one: R and pandas write row names there
BAD_ROWS = "rows that cannot be read"  # the reason for rows left out with --drop-bad-rows
BLOCK_ROWS = 2000
SHOWN_LINES = 5
_OPTION_OF = {"target_fields": "target_field", "target_kinds": "target_kind"}  # all others have the field's name
EMPTY_ROWS = "empty rows between the others"


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """The user's options for a table; None or empty: detected."""

    target_fields: tuple[str, ...] = ()
    target_kinds: tuple[str, ...] = ()  # class, number or text; one for all targets or one per target
    id_field: str | None = None
    group_field: str | None = None
    split_field: str | None = None
    drop_columns: tuple[str, ...] = ()
    delimiter: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    missing: tuple[str, ...] = ()  # cells that mean "no value"
    drop_bad_rows: bool = False
    drop_missing_target: bool = False
    keep_missing_class: bool = False

    @property
    def leave_out_targets(self) -> bool:
        """True if an option may leave out rows because of their target cells."""
        return bool(self.missing) or self.drop_bad_rows or self.drop_missing_target

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> TableOptions:
        """Return the options of a script that called `cli.add_table_options`."""
        given = {name: getattr(args, _OPTION_OF.get(name, name), None) for name in cls.__dataclass_fields__}
        return cls.from_dict({name: value for name, value in given.items() if value})

    def named_columns(self) -> tuple[str, ...]:
        """Return the columns that options name: they must exist."""
        single = (self.id_field, self.group_field, self.split_field)
        return (*self.target_fields, *filter(None, single))

    def words(self) -> list[str]:
        """Return the command-line words that give another script the same options."""
        words = []
        for name, value in self.to_dict().items():
            option = f"--{_OPTION_OF.get(name, name).replace('_', '-')}"
            text = ",".join(value) if isinstance(value, list) else value
            words.append(option if value is True else f"{option}={text}")
        return words

    def to_dict(self) -> dict[str, Any]:
        """Return the given options as JSON-ready values, without those not given."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items() if v}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> TableOptions:
        """Return the options from the output of `to_dict`."""
        known = cls.__dataclass_fields__
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in value.items() if n in known}
        return cls(**values)


class Table:
    """A table that can be read as often as needed.

    `names` are the cleaned column names; `rows` yields (line in the user's file, cells). Once `formats` is set, numbers
    are in plain spelling; once `leave_out` is set, rows for which it gives a reason are left out.
    """

    def __init__(self, path: Path, options: TableOptions, dialect: Dialect, wanted: Collection[str] = ()) -> None:
        self.path, self.options, self.dialect = path, options, dialect
        self.wanted = frozenset(wanted)  # columns that must exist; they show which line is the header
        self.notes: list[str] = []
        self.missing_seen: set[str] = set()  # those of `options.missing` that occur in cells
        self.formats: dict[int, NumberFormat] = {}
        self.leave_out: Callable[[list[str]], str | None] | None = None
        self.left_out: dict[str, list[int]] = {}  # why -> lines
        self.known_formats: dict[str, NumberFormat] = {}  # of the training table's columns, by name
        self._header_rows = 0
        self.row_name: str | None = None
        self._blank: list[int] = []  # columns without a name and without values
        self._shown: list[list[str]] = []  # some of the first rows
        raw = csv_stream.scan_header(path).names if dialect.plain else None
        if raw is None or not self.wanted <= set(raw):
            self.dialect = dataclasses.replace(dialect, plain=False)
            raw, self._shown = self._first_row()
        self.names = self._clean(raw)
        self._named = [at for at in range(len(raw)) if at not in self._blank]
        self._width = len(raw)

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def is_plain(self) -> bool:
        """True if the file can be read as it is: nothing to clean, rewrite or leave out."""
        return (
            self.dialect.plain and not self.options.missing and not self.options.drop_bad_rows
            and not self.formats and self.leave_out is None
        )  # fmt: skip

    def rows(self, on_damage: OnDamage | None = None) -> Iterator[Row]:
        """Yield (line, cells) of every row.

        Rows that cannot be read go to `on_damage`; without it a UserError names file and line of the first one.
        """
        if self.is_plain and on_damage is None:
            yield from csv_stream.iter_rows(self.path)
            return
        formats = list(self.formats.items())
        for line, cells in self.unclean_rows(on_damage):
            for at, number_format in formats:
                plain = number_format.read(cells[at])
                if plain is not None:
                    cells[at] = plain
            if self.leave_out is None or self.leave_out(cells) is None:
                yield line, cells

    def blocks(self) -> Iterator[Block]:
        """Yield the rows in blocks; each can be converted on its own, in any process."""
        if self.is_plain:
            yield from csv_stream.iter_blocks(self.path)
            return
        rows = self.rows()
        while held := list(islice(rows, BLOCK_ROWS)):
            yield Block(held[0][0], len(held), b"", held)

    def unclean_rows(self, on_damage: OnDamage | None = None, *, keep_missing: bool = False) -> Iterator[Row]:
        """Yield every readable row before its numbers are rewritten; the others go to `on_damage`."""
        missing = frozenset(self.options.missing)
        for line, cells in self._whole_rows(on_damage or self._on_damage):
            if missing and (found := missing.intersection(map(str.strip, cells))):
                self.missing_seen |= found
                if not keep_missing:
                    cells = ["" if cell.strip() in missing else cell for cell in cells]
            yield line, cells

    def note_left_out(self, why: str, line: int) -> None:
        """Remember a row that is left out; later passes over the file do not count it again."""
        lines = self.left_out.setdefault(why, [])
        if not lines or line > lines[-1]:
            lines.append(line)

    def _on_damage(self, line: int, code: str, message: str) -> None:
        if code == "blank_line":
            self.note_left_out(EMPTY_ROWS, line)
            return
        if not self.options.drop_bad_rows:
            raise csv_stream.damage_error(self.path, line, message)
        self.note_left_out(BAD_ROWS, line)

    def _whole_rows(self, on_damage: OnDamage) -> Iterator[Row]:
        """Yield the rows below the header, only cells of named columns; empty rows at the end are left out."""
        if self.dialect.plain:
            yield from csv_stream.iter_rows(self.path, on_damage=on_damage)
            return
        rows = read_raw_rows(self.path, self.dialect, on_damage, self._hidden)
        for _ in range(self._header_rows):
            next(rows)
        empty: list[int] = []
        for line, cells in rows:
            if not any(map(str.strip, cells)) or cells == ["\x1a"]:  # DOS files end with Ctrl-Z
                empty.append(line)
                continue
            for at in empty:
                on_damage(at, "blank_line", "a blank line; every line must hold a row")
            empty.clear()
            if len(cells) != self._width:
                extra = cells[self._width :]
                if not extra or any(extra):
                    on_damage(line, "ragged_row", f"{len(cells)} cells; the header has {self._width}")
                    continue
                cells = cells[: self._width]
            for at in self._blank:
                if cells[at].strip():
                    raise UserError(f"{self.path}:{line}: a value in column {at + 1}, which has no name in "
                                    f"the header; name the column{self.title_hint}")  # fmt: skip
            yield line, [cells[at] for at in self._named] if self._blank else cells
        for line in empty:
            self.note_left_out("empty rows at the end", line)

    @property
    def title_hint(self) -> str:
        """Advice for rows that do not fit a header of one name: that line may be a title above the header."""
        hint = "; if line 1 is a title above the header, name a column of the header with --target-field"
        return hint if len(self.names) == 1 and not self.wanted else ""

    @property
    def _hidden(self) -> frozenset[str]:
        return frozenset(self.options.drop_columns)

    def _first_row(self) -> tuple[list[str], list[list[str]]]:
        """Return the header's cells and some rows; adds an empty first name where R's write.table omits it."""
        damage: list[tuple[int, str]] = []
        rows = read_raw_rows(
            self.path, self.dialect, lambda line, code, message: damage.append((line, message)), self._hidden
        )
        first = []
        for line, cells in rows:
            if damage:
                break
            self._header_rows += 1
            if any(map(str.strip, cells)):
                first = [(line, cells), *islice(rows, SNIFFED_ROWS)]
                break
        if damage and not first:
            raise UserError(f"{self.path}:{damage[0][0]}: no header: {damage[0][1]}")
        if not first:
            raise UserError(f"{self.path}: the file holds no header and no rows")
        at = self._header_at([cells for _, cells in first])
        self._note_lines_above(self._header_rows - 1 + at, first[0][1] if at else [])
        self._header_rows += at
        line, cells = first[at]
        shown = [row for _, row in first[at + 1 :] if any(row)]
        if self.dialect.kind != "csv" or {len(row) for row in shown} != {len(cells) + 1}:
            return cells, shown
        if any(row[-1].strip() for row in shown):
            return (["", *cells] if have_row_names(shown) else cells), shown
        return [*cells, ""], shown  # every row ends with a delimiter, but the header does not

    def _note_lines_above(self, n: int, title: list[str]) -> None:
        if n:
            what = "line" if self.dialect.kind == "csv" else "row"
            text = " ".join(filter(None, map(str.strip, title)))[:60]
            self.notes.append(f"{n} {'' if title else 'blank '}{what}{'s' * (n > 1)} before the header left out"
                              + f" ({text!r})" * bool(title))  # fmt: skip

    def _header_at(self, rows: list[list[str]]) -> int:
        """Return the index of the header among the first rows: that of the first row with all wanted columns, if every
        row above it has fewer filled cells (titles have, rows of data have not); else 0.
        """
        filled = [[name for cell in row if (name := _clean_name(cell))] for row in rows]
        for at, names in enumerate(filled if self.wanted else ()):
            if self.wanted <= set(names):
                return at if all(len(above) < len(names) for above in filled[:at]) else 0
        return 0

    def _clean(self, raw: Sequence[str]) -> list[str]:
        n_named = max((at for at, text in enumerate(raw, start=1) if _clean_name(text)), default=1)
        unnamed = [at for at, text in enumerate(raw) if not _clean_name(text)]
        self._blank += [at for at in unnamed if at >= n_named or self._shows_nothing(at)]
        names = [self._name(raw, at) for at in range(n_named) if at not in self._blank]
        repeated = [name for name, count in Counter(names).items() if count > 1]
        numbers = _decimals_among(names)
        if repeated and numbers:
            raise UserError(f"{self.path}:1: line 1 seems to be a row ({numbers}): add a header above it")
        if repeated:
            raise UserError(f"{self.path}:1: column '{repeated[0]}' appears in the header {names.count(repeated[0])} "
                            f"times; give each column its own name")  # fmt: skip
        if numbers:
            self.notes.append(f"columns have the names {numbers}: if line 1 is a row, add a header above it")
        if self._blank:
            n = len(self._blank)
            where = " at the end" if self._blank[0] >= n_named else " without a name"
            self.notes.append(f"{n} empty column{'s' * (n > 1)}{where} left out")
        return names

    def _shows_nothing(self, at: int) -> bool:
        """True for a column that is empty in all of the first rows."""
        return bool(self._shown) and not any(row[at].strip() for row in self._shown if at < len(row))

    def _name(self, raw: Sequence[str], at: int) -> str:
        """Return a column's name; adds a note if the name differs from the header's cell."""
        text, name = raw[at], _clean_name(raw[at])
        first = all(before in self._blank for before in range(at))
        if not name and not first:
            raise UserError(f"{self.path}:1: the header has no name for column {at + 1}; name it, or remove it (a "
                            f"header of two lines must become one)")  # fmt: skip
        if not name or (first and name == "Unnamed: 0"):
            while not name or (name != text and name in raw):
                name = f"{name}_" if name else ROW_NAME
            self.row_name = name
            self.notes.append(f"column {at + 1} has no name in the header: read as the row name '{name}', hidden from "
                              f"models and baselines")  # fmt: skip
        elif name != text:
            why = " has a line break in its name" if "\n" in text.strip() or "\r" in text.strip() else ""
            self.notes.append(f"column {at + 1} {text!r}{why}: called '{name}'")
        if not csv_stream.is_text(name):
            raise UserError(f"{self.path}:1: column name {name!r} holds characters that are not text")
        return name

    def has_formulas(self, at: int) -> bool:
        """True if the first row of a workbook's column `at` holds a formula."""
        return self._named[at] in formula_columns(self.path, self.dialect.sheet, self._header_rows + 1)

    def canonical_copy(self, path: Path, on_damage: OnDamage) -> list[int]:
        """Write the readable rows to `path` as plain CSV (UTF-8, comma, LF).

        Returns the line in the user's file for each line of the copy, from its second line on.
        """
        lines: list[int] = []
        with open(path, "w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(files.CsvLines(handle))
            writer.writerow(self.names)
            for line, cells in self.rows(on_damage):
                writer.writerow(cells)
                lines += [line] * (1 + sum(cell.count("\n") for cell in cells))
        return lines


def _decimals_among(names: Sequence[str]) -> str:
    """Return a header's decimal numbers if at least half of its names are numbers: "5.1, 3.5"; else ""."""
    numbers = [name for name in names if not math.isnan(read_number(name))]
    found = [name for name in numbers if "." in name]
    return ", ".join(found[:SHOWN_LINES]) if len(found) > 1 and 2 * len(numbers) >= len(names) else ""


def _clean_name(text: str) -> str:
    return re.sub(r"\s*[\r\n]+\s*", " ", csv_stream.INVISIBLE.sub("", text)).replace("\u00a0", " ").strip()


def open_table(
    path: str | Path | Table,
    options: TableOptions = TableOptions(),  # noqa: B008 (frozen)
    wanted: Collection[str] = (),
) -> Table:
    """Detect the format of a file or folder and return its table; a UserError names the type of an unsupported file.

    The `wanted` columns (default: those that `options` name) show which line is the header, and which sheet of a
    workbook to read.
    """
    if isinstance(path, Table):
        return path
    path = Path(path)
    if not path.is_dir():
        files.require_file(path)
    dialect = sniff(path, delimiter=options.delimiter, encoding=options.encoding)
    wanted = wanted or options.named_columns()
    try:
        if dialect.kind == "xlsx":
            return _open_workbook(path, options, dialect, wanted)
        return Table(path, options, dialect, wanted)
    except UnicodeError:
        raise encoding_error(path, dialect.encoding) from None


def _open_workbook(path: Path, options: TableOptions, dialect: Dialect, wanted: Collection[str]) -> Table:
    """Return the table of the first sheet with the wanted columns, else of the first sheet."""
    sheets = sheet_names(path)
    found: Table | None = None
    for at in range(len(sheets) if wanted else 1):
        with contextlib.suppress(UserError):  # an empty sheet, or one of notes
            table = Table(path, options, dataclasses.replace(dialect, sheet=at), wanted)
            if set(wanted) <= set(table.names):
                found = table
                break
    if found is None:
        found = Table(path, options, dialect, wanted)
    if len(sheets) > 1:
        at = found.dialect.sheet
        which = "the first of" if not at else f"sheet {at + 1} of"
        found.notes.append(f"{which} {len(sheets)} sheets was read: '{sheets[at]}'")
    return found


def unknown_column(path: str | Path | Table, name: str, names: Sequence[str]) -> str:
    """Return the error text for a column that does not exist: the existing columns, and a suggestion."""
    by_folded = {n.casefold(): n for n in names}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.75)
    hint = f"; did you mean '{by_folded[close[0]]}'?" if close else ""
    if isinstance(path, Table) and path.dialect.kind == "csv" and not hint:
        if line := _line_that_names(path, name):
            hint = f"; line {line} has it: remove the lines above the header"
        elif len(names) == 1:
            hint = "; only one column was found: give its separator with --delimiter"
    return f"{path}:1: no column '{name}'; the columns are: {', '.join(names)}{hint}"


def _line_that_names(table: Table, name: str) -> int | None:
    """Return the line, from 2 to SNIFFED_ROWS, that has `name` as a cell, or None."""
    with open(table.path, encoding=table.dialect.encoding, errors="replace") as handle:
        for number, line in enumerate(islice(handle, SNIFFED_ROWS), start=1):
            cells = [cell.strip().strip("\"'") for cell in re.split("[,;\t|]", line)]
            if number > 1 and len(cells) > 1 and name in cells:
                return number
    return None


def match_names(path: str | Path | Table, parts: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the columns that the comma-separated `parts` of an option name; a name may hold commas itself.

    ["kind", "common name"] -> ["kind, common name"] if that is a column. Raises a UserError for unknown columns.
    """
    of_parts = {tuple(piece.strip() for piece in name.split(",")): name for name in names}
    longest = max(map(len, of_parts), default=1)
    found, at = [], 0
    while at < len(parts):
        for n in range(min(longest, len(parts) - at), 0, -1):
            name = of_parts.get(tuple(parts[at : at + n]))
            if name is not None:
                found.append(name)
                at += n
                break
        else:
            raise UserError(unknown_column(path, parts[at], names))
    return found
