"""Numbers as people write them (`2,700`, `$2,700`, `27.0%`, `(2700)`, `2.700,50 €`) and the plain spelling of each.

How a column writes its numbers is decided from all its cells: `2,700` alone may be 2.7 or 2700.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from linklab.cli import UserError

NUMBER_SHARE = 0.95  # a column of at least this share of number cells is a number column; the rest are odd cells
SPACES = " \u00a0\u202f\u2009"
_CODES = (
    "AED|ARS|AUD|BRL|CAD|CHF|CLP|CNY|COP|CZK|DKK|EGP|EUR|GBP|HKD|HUF|IDR|ILS|INR|JPY|KES|KRW|MXN|MYR|NGN|NOK|NZD|PHP|"
    "PKR|PLN|RON|RUB|SAR|SEK|SGD|THB|TRY|TWD|UAH|USD|VND|ZAR"
)
_CURRENCY = rf"(?:US|A|AU|C|CA|HK|NT|NZ|R|S)?\$|[£¢¥฿\u20a0-\u20cf]|{_CODES}|Rs\.?|Fr\.|kr\.?|zł|Kč|Ft|лв"
_WRITTEN = re.compile(
    rf"(?P<first>{_CURRENCY})?[ \u00a0\u202f]?(?P<open>\()?"
    rf"(?P<sign>[-+\u2212])?(?P<before>{_CURRENCY})?[ \u00a0\u202f]*(?P<inner_sign>[-+\u2212])?"
    rf"(?P<digits>[0-9](?:[0-9.,'\u2019{SPACES}]*[0-9])?|[.,][0-9]+|[0-9]+[.,])(?P<exponent>[eE][-+]?[0-9]{{1,3}})?"
    rf"(?P<last_sign>[-\u2212])?[ \u00a0\u202f]?(?P<after>[%‰]|{_CURRENCY})?(?P<close>\))?"  # 12,50- is SAP's -12.50
)
_SIGNS = ("sign", "inner_sign", "last_sign")
_MAY_BE_GROUPED = re.compile(r"[-+]?(?:[1-9][0-9]{0,2}\.[0-9]{3}|[^.]*)")
_WHOLE = r"(?:0|[1-9][0-9]*)"
_GROUPED = r"[1-9][0-9]{0,2}"


def _match(text: str) -> re.Match[str] | None:
    """Return the parts of a number as people write it: at most one sign, one currency before it, brackets in pairs."""
    found = _WRITTEN.fullmatch(text.strip())
    if found is None or bool(found["open"]) != bool(found["close"]) or (found["first"] and found["before"]):
        return None
    if (found["open"] is not None) + sum(bool(found[name]) for name in _SIGNS) > 1:
        return None
    is_phone = found["sign"] == "+" and any(space in found["digits"] for space in SPACES)  # +49 170 100 200
    return None if is_phone or _is_ip_address(found["digits"]) else found


def _is_ip_address(digits: str) -> bool:
    """True for an IP address: `192.168.100.120`."""
    groups = digits.split(".")
    return len(groups) == 4 and all(group.isdigit() and int(group) < 256 for group in groups)


@dataclasses.dataclass(frozen=True)
class NumberFormat:
    """How a column writes numbers: the decimal mark, the thousands separator, and the unit beside the digits."""

    decimal: str = "."
    thousands: str = ""  # "", ",", ".", " " (any space) or "'"
    unit: str = ""  # "$", "%", "EUR", …

    def read(self, text: str) -> str | None:
        """Return the plain spelling: `($2,700)` -> `-2700`, `27.0%` -> `27.0`; None if the cell is not a number."""
        found = _match(text)
        if found is None or not _digit_pattern(self.decimal, self.thousands).fullmatch(found["digits"]):
            return None
        marks = {"": "", " ": SPACES, "'": "'\u2019"}.get(self.thousands, self.thousands)
        digits = "".join(mark for mark in found["digits"] if mark not in marks).replace(self.decimal, ".")
        minus = found["open"] is not None or any(found[name] in ("-", "\u2212") for name in _SIGNS)
        return "-" * minus + digits + (found["exponent"] or "")

    def describe(self) -> str:
        """Return what is unusual: `decimal comma, thousands ".", unit €`; empty for plain numbers."""
        parts = ["decimal comma"] if self.decimal == "," else []
        parts += [f"thousands {'space' if self.thousands == ' ' else self.thousands!r}"] if self.thousands else []
        parts += [f"unit {self.unit}"] if self.unit else []
        return ", ".join(parts)


PLAIN = NumberFormat()
_STYLES = ((".", ""), (".", ","), (".", " "), (".", "'"), (",", ""), (",", "."), (",", " "), (",", "'"))


@functools.cache
def _digit_pattern(decimal: str, thousands: str) -> re.Pattern[str]:
    mark = {"": "", " ": f"[{SPACES}]", "'": "['\u2019]"}.get(thousands, re.escape(thousands))
    point = re.escape(decimal)
    grouped = rf"|{_GROUPED}(?:{mark}[0-9]{{3}})+" if thousands else ""
    if (decimal, thousands) == (".", ","):  # India groups by two above the thousands: 1,23,456
        grouped += "|[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}"
    return re.compile(rf"(?:{_WHOLE}{grouped})(?:{point}[0-9]*)?|{point}[0-9]+")


def shape_of(text: str) -> tuple[str, str] | None:
    """Return (the digits with long runs shortened, unit) of a number as people write it, None for other texts.

    Every format reads all cells of one shape, or none: `2,700` -> ("9,999", ""), `$12.5` -> ("9.9", "$").
    """
    found = _match(text)
    if found is None:
        return None
    first, *runs = re.split(r"([^0-9])", found["digits"])
    head = "0" if first == "0" else "0" * first.startswith("0") + "9" * min(len(first), 4)
    tail = (("9" * len(run) if len(run) < 4 else "9") if run.isdigit() else run for run in runs)
    return head + "".join(tail), found["first"] or found["before"] or found["after"] or ""


@dataclasses.dataclass
class NumberShapes:
    """The shapes of a column's number cells; the number of cells and one example per shape."""

    counts: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)

    def add(self, text: str) -> bool:
        """Count a cell; False if it is not a number in any format."""
        shape = shape_of(text)
        if shape is None:
            return False
        if shape not in self.counts:
            if not any(_digit_pattern(*style).fullmatch(shape[0]) for style in _STYLES):
                return False
            self.examples[shape] = text
        self.counts[shape] += 1
        return True

    def add_plain(self, texts: Sequence[str], n_whole: int) -> None:
        """Count plain numbers (`12`, `-0.5`, `1e3`), `n_whole` of them whole, without looking at each."""
        if n_whole:
            self._add_many(("9", ""), n_whole, "9")
        if n_whole < len(texts):
            point = next((text for text in texts if "." in text and not _MAY_BE_GROUPED.fullmatch(text)), None)
            if point is None and ("9.9", "") not in self.counts:  # `1.234` and the like only: 1.234 or 1234
                for text in texts:
                    self.add(text)
                self._add_many(("9", ""), -n_whole, "9")
            else:
                self._add_many(("9.9", ""), len(texts) - n_whole, point or "9.9")

    def _add_many(self, shape: tuple[str, str], n: int, example: str) -> None:
        self.counts[shape] += n
        self.examples.setdefault(shape, example)

    def read_by(self, style: tuple[str, str]) -> int:
        """Return how many cells a style (decimal mark, thousands separator) can read."""
        return sum(n for (shape, _), n in self.counts.items() if _digit_pattern(*style).fullmatch(shape))

    @property
    def decimal_evidence(self) -> set[str]:
        """The decimal marks of cells that only one mark can read: `20,5` -> {","}, `1,234.5` -> {"."}."""
        marks = set()
        for shape, _ in self.counts:
            read_with = {style[0] for style in _STYLES if _digit_pattern(*style).fullmatch(shape)}
            if len(read_with) == 1:
                marks |= read_with
        return marks


def choose_format(
    name: str, shapes: NumberShapes, *, n_filled: int, decimal: str | None, known: NumberFormat | None = None,
    given: bool = False,
) -> NumberFormat | None:  # fmt: skip
    """Return the format of a column with `n_filled` filled cells, None if fewer than 95 % of them are numbers.

    `decimal` is the file's decimal mark, None if unknown; `known` is the column's format in training. `given` means
    that the user gave the mark: a number column that it cannot read is an error.
    Raises a UserError that names a column with ambiguous numbers, or with numbers written in more than one way.
    """
    total = shapes.counts.total()
    if not n_filled or total < NUMBER_SHARE * n_filled:
        return None
    unit = _one_unit(name, shapes)
    read = {style: shapes.read_by(style) for style in _STYLES}
    most = max(read.values())
    best = [style for style in _STYLES if read[style] == most]
    if most < NUMBER_SHARE * n_filled:
        two = [shapes.examples[shape] for shape, _ in shapes.counts.most_common(2)]
        raise UserError(f"column '{name}': numbers are written in more than one way ({' and '.join(map(repr, two))}); "
                        f"write them in one way, or leave the column out with --drop-columns")  # fmt: skip
    if given:
        _refuse_given(name, shapes, best, decimal)
    if len({_meaning(shapes, style) for style in best}) == 1:  # `12` is 12 with any decimal mark
        return NumberFormat(*best[0], unit=unit)
    preferred = known.decimal if known and any(style[0] == known.decimal for style in best) else decimal
    if preferred:
        best = [style for style in best if style[0] == preferred] or best
    else:
        _refuse_commas(name, shapes, best)
    return NumberFormat(*best[0], unit=unit)


def _refuse_given(name: str, shapes: NumberShapes, styles: Sequence[tuple[str, str]], decimal: str | None) -> None:
    """Raise a UserError if no style that reads the column has the decimal mark that the user gave."""
    if any(style[0] == decimal for style in styles):
        return
    readers = [_digit_pattern(*style) for style in _STYLES if style[0] == decimal]
    example = next(text for (shape, _), text in shapes.examples.items() if not any(r.fullmatch(shape) for r in readers))
    raise UserError(f"column '{name}': {example!r} is not a number with --decimal {decimal}; leave --decimal out, "
                    f"or leave the column out with --drop-columns")  # fmt: skip


def _refuse_commas(name: str, shapes: NumberShapes, styles: Sequence[tuple[str, str]]) -> None:
    """Raise a UserError for a number with a comma: its value depends on the style."""
    example = next((text for (shape, _), text in shapes.examples.items() if "," in shape), None)
    if example is not None:
        plain = sorted({NumberFormat(*style).read(example) or "" for style in styles})
        raise UserError(f"column '{name}': {example!r} can be {' or '.join(plain)}; say which with --decimal . or "
                        f"--decimal ,")  # fmt: skip


def _one_unit(name: str, shapes: NumberShapes) -> str:
    """Return the unit of a column's numbers, "" for none; raises a UserError for more than one."""
    units = sorted({unit for _, unit in shapes.counts if unit})
    if len(units) > 1:
        raise UserError(f"column '{name}': numbers with different units ({', '.join(units)}) cannot be compared; "
                        f"convert them, or leave the column out with --drop-columns")  # fmt: skip
    return units[0] if units else ""


def _meaning(shapes: NumberShapes, style: tuple[str, str]) -> tuple[str | None, ...]:
    return tuple(NumberFormat(*style).read(text) for text in shapes.examples.values())


def file_decimal(columns: Mapping[str, NumberShapes]) -> str | None:
    """Return the one decimal mark that the columns prove; None if they prove none, or both."""
    marks = set().union(*(shapes.decimal_evidence for shapes in columns.values())) if columns else set()
    return marks.pop() if len(marks) == 1 else None
