"""Rows whose target is missing or no number: found, refused, or left out where an option says so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from linklab.cli import UserError
from linklab.tables.infer import NOT_A_VALUE, Scan, is_missing_word
from linklab.tables.number_format import PLAIN, NumberFormat
from linklab.tables.schema import Column, Schema, read_number
from linklab.tables.table import SHOWN_LINES, Table

MIN_ROWS_TO_JUDGE = 10  # fewer may hold one answer by chance


def check_targets(table: Table, schema: Schema, scan: Scan, given_classes: set[str], record: dict[str, Any]) -> None:
    """Find rows whose target is missing or no number; refuse them, or leave them out where an option says so."""
    options = table.options
    judges: dict[str, Callable[[str], str | None]] = {}
    for column in schema.by_role("target"):
        at = table.names.index(column.name)
        judges[column.name] = _judge(column, scan.formats.get(at) if column.name not in given_classes else None,
                                     keep=options.keep_missing_class)  # fmt: skip
    places = {name: table.names.index(name) for name in judges}
    suspicious = [
        name for name, at in places.items()
        if scan.columns[at].empty or scan.columns[at].kinds["nothing"] or (values := scan.columns[at].values) is None
        or any(judges[name](text) for text in values)
    ]  # fmt: skip
    found: BadCells = {}
    if suspicious:
        found = _find_bad_targets(table, {name: judges[name] for name in suspicious}, places)
        is_number = {name: not schema[name].class_target for name in suspicious}
        _refuse_bad_targets(table, found, scan.n_rows, is_number)
        _record_left_out(found, record)
    if any(found.values()):
        table.leave_out = reason_to_leave_out(table, schema)
    record["rows"] = scan.n_rows - len({line for cells in found.values() for _, line, _ in cells})
    if not record["rows"]:
        raise UserError(f"{table.path}: no row is left: none of the {scan.n_rows:,} has a target that can be used")


def _record_left_out(found: BadCells, record: dict[str, Any]) -> None:
    """Note which rows are left out, and why."""
    said = {"declared": "rows without a target (--missing)", "missing": "rows without a target",
            "odd": "rows whose target is no number"}  # fmt: skip
    for why, cells in found.items():
        if cells:
            lines = list(dict.fromkeys(line for _, line, _ in cells))
            record["left_out"][said[why]] = len(lines)
            record["notes"].append(f"{said[why]} are left out: {_lines(iter(lines))}")


def reason_to_leave_out(table: Table, schema: Schema) -> Callable[[list[str]], str | None]:
    """Return what says why a row of plain cells cannot serve, None where it can."""
    judges = {
        table.names.index(column.name): _judge(column, PLAIN if is_number_target(column) else None,
                                               keep=table.options.keep_missing_class)
        for column in schema.by_role("target") if column.name in table.names
    }  # fmt: skip

    def reason(cells: list[str]) -> str | None:
        return next((why for at, judge in judges.items() if (why := judge(cells[at])) is not None), None)

    return reason


def is_number_target(column: Column) -> bool:
    """True for a target all whose answers are numbers."""
    return column.kind in ("int", "float")


def _judge(column: Column, number_format: NumberFormat | None, *, keep: bool) -> Callable[[str], str | None]:
    """Return what says whether a target's cell is missing or odd (None: fine)."""

    def judge(text: str) -> str | None:
        if not text.strip():
            return "missing"
        if number_format is None:
            return None if keep or not is_missing_word(text) else "missing"
        plain = number_format.read(text) or text  # cells may be in plain spelling already
        if not math.isnan(read_number(plain)):
            return None
        return "missing" if text.strip().lower() in NOT_A_VALUE else "odd"

    return judge


BadCells = dict[str, list[tuple[str, int, str]]]  # why -> (column, line, text)


def _find_bad_targets(table: Table, judges: dict[str, Callable], places: dict[str, int]) -> BadCells:
    found: BadCells = {"declared": [], "missing": [], "odd": []}
    tokens = frozenset(table.options.missing)
    for line, cells in table.unclean_rows(None, keep_missing=True):
        for name, judge in judges.items():
            text = cells[places[name]]
            if text.strip() in tokens:
                found["declared"].append((name, line, text))
            elif (why := judge(text)) is not None:
                found[why].append((name, line, text))
    return found


def _refuse_bad_targets(table: Table, found: BadCells, n_rows: int, is_number: dict[str, bool]) -> None:
    if found["missing"] and not table.options.drop_missing_target:
        name = found["missing"][0][0]
        cells = [(line, text) for column, line, text in found["missing"] if column == name]
        words = sorted({text.strip() for _, text in cells} - {""})
        if len(cells) == n_rows and not words:
            raise UserError(f"{table.path}: column '{name}' is empty in every row; choose another --target-field")
        kept = f", or keep {words[0]!r} as an answer with --keep-missing-class" if words and not is_number[name] else ""
        held = f" ({', '.join(map(repr, words))})" if words else ""
        raise UserError(
            f"{table.path}:{cells[0][0]}: column '{name}' is missing{held} in {len(cells):,} of {n_rows:,} rows "
            f"({_lines(line for line, _ in cells)}); a row without a target cannot be used for training "
            f"or scoring: leave such "
            f"rows out with --drop-missing-target{kept}"
        )
    if found["odd"] and not table.options.drop_bad_rows:
        name = found["odd"][0][0]
        cells = [(line, text) for column, line, text in found["odd"] if column == name]
        words = list(dict.fromkeys(text.strip() for _, text in cells))
        shown = ", ".join(f"line {line}: {text!r}" for line, text in cells[:SHOWN_LINES])
        tokens = ",".join(words[:SHOWN_LINES])
        raise UserError(
            f"{table.path}:{cells[0][0]}: column '{name}' is a number in all rows but {len(cells):,} of {n_rows:,} "
            f'({shown}{", …" if len(cells) > SHOWN_LINES else ""}); say what means "no value" with --missing {tokens}, '
            f"or leave such rows out with --drop-bad-rows"
        )


def _lines(lines: Iterator[int]) -> str:
    found = list(lines)
    shown = ", ".join(map(str, found[:SHOWN_LINES]))
    return f"line{'s' * (len(found) > 1)} {shown}{', …' if len(found) > SHOWN_LINES else ''}"


def check_constant(table: Table, schema: Schema, scan: Scan) -> None:
    for column in schema.by_role("target"):
        values = scan.columns[table.names.index(column.name)].values
        distinct = [text for text in values if not is_missing_word(text)] if values is not None else None
        if column.class_target and column.choices is not None:
            distinct = list(column.choices)
        if distinct is not None and len(distinct) == 1 and scan.n_rows >= MIN_ROWS_TO_JUDGE:
            raise UserError(f"{table.path}: column '{column.name}' is {distinct[0]!r} in every row, so there is "
                            f"nothing to "
                            f"learn; choose another --target-field")  # fmt: skip
