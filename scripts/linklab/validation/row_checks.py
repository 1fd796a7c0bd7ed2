"""Rules between the columns of a row, for many rows at once.

The rules here apply to any schema that relates columns (`aligned_with`, `choices_from`, `utility_from`); those of
links.csv are in links/link_checks.py and run if its columns are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import numpy as np

from linklab.links import link_checks
from linklab.tables.cells import BrokenRule, CheckedColumns, RowLists, complete_rows, to_binary
from linklab.tables.schema import Column, Schema
from linklab.validation.column_checks import check_column


def find_broken_rules(columns: CheckedColumns, schema: Schema) -> Iterator[BrokenRule]:
    """Yield the broken rules between the columns of some rows; cells that are invalid themselves are ignored."""
    rules = (_list_length, _answer_among_candidates, _answer_of_highest_utility)
    found = [rule(columns, column) for rule in rules for column in schema.columns if column.name in columns]
    if link_checks.is_link_table(columns):
        found += [rule(columns) for rule in link_checks.LINK_RULES]
    return (broken for broken in chain(*found) if len(broken.rows))


def check_link_rows(schema: Schema, rows: Sequence[Mapping[str, str]], shown: Sequence[str]) -> list[str]:
    """Return what is wrong with the shown cells of each new row, "" if nothing is, or if the rows are not links.

    It finds an unknown domain, width or channel, a value outside its range, or a list with another length than the
    list of channels: `width_mhz = 37: one of 20, 40, 80, 160 MHz expected`. Candidates may be in any order.
    """
    if not link_checks.has_link_candidates(schema):
        return [""] * len(rows)
    columns: CheckedColumns = {}
    found: list[list[str]] = [[] for _ in rows]

    def blame(at: int, name: str, expected: str) -> None:
        found[at].append(f"{name} = {rows[at][name][:80]}: {expected} expected")

    for name in shown:
        columns[name], failed = check_column(schema[name], to_binary(row[name] for row in rows), lenient=False)
        for at, check in failed:
            blame(at, name, check.expected)
    lengths = (_list_length(columns, columns[name].column) for name in shown)
    for broken in chain(*lengths, *(rule(columns) for rule in link_checks.INPUT_RULES)):
        for at in broken.rows.tolist():
            blame(at, broken.column, broken.expected(at))
    return ["; ".join(texts) for texts in found]


def _list_length(columns: CheckedColumns, column: Column) -> Iterator[BrokenRule]:
    mine, other = columns[column.name], columns.get(column.aligned_with or "")
    if other is None or mine.offsets is None:
        return
    rows = np.flatnonzero(mine.ok & other.ok & (mine.lengths != other.lengths))
    yield BrokenRule(
        rows, column.name, "list_length",
        lambda row: f"{other.lengths[row]} elements, one for each of {column.aligned_with}; found {mine.lengths[row]}",
    )  # fmt: skip


def _answer_among_candidates(columns: CheckedColumns, column: Column) -> Iterator[BrokenRule]:
    source = column.choices_from
    rows = complete_rows(columns, column.name, source) if source else None
    if source is None or rows is None:
        return
    candidates, answer = columns[source], columns[column.name]
    if candidates.values is None or answer.values is None:  # texts
        texts = candidates.lists or {}
        bad = np.array([row for row in rows.tolist() if answer.text(row) not in texts.get(row, ())], np.int64)
    else:
        rows = rows[candidates.lengths[rows] > 0]
        lists = RowLists(columns, rows, source)
        bad = lists.all(lists.flat(source) != lists.spread(column.name)) if len(rows) else rows
    yield BrokenRule(bad, column.name, "target_not_candidate", lambda row: f"one of the row's {source}")


def _answer_of_highest_utility(columns: CheckedColumns, column: Column) -> Iterator[BrokenRule]:
    source, utility = column.choices_from, column.utility_from
    if not source or not utility or columns[column.name].values is None:
        return
    rows = complete_rows(columns, column.name, aligned=(source, utility))
    if rows is None or columns[source].values is None:
        return
    cells, worth = columns[source], columns[utility]
    lists = RowLists(columns, rows, source)
    is_best = lists.flat(utility) == np.repeat(worth.highest[rows], lists.n)
    bad = lists.any((lists.flat(source) == lists.spread(column.name)) & ~is_best)

    def expected(row: int) -> str:
        here = slice(cells.offsets[row], cells.offsets[row + 1])
        top = worth.values[worth.offsets[row] : worth.offsets[row + 1]]
        best = cells.values[here][top.argmax()]
        return f"{best:.15g}, the element of {source} with the highest {utility} ({top.max():.15g})"

    yield BrokenRule(bad, column.name, "target_mismatch", expected)
