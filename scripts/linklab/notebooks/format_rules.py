"""The rules of nbformat 4: required and allowed keys of each object, and the fixes that lose nothing.

The rules follow the schemas nbformat.v4.0 to v4.5. They are written out here, because the hook has no dependencies.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from linklab.notebooks.findings import Finding, holds_nothing
from linklab.notebooks.json_text import Change, Copy, Path

NEWEST_MINOR = 5
_CELL_TYPES = ("code", "markdown", "raw")
_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_DIGITS = re.compile(r"0|[1-9]\d{0,8}")
_NUMBERS = ("execution_count", "nbformat", "nbformat_minor")
_JSON_MIME = re.compile(r"application/(.*\+)?json")
_OUTPUT_KEYS = {  # output type -> its required keys (no others are allowed), with the defaults for missing ones
    "execute_result": {"data": "{}", "metadata": "{}", "execution_count": "null"},
    "display_data": {"data": "{}", "metadata": "{}"},
    "stream": {"name": '"stdout"', "text": "[]"},
    "error": {"ename": '""', "evalue": '""', "traceback": "[]"},
}
_Check = Callable[[object], bool]


def is_text(value: object) -> bool:
    """Return whether a value is a string, or a list of strings: what the format calls a multi-line string."""
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(line, str) for line in value))


def is_count(value: object) -> bool:
    """Return whether a value may be an execution count: null, or a whole number from 0."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 == value % 1)


def is_object(value: object) -> bool:
    """Return whether a value is a JSON object."""
    return isinstance(value, dict)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _is_string(value: object) -> bool:
    return isinstance(value, str)


def _is_strings(value: object) -> bool:
    return isinstance(value, list) and is_text(value)


def _is_tags(value: Any) -> bool:
    return _is_strings(value) and len(set(value)) == len(value) and all(tag and "," not in tag for tag in value)


def _is_files(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(bundle, dict) for bundle in value.values())


# Keys of cell metadata with a prescribed form: (types of cells, first minor version, check).
_CELL_METADATA: dict[str, tuple[tuple[str, ...], int, _Check]] = {
    "name": (_CELL_TYPES, 0, lambda value: isinstance(value, str) and bool(re.search(r"^.+$", value))),
    "tags": (_CELL_TYPES, 0, _is_tags),
    "format": (("raw",), 0, _is_string),
    "jupyter": (_CELL_TYPES, 3, is_object),
    "execution": (("code",), 4, lambda value: isinstance(value, dict) and _is_strings(list(value.values()))),
    "collapsed": (("code",), 0, lambda value: isinstance(value, bool)),
    "scrolled": (("code",), 0, lambda value: isinstance(value, bool) or value == "auto"),
}
_METADATA: dict[str, tuple[int, _Check]] = {  # of the notebook, besides kernelspec and language_info
    "orig_nbformat": (0, lambda value: isinstance(value, int | float) and is_count(value) and value >= 1),
    "title": (2, _is_string),
    "authors": (2, _is_list),
}
_FORMS: dict[str, _Check] = {
    "data": is_object, "metadata": is_object, "execution_count": is_count, "name": _is_string, "text": is_text,
    "ename": _is_string, "evalue": _is_string, "traceback": _is_strings,
}  # fmt: skip


def find_format_problems(notebook: dict) -> list[Finding]:
    """Return what nbformat 4 would reject in a parsed notebook. Other major versions are not checked."""
    cells = notebook.get("cells")
    if notebook.get("nbformat", 4 if isinstance(cells, list) else None) not in (4, "4"):
        return []
    minor = notebook.get("nbformat_minor")
    if isinstance(minor, str) and _DIGITS.fullmatch(minor):
        minor = int(minor)
    if not isinstance(minor, int):
        minor = NEWEST_MINOR if any("id" in cell for cell in _objects(cells)) else 4
    found = list(_find_top_problems(notebook, minor))
    if isinstance(cells, list):
        taken = {cell["id"] for cell in _objects(cells) if _is_id(cell.get("id"))}
        seen: set[str] = set()
        for n, cell in enumerate(cells):
            found += _find_cell_problems(n, cell, minor, seen, taken)
    return found


def _objects(values: object) -> Iterator[dict]:
    return (value for value in values if isinstance(value, dict)) if isinstance(values, list) else iter(())


def _find_top_problems(notebook: dict, minor: int) -> Iterator[Finding]:
    where = "the notebook"
    yield from _require((), notebook, "nbformat", lambda value: value == 4, "4", where)
    yield from _require((), notebook, "nbformat_minor", lambda value: isinstance(value, int), str(minor), where)
    yield from _require((), notebook, "metadata", is_object, "{}", where)
    if "worksheets" in notebook:
        yield _unfixable((), "worksheets", "nbformat 3 content in a notebook of nbformat 4", "convert it with jupyter")
        return
    yield from _require((), notebook, "cells", _is_list, "[]", where)
    metadata = notebook.get("metadata")
    allowed = {"nbformat", "nbformat_minor", "metadata", "cells"}
    if minor <= NEWEST_MINOR:
        typed = ("kernelspec", "language_info", *_METADATA)
        yield from _find_extra_keys((), notebook, allowed, where, metadata, typed)
    if isinstance(metadata, dict):
        yield from _find_kernel_problems(metadata, minor)


def _find_kernel_problems(metadata: dict, minor: int) -> Iterator[Finding]:
    """Yield what is wrong with kernelspec, language_info and the other metadata keys with a prescribed form."""
    objects: dict[str, dict] = {"kernelspec": {}, "language_info": {}}
    for key, required in (("kernelspec", {"name", "display_name"}), ("language_info", {"name"})):
        value = metadata.get(key)
        if isinstance(value, dict) and (value.keys() >= required or not holds_nothing(value)):
            objects[key] = value
        else:
            yield from _optional(("metadata",), metadata, key, lambda value: False, "", "not an object")
    for key, (since, check) in _METADATA.items():
        if minor >= since:
            yield from _optional(("metadata",), metadata, key, check, "the metadata: ")
    spec, info = objects.values()
    language = _guess_language(spec, info)
    if spec:
        path: Path = ("metadata", "kernelspec")
        name, shown = spec.get("name"), spec.get("display_name")
        named = shown if isinstance(shown, str) and shown else "Python 3"
        guess = "python3" if language == "python" else language or named
        yield from _require(path, spec, "name", _is_string, json.dumps(guess), "the kernelspec")
        guess = name if isinstance(name, str) else named
        yield from _require(path, spec, "display_name", _is_string, json.dumps(guess), "the kernelspec")
    if info:
        path = ("metadata", "language_info")
        yield from _require(path, info, "name", _is_string, json.dumps(language or "python"), "language_info")
        for key in ("file_extension", "mimetype", "pygments_lexer", "codemirror_mode"):
            yield from _optional(path, info, key, lambda value: value is not None, "language_info: ")


def _guess_language(spec: dict, info: dict) -> str | None:
    """Return the notebook's language if the metadata tells it: `python`, `r`, …"""
    for told, key in (
        (info, "name"), (spec, "language"), (info, "pygments_lexer"), (spec, "name"), (spec, "display_name"),
    ):  # fmt: skip
        text = told.get(key)
        if isinstance(text, str) and text:
            return "python" if "python" in text.lower() else text.lower()
    return None


def _find_cell_problems(n: int, cell: object, minor: int, seen: set[str], taken: set[str]) -> Iterator[Finding]:
    path: Path = ("cells", n)
    kind = cell.get("cell_type") if isinstance(cell, dict) else None
    where = f"cell {n + 1}" + (f" ({kind})" if kind in _CELL_TYPES else "")
    if not isinstance(cell, dict):
        yield _unfixable(path, None, f"{where} is not an object", "write it again")
        return
    if kind not in _CELL_TYPES:
        if kind is None and ("outputs" in cell or "execution_count" in cell):
            yield _set(path, "cell_type", '"code"', f"{where} has no 'cell_type' but outputs")
        else:
            problem = f"{where} has the type {kind!r}, none of {', '.join(_CELL_TYPES)}"
            yield _unfixable(path, "cell_type", problem, "correct it")
        return
    if minor >= 5:
        yield from _find_id_problems(path, cell, where, seen, taken)
    yield from _require(path, cell, "metadata", is_object, "{}", where)
    yield from _require(path, cell, "source", is_text, "[]", where)
    allowed = {"cell_type", "metadata", "source"} | ({"id"} if minor >= 5 else set())
    if kind == "code":
        allowed |= {"outputs", "execution_count"}
        yield from _require(path, cell, "outputs", _is_list, "[]", where)
        yield from _require(path, cell, "execution_count", is_count, "null", where)
        outputs, count = cell.get("outputs"), cell.get("execution_count")
        for m, output in enumerate(outputs if isinstance(outputs, list) else []):
            yield from _find_output_problems((*path, "outputs", m), output, count, f"output {m + 1} of cell {n + 1}")
    else:
        allowed |= {"attachments"}
        yield from _optional(path, cell, "attachments", _is_files, f"{where}: ", "not files by name")
    metadata = cell.get("metadata")
    if isinstance(metadata, dict):
        yield from _find_cell_metadata_problems((*path, "metadata"), metadata, kind, minor, where)
    if minor <= NEWEST_MINOR:
        meaningless = ("id", "execution_count")
        yield from _find_extra_keys(path, cell, allowed, where, metadata, tuple(_CELL_METADATA), meaningless)


def _find_cell_metadata_problems(path: Path, metadata: dict, kind: str, minor: int, where: str) -> Iterator[Finding]:
    for key, (kinds, since, check) in _CELL_METADATA.items():
        value: Any = metadata.get(key)
        if kind not in kinds or minor < since:
            continue
        if key == "tags" and _is_strings(value) and not _is_tags(value) and _is_tags(list(dict.fromkeys(value))):
            tags = json.dumps(list(dict.fromkeys(value)), ensure_ascii=False)
            yield _set(path, key, tags, f"{where}, its metadata: '{key}' is {json.dumps(value)[:40]}")
        else:
            yield from _optional(path, metadata, key, check, f"{where}, its metadata: ")


def _find_id_problems(path: Path, cell: dict, where: str, seen: set[str], taken: set[str]) -> Iterator[Finding]:
    """Yield a missing, malformed or repeated id; the new id is derived from the cell's content."""
    found: Any = cell.get("id")
    if _is_id(found) and found not in seen:
        seen.add(found)
        return
    new = _derive_id(cell, taken)
    taken.add(new)
    problem = "has no 'id', which nbformat 4.5 requires"
    if _is_id(found):
        problem = f"repeats the id {found!r}"
    elif "id" in cell:
        problem = f"has the id {found!r:.70}, not 1 to 64 of a-z A-Z 0-9 - _"
    yield _set(path, "id", json.dumps(new), f"{where} {problem}")


def _is_id(value: object) -> bool:
    return isinstance(value, str) and bool(_ID.fullmatch(value))


def _derive_id(cell: dict, taken: set[str]) -> str:
    """Return an unused id of 8 hex digits that depends only on the cell's type and source."""
    content = json.dumps([cell.get("cell_type"), cell.get("source")])
    for copy in range(len(taken) + 1):
        new = hashlib.sha256(f"{copy} {content}".encode()).hexdigest()[:8]
        if new not in taken:
            return new
    raise AssertionError("more free ids than cells were tried")


def _find_output_problems(path: Path, output: object, count: object, where: str) -> Iterator[Finding]:
    kind = output.get("output_type") if isinstance(output, dict) else None
    if not isinstance(output, dict):
        yield _unfixable(path, None, f"{where} is not an object", "remove it, or run the cell again")
        return
    if kind not in _OUTPUT_KEYS:
        if kind is None and (guess := _guess_output_type(output)):
            yield _set(path, "output_type", json.dumps(guess), f"{where} has no 'output_type'")
        else:
            problem = f"{where} has the type {kind!r}, none of {', '.join(_OUTPUT_KEYS)}"
            yield _unfixable(path, "output_type", problem, "run the cell again")
        return
    where = f"{where} ({kind})"
    for key, default in _OUTPUT_KEYS[kind].items():
        if key == "execution_count" and is_count(count):
            default = json.dumps(count)
        yield from _require(path, output, key, _FORMS[key], default, where)
    data: Any = output.get("data") if "data" in _OUTPUT_KEYS[kind] else None
    for mime in data if isinstance(data, dict) else ():
        if not _JSON_MIME.fullmatch(mime):
            advice = "run the cell again"
            yield from _optional((*path, "data"), data, mime, is_text, f"{where}: ", "neither text nor lines", advice)
    superfluous = ("execution_count", *(["name"] if output.get("name") in ("stdout", "stderr") else []))
    allowed = {"output_type", *_OUTPUT_KEYS[kind]}
    yield from _find_extra_keys(path, output, allowed, where, output.get("metadata"), (), superfluous)


def _guess_output_type(output: dict) -> str | None:
    if "data" in output:
        return "execute_result" if "execution_count" in output else "display_data"
    return "error" if "traceback" in output else "stream" if is_text(output.get("text")) else None


def _find_extra_keys(
    path: Path, value: dict, allowed: set[str], where: str, metadata: object, typed: tuple[str, ...],
    meaningless: tuple[str, ...] = (),
) -> Iterator[Finding]:  # fmt: skip
    """Yield keys that are not allowed. Empty ones are removed; others move to the object's metadata, if it has one."""
    for key, part in value.items():
        if key in allowed:
            continue
        problem = f"'{key}' is not allowed in {where}"
        if key in meaningless or holds_nothing(part):
            yield _remove(path, key, problem)
        elif "metadata" in allowed and isinstance(metadata, dict) and key not in metadata and key not in typed:
            changes = (Change(path, key, None), Change((*path, "metadata"), key, Copy((*path, key))))
            yield Finding(path, key, problem, "moved to the metadata", changes)
        else:
            yield _unfixable(path, key, f"{problem} and is not empty", "move or remove it")


def _require(path: Path, value: dict, key: str, check: _Check, default: str, where: str) -> Iterator[Finding]:
    """Yield the problem of a required key that is missing or has a value of another form."""
    if key not in value:
        yield _set(path, key, default, f"{where} has no '{key}'")
    elif check(value[key]):
        return
    elif holds_nothing(value[key]):
        yield _set(path, key, default, f"{where}: '{key}' is {json.dumps(value[key])}")
    elif key in _NUMBERS and isinstance(value[key], str) and _DIGITS.fullmatch(value[key]):
        yield _set(path, key, value[key], f"{where}: '{key}' is text")
    else:
        yield from _optional(path, value, key, check, f"{where}: ")


def _optional(
    path: Path, value: dict, key: str, check: _Check, where: str, wrong: str = "not what nbformat 4 allows there",
    advice: str = "correct or remove it",
) -> Iterator[Finding]:  # fmt: skip
    """Yield the problem of an optional key that has a value of another form."""
    if key not in value or check(value[key]):
        return
    problem = f"{where}'{key}' is {json.dumps(value[key])[:40]}"
    if holds_nothing(value[key]):
        yield _remove(path, key, problem)
    else:
        yield _unfixable(path, key, f"{problem}, {wrong}", advice)


def _set(path: Path, key: str, text: str, problem: str) -> Finding:
    return Finding(path, key, problem, f"set to {text}", (Change(path, key, text),))


def _remove(path: Path, key: str, problem: str) -> Finding:
    return Finding(path, key, problem, "removed", (Change(path, key, None),))


def _unfixable(path: Path, key: str | None, problem: str, advice: str) -> Finding:
    return Finding(path, key, problem, advice, ())
