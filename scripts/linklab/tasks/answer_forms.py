"""How an answer's text holds its targets: side by side (`5775 594`) or as JSON (`{"channel": "5775", "rate": 594}`).

A form says what stands before, in and behind each value, so that a model can be held to it piece by piece: what stands
before and behind is fixed, and only the value is chosen.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence

from linklab.tables.schema import read_number

FORMS = ("plain", "json")  # of --answer-format
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


@dataclasses.dataclass(frozen=True)
class PlainForm:
    """The targets' texts with a separator between them."""

    separator: str
    head: str = ""  # what every answer begins with

    def before(self, position: int) -> str:
        """Return what stands before a value, and may be one token with its beginning."""
        return self.separator if position else ""

    def value(self, text: str, kind: str) -> str:
        """Return a value as the answer holds it."""
        return text

    def behind(self, position: int) -> str:
        """Return what always stands behind a value."""
        return ""

    def parts(self, text: str, names: Sequence[str]) -> tuple[list[str], str]:
        """Return (the text of each target, "" where there is none; what is wrong with the whole or "")."""
        parts = text.strip().split(self.separator) if len(names) > 1 else [text]
        wrong = f"{len(parts)} parts where {len(names)} are expected" if len(parts) > len(names) else ""
        return (parts + [""] * len(names))[: len(names)], wrong


@dataclasses.dataclass(frozen=True)
class JsonForm:
    """A JSON object with a key per target, as `json.dumps` writes it: numbers bare, everything else quoted.

    A class stands in quotes even where it is a number, so that no value is the beginning of another.
    """

    names: tuple[str, ...]

    @property
    def head(self) -> str:
        """What every answer begins with: `{"channel":`."""
        return f"{{{_quote(self.names[0])}:"

    def before(self, position: int) -> str:
        """Return the space before a value, which may be one token with its beginning."""
        return " "

    def value(self, text: str, kind: str) -> str:
        """Return a value as the answer holds it: a number as JSON knows it, null for none, else a quoted text."""
        if kind != "number":
            return _quote(text)
        if _JSON_NUMBER.fullmatch(text):
            return text
        number = read_number(text)
        if math.isnan(number):
            return "null"
        return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)

    def behind(self, position: int) -> str:
        """Return the key of the next value, or the end of the object."""
        return f", {_quote(self.names[position + 1])}:" if position + 1 < len(self.names) else "}"

    def parts(self, text: str, names: Sequence[str]) -> tuple[list[str], str]:
        """Return (the text of each target, "" where there is none; what is wrong with the whole or "")."""
        try:
            pairs = json.loads(
                text, object_pairs_hook=_Pairs, parse_int=str, parse_float=str, parse_constant=lambda name: None
            )
        except (ValueError, RecursionError):
            pairs = None
        if not isinstance(pairs, _Pairs):
            return [""] * len(names), "not a JSON object"
        keys = [key for key, _ in pairs]
        strange = next((key for key in keys if key not in names or keys.count(key) > 1), None)
        if strange is not None:
            wrong = f"key '{strange[:80]}' {'twice' if strange in names else 'is not a target'}"
            return [""] * len(names), wrong
        found = dict(pairs)
        return [value if isinstance(value := found.get(name), str) else "" for name in names], ""


class _Pairs(list):
    """The (key, value) pairs of a JSON object, doubled keys included."""


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


AnswerForm = PlainForm | JsonForm


def write(form: AnswerForm, kinds: Mapping[str, str], target: Mapping[str, str], n: int | None = None) -> str:
    """Return the answer text of a row's targets; of the first `n` alone with all that stands before the next one."""
    names = list(kinds)
    text = form.head
    for position, name in enumerate(names[:n]):
        text += form.before(position) + form.value(target[name], kinds[name]) + form.behind(position)
    return text + (form.before(n) if n is not None and n < len(names) else "")
