"""Prompt templates: `{column}` is a cell, `{column - other}` arithmetic on cells; lines with list columns repeat."""

from __future__ import annotations

import ast
import dataclasses
import functools
import itertools
import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from linklab import files
from linklab.cli import UserError
from linklab.tables.schema import Schema, read_number

# A double brace is a literal brace; inside double quotes a field may hold braces, for column names with braces.
_PIECE = re.compile(r'\{\{|\}\}|\{((?:[^{}"]|"(?:[^"\\]|\\.)*")*|[^{}]*)\}')
_ROUNDING = re.compile(r"(.*):((?:[+-]?0?[0-9]{0,2}(?:\.[0-9]{1,2})?)[fge%])", re.DOTALL)
_OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip
REMEMBERED = 2**16  # cached results per arithmetic field: links have about 9,000 pairs of RSSI and noise
_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?"
_PLAIN_NUMBERS = re.compile(rf"\[{_NUMBER}(?:,{_NUMBER})*+\]")  # a JSON list that can simply be cut at its commas
_short_numbers: set[str] = set()  # numbers of at most four characters seen in plain lists: at most 13,000


def read_template(path: str | Path) -> str:
    """Read a template file; its last line end is not part of the prompt."""
    return files.read_text(path).removesuffix("\n")


def default_template(schema: Schema) -> str:
    """Return `column: {column}` for every input column, list columns last."""
    inputs = schema.by_role("input")
    plain = [column.name for column in inputs if not column.kind.startswith("list_")]
    lists = [column.name for column in inputs if column.kind.startswith("list_")]
    return "\n".join(f"{escape_braces(name)}: {write_field(name)}" for name in plain + lists)


def escape_braces(text: str) -> str:
    """Return a text as a template writes it: `{a}` -> `{{a}}`."""
    return text.replace("{", "{{").replace("}", "}}")


def write_field(name: str) -> str:
    """Return the field of a column: `{size}`, and `{"{size}"}` for a name with braces."""
    return f"{{{json.dumps(name, ensure_ascii=False) if '{' in name or '}' in name else name}}}"


@dataclasses.dataclass(frozen=True)
class _Field:
    """The content of braces: a cell as it is, or arithmetic on cells.

    `compute` takes the texts of `columns`, in order, and returns the text to show; None shows the one column as it is.
    """

    columns: tuple[str, ...]
    compute: Callable[..., str] | None = None


@dataclasses.dataclass(frozen=True)
class _Line:
    """One line of a template: `pattern` holds a %s for each field; a line with list columns is repeated."""

    pattern: str
    fields: tuple[_Field, ...]
    lists: tuple[str, ...]  # the list columns among the fields, each once
    separator: str | None = None  # the text between all fields, if the line has no other text

    def render(self, row: Mapping[str, str], lists: Mapping[str, list[str]]) -> list[str]:
        """Return the lines of a row: one, or one per element if there are list columns."""
        if not self.lists:
            shown = [
                f.compute(*map(row.__getitem__, f.columns)) if f.compute else row[f.columns[0]] for f in self.fields
            ]
            return [self.pattern % tuple(shown)]
        read = {name: lists[name] if name in lists else read_list(name, row[name]) for name in self.lists}
        if len(set(map(len, read.values()))) > 1:
            sizes = {name: len(elements) for name, elements in read.items()}
            raise UserError(f"the list columns of one template line differ in length: {sizes}")
        texts: list[Iterable[str]] = []
        for field in self.fields:
            columns = [read[name] if name in read else itertools.repeat(row[name]) for name in field.columns]
            if field.compute is None:
                texts.append(columns[0])
            elif any(name in read for name in field.columns):
                texts.append(map(field.compute, *columns))
            else:
                texts.append(itertools.repeat(field.compute(*(row[name] for name in field.columns))))
        write = self.pattern.__mod__ if self.separator is None else self.separator.join  # twice as fast as %
        return list(map(write, zip(*texts, strict=False)))


class Template:
    """A checked template. `render` gives the prompt of one row."""

    def __init__(self, text: str, schema: Schema) -> None:
        """Raises a UserError with the template line of a field that is not an input column, nor arithmetic on some."""
        self.text, self.schema = text, schema
        self.inputs = {column.name: column for column in schema.by_role("input")}
        if not text.strip():
            raise UserError("the prompt template is empty")
        self._lines = [self._parse(number, line) for number, line in enumerate(text.split("\n"), start=1)]
        if not self.columns:
            raise UserError("the prompt template names no column, so every prompt would be the same; write {column}")

    def __reduce__(self) -> tuple:
        return Template, (self.text, self.schema)  # for worker processes: the fields' caches are not copied

    def _parse(self, number: int, line: str) -> _Line:
        where = f"prompt template line {number}"
        fields: list[_Field] = []
        around, at = [""], 0  # the texts before, between and after the fields
        for piece in _PIECE.finditer(line):
            around[-1] += self._plain_text(where, line, at, piece.start())
            at = piece.end()
            if piece[1] is None:
                around[-1] += piece[0][0]
            else:
                fields.append(self._read_field(where, piece[1]))
                around.append("")
        around[-1] += self._plain_text(where, line, at, len(line))
        names = dict.fromkeys(name for field in fields for name in field.columns)
        lists = [name for name in names if self.inputs[name].kind.startswith("list_")]
        alike = len(fields) > 1 and not around[0] and not around[-1] and len(set(around[1:-1])) == 1
        pattern = "%s".join(text.replace("%", "%%") for text in around)
        return _Line(pattern, tuple(fields), tuple(lists), around[1] if alike else None)

    def _plain_text(self, where: str, line: str, start: int, end: int) -> str:
        text = line[start:end]
        if "{" in text or "}" in text:
            raise UserError(f"{where}: an unmatched brace in '{line}'; write {{{{ or }}}} for a literal brace")
        return text

    def _read_field(self, where: str, text: str) -> _Field:
        if text in self.inputs:
            return _Field((text,))
        rounding = _ROUNDING.fullmatch(text)
        expression, spec = (rounding[1], rounding[2]) if rounding else (text, "")
        if expression in self.inputs:  # a column of any name, rounded
            tree: ast.expr = ast.Constant(expression)
        else:
            try:
                tree = ast.parse(expression.strip(), mode="eval").body
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                raise self._field_error(where, text) from None
        if isinstance(tree, ast.Constant) and tree.value in self.inputs and not spec:
            return _Field((str(tree.value),))
        names: dict[str, None] = {}
        self._check(where, text, tree, names)
        if not names:
            raise self._field_error(where, text)
        compute = functools.partial(_compute, tree, tuple(names), spec, text)
        return _Field(tuple(names), functools.lru_cache(REMEMBERED)(compute))

    def _field_error(self, where: str, text: str, name: str | None = None) -> UserError:
        if name is None:
            wrong = f"'{{{text}}}' is not an input column, nor + - * / of input columns and numbers"
        else:
            wrong = f"'{{{text}}}': '{name}' is not an input column"
        return UserError(f"{where}: {wrong}; the input columns are: {', '.join(self.inputs)}")

    def _check(self, where: str, text: str, node: ast.expr, names: dict[str, None]) -> None:
        """Raise a UserError for anything but arithmetic on number columns; collect the columns in `names`."""
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            self._check(where, text, node.left, names)
            self._check(where, text, node.right, names)
        elif isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
            self._check(where, text, node.operand, names)
        elif (name := _column_name(node)) is not None:
            if name not in self.inputs:
                raise self._field_error(where, text, name)
            if self.inputs[name].kind.endswith("str"):
                raise UserError(f"{where}: '{{{text}}}': column '{name}' holds text; arithmetic needs numbers")
            names[name] = None
        elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
            raise self._field_error(where, text)

    @property
    def columns(self) -> list[str]:
        """The columns that a prompt shows or computes with."""
        return list(dict.fromkeys(name for line in self._lines for field in line.fields for name in field.columns))

    @property
    def last_lists(self) -> tuple[str, ...]:
        """The list columns of the last line."""
        return self._lines[-1].lists

    def render_lines(
        self, row: Mapping[str, str], lists: Mapping[str, list[str]] = MappingProxyType({})
    ) -> list[list[str]]:
        """Return the lines that each template line becomes for a row of raw cells.

        `lists` holds list cells that the caller has already read. Raises a UserError that names the column of a cell
        that is not a JSON list, or not a number in arithmetic, or if list cells of one line differ in length.
        """
        return [line.render(row, lists) for line in self._lines]

    def render(self, row: Mapping[str, str], lists: Mapping[str, list[str]] = MappingProxyType({})) -> str:
        """Return the prompt of a row; see `render_lines`."""
        return "\n".join(itertools.chain.from_iterable(self.render_lines(row, lists)))


def _column_name(node: ast.expr) -> str | None:
    """Return the column that an operand names, bare (`size`) or in quotes (`"net size"`); None if it is not a name."""
    if isinstance(node, ast.Name):
        return node.id
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _compute(tree: ast.expr, names: Sequence[str], spec: str, field: str, *cells: str) -> str:
    """Return the text of a field's arithmetic: (`a - b`, ("-60", "-91")) -> "31"."""
    numbers = {}
    for name, cell in zip(names, cells, strict=True):
        value = read_number(cell.strip())
        if math.isnan(value):
            raise UserError(f"column '{name}' = {cell[:80]!r}: a number is expected for '{{{field}}}'")
        numbers[name] = int(cell) if _is_whole(cell) else value
    try:
        value = _evaluate(tree, numbers)
        if not math.isfinite(value):
            raise OverflowError
        text = format(value, spec) if spec else str(value) if isinstance(value, int) else f"{value:.12g}"
    except (ZeroDivisionError, OverflowError) as error:
        why = "division by zero" if isinstance(error, ZeroDivisionError) else "the result is too large"
        raise UserError(f"'{{{field}}}': {why}, with {', '.join(f'{n} = {v}' for n, v in numbers.items())}") from error
    return text[1:] if text.startswith("-") and not text.strip("-0.%e+") else text  # -0.3 rounded is 0, not -0


def _is_whole(cell: str) -> bool:
    return cell.strip().lstrip("+-").isdecimal()


def _evaluate(node: ast.expr, numbers: Mapping[str, float]) -> float:
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_evaluate(node.left, numbers), _evaluate(node.right, numbers))
    if isinstance(node, ast.UnaryOp):
        return _OPERATORS[type(node.op)](_evaluate(node.operand, numbers))
    name = _column_name(node)
    if name is not None:
        return numbers[name]
    assert isinstance(node, ast.Constant)
    assert isinstance(node.value, int | float)
    return node.value


def read_list(name: str, text: str) -> list[str]:
    """Return the elements of a JSON list cell, numbers as they are written: `[5180,-61.5]` -> ["5180", "-61.5"]."""
    if text[:1] == "[" and text[-1:] == "]":
        elements = text[1:-1].split(",")
        if _short_numbers.issuperset(elements):  # the usual case, faster than the pattern
            return elements
        if _PLAIN_NUMBERS.fullmatch(text):
            _short_numbers.update([element for element in elements if len(element) <= 4])
            return elements
    try:
        value = json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()  # fails for half a character (a lone surrogate)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list) or not all(isinstance(element, str) for element in value):
        raise UserError(f"column '{name}' = {text[:80]!r}: a JSON list of numbers or texts is expected")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(constant)
