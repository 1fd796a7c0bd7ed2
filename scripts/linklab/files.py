"""Atomic writes of files and folders, JSON with limits, spreadsheet-safe CSV, hashes."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import difflib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from linklab.aside import all_left_overs, aside_prefix, left_overs
from linklab.cli import UserError
from linklab.locks import only_writer

_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100


def sha256_file(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file as 64 hex digits; for a folder, the SHA-256 of its files' hashes and names."""
    path = Path(path)
    if path.is_dir():
        members = sorted(p for p in path.rglob("*") if p.is_file())
        lines = "".join(f"{sha256_file(p)} {p.relative_to(path).as_posix()}\n" for p in members)
        return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def reason(error: OSError) -> str:
    """Return the system's message in lower case, to end a sentence with."""
    return (error.strerror or str(error)).lower()


def read_text(path: str | os.PathLike) -> str:
    """Return the text of a user's file, without a byte order mark; raises a UserError if it is not UTF-8 text."""
    path = require_file(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error


def require_file(path: str | os.PathLike) -> Path:
    """Return `path` as a Path; raises a UserError unless it is a regular, non-empty file."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; a file is expected")
    if not path.exists():
        raise UserError(f"{path}: no such file{suggest_file(path)}")
    if not path.is_file():
        raise UserError(f"{path}: is not a regular file; copy its content to one")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    return path


def suggest_file(path: Path) -> str:
    """Return `; did you mean …?` with the most similar file name in the same folder, or ""."""
    try:
        names = {one.name.lower(): one for one in path.parent.iterdir() if one.is_file()}
    except OSError:  # no such folder, or one that may not be read
        return "" if path.parent.is_dir() else f"; the folder {path.parent} does not exist"
    close = difflib.get_close_matches(path.name.lower(), names, n=1, cutoff=0.75)
    return f"; did you mean {names[close[0]]}?" if close else ""


_NUMBER = re.compile(r"[-+]?[0-9]*[.]?[0-9]*(?:[eE][-+]?[0-9]+)?")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def spreadsheet_cell(value: object) -> object:
    """Return a CSV cell that is safe in a spreadsheet: a text that would run as a formula gets a quote in front.

    `=1+1` -> `'=1+1`; numbers stay as they are. `plain_cell` removes the quote.
    """
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def plain_cell(text: str) -> str:
    """Undo `spreadsheet_cell`: `'=1+1` -> `=1+1`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def size_of(path: str | os.PathLike) -> int:
    """Return the size in bytes of a file, or of all files below a folder."""
    path = Path(path)
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut; does nothing where folders cannot be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows, and some network folders
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # Drive mounts refuse fsync on folders; the rename itself is done
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot create the folder ({reason(error)})") from error


def require_writable(folder: Path) -> None:
    """Raise a UserError unless `folder` can be created and written; leaves no files."""
    there = Path(os.path.realpath(folder))
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):  # has no name (Linux), so a kill cannot leave it behind
            pass
    except OSError as error:
        raise UserError(f"{folder}: cannot write here ({there}: {reason(error)})") from error


def check_out_file(path: str | os.PathLike, *, force: bool) -> Path:
    """Return `path` if a file may be written there; raises a UserError otherwise. Call it before any work."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file")
    if os.path.lexists(path) and not force:
        raise UserError(f"{path}: already exists; pass --force to replace it or choose another name")
    if os.path.lexists(path) and not path.is_file():
        raise UserError(f"{path}: is not a regular file; choose another name")
    require_writable(path.parent)
    return path


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, *, binary: bool = False, force: bool = False) -> Iterator:
    """Yield a file handle. The whole file appears at `path` when the block ends; nothing appears if it raises.

    Text is UTF-8 with LF line ends. An existing file is refused without `force`.
    """
    with FileSet(force=force) as together, together.open(path, binary=binary) as handle:
        yield handle


class FileSet:
    """Files that all appear together when the block ends; none appears if it raises.

    Each is written to a temporary file; at the end these are renamed at once, in the order they were opened. A kill
    between two renames can leave a mixture of old and new: open the manifest last, because its hashes show that.
    If another process is writing one of the files, wait for it, then raise a UserError (`locks.only_writer`).
    """

    def __init__(self, *, force: bool = False) -> None:
        self.force = force
        self.aside: dict[Path, Path] = {}  # file -> temporary file that holds its bytes until the end
        self._locks = contextlib.ExitStack()

    def __enter__(self) -> FileSet:
        return self

    @contextlib.contextmanager
    def open(self, path: str | os.PathLike, *, binary: bool = False, force: bool = False) -> Iterator:
        """Yield a handle to write one file of the set; text is UTF-8 with LF line ends.

        Bytes of a file name that are not UTF-8 are written as `\\udcXX`, which JSON reads back.
        """
        path = check_out_file(path, force=self.force or force)
        make_folder(path.parent)
        there = Path(os.path.realpath(path))  # a link to a file stays a link
        self._locks.enter_context(only_writer(there))
        remove_left_overs(there)
        try:
            number, name = tempfile.mkstemp(prefix=aside_prefix(there), suffix=".tmp", dir=there.parent)
        except OSError as error:
            raise UserError(f"{path.parent}: cannot write here ({reason(error)})") from error
        self.aside[path] = Path(name)
        text: dict[str, Any] = {} if binary else {"encoding": "utf-8", "newline": "\n", "errors": "backslashreplace"}
        with os.fdopen(number, "wb" if binary else "w", **text) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(name, path.stat().st_mode & 0o7777 if path.exists() else 0o666 & ~umask())

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._locks:
            try:
                if kind is None:
                    for path, aside in self.aside.items():
                        os.replace(aside, os.path.realpath(path))
                    for folder in {path.parent for path in self.aside}:
                        fsync_folder(folder)
            finally:
                for aside in self.aside.values():
                    aside.unlink(missing_ok=True)


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class CsvLines:
    """The output of csv.writer and csv.DictWriter: rows end in LF, and every line break in a cell is quoted.

    With lineterminator "\\n" the csv module leaves a lone CR unquoted, and readers take it for the end of the row.
    """

    def __init__(self, handle: TextIO) -> None:
        self._handle = handle

    def write(self, row: str) -> None:
        """Write one row; the csv module gives it with CR LF at its end."""
        self._handle.write(f"{row.removesuffix(chr(13) + chr(10))}\n")


class SheetWriter:
    """Writes a CSV that is safe in a spreadsheet: no cell is a formula (`spreadsheet_cell`), rows end in LF."""

    def __init__(self, handle: TextIO) -> None:
        self._writer = csv.writer(CsvLines(handle))

    def writerow(self, cells: Iterable[object]) -> None:
        """Write one row."""
        self._writer.writerow(map(spreadsheet_cell, cells))


def write_text(path: str | os.PathLike, text: str, *, force: bool = False) -> None:
    """Write `text` to `path` atomically."""
    with atomic_write(path, force=force) as handle:
        handle.write(text)


def write_json(path: str | os.PathLike, value: object, *, force: bool = False) -> None:
    """Write `value` to `path` atomically as indented JSON; raises a ValueError for NaN."""
    write_text(path, json_text(value), force=force)


def json_text(value: object) -> str:
    """Return `value` as indented JSON; raises a ValueError for NaN."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def parse_json(text: str, *, file_names: bool = False) -> Any:
    """Return the value of a JSON text from any source; raises a ValueError beyond limits that no honest file reaches.

    The limits: MOST_DEPTH levels, MOST_DIGITS digits of a number, no NaN or infinity, no lone surrogates (`file_names`
    allows those that encode a byte of a file name).
    """
    try:
        value = json.loads(text, parse_int=_parse_int, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if text.count("[") + text.count("{") > MOST_DEPTH and not _is_shallow(value):
        raise ValueError(_TOO_DEEP)
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape" if file_names else "strict")
        except UnicodeEncodeError:
            raise ValueError("half a character (a lone surrogate)") from None
    return value


MOST_DEPTH, MOST_DIGITS, MOST_BYTES = 64, 300, 256 << 20
_TOO_DEEP = f"nested more than {MOST_DEPTH} levels deep"


def _parse_int(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits; at most {MOST_DIGITS} are read")
    return int(text)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _is_shallow(value: object) -> bool:
    level: list[object] = [value]
    for _ in range(MOST_DEPTH):
        below: list[object] = []
        for one in level:
            below += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        if not below:
            return True
        level = below
    return False


def read_json(path: str | os.PathLike, *, file_names: bool = False) -> dict:
    """Read one JSON object with `parse_json`; raises a UserError with file, line and column of an error."""
    path = require_file(path)
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path}: {path.stat().st_size:,} bytes; a file of this kind has at most {MOST_BYTES:,}")
    try:
        value = parse_json(path.read_text(encoding="utf-8"), file_names=file_names)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON at column {error.colno} ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object is expected, found {type(value).__name__}")
    return value


def fsync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_left_overs(out: Path) -> None:
    """Remove what killed runs left beside `out`; call it only as its writer (`locks.only_writer`)."""
    for path in left_overs(out):
        _remove(path)


def remove_all_left_overs(folder: Path, prefix: str = "") -> None:
    """Remove what killed runs left in a folder beside outputs named `prefix`…; skip those being written now."""
    for path, out in all_left_overs(folder).items():
        if not out.name.startswith(prefix):
            continue
        with contextlib.suppress(UserError), only_writer(out, wait_s=0.0):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder, if it exists; a kill leaves it complete or gone, never half removed."""
    if folder.exists():
        aside = folder.parent / f"{aside_prefix(folder)}{secrets.token_hex(4)}.tmp"
        os.rename(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)  # a later run removes what remains


def swap(stage: Path, out_dir: Path) -> bool:
    """Move the folder `stage` to `out_dir` in one step; the old folder, if any, moves to `stage`.

    Returns False and changes nothing if the system cannot do that.
    """
    if out_dir.exists() and any(out_dir.iterdir()):
        done = _exchange(stage, out_dir)
    else:
        try:
            os.replace(stage, out_dir)  # rename(2) replaces an empty folder in one step
            done = True
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EXDEV):  # a folder mounted from the same disk looks plain
                raise
            done = False
    fsync_folder(out_dir.parent)
    return done


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two paths in one step (Linux renameat2); returns False if the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    code = renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), ctypes.c_uint(_RENAME_EXCHANGE))
    return code == 0
