"""Read a CSV row by row in constant memory, strictly, with the true physical line number of every row.

The converter (stops at the first bad line) and the validator (reports every bad line) share this grammar: RFC 4180,
UTF-8, LF or CRLF. A row may span lines inside quotes; its line number is that of its first line.
"""

from __future__ import annotations

import csv
import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from linklab.cli import UserError

BLOCK_BYTES = 1 << 20
MAX_RECORD_BYTES = 1 << 20  # a quote that is never closed may not swallow more than this
BOM = b"\xef\xbb\xbf"
_QUOTE, _COMMA, _LF, _CR = b'",\n\r'

INVISIBLE = re.compile("[\ufeff\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # BOM, text direction marks

# One cell and its end. Quoted cells may hold anything, with quotes doubled; in others a lone CR is a character.
_CELL = re.compile(
    rb'(?:"([^"]*+(?:""[^"]*+)*+)"|([^",\r\n]*+(?:\r(?!\n)[^",\r\n]*+)*+))'
    rb"(,|\r?\n|\Z)"
)


class Record(NamedTuple):
    """One row of the file: its cells, or the code and message of its damage."""

    line: int
    offset: int  # byte in the block where the row starts
    end: int  # byte in the block after the row's line end
    cells: list[str] | None  # bytes that are not UTF-8 become surrogate escapes
    code: str = ""
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Header:
    """The header row of a file: column names, byte order mark, line end."""

    names: list[str]
    end: int  # byte where the first data row starts
    n_lines: int
    bom: bool
    crlf: bool
    problem: str | None = None


def scan_records(data: bytes, *, at: int, line: int, n_columns: int | None, final: bool) -> Iterator[Record]:
    """Yield every record of `data` from byte `at` on, including damaged ones.

    After a damaged line, reading continues at the next physical line, so that one lost quote cannot hide the lines
    below it. A record cut off by the end of `data` is not yielded unless `final`; it starts at the previous `end`.
    """
    while at < len(data):
        line_end = data.find(b"\n", at) + 1 or len(data)
        record = _scan_one(data, at, line_end, line, n_columns, final)
        if record is None:
            return
        yield record
        line += data.count(b"\n", at, record.end)
        at = record.end


def _scan_one(data: bytes, at: int, line_end: int, line: int, n_columns: int | None, final: bool) -> Record | None:
    def broken(code: str, message: str) -> Record:
        return Record(line, at, line_end, None, code, message)

    text = data[at:line_end]
    if not text.rstrip(b"\r\n") or (n_columns != 1 and not text.strip()):
        return broken("blank_line", "a blank line; every line must hold a row")
    limit = min(len(data), at + MAX_RECORD_BYTES)
    cells, position, end = [], at, b","
    while end == b",":
        found = _CELL.match(data, position, limit)
        if found is None:
            message = _quoting_error(data, position, limit)
            if message is None and not final and limit == len(data):
                return None
            return broken("bad_quoting", message or "a quote is opened and never closed")
        quoted, bare, end = found.groups()
        cells.append(bare if quoted is None else quoted.replace(b'""', b'"'))
        position = found.end()
    if not end and (position < len(data) or not final):
        return broken("bad_quoting", f"a row longer than {MAX_RECORD_BYTES:,} bytes") if position < len(data) else None
    if n_columns is not None and len(cells) != n_columns:
        return broken("ragged_row", f"{len(cells)} cells; the header has {n_columns}")
    return Record(line, at, position, [cell.decode("utf-8", "surrogateescape") for cell in cells])


def _quoting_error(data: bytes, position: int, limit: int) -> str | None:
    """Return what is wrong with the cell at `position`; None if its quote is still open at `limit`."""
    if data[position] != _QUOTE:
        return "a quote inside a cell that does not start with one"
    closing = re.compile(rb'"[^"]*+(?:""[^"]*+)*+"').match(data, position, limit)
    return None if closing is None or closing.end() == limit else "text after the closing quote of a cell"


def is_plain(data: bytes) -> bool:
    """True when every line of `data` is one record of UTF-8 text and quotes only wrap whole cells.

    Then every CSV reader gives the same cells. False does not mean damage: `scan_records` decides.
    """
    if not data.endswith(b"\n") or data.startswith((b"\n", b"\r")) or b"\0" in data:
        return False
    if b"\r" in data and (data.count(b"\r") != data.count(b"\r\n") or b"\n\r" in data):
        return False
    if not data.isascii():
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            return False
    bytes_ = np.frombuffer(data, np.uint8)
    line_ends, quotes = np.flatnonzero(bytes_ == _LF), np.flatnonzero(bytes_ == _QUOTE)
    if len(quotes) % 2 or (np.diff(line_ends) == 1).any():
        return False
    opening, closing = quotes[::2], quotes[1::2]
    before = bytes_[opening - 1]  # data ends with LF, so that -1 is a line end too
    after = bytes_[closing + 1]
    fits = ((before == _COMMA) | (before == _LF)) & ((after == _COMMA) | (after == _LF) | (after == _CR))
    return bool(fits.all()) and not (np.searchsorted(quotes, line_ends) % 2).any()  # no line end inside quotes


def scan_header(path: str | Path) -> Header:
    """Read a file's header; names that break a rule are in `problem`. Raises a UserError if there is no header."""
    with open(path, "rb") as handle:
        data = handle.read(MAX_RECORD_BYTES)
        final = not handle.read(1)
    start = len(BOM) if data.startswith(BOM) else 0
    record = next(scan_records(data, at=start, line=1, n_columns=None, final=final), None)
    if record is None or record.cells is None:
        raise UserError(f"{path}:1: no header: {record.message if record else 'the first line never ends'}")
    first = data[start : record.end]
    return Header(
        record.cells, record.end, first.count(b"\n"), start > 0, first.endswith(b"\r\n"), _header_problem(record.cells)
    )


def _header_problem(names: list[str]) -> str | None:
    """Return what is wrong with a header's names, or None."""
    counts = Counter(names)
    for at, name in enumerate(names, start=1):
        if not name.strip():
            return f"the header has no name for column {at}"
        if counts[name] > 1:
            return f"column '{name}' appears in the header {counts[name]} times"
        if name != name.strip() or _damage(name) or INVISIBLE.search(name) or not is_text(name):
            return f"column name {name!r} holds outer spaces or characters that are not text"
    return None


def is_text(name: str) -> bool:
    """True if every character is printable, or joins printable ones (in emoji, in Persian)."""
    return all(mark.isprintable() or unicodedata.category(mark) == "Cf" for mark in name)


class Block(NamedTuple):
    """Some whole rows of a file: `text` with one row per line, or `rows` already read if the text is not plain."""

    line: int
    n_rows: int
    text: bytes
    rows: list[tuple[int, list[str]]] | None = None


OnDamage = Callable[[int, str, str], None]  # line, code, message of a row that cannot be read


def iter_rows(path: str | Path, *, on_damage: OnDamage | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells as text) of every row below the header.

    Raises UserError `file:line: …` at the first blank or ragged line, misplaced quote, NUL byte or byte that is not
    UTF-8; if `on_damage` is given, it is called for such rows instead.
    Cells are exactly as in the file: no stripping, no guessing, no missing values.
    """
    header = scan_header(path)
    for block in _cut_blocks(path, header, on_damage):
        yield from read_block(path, block, len(header.names), on_damage=on_damage)


def iter_blocks(path: str | Path) -> Iterator[Block]:
    """Yield the rows of a file in blocks; `read_block` can read each one on its own, in any process."""
    return _cut_blocks(path, scan_header(path), None)


def _cut_blocks(path: str | Path, header: Header, on_damage: OnDamage | None) -> Iterator[Block]:
    line, buffer = 1 + header.n_lines, b""
    with open(path, "rb") as handle:
        handle.seek(header.end)
        final = False
        while not final:
            chunk = handle.read(BLOCK_BYTES)
            final = not chunk
            buffer += chunk
            cut = len(buffer) if final else buffer.rfind(b"\n") + 1
            text, rest = buffer[:cut], buffer[cut:]
            n_lines = text.count(b"\n")
            if is_plain(text):
                yield Block(line, n_lines, text)
                line += n_lines
                buffer = rest
                continue
            rows: list[tuple[int, list[str]]] = []
            used = 0
            for record in scan_records(text, at=0, line=line, n_columns=len(header.names), final=final):
                used = record.end
                try:
                    cells = _cells_of(path, record, on_damage)
                except UserError:
                    yield Block(line, len(rows), b"", rows)
                    raise
                if cells is not None:
                    rows.append((record.line, cells))
            if rows:
                yield Block(line, len(rows), b"", rows)
            line += text.count(b"\n", 0, used)
            buffer = text[used:] + rest


def damage_error(path: object, line: int, message: str) -> UserError:
    """Return the error for a row that cannot be read."""
    advice = "" if "--encoding" in message else "; fix the line, or leave such rows out with --drop-bad-rows"
    return UserError(f"{path}:{line}: {message}{advice}")


def read_block(
    path: str | Path, block: Block, n_columns: int, *, on_damage: OnDamage | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of a block's rows; raises as `iter_rows` does."""
    if block.rows is not None:
        yield from block.rows
        return
    try:
        rows = list(csv.reader(block.text.decode("utf-8").removesuffix("\n").split("\n"), strict=True))
    except csv.Error:
        rows = []
    if len(rows) == block.n_rows and set(map(len, rows)) == {n_columns}:
        yield from enumerate(rows, start=block.line)
        return
    for record in scan_records(block.text, at=0, line=block.line, n_columns=n_columns, final=True):
        cells = _cells_of(path, record, on_damage)
        if cells is not None:
            yield record.line, cells


def _cells_of(path: str | Path, record: Record, on_damage: OnDamage | None) -> list[str] | None:
    """Return a record's cells; for a damaged record raise, or call `on_damage` and return None."""
    code, message = record.code, record.message
    if record.cells is not None:
        damaged = next(filter(None, map(_damage, record.cells)), None)
        if damaged is None:
            return record.cells
        code, message = "nul_byte" if "NUL" in damaged else "bad_utf8", damaged
    if on_damage is None:
        raise damage_error(path, record.line, message)
    on_damage(record.line, code, message)
    return None


def not_utf8_message(data: bytes, at: int) -> str:
    """Return the message for data that is not UTF-8 at byte `at`: which --encoding reads it, and as what text."""
    name = "cp1252"
    try:
        text = data.decode(name)
    except UnicodeDecodeError:
        name, text = "latin-1", data.decode("latin-1")
    shown = "".join(mark if mark.isprintable() else " " for mark in text[max(0, at - 12) : at + 12]).strip()
    return f"bytes that are not UTF-8; --encoding {name} (Western European) reads them as '{shown}'"


def _damage(text: str) -> str | None:
    """Return which bytes of a cell are not text, or None."""
    if "\0" in text:
        return "a NUL byte"
    if not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text):
        data = text.encode("utf-8", "surrogateescape")
        at = next(i for i, character in enumerate(text) if "\udc80" <= character <= "\udcff")
        return not_utf8_message(data, len(text[:at].encode("utf-8")))
    return None
