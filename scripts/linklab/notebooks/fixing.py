"""Fix the text of a notebook file, or say what the file is if it is not a notebook."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from linklab.notebooks.findings import Finding
from linklab.notebooks.format_rules import find_format_problems
from linklab.notebooks.json_text import BOM, JsonText
from linklab.notebooks.widgets import find_widget_problems

_MOST_PASSES = 50  # a key written n times takes n passes; in practice there are only a few
_RESTORE = "restore it (git checkout -- FILE) or save the notebook again"
_NOT_NOTEBOOKS = (  # first bytes -> what such a file is, and what to do
    (b"version https://git-lfs", "a Git LFS pointer, not the notebook itself: run 'git lfs pull' first"),
    (b"PK\x03\x04", "a ZIP archive: unpack it first"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"%PDF", "a PDF, not a notebook: save the notebook itself as .ipynb"),
)


class UnreadableNotebook(ValueError):
    """A file that is not a notebook; the message says what it is. `at` is `:line:column` if that is known."""

    def __init__(self, what: str, at: str = "") -> None:
        super().__init__(what)
        self.at = at


class Problem(NamedTuple):
    """A problem with its line, and what was (or would be, or must be) done about it."""

    line: int
    problem: str
    fix: str


class Outcome(NamedTuple):
    """The fixed text, what was fixed, what `repair` would fix, and what cannot be fixed without loss."""

    text: str
    fixed: list[Problem]
    repairable: list[Problem]
    unfixed: list[Problem]


def decode(data: bytes) -> str:
    """Return the text of a notebook file, with its line ends and byte order mark.

    Raises UnreadableNotebook if the bytes are not a JSON object in UTF-8; it says what they are and what to do.
    """
    if problem := _name_bytes(data):
        raise UnreadableNotebook(problem)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableNotebook(f"not UTF-8 at byte {error.start}: save it as UTF-8") from error
    try:
        value = json.loads(text.removeprefix(BOM))
    except json.JSONDecodeError as error:
        raise _name_text(text, error) from error
    except RecursionError as error:
        raise UnreadableNotebook("nested too deeply to be a notebook") from error
    except ValueError as error:  # Python limits the digits of a whole number
        raise UnreadableNotebook("holds a number of thousands of digits: not a notebook") from error
    if not isinstance(value, dict):
        raise UnreadableNotebook("not a notebook: a JSON object is expected")
    return text


def _name_bytes(data: bytes) -> str | None:
    """Return what the bytes are if they cannot be a notebook in UTF-8, else None."""
    if not data:
        return f"zero bytes: nothing was ever written, or the content is lost; {_RESTORE}"
    if not data.strip(b"\0"):
        return f"{len(data):,} NUL bytes: the content was lost in a crash; {_RESTORE}"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4]:
        return "UTF-16 or UTF-32, and Jupyter reads UTF-8 only: convert it (iconv -f UTF-16 -t UTF-8 OLD > NEW)"
    return next((what for start, what in _NOT_NOTEBOOKS if data.startswith(start)), None)


def _name_text(text: str, error: json.JSONDecodeError) -> UnreadableNotebook:
    """Return the error for a text that is not JSON: what the text is, if known, else where the JSON breaks."""
    text = text.removeprefix(BOM)
    if not text.strip():
        return UnreadableNotebook(f"only white space: the content is lost; {_RESTORE}")
    if conflict := re.search(r"^(<{7}|={7}|>{7})( .*)?\r?$", text, flags=re.M):
        line = text.count("\n", 0, conflict.start()) + 1
        what = "unresolved merge conflict: choose one side (git checkout --ours, or --theirs, FILE)"
        return UnreadableNotebook(what, f":{line}")
    if text.lstrip().startswith("<"):
        return UnreadableNotebook("a web page, not a notebook: download the raw file instead")
    at = f":{error.lineno}:{error.colno}"
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        return UnreadableNotebook(f"cut off: the JSON ends in the middle; {_RESTORE}", at)
    return UnreadableNotebook(f"not JSON: {error.msg}", at)


def fix(text: str, *, widgets: str = "keep", repair: bool = False) -> Outcome:
    """Return a notebook's text with fixed widget data (see `widgets.find_widget_problems`), and what was done.

    With `repair`, also fix what nbformat 4 does not allow, if nothing is lost. A second run changes nothing.
    """
    fixed: list[Problem] = []
    bom = [Problem(1, "a byte order mark (BOM) before the JSON, which Jupyter does not read", "removed")]
    if not text.startswith(BOM):
        bom = []
    elif repair:
        fixed, bom, text = bom, [], text.removeprefix(BOM)
    for _ in range(_MOST_PASSES):  # a fix may uncover a problem: of a key written twice, or of the new value
        notebook, source = json.loads(text.removeprefix(BOM)), JsonText(text)
        of_widgets, of_format = find_widget_problems(notebook, widgets), find_format_problems(notebook)
        fixable = [found for found in of_format if found.changes]
        now = of_widgets + (fixable if repair else [])
        if not now:
            rest = [] if repair else [*bom, *(_with_line(source, found) for found in fixable)]
            return Outcome(text, fixed, rest, [_with_line(source, found) for found in of_format if not found.changes])
        fixed += sorted(_with_line(source, found) for found in now)
        text = source.apply(change for found in now for change in found.changes)
    raise AssertionError(f"not fixed after {_MOST_PASSES} passes: {fixed[-1]}")


def _with_line(source: JsonText, found: Finding) -> Problem:
    return Problem(source.line(found.path, found.key), found.problem, found.fix)
