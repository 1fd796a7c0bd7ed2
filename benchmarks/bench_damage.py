"""Damage links.csv in many ways and count what three validators find: ours, frictionless, and pandas with pandera.

generated rows -> benchmarks/results/damage.md

    pip install -r requirements-bench.txt
    python benchmarks/bench_damage.py

Each kind of damage is done at 50 random places, one per file of 40 rows. A place is *found* if the tool reports
anything; its *line* is named if a report has the physical line of the damage; its *code* is right if that report also
has the right column and a code that fits (for the other tools: an error type that fits).
All three tools check types, ranges, choices, required cells, unique ids, repeated rows, element types and ranges of
lists, list lengths, and that the target is the best candidate. Only ours checks rules of physics and regulation.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import bench
from linklab import cli

PIP_LINE = "pip install -r requirements-bench.txt"
N_ROWS = 40


FITTING = ("type-error", "constraint-error")  # error types of frictionless that fit most damage


class Damage(NamedTuple):
    """A damaged file: its bytes, and where and how it is damaged."""

    data: bytes
    line: int
    column: str | None  # None: the whole line
    codes: tuple[str, ...]  # of ours
    others: tuple[str, ...]  # error types of frictionless that fit


class Report(NamedTuple):
    """One problem that a tool reports; line 0 if it names no line."""

    line: int
    column: str | None
    code: str


# --- damage -----------------------------------------------------------------------------------------------------------


class Clean:
    """A clean file as header and rows of cells."""

    def __init__(self, header: list[str], rows: list[list[str]], random_: random.Random) -> None:
        self.header, self.rows, self.random = header, rows, random_

    def lines(self) -> list[bytes]:
        return [write_row(self.header), *map(write_row, self.rows)]

    def pick(self) -> int:
        return self.random.randrange(len(self.rows))

    def at(self, name: str) -> int:
        return self.header.index(name)

    def with_cell(self, row: int, name: str, text: str, codes, others=FITTING) -> Damage:
        """Return the file with one cell replaced."""
        cells, lines = list(self.rows[row]), self.lines()
        cells[self.at(name)] = text
        lines[row + 1] = write_row(cells)
        return self.with_lines(lines, row + 2, name, codes, others)

    def with_lines(self, lines: list[bytes], line: int, column, codes, others) -> Damage:
        codes = (codes,) if isinstance(codes, str) else codes
        return Damage(b"".join(lines), line, column, codes, others)


def write_row(cells: list[str]) -> bytes:
    handle = io.StringIO(newline="")
    csv.writer(handle, lineterminator="\n").writerow(cells)
    return handle.getvalue().encode("utf-8", "surrogateescape")


INTS = ("link_distance_m", "antenna_gain_dbi", "tx_power_dbm", "interferer_count", "expected_throughput_mbps")
FLOATS = ("rain_mm_h", "lat_a", "second_best_gap_pct", "availability_pct")
NUMBERS = INTS + FLOATS
WORDS = ("regulatory_domain", "environment_type", "area_density", "obstruction_type", "weather_condition")
TARGETS = ("recommended_channel_mhz", "expected_throughput_mbps")
INT_LISTS = ("rssi_dbm", "noise_dbm", "busy_pct")
FLOAT_LISTS = ("sinr_db", "true_noise_dbm", "channel_throughput_mbps")
LISTS = INT_LISTS + FLOAT_LISTS


def cell_damage(names: tuple[str, ...], change: Callable[[str, random.Random], str], codes, others=FITTING):
    """Damage that replaces one cell of a random column of `names`."""

    def damage(clean: Clean) -> Damage:
        for _ in range(500):
            row, name = clean.pick(), clean.random.choice(names)
            old = clean.rows[row][clean.at(name)]
            new = change(old, clean.random)
            if new != old:
                return clean.with_cell(row, name, new, codes, others=others)
        raise AssertionError(names)

    return damage


def element_damage(names: tuple[str, ...], change: Callable[[str, random.Random], str], codes):
    """Damage that replaces one element of a random list cell."""

    def on_cell(text: str, random_: random.Random) -> str:
        elements = text[1:-1].split(",")
        place = random_.randrange(len(elements))
        elements[place] = change(elements[place], random_)
        return f"[{','.join(elements)}]"

    return cell_damage(names, on_cell, codes)


def line_damage(change: Callable[[bytes, random.Random], bytes], codes, others, *, shift: int = 0):
    """Damage that replaces one line; a validator must name the line `shift` lines below."""

    def damage(clean: Clean) -> Damage:
        lines, row = clean.lines(), clean.pick()
        lines[row + 1] = change(lines[row + 1], clean.random)
        return clean.with_lines(lines, row + 2 + shift, None, codes, others)

    return damage


def drop_element(text: str, random_: random.Random) -> str:
    elements = text[1:-1].split(",")
    del elements[random_.randrange(len(elements))]
    return f"[{','.join(elements)}]"


def cut_line(line: bytes, random_: random.Random) -> bytes:
    return line[: random_.randrange(20, len(line) - 20)] + b"\n"


def last_line_cut(clean: Clean) -> Damage:
    data = b"".join(clean.lines())[: -clean.random.randrange(20, 200)]
    codes = ("ragged_row", "bad_quoting")
    return Damage(data, len(clean.rows) + 1, None, codes, ("missing-cell", "source-error", "type-error"))


def no_final_newline(clean: Clean) -> Damage:
    return Damage(b"".join(clean.lines())[:-1], len(clean.rows) + 1, None, ("no_final_newline",), ())


def byte_order_mark(clean: Clean) -> Damage:
    return Damage(b"\xef\xbb\xbf" + b"".join(clean.lines()), 1, None, ("bom",), ("encoding-error",))


def duplicate_row(clean: Clean) -> Damage:
    lines, row = clean.lines(), clean.random.randrange(10, len(clean.rows))
    lines.insert(row + 1, lines[clean.random.randrange(1, row)])
    others = ("duplicate-row", "primary-key", "unique-error")
    return clean.with_lines(lines, row + 2, None, ("duplicate_row",), others)


def duplicate_under_other_id(clean: Clean) -> Damage:
    lines, row = clean.lines(), clean.random.randrange(10, len(clean.rows))
    lines.insert(row + 1, b"L99999999" + lines[clean.random.randrange(1, row)][9:])
    return clean.with_lines(lines, row + 2, None, ("duplicate_row",), ("duplicate-row",))


def duplicate_id(clean: Clean) -> Damage:
    row = clean.random.randrange(10, len(clean.rows))
    earlier = clean.rows[clean.random.randrange(0, row - 1)][0]
    return clean.with_cell(row, clean.header[0], earlier, "duplicate_id", others=("primary-key", "unique-error"))


def other_candidate(clean: Clean) -> Damage:
    while True:
        row = clean.pick()
        cells = clean.rows[row]
        candidates = json.loads(cells[clean.at("available_channels_mhz")])
        wrong = [str(c) for c in candidates if str(c) != cells[clean.at("recommended_channel_mhz")]]
        if wrong:
            text = clean.random.choice(wrong)
            return clean.with_cell(
                row, "recommended_channel_mhz", text, "target_mismatch", others=("row-constraint", "constraint-error")
            )


def no_candidate(clean: Clean) -> Damage:
    row = clean.pick()
    candidates = json.loads(clean.rows[row][clean.at("available_channels_mhz")])
    text = str(clean.random.choice([c for c in range(5180, 5826, 5) if c not in candidates]))
    return clean.with_cell(row, "recommended_channel_mhz", text, "target_not_candidate", others=("row-constraint",))


def changed_candidates(change: Callable[[list[int], random.Random], list[int]], codes):
    """Damage that replaces the candidates of a row by others."""

    def damage(clean: Clean) -> Damage:
        row = clean.pick()
        candidates = json.loads(clean.rows[row][clean.at("available_channels_mhz")])
        text = json.dumps(change(candidates, clean.random), separators=(",", ":"))
        return clean.with_cell(row, "available_channels_mhz", text, codes, ("row-constraint",))

    return damage


def move_one(candidates: list[int], random_: random.Random) -> list[int]:
    candidates[random_.randrange(len(candidates))] += 5
    return candidates


def moved_end(clean: Clean) -> Damage:
    damage = cell_damage(("lat_b", "lon_b"), lambda text, r: f"{float(text) + r.choice((-1, 1)) * 0.1:.6f}", "")(clean)
    return damage._replace(column="link_distance_m", codes=("distance_mismatch",), others=("row-constraint",))


def swapped_cells(first: str, second: str, codes: tuple[str, ...]):
    """Damage that swaps the cells of two columns in one row."""

    def damage(clean: Clean) -> Damage:
        row = clean.pick()
        cells, lines = list(clean.rows[row]), clean.lines()
        a, b = clean.at(first), clean.at(second)
        cells[a], cells[b] = cells[b], cells[a]
        lines[row + 1] = write_row(cells)
        return clean.with_lines(lines, row + 2, first, codes, (*FITTING, "row-constraint"))

    return damage


def header_damage(change: Callable[[list[str], random.Random], list[str]], codes, others):
    """Damage to column names, to be reported at line 1."""

    def damage(clean: Clean) -> Damage:
        lines = clean.lines()
        lines[0] = write_row(change(list(clean.header), clean.random))
        return clean.with_lines(lines, 1, None, codes, others)

    return damage


def swap_names(names: list[str], random_: random.Random) -> list[str]:
    a, b = random_.sample(range(len(names)), 2)
    names[a], names[b] = names[b], names[a]
    return names


def rename(names: list[str], random_: random.Random) -> list[str]:
    at = random_.randrange(len(names))
    names[at] = names[at][:-1]
    return names


def repeat_name(names: list[str], random_: random.Random) -> list[str]:
    a, b = random_.sample(range(len(names)), 2)
    names[a] = names[b]
    return names


def full_width(text: str, random_: random.Random) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if c.isdigit() else c for c in text)


def one_more_digit(text: str, random_: random.Random) -> str:
    return str(int(text) + random_.choice((-20, -7, 7, 20)))


def put(character: str) -> Callable[[str, random.Random], str]:
    """Return a change that puts a character somewhere into a text."""

    def change(text: str, random_: random.Random) -> str:
        at = random_.randrange(1, len(text))
        return text[:at] + character + text[at:]

    return change


TEXT_ERRORS = ("type-error", "constraint-error", "encoding-error", "source-error")
DAMAGES: dict[str, Callable[[Clean], Damage]] = {
    "empty target": cell_damage(TARGETS, lambda t, r: "", "missing_value"),
    "empty number": cell_damage(NUMBERS, lambda t, r: "", "missing_value"),
    "empty list cell": cell_damage(LISTS, lambda t, r: "", "missing_value"),
    "white-space-only text": cell_damage(("site_id",), lambda t, r: " " * r.randint(1, 4), "blank_text"),
    "trailing space": cell_damage(WORDS, lambda t, r: t + " ", "outer_space"),
    "leading space in number": cell_damage(NUMBERS, lambda t, r: " " + t, "outer_space"),
    "no-break space": cell_damage(NUMBERS, lambda t, r: t + "\u00a0", "outer_space"),
    "case slip": cell_damage(WORDS, lambda t, r: t.swapcase(), "spelling_variant"),
    "unknown word": cell_damage(WORDS, lambda t, r: t + r.choice("abcx"), "unknown_value"),
    "underscore 1_000": cell_damage(INTS, lambda t, r: t[0] + "_" + t[1:] if len(t) > 1 else t, "number_format"),
    "full-width digits": cell_damage(NUMBERS, full_width, "number_format"),
    "leading zeros": cell_damage(INTS, lambda t, r: "00" + t, "number_format"),
    "plus sign": cell_damage(NUMBERS, lambda t, r: t if t[0] == "-" else "+" + t, "number_format"),
    "exponent": cell_damage(INTS, lambda t, r: f"{int(t):e}", "number_format"),
    "decimal comma": cell_damage(FLOATS, lambda t, r: t.replace(".", ","), "number_format"),
    "thousands comma": cell_damage(("link_distance_m",), lambda t, r: f"{int(t):,}", "number_format"),
    "NaN": cell_damage(NUMBERS, lambda t, r: r.choice(("NaN", "nan", "NA", "null")), "not_a_value"),
    "infinity": cell_damage(NUMBERS, lambda t, r: r.choice(("inf", "-inf", "Infinity")), "not_a_value"),
    "unit in the cell": cell_damage(("link_distance_m", "tx_power_dbm"), lambda t, r: t + " m", "not_a_number"),
    "point in whole number": cell_damage(INTS, lambda t, r: t + ".0", "not_an_integer"),
    "too many decimals": cell_damage(FLOATS, lambda t, r: t + "1", "too_many_decimals"),
    "out of range": cell_damage(("antenna_gain_dbi", "rain_mm_h", "lat_a"), lambda t, r: "412", "out_of_range"),
    "km for m": cell_damage(("link_distance_m",), lambda t, r: str(max(int(t) // 1000, 1)), "out_of_range"),
    "NaN in a list": element_damage(LISTS, lambda t, r: "NaN", "not_a_value"),
    "null in a list": element_damage(LISTS, lambda t, r: "null", "not_a_value"),
    "text in a list": element_damage(LISTS, lambda t, r: f'"{t}"', "not_a_number"),
    "float in an int list": element_damage(INT_LISTS, lambda t, r: t + ".5", "not_an_integer"),
    "list element out of range": element_damage(LISTS, lambda t, r: "-999", "out_of_range"),
    "list element missing": cell_damage(LISTS, drop_element, "list_length", ("row-constraint",)),
    "list without bracket": cell_damage(LISTS, lambda t, r: t[:-1], "not_a_list"),
    "empty list": cell_damage(LISTS, lambda t, r: "[]", "empty_list", ("row-constraint", "constraint-error")),
    "mojibake": cell_damage(("site_id",), lambda t, r: "CafÃ© " + t, "mojibake", TEXT_ERRORS),
    "control character": cell_damage(("site_id",), put("\x07"), "control_character", TEXT_ERRORS),
    "line break in a cell": cell_damage(("site_id",), put("\n"), "control_character", TEXT_ERRORS),
    "NUL byte": cell_damage(("site_id", "lat_a"), put("\0"), "nul_byte", TEXT_ERRORS),
    "bytes that are not UTF-8": cell_damage(("site_id",), put("\udce9"), "bad_utf8", TEXT_ERRORS),
    "target not among candidates": no_candidate,
    "target another candidate": other_candidate,
    "throughput wrong": cell_damage(
        ("expected_throughput_mbps",), one_more_digit, ("target_mismatch", "out_of_range"), ("row-constraint",)
    ),
    # 5 MHz above the highest channel there is no channel
    "candidate not legal": changed_candidates(move_one, ("illegal_channel", "out_of_range")),
    "candidates out of order": changed_candidates(lambda c, r: c[::-1], "candidate_order"),
    "coordinate moved": moved_end,
    "distance and gain swapped": swapped_cells("link_distance_m", "antenna_gain_dbi", ("out_of_range",)),
    "noise and RSSI swapped": swapped_cells("rssi_dbm", "noise_dbm", ("signal_mismatch", "out_of_range")),
    "blank line": line_damage(lambda line, r: line + b"\n", "blank_line", ("blank-row",), shift=1),
    "line of spaces": line_damage(
        lambda line, r: line + b"   \n", "blank_line", ("blank-row", "missing-cell"), shift=1
    ),
    "a cell too few": line_damage(lambda line, r: line.rsplit(b",", 1)[0] + b"\n", "ragged_row", ("missing-cell",)),
    "a cell too many": line_damage(lambda line, r: line[:-1] + b",1\n", "ragged_row", ("extra-cell",)),
    "quote never closed": line_damage(
        lambda line, r: line.replace(b']"', b"]", 1), "bad_quoting", ("source-error", "type-error", "missing-cell")
    ),
    "quote in a bare cell": line_damage(
        lambda line, r: line.replace(b",S", b',S"', 1), "bad_quoting", ("source-error", "type-error")
    ),
    "line cut off": line_damage(
        cut_line, ("ragged_row", "bad_quoting"), ("missing-cell", "source-error", "type-error")
    ),
    "last line cut off": last_line_cut,
    "no final line end": no_final_newline,
    "one line with CR LF": line_damage(lambda line, r: line[:-1] + b"\r\n", "mixed_line_ends", ()),
    "row twice": duplicate_row,
    "row under another id": duplicate_under_other_id,
    "id twice": duplicate_id,
    "byte order mark": byte_order_mark,
    "two column names swapped": header_damage(swap_names, "column_order", ("incorrect-label",)),
    "column renamed": header_damage(rename, ("missing_column",), ("incorrect-label", "missing-label")),
    "column name twice": header_damage(repeat_name, ("bad_header",), ("duplicate-label", "incorrect-label")),
}


# --- tools ------------------------------------------------------------------------------------------------------------


def check_ours(path: Path) -> list[Report]:
    from linklab.validation.validation_plan import make_plan
    from linklab.validation.validation_report import Tally, validate

    found: list = []
    try:
        validate(make_plan(path, schema="links"), Tally(1, found.append))
    except cli.UserError as error:
        return [Report(_line_in(str(error)), None, "unreadable")]
    return [Report(v.line, v.column or None, v.code) for v in found]


def _line_in(message: str) -> int:
    found = re.search(r"(?:line|row) (\d+)|:(\d+):", message)
    return int(found[1] or found[2]) if found else 0


def _aligned(row, schema, get) -> list[str]:
    """Names of list columns that are not as long as the list of candidates (for the two other tools)."""
    n = len(get("available_channels_mhz"))
    return [c.name for c in schema.columns if c.aligned_with and len(get(c.name)) != n]


def make_frictionless() -> Callable[[Path], list[Report]]:
    import frictionless as fl
    from linklab.links.links import LINK_SCHEMA

    kinds = {"int": "integer", "float": "number", "str": "string"}
    fields = []
    for column in LINK_SCHEMA.columns:
        limits = {k: v for k, v in (("minimum", column.low), ("maximum", column.high)) if v is not None}
        if column.choices:
            limits["enum"] = list(column.choices)
        if column.kind.startswith("list_"):
            item = {"type": kinds[column.kind[5:]], "constraints": limits}
            fields.append({"name": column.name, "type": "array", "arrayItem": item, "constraints": {"required": True}})
        else:
            constraints = limits | {"required": True}
            fields.append({"name": column.name, "type": kinds[column.kind], "constraints": constraints})
    schema = fl.Schema.from_descriptor({"fields": fields, "primaryKey": ["scenario_id"]})

    class AcrossColumns(fl.Check):
        Errors = [fl.errors.RowConstraintError]

        def validate_row(self, row):
            try:
                candidates, worth = row["available_channels_mhz"], row["channel_throughput_mbps"]
                bad = _aligned(row, LINK_SCHEMA, row.__getitem__)
                best = candidates[max(range(len(worth)), key=worth.__getitem__)] if not bad else None
                if not bad and row["recommended_channel_mhz"] != best:
                    bad = ["recommended_channel_mhz"]
            except (TypeError, ValueError, IndexError, ArithmeticError):
                return  # a cell that could not be read has its own error
            for name in bad:
                yield fl.errors.RowConstraintError.from_row(row, note=name)

    def check(path: Path) -> list[Report]:
        resource = fl.Resource(path=str(path), schema=schema, format="csv", encoding="utf-8")
        checks = [AcrossColumns(), fl.checks.duplicate_row()]
        with fl.system.use_context(trusted=True):  # it refuses absolute paths otherwise
            report = fl.validate(resource, checks=checks, limit_errors=10_000)
        found = []
        for error in [*report.errors, *(e for task in report.tasks for e in task.errors)]:
            column = getattr(error, "field_name", None)
            if error.type == "row-constraint":
                column = error.note
            line = getattr(error, "row_number", None) or (1 if "label" in error.type else _line_in(error.note))
            found.append(Report(line, column, error.type))
        return found

    return check


def make_pandera() -> Callable[[Path], list[Report]]:
    import pandas as pd
    import pandera.errors
    import pandera.pandas as pa
    from linklab.links.links import LINK_SCHEMA

    types = {"int": "int64", "float": "float64", "str": "str"}

    def good_list(column):
        whole = column.kind == "list_int"

        def check(text) -> bool:
            try:
                elements = json.loads(text)
            except (TypeError, ValueError):
                return False
            fits = (int,) if whole else (int, float)
            return isinstance(elements, list) and all(
                isinstance(e, fits) and not isinstance(e, bool) and column.low <= e <= column.high for e in elements
            )

        return pa.Check(check, element_wise=True, name="list")

    columns = {}
    for column in LINK_SCHEMA.columns:
        checks = [good_list(column)] if column.kind.startswith("list_") else []
        if column.low is not None and not checks:
            checks.append(pa.Check.in_range(column.low, column.high))
        if column.choices:
            checks.append(pa.Check.isin(column.choices))
        dtype = types[column.kind.removeprefix("list_")] if not column.kind.startswith("list_") else "str"
        columns[column.name] = pa.Column(dtype, checks, nullable=False, unique=column.role == "id")

    def lists(frame, name):
        def read(text):
            try:
                value = json.loads(text)
                return value if isinstance(value, list) else []
            except (TypeError, ValueError):
                return []

        return frame[name].map(read)

    def same_length(name):
        return pa.Check(
            lambda f: lists(f, name).map(len) == lists(f, "available_channels_mhz").map(len), name=f"length {name}"
        )

    def right_target(frame):
        pairs = zip(lists(frame, "available_channels_mhz"), lists(frame, "channel_throughput_mbps"), strict=True)
        best = [c[max(range(len(t)), key=t.__getitem__)] if t and len(c) == len(t) else None for c, t in pairs]
        return frame["recommended_channel_mhz"] == pd.Series(best, index=frame.index)

    wide = [same_length(c.name) for c in LINK_SCHEMA.columns if c.aligned_with]
    wide.append(pa.Check(right_target, name="target recommended_channel_mhz"))
    wide.append(pa.Check(lambda f: ~f.duplicated(), name="duplicate-row"))
    schema = pa.DataFrameSchema(columns, checks=wide, strict=True, ordered=True)

    def check(path: Path) -> list[Report]:
        try:
            frame = pd.read_csv(path)
        except (ValueError, OSError) as error:  # ParserError and UnicodeDecodeError are ValueErrors
            return [Report(_line_in(str(error)), None, "reader-error")]
        try:
            schema.validate(frame, lazy=True)
        except pandera.errors.SchemaErrors as errors:
            return list(_cases(errors.failure_cases))
        return []

    def _cases(cases):
        seen = set()
        for case in cases.itertuples():
            name = str(case.check)
            column = case.column if case.schema_context == "Column" else name.split(" ")[-1]
            # Rows with too many cells turn the first columns into the index; the case then names no row.
            line = int(case.index) + 2 if isinstance(case.index, (int, float)) and case.index == case.index else 0
            if str(case.check).startswith(("column_", "column_ordered")) or "dataframe" in name:
                line = 1
            if (line, column, name) not in seen:
                seen.add((line, column, name))
                yield Report(line, column, name)

    return check


# --- scoring ----------------------------------------------------------------------------------------------------------


def score(damage: Damage, reports: list[Report], tool: str) -> tuple[bool, bool, bool, bool]:
    """Return whether the damage is found, its line named and its code right, and whether another line is blamed too."""
    here = [r for r in reports if r.line == damage.line]
    fitting = [r for r in here if damage.column is None or r.column == damage.column]
    if tool == "ours":
        right = any(r.code in damage.codes for r in fitting)
    elif tool == "frictionless":
        right = any(r.code in damage.others for r in here if r.column in (damage.column, None) or not damage.column)
    else:
        # Any failed check on the right cell counts; for a damaged line, only the checks that mean such damage.
        of_line = ("reader-error", "duplicate-row", "not_nullable", "field_uniqueness")
        right = bool(fitting) if damage.column or damage.line == 1 else any(r.code in of_line for r in here)
    return bool(reports), bool(here), right, any(r.line not in (0, damage.line) for r in reports)


def clean_file(header: list[str], rows: list[list[str]], random_: random.Random) -> Clean:
    start = random_.randrange(len(rows) - N_ROWS)
    return Clean(header, rows[start : start + N_ROWS], random_)


def read_links() -> tuple[list[str], list[list[str]]]:
    """Rows of links.csv as the generator writes them."""
    from linklab.links import row_writer
    from linklab.radio import labels

    text, starts = row_writer.format_rows(labels.make_block(0, 0))
    text = row_writer.put_ids(text, starts, 1)
    rows = list(csv.reader(io.StringIO(text.decode())))
    return row_writer.HEADER.decode().rstrip("\n").split(","), rows


def build_parser() -> argparse.ArgumentParser:
    parser = bench.make_parser(__doc__, "damage.md")
    parser.add_argument("--places", type=cli.positive_int, default=50, help="random places per kind of damage")
    parser.add_argument("--seed", type=int, default=0, help="seed of the places")
    parser.add_argument("--kinds", type=cli.comma_list, default=[], metavar="TEXT[,TEXT]", help="only these kinds")
    return parser


def run(args: argparse.Namespace) -> int:
    missing = [name for name in ("frictionless", "pandera", "pandas") if importlib.util.find_spec(name) is None]
    if missing:
        raise cli.UserError(f"{', '.join(missing)} not installed; only this benchmark needs them: {PIP_LINE}")
    os.environ["DISABLE_PANDERA_IMPORT_WARNING"] = "True"
    tools = {"ours": check_ours, "frictionless": make_frictionless(), "pandera": make_pandera()}
    header, rows = read_links()
    random_ = random.Random(args.seed)
    counts = {tool: {name: Counter() for name in DAMAGES} for tool in tools}
    alarms: Counter = Counter()
    kinds = [name for name in DAMAGES if not args.kinds or name in args.kinds]
    progress = cli.Progress("damaging", len(kinds), unit="kinds")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "links.csv"
        for _ in range(args.places):
            path.write_bytes(b"".join(clean_file(header, rows, random_).lines()))
            for tool in tools:
                alarms[tool] += bool(tools[tool](path))
        for done, name in enumerate(kinds, start=1):
            for _ in range(args.places):
                damage = DAMAGES[name](clean_file(header, rows, random_))
                path.write_bytes(damage.data)
                for tool in tools:
                    found, line, right, others = score(damage, tools[tool](path), tool)
                    counts[tool][name] += Counter(found=found, line=line, right=right, others=others)
            progress.at(done, name)
    bench.write_page(args.out, table(args, kinds, counts, alarms))
    cli.say(summary(kinds, counts, alarms, args.places))
    return 0


def summary(kinds, counts, alarms, places) -> str:
    parts = []
    for tool, by_kind in counts.items():
        full = {key: sum(by_kind[name][key] == places for name in kinds) for key in ("found", "line", "right")}
        parts.append(
            f"{tool} finds {full['found']} of {len(kinds)} kinds at every place, names the line of {full['line']} "
            f"and the code of {full['right']}, {alarms[tool]} false alarms"
        )
    return "; ".join(parts)


def table(args, kinds, counts, alarms) -> list[str]:
    versions = {name: importlib.metadata.version(name) for name in ("frictionless", "pandera", "pandas")}
    n = len(kinds) * args.places
    lines = [
        "# What three validators find in a damaged links.csv",
        "",
        f"{len(kinds)} kinds of damage, {args.places} random places each, one place per file of {N_ROWS} rows; "
        f"seed {args.seed}.",
        f"frictionless {versions['frictionless']}, pandera {versions['pandera']} on pandas {versions['pandas']}, "
        f"Python {platform.python_version()}. Made by `python benchmarks/bench_damage.py` ({PIP_LINE}).",
        "",
        "*Found*: anything is reported. *Line*: the physical line is named. *Code*: column and kind are right too. "
        "*Others*: a line that was not damaged is blamed as well; of two rows that share an id or their content, the "
        "first counts as not damaged.",
        "All three check types, ranges, choices, required cells, unique ids, repeated rows, list elements and lengths,",
        "and the target as the best candidate; legality of channels, distances and signals are checked by ours alone.",
        "",
    ]
    labels = {"found": "places found", "line": "line named", "right": "code right", "others": "other lines blamed"}
    rows = []
    for key, label in labels.items():
        sums = [sum(counts[tool][name][key] for name in kinds) for tool in counts]
        rows.append([f"{label}, of {n:,}", *(f"{s:,} ({s / n:.1%})" for s in sums)])
    words = {"found": "found", "line": "named by its line", "right": "given the right code"}
    for key, said in words.items():
        full = [sum(counts[tool][name][key] == args.places for name in kinds) for tool in counts]
        rows.append([f"kinds with every place {said}, of {len(kinds)}", *map(str, full)])
    rows.append([f"false alarms on {args.places} clean files", *(str(alarms[t]) for t in counts)])
    by_kind = [[name, *(" / ".join(str(counts[t][name][key]) for key in labels) for t in counts)] for name in kinds]
    tools = ("ours", "frictionless", "pandera")
    return [*lines, *bench.table(("", *tools), rows, left=4), "", "Found / line / code / others, per kind:", "",
            *bench.table(("damage", *tools), by_kind, left=4)]  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(bench.start(build_parser(), run))
