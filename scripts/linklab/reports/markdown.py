"""Escape texts from data for markdown, so that they are not read as a cell, a tag, a link or the end of a block."""

from __future__ import annotations

import re
from collections.abc import Iterable

_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_ENTITY = re.compile(r"&(?=#?\w+;)")
_LINE_ENDS = re.compile(r"[\r\n\x0b\x0c\x85\u2028\u2029]+")


def escape(text: str) -> str:
    """Return a text for a markdown line or table cell: `a|<b>` -> `a\\|&lt;b>`; line ends become spaces."""
    text = _TAG.sub("&lt;", _ENTITY.sub("&amp;", text))
    text = text.replace("`", "\\`").replace("|", "\\|").replace("](", "]\\(")
    return _LINE_ENDS.sub(" ", text)


def row(cells: Iterable[str]) -> str:
    """Return a row of a table, each cell escaped: ["a|b", "1"] -> `| a\\|b | 1 |`."""
    return f"| {' | '.join(map(escape, cells))} |"


def table(head: Iterable[str], rows: Iterable[Iterable[str]], align: str) -> list[str]:
    """Return a table as lines, each cell escaped; `align` has an l (left) or r (right) for each column."""
    return [row(head), f"|{'|'.join('---:' if side == 'r' else '---' for side in align)}|", *map(row, rows)]


def code(text: str) -> str:
    """Return a text as inline code, between more backticks than it contains; line ends become spaces."""
    text = _LINE_ENDS.sub(" ", text)
    marks = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{marks} {text} {marks}" if "`" in text else f"{marks}{text}{marks}"


def fence(text: str, language: str = "text") -> str:
    """Return a code block; its fence is longer than any sequence of backticks in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    marks = "`" * max(4, longest + 1)
    return f"{marks}{language}\n{text}\n{marks}"
