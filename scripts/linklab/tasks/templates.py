"""Prompt templates: `{column}` stands for a visible cell; a line that names list columns is repeated per element."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from linklab import files
from linklab.cli import UserError
from linklab.tables.schema import Schema

# What decides a link and nothing else: weather, obstacles and surroundings already show in RSSI, noise and busy, and
# each extra word costs a token. Gemma spends one token on every digit and one on " -", so a candidate costs 14.
LINK_TEMPLATE = (
    "{regulatory_domain} {radio_standard} {channel_bandwidth_mhz} MHz {link_distance_m} m "
    "{tx_power_dbm} dBm {antenna_gain_dbi} dBi radar {radar_events_per_day}\n"
    "{available_channels_mhz} {rssi_dbm} {noise_dbm} {busy_pct}"
)
_FIELD = re.compile(r"\{([^{}]*)\}")
_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?"
_PLAIN_LIST = rf"\[{_NUMBER}(?:,{_NUMBER})*+\]"  # a JSON list that can simply be cut at its commas
_PLAIN_NUMBERS = re.compile(_PLAIN_LIST)
_ALL_PLAIN_NUMBERS = re.compile(rf"(?:{_PLAIN_LIST}\0)*+")  # such cells, each ended by NUL
_short_numbers: set[str] = set()  # numbers of at most four characters met in plain lists: there are 13,000


def read_template(path: str | Path) -> str:
    """Read a template file; its last line end is not part of the prompt."""
    path = files.require_file(path)
    try:
        return path.read_text(encoding="utf-8-sig").removesuffix("\n")  # Notepad's byte order mark is no text
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from error


def default_template(schema: Schema) -> str:
    """Return `column: {column}` for every input column, list columns last."""
    inputs = schema.by_role("input")
    plain = [f"{column.name}: {{{column.name}}}" for column in inputs if not column.kind.startswith("list_")]
    lists = [f"{column.name}: {{{column.name}}}" for column in inputs if column.kind.startswith("list_")]
    return "\n".join(plain + lists)


@dataclasses.dataclass(frozen=True)
class _Line:
    """One line of a template: `pattern` holds a %s for each field, or is the text itself where there is none."""

    pattern: str
    fields: tuple[str, ...]
    lists: tuple[str, ...]  # the list columns among the fields, each once
    separator: str | None = None  # what stands between all fields, where nothing else stands in the line


class Template:
    """A checked template. `render` gives the prompt of one row."""

    def __init__(self, text: str, schema: Schema) -> None:
        """Raise a UserError that lists the visible columns when `text` asks for anything else."""
        self.text = text
        self.visible = {column.name: column for column in schema.by_role("input")}
        if not text.strip():
            raise UserError("the prompt template is empty")
        self._lines = [self._parse(number, line) for number, line in enumerate(text.split("\n"), start=1)]
        if not self.columns:
            raise UserError("the prompt template names no column, so every prompt would be the same; write {column}")

    def _parse(self, number: int, line: str) -> _Line:
        fields = _FIELD.findall(line)
        if "{" in (bare := _FIELD.sub("", line)) or "}" in bare:
            raise UserError(f"prompt template line {number}: a brace without its partner in '{line}'")
        for name in fields:
            if name not in self.visible:
                raise UserError(
                    f"prompt template line {number}: '{{{name}}}' is no visible column; "
                    f"the visible columns are: {', '.join(self.visible)}"
                )
        lists = dict.fromkeys(name for name in fields if self.visible[name].kind.startswith("list_"))
        around = _FIELD.split(line)[::2]
        alike = len(fields) > 1 and not around[0] and not around[-1] and len(set(around[1:-1])) == 1
        pattern = _FIELD.sub("%s", line.replace("%", "%%")) if fields else line
        return _Line(pattern, tuple(fields), tuple(lists), around[1] if alike else None)

    @property
    def columns(self) -> list[str]:
        """The columns a prompt shows."""
        return list(dict.fromkeys(name for line in self._lines for name in line.fields))

    def render(self, row: Mapping[str, str], lists: Mapping[str, list[str]] = MappingProxyType({})) -> str:
        """Return the prompt of a row of raw cells; `lists` holds list cells the caller has read already.

        Raises a UserError that names the column when the list cells of one line are no JSON lists of one length.
        """
        lines = []
        for line in self._lines:
            if not line.lists:
                lines.append(line.pattern % tuple([row[name] for name in line.fields]) if line.fields else line.pattern)
                continue
            cells = {name: lists[name] if name in lists else read_list(name, row[name]) for name in line.lists}
            if len(set(map(len, cells.values()))) > 1:
                sizes = {name: len(cell) for name, cell in cells.items()}
                raise UserError(f"the list columns of one template line differ in length: {sizes}")
            columns = [cells[name] if name in cells else itertools.repeat(row[name]) for name in line.fields]
            write = line.pattern.__mod__ if line.separator is None else line.separator.join  # twice as fast as %
            lines.extend(map(write, zip(*columns, strict=False)))
        return "\n".join(lines)

    def render_rows(
        self, columns: Mapping[str, Sequence[str]], lists: Mapping[str, Sequence[list[str]]] = MappingProxyType({})
    ) -> list[str]:
        """Return what `render` gives for every row, from whole columns: in half the time.

        Raises a ValueError or a UserError, which names no row, where a row has an empty list or `render` would raise.
        """
        parts = []
        for line in self._lines:
            if not line.lists:
                rows = zip(*(columns[name] for name in line.fields), strict=True)
                parts.append(map(line.pattern.__mod__, rows) if line.fields else itertools.repeat(line.pattern))
                continue
            cells = {name: lists[name] if name in lists else read_lists(name, columns[name]) for name in line.lists}
            sizes = [list(map(len, cell)) for cell in cells.values()]
            if sizes.count(sizes[0]) < len(sizes) or not all(sizes[0]):
                raise ValueError("lists of different length, or an empty one, which leaves its line out")
            fields = [cells[name] if name in cells else map(itertools.repeat, columns[name]) for name in line.fields]
            write = line.pattern.__mod__ if line.separator is None else line.separator.join
            parts.append(["\n".join(map(write, zip(*row, strict=False))) for row in zip(*fields, strict=True)])
        return list(map("\n".join, zip(*parts, strict=False)))


def read_lists(name: str, cells: Sequence[str]) -> list[list[str]]:
    """Return what `read_list` gives for each of a column's cells; plain ones are looked at all at once."""
    lists = [cell[1:-1].split(",") for cell in cells]
    joined = "\0".join(cells)
    if joined[:1] == "[" and joined[-1:] == "]" and joined.count("]\0[") == len(cells) - 1:
        if _short_numbers.issuperset(itertools.chain.from_iterable(lists)):
            return lists
        if _ALL_PLAIN_NUMBERS.fullmatch(joined + "\0"):
            _short_numbers.update([element for row in lists for element in row if len(element) <= 4])
            return lists
    return [read_list(name, cell) for cell in cells]


def read_list(name: str, text: str) -> list[str]:
    """Return the elements of a JSON list cell, numbers as they are written: `[5180,-61.5]` -> ["5180", "-61.5"]."""
    if text[:1] == "[" and text[-1:] == "]":
        elements = text[1:-1].split(",")
        if _short_numbers.issuperset(elements):  # as a rule: faster than the pattern
            return elements
        if _PLAIN_NUMBERS.fullmatch(text):
            _short_numbers.update([element for element in elements if len(element) <= 4])
            return elements
    try:
        value = json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list) or not all(isinstance(element, str) for element in value):
        raise UserError(f"column '{name}' = {text[:80]!r}: a JSON list of numbers or texts is expected")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(constant)
