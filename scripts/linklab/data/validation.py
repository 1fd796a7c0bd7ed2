"""Validate a CSV of any size: blocks of it in parallel, each by columns where it is plain and row by row where not."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from linklab.data import csv_stream
from linklab.data.checks import Violation
from linklab.data.columns import check_column, split_cells
from linklab.data.cross_checks import find_faults
from linklab.data.duplicates import entries, hash_texts
from linklab.data.profile import Profile, profile_cells
from linklab.data.schema import Column, Schema

BLOCK_BYTES = 2 << 20  # small enough for the caches, large enough for numpy
EXACT_BYTES = 32 << 10  # a piece this small that is not plain is read row by row
N_THREADS = 2
SHOWN_CHARACTERS = 200


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to check: the schema, and for each column of the file its schema column (None: not to be checked)."""

    schema: Schema
    names: list[str]  # the file's header
    columns: list[Column | None]
    lenient: bool = False  # the schema was inferred: only what no CSV should hold is damage
    crlf: bool = False
    id_at: int | None = None
    group_at: int | None = None
    split_at: int | None = None
    exact: bool = False  # take the slow path everywhere (tests compare the two)


@dataclasses.dataclass
class Piece:
    """Consecutive rows as columns, with the line (from 0) and byte each row starts at."""

    columns: list
    lines: np.ndarray
    offsets: np.ndarray


@dataclasses.dataclass
class Outcome:
    """What a block held. Lines and offsets count from the block's first."""

    n_rows: int = 0
    n_lines: int = 0
    used: int = 0  # bytes; less than the block when it ends inside a row
    violations: list[Violation] = dataclasses.field(default_factory=list)
    profiles: dict[str, Profile] = dataclasses.field(default_factory=dict)
    rows: list[np.ndarray] = dataclasses.field(default_factory=list)  # key: content, other: id
    ids: list[np.ndarray] = dataclasses.field(default_factory=list)  # key: id, other: content
    groups: list[np.ndarray] = dataclasses.field(default_factory=list)  # key: group, other: split
    sample: list[tuple[np.ndarray, list[bytes]]] = dataclasses.field(default_factory=list)
    no_final_newline: bool = False


def show(text: str) -> str:
    """Return a cell as a report can hold it: control characters and bad bytes escaped, the end of long ones cut."""
    cut = text[:SHOWN_CHARACTERS] + ("…" if len(text) > SHOWN_CHARACTERS else "")
    if cut.isprintable():
        return cut
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in cut
    )


def check_block(plan: Plan, data: bytes, *, final: bool, sample_limit: int = 2**64 - 1) -> Outcome:
    """Check one block, which starts at the start of a row."""
    outcome = Outcome()
    for piece in _pieces(plan, data, final, outcome):
        _check_piece(plan, piece, outcome, data, sample_limit)
    if final and outcome.used and not data.endswith(b"\n"):
        outcome.no_final_newline = True
    outcome.violations.sort(key=lambda v: v.line)
    return outcome


def _pieces(plan: Plan, data: bytes, final: bool, outcome: Outcome) -> Iterator[Piece]:
    """Cut a block into pieces that are plain CSV, as large as possible, and read what lies between row by row."""
    at, step = 0, len(data)
    while at < len(data):
        end = len(data) if at + step >= len(data) else data.rfind(b"\n", at, at + step) + 1
        end = end if end > at else data.find(b"\n", at) + 1 or len(data)
        chunk = data if (at, end) == (0, len(data)) else data[at:end]
        columns = None if plan.exact else _split_plain(plan, chunk)
        if columns is not None:
            n = len(columns[0])
            ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10)
            offsets = np.zeros(n, np.int64)
            offsets[1:] = ends[:-1] + 1
            yield Piece(columns, outcome.n_lines + np.arange(n), offsets + at)
            outcome.n_lines += n
            at = end
        elif len(chunk) > EXACT_BYTES and not plan.exact:
            step = len(chunk) // 8
            continue
        else:
            piece, reached = _read_exactly(plan, data, at, end, final, outcome)
            if len(piece.lines):
                yield piece
            outcome.n_lines += data.count(b"\n", at, reached)
            if reached < end:
                outcome.used = reached
                return
            at = reached
        step *= 2
    outcome.used = at


def _split_plain(plan: Plan, chunk: bytes) -> list | None:
    if not csv_stream.is_plain(chunk):
        return None
    if (b"\r" in chunk) != plan.crlf or (plan.crlf and chunk.count(b"\r\n") != chunk.count(b"\n")):
        return None
    return split_cells(chunk, len(plan.columns))


def _read_exactly(plan: Plan, data: bytes, at: int, end: int, final: bool, outcome: Outcome) -> tuple[Piece, int]:
    """Read records from byte `at` until one starts at `end` or later; name the damaged lines."""
    cells, lines, offsets = [], [], []
    for record in csv_stream.scan_records(
        data, at=at, line=outcome.n_lines, n_columns=len(plan.columns), final=final
    ):
        raw = data[record.offset : record.end]
        if raw.endswith(b"\n") and raw.endswith(b"\r\n") != plan.crlf:
            last_line = record.line + raw.count(b"\n") - 1
            words = "CR LF, as the header's line" if plan.crlf else "LF, as the header's line"
            outcome.violations.append(Violation(last_line, "", "mixed_line_ends", repr(raw[-2:])[1:], words))
        if record.cells is None:
            value = show(raw.rstrip(b"\r\n").decode("utf-8", "surrogateescape"))
            outcome.violations.append(Violation(record.line, "", record.code, value, record.message))
        else:
            cells.append(record.cells)
            lines.append(record.line)
            offsets.append(record.offset)
        at = record.end
        if at >= end:
            break
    columns = [list(column) for column in zip(*cells, strict=True)]
    return Piece(columns, np.array(lines, np.int64), np.array(offsets, np.int64)), at


def _check_piece(plan: Plan, piece: Piece, outcome: Outcome, data: bytes, sample_limit: int) -> None:
    table = {}
    for column, texts in zip(plan.columns, piece.columns, strict=True):
        if column is None:
            continue
        cells, faults = check_column(column, texts, lenient=plan.lenient)
        table[column.name] = cells
        profile = profile_cells(cells)
        seen = outcome.profiles.get(column.name)
        outcome.profiles[column.name] = profile if seen is None else seen + profile
        for row, verdict in faults:
            outcome.violations.append(
                Violation(
                    int(piece.lines[row]), column.name, verdict.code, show(cells.text(row)), verdict.expected
                )
            )
    for finding in find_faults(table, plan.schema):
        cells = table[finding.column]
        for row in finding.rows.tolist():
            outcome.violations.append(
                Violation(
                    int(piece.lines[row]), finding.column, finding.code, show(cells.text(row)), finding.expected(row)
                )
            )
    outcome.n_rows += len(piece.lines)
    _remember_keys(plan, piece, outcome, data, sample_limit)


def _remember_keys(plan: Plan, piece: Piece, outcome: Outcome, data: bytes, sample_limit: int) -> None:
    lines, offsets = piece.lines, piece.offsets
    content = [c for i, c in enumerate(piece.columns) if i not in (plan.id_at, plan.split_at)] or piece.columns
    rows = _hash_columns(content)
    ids = 0 if plan.id_at is None else _hash_columns([piece.columns[plan.id_at]])
    outcome.rows.append(entries(rows, ids, lines, offsets))
    if plan.id_at is not None:
        outcome.ids.append(entries(ids, rows, lines, offsets))
    if plan.split_at is not None:
        group = rows if plan.group_at is None else _hash_columns([piece.columns[plan.group_at]])
        outcome.groups.append(entries(group, _hash_columns([piece.columns[plan.split_at]]), lines, offsets))
    chosen = np.flatnonzero(rows <= np.uint64(sample_limit))
    if len(chosen):
        texts = [_raw_row(data, offset, len(plan.columns)) for offset in offsets[chosen].tolist()]
        outcome.sample.append((rows[chosen], texts))


def _raw_row(data: bytes, offset: int, n_columns: int) -> bytes:
    line_end = data.find(b"\n", offset) + 1 or len(data)
    raw = data[offset:line_end]
    if raw.count(b'"') % 2:  # the row goes on in the next line
        record = next(csv_stream.scan_records(data, at=offset, line=0, n_columns=n_columns, final=True))
        raw = data[offset : record.end]
    return raw if raw.endswith(b"\n") else raw + b"\n"


def _hash_columns(columns: list) -> np.ndarray:
    """Return a 64-bit hash of each row of some columns."""
    if isinstance(columns[0], list):
        rows = zip(*columns, strict=True)
        return hash_texts("\x1f".join(row).encode("utf-8", "surrogateescape") for row in rows)
    joined = columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, b"\x1f")
    return hash_texts(joined.to_pylist())


def check_file(path: str | Path, plan: Plan, start: int, sample_limit) -> Iterator[tuple[int, Outcome]]:
    """Yield (byte offset, outcome) of the blocks of a file in order, the first row at byte `start`.

    `sample_limit()` gives the largest content hash still of use for a sample. Constant memory: a few blocks.
    """
    with open(path, "rb") as handle, ThreadPoolExecutor(N_THREADS) as pool:
        at, at_end, waiting = start, False, deque()
        while True:
            while not at_end and len(waiting) < 2 * N_THREADS:
                handle.seek(at)
                data = handle.read(BLOCK_BYTES)
                at_end = len(data) < BLOCK_BYTES or not handle.read(1)
                if not at_end:
                    data = data[: data.rfind(b"\n") + 1] or data
                if data:
                    task = pool.submit(check_block, plan, data, final=at_end, sample_limit=int(sample_limit()))
                    waiting.append((at, len(data), task))
                at += len(data)
            if not waiting:
                return
            offset, size, task = waiting.popleft()
            outcome = task.result()
            if outcome.used < size:  # the block ended inside a quoted cell: the next one starts where that row does
                for _, _, later in waiting:
                    later.cancel()
                waiting.clear()
                at, at_end = offset + outcome.used, False
            yield offset, outcome
