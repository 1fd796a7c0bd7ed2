"""Warnings about a table before training, each with the option that solves the problem."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from linklab.tables.infer import ColumnScan, Scan, is_missing_word, looks_like_mojibake
from linklab.tables.schema import Column, Schema, read_number
from linklab.tables.table import SHOWN_LINES, Table

SIDES = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}
FEW_TRAINING_ROWS = 3  # a class with fewer cannot be learnt
FEW_ROWS = 10  # a validation or test side with fewer is too small to measure anything
_WITH_UNIT = re.compile(
    r"[-+]?[0-9][0-9.,]* ?(°?[^\W\d_]+[23²³]?(?:/[^\W\d_]+)?|[°'\"′″])"
)  # `12 kg`, `3.5 m²`, `80 km/h`, `9 °C`


def warn_of_columns(table: Table, schema: Schema, scan: Scan) -> list[str]:
    """Return warnings about empty columns, wrong encodings, row numbers and columns that give the answer away."""
    warnings = []
    columns = list(zip(*scan.sample, strict=True))
    for at, (column, cells) in enumerate(zip(schema.columns, columns, strict=True)):
        if column.role == "input" and scan.columns[at].empty == scan.n_rows:
            warnings.append(f"column '{column.name}' {_why_empty(table, at)}, or leave it out with --drop-columns "
                            f"{_quoted(column.name)}")  # fmt: skip
        if column.role == "input" and (warning := _names_sides(column.name, scan.columns[at])):
            warnings.append(warning)
        if shown := next(filter(looks_like_mojibake, cells), None):
            advice = f": the file may be UTF-8, without --encoding {table.options.encoding}" * bool(
                table.options.encoding
            )
            warnings.append(f"column '{column.name}' holds text read with the wrong encoding ({shown[:40]!r}){advice}")
        if column.role == "input" and _counts_up(cells):
            warnings.append(f"column '{column.name}' is different in every row and counts up like a row number; "
                            f"hide it with --id-field {_quoted(column.name)}")  # fmt: skip
    for target in schema.by_role("target"):
        at = table.names.index(target.name)
        for column, cells in zip(schema.columns, columns, strict=True):
            if column.role == "input" and not _counts_up(cells) and _gives_away(cells, columns[at], column, target):
                warnings.append(
                    f"column '{column.name}' alone gives the answer to '{target.name}' in every row; if it is "
                    f"known only with the answer, leave it out with --drop-columns {_quoted(column.name)}"
                )
        if target.class_target:
            warnings += _warn_of_classes(target, scan.columns[at])
    return warnings


def _why_empty(table: Table, at: int) -> str:
    """Say why a column is empty in every row: a workbook may hold formulas that were never computed."""
    if table.dialect.kind == "xlsx" and table.has_formulas(at):
        return "holds formulas without their values: open the workbook in Excel or LibreOffice and save it"
    return "is empty in every row: fill it in"


def _names_sides(name: str, scan: ColumnScan) -> str:
    """Return a warning for an input that seems to name the sides of a split, "" for any other."""
    values = {text.strip().lower() for text in scan.values or ()}
    sides = {SIDES[value] for value in values & SIDES.keys()}
    if "train" not in sides or (name.strip().lower() != "split" and (sides == {"train"} or not values <= SIDES.keys())):
        return ""
    strange = sorted(text for text in scan.values or () if text.strip().lower() not in SIDES)
    if strange or scan.empty:
        why = f"also {', '.join(map(repr, strange[:SHOWN_LINES]))}" if strange else f"has {scan.empty:,} empty cells"
        return (f"column '{name}' names sides of a split, but {why}: it is read as an input; write train, validation "
                f"or test in each row, or leave it out with --drop-columns {_quoted(name)}")  # fmt: skip
    return (f"column '{name}' names sides of a split and is read as an input; use it as the split with --split-field "
            f"{_quoted(name)}, or leave it out with --drop-columns {_quoted(name)}")  # fmt: skip


def _quoted(name: str) -> str:
    return f"'{name}'" if " " in name else name


def _counts_up(cells: Sequence[str]) -> bool:
    """True for ten or more cells that are rising whole numbers, or one text with rising numbers after it."""
    if len(cells) < 10:
        return False
    found = [re.fullmatch(r"(.*?)([0-9]{1,15})(?:\.0)?", cell.strip()) for cell in cells]
    if not all(found) or len({match[1] for match in found if match}) > 1:
        return False
    numbers = [int(match[2]) for match in found if match]
    return all(after > before for before, after in zip(numbers, numbers[1:], strict=False))


def _gives_away(cells: Sequence[str], answers: Sequence[str], column: Column, target: Column) -> bool:
    """True if a column alone determines the answers: equal cells have equal answers, with two rows or more per value
    on average, or, for numbers, a few thresholds (classes) or a straight line (number target) give every answer.
    """
    rows = [(c, a) for c, a in zip(cells, answers, strict=True) if c.strip() and not is_missing_word(a)]
    if len(rows) < 10 or len({a for _, a in rows}) < 2 or column.kind.startswith("list_"):
        return False
    meaning: dict[str, str] = {}
    is_function = all(meaning.setdefault(cell, answer) == answer for cell, answer in rows)
    if is_function and 2 * len(meaning) <= len(rows):
        return True
    if column.kind not in ("int", "float"):
        return False
    if target.class_target:
        return is_function and _thresholds_answer(rows)
    if target.kind not in ("int", "float"):
        return False
    return abs(_correlation([(read_number(c), read_number(a)) for c, a in rows])) > 0.999999


def _thresholds_answer(rows: Sequence[tuple[str, str]]) -> bool:
    """True if every class is one range of the numbers, with five rows or more per class on average."""
    numbers = sorted((read_number(cell), answer) for cell, answer in rows)
    if any(math.isnan(number) for number, _ in numbers):
        return False
    changes = sum(before[1] != after[1] for before, after in zip(numbers, numbers[1:], strict=False))
    return changes == len({answer for _, answer in rows}) - 1 and len(rows) >= 5 * (changes + 1)


def _correlation(pairs: Sequence[tuple[float, float]]) -> float:
    kept = np.array(pairs, float)
    kept = kept[np.isfinite(kept).all(axis=1)]
    if len(kept) < 10 or not kept.std(axis=0).all():
        return 0.0
    return float(np.corrcoef(kept.T)[0, 1])


def _warn_of_classes(target: Column, scan: ColumnScan) -> list[str]:
    warnings = []
    alike: dict[str, list[str]] = {}
    for word in target.choices or ():
        alike.setdefault(" ".join(word.split()).casefold(), []).append(word)
    variants = [words for words in alike.values() if len(words) > 1]
    if variants:
        shown = "; ".join(", ".join(map(repr, words)) for words in variants[:SHOWN_LINES])
        warnings.append(f"classes of '{target.name}' that differ only in case or spaces ({shown}): each is a class "
                        f"of its own; write them the same way in the table")  # fmt: skip
    n = len(target.choices or ())
    if target.kind == "str" and n >= 10 and n > 0.5 * scan.n_filled:
        warnings.append(f"{n:,} different answers of '{target.name}' in {scan.n_filled:,} rows: a class that is seen "
                        f"once cannot be learnt; use --target-kind text for free answers")  # fmt: skip
        units = {found[1] if (found := _WITH_UNIT.fullmatch(word.strip())) else "" for word in target.choices or ()}
        if len(units) == 1 and "" not in units:
            warnings.append(f"the answers of '{target.name}' are numbers with '{units.pop()}' after them: move the "
                            f"unit to the header to predict them as numbers")  # fmt: skip
    return warnings


def warn_of_split(rows: dict[str, int], classes: dict[str, Counter[str]], schema: Schema) -> list[str]:
    """Return the warnings about a split: sides with no or few rows, classes with few training rows.

    `rows` holds the rows of each side, `classes` the training rows of each class by target.
    """
    warnings = []
    few = {side: n for side, n in rows.items() if side != "train" and n < FEW_ROWS}
    if few:
        sides = " and ".join(f"{n or 'no'} {side} row{'s' * (n > 1)}" for side, n in few.items())
        warnings.append(f"{sides} of {sum(rows.values()):,}: too few to measure anything; get more rows, a "
                        f"--group-field with more groups, or another --split-seed")  # fmt: skip
    for name, counts in classes.items():
        column = schema[name]
        if not column.class_target or column.choices is None:
            continue
        rare = [choice for choice in column.choices if counts[choice] < FEW_TRAINING_ROWS]
        if rare:
            shown = ", ".join(f"{choice!r} ({counts[choice]})" for choice in rare[:SHOWN_LINES])
            warnings.append(f"{len(rare):,} of {len(column.choices):,} classes of '{name}' have fewer than "
                            f"{FEW_TRAINING_ROWS} training rows: {shown}{', …' if len(rare) > SHOWN_LINES else ''}; "
                            f"get more rows of them, or merge them in the table")  # fmt: skip
    return warnings
