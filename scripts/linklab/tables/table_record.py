"""The record of how a table was read: kept in task.json and printed by every script."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from linklab.tables.infer import MAX_CHOICES, NOT_A_VALUE, ColumnScan, Scan
from linklab.tables.number_format import PLAIN, NumberFormat, shape_of
from linklab.tables.schema import Column, Schema
from linklab.tables.table import SHOWN_LINES, Table, match_names

SHOWN_COLUMNS = 20
KIND_NAMES = {"int": "whole number", "float": "number", "str": "text", "list_int": "list of whole numbers",
              "list_float": "list of numbers", "list_str": "list of texts"}  # fmt: skip


def make_record(table: Table, schema: Schema, target_kinds: dict[str, str], scan: Scan | None = None) -> dict[str, Any]:
    """Return the record of a table; without `scan` (the columns of links.csv are known) it has no row count."""
    kinds = [target_kinds.get(c.name) or c.kind.replace("_", " of ") for c in schema.columns]
    notes = list(table.notes)
    if scan is not None:
        kinds = [
            _say_kind(column, found, target_kinds.get(column.name), table.formats.get(at, PLAIN))
            for at, (column, found) in enumerate(zip(schema.columns, scan.columns, strict=True))
        ]
        notes += [f"--missing {t}: no cell is {t!r}" for t in table.options.missing if t not in table.missing_seen]
        notes += _notes_of_cells(table, scan)
    decimal = any(f.decimal == "," for f in table.formats.values())
    return ({"rows": scan.n_rows} if scan is not None else {}) | {
        "file": table.path.name,
        "written": table.dialect.describe() + (", decimal comma" if decimal else ""),
        "columns": [
            {"name": column.name, "role": column.role, "kind": kind}
            for column, kind in zip(schema.columns, kinds, strict=True)
        ],
        "left_out": {why: len(lines) for why, lines in table.left_out.items()},
        "notes": notes,
        "warnings": [],
        "options": table.options.to_dict(),
        "number_formats": {table.names[at]: dataclasses.asdict(found) for at, found in table.formats.items()},
    }


def _notes_of_cells(table: Table, scan: Scan) -> list[str]:
    notes = []
    for at, number_format in scan.formats.items():
        column, name = scan.columns[at], table.names[at]
        n_odd = column.n_odd(number_format)
        if n_odd and name not in match_names(table, table.options.target_fields, table.names):
            odd = [text for text in column.values or () if number_format.read(text) is None
                   and text.strip().lower() not in NOT_A_VALUE][:SHOWN_LINES]  # fmt: skip
            notes.append(f"column '{name}': {n_odd:,} of {column.n_filled:,} cells are not numbers "
                         f"({', '.join(map(repr, odd))}); list words for \"no value\" with --missing")  # fmt: skip
    for at, (name, column) in enumerate(zip(table.names, scan.columns, strict=True)):
        n = column.shapes.counts.total()
        if at in scan.formats or 2 * n < column.n_filled or name in table.options.drop_columns:
            continue
        odd = [t for t in column.values or () if shape_of(t) is None and t.strip().lower() not in NOT_A_VALUE]
        if 1 <= len(odd) <= SHOWN_LINES:
            words = ",".join(text.strip() for text in odd)
            notes.append(f"column '{name}' is text: {n:,} of {column.n_filled:,} cells are numbers; --missing {words} "
                         f"makes it a number column")  # fmt: skip
    return notes


def _say_kind(column: Column, scan: ColumnScan, target_kind: str | None, number_format: NumberFormat) -> str:
    """Return a column's kind in words: `class, 3 different`, `number, unit $`, `text, 120 different, 2 empty`."""
    distinct = f"more than {MAX_CHOICES:,}" if scan.values is None else f"{len(column.choices or scan.values):,}"
    if target_kind == "class":
        text = f"class, {distinct} different"
        if column.kind in ("int", "float"):
            text += " (numbers; --target-kind number to predict their value)"
    elif target_kind == "text":
        text = f"free text, {distinct} different"
    else:
        text = ("number" if target_kind else KIND_NAMES[column.kind]) + (
            f", {distinct} different" if column.kind == "str" else ""
        )
    text += f", {number_format.describe()}" if number_format.describe() else ""
    missing = scan.n_missing(column.kind)
    return text + (f", {missing:,} empty" if missing else "")


def lines_of_record(record: dict[str, Any]) -> list[str]:
    """Return a record as a few lines to print."""
    columns = record.get("columns", [])
    n_rows = record.get("rows") or sum(record.get("splits", {}).values())
    size = f"{n_rows:,} row{'s' * (n_rows != 1)}, {sum(c['role'] != 'answer' for c in columns)} columns"
    head = f"{record.get('file', 'table')}: {size}; {record.get('written', '')}"
    left_out = record.get("left_out", {}).items()
    return [
        head, *_lines_of_columns(columns), *_lines_of_split(record),
        *(f"  left out: {n:,} {why if n > 1 else why.replace('rows', 'row', 1)}" for why, n in left_out),
        *(f"  note: {text}" for text in record.get("notes", [])),
        *(f"warning: {text}" for text in record.get("warnings", [])),
    ]  # fmt: skip


def _lines_of_columns(columns: Sequence[dict[str, Any]]) -> list[str]:
    shown = [c for c in columns if c["role"] != "hidden"]
    hidden = [c["name"] for c in columns if c["role"] == "hidden"]
    cut = shown[:SHOWN_COLUMNS] + [c for c in shown[SHOWN_COLUMNS:] if c["role"] != "input"]
    width = min(32, max((len(c["name"]) for c in cut), default=0))
    lines = [f"  {c['name'][:32]:{width}}  {c['role']:6}  {c['kind']}" for c in cut]
    if len(cut) < len(shown):
        lines.append(f"  … and {len(shown) - len(cut)} more input columns")
    if hidden:
        lines.append(f"  hidden: {', '.join(hidden[:8])}{', …' if len(hidden) > 8 else ''}")
    return lines


def _lines_of_split(record: dict[str, Any]) -> list[str]:
    columns, splits, lines = record.get("columns", []), record.get("splits", {}), []
    group = next((c["name"] for c in columns if c["role"] == "group"), record.get("group_field"))
    if group and record.get("groups"):
        lines.append(f"  groups: {record['groups']:,} different '{group}', each on one side of the split")
    if splits:
        own = next((f" (the table's own, column '{c['name']}')" for c in columns if c["role"] == "split"), "")
        lines.append(f"  split{own}: " + ", ".join(f"{n:,} {side}" for side, n in splits.items()))
    return lines
