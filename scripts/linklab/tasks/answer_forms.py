"""The form of an answer's text: targets side by side (`5775 594`) or as JSON (`{"channel": "5775", "rate": 594}`).

A form gives the text before, in and after each value. The text before and after is fixed, so that constrained
decoding has to choose only the values.
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
    head: str = ""  # the start of every answer

    def before(self, position: int) -> str:
        """Return the text before a value; it may share a token with the start of the value."""
        return self.separator if position else ""

    def value(self, text: str, kind: str) -> str:
        """Return a value as the answer holds it."""
        return text

    def after(self, position: int) -> str:
        """Return the fixed text after a value."""
        return ""

    def parts(self, text: str, names: Sequence[str]) -> tuple[list[str], str]:
        """Return (the text of each target, "" if missing; what is wrong with the whole answer, or "")."""
        parts = text.strip().split(self.separator) if len(names) > 1 else [text]
        wrong = f"{len(parts)} parts where {len(names)} are expected" if len(parts) > len(names) else ""
        return (parts + [""] * len(names))[: len(names)], wrong


@dataclasses.dataclass(frozen=True)
class JsonForm:
    """A JSON object with a key per target, as `json.dumps` writes it: numbers bare, everything else quoted.

    A class is quoted even if it is a number, so that no value is the start of another.
    """

    names: tuple[str, ...]

    @property
    def head(self) -> str:
        """The start of every answer: `{"channel":`."""
        return f"{{{_quote(self.names[0])}:"

    def before(self, position: int) -> str:
        """Return the space before a value; it may share a token with the start of the value."""
        return " "

    def value(self, text: str, kind: str) -> str:
        """Return a value as the answer holds it: a number in JSON spelling, null if it is not one, else quoted."""
        if kind != "number":
            return _quote(text)
        if _JSON_NUMBER.fullmatch(text):
            return text
        number = read_number(text)
        if math.isnan(number):
            return "null"
        return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)

    def after(self, position: int) -> str:
        """Return the key of the next value, or the end of the object."""
        return f", {_quote(self.names[position + 1])}:" if position + 1 < len(self.names) else "}"

    def parts(self, text: str, names: Sequence[str]) -> tuple[list[str], str]:
        """Return (the text of each target, "" if missing; what is wrong with the whole answer, or "")."""
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
    """The (key, value) pairs of a JSON object, with duplicate keys."""


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


AnswerForm = PlainForm | JsonForm


def write(form: AnswerForm, kinds: Mapping[str, str], target: Mapping[str, str], n: int | None = None) -> str:
    """Return the answer text of a row's targets; with `n` only the first `n`, up to the start of the next value."""
    names = list(kinds)
    text = form.head
    for position, name in enumerate(names[:n]):
        text += form.before(position) + form.value(target[name], kinds[name]) + form.after(position)
    return text + (form.before(n) if n is not None and n < len(names) else "")
