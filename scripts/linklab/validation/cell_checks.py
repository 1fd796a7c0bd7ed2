"""The rules for one cell, and the codes of all violations with their meanings.

`check_cell` is exact and slow. The fast path of `column_checks` only finds the cells that are certainly valid; all
other cells come here, so only this module names what is wrong with a cell.
"""

from __future__ import annotations

import json
import re
from sys import float_info
from typing import NamedTuple

from linklab.tables.infer import NOT_A_VALUE, is_missing_number, is_missing_word, looks_like_mojibake
from linklab.tables.schema import NUMBER, Column

# Codes are a contract: reports of different months are compared by them.
CODES = {
    # the file
    "bom": "the file starts with a byte order mark",
    "crlf": "lines end in CR LF where the contract says LF",
    "mixed_line_ends": "a line ends differently from the header",
    "no_final_newline": "the last line has no line end: the file may have been cut off",
    "no_rows": "no rows below the header",
    "bad_header": "a column name is empty, repeated or not plain text",
    "missing_column": "a column of the schema is not in the header",
    "unknown_column": "a column of the header is not in the schema",
    "column_order": "the header holds the schema's columns in another order",
    # the line
    "blank_line": "a line without a row",
    "ragged_row": "more or fewer cells than the header",
    "bad_quoting": "a quote that is never closed, or is not allowed there",
    # the cell
    "bad_utf8": "bytes that are not UTF-8",
    "nul_byte": "a NUL byte",
    "control_character": "a control character or line break inside a cell",
    "mojibake": "text that was decoded with the wrong encoding once",
    "missing_value": "an empty cell where a value is required",
    "blank_text": "a cell of white space only",
    "outer_space": "white space before or after the value",
    "not_a_value": "NaN, infinity, null or the like",
    "not_a_number": "text where a number is required",
    "number_format": "a number that is not in plain spelling (1_000, +5, 007, 1e3, 1,5, full-width digits)",
    "not_an_integer": "a number with a point where a whole number is required",
    "too_many_decimals": "more digits after the point than the column has",
    "out_of_range": "a number outside the column's range",
    "unknown_value": "a word that is not among the column's choices",
    "spelling_variant": "a choice in other case or spacing",
    "not_a_list": "not a JSON list of the right elements",
    "empty_list": "a list without elements",
    # across columns
    "list_length": "a list with more or fewer elements than the list it belongs to",
    "candidate_order": "candidates that are not rising, or are repeated",
    "illegal_channel": "a candidate the domain does not allow at this channel width",
    "target_not_candidate": "an answer that is not among the row's candidates",
    "target_mismatch": "an answer that does not follow from the row's other columns",
    "signal_mismatch": "reported signals that do not fit the true noise and SINR of the same row",
    "distance_mismatch": "a link distance that does not fit the coordinates",
    # across rows
    "duplicate_id": "the id of an earlier row with other content",
    "duplicate_row": "the same content as an earlier row",
    "group_overlap": "a group (or copied row) on two sides of the split",
}

# Violations of whole lines: their `expected` says what is wrong.
LINE_CODES = frozenset(("blank_line", "ragged_row", "bad_quoting", "bad_header"))

_INT = re.compile(r"0|-?[1-9][0-9]*")
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.([0-9]+))?")
_LENIENT_FLOAT = re.compile(NUMBER)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200b\ufeff]")  # with the zero-width space and the BOM
_FREE_TEXT_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")  # a note may hold tabs and line breaks


class Violation(NamedTuple):
    """One violation. `line` is the physical line of the file, 0 if there is none."""

    line: int
    column: str
    code: str
    value: str
    expected: str


class CellCheck(NamedTuple):
    """The value of a cell (None: missing or invalid); for an invalid cell also the code and what is expected."""

    value: float | str | list | None
    code: str = ""
    expected: str = ""


def check_cell(column: Column, text: str, *, lenient: bool = False) -> CellCheck:
    """Check one cell. `lenient` (an inferred schema) accepts exponents, `[1, 2]` and line breaks in free text."""
    if not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text):
        return CellCheck(None, "bad_utf8", "UTF-8 text")
    if "\0" in text:
        return CellCheck(None, "nul_byte", "text without NUL bytes")
    if not text and not column.nullable:
        return CellCheck(None, "missing_value", f"a value: {describe_cell(column)}")
    if not text:
        return CellCheck(None)
    if lenient and column.nullable and column.kind in ("int", "float") and is_missing_number(text):
        return CellCheck(None)
    if text.isspace():
        return CellCheck(None, "blank_text", describe_cell(column))
    if text != text.strip():
        return CellCheck(None, "outer_space", f"no space around the value; {describe_cell(column)}")
    if column.kind.startswith("list_"):
        return _check_list(column, text, lenient)
    return (_check_text if column.kind == "str" else _check_number)(column, text, lenient)


def _check_text(column: Column, text: str, lenient: bool) -> CellCheck:
    free = lenient and column.choices is None
    if (_FREE_TEXT_CONTROL if free else _CONTROL).search(text):
        return CellCheck(None, "control_character", "text without control characters")
    if looks_like_mojibake(text):
        return CellCheck(None, "mojibake", "text decoded with the encoding it was written in")
    if column.choices is None or text in column.choices:
        return CellCheck(text)
    folded = {choice.strip().casefold(): choice for choice in column.choices}
    near = folded.get(" ".join(text.split()).casefold())
    if near is not None:
        return CellCheck(None, "spelling_variant", f"'{near}'")
    if column.role == "target" and is_missing_word(text):
        return CellCheck(None, "missing_value", f"a value: {describe_cell(column)}")
    return CellCheck(None, "unknown_value", describe_cell(column))


def _check_number(column: Column, text: str, lenient: bool) -> CellCheck:
    whole = column.kind.endswith("int")
    found = (_INT if whole else _LENIENT_FLOAT if lenient else _FLOAT).fullmatch(text)
    if not found:
        return CellCheck(None, _number_violation(text, whole), describe_cell(column))
    value = float(text)
    low = -float_info.max if column.low is None else column.low
    high = float_info.max if column.high is None else column.high
    if not whole and not lenient and column.decimals is not None and len(found[1] or "") > column.decimals:
        return CellCheck(None, "too_many_decimals", describe_cell(column))
    if not low <= value <= high:
        return CellCheck(None, "out_of_range", describe_cell(column))
    if column.choices is not None and text not in column.choices:
        return CellCheck(None, "unknown_value", describe_cell(column))
    return CellCheck(value)


def _number_violation(text: str, whole: bool) -> str:
    if text.strip().strip("\"'").lower() in NOT_A_VALUE:
        return "not_a_value"
    if whole and _FLOAT.fullmatch(text):
        return "number_format" if text == "-0" else "not_an_integer"
    try:
        float(text)  # reads every number that Python can: underscores, exponents, plus signs, digits of any script
    except ValueError:
        spelt = re.fullmatch(r"[+-]?[0-9]{1,3}(?:[ ,.'\u00a0\u202f][0-9]{3})*(?:[.,][0-9]+)?|[+-]?[0-9]+,[0-9]+", text)
        return "number_format" if spelt or re.fullmatch(r"0[xX][0-9a-fA-F]+", text) else "not_a_number"
    return "number_format"


def _check_list(column: Column, text: str, lenient: bool) -> CellCheck:
    if not (text.startswith("[") and text.endswith("]") and len(text) > 1):
        return CellCheck(None, "not_a_list", describe_cell(column))
    if not text[1:-1].strip():
        return CellCheck([]) if column.nullable else CellCheck(None, "empty_list", describe_cell(column))
    kind = column.kind.removeprefix("list_")
    if kind == "str":
        try:
            elements = json.loads(text)
        except (ValueError, RecursionError):
            elements = None
        if elements is None or not all(isinstance(element, str) for element in elements):
            return CellCheck(None, "not_a_list", describe_cell(column))
    else:
        elements = text[1:-1].split(",")
    values = []
    for number, element in enumerate(elements, start=1):
        if lenient and number > 1 and kind != "str":
            element = element.removeprefix(" ")
        if element != element.strip():
            return CellCheck(None, "outer_space", f"element {number} without spaces; {describe_cell(column)}")
        if not element:
            return CellCheck(None, "not_a_list", f"element {number} is empty; {describe_cell(column)}")
        check = (_check_text if kind == "str" else _check_number)(column, element, lenient)
        if check.code:
            shown = element if len(element) <= 40 else element[:40] + "…"
            return CellCheck(None, check.code, f"element {number} is '{shown}'; {check.expected}")
        values.append(check.value)
    return CellCheck(values)


def describe_cell(column: Column) -> str:
    """Return what a cell of the column must be: `a whole number from 150 to 20000 m`."""
    names = {"int": ("a whole number", "whole numbers"), "float": ("a number", "numbers"), "str": ("text", "texts")}
    is_list = column.kind.startswith("list_")
    kind = column.kind.removeprefix("list_")
    if column.choices is not None and len(column.choices) <= 12:
        words = "one of " + ", ".join(column.choices)
    elif column.choices is not None:
        words = f"one of {len(column.choices)} known values"
    else:
        words = names[kind][is_list]
    if column.low is not None and column.high is not None:
        words += f" from {column.low:.15g} to {column.high:.15g}"
    elif column.low is not None:
        words += f" of at least {column.low:.15g}"
    elif column.high is not None:
        words += f" of at most {column.high:.15g}"
    words += f" {column.unit}" if column.unit else ""
    if kind == "float" and column.decimals is not None:
        words += f", at most {column.decimals} decimals"
    return f"a JSON list of {words}" if is_list else words
