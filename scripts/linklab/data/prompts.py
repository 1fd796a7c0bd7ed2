"""Prompt templates: `{column}` stands for a visible cell; a line that names list columns is repeated per element."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from linklab import files
from linklab.cli import UserError
from linklab.data.schema import Schema

# What decides a link and nothing else: weather, obstacles and surroundings already show in RSSI, noise and busy, and
# each extra word costs a token. Gemma spends one token on every digit and one on " -", so a candidate costs 14.
LINK_TEMPLATE = (
    "{regulatory_domain} {radio_standard} {channel_bandwidth_mhz} MHz {link_distance_m} m "
    "{tx_power_dbm} dBm {antenna_gain_dbi} dBi radar {radar_events_per_day}\n"
    "{available_channels_mhz} {rssi_dbm} {noise_dbm} {busy_pct}"
)
_FIELD = re.compile(r"\{([^{}]*)\}")


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


class Template:
    """A checked template. `render` gives the prompt of one row."""

    def __init__(self, text: str, schema: Schema) -> None:
        """Raise a UserError that lists the visible columns when `text` asks for anything else."""
        self.text = text
        self.visible = {column.name: column for column in schema.by_role("input")}
        if not text.strip():
            raise UserError("the prompt template is empty")
        self._lines = [self._parse(number, line) for number, line in enumerate(text.split("\n"), start=1)]
        if not any(fields for _, fields, _ in self._lines):
            raise UserError("the prompt template names no column, so every prompt would be the same; write {column}")

    def _parse(self, number: int, line: str) -> tuple[str, list[str], list[str]]:
        fields = _FIELD.findall(line)
        if "{" in (bare := _FIELD.sub("", line)) or "}" in bare:
            raise UserError(f"prompt template line {number}: a brace without its partner in '{line}'")
        for name in fields:
            if name not in self.visible:
                raise UserError(
                    f"prompt template line {number}: '{{{name}}}' is no visible column; "
                    f"the visible columns are: {', '.join(self.visible)}"
                )
        return line, fields, [name for name in fields if self.visible[name].kind.startswith("list_")]

    @property
    def columns(self) -> list[str]:
        """The columns a prompt shows."""
        return list(dict.fromkeys(name for _, fields, _ in self._lines for name in fields))

    def render(self, row: Mapping[str, str]) -> str:
        """Return the prompt of a row of raw cells.

        Raises a UserError that names the column when the list cells of one line are no JSON lists of one length.
        """
        lines = []
        for line, fields, lists in self._lines:
            if not fields:
                lines.append(line)
            elif not lists:
                lines.append(_fill(line, row))
            else:
                cells = {name: read_list(name, row[name]) for name in lists}
                sizes = {name: len(cell) for name, cell in cells.items()}
                if len(set(sizes.values())) > 1:
                    raise UserError(f"the list columns of one template line differ in length: {sizes}")
                for i in range(sizes[lists[0]]):
                    lines.append(_fill(line, {**row, **{name: cell[i] for name, cell in cells.items()}}))
        return "\n".join(lines)


def _fill(line: str, row: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda match: row[match[1]], line)


def read_list(name: str, text: str) -> list[str]:
    """Return the elements of a JSON list cell, numbers as they are written: `[5180,-61.5]` -> ["5180", "-61.5"]."""
    try:
        value = json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list) or not all(isinstance(element, str) for element in value):
        raise UserError(f"column '{name}' = {text[:80]!r}: a JSON list of numbers or texts is expected")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(constant)
