"""Find rows with a missing or non-numeric target; raise an error, or leave them out if an option says so."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from linklab.cli import UserError
from linklab.tables.infer import NOT_A_VALUE, Scan, is_missing_word
from linklab.tables.number_format import PLAIN, NumberFormat
from linklab.tables.schema import Column, Schema, read_number
from linklab.tables.table import SHOWN_LINES, Table

MIN_ROWS_TO_JUDGE = 10  # in fewer rows, one answer in every row may be chance


Judge = Callable[[str], str | None]  # text of a target cell -> "missing", "odd" (not a number), or None if usable
BadCells = dict[str, list[tuple[str, int, str]]]  # why -> (column, line, text)


def check_targets(table: Table, schema: Schema, scan: Scan, given_classes: set[str], record: dict[str, Any]) -> None:
    """Find rows with a missing or non-numeric target; raise a UserError, or leave them out if an option says so."""
    judges: dict[int, Judge] = {}  # by index of the column
    for column in schema.by_role("target"):
        at = table.names.index(column.name)
        found = scan.columns[at]
        number_format = scan.formats.get(at) if column.name not in given_classes else None
        judge = _judge(number_format, keep=table.options.keep_missing_class)
        if found.empty or found.kinds["nothing"] or found.values is None or any(map(judge, found.values)):
            judges[at] = judge
    bad: BadCells = _find_bad_targets(table, judges) if judges else {}
    for why, cells in bad.items():
        _refuse(table, why, cells, scan.n_rows, {c.name for c in schema.columns if c.class_target})
    for why, cells in bad.items():
        if cells:
            lines = list(dict.fromkeys(line for _, line, _ in cells))
            record["left_out"][_LEFT_OUT[why]] = len(lines)
            record["notes"].append(f"{_LEFT_OUT[why]} are left out: {_lines(lines)}")
    if any(bad.values()):
        table.leave_out = reason_to_leave_out(table, schema)
    record["rows"] = scan.n_rows - len({line for cells in bad.values() for _, line, _ in cells})
    if not record["rows"]:
        raise UserError(f"{table.path}: no rows are left: none of the {scan.n_rows:,} rows has a usable target")


_LEFT_OUT = {
    "declared": "rows without a target (--missing)",
    "missing": "rows without a target",
    "odd": "rows with a target that is not a number",
}


def reason_to_leave_out(table: Table, schema: Schema) -> Callable[[list[str]], str | None]:
    """Return a function: cells in plain spelling -> why the row's target is unusable, None if it is usable."""
    judges = {
        table.names.index(column.name): _judge(PLAIN if is_number_column(column) else None,
                                               keep=table.options.keep_missing_class)
        for column in schema.by_role("target") if column.name in table.names
    }  # fmt: skip

    def reason(cells: list[str]) -> str | None:
        return next((why for at, judge in judges.items() if (why := judge(cells[at])) is not None), None)

    return reason


def is_number_column(column: Column) -> bool:
    """True for a column of numbers."""
    return column.kind in ("int", "float")


def _judge(number_format: NumberFormat | None, *, keep: bool) -> Judge:
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


def _find_bad_targets(table: Table, judges: dict[int, Judge]) -> BadCells:
    found: BadCells = {"declared": [], "missing": [], "odd": []}
    for line, cells in table.unclean_rows(None, keep_missing=True):
        for at, judge in judges.items():
            why = "declared" if cells[at].strip() in table.options.missing else judge(cells[at])
            if why is not None:
                found[why].append((table.names[at], line, cells[at]))
    return found


def _refuse(table: Table, why: str, bad: list[tuple[str, int, str]], n_rows: int, classes: set[str]) -> None:
    """Raise a UserError for rows with an unusable target, unless an option leaves them out."""
    allowed = {"declared": True, "missing": table.options.drop_missing_target, "odd": table.options.drop_bad_rows}
    if not bad or allowed[why]:
        return
    name = bad[0][0]
    cells = [(line, text) for column, line, text in bad if column == name]
    words = list(dict.fromkeys(text.strip() for _, text in cells))
    where = f"{table.path}:{cells[0][0]}"
    if why == "odd":
        shown = ", ".join(f"line {line}: {text!r}" for line, text in cells[:SHOWN_LINES])
        raise UserError(
            f"{where}: column '{name}' is a number in all rows but {len(cells):,} of {n_rows:,} "
            f'({shown}{", …" if len(cells) > SHOWN_LINES else ""}); list words for "no value" with --missing '
            f"{','.join(words[:SHOWN_LINES])}, or leave such rows out with --drop-bad-rows"
        )
    words = sorted(filter(None, words))
    if len(cells) == n_rows and not words:
        raise UserError(f"{table.path}: column '{name}' is empty in every row; choose another --target-field")
    kept = f", or keep {words[0]!r} as an answer with --keep-missing-class" if words and name in classes else ""
    held = f" ({', '.join(map(repr, words))})" if words else ""
    raise UserError(
        f"{where}: column '{name}' is missing{held} in {len(cells):,} of {n_rows:,} rows "
        f"({_lines([line for line, _ in cells])}); a row without a target cannot be used for training or scoring: "
        f"leave such rows out with --drop-missing-target{kept}"
    )


def _lines(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:SHOWN_LINES]))
    return f"line{'s' * (len(lines) > 1)} {shown}{', …' if len(lines) > SHOWN_LINES else ''}"


def constant_target(table: Table, schema: Schema, scan: Scan) -> str | None:
    """Return an error text if a target has the same answer in every row (nothing to learn), else None."""
    for column in schema.by_role("target"):
        values = scan.columns[table.names.index(column.name)].values
        distinct = [text for text in values if not is_missing_word(text)] if values is not None else []
        if column.class_target and column.choices is not None:
            distinct = list(column.choices)
        if len(distinct) == 1 and scan.n_rows >= MIN_ROWS_TO_JUDGE:
            return (f"{table.path}: column '{column.name}' is {distinct[0]!r} in every row, so there is nothing to "
                    f"learn; choose another --target-field")  # fmt: skip
    return None
