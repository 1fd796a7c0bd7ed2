"""Roles and kinds of columns are detected from their cells; options override them; unusable columns are reported."""

import csv
import io

import pytest
from linklab.cli import UserError
from linklab.tables.table import TableOptions, open_table
from linklab.tables.table_record import lines_of_record
from linklab.tables.understand import understand


def write(tmp_path, cells, name="v"):
    path = tmp_path / "any.csv"
    handle = io.StringIO()
    writer = csv.writer(handle, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([["row", name], *([f"r{i * 7 % 1000}x", cell] for i, cell in enumerate(cells))])
    path.write_text(handle.getvalue())
    return path


def look(path, *targets, lenient=False, tolerance=0.0, **options):
    table = open_table(path, TableOptions(target_fields=targets, **options))
    return understand(table, lenient=lenient, tolerance=tolerance)


KINDS = [
    (["1", "-2", "0"], "int"),
    (["1", "2.5", ""], "float"),
    (["1e-5", "+2", ".5"], "float"),
    (["007", "123"], "str"),
    (["1", "two"], "str"),
    (["1.5", "NaN", "null"], "float"),
    (["NaN", "NA"], "str"),
    (["[1,2]", "[]", "[3, 4]"], "list_int"),
    (["[1,2.5]", "[1]"], "list_float"),
    (['["a","b"]', "[1]"], "list_str"),
    (["[1,2", "[1]"], "str"),
    (["", ""], "str"),
    (["1_000", "2"], "str"),
    (["５", "2"], "str"),
    (["2024-01-01", "2024-01-02"], "str"),
    (["2,700", "910"], "int"),
    (["$2,700.50", "$12"], "float"),
    (["27.0%", "3%"], "float"),
    (["(2700)", "12"], "int"),
    (["1'234", "12"], "int"),
    (["3"] * 19 + ["?"], "int"),
    (["3"] * 4500 + ["x"], "int"),
    (["[[[" + "[" * 5000, "[1]"], "str"),
]


@pytest.mark.parametrize(("cells", "kind"), KINDS, ids=lambda value: str(value)[:30])
def test_the_narrowest_kind_that_fits_nearly_every_cell(tmp_path, cells, kind):
    assert look(write(tmp_path, cells)).schema["v"].kind == kind


TARGETS = [
    (["yes", "no", "yes"], (), "class", ("no", "yes")),
    (["3", "10", "3"], (), "class", ("3", "10")),
    (["3", "10", "3"], ("number",), "number", None),
    ([str(i) for i in range(20)], (), "class", tuple(map(str, range(20)))),
    ([str(i) for i in range(21)], (), "number", None),
    (["1.5", "2.5"], (), "number", None),
    (["1.0", "2.0"], ("class",), "class", ("1.0", "2.0")),
    (["$1,000", "$2"], ("class",), "class", ("$1,000", "$2")),
    ([f"free text {i}" for i in range(1001)], ("text",), "text", None),
    (["1", "2", "1"], ("text",), "text", None),
]


@pytest.mark.parametrize(("cells", "told", "kind", "choices"), TARGETS, ids=lambda value: str(value)[:20])
def test_the_kind_of_a_target_is_detected_or_given(tmp_path, cells, told, kind, choices):
    schema = look(write(tmp_path, cells), "v", target_kinds=told).schema
    assert (schema.target_kind("v"), schema["v"].choices) == (kind, choices)


REFUSED = [
    (["a", "b", ""] * 5, {}, r"any.csv:4: column 'v' is missing in 5 of 15 rows \(lines 4, 7, 10, 13, 16\)"),
    (["a", "b", "NA"] * 5, {}, r"column 'v' is missing \('NA'\) in 5 .*--drop-missing-target.*--keep-missing-class"),
    (["1.5", "2.5"] * 20 + ["-"], {}, r"any.csv:42: .*line 42: '-'\); .*--missing -, or .*--drop-bad-rows"),
    (["same"] * 12, {}, "column 'v' is 'same' in every row"),
    (["a", "b"] * 5, {"target_kinds": ("number",)}, "column 'v' is a number in 0 of 10 filled cells"),
    (["a", "b"], {"target_kinds": ("color",)}, "--target-kind color: one of class, number, text"),
    (["1,234.5", "1.234,5"] * 5, {}, "numbers are written in more than one way"),
    (["$5", "€7"] * 5, {}, "different units"),
    ([f"text {i}" for i in range(1001)], {}, "too many different texts to be a class .*--target-kind text"),
    (["a", "b"], {"id_field": "none"}, "--id-field: .*no column 'none'; the columns are: row, v"),
    (["a", "b"], {"drop_columns": ("none",)}, "no column 'none'"),
    (["a", "b"], {"group_field": "v"}, "'v' is given two roles"),
    (["a", "b"], {"split_field": "row"}, "each cell must be train, validation or test"),
]


@pytest.mark.parametrize(("cells", "options", "said"), REFUSED, ids=lambda value: str(value)[:30])
def test_an_unusable_table_is_rejected_with_the_option_that_helps(tmp_path, cells, options, said):
    with pytest.raises(UserError, match=said):
        look(write(tmp_path, cells), "v", **options)


SETTLED = [
    (["a", "b", ""] * 5, {"drop_missing_target": True}, 10, ("a", "b")),
    (["a", "b", "NA"] * 5, {"drop_missing_target": True}, 10, ("a", "b")),
    (["a", "b", "NA"] * 5, {"missing": ("NA",)}, 10, ("a", "b")),
    (["a", "b", "NA"] * 5, {"keep_missing_class": True}, 15, ("NA", "a", "b")),
    (["1.5", "2.5"] * 20 + ["-", "?"], {"drop_bad_rows": True}, 40, None),
    (["1.5", "2.5"] * 20 + ["-", "?"], {"missing": ("-", "?")}, 40, None),
    (["1", "2"] * 20 + ["-", "?"], {"missing": ("-", "?")}, 40, ("1", "2")),
]


@pytest.mark.parametrize(("cells", "options", "n_rows", "choices"), SETTLED, ids=lambda value: str(value)[:30])
def test_options_leave_out_rows_with_missing_or_non_numeric_targets(tmp_path, cells, options, n_rows, choices):
    table = open_table(write(tmp_path, cells), TableOptions(target_fields=("v",), **options))
    understood = understand(table)
    assert (understood.record["rows"], understood.schema["v"].choices) == (n_rows, choices)
    assert len(list(table.rows())) == n_rows
    assert sum(understood.record["left_out"].values()) == len(cells) - n_rows


def test_roles_follow_the_field_options(tmp_path):
    path = tmp_path / "any.csv"
    path.write_text("a,b,c,d,e,split\n1,2,3,4,,train\n2,2,3,5,,Test\n")
    schema = look(path, "d", id_field="a", group_field="c", drop_columns=("e",)).schema
    roles = {c.name: c.role for c in schema.columns}
    assert roles == {"a": "id", "b": "input", "c": "group", "d": "target", "e": "hidden", "split": "split"}
    assert [c.name for c in schema.columns if c.nullable] == ["e"]


def test_damage_stops_a_strict_pass_and_is_skipped_by_a_lenient_one(tmp_path):
    path = write(tmp_path, [str(i) for i in range(98)] + ["12 Mbps", "1_000", ""])
    with path.open("a") as handle:
        handle.write("\n1,2,3\nx,5\n")
    with pytest.raises(UserError, match=r"any.csv:104: 3 cells; the header has 2; .*--drop-bad-rows"):
        look(path, "v")
    assert look(path, "row", lenient=True, tolerance=0.03).schema["v"].kind == "int"


def test_a_few_decimals_do_not_turn_integers_into_numbers_with_a_point_for_the_validator(tmp_path):
    path = write(tmp_path, [str(i % 3) for i in range(99)] + ["3.0"])
    column = look(path, "v", lenient=True, tolerance=0.02).schema["v"]
    assert (column.kind, column.class_target, column.choices) == ("int", True, ("0", "1", "2"))
    assert look(path).schema["v"].kind == "float"


def test_a_rare_variant_in_case_or_space_is_not_a_known_word_for_the_validator(tmp_path):
    path = write(tmp_path, ["urban"] * 60 + ["rural"] * 60 + ["Urban", "rural ", "hilly"])
    assert look(path, "v", lenient=True, tolerance=0.02).schema["v"].choices == ("hilly", "rural", "urban")
    assert look(path, "v").schema["v"].choices == ("Urban", "hilly", "rural", "rural ", "urban")


def warnings_of(tmp_path, rows, *targets, **options):
    path = tmp_path / "any.csv"
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows(rows)
    return look(path, *targets, **options).record["warnings"]


WARNINGS = [
    ([["n", "y"]] + [[i + 1, "ab"[i * i % 7 % 2]] for i in range(30)], "counts up.*--id-field n"),
    ([["n", "y"]] + [[f"case-{i:03d}", "ab"[i * i % 7 % 2]] for i in range(30)], "counts up"),
    ([["code", "y"]] + [["xyz"[i % 3], "abc"[i % 3]] for i in range(30)],
     "'code' alone gives the answer to 'y'.*--drop-columns code"),
    ([["x", "y"]] + [[i * 37 % 50, "ab"[i * 37 % 50 > 20]] for i in range(50)], "'x' alone gives the answer to 'y'"),
    ([["x", "y"]] + [[i * i % 97, 3 * (i * i % 97) + 0.5] for i in range(50)], "'x' alone gives the answer to 'y'"),
    ([["x", "y"]] + [[i % 9, ["Oak", "oak", "oak ", "elm"][i % 4]] for i in range(40)],
     "differ only in case or spaces"),
    ([["x", "y"]] + [[i % 9, f"answer number {i * 7 % 40}"] for i in range(40)], "--target-kind text"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "said"), WARNINGS, ids=lambda value: str(value)[:30])
def test_a_warning_names_the_option_that_helps(tmp_path, rows, said):
    import re

    assert [text for text in warnings_of(tmp_path, rows, "y") if re.search(said, text)]


def test_an_ordinary_table_gets_no_warning(tmp_path):
    rows = [["x", "word", "y"]] + [[i * 37 % 50, "pqr"[i % 3], "ab"[(i * i + i // 3) % 5 % 2]] for i in range(50)]
    assert warnings_of(tmp_path, rows, "y") == []


def test_the_record_is_printed_as_one_short_table(tmp_path):
    path = tmp_path / "trees.csv"
    path.write_text(" kind ;height;\n" + "fir;20,5;\noak;9,9;\n" * 10 + ";;\n")
    lines = lines_of_record(look(path, "kind").record)
    assert lines[:3] == [
        "trees.csv: 20 rows, 2 columns; delimiter ';' (semicolon), utf-8, LF line ends, decimal comma",
        "  kind    target  class, 2 different",
        "  height  input   number, decimal comma",
    ]
    assert "  left out: 1 empty row at the end" in lines
    assert "  note: column 1 ' kind ': called 'kind'" in lines
