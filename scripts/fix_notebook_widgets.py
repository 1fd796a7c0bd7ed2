#!/usr/bin/env python3
"""Mend the widget metadata that stops a Colab notebook from rendering, and leave every other byte as it is.

*.ipynb -> the same files, `metadata.widgets` mended or gone
    python scripts/fix_notebook_widgets.py notebooks

nbconvert (and GitHub's viewer) read `metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]` and stop
with KeyError 'state' where Colab wrote the widget models without that wrapper; nbformat calls such a notebook valid.
The mend keeps what carries information:
  models without the wrapper   wrapped into {"state": {...}, "version_major": 2, "version_minor": 0}, the form Jupyter
                               writes, so that the widgets render again
  other kinds of widget data   kept, with an empty state beside them
  nothing (null, {}, versions) the key `widgets` is removed
Exit code: 0 nothing to do, 1 a notebook was mended (with --check: would be), 2 one could not be read or written.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterable, Iterator
from json.decoder import scanstring
from pathlib import Path
from typing import NamedTuple

from linklab import cli, files

STATE_MIME = "application/vnd.jupyter.widget-state+json"
VERSIONS = {"version_major": "2", "version_minor": "0"}  # of the widget state format that ipywidgets 7 and 8 write
SKIPPED_FOLDERS = {
    ".git", ".ipynb_checkpoints", ".venv", "venv", ".tox", ".nox", "node_modules", "__pycache__", "site-packages",
}  # fmt: skip
BOM = "\ufeff"

_skip_space = re.compile(r"[ \t\r\n]*").match
_scan_value = json.JSONDecoder().raw_decode


class Member(NamedTuple):
    """One `"key": value` of a JSON object; the other fields are positions in the text."""

    key: str
    start: int
    key_end: int
    value_start: int
    value_end: int


class Edit(NamedTuple):
    """Put `text` where `start:end` is; `what` says it to a person."""

    start: int
    end: int
    text: str
    what: str


class Layout(NamedTuple):
    """How an object is written: `newline` is empty when it stands on one line."""

    newline: str
    outer: str
    unit: str
    colon: str
    comma: str

    def break_to(self, level: int) -> str:
        """Return what stands before a member `level` deep: a line break and its indentation, or nothing."""
        return self.newline and self.newline + self.outer + self.unit * level

    def write(self, entries: Iterable[str], level: int) -> str:
        """Write `"key": value` texts as an object whose closing brace stands `level` deep."""
        body = (self.comma + self.break_to(level + 1)).join(entries)
        return "{" + self.break_to(level + 1) + body + self.break_to(level) + "}" if body else "{}"


def is_broken(widgets: object) -> bool:
    """Say whether nbconvert stops at this `metadata.widgets`: anything but an object with a state object inside."""
    state = widgets.get(STATE_MIME) if isinstance(widgets, dict) else None
    return not (isinstance(state, dict) and isinstance(state.get("state"), dict))


def find_members(text: str, start: int) -> list[Member]:
    """Return the members of the object at `text[start]`, in order; [] when something else stands there.

    The text is known to be valid JSON.
    """
    members: list[Member] = []
    at = _skip_space(text, start + 1).end()
    while text[start] == "{" and text[at] != "}":
        key, key_end = scanstring(text, at + 1, True)
        value_start = _skip_space(text, _skip_space(text, key_end).end() + 1).end()
        _, value_end = _scan_value(text, value_start)
        members.append(Member(key, at, key_end, value_start, value_end))
        at = _skip_space(text, value_end).end()
        if text[at] == ",":
            at = _skip_space(text, at + 1).end()
    return members


def last_named(members: list[Member], key: str) -> Member | None:
    """Return the member that json.loads lets win when a key is written twice."""
    return next((member for member in reversed(members) if member.key == key), None)


def read_layout(text: str, members: list[Member], end: int) -> Layout:
    """Read off how the object with these members (at least one), closed before `end`, is written."""
    first, last = members[0], members[-1]
    colon = text[first.key_end : first.value_start]
    before = text[: first.start]
    inner = before[len(before.rstrip(" \t")) :]
    before = before[: len(before) - len(inner)]
    if not before.endswith("\n"):
        spaced = text[first.value_end : members[1].start] if len(members) > 1 else ", " if colon[-1] == " " else ","
        return Layout("", "", "", colon, spaced)
    outer = re.search(r"[ \t]*$", text[last.value_end : end - 1]).group()
    unit = inner[len(outer) :] if inner.startswith(outer) else ""
    return Layout("\r\n" if before.endswith("\r\n") else "\n", outer, unit, colon, ",")


def write_state(text: str, state: Member | None, layout: Layout) -> tuple[str, int]:
    """Return the mended widget-state object, as text one level inside `layout`, and how many models it holds."""
    members = find_members(text, state.value_start) if state else []
    models = [m for m in members if text[m.value_start] == "{"]
    others = [m for m in members if text[m.value_start] != "{" and m.key != "state"]
    # No string holds a raw line break, so moving every line one step in changes the indentation and nothing else.
    moved = [text[m.start : m.value_end].replace("\n", "\n" + layout.unit) for m in models]
    missing = VERSIONS.keys() - {m.key for m in others}
    entries = [
        f'"state"{layout.colon}{layout.write(moved, 2)}',
        *(text[m.start : m.value_end] for m in others),
        *(f'"{key}"{layout.colon}{value}' for key, value in VERSIONS.items() if key in missing),
    ]
    return layout.write(entries, 1), len(models)


def remove_member(text: str, members: list[Member], gone: Member, what: str) -> Edit:
    """Cut a member out together with the one comma and the line that go with it."""
    place = members.index(gone)
    if place + 1 < len(members):
        return Edit(gone.start, members[place + 1].start, "", what)
    if place > 0:
        return Edit(members[place - 1].value_end, gone.value_end, "", what)
    start = text.rindex("{", 0, gone.start) + 1
    return Edit(start, _skip_space(text, gone.value_end).end(), "", what)


def find_edit(text: str) -> Edit | None:
    """Return what mends the notebook's `metadata.widgets`, or None when it is not broken."""
    top = _skip_space(text, 1 if text.startswith(BOM) else 0).end()
    metadata = last_named(find_members(text, top), "metadata")
    in_metadata = find_members(text, metadata.value_start) if metadata else []
    widgets = last_named(in_metadata, "widgets")
    if not widgets or not is_broken(_scan_value(text, widgets.value_start)[0]):
        return None
    in_widgets = find_members(text, widgets.value_start)
    state = last_named(in_widgets, STATE_MIME)
    others = [member for member in in_widgets if member.key != STATE_MIME]
    if in_widgets:
        layout = read_layout(text, in_widgets, widgets.value_end)
        mended, n_models = write_state(text, state, layout)
        if state and (n_models or others):
            what = f"{n_models} widget model(s) put under 'state'" if n_models else "an empty widget state completed"
            return Edit(state.value_start, state.value_end, mended, what)
        if others:
            at = in_widgets[-1].value_end
            entry = f'{layout.comma}{layout.break_to(1)}"{STATE_MIME}"{layout.colon}{mended}'
            return Edit(at, at, entry, "an empty widget state added")
    return remove_member(text, in_metadata, widgets, "empty widget metadata removed")


def mend(text: str) -> tuple[str, list[str]]:
    """Return the notebook's text with sound widget metadata, and what was done to it ([] for nothing).

    Raises json.JSONDecodeError when the text is not JSON, and ValueError when it is no notebook.
    """
    if not isinstance(json.loads(text[1:] if text.startswith(BOM) else text), dict):
        raise ValueError("not a notebook: a JSON object is expected")
    done: list[str] = []
    while edit := find_edit(text):  # more than once only where a key is written twice
        text = text[: edit.start] + edit.text + text[edit.end :]
        done.append(edit.what)
    return text, done


def read_notebook(path: Path) -> str:
    """Return a notebook's text, line ends and byte order mark included; a UserError says where it is no UTF-8."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise cli.UserError(f"{path}: not UTF-8 at byte {error.start}") from error


def mend_file(path: Path, check: bool) -> list[str]:
    """Mend one notebook in place (not with `check`) and return what was done to it."""
    try:
        text, done = mend(read_notebook(path))
    except json.JSONDecodeError as error:
        raise cli.UserError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise cli.UserError(f"{path}: nested too deeply to be a notebook") from error
    except ValueError as error:
        raise cli.UserError(f"{path}: {error}") from error
    if done and not check:
        with files.atomic_write(path.resolve(), binary=True, force=True) as handle:  # a link stays a link
            handle.write(text.encode("utf-8"))
    return done


def find_notebooks(path: Path) -> Iterator[Path]:
    """Yield `path` itself, or every notebook below it when it is a folder."""

    def stop(error: OSError) -> None:
        raise error

    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path, onerror=stop):
        inside = Path(folder)
        folders[:] = sorted(
            name for name in folders if name not in SKIPPED_FOLDERS and not (inside / name / "pyvenv.cfg").exists()
        )
        yield from (inside / name for name in sorted(names) if name.endswith(".ipynb"))


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("Input")
    group.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="notebook, or folder to search for *.ipynb")
    group = parser.add_argument_group("Output")
    group.add_argument("--check", action="store_true", help="say what would be mended and write nothing")
    return parser


def run(args: argparse.Namespace) -> int:
    n_seen = n_mended = n_failed = 0
    for path in args.paths:
        try:
            found = list(find_notebooks(path))
        except OSError as error:
            found, n_failed = [], n_failed + 1
            cli.say(f"error: {error.filename}: {(error.strerror or str(error)).lower()}")
        for notebook in found:
            n_seen += 1
            try:
                done = mend_file(notebook, args.check)
            except (cli.UserError, OSError) as error:
                n_failed += 1
                reason = f"{notebook}: {(error.strerror or '').lower()}" if isinstance(error, OSError) else error
                cli.say(f"error: {reason}")
                continue
            n_mended += bool(done)
            for what in done:
                cli.say(f"{notebook}: {'would mend' if args.check else 'mended'}: {what}")
    failed = f", {n_failed} failed" if n_failed else ""
    cli.say(f"{n_mended} of {n_seen} notebooks {'would be ' if args.check else ''}mended{failed}")
    return 2 if n_failed else int(n_mended > 0)


def main(argv: list[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
