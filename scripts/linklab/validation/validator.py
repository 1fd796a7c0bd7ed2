"""Validate a CSV of any size: blocks in parallel, plain blocks column by column, all others row by row."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Generator, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from linklab.parallel import map_in_order, usable_cores
from linklab.tables import csv_stream
from linklab.tables.cells import Cells, CheckedColumns, to_binary
from linklab.tables.schema import Column, Schema
from linklab.validation.cell_checks import Violation
from linklab.validation.column_checks import FailedChecks, check_column, split_cells
from linklab.validation.duplicates import entries, hash_texts
from linklab.validation.profile import Profile, profile_cells
from linklab.validation.row_checks import find_broken_rules

BLOCK_BYTES = 2 << 20  # small enough for the caches, large enough for numpy
PARALLEL_BYTES = 8 << 20  # a smaller file is checked before a second process would have started
N_PROCESSES = 2
SHOWN_CHARACTERS = 200


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to check: the schema, and for each column of the file its schema column (None: not to be checked)."""

    schema: Schema
    names: list[str]  # the file's header, or the schema's names if only those fit the cells
    columns: list[Column | None]
    lenient: bool = False  # the schema was inferred: only what is wrong in any CSV is a violation
    crlf: bool = False
    split_at: int | None = None

    @cached_property
    def id_at(self) -> int | None:
        """The index of the id column, or None."""
        return self._index_of("id")

    @cached_property
    def group_at(self) -> int | None:
        """The index of the group column, or None."""
        return self._index_of("group")

    def _index_of(self, role: str) -> int | None:
        return next((at for at, column in enumerate(self.columns) if column is not None and column.role == role), None)


@dataclasses.dataclass
class Piece:
    """Rows as columns, with the line (from 0) and byte where each row starts, and the byte after its line end."""

    columns: list[pa.Array]
    lines: np.ndarray
    offsets: np.ndarray
    ends: np.ndarray


@dataclasses.dataclass
class Outcome:
    """The result of checking one block. Lines and offsets count from the start of the block."""

    n_rows: int = 0
    n_lines: int = 0
    used: int = 0  # bytes; less than the block when it ends inside a row
    violations: list[Violation] = dataclasses.field(default_factory=list)
    profiles: dict[str, Profile] = dataclasses.field(default_factory=dict)
    keys: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # entries of "rows", "ids" and "groups"
    no_final_newline: bool = False


def show(text: str) -> str:
    """Return a cell for a report: control characters and bad bytes are escaped, long cells are cut."""
    cut = text[:SHOWN_CHARACTERS] + ("…" if len(text) > SHOWN_CHARACTERS else "")
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in cut)


def check_block(plan: Plan, data: bytes, *, final: bool) -> Outcome:
    """Check one block, which starts at the start of a row."""
    outcome = Outcome()
    piece = read_piece(plan, data, final, outcome)
    if len(piece.lines):
        _check_piece(plan, piece, outcome)
    outcome.no_final_newline = bool(final and outcome.used and not data.endswith(b"\n"))
    outcome.violations.sort(key=lambda v: v.line)
    return outcome


def read_piece(plan: Plan, data: bytes, final: bool, outcome: Outcome) -> Piece:
    """Return the rows of a block: all at once for plain CSV, else row by row, with violations for damaged lines."""
    columns = _split(plan, data)
    if columns is None:
        return _read_exactly(plan, data, final, outcome)
    outcome.n_lines, outcome.used = len(columns[0]), len(data)
    cuts = np.append(0, np.flatnonzero(np.frombuffer(data, np.uint8) == 10) + 1)
    return Piece(columns, np.arange(len(columns[0])), cuts[:-1], cuts[1:])


def _split(plan: Plan, data: bytes) -> list[pa.Array] | None:
    """Return a block's columns, None if it can only be read row by row."""
    if not csv_stream.is_plain(data):
        return None
    if (b"\r" in data) != plan.crlf or (plan.crlf and data.count(b"\r\n") != data.count(b"\n")):
        return None
    return split_cells(data, len(plan.columns))


def _read_exactly(plan: Plan, data: bytes, final: bool, outcome: Outcome) -> Piece:
    rows, places = [], []
    for record in csv_stream.scan_records(data, at=0, line=0, n_columns=len(plan.columns), final=final):
        raw = data[record.offset : record.end]
        if raw.endswith(b"\n") and raw.endswith(b"\r\n") != plan.crlf:
            last_line = record.line + raw.count(b"\n") - 1
            words = "CR LF, like the header line" if plan.crlf else "LF, like the header line"
            outcome.violations.append(Violation(last_line, "", "mixed_line_ends", repr(raw[-2:])[1:], words))
        if record.cells is None:
            value = show(raw.rstrip(b"\r\n").decode("utf-8", "surrogateescape"))
            outcome.violations.append(Violation(record.line, "", record.code, value, record.message))
        else:
            rows.append(record.cells)
            places.append((record.line, record.offset, record.end))
        outcome.used = record.end
    outcome.n_lines = data.count(b"\n", 0, outcome.used)
    columns = [to_binary(column) for column in zip(*rows, strict=True)]
    return Piece(columns, *np.array(places, np.int64).reshape(-1, 3).T)


def check_cells(plan: Plan, piece: Piece) -> Iterator[tuple[Cells, FailedChecks]]:
    """Check the columns of a piece one after the other."""
    for column, texts in zip(plan.columns, piece.columns, strict=True):
        if column is not None:
            yield check_column(column, texts, lenient=plan.lenient)


def _check_piece(plan: Plan, piece: Piece, outcome: Outcome) -> None:
    columns: CheckedColumns = {}

    def blame(row: int, name: str, code: str, expected: str) -> None:
        value = show(columns[name].text(row))
        outcome.violations.append(Violation(int(piece.lines[row]), name, code, value, expected))

    for cells, failed in check_cells(plan, piece):
        name = cells.column.name
        columns[name] = cells
        outcome.profiles[name] = profile_cells(cells)
        for row, check in failed:
            blame(row, name, check.code, check.expected)
    for broken in find_broken_rules(columns, plan.schema):
        for row in broken.rows.tolist():
            blame(row, broken.column, broken.code, broken.expected(row))
    outcome.n_rows = len(piece.lines)
    outcome.keys = _keys(plan, piece)


def _keys(plan: Plan, piece: Piece) -> dict[str, np.ndarray]:
    """Return the entries of the rows: content with id, id with content, and group with side of the split."""
    places = piece.lines, piece.offsets, piece.ends
    rows = _hash_columns([c for i, c in enumerate(piece.columns) if i not in (plan.id_at, plan.split_at)])
    ids = None if plan.id_at is None else _hash_columns([piece.columns[plan.id_at]])
    keys = {"rows": entries(rows, 0 if ids is None else ids, *places)}
    if ids is not None:
        keys["ids"] = entries(ids, rows, *places)
    if plan.split_at is not None:
        group = rows if plan.group_at is None else _hash_columns([piece.columns[plan.group_at]])
        keys["groups"] = entries(group, _hash_columns([piece.columns[plan.split_at]]), *places)
    return keys


def _hash_columns(columns: list[pa.Array]) -> np.ndarray:
    """Return a 64-bit hash of each row of some columns."""
    return hash_texts(pc.binary_join_element_wise(*columns, b"\x1f").to_pylist())


class _Part(NamedTuple):
    """A block of a file, to be read and checked in any process."""

    at: int
    size: int
    final: bool


def check_file(path: str | Path, plan: Plan, start: int) -> Iterator[tuple[int, Outcome]]:
    """Yield (byte offset, outcome) of the blocks of a file in order, the first row at byte `start`.

    Constant memory: a few blocks.
    """
    at: int | None = start
    workers = 1
    if os.path.getsize(path) - start >= PARALLEL_BYTES:
        workers = min(N_PROCESSES, usable_cores())
    while at is not None:
        at = yield from _check_from(path, plan, at, workers)
        workers = 1  # rows with line breaks: a block's start is known only after the block before was read


def _check_from(
    path: str | Path, plan: Plan, at: int, workers: int
) -> Generator[tuple[int, Outcome], None, int | None]:
    """Check blocks from byte `at` on; if one ends inside a row, return the byte to continue from, else None."""
    outcomes = map_in_order(partial(_check_part, path, plan), _cut_parts(path, at), workers)
    with contextlib.closing(outcomes):
        for part, outcome in outcomes:
            yield part.at, outcome
            if outcome.used < part.size:
                return part.at + outcome.used
    return None


def _cut_parts(path: str | Path, at: int) -> Iterator[_Part]:
    with open(path, "rb") as handle:
        final = False
        while not final:
            handle.seek(at)
            data = handle.read(BLOCK_BYTES)
            final = len(data) < BLOCK_BYTES or not handle.read(1)
            size = len(data) if final else data.rfind(b"\n") + 1 or len(data)
            if size:
                yield _Part(at, size, final)
            at += size


def _check_part(path: str | Path, plan: Plan, part: _Part) -> tuple[_Part, Outcome]:
    with open(path, "rb") as handle:
        handle.seek(part.at)
        data = handle.read(part.size)
    return part, check_block(plan, data, final=part.final)
