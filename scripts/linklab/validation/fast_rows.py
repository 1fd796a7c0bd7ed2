"""The fastest path of the validator: rows whose every byte one regular expression has found fine.

A schema is turned into the grammar of one line. RE2 runs it over a block of lines in one pass; when it matches, every
line has its cells, every cell its spelling, every word is a known one, and what is left is to read the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from linklab.tables.schema import Column

MAX_COLUMNS = 128  # beyond, the automaton outgrows RE2's memory and crawls
MAX_WORDS = 64
_PLAIN = r"[!#-+\--~](?:[ !#-+\--~]*[!#-+\--~])?"  # printable ASCII without comma, quote and outer spaces
_QUOTED = r'"[!#-~](?:[ !#-~]*[!#-~])?"'
_ANY = r'(?:[ !#-+\--~]*|"[ !#-~]*")'
_PAD = b"\0" * 8  # the look-ups of the first number reach before it


def line_pattern(columns: Sequence[Column | None], *, crlf: bool) -> str | None:
    """Return the RE2 grammar of a block of sound lines, or None where the schema has none."""
    if len(columns) > MAX_COLUMNS:
        return None
    found = [_cell_pattern(column) for column in columns]
    cells = [pattern for pattern in found if pattern is not None]
    if len(cells) < len(found):
        return None
    pattern = "^(?:" + ",".join(cells) + (r"\r\n" if crlf else r"\n") + r")+\z"
    try:
        pc.match_substring_regex(pa.array([b""], pa.binary()), pattern)
    except pa.ArrowInvalid:
        return None
    return pattern


def _cell_pattern(column: Column | None) -> str | None:
    if column is None:
        return _ANY
    if column.kind == "list_str" or column.nullable:
        return None
    if column.choices is not None:
        words = column.choices if column.kind in ("str", "int") else ()
        plain = all(re.fullmatch(_PLAIN, word) for word in words) and 0 < len(words) <= MAX_WORDS
        return f"(?:{'|'.join(map(re.escape, words))})" if plain else None
    if column.kind == "str":
        return f"(?:{_PLAIN}|{_QUOTED})"
    if not column.kind.startswith("list_"):
        return _number_pattern(column, 15)
    if reads_quickly(column):
        number = _number_pattern(column, 8 - (column.decimals + 1 if column.decimals else 0))
        return rf'(?:"\[{number}(?:,{number})*\]"|\[{number}\])'
    return None


def reads_quickly(column: Column) -> bool:
    """True for lists of numbers that fit into eight characters without their sign."""
    return column.kind == "list_int" or (column.kind == "list_float" and 0 <= (column.decimals or -1) <= 6)


def _number_pattern(column: Column, digits: int) -> str:
    whole = rf"(?:0|[1-9][0-9]{{0,{digits - 1}}})"
    if column.kind.endswith("int"):
        return rf"(?:0|-?[1-9][0-9]{{0,{digits - 1}}})"
    if column.kind == "list_float":
        return rf"-?{whole}\.[0-9]{{{column.decimals}}}"
    decimals = 9 if column.decimals is None else min(column.decimals, 9)
    return rf"-?{whole}(?:\.[0-9]{{1,{decimals}}})?" if decimals else f"-?{whole}"


def split_sure(columns: Sequence[Column | None], pattern: str, chunk: bytes) -> list[pa.Array] | None:
    """Return the columns of a chunk that matches `pattern` (numbers as float64, the rest as bytes), else None."""
    if not pc.match_substring_regex(pa.array([chunk], pa.binary()), pattern)[0].as_py():
        return None
    names = [str(at) for at in range(len(columns))]
    keys = ("id", "group", "split")  # hashed as texts
    numbers = [
        c is not None and c.kind in ("int", "float") and not c.class_target and c.role not in keys for c in columns
    ]
    types = {name: pa.float64() if n else pa.binary() for name, n in zip(names, numbers, strict=True)}
    table = arrow_csv.read_csv(
        pa.BufferReader(chunk),
        read_options=arrow_csv.ReadOptions(use_threads=False, column_names=names, block_size=len(chunk) + 1),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=arrow_csv.ConvertOptions(
            column_types=types, null_values=[], strings_can_be_null=False, check_utf8=False
        ),
    )
    return [column.combine_chunks() if column.num_chunks != 1 else column.chunk(0) for column in table.columns]


def parse_lists(texts: pa.Array, decimals: int) -> tuple[np.ndarray, np.ndarray]:
    """Read cells such as `[1.50,-2.25]` with `decimals` digits after each point: flat values and offsets (n + 1,).

    At most eight digits in all. They are put together as whole numbers, which are exact, so that the one division by a
    power of ten gives the float nearest to the text.
    """
    bounds = np.frombuffer(texts.buffers()[1], np.int32)
    first, last = bounds[texts.offset], bounds[texts.offset + len(texts)]
    characters = np.frombuffer(_PAD + memoryview(texts.buffers()[2])[first:last], np.uint8)
    closing = characters == ord("]")
    ends = np.flatnonzero((characters == ord(",")) | closing)
    offsets = np.zeros(len(texts) + 1, np.int64)
    offsets[1:] = np.flatnonzero(closing[ends]) + 1
    starts = np.empty_like(ends)
    np.add(ends[:-1], 1, out=starts[1:])
    starts[offsets[:-1]] += 1  # the bracket
    starts[:1] = len(_PAD) + 1

    fours = _read_fours(characters)
    negative = characters[starts] == ord("-")
    whole_ends = ends - (decimals + 1) if decimals else ends
    values = fours[whole_ends].astype(np.float64)
    lengths = whole_ends - starts
    if len(lengths) and lengths.max() > 4:
        lengths -= negative
        values += 1e4 * (fours[whole_ends - 4] * (lengths > 4))
    if decimals:
        values *= 10.0**decimals
        values += fours[ends]
        if decimals > 4:
            values += 1e4 * fours[ends - 4]
        values /= 10.0**decimals
    np.negative(values, out=values, where=negative)
    return values, offsets


def _read_fours(characters: np.ndarray) -> np.ndarray:
    """Return for each byte the number that the digits before it are, the last four of them at most."""
    digits = characters - np.uint8(ord("0"))
    is_digit = digits < 10
    digits *= is_digit
    twos = np.zeros(len(characters), np.uint8)
    np.multiply(digits[:-1], 10, out=twos[1:])
    twos += digits
    twos *= is_digit
    hundreds = np.zeros(len(characters) + 1, np.uint8)
    np.multiply(twos[:-2], is_digit[1:-1], out=hundreds[3:])
    fours = hundreds.astype(np.uint16)
    fours *= 100
    fours[1:] += twos
    return fours
