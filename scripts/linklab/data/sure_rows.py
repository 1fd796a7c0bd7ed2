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

from linklab.data.schema import Column

MAX_COLUMNS = 128  # beyond, the automaton outgrows RE2's memory and crawls
MAX_WORDS = 64
_PLAIN = r"[!#-+\--~](?:[ !#-+\--~]*[!#-+\--~])?"  # printable ASCII without comma, quote and outer spaces
_QUOTED = r'"[!#-~](?:[ !#-~]*[!#-~])?"'
_ANY = r'(?:[ !#-+\--~]*|"[ !#-~]*")'
_PAD = b"\0" * 8  # the window of the first number reaches before it


class _Words:
    """How to read a number of up to `size` characters as one word of as many bytes (4 or 8).

    `keep[k]` keeps the low half-bytes (the digits) of its last k characters; `steps` then add up neighbours in pairs,
    fours and eights. Half the bytes, half the time: most numbers in lists have at most four digits.
    """

    def __init__(self, size: int) -> None:
        bits, self.size, self.type = 8 * size, size, np.dtype(f"<u{size}")
        digits = (1 << bits) // 255 * 15  # 0x0F0F…
        self.keep = np.array([((1 << bits) - (1 << (bits - 8 * k))) & digits for k in range(size + 1)], self.type)
        scale = self.type.type
        self.steps = [
            (scale((10**half << 8 * half) + 1), scale(8 * half), scale(sum(m << s for s in range(0, bits, 16 * half))))
            for half, m in ((1, 0xFF), (2, 0xFFFF), (4, 0xFFFFFFFF))
            if 2 * half <= size
        ]

    def read(self, data: bytes, ends: np.ndarray, lengths: np.ndarray, decimals: int) -> np.ndarray:
        """Return the numbers without sign whose last characters stand before the bytes `ends` (behind the pad)."""
        windows = np.ndarray(len(data) - self.size + 1, self.type, data, strides=(1,))
        words = windows[ends + (len(_PAD) - self.size)] & self.keep[lengths]
        if decimals:  # close the gap of the point
            before_point = self.type.type((1 << (8 * (self.size - decimals - 1))) - 1)
            words = (words & self.keep[decimals]) | ((words & before_point) << self.type.type(8))
        for factor, shift, mask in self.steps:
            words *= factor
            words >>= shift
            words &= mask
        values = words.view(f"<i{self.size}").astype(np.float64)
        if decimals:
            values /= 10.0**decimals
        return values


_FOUR, _EIGHT = _Words(4), _Words(8)


def line_pattern(columns: Sequence[Column | None], *, crlf: bool) -> str | None:
    """Return the RE2 grammar of a block of sound lines, or None where the schema has none."""
    if len(columns) > MAX_COLUMNS:
        return None
    cells = [_cell_pattern(column) for column in columns]
    if None in cells:
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
    numbers = [c is not None and c.kind in ("int", "float") and not c.class_target for c in columns]
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
    """Read cells such as `[1.50,-2.25]` with `decimals` digits after each point: flat values and offsets (n + 1,)."""
    bounds = np.frombuffer(texts.buffers()[1], np.int32)
    first, last = bounds[texts.offset], bounds[texts.offset + len(texts)]
    data = _PAD + memoryview(texts.buffers()[2])[first:last].tobytes().translate(None, b"[")
    characters = np.frombuffer(data, np.uint8)[len(_PAD) :]
    ends = np.flatnonzero((characters - np.uint8(ord("-"))) > 12)  # only `,` and `]` lie outside `-` .. `9`
    starts = np.empty_like(ends)
    starts[:1] = 0
    np.add(ends[:-1], 1, out=starts[1:])
    offsets = np.zeros(len(texts) + 1, np.int64)
    offsets[1:] = np.flatnonzero(characters[ends] == ord("]")) + 1

    negative = characters[starts] == ord("-")
    lengths = ends - starts
    lengths -= negative
    words = _FOUR if len(lengths) and lengths.max() <= 4 else _EIGHT
    values = words.read(data, ends, lengths, decimals)
    np.negative(values, out=values, where=negative)
    return values, offsets
