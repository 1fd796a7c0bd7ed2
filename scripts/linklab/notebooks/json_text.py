"""Edit a JSON text in place: positions of keys and values, and changes that leave every other byte as it is."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from json import decoder
from typing import Any, NamedTuple

BOM = "\ufeff"
Path = tuple[str | int, ...]

_SPACE = re.compile(r"[ \t\r\n]*")
_scan_string: Any = vars(decoder)["scanstring"]  # missing in the type annotations of json.decoder
_scan_value = json.JSONDecoder().raw_decode


def _skip_space(text: str, at: int) -> int:
    """Return the end of the white space that starts at `at`."""
    found = _SPACE.match(text, at)
    assert found, "no space is a match too"
    return found.end()


class Copy(NamedTuple):
    """A value copied from elsewhere in the text: `path` leads to it."""

    path: Path


class Members(NamedTuple):
    """A new object, written in the style of its surroundings."""

    entries: tuple[tuple[str, Value], ...]


Value = str | Copy | Members  # a JSON text, or one of the above


class Change(NamedTuple):
    """Give `key` of the object at `path` a value (in place when it has one), or remove it when `value` is None."""

    path: Path
    key: str
    value: Value | None


class Member(NamedTuple):
    """One `"key": value` of an object; the other fields are positions in the text."""

    key: str
    start: int
    key_end: int
    value_start: int
    value_end: int


class Edit(NamedTuple):
    """Replace `start:end` by `text`."""

    start: int
    end: int
    text: str


class Layout(NamedTuple):
    """How an object is written: `newline` is empty if it is on one line."""

    newline: str
    outer: str
    unit: str
    colon: str
    comma: str

    def break_to(self, level: int) -> str:
        """Return the text before a member `level` deep: a line break and indentation, or nothing."""
        return self.newline and self.newline + self.outer + self.unit * level

    def deeper(self, levels: int) -> Layout:
        """Return the layout of an object `levels` further inside."""
        return self._replace(outer=self.outer + self.unit * levels)


@dataclasses.dataclass
class JsonText:
    """A JSON text (known to be valid) and the positions of its members, which are found when needed."""

    text: str
    _found: dict[int, list[Member]] = dataclasses.field(default_factory=dict)

    def members(self, start: int) -> list[Member]:
        """Return the members of the object, or the items of the array, at `start`; [] for any other value."""
        if start not in self._found:
            self._found[start] = list(self._scan(start))
        return self._found[start]

    def _scan(self, start: int) -> Iterable[Member]:
        text, opened = self.text, self.text[start]
        if opened not in "{[":
            return
        at = _skip_space(text, start + 1)
        while text[at] not in "}]":
            key, key_start, key_end = "", at, at
            if opened == "{":
                key, key_end = _scan_string(text, at + 1, True)
                at = _skip_space(text, _skip_space(text, key_end) + 1)
            _, value_end = _scan_value(text, at)
            yield Member(key, key_start, key_end, at, value_end)
            at = _skip_space(text, value_end)
            if text[at] == ",":
                at = _skip_space(text, at + 1)

    def find(self, path: Path) -> tuple[int, int]:
        """Return start and end of the value at `path`. Of a repeated key the last counts, as in json.loads."""
        start = _skip_space(self.text, 1 if self.text.startswith(BOM) else 0)
        end = len(self.text)
        for step in path:
            members = self.members(start)
            member = members[step] if isinstance(step, int) else last_named(members, step)
            assert member, "the caller has seen the value"
            start, end = member.value_start, member.value_end
        return start, end

    def line(self, path: Path, key: str | None = None) -> int:
        """Return the line, from 1, of a key of the object at `path`, or of the object if it has no such key."""
        start, _ = self.find(path)
        member = last_named(self.members(start), key) if key and self.text[start] == "{" else None
        return self.text.count("\n", 0, member.start if member else start) + 1

    def layout(self, path: Path) -> Layout:
        """Return how the object at `path` is written; an empty one is written like its surroundings."""
        start, end = self.find(path)
        members = self.members(start)
        if members and self.text[start] == "{":
            return _read_layout(self.text, members, end)
        if not path:
            return Layout("", "", "", ": ", ", ")
        depth = 1
        while isinstance(path[-depth], int) and depth < len(path):
            depth += 1
        return self.layout(path[:-depth]).deeper(depth)

    def write(self, value: Value, layout: Layout, level: int) -> str:
        """Write a value; its first line is `level` deep inside an object of this layout."""
        if isinstance(value, Copy):
            start, end = self.find(value.path)
            line_start = self.text.rfind("\n", 0, start) + 1
            line = self.text[line_start:].partition("\n")[0]
            old = line[: len(line) - len(line.lstrip(" \t"))]
            lines = self.text[start:end].split("\n")  # no JSON string holds a raw line break
            new = layout.outer + layout.unit * level
            return "\n".join([lines[0], *(new + line.removeprefix(old) for line in lines[1:])])
        if isinstance(value, Members):
            entries = [f"{json.dumps(k)}{layout.colon}{self.write(v, layout, level + 1)}" for k, v in value.entries]
            body = (layout.comma + layout.break_to(level + 1)).join(entries)
            return "{" + layout.break_to(level + 1) + body + layout.break_to(level) + "}" if body else "{}"
        return value

    def apply(self, changes: Iterable[Change]) -> str:
        """Return the text with the changes, except those inside a value that another change removes or replaces."""
        grouped: dict[Path, dict[str, Value | None]] = {}
        for change in changes:
            grouped.setdefault(change.path, {})[change.key] = change.value
        edits = [edit for path, wanted in grouped.items() for edit in self._edit_object(path, wanted)]
        parts, at = [], 0
        for edit in sorted(edits, key=lambda edit: (edit.start, -edit.end)):
            if edit.start >= at:
                parts += [self.text[at : edit.start], edit.text]
                at = edit.end
        return "".join([*parts, self.text[at:]])

    def _edit_object(self, path: Path, wanted: dict[str, Value | None]) -> list[Edit]:
        """Return the edits of one object: values replaced, keys removed with their comma and line, keys added last."""
        start, end = self.find(path)
        members, layout = self.members(start), self.layout(path)
        named = {key: last_named(members, key) for key in wanted}
        replaced = [
            Edit(member.value_start, member.value_end, self.write(new, layout, 1))
            for key, member in named.items()
            if member and (new := wanted[key]) is not None
        ]
        added = [
            f"{json.dumps(key)}{layout.colon}{self.write(value, layout, 1)}"
            for key, value in wanted.items()
            if value is not None and not named[key]
        ]
        removed = {member for key, member in named.items() if member and wanted[key] is None}
        if len(removed) == len(members):
            body = (layout.comma + layout.break_to(1)).join(added)
            inside = layout.break_to(1) + body + layout.break_to(0) if body else ""
            return [Edit(start + 1, end - 1, inside)] if members or body else []
        return replaced + _cut(members, removed, "".join(layout.comma + layout.break_to(1) + entry for entry in added))


def _cut(members: Sequence[Member], removed: set[Member], added: str) -> list[Edit]:
    """Return the edits that take out `removed`, with comma and line, and put `added` after the last kept member."""
    edits: list[Edit] = []
    kept: Member | None = None  # the last one so far
    first: Member | None = None  # the first removed one after it
    for member in members:
        if member in removed:
            first = first or member
            continue
        if first:
            edits.append(Edit(first.start, member.start, ""))
        kept, first = member, None
    assert kept, "_edit_object writes an object without members itself"
    if added or first:
        edits.append(Edit(kept.value_end, members[-1].value_end, added))
    return edits


def last_named(members: Sequence[Member], key: str) -> Member | None:
    """Return the member that json.loads uses if a key is written twice."""
    return next((member for member in reversed(members) if member.key == key), None)


def _read_layout(text: str, members: Sequence[Member], end: int) -> Layout:
    """Return how the object with these members (at least one), closed before `end`, is written."""
    first, last = members[0], members[-1]
    colon = text[first.key_end : first.value_start]
    line_start = text.rfind("\n", 0, first.start) + 1
    inner = text[line_start : first.start]
    if not line_start or inner.strip(" \t"):
        spaced = text[first.value_end : members[1].start] if len(members) > 1 else ", " if colon[-1] == " " else ","
        return Layout("", "", "", colon, spaced)
    closing = text[last.value_end : end - 1]
    outer = closing[len(closing.rstrip(" \t")) :]
    unit = inner[len(outer) :] if inner.startswith(outer) else ""
    return Layout("\r\n" if text[line_start - 2 : line_start] == "\r\n" else "\n", outer, unit, colon, ",")
