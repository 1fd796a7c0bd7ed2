"""What a table means: each column's role and kind, the target's kind, what is left out, and what a person should know.

Everything found by looking can be overruled by `TableOptions`; every decision is in the record that task.json keeps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from linklab.cli import UserError
from linklab.tables.infer import (
    CLASS_MAX_INTEGERS,
    FEW_WORDS,
    MAX_CHOICES,
    NOT_A_VALUE,
    ColumnScan,
    Scan,
    is_missing_word,
    scan_table,
)
from linklab.tables.number_format import NUMBER_SHARE, PLAIN, NumberFormat, shape_of
from linklab.tables.schema import Column, Schema, read_number
from linklab.tables.table import (
    SHOWN_LINES,
    Table,
    TableOptions,
    formats_to_dict,
    match_names,
    open_table,
    unknown_column,
)

MIN_ROWS = 2
MIN_ROWS_TO_JUDGE = 10  # fewer may hold one answer by chance
FEW_TRAINING_ROWS = 3  # a class with fewer cannot be learnt
FEW_ROWS = 10  # a validation or test side with fewer measures nothing
TARGET_KINDS = ("class", "number", "text")
SIDES = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}


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

    `known` is the schema of a table whose columns are known beforehand (links.csv): only roles can be overruled, and a
    plain file is not read. `lenient` (the validator) refuses nothing in the rows, for it names every damaged place: a
    `tolerance` of a column's cells may be damaged, and columns with more than `allow_missing` empty cells are not
    nullable. Otherwise a UserError says what cannot serve and which option settles it.
    """
    if known is not None:
        return _understand_known(table, known)
    roles = _find_roles(table.options, table)
    ids = _IdCheck(table, roles)
    damage: list[str] = []
    scan = scan_table(table, rows=ids.watch(_rows(table, damage if lenient else None)), known=table.known_formats)
    roles = dataclasses.replace(roles, id_field=ids.settle(roles, lenient))
    roles = dataclasses.replace(roles, split=_own_split(table, roles, scan))
    kinds = _target_kinds(table, roles, scan, lenient)
    table.formats = {
        at: found for at, found in scan.formats.items()
        if (found != PLAIN or scan.columns[at].written.counts.total())
        and kinds.get(table.names[at]) != "text" and roles.of(table.names[at]) in ("input", "target")
    }  # fmt: skip
    classes_as_told = {name for name in roles.targets if kinds[name] == "class" and table.options.target_kinds}
    for name in classes_as_told:
        table.formats.pop(table.names.index(name), None)
    columns = [
        _column(name, roles.of(name), column, scan.formats.get(at), kinds.get(name), table,
                as_told=name in classes_as_told, lenient=lenient, allow_missing=allow_missing, tolerance=tolerance)
        for at, (name, column) in enumerate(zip(table.names, scan.columns, strict=True))
    ]  # fmt: skip
    schema = Schema(tuple(columns))
    record = _record(table, scan, schema, kinds)
    if not lenient:
        if scan.n_rows < MIN_ROWS:
            raise UserError(f"{table.path}: too few rows ({scan.n_rows}) to train, validate and test on; a few "
                            f"hundred are "
                            f"a beginning")  # fmt: skip
        _check_targets(table, schema, scan, classes_as_told, record)
        _check_constant(table, schema, scan)
    elif table.options.leave_out_targets:
        with contextlib.suppress(UserError):  # rows that no option leaves out stay, and are named
            _check_targets(table, schema, scan, classes_as_told, record)
    record["warnings"] += _warn_of_columns(table, schema, scan)
    return Understood(schema, record)


def _understand_known(table: Table, schema: Schema) -> Understood:
    options = table.options
    for option, given in (
        ("--target-kind", options.target_kinds),
        ("--keep-missing-class", options.keep_missing_class),
    ):
        if given:
            raise UserError(f"{option}: the columns of a links.csv are known; leave it out")
    roles = _find_roles(dataclasses.replace(options, group_field=None), table)  # a group column may be shown here

    def role(column: Column) -> str:
        if roles.id_field and column.role == "id" and column.name != roles.id_field:
            return "hidden"
        return {roles.id_field: "id", roles.split: "split"}.get(column.name) or (
            "hidden" if column.name in roles.hidden else column.role
        )

    schema = Schema(tuple(dataclasses.replace(column, role=role(column)) for column in schema.columns))
    if not table.dialect.plain:
        found = scan_table(table, rows=table.unclean_rows(), known=table.known_formats)
        table.formats = {at: f for at, f in found.formats.items() if found.columns[at].written.counts.total()}
    record = known_record(table, schema)
    record["left_out"] = {why: len(lines) for why, lines in table.left_out.items()}
    return Understood(schema, record)


def reopen_table(path: str | Path | Table, schema: Schema, record: Mapping[str, Any]) -> Table:
    """Return a table as a task understood it: with the record's options, number formats and rows left out.

    A `Table` is returned as it is.
    """
    if isinstance(path, Table):
        return path
    table = open_table(path, TableOptions.from_dict(record.get("options", {})))
    formats = {name: NumberFormat(**value) for name, value in record.get("number_formats", {}).items()}
    table.formats = {at: formats[name] for at, name in enumerate(table.names) if name in formats}
    if record.get("left_out"):
        table.leave_out = _reason_to_leave_out(table, schema)
    return table


def open_new_rows(
    path: str | Path,
    schema: Schema,
    record: Mapping[str, Any],
    options: TableOptions = TableOptions(),  # noqa: B008
) -> Table:
    """Return a table of new rows for a model that learnt from the table of `record`.

    How it is written is found anew, or as `options` say; what means "no value" and how its numbers are written, where
    this file alone does not tell, are as in training.
    """
    told = TableOptions.from_dict(record.get("options", {}))
    table = open_table(path, dataclasses.replace(options, missing=told.missing))
    formats = {name: NumberFormat(**value) for name, value in record.get("number_formats", {}).items()}
    numbers = {c.name: formats.get(c.name, PLAIN) for c in schema.columns if c.role == "input" and _is_number(c)}
    if table.dialect.plain and not table.options.missing and any(c.choices_from for c in schema.by_role("target")):
        return table  # rows that bring their choices are written by a program
    table.known_formats = numbers
    found = scan_table(table, rows=table.unclean_rows(), known=numbers)
    table.formats = {
        at: f for at, f in found.formats.items()
        if table.names[at] in numbers and (f != PLAIN or found.columns[at].written.counts.total())
    }  # fmt: skip
    return table


def _rows(table: Table, damage: list[str] | None) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows; with `damage` those that cannot be read are stepped over, as long as there are others."""
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
        raise UserError(f"{table.path}: no row can be read: {damage[0]}")


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
    """Watches the rows for ids that name several different rows."""

    def __init__(self, table: Table, roles: _Roles) -> None:
        self.table = table
        self.name = roles.id_field or (None if roles.group == table.row_name else table.row_name)
        self.rows: dict[int, tuple[int, int]] = {}  # hash of the id -> hash of the row, line
        self.repeated: dict[str, tuple[int, int]] = {}  # id -> its first two lines

    def watch(self, rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
        """Pass the rows on."""
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

    def settle(self, roles: _Roles, lenient: bool) -> str | None:
        """Return the column of ids; raises a UserError where the one asked for names several different rows."""
        if self.repeated and roles.id_field and not lenient:
            name, (first, second) = next(iter(self.repeated.items()))
            if not name.strip():
                raise UserError(f"{self.table.path}:{first}: --id-field {roles.id_field}: the id is empty, in line "
                                f"{second} too; fill it in, or leave the option out")  # fmt: skip
            raise UserError(
                f"{self.table.path}:{second}: --id-field {roles.id_field}: {len(self.repeated):,} ids name several "
                f"different rows ({name!r} is also in line {first}); use --group-field {roles.id_field} to keep rows "
                f"of "
                f"one {roles.id_field} on one side of the split"
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
    """Return the side of the split a cell names: "Dev" -> "validation"."""
    return SIDES[text.strip().lower()]


def _target_kinds(table: Table, roles: _Roles, scan: Scan, lenient: bool) -> dict[str, str]:
    told = table.options.target_kinds
    for kind in told:
        if kind not in TARGET_KINDS:
            raise UserError(f"--target-kind {kind}: one of {', '.join(TARGET_KINDS)}, or one for each --target-field")
    if len(told) > 1 and len(told) != len(roles.targets):
        raise UserError(f"--target-kind: {len(told)} kinds for {len(roles.targets)} targets; give one, or one for each")
    kinds = {}
    for i, name in enumerate(roles.targets):
        at = table.names.index(name)
        column, number_format = scan.columns[at], scan.formats.get(at)
        kind = (told[i] if len(told) > 1 else told[0]) if told else _guess_kind(column, number_format)
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
    as_told: bool, lenient: bool, allow_missing: float, tolerance: float,
) -> Column:  # fmt: skip
    """Return the schema's column."""
    if kind == "text" or as_told:
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
    elif lenient and found == "str" and role in ("input", "hidden") and scan.values is not None:
        words = scan.words(tolerance)
        choices = words if len(words) <= FEW_WORDS else None
    return Column(
        name=name,
        role=role,
        kind=found,
        unit=number_format.unit if number_format else "",
        choices=tuple(choices) if choices else None,
        nullable=role != "target" and 0 < _n_missing(scan, found) <= allow_missing * scan.n,
        class_target=kind == "class",
    )


def _n_missing(scan: ColumnScan, kind: str) -> int:
    """Return how many cells of a column have no value: empty ones, and among numbers `NA` and the like."""
    return scan.empty + (scan.kinds["nothing"] if kind in ("int", "float") else 0)


def _classes(
    scan: ColumnScan, number_format: NumberFormat | None, kind: str, table: Table, tolerance: float
) -> list[str]:
    """Return the classes of a target: its values without those that mean "no value" or, among numbers, are none."""
    words = [w for w in scan.words(tolerance) if table.options.keep_missing_class or not is_missing_word(w)]
    if number_format is not None:
        plain = {number_format.read(word) for word in words}
        if kind == "int" and tolerance:  # a few 3.0 among whole numbers are damage
            plain = {word for word in plain if word and "." not in word}
        return sorted((word for word in plain if word is not None), key=lambda word: (float(word), word))
    if all(not math.isnan(read_number(word)) for word in words):
        return sorted(words, key=lambda word: (float(word), word))
    return words


def _check_targets(table: Table, schema: Schema, scan: Scan, classes_as_told: set[str], record: dict[str, Any]) -> None:
    """Find rows whose target is missing or no number; refuse them, or leave them out where an option says so."""
    options = table.options
    judges: dict[str, Callable[[str], str | None]] = {}
    for column in schema.by_role("target"):
        at = table.names.index(column.name)
        judges[column.name] = _judge(column, scan.formats.get(at) if column.name not in classes_as_told else None,
                                     keep=options.keep_missing_class)  # fmt: skip
    places = {name: table.names.index(name) for name in judges}
    suspicious = [
        name for name, at in places.items()
        if scan.columns[at].empty or scan.columns[at].kinds["nothing"] or (values := scan.columns[at].values) is None
        or any(judges[name](text) for text in values)
    ]  # fmt: skip
    if suspicious:
        found = _find_bad_targets(table, {name: judges[name] for name in suspicious}, places)
        is_number = {name: not schema[name].class_target for name in suspicious}
        _refuse_bad_targets(table, found, scan.n_rows, is_number)
        said = {"declared": "rows without a target (--missing)", "missing": "rows without a target", "odd": "rows "
                                                                                                            "whose "
                "target is no number"}  # fmt: skip
        record["left_out"] |= {
            said[why]: len(set(line for _, line, _ in cells)) for why, cells in found.items() if cells
        }
        for why, cells in found.items():
            if cells:
                lines = _lines(iter(dict.fromkeys(line for _, line, _ in cells)))
                record["notes"].append(f"{said[why]} are left out: {lines}")
        if any(found.values()):
            table.leave_out = _reason_to_leave_out(table, schema)
    n_left = len({line for cells in (found.values() if suspicious else ()) for _, line, _ in cells})
    record["rows"] = scan.n_rows - n_left
    if not record["rows"]:
        raise UserError(f"{table.path}: no row is left: none of the {scan.n_rows:,} has a target that can be used")


def _reason_to_leave_out(table: Table, schema: Schema) -> Callable[[list[str]], str | None]:
    """Return what says why a row of plain cells cannot serve, None where it can."""
    judges = {
        table.names.index(column.name): _judge(column, PLAIN if _is_number(column) else None,
                                               keep=table.options.keep_missing_class)
        for column in schema.by_role("target") if column.name in table.names
    }  # fmt: skip

    def reason(cells: list[str]) -> str | None:
        return next((why for at, judge in judges.items() if (why := judge(cells[at])) is not None), None)

    return reason


def _is_number(column: Column) -> bool:
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


def _check_constant(table: Table, schema: Schema, scan: Scan) -> None:
    for column in schema.by_role("target"):
        values = scan.columns[table.names.index(column.name)].values
        distinct = [text for text in values if not is_missing_word(text)] if values is not None else None
        if column.class_target and column.choices is not None:
            distinct = list(column.choices)
        if distinct is not None and len(distinct) == 1 and scan.n_rows >= MIN_ROWS_TO_JUDGE:
            raise UserError(f"{table.path}: column '{column.name}' is {distinct[0]!r} in every row, so there is "
                            f"nothing to "
                            f"learn; choose another --target-field")  # fmt: skip


def _record(table: Table, scan: Scan, schema: Schema, kinds: dict[str, str]) -> dict[str, Any]:
    decimal = any(f.decimal == "," for f in table.formats.values())
    return {
        "file": table.path.name,
        "written": table.dialect.describe() + (", decimal comma" if decimal else ""),
        "rows": scan.n_rows,
        "columns": [
            {
                "name": column.name,
                "role": column.role,
                "kind": _say_kind(column, found, kinds.get(column.name), table.formats.get(at, PLAIN)),
            }
            for at, (column, found) in enumerate(zip(schema.columns, scan.columns, strict=True))
        ],
        "left_out": {why: len(lines) for why, lines in table.left_out.items()},
        "notes": list(table.notes) + _notes_of_cells(table, scan),
        "warnings": [],
        "options": table.options.to_dict(),
        "number_formats": formats_to_dict(table),
    }


def _notes_of_cells(table: Table, scan: Scan) -> list[str]:
    notes = []
    for at, number_format in scan.formats.items():
        column, name = scan.columns[at], table.names[at]
        n_odd = column.n_odd(number_format)
        if n_odd and name not in match_names(table, table.options.target_fields, table.names):
            odd = [text for text in column.values or () if number_format.read(text) is None
                   and text.strip().lower() not in NOT_A_VALUE][:SHOWN_LINES]  # fmt: skip
            notes.append(f"column '{name}': {n_odd:,} of {column.n_filled:,} cells are no numbers "
                         f"({', '.join(map(repr, odd))}); --missing takes what means \"no value\"")  # fmt: skip
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
    names = {"int": "whole number", "float": "number", "str": "text", "list_int": "list of whole numbers",
             "list_float": "list of numbers", "list_str": "list of texts"}  # fmt: skip
    distinct = f"more than {MAX_CHOICES:,}" if scan.values is None else f"{len(column.choices or scan.values):,}"
    if target_kind == "class":
        said = f"class, {distinct} different"
        if column.kind in ("int", "float"):
            said += " (numbers; --target-kind number to predict their value)"
    elif target_kind == "text":
        said = f"free text, {distinct} different"
    else:
        said = ("number" if target_kind else names[column.kind]) + (
            f", {distinct} different" if column.kind == "str" else ""
        )
    said += f", {number_format.describe()}" if number_format.describe() else ""
    missing = _n_missing(scan, column.kind)
    return said + (f", {missing:,} empty" if missing else "")


# Warnings: each once, with the option that fixes it.
_WITH_UNIT = re.compile(r"[-+]?[0-9][0-9.,]* ?([^\W\d_]+[23²³]?(?:/[^\W\d_]+)?)")  # `12 kg`, `3.5 m²`, `80 km/h`


def _warn_of_columns(table: Table, schema: Schema, scan: Scan) -> list[str]:
    warnings = []
    columns = list(zip(*scan.sample, strict=True))
    for at, (column, cells) in enumerate(zip(schema.columns, columns, strict=True)):
        if column.role == "input" and scan.columns[at].empty == scan.n_rows:
            warnings.append(f"column '{column.name}' is empty in every row; leave it out with --drop-columns "
                            f"{_quoted(column.name)}")  # fmt: skip
        if column.role == "input" and _counts_up(cells):
            warnings.append(f"column '{column.name}' is different in every row and counts up, as a row number does; "
                            f"hide it with --id-field {_quoted(column.name)}")  # fmt: skip
    for target in schema.by_role("target"):
        at = table.names.index(target.name)
        for column, cells in zip(schema.columns, columns, strict=True):
            if column.role == "input" and not _counts_up(cells) and _gives_away(cells, columns[at], column, target):
                warnings.append(
                    f"column '{column.name}' alone answers '{target.name}' in every row; if it is known only with the "
                    f"answer, leave it out with --drop-columns {_quoted(column.name)}"
                )
        if target.class_target:
            warnings += _warn_of_classes(target, scan.columns[at])
    return warnings


def _quoted(name: str) -> str:
    return f"'{name}'" if " " in name else name


def _counts_up(cells: Sequence[str]) -> bool:
    """True for at least ten cells that are all whole numbers, or one text with a number behind it, and rise."""
    if len(cells) < 10:
        return False
    found = [re.fullmatch(r"(.*?)([0-9]{1,15})(?:\.0)?", cell.strip()) for cell in cells]
    if not all(found) or len({match[1] for match in found if match}) > 1:
        return False
    numbers = [int(match[2]) for match in found if match]
    return all(after > before for before, after in zip(numbers, numbers[1:], strict=False))


def _gives_away(cells: Sequence[str], answers: Sequence[str], column: Column, target: Column) -> bool:
    """True where equal cells always have equal answers and each value stands twice or more on average, or, among
    numbers, a few thresholds (classes) or a straight line (number) give every answer.
    """
    rows = [(c, a) for c, a in zip(cells, answers, strict=True) if c.strip() and not is_missing_word(a)]
    if len(rows) < 10 or len({a for _, a in rows}) < 2 or column.kind.startswith("list_"):
        return False
    meaning: dict[str, str] = {}
    if all(meaning.setdefault(cell, answer) == answer for cell, answer in rows):
        if 2 * len(meaning) <= len(rows):
            return True
        if column.kind in ("int", "float") and target.class_target:
            numbers = sorted((read_number(cell), answer) for cell, answer in rows)
            if any(math.isnan(number) for number, _ in numbers):
                return False
            changes = sum(before[1] != after[1] for before, after in zip(numbers, numbers[1:], strict=False))
            return changes == len({answer for _, answer in rows}) - 1 and len(rows) >= 5 * (changes + 1)
    if column.kind in ("int", "float") and not target.class_target and target.kind in ("int", "float"):
        return abs(_correlation([(read_number(c), read_number(a)) for c, a in rows])) > 0.999999
    return False


def _correlation(pairs: Sequence[tuple[float, float]]) -> float:
    kept = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
    if len(kept) < 10:
        return 0.0
    mean_x, mean_y = (sum(values) / len(kept) for values in zip(*kept, strict=True))
    xx = sum((x - mean_x) ** 2 for x, _ in kept)
    yy = sum((y - mean_y) ** 2 for _, y in kept)
    xy = sum((x - mean_x) * (y - mean_y) for x, y in kept)
    return xy / math.sqrt(xx * yy) if xx and yy else 0.0


def _warn_of_classes(target: Column, scan: ColumnScan) -> list[str]:
    warnings = []
    alike: dict[str, list[str]] = {}
    for word in target.choices or ():
        alike.setdefault(" ".join(word.split()).casefold(), []).append(word)
    variants = [words for words in alike.values() if len(words) > 1]
    if variants:
        shown = "; ".join(", ".join(map(repr, words)) for words in variants[:SHOWN_LINES])
        warnings.append(f"classes of '{target.name}' that differ only in case or spaces ({shown}): each is a class "
                        f"of its "
                        f"own; write them alike in the table")  # fmt: skip
    n = len(target.choices or ())
    if target.kind == "str" and n >= 10 and n > 0.5 * scan.n_filled:
        warnings.append(f"{n:,} different answers of '{target.name}' in {scan.n_filled:,} rows: a class that is seen "
                        f"once cannot be learnt; use --target-kind text for free answers")  # fmt: skip
        units = {found[1] if (found := _WITH_UNIT.fullmatch(word.strip())) else "" for word in target.choices or ()}
        if len(units) == 1 and "" not in units:
            warnings.append(f"the answers of '{target.name}' are numbers with '{units.pop()}' behind them: move the "
                            f"unit to the header, and they can be predicted as numbers")  # fmt: skip
    return warnings


def warn_of_split(rows: dict[str, int], classes: dict[str, Counter[str]], schema: Schema) -> list[str]:
    """Return the warnings about a division: sides with no or few rows, classes with few training rows.

    `rows` holds the rows of each side, `classes` the training rows of each class by target.
    """
    warnings = []
    few = {side: n for side, n in rows.items() if side != "train" and n < FEW_ROWS}
    if few:
        said = " and ".join(f"{n or 'no'} {side} row{'s' * (n > 1)}" for side, n in few.items())
        warnings.append(f"{said} of {sum(rows.values()):,}: too few to measure anything; get more rows, a "
                        f"--group-field "
                        f"with more groups, or another --split-seed")  # fmt: skip
    for name, counts in classes.items():
        column = schema[name]
        if not column.class_target or column.choices is None:
            continue
        rare = [choice for choice in column.choices if counts[choice] < FEW_TRAINING_ROWS]
        if rare:
            shown = ", ".join(f"{choice!r} ({counts[choice]})" for choice in rare[:SHOWN_LINES])
            warnings.append(f"{len(rare):,} of {len(column.choices):,} classes of '{name}' have fewer than "
                            f"{FEW_TRAINING_ROWS} training rows: {shown}{', …' if len(rare) > SHOWN_LINES else ''}; "
                            f"get "
                            f"more rows of them, or join them in the table")  # fmt: skip
    return warnings


def known_record(table: Table, schema: Schema) -> dict[str, Any]:
    """Return the record of a table whose schema is known beforehand, without reading its rows."""
    kinds = {c.name: "class" if c.class_target else "number" for c in schema.by_role("target")}
    columns = [
        {"name": c.name, "role": c.role, "kind": kinds.get(c.name) or c.kind.replace("_", " of ")}
        for c in schema.columns
    ]
    return {
        "file": table.path.name, "written": table.dialect.describe(), "columns": columns, "left_out": {},
        "notes": list(table.notes), "warnings": [], "options": table.options.to_dict(), "number_formats": {},
    }  # fmt: skip


SHOWN_COLUMNS = 20


def lines_of_record(record: dict[str, Any]) -> list[str]:
    """Return what was understood as a few lines to print."""
    columns = record.get("columns", [])
    splits = record.get("splits", {})
    n_rows = record.get("rows") or sum(splits.values())
    size = f"{n_rows:,} row{'s' * (n_rows != 1)}, {len(columns)} columns"
    head = f"{record.get('file', 'table')}: {size}; {record.get('written', '')}"
    shown = [c for c in columns if c["role"] not in ("hidden",)]
    hidden = [c["name"] for c in columns if c["role"] == "hidden"]
    cut = shown[:SHOWN_COLUMNS] + [c for c in shown[SHOWN_COLUMNS:] if c["role"] != "input"]
    width = min(32, max((len(c["name"]) for c in cut), default=0))
    lines = [head, *(f"  {c['name'][:32]:{width}}  {c['role']:6}  {c['kind']}" for c in cut)]
    if len(cut) < len(shown):
        lines.append(f"  … and {len(shown) - len(cut)} more input columns")
    if hidden:
        lines.append(f"  hidden: {', '.join(hidden[:8])}{', …' if len(hidden) > 8 else ''}")
    group = next((c["name"] for c in columns if c["role"] == "group"), record.get("group_field"))
    if group and record.get("groups"):
        lines.append(f"  groups: {record['groups']:,} different '{group}', each on one side of the split")
    if splits:
        own = next((f" (the table's own, column '{c['name']}')" for c in columns if c["role"] == "split"), "")
        lines.append(f"  split{own}: " + ", ".join(f"{n:,} {side}" for side, n in splits.items()))
    left_out = record.get("left_out", {}).items()
    lines += [f"  left out: {n:,} {why if n > 1 else why.replace('rows', 'row', 1)}" for why, n in left_out]
    lines += [f"  note: {text}" for text in record.get("notes", [])]
    return lines + [f"warning: {text}" for text in record.get("warnings", [])]
