"""Read the rows of a table of any kind as texts: CSV in any dialect, Excel, Parquet, JSON Lines, a datasets folder."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import datetime
import io
import itertools
import json
import math
import re
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from linklab import files
from linklab.cli import UserError
from linklab.tables import csv_stream
from linklab.tables.csv_stream import OnDamage
from linklab.tables.dialect import Dialect

FIRST_ROWS = 1000
Row = tuple[int, list[str]]  # line in the file (row number if the kind has no lines), cells


def read_raw_rows(
    path: Path, dialect: Dialect, on_damage: OnDamage, hidden: Collection[str] = frozenset()
) -> Iterator[Row]:
    """Yield every row, the header first; a blank row has no cells, or only empty ones.

    Rows that cannot be read go to `on_damage`; a UserError is raised if the whole file cannot be read. In typed tables
    the cells of `hidden` columns are read as empty, because they may hold nested values.
    """
    if dialect.kind == "csv":
        return _csv_rows(path, dialect, on_damage)
    if dialect.kind == "xlsx":
        return _excel_rows(path, dialect.sheet)
    readers = {"parquet": _parquet_rows, "jsonl": _json_rows, "dataset": _dataset_rows}
    return readers[dialect.kind](path, hidden)


def _csv_rows(path: Path, dialect: Dialect, on_damage: OnDamage) -> Iterator[Row]:
    csv.field_size_limit(csv_stream.MAX_RECORD_BYTES)
    with open(path, encoding=dialect.encoding, newline="") as handle:
        before = 0
        try:
            if dialect.separator_line:
                next(handle)
                before = 1
            reader = csv.reader(handle, delimiter=dialect.delimiter, strict=True, skipinitialspace=dialect.spaced)
            while True:
                line = before + reader.line_num + 1
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    on_damage(line, "bad_quoting", _quoting_message(str(error)))
                    continue
                if "\0" in "".join(cells):
                    on_damage(line, "nul_byte", "a NUL byte")
                    continue
                yield line, [cell.rstrip(" ") for cell in cells] if dialect.spaced else cells
        except UnicodeError:
            raise encoding_error(path, dialect.encoding) from None


def _quoting_message(error: str) -> str:
    """Return our message for an error of the csv module."""
    if "field limit" in error:
        return f"a quote is opened and never closed, or a cell has more than {csv_stream.MAX_RECORD_BYTES:,} characters"
    if "unexpected end" in error:
        return "a quote is opened and never closed"
    return "text after the closing quote of a cell"


def first_damage(path: Path, dialect: Dialect) -> tuple[int, str] | None:
    """Return (line, message) of the first row with wrong quotes among a CSV's first thousand rows, or None.

    Reads at most a few MB, so that a lost quote at the beginning is reported before a large file is read.
    """
    if dialect.kind != "csv" or dialect.encoding.startswith(("utf-16", "utf-32")):
        return None
    found: list[tuple[int, str]] = []
    # Latin-1 decodes any bytes and keeps quotes and line ends; bytes that are not UTF-8 are reported elsewhere.
    dialect = dataclasses.replace(dialect, encoding="latin-1")
    rows = _csv_rows(path, dialect, lambda line, _, message: found.append((line, message)))
    for _ in itertools.islice(rows, FIRST_ROWS):
        if found:
            break
    return found[0] if found and found[0][0] > 1 else None  # the header is checked elsewhere


def encoding_error(path: Path, encoding: str) -> UserError:
    """Return the error that names the first line that `encoding` cannot decode, and an encoding to try."""
    if not encoding.startswith("utf-8"):
        return UserError(f"{path}: not {encoding} text; another --encoding is needed, or the file is cut off")
    with open(path, "rb") as handle:
        for line, data in enumerate(handle.read().splitlines(), start=1):
            try:
                data.decode("utf-8")
            except UnicodeDecodeError as error:
                return UserError(f"{path}:{line}: {csv_stream.not_utf8_message(data, error.start)}")
    return UserError(f"{path}: not UTF-8 text")


def _excel_rows(path: Path, sheet_at: int) -> Iterator[Row]:
    """Yield the rows of a sheet, padded or cut (empty cells only) to the width of the widest of the first rows."""
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with _open_book(path, data_only=True) as book:
            if not book.worksheets:
                raise UserError(f"{path}: the workbook has no sheet with cells")
            sheet = book.worksheets[sheet_at]
            sheet.reset_dimensions()  # some programs write wrong dimensions
            rows = (
                (number, [to_text(_as_shown(value), path, number, f"column {at}") for at, value in enumerate(row, 1)])
                for number, row in enumerate(sheet.iter_rows(values_only=True), start=1)
            )
            first = list(itertools.islice(rows, FIRST_ROWS))
            width = max((at for _, cells in first for at, cell in enumerate(cells, start=1) if cell), default=0)
            for number, cells in itertools.chain(first, rows):
                filled = cells[:width] if not any(cells[width:]) else cells
                yield number, filled + [""] * (width - len(filled))
    except (InvalidFileException, KeyError, ValueError, SyntaxError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: the Excel workbook cannot be read ({error}); save it again, or as CSV") from error


def _open_book(path: Path, *, data_only: bool = False) -> contextlib.closing[Any]:
    import openpyxl

    data = io.BytesIO(path.read_bytes())  # not the path: openpyxl refuses a workbook whose name ends in .csv
    return contextlib.closing(openpyxl.load_workbook(data, read_only=True, data_only=data_only))


def sheet_names(path: Path) -> list[str]:
    """Return the names of a workbook's sheets."""
    with _open_book(path) as book:
        return [sheet.title for sheet in book.worksheets]


def _as_shown(value: Any) -> Any:
    """Return a number with Excel's 15 digits: 0.3 for 0.30000000000000004 in the file."""
    return float(f"{value:.15g}") if isinstance(value, float) else value


def formula_columns(path: Path, sheet_at: int, line: int) -> list[int]:
    """Return the indices of a workbook's columns that hold a formula in row `line`."""
    with _open_book(path) as book:
        rows = book.worksheets[sheet_at].iter_rows(min_row=line, max_row=line, values_only=True)
        return [at for row in rows for at, value in enumerate(row) if isinstance(value, str) and value.startswith("=")]


def _parquet_rows(path: Path, hidden: Collection[str]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = pq.ParquetFile(path)
        names = [name for name in source.schema_arrow.names if not name.startswith("__index_level_")]
        yield 0, list(names)
        number = 0
        for batch in source.iter_batches(batch_size=5000, columns=names):
            columns = [
                [None] * len(column) if name in hidden else map(_shortener(str(column.type)), column.to_pylist())
                for name, column in zip(names, batch.columns, strict=True)
            ]
            for values in zip(*columns, strict=True):
                number += 1
                yield number, [to_text(v, path, number, n) for v, n in zip(values, names, strict=True)]
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: the Parquet file cannot be read ({error}); write it again") from error


def _shortener(column_type: str) -> Callable[[Any], Any]:
    """Return a function that rounds float16 and float32 values to their own digits: 0.1, not 0.10000000149.

    Other types pass unchanged.
    """
    found = re.search(r"\b(halffloat|float16|float32|float)\b", column_type)
    if found is None:
        return lambda value: value
    rounded = np.float32 if found[0] in ("float32", "float") else np.float16

    def shorten(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return list(map(shorten, value))
        return float(str(rounded(value))) if isinstance(value, float) else value

    return shorten


def _json_rows(path: Path, hidden: Collection[str]) -> Iterator[Row]:
    names: dict[str, None] = {}
    for _, value in _json_objects(path):
        names |= dict.fromkeys(value)
    yield 0, list(names)
    for line, value in _json_objects(path):
        yield line, ["" if name in hidden else to_text(value.get(name), path, line, name) for name in names]


def _json_records(value: Any) -> Iterable[Any]:
    """Return the rows of one JSON value in a layout of pandas' to_json: a list of rows, an object with the rows in
    `data`, or an object of columns, each with its cells by row name.
    """
    if not isinstance(value, dict):
        return value if isinstance(value, list) else [value]
    if isinstance(value.get("data"), list):
        names, rows = value.get("columns"), value["data"]
        if isinstance(names, list) and all(isinstance(row, list) and len(row) == len(names) for row in rows):
            return [dict(zip(map(str, names), row, strict=True)) for row in rows]
        return rows
    columns = list(value.values())
    if len(columns) and all(
        isinstance(column, dict) and len(column) > 1 and column.keys() == columns[0].keys() for column in columns
    ):
        return [{name: column[key] for name, column in value.items()} for key in columns[0]]
    return [value]


def _json_values(path: Path, handle: TextIO) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) of JSON Lines, or (row number, row) of one JSON value that holds a table."""
    first = next((text for text in handle if text.strip()), "")
    handle.seek(0)
    if first.lstrip().startswith("[") or not _is_json(first):
        yield from enumerate(_json_records(_parse(path, 1, handle.read())), start=1)
        return
    lines = ((line, text) for line, text in enumerate(handle, start=1) if text.strip())
    start = list(itertools.islice(lines, 2))
    if len(start) == 1:
        yield from enumerate(_json_records(_parse(path, *start[0])), start=1)
        return
    for line, text in itertools.chain(start, lines):
        yield line, _parse(path, line, text.rstrip())


def _is_json(text: str) -> bool:
    try:
        files.parse_json(text)
    except ValueError:
        return False
    return True


def _parse(path: Path, line: int, text: str) -> Any:
    try:
        return files.parse_json(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{line + error.lineno - 1}: not JSON Lines at column {error.colno} ({error.msg}); one "
                        f"flat JSON object per line is expected") from error  # fmt: skip
    except ValueError as error:
        raise UserError(f"{path}:{line}: {error}") from error


def _json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, object) of JSON Lines, or (row number, object) of one JSON value."""
    with open(path, encoding="utf-8-sig", newline="\n") as handle:
        try:
            for line, value in _json_values(path, handle):
                if not isinstance(value, dict):
                    raise UserError(f"{path}:{line}: a JSON object is expected on each line")
                if "messages" in value:
                    raise UserError(f"{path}:{line}: holds conversations ('messages'), not a table; use --data")
                yield line, value
        except RecursionError:
            raise UserError(f"{path}: nested too deeply; flat JSON objects are expected") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 at byte {error.start}") from error


def _dataset_rows(path: Path, hidden: Collection[str]) -> Iterator[Row]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (FileNotFoundError, ValueError, OSError) as error:
        raise UserError(f"{path}: the datasets folder cannot be read ({error})") from error
    sides = loaded if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    names = list(dict.fromkeys(name for part in sides.values() for name in part.column_names))
    shows_side = list(sides) != [""] and "split" not in names
    yield 0, names + ["split"] * shows_side
    number = 0
    for side, part in sides.items():
        labels = {n: f.int2str for n, f in part.features.items() if isinstance(f, datasets.ClassLabel)}
        shorten = {n: _shortener(str(f)) for n, f in part.features.items()}
        part = part.remove_columns([name for name in part.column_names if name in hidden])
        for row in part:
            number += 1
            named = {n: labels[n](v) if n in labels and v is not None and v >= 0 else shorten[n](v)
                     for n, v in row.items()}  # fmt: skip
            yield number, [to_text(named.get(name), path, number, name) for name in names] + [side] * shows_side


def to_text(value: Any, path: Path, line: int, name: str) -> str:
    """Return a cell of a typed table as text: None and NaN -> "", a list -> JSON; nested values are a UserError."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(sep=" ")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list | tuple) and all(isinstance(v, str | int | float) and v == v for v in value):
        return json.dumps(list(value), ensure_ascii=False, separators=(",", ":"))
    if isinstance(value, dict | list | tuple | bytes):
        nested = isinstance(value, list | tuple)
        what = "lists with an empty or nested element" if nested else f"{type(value).__name__} values"
        raise UserError(f"{path}:{line}: column '{name}' holds {what}; a table's cells are texts, numbers or lists of "
                        f"them: flatten it (pandas.json_normalize), or leave it out with --drop-columns {name}"
                        )  # fmt: skip
    return str(value)
