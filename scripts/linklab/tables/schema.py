"""The schema of a CSV: each column's name, role, kind, unit and range. All scripts share it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable

from linklab.cli import UserError

# The spelling of a number in a CSV, an answer or a prediction: `594`, `-.5`, `5.`, `1e-3`; no leading zeros (they
# make a code, such as a postcode), and ASCII digits only.
NUMBER = r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
_NUMBER = re.compile(NUMBER)


def read_number(text: str | None) -> float:
    """Return a text as a number, NaN if it is not one: "594" -> 594.0; "594 Mbit/s", "nan", "1e999" -> NaN."""
    if text is None or not _NUMBER.fullmatch(text):
        return math.nan
    value = float(text)
    return value if math.isfinite(value) else math.nan


ROLES = ("id", "group", "split", "input", "target", "hidden")
KINDS = ("int", "float", "str", "list_int", "list_float", "list_str")


@dataclasses.dataclass(frozen=True)
class Column:
    """One column. `low` and `high` are inclusive, and apply to each element of a list cell."""

    name: str
    role: str
    kind: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None  # the only texts allowed, for kind "str" (and the classes of a class target)
    decimals: int | None = None  # digits after the point the writer uses, for kind "float" and "list_float"
    longest: int | None = None  # characters of the longest cell, for number targets whose range is not known
    nullable: bool = False
    aligned_with: str | None = None  # the list column with the same number of elements
    choices_from: str | None = None  # class targets: the list column with the row's own legal answers
    utility_from: str | None = None  # class targets: the list column with the worth of each of those answers
    worth_of: str | None = None  # number targets: the class target; the number is the worth of its right answer
    class_target: bool = False  # targets: scored as right or wrong (True), or by distance (False)
    description: str = ""

    def __post_init__(self) -> None:
        assert self.role in ROLES, self.role
        assert self.kind in KINDS, self.kind


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of a CSV in the order of its header."""

    columns: tuple[Column, ...]

    @property
    def names(self) -> list[str]:
        """The header."""
        return [column.name for column in self.columns]

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise UserError(f"no column '{name}'; the columns are: {', '.join(self.names)}")

    def by_role(self, *roles: str) -> list[Column]:
        """Return the columns of these roles, in header order."""
        return [column for column in self.columns if column.role in roles]

    def one_of_role(self, role: str) -> Column | None:
        """Return the first column of a role, or None."""
        return next(iter(self.by_role(role)), None)

    def target_kind(self, name: str) -> str:
        """Return "class", "number" or "text" for a target column."""
        column = self[name]
        return "class" if column.class_target else "number" if column.kind in ("int", "float") else "text"

    def with_targets(self, targets: Iterable[str]) -> Schema:
        """Return the schema with exactly these targets; other target columns become hidden."""
        targets = list(targets)
        for name in targets:
            column = self[name]
            if column.role not in ("target", "input"):
                raise UserError(f"column '{name}' is {column.role}; --target-field takes a target or an input column")

        def role(column: Column) -> str:
            if column.name in targets:
                return "target"
            return "hidden" if column.role == "target" else column.role

        return Schema(tuple(dataclasses.replace(column, role=role(column)) for column in self.columns))

    def to_dict(self) -> dict:
        """Return the schema as JSON-ready values."""
        columns = [
            {k: v for k, v in vars(column).items() if v is not None and v is not False and v != ""}
            for column in self.columns
        ]
        return {"columns": columns}

    @classmethod
    def from_dict(cls, value: dict) -> Schema:
        """Build a schema from the output of `to_dict`; a UserError names an invalid column."""
        columns = []
        known = {field.name for field in dataclasses.fields(Column)}
        entries = value.get("columns", []) if isinstance(value, dict) else []
        for entry in entries if isinstance(entries, list) else []:
            if not isinstance(entry, dict) or not all(
                isinstance(entry.get(name, ""), str) for name in ("name", "role")
            ):
                raise UserError(f"schema column {str(entry)[:60]}: an object with name, role and kind is expected")
            strange = set(entry) - known
            if strange or not {"name", "role", "kind"} <= set(entry):
                name = entry.get("name", entry)
                raise UserError(f"schema column {name!r}: needs name, role and kind; unknown keys: {sorted(strange)}")
            if entry["role"] not in ROLES or entry["kind"] not in KINDS:
                raise UserError(f"schema column '{entry['name']}': role is one of {ROLES}, kind one of {KINDS}")
            choices = entry.get("choices")
            columns.append(Column(**{**entry, "choices": tuple(choices) if choices is not None else None}))
        if not columns:
            raise UserError('schema: no columns; expected {"columns": [{"name", "role", "kind"}, …]}')
        return cls(tuple(columns))
