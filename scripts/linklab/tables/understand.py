"""Decide what a table's columns are: role, kind, the targets' kinds; also which rows are left out, and warnings.

`TableOptions` override everything that is detected; the record in task.json keeps every decision.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from linklab.cli import UserError
from linklab.tables.bad_targets import check_targets, constant_target, is_number_column, reason_to_leave_out
from linklab.tables.infer import (
    CLASS_MAX_INTEGERS,
    FEW_WORDS,
    MAX_CHOICES,
    ColumnScan,
    Scan,
    is_missing_word,
    scan_table,
)
from linklab.tables.number_format import NUMBER_SHARE, PLAIN, NumberFormat
from linklab.tables.schema import Column, Schema, read_number
from linklab.tables.table import SHOWN_LINES, Table, TableOptions, match_names, open_table, unknown_column
from linklab.tables.table_record import make_record
from linklab.tables.table_warnings import SIDES, warn_of_columns

TARGET_KINDS = ("class", "number", "text")


@dataclasses.dataclass(frozen=True)
class Understood:
    """A table's schema and the record of it: JSON-ready, kept in task.json and printed by every script."""

    schema: Schema
    record: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Roles:
    targets: list[str]
    id_field: str | None
    group: str | None
    split: str | None
    hidden: frozenset[str]

    def of(self, name: str) -> str:
        """Return the role of a column."""
        if name in self.targets:
            return "target"
        named = {self.id_field: "id", self.group: "group", self.split: "split"}
        return named.get(name) or ("hidden" if name in self.hidden else "input")


def understand(
    table: Table,
    *,
    known: Schema | None = None,
    lenient: bool = False,
    allow_missing: float = 1.0,
    tolerance: float = 0.0,
) -> Understood:
    """Read a table once and decide what its columns are; sets its number formats and the rows it leaves out.

    `known` is the schema of a table with known columns (links.csv): options can change only roles, and a plain file is
    not read. With `lenient` (the validator, which reports every damaged cell itself) no row raises an error: a share
    `tolerance` of a column's cells may be damaged, and a column with more than a share `allow_missing` of empty cells
    is not nullable. Otherwise a UserError names an unusable row or column and the option that solves the problem.
    """
    if known is not None:
        return _understand_known(table, known)
    roles = _find_roles(table.options, table)
    ids = _IdCheck(table, roles)
    damage: list[str] = []
    scan = scan_table(table, rows=ids.watch(_rows(table, damage if lenient else None)), known=table.known_formats)
    roles = dataclasses.replace(roles, id_field=ids.id_column(roles, lenient))
    roles = dataclasses.replace(roles, split=_own_split(table, roles, scan))
    kinds = _target_kinds(table, roles, scan, lenient)
    table.formats = {
        at: found for at, found in scan.rewritten.items()
        if kinds.get(table.names[at]) != "text" and roles.of(table.names[at]) in ("input", "target")
    }  # fmt: skip
    given_classes = {name for name in roles.targets if kinds[name] == "class" and table.options.target_kinds}
    for name in given_classes:
        table.formats.pop(table.names.index(name), None)
    columns = [
        _column(name, roles.of(name), column, scan.formats.get(at), kinds.get(name), table,
                is_given=name in given_classes, lenient=lenient, allow_missing=allow_missing, tolerance=tolerance)
        for at, (name, column) in enumerate(zip(table.names, scan.columns, strict=True))
    ]  # fmt: skip
    schema = Schema(tuple(columns))
    record = make_record(table, schema, kinds, scan)
    if not lenient:
        check_targets(table, schema, scan, given_classes, record)
    elif table.options.leave_out_targets:
        with contextlib.suppress(UserError):  # rows that no option leaves out stay, and the validator reports them
            check_targets(table, schema, scan, given_classes, record)
    if constant := constant_target(table, schema, scan):
        if not lenient:
            raise UserError(constant)
        record["warnings"].append(constant)  # no cell is damaged, but there is nothing to learn
    record["warnings"] += warn_of_columns(table, schema, scan)
    return Understood(schema, record)


def _understand_known(table: Table, schema: Schema) -> Understood:
    options = table.options
    given = {"--target-kind": options.target_kinds, "--keep-missing-class": options.keep_missing_class}
    for option, value in given.items():
        if value:
            raise UserError(f"{option}: the columns of a links.csv are known; leave the option out")
    roles = _find_roles(dataclasses.replace(options, group_field=None), table)  # here the group may be an input

    def role(column: Column) -> str:
        if column.name in roles.hidden or (roles.id_field and column.role == "id" and column.name != roles.id_field):
            return "hidden"
        return {roles.id_field: "id", roles.split: "split"}.get(column.name, column.role)

    schema = Schema(tuple(dataclasses.replace(column, role=role(column)) for column in schema.columns))
    if not table.dialect.plain:
        table.formats = scan_table(table, rows=table.unclean_rows(), known=table.known_formats).rewritten
    kinds = {target.name: schema.target_kind(target.name) for target in schema.by_role("target")}
    return Understood(schema, make_record(table, schema, kinds))


def reopen_table(path: str | Path | Table, schema: Schema, record: Mapping[str, Any]) -> Table:
    """Return a table as a task reads it: with the record's options, number formats and rows left out.

    A `Table` is returned unchanged.
    """
    if isinstance(path, Table):
        return path
    table = open_table(path, TableOptions.from_dict(record.get("options", {})))
    formats = number_formats(record)
    table.formats = {at: formats[name] for at, name in enumerate(table.names) if name in formats}
    if record.get("left_out"):
        table.leave_out = reason_to_leave_out(table, schema)
    return table


def open_new_rows(
    path: str | Path,
    schema: Schema,
    record: Mapping[str, Any],
    options: TableOptions = TableOptions(),  # noqa: B008
    wanted: Collection[str] = (),
) -> Table:
    """Return a table of new rows for a model trained on the table of `record`; see `open_table` for `wanted`.

    The file's format is detected, or given by `options`. Words for "no value" are those of training, and so are the
    number formats that this file leaves open.
    """
    recorded = TableOptions.from_dict(record.get("options", {}))
    table = open_table(path, dataclasses.replace(options, missing=recorded.missing), wanted)
    formats = number_formats(record)
    numbers = {c.name: formats.get(c.name, PLAIN) for c in schema.columns if c.role == "input" and is_number_column(c)}
    if table.dialect.plain and not table.options.missing and any(c.choices_from for c in schema.by_role("target")):
        return table  # rows with their own choices are written by a program: nothing to clean
    table.known_formats = numbers
    found = scan_table(table, rows=table.unclean_rows(), known=numbers)
    table.formats = {at: f for at, f in found.rewritten.items() if table.names[at] in numbers}
    for at, name in enumerate(table.names):
        if name not in numbers:
            continue
        if at not in found.formats:  # a word among few numbers must not make them all words
            table.formats[at] = numbers[name]
        here, there = found.formats.get(at, PLAIN).unit, numbers[name].unit
        if here and there and here != there:
            table.notes.append(f"column '{name}': the numbers are in {here}, but in {there} in the training rows")
    return table


def number_formats(record: Mapping[str, Any]) -> dict[str, NumberFormat]:
    """Return the number formats in a table's record, by column; plain columns are not in it."""
    return {name: NumberFormat(**value) for name, value in record.get("number_formats", {}).items()}


def _rows(table: Table, damage: list[str] | None) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows; with `damage` unreadable rows are skipped, but a UserError is raised if no row is readable."""
    if damage is None:
        yield from table.unclean_rows()
        return

    def on_damage(line: int, code: str, message: str) -> None:
        if code == "bad_utf8":
            raise UserError(f"{table.path}:{line}: {message}")
        damage.append(f"line {line}: {message}")
        del damage[SHOWN_LINES:]

    n = 0
    for row in table.unclean_rows(on_damage):
        n += 1
        yield row
    if not n and damage:
        raise UserError(f"{table.path}: no row can be read: {damage[0]}{table.title_hint}")


def _find_roles(options: TableOptions, table: Table) -> _Roles:
    names = table.names
    targets = match_names(table, options.target_fields, names)
    hidden = match_names(table, options.drop_columns, names)
    single = {
        "--id-field": options.id_field,
        "--group-field": options.group_field,
        "--split-field": options.split_field,
    }
    for option, name in single.items():
        if name is not None and name not in names:
            raise UserError(f"{option}: {unknown_column(table.path, name, names)}")
    asked = [*targets, *hidden, *filter(None, single.values())]
    twice = [name for name, count in Counter(asked).items() if count > 1]
    if twice:
        raise UserError(
            f"column '{twice[0]}' is given two roles; a column is either target, id, group, split or dropped"
        )
    if table.row_name is not None and table.row_name not in asked:
        hidden.append(table.row_name)
    return _Roles(targets, options.id_field, options.group_field, options.split_field, frozenset(hidden))


class _IdCheck:
    """Finds ids that name several different rows."""

    def __init__(self, table: Table, roles: _Roles) -> None:
        self.table = table
        self.name = roles.id_field or (None if roles.group == table.row_name else table.row_name)
        self.rows: dict[int, tuple[int, int]] = {}  # hash of the id -> hash of the row, line
        self.repeated: dict[str, tuple[int, int]] = {}  # id -> its first two lines

    def watch(self, rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows unchanged, and note repeated ids."""
        if self.name is None or self.name not in self.table.names:
            yield from rows
            return
        at = self.table.names.index(self.name)
        for line, cells in rows:
            this = hash(tuple(cells)), line
            first = self.rows.setdefault(hash(cells[at]), this)
            if first[0] != this[0]:
                self.repeated.setdefault(cells[at], (first[1], line))
            yield line, cells

    def id_column(self, roles: _Roles, lenient: bool) -> str | None:
        """Return the id column or None; raises a UserError if an id of --id-field names several different rows."""
        if self.repeated and roles.id_field and not lenient:
            name, (first, second) = next(iter(self.repeated.items()))
            if not name.strip():
                raise UserError(f"{self.table.path}:{first}: --id-field {roles.id_field}: the id is empty, in line "
                                f"{second} too; fill it in, or leave the option out")  # fmt: skip
            raise UserError(
                f"{self.table.path}:{second}: --id-field {roles.id_field}: {len(self.repeated):,} ids name several "
                f"different rows ({name!r} is also in line {first}); use --group-field {roles.id_field} to keep rows "
                f"of one {roles.id_field} on one side of the split"
            )
        if roles.id_field or self.repeated:
            return roles.id_field
        return self.name if self.name in roles.hidden else None


def _own_split(table: Table, roles: _Roles, scan: Scan) -> str | None:
    """Return the column that names each row's side of the split, or None."""
    taken = {*roles.targets, *roles.hidden, roles.id_field, roles.group}
    name = roles.split or next((n for n in table.names if n.strip().lower() == "split" and n not in taken), None)
    if name is None:
        return None
    values = scan.columns[table.names.index(name)].values or Counter()
    strange = sorted(v for v in values if v.strip().lower() not in SIDES)
    if not strange and values and not scan.columns[table.names.index(name)].empty:
        return name
    if roles.split:
        found = f"holds {', '.join(map(repr, strange[:5]))}" if strange else "has empty cells"
        raise UserError(f"{table.path}: --split-field {name}: {found}; each cell must be train, validation or test")
    return None


def side_of(text: str) -> str:
    """Return the side of the split that a cell names: "Dev" -> "validation"."""
    return SIDES[text.strip().lower()]


def _target_kinds(table: Table, roles: _Roles, scan: Scan, lenient: bool) -> dict[str, str]:
    given = table.options.target_kinds
    for kind in given:
        if kind not in TARGET_KINDS:
            raise UserError(f"--target-kind {kind}: one of {', '.join(TARGET_KINDS)}, or one per --target-field")
    if len(given) > 1 and len(given) != len(roles.targets):
        raise UserError(
            f"--target-kind: {len(given)} kinds for {len(roles.targets)} targets; give one, or one per target"
        )
    kinds = {}
    for i, name in enumerate(roles.targets):
        at = table.names.index(name)
        column, number_format = scan.columns[at], scan.formats.get(at)
        kind = (given[i] if len(given) > 1 else given[0]) if given else _guess_kind(column, number_format)
        if kind == "number" and number_format is None and not lenient:
            n = column.shapes.counts.total()
            raise UserError(f"{table.path}: --target-kind number: column '{name}' is a number in {n:,} of "
                            f"{column.n_filled:,} filled cells; at least {NUMBER_SHARE:.0%} are needed")  # fmt: skip
        if kind == "class" and column.values is None and not lenient:
            raise UserError(f"{table.path}: column '{name}' has too many different texts to be a class (more than "
                            f"{MAX_CHOICES:,}); use --target-kind text, or choose another --target-field")  # fmt: skip
        kinds[name] = kind
    return kinds


def _guess_kind(column: ColumnScan, number_format: NumberFormat | None) -> str:
    if number_format is None:
        return "class"
    if column.number_kind(number_format, 1 - NUMBER_SHARE) == "int" and column.values is not None:
        whole = {number_format.read(text) for text in column.values} - {None}
        return "class" if len(whole) <= CLASS_MAX_INTEGERS else "number"
    return "number"


def _column(
    name: str, role: str, scan: ColumnScan, number_format: NumberFormat | None, kind: str | None, table: Table, *,
    is_given: bool, lenient: bool, allow_missing: float, tolerance: float,
) -> Column:  # fmt: skip
    """Return the schema's column."""
    if kind == "text" or is_given:
        number_format = None
    if number_format is not None:
        found = scan.number_kind(number_format, tolerance)
    else:
        found = "str" if kind == "text" else scan.list_kind() or "str"
    choices = None
    if role == "split":
        choices = sorted(scan.values or ())
    elif kind == "class" and scan.values is not None:
        choices = _classes(scan, number_format, found, table, tolerance)
    elif lenient and found == "str" and role in ("input", "hidden"):
        choices = _few_words(scan, tolerance)
    return Column(
        name=name,
        role=role,
        kind=found,
        unit=number_format.unit if number_format else "",
        choices=tuple(choices) if choices else None,
        longest=scan.longest if role == "target" and kind == "number" else None,
        nullable=role != "target" and (name in table.options.drop_columns or _is_nullable(scan, found, allow_missing)),
        class_target=kind == "class",
    )


def _few_words(scan: ColumnScan, tolerance: float) -> list[str] | None:
    """Return the words of a text column if it has few different ones, else None."""
    words = scan.words(tolerance) if scan.values is not None else []
    return words if 0 < len(words) <= FEW_WORDS else None


def _is_nullable(scan: ColumnScan, kind: str, allow_missing: float) -> bool:
    """True if some cells hold no value, but not more than a share `allow_missing`."""
    if kind.startswith("list_") and (scan.values is None or "[]" in scan.values):
        return True
    return 0 < scan.n_missing(kind) <= allow_missing * scan.n


def _classes(
    scan: ColumnScan, number_format: NumberFormat | None, kind: str, table: Table, tolerance: float
) -> list[str]:
    """Return the classes of a target: its values, without words for "no value" and, for numbers, other texts."""
    words = [w for w in scan.words(tolerance) if table.options.keep_missing_class or not is_missing_word(w)]
    if number_format is not None:
        plain = {number_format.read(word) for word in words}
        if kind == "int" and tolerance:  # a few 3.0 among whole numbers are damage
            plain = {word for word in plain if word and "." not in word}
        return sorted((word for word in plain if word is not None), key=lambda word: (float(word), word))
    if all(not math.isnan(read_number(word)) for word in words):
        return sorted(words, key=lambda word: (float(word), word))
    return words
