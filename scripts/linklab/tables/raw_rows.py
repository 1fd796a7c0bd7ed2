"""Read the rows of a table of any kind as texts: CSV in any dialect, Excel, Parquet, JSON Lines, a datasets folder."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
import itertools
import json
import math
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from linklab import files
from linklab.cli import UserError
from linklab.tables import csv_stream
from linklab.tables.csv_stream import OnDamage
from linklab.tables.dialect import Dialect

FIRST_ROWS = 1000
Row = tuple[int, list[str]]  # line in the file (row number where the kind has no lines), cells


def read_raw_rows(path: Path, dialect: Dialect, on_damage: OnDamage) -> Iterator[Row]:
    """Yield every row, the header first; blank rows are yielded with no or only empty cells.

    Rows that cannot be read go to `on_damage`; a UserError is raised where the whole file cannot.
    """
    if dialect.kind == "csv":
        return _csv_rows(path, dialect, on_damage)
    readers = {"xlsx": _excel_rows, "parquet": _parquet_rows, "jsonl": _json_rows, "dataset": _dataset_rows}
    return readers[dialect.kind](path)


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
                    open_quote = "unexpected end" in str(error) or "field limit" in str(error)
                    said = (
                        "a quote is opened and never closed" if open_quote else "text after the closing quote of a cell"
                    )
                    on_damage(line, "bad_quoting", said)
                    continue
                if "\0" in "".join(cells):
                    on_damage(line, "nul_byte", "a NUL byte")
                    continue
                yield line, cells
        except UnicodeError:
            raise encoding_error(path, dialect.encoding) from None


def first_damage(path: Path, dialect: Dialect) -> tuple[int, str] | None:
    """Return (line, message) of the first row of a CSV's first thousand whose quotes do not fit; None where all do.

    Reads at most a few MB, so that a lost quote at the beginning can be told before a large file is read.
    """
    if dialect.kind != "csv" or dialect.encoding.startswith("utf-16"):
        return None
    found: list[tuple[int, str]] = []
    # Any bytes are Latin-1 text, and quotes and line ends are the same: what is not UTF-8 is named elsewhere.
    dialect = dataclasses.replace(dialect, encoding="latin-1")
    for _ in itertools.islice(_csv_rows(path, dialect, lambda line, _, said: found.append((line, said))), FIRST_ROWS):
        if found:
            break
    return found[0] if found and found[0][0] > 1 else None  # of a broken header nothing is read on


def encoding_error(path: Path, encoding: str) -> UserError:
    """Return the error that names the first line that `encoding` cannot decode, and an encoding to try."""
    if not encoding.startswith("utf-8"):
        return UserError(f"{path}: not {encoding} text; another --encoding is needed, or the file is cut off")
    with open(path, "rb") as handle:
        for line, data in enumerate(handle.read().splitlines(), start=1):
            try:
                data.decode("utf-8")
            except UnicodeDecodeError as error:
                return UserError(f"{path}:{line}: {csv_stream.not_utf8_words(data, error.start)}")
    return UserError(f"{path}: not UTF-8 text")


def _excel_rows(path: Path) -> Iterator[Row]:
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        # the bytes, not the path: openpyxl refuses a workbook whose name ends in .csv
        book = openpyxl.load_workbook(io.BytesIO(path.read_bytes()), read_only=True, data_only=True)
        sheet = next(iter(book.worksheets), None)
        if sheet is None:
            raise UserError(f"{path}: the workbook has no sheet with cells")
        sheet.reset_dimensions()  # some programs write a wrong one
        width = 0
        for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
            cells = [to_text(value, path, number, f"column {at}") for at, value in enumerate(row, start=1)]
            if any(cells):
                width = width or max(at for at, cell in enumerate(cells, start=1) if cell)
            yield number, cells + [""] * (width - len(cells))
        book.close()
    except (InvalidFileException, KeyError, ValueError, SyntaxError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: the Excel workbook cannot be read ({error}); save it again, or as CSV") from error


def sheet_names(path: Path) -> list[str]:
    """Return the names of a workbook's sheets."""
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(path.read_bytes()), read_only=True)
    names = [sheet.title for sheet in book.worksheets]
    book.close()
    return names


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = pq.ParquetFile(path)
        names = [name for name in source.schema_arrow.names if not name.startswith("__index_level_")]
        yield 0, list(names)
        number = 0
        for batch in source.iter_batches(batch_size=5000, columns=names):
            for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                number += 1
                yield number, [to_text(v, path, number, n) for v, n in zip(values, names, strict=True)]
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: the Parquet file cannot be read ({error}); write it again") from error


def _json_rows(path: Path) -> Iterator[Row]:
    names: dict[str, None] = {}
    for _, value in _json_objects(path):
        names |= dict.fromkeys(value)
    yield 0, list(names)
    for line, value in _json_objects(path):
        yield line, [to_text(value.get(name), path, line, name) for name in names]


def _json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, object) of JSON Lines, or (number, object) of one JSON list."""
    with open(path, encoding="utf-8-sig", newline="\n") as handle:
        try:
            start = handle.read(1000).lstrip()
            handle.seek(0)
            values: Iterable[tuple[int, Any]]
            if start.startswith("["):
                values = enumerate(files.parse_json(handle.read()), start=1)
            else:
                values = ((line, files.parse_json(text)) for line, text in enumerate(handle, start=1) if text.strip())
            for line, value in values:
                if not isinstance(value, dict):
                    raise UserError(f"{path}:{line}: a JSON object is expected on each line")
                if "messages" in value:
                    raise UserError(f"{path}:{line}: holds conversations ('messages'), not a table; use --data")
                yield line, value
        except RecursionError:
            raise UserError(f"{path}: nested too deeply; flat JSON objects are expected") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 at byte {error.start}") from error
        except ValueError as error:
            raise UserError(f"{path}: not JSON Lines ({error}); one flat JSON object a line is expected") from error


def _dataset_rows(path: Path) -> Iterator[Row]:
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
        for row in part:
            number += 1
            named = {n: labels[n](v) if n in labels and v is not None and v >= 0 else v for n, v in row.items()}
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
    if isinstance(value, list | tuple) and all(isinstance(v, str | int | float) for v in value):
        return json.dumps(list(value), ensure_ascii=False, separators=(",", ":"))
    if isinstance(value, dict | list | tuple | bytes):
        raise UserError(f"{path}:{line}: column '{name}' holds {type(value).__name__} values; a table's cells are "
                        f"texts, numbers or lists of them: flatten it (pandas.json_normalize), one object per row"
                        )  # fmt: skip
    return str(value)
