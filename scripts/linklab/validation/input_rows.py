"""New rows of links, whose answers nobody knows yet: what the validator would say of the cells a model is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from linklab.links.links import CANDIDATES, LINK_SCHEMA
from linklab.tables.schema import Schema
from linklab.validation.column_checks import Cells, check_column
from linklab.validation.row_checks import find_input_faults


def check_link_rows(schema: Schema, rows: Sequence[Mapping[str, str]], shown: Sequence[str]) -> list[str]:
    """Return what is wrong with each row's shown cells, "" where nothing is; rows that are no links have no faults.

    A domain, width or channel that does not exist, a value outside its range, or a list of another length than the
    channels': `channel_bandwidth_mhz = 37: one of 20, 40, 80, 160 MHz`.
    """
    if CANDIDATES not in schema.names or schema[CANDIDATES] != LINK_SCHEMA[CANDIDATES]:
        return [""] * len(rows)
    table: dict[str, Cells] = {}
    found: list[list[str]] = [[] for _ in rows]
    for name in shown:
        cells, faults = check_column(schema[name], [row[name] for row in rows], lenient=False)
        table[name] = cells
        for at, verdict in faults:
            found[at].append(_describe(name, rows[at][name], verdict.expected))
    for fault in find_input_faults(table, schema):
        for at in fault.rows.tolist():
            found[at].append(_describe(fault.column, rows[at][fault.column], fault.expected(at)))
    return ["; ".join(texts) for texts in found]


def _describe(name: str, cell: str, expected: str) -> str:
    return f"{name} = {cell[:80]}: {expected} expected"
