"""New rows of links, whose answers are not known yet: what the validator would say of the cells a model is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from linklab.links import link_checks
from linklab.tables.cells import CheckedColumns, to_binary
from linklab.tables.schema import Schema
from linklab.validation.column_checks import check_column
from linklab.validation.row_checks import find_broken_input_rules


def check_link_rows(schema: Schema, rows: Sequence[Mapping[str, str]], shown: Sequence[str]) -> list[str]:
    """Return what is wrong with each row's shown cells, "" where nothing is; rows that are no links have no faults.

    A domain, width or channel that does not exist, a value outside its range, or a list of another length than the
    channels': `width_mhz = 37: one of 20, 40, 80, 160 MHz`.
    """
    if not link_checks.asks_about_links(schema):
        return [""] * len(rows)
    columns: CheckedColumns = {}
    found: list[list[str]] = [[] for _ in rows]
    for name in shown:
        cells, faults = check_column(schema[name], to_binary(row[name] for row in rows), lenient=False)
        columns[name] = cells
        for at, check in faults:
            found[at].append(_describe(name, rows[at][name], check.expected))
    for broken in find_broken_input_rules(columns, schema):
        for at in broken.rows.tolist():
            found[at].append(_describe(broken.column, rows[at][broken.column], broken.expected(at)))
    return ["; ".join(texts) for texts in found]


def _describe(name: str, cell: str, expected: str) -> str:
    return f"{name} = {cell[:80]}: {expected} expected"
