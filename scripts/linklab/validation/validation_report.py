"""Run a validation from header to verdict and build its report."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from linklab.tables import csv_stream
from linklab.validation import drift
from linklab.validation.cell_checks import CODES, Violation
from linklab.validation.duplicates import KeyStore
from linklab.validation.profile import QUANTILES, Profile
from linklab.validation.validation_plan import Start
from linklab.validation.validator import Outcome, Plan, check_cells, check_file, read_piece, show

SAMPLE_ROWS = 20_000  # the rows with the smallest hash of their content
SAMPLE_CHUNK = 2000  # rows of the sample parsed at a time


class Tally:
    """Counts violations by code, keeps the first few of each code, and gives every one to `sink`."""

    def __init__(self, max_examples: int, sink: Callable[[Violation], None] | None = None) -> None:
        self.counts: Counter = Counter()
        self.examples: dict[str, list[Violation]] = {}
        self.max_examples, self.sink = max_examples, sink

    def add(self, violations: Iterable[Violation]) -> None:
        for violation in violations:
            assert violation.code in CODES, violation.code
            self.counts[violation.code] += 1
            kept = self.examples.setdefault(violation.code, [])
            if len(kept) < self.max_examples:
                kept.append(violation)
            if self.sink is not None:
                self.sink(violation)


@dataclasses.dataclass
class Findings:
    """The result of one pass over a file."""

    start: Start
    tally: Tally
    n_rows: int = 0
    n_copies: int = 0  # exact copies of a row, id included
    profiles: dict[str, Profile] = dataclasses.field(default_factory=dict)
    sample: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    n_sample: int = 0
    splits: Counter = dataclasses.field(default_factory=Counter)
    notes: list[str] = dataclasses.field(default_factory=list)


def validate(
    start: Start,
    tally: Tally,
    *,
    allow_copies: bool = False,
    say_at: Callable[[int], None] = lambda n_bytes: None,
) -> Findings:
    """Check a whole file; every violation goes through `tally` in file order, repeated rows last."""
    plan, path = start.plan, start.path
    found = Findings(start, tally, notes=list(start.notes))
    tally.add(start.violations)
    stores = {"rows": KeyStore(), "ids": KeyStore(), "groups": KeyStore()}
    line = start.line
    try:
        for offset, outcome in check_file(path, plan, start.offset):
            _add_outcome(found, outcome, stores, line, offset)
            line += outcome.n_lines
            say_at(offset + outcome.used)
        if not found.n_rows and not tally.counts:
            tally.add([Violation(2, "", "no_rows", "", "rows below the header")])
        with open(path, "rb") as handle:
            tally.add(_repeated_rows(found, handle, plan, stores, allow_copies))
            rows = _read_rows(handle, stores["rows"].smallest(SAMPLE_ROWS))
        if found.n_copies and plan.lenient and not _has_ids(found, plan):
            found.notes.append(f"{found.n_copies:,} row{'s' * (found.n_copies > 1)} equal to an earlier one: without "
                               f"an id (--id-field) they may be copies or equal by chance")  # fmt: skip
    finally:
        for store in stores.values():
            store.close()
    found.n_sample, found.sample = len(rows), _sample_values(plan, rows)
    return found


def _add_outcome(found: Findings, outcome: Outcome, stores: dict, line: int, offset: int) -> None:
    tally = found.tally
    line_of = found.start.line_of
    tally.add(violation._replace(line=line_of(violation.line + line)) for violation in outcome.violations)
    if outcome.no_final_newline:
        last = line + outcome.n_lines
        if found.start.plan.lenient:
            found.notes.append("the last line has no line end")
        else:
            words = "a line end: without it a file that was cut off looks complete"
            tally.add([Violation(last, "", "no_final_newline", "", words)])
    found.n_rows += outcome.n_rows
    for name, profile in outcome.profiles.items():
        seen = found.profiles.get(name)
        found.profiles[name] = profile if seen is None else seen + profile
    for name, packed in outcome.keys.items():
        packed["line"] += line
        packed["offset"] += offset
        packed["end"] += offset
        stores[name].add(packed)


def _has_ids(found: Findings, plan: Plan) -> bool:
    """Return whether an id shows if equal rows are copies: the schema's id, or that of --id-field.

    Row names that R wrote do not show it.
    """
    options = found.start.record["options"] if found.start.record else {}
    return plan.id_at is not None and (not plan.lenient or bool(options.get("id_field")))


def _repeated_rows(
    found: Findings, handle: BinaryIO, plan: Plan, stores: dict, allow_copies: bool
) -> Iterator[Violation]:
    """Yield a violation for each row with the content or id of an earlier row, or with its group on another side."""
    line_of = found.start.line_of

    def blame(later: np.ndarray, first: np.ndarray, at: int | None, code: str, expected: str) -> Iterator[Violation]:
        for row, earlier in zip(later, first, strict=True):
            side = _cell(handle, plan, earlier, plan.split_at) if "{side}" in expected else ""
            words = expected.format(line=line_of(int(earlier["line"])), side=side)
            name = "" if at is None else plan.names[at]
            yield Violation(line_of(int(row["line"])), name, code, _cell(handle, plan, row, at), words)

    has_ids = _has_ids(found, plan)
    for later, first in stores["rows"].repeats():
        copies = later["other"] == first["other"] if has_ids else np.ones(len(later), bool)
        found.n_copies += int(copies.sum())
        if plan.lenient and not has_ids:  # few columns are often equal by chance: Fisher's iris has two equal flowers
            continue
        chosen = ~copies if allow_copies else slice(None)
        yield from blame(later[chosen], first[chosen], plan.id_at, "duplicate_row",
                         "content that differs from line {line}")  # fmt: skip
    for store, at, code, expected in (
        ("ids", plan.id_at, "duplicate_id", "a unique id; line {line} has the same id"),
        ("groups", plan.group_at, "group_overlap", "split '{side}', where line {line} of the same group is"),
    ):
        for later, first in stores[store].repeats():
            differs = later["other"] != first["other"]  # an exact copy is already reported as a repeated row
            yield from blame(later[differs], first[differs], at, code, expected)


def _cell(handle: BinaryIO, plan: Plan, entry: np.void, at: int | None) -> str:
    """Read one cell of a row again; without `at`, the row itself."""
    size = 1 << 13
    while True:
        handle.seek(int(entry["offset"]))
        data = handle.read(size)
        final = len(data) < size
        record = next(csv_stream.scan_records(data, at=0, line=1, n_columns=len(plan.columns), final=final), None)
        if final or (record is not None and record.cells is not None) or size > csv_stream.MAX_RECORD_BYTES:
            break
        size *= 8
    if record is None or record.cells is None:
        return ""
    return show(",".join(record.cells) if at is None else record.cells[at])


def _read_rows(handle: BinaryIO, places: np.ndarray) -> list[bytes]:
    """Read the rows of some entries, each with a line end."""
    rows = []
    for start, end in zip(places["offset"].tolist(), places["end"].tolist(), strict=True):
        handle.seek(start)
        rows.append(handle.read(end - start).removesuffix(b"\n") + b"\n")
    return rows


def _sample_values(plan: Plan, rows: list[bytes]) -> dict[str, np.ndarray]:
    """Return the numbers of the sampled rows by column (all elements of list columns)."""
    parts: dict[str, list[np.ndarray]] = {}
    for at in range(0, len(rows), SAMPLE_CHUNK):
        data = b"".join(rows[at : at + SAMPLE_CHUNK])
        for cells, _ in check_cells(plan, read_piece(plan, data, True, Outcome())):
            if cells.values is not None:
                parts.setdefault(cells.column.name, []).append(cells.good_values.astype(np.float32))
    return {name: np.concatenate(values) for name, values in parts.items()}


def build_report(path: str | Path, found: Findings) -> dict:
    """Return the report as JSON-ready values."""
    tally, plan = found.tally, found.start.plan
    capped = {code: n for code, n in tally.counts.items() if n > tally.max_examples}
    return {
        "file": Path(path).name,
        "rows": found.n_rows,
        "schema": found.start.schema_name,
        "clean": not tally.counts,
        "verdict": conclusion(path, found),
        "violations": tally.counts.total(),
        "counts": dict(sorted(tally.counts.items(), key=lambda item: (-item[1], item[0]))),
        "codes": {code: CODES[code] for code in sorted(tally.counts)},
        "examples": {code: [v._asdict() for v in tally.examples[code]] for code in sorted(tally.examples)},
        "examples_capped_at": tally.max_examples,
        "examples_left_out": {code: n - tally.max_examples for code, n in sorted(capped.items())},
        "exact_copies": found.n_copies,
        "columns": {
            column.name: found.profiles[column.name].to_dict(column) | _quantiles(found.sample.get(column.name))
            for column in plan.columns
            if column is not None and column.name in found.profiles
        },
        "class_balance": _class_balance(found),
        "sample_rows": found.n_sample,
        "sample_note": f"quantiles and drift of numbers use the {SAMPLE_ROWS:,} rows with the smallest content hash",
        "notes": found.notes,
    }


def _quantiles(values: np.ndarray | None) -> dict:
    if values is None or not len(values):
        return {}
    levels = np.quantile(values, [q / 100 for q in QUANTILES])
    return {"quantiles": {f"p{q}": float(f"{level:.6g}") for q, level in zip(QUANTILES, levels, strict=True)}}


def _class_balance(found: Findings) -> dict:
    """Return, for each class target, how even its classes are."""
    balance = {}
    for column in found.start.plan.schema.by_role("target"):
        counts = getattr(found.profiles.get(column.name), "classes", None)
        if not column.class_target or not counts:
            continue
        shares = np.array(sorted(counts.values(), reverse=True), float) / counts.total()
        balance[column.name] = {
            "classes": len(counts),
            "largest": counts.most_common(1)[0][0],
            "largest_share": round(float(shares[0]), 4),
            "smallest_share": round(float(shares[-1]), 6),
            "entropy_bits": round(float(-(shares * np.log2(shares)).sum()), 4),
            "classes_of_at_least_1_pct": int((shares >= 0.01).sum()),
        }
    return balance


def compare(reference: Findings, current: Findings) -> dict:
    """Return the drift of every column both files have."""
    columns = {}
    for column in current.start.plan.columns:
        if column is None or column.name not in reference.profiles:
            continue
        old, new = reference.profiles[column.name], current.profiles[column.name]
        figures = {"missing_share": [round(p.missing / max(p.n, 1), 6) for p in (old, new)]}
        earlier, later = (found.sample.get(column.name) for found in (reference, current))
        if old.classes and new.classes:
            columns[column.name] = drift.compare_classes(old.classes, new.classes) | figures
        elif earlier is not None and later is not None and len(earlier) and len(later):
            columns[column.name] = drift.compare_numbers(earlier, later) | figures
    worst = sorted(columns, key=lambda name: -columns[name]["psi"])
    return {
        "rows": [reference.n_rows, current.n_rows],
        "drifted": [name for name in worst if columns[name]["verdict"] == "drifted"],
        "shifted": [name for name in worst if columns[name]["verdict"] == "shifted"],
        "columns": columns,
    }


def conclusion(path: str | Path, found: Findings) -> str:
    """Return the result in one sentence."""
    name, n, counts = Path(path).name, found.tally.counts.total(), found.tally.counts
    if not n:
        return f"{name} is clean: {found.n_rows:,} rows, no violations"
    how_many = "1 violation" if n == 1 else f"{n:,} violations of {len(counts)} kind{'s' * (len(counts) > 1)}"
    if not found.n_rows:
        return f"{name} failed: {how_many}; no row is valid, most often: {CODES[counts.most_common(1)[0][0]]}"
    return f"{name} failed: {how_many} in {found.n_rows:,} rows"
