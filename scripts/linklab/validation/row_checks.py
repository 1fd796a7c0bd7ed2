"""Rules between the columns of a row, for many rows at once.

The rules here hold for any schema that says how its columns belong together (`aligned_with`, `choices_from`,
`utility_from`); those of links.csv are in links/link_checks.py and run where its columns are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from linklab.links import link_checks
from linklab.tables.cells import BrokenRule, Cells, CheckedColumns, RowLists, complete_rows, to_binary
from linklab.tables.schema import Schema
from linklab.validation.column_checks import check_column


def find_broken_rules(columns: CheckedColumns, schema: Schema) -> Iterator[BrokenRule]:
    """Yield what is wrong between the columns of some rows; cells that are wrong by themselves are left out."""
    for rule in (_list_lengths, _answers_among_candidates, _answers_of_highest_utility):
        yield from _with_rows(rule(columns, schema))
    for link_rule in link_checks.LINK_RULES if link_checks.hold_links(columns) else ():
        yield from _with_rows(link_rule(columns))


def find_broken_input_rules(columns: CheckedColumns, schema: Schema) -> Iterator[BrokenRule]:
    """Yield what is wrong between the inputs of links that have no answer yet; their candidates may be in any order."""
    yield from _with_rows(_list_lengths(columns, schema))
    for link_rule in link_checks.INPUT_RULES:
        yield from _with_rows(link_rule(columns))


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


def _with_rows(found: Iterator[BrokenRule]) -> Iterator[BrokenRule]:
    return (broken for broken in found if len(broken.rows))


def _say_always(words: str, row: int) -> str:
    """Return what is expected of every row alike."""
    return words


def _list_lengths(columns: CheckedColumns, schema: Schema) -> Iterator[BrokenRule]:
    for column in schema.columns:
        partner = column.aligned_with
        if (
            column.name not in columns
            or partner is None
            or partner not in columns
            or columns[column.name].offsets is None
        ):
            continue
        mine, other = columns[column.name], columns[partner]
        rows = np.flatnonzero(mine.ok & other.ok & (mine.lengths != other.lengths))

        def expected(row: int, mine: Cells = mine, other: Cells = other, partner: str = partner) -> str:
            return f"{other.lengths[row]} elements, one for each of {partner}; found {mine.lengths[row]}"

        yield BrokenRule(rows, column.name, "list_length", expected)


def _answers_among_candidates(columns: CheckedColumns, schema: Schema) -> Iterator[BrokenRule]:
    for column in schema.columns:
        source = column.choices_from
        rows = complete_rows(columns, column.name, source) if source else None
        if source is None or rows is None:
            continue
        candidates = columns[source]
        if candidates.values is None or columns[column.name].values is None:  # texts
            texts, answer = candidates.lists or {}, columns[column.name]
            bad = np.array([row for row in rows.tolist() if answer.text(row) not in texts.get(row, ())], np.int64)
        else:
            rows = rows[candidates.lengths[rows] > 0]
            lists = RowLists(columns, rows, source)
            bad = lists.all(lists.flat(source) != lists.spread(column.name)) if len(rows) else rows
        words = f"one of the row's {source}"
        yield BrokenRule(bad, column.name, "target_not_candidate", partial(_say_always, words))


def _answers_of_highest_utility(columns: CheckedColumns, schema: Schema) -> Iterator[BrokenRule]:
    for column in schema.columns:
        source, utility = column.choices_from, column.utility_from
        if not source or not utility or columns.get(column.name) is None or columns[column.name].values is None:
            continue
        rows = complete_rows(columns, column.name, aligned=(source, utility))
        if rows is None or columns[source].values is None:
            continue
        lists = RowLists(columns, rows, source)
        choices, values = lists.flat(source), lists.flat(utility)
        best = np.repeat(columns[utility].highest[rows], lists.n)
        chosen = choices == lists.spread(column.name)
        bad = lists.any(chosen & (values != best))

        def expected(row: int, s: str = source, u: str = utility) -> str:
            cells, worth = columns[s], columns[u]
            here = slice(cells.offsets[row], cells.offsets[row + 1])
            top = worth.values[worth.offsets[row] : worth.offsets[row + 1]]
            best = cells.values[here][top.argmax()]
            return f"{best:.15g}, the element of {s} with the highest {u} ({top.max():.15g})"

        yield BrokenRule(bad, column.name, "target_mismatch", expected)
