"""Choose the schema that a file is checked against: that of links, a given one, or one inferred from its cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linklab import files
from linklab.cli import UserError
from linklab.links.links import LINK_SCHEMA
from linklab.tables import csv_stream
from linklab.tables.dialect import sniff
from linklab.tables.schema import Column, Schema
from linklab.tables.table import BAD_ROWS, EMPTY_ROWS, TableOptions, match_names, open_table
from linklab.tables.understand import understand
from linklab.validation.cell_checks import Violation
from linklab.validation.validator import Plan, check_block, show

TRIED_BYTES = 256 << 10  # of the rows, to find out if the names of a damaged header are right, or its order
TOLERANCE = 0.02  # the share of cells of an inferred number column that may be something else
ALLOW_MISSING = 0.5  # the share of a column's cells that may be empty
_EXPECTED = {"nul_byte": "text without NUL bytes", "bad_utf8": "UTF-8 text"}  # of rows that cannot be read
SPLIT_NAMES = ("split", "fold", "subset")


@dataclasses.dataclass(frozen=True)
class Start:
    """A plan, the violations of the header, and the start of the rows."""

    plan: Plan
    schema_name: str
    violations: list[Violation]
    notes: list[str]
    offset: int
    line: int
    path: Path  # the file to check: the user's, or a plain copy of a table in another format
    lines: Sequence[int] | None = None  # for such a copy: the user's line for each of its lines from the second on
    record: dict[str, Any] | None = None  # how the table was read

    def line_of(self, line: int) -> int:
        """Return the line of the user's file that a line of `path` came from."""
        return line if not self.lines or line < 2 else self.lines[min(line - 2, len(self.lines) - 1)]


def make_plan(
    path: str | Path,
    *,
    schema: str | None = None,
    options: TableOptions = TableOptions(),  # noqa: B008 (frozen)
    allow_missing: float = ALLOW_MISSING,
    scratch: Path | None = None,
) -> Start:
    """Read the header and return the plan; `schema` is `links`, `infer`, a JSON file, or None to decide by the header.

    A table that is not plain CSV is copied to `scratch` as one, and the copy is checked.
    """
    path = Path(path)
    dialect = sniff(path, delimiter=options.delimiter, encoding=options.encoding)
    as_it_is = dialect.kind == "csv" and dialect.delimiter == "," and dialect.encoding.startswith("utf-8")
    as_it_is = as_it_is and dialect.line_end != "CR" and not dialect.separator_line
    if as_it_is and (schema == "links" or (schema is None and _looks_like_links(csv_stream.scan_header(path).names))):
        return _plan_of_file(path, "links", LINK_SCHEMA, options)
    table = open_table(path, options)
    name = schema or ("links" if _looks_like_links(table.names) else "infer")
    understood = understand(table, lenient=True, allow_missing=allow_missing, tolerance=TOLERANCE)
    chosen = understood.schema if name == "infer" else LINK_SCHEMA if name == "links" else _read_schema(name)
    if table.is_plain:
        start = _plan_of_file(path, name, chosen, options)
    else:
        damage: list[Violation] = []
        assert scratch is not None
        copy = scratch / "table.csv"

        def on_damage(line: int, code: str, message: str) -> None:
            if code == "blank_line" and name == "infer":
                table.note_left_out(EMPTY_ROWS, line)
            elif options.drop_bad_rows:
                table.note_left_out(BAD_ROWS, line)
            else:
                damage.append(Violation(line, "", code, "", _EXPECTED.get(code, message)))

        lines = table.canonical_copy(copy, on_damage)
        understood.record["left_out"] |= {why: len(lines) for why, lines in table.left_out.items()}
        start = _plan_of_file(copy, name, chosen, options)
        start = dataclasses.replace(start, violations=[*start.violations, *damage], lines=lines)
    notes = [*start.notes, *understood.record["notes"]]
    return dataclasses.replace(start, notes=notes, record=understood.record if name == "infer" else None)


def _plan_of_file(path: Path, name: str, chosen: Schema, options: TableOptions) -> Start:
    header = csv_stream.scan_header(path)
    notes: list[str] = []
    targets = match_names(path, options.target_fields, header.names)
    if name != "infer" and targets:
        chosen = chosen.with_targets(targets)
    lenient = name == "infer"
    by_name = {column.name: column for column in chosen.columns}
    split_at = _split_column(header.names, by_name, options.split_field, lenient)
    violations = _header_violations(header, strict_file=not lenient, notes=notes)
    violations += _column_violations(header.names, chosen, split_at, notes)
    columns = [by_name.pop(name, None) for name in header.names]  # a repeated name is checked once
    plan = Plan(chosen, header.names, columns, lenient, header.crlf, split_at)
    if violations and split_at is None and len(header.names) == len(chosen.columns):
        in_order = dataclasses.replace(plan, names=chosen.names, columns=list(chosen.columns))
        if _count_violations(path, header, in_order) < _count_violations(path, header, plan):
            notes.append("the cells fit the schema's order of columns, not the header's names: checked in that order")
            plan = in_order
    return Start(plan, name, violations, notes, header.end, 1 + header.n_lines, path)


def _count_violations(path: str | Path, header: csv_stream.Header, plan: Plan) -> int:
    """Return how many violations a plan finds in the first rows, including repeated ids."""
    with open(path, "rb") as handle:
        handle.seek(header.end)
        data = handle.read(TRIED_BYTES)
        final = len(data) < TRIED_BYTES
    outcome = check_block(plan, data, final=final)
    ids = outcome.keys["ids"]["key"] if "ids" in outcome.keys else np.zeros(0)
    return len(outcome.violations) + len(ids) - len(np.unique(ids))


def _looks_like_links(names: list[str]) -> bool:
    """True for the header of links.csv, also if some of its columns were removed, added or renamed."""
    return 2 * len(set(names) & set(LINK_SCHEMA.names)) >= len(LINK_SCHEMA.names)


def _read_schema(path: str) -> Schema:
    try:
        return Schema.from_dict(files.read_json(path))
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def _split_column(
    names: list[str], by_name: Mapping[str, Column], split_field: str | None, inferred: bool
) -> int | None:
    """Return the index of the column that names each row's side of the split, or None."""
    if split_field is not None:
        if split_field not in names:
            raise UserError(f"--split-field: no column '{split_field}'; the columns are: {', '.join(names)}")
        return names.index(split_field)
    if inferred:
        return next((at for at, name in enumerate(names) if name in by_name and by_name[name].role == "split"), None)
    return next((at for at, name in enumerate(names) if name.lower() in SPLIT_NAMES and name not in by_name), None)


def _header_violations(header: csv_stream.Header, *, strict_file: bool, notes: list[str]) -> list[Violation]:
    violations = []
    if header.bom:
        violations.append(Violation(1, "", "bom", "\\xef\\xbb\\xbf", "UTF-8 without a byte order mark"))
    if header.crlf and strict_file:
        violations.append(Violation(1, "", "crlf", "\\r\\n", "LF line ends"))
    elif header.crlf:
        notes.append("lines end in CR LF")
    if header.problem:
        violations.append(Violation(1, "", "bad_header", show(",".join(header.names)), header.problem))
    return violations


def _column_violations(names: list[str], schema: Schema, split_at: int | None, notes: list[str]) -> list[Violation]:
    violations = []
    missing = [column for column in schema.columns if column.name not in names]
    hidden = schema.by_role("hidden")
    if hidden and all(column in missing for column in hidden):
        # Field data has no hidden columns; a file with only some of them is damaged.
        missing = [column for column in missing if column.role != "hidden"]
        notes.append(f"none of the {len(hidden)} hidden columns is present: rules that need them were not checked")
    for column in missing:
        violations.append(Violation(1, column.name, "missing_column", "", f"a column '{column.name}' in the header"))
    for at, name in enumerate(names):
        if name not in schema.names and at != split_at:
            words = f"one of the schema's columns: {', '.join(schema.names)}"
            violations.append(Violation(1, show(name), "unknown_column", show(name), words))
    common = [name for name in names if name in schema.names]
    ordered = [name for name in schema.names if name in common]
    if common != ordered and len(set(common)) == len(common):
        at = next(i for i, (found, wanted) in enumerate(zip(common, ordered, strict=True)) if found != wanted)
        words = f"'{ordered[at]}' before '{common[at]}': header order is schema order"
        violations.append(Violation(1, common[at], "column_order", common[at], words))
    return violations
