"""The schema of any CSV follows from its cells; a few damaged cells do not change it where tolerance is asked for."""

import pytest
from linklab.cli import UserError
from linklab.tables.infer import infer_schema


def write(tmp_path, cells, name="v"):
    path = tmp_path / "any.csv"
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    path.write_text(f"row,{name}\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(quoted)))
    return path


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
    (["2024-01-01"], "str"),
]


@pytest.mark.parametrize(("cells", "kind"), KINDS)
def test_the_narrowest_kind_that_fits_every_cell(tmp_path, cells, kind):
    assert infer_schema(write(tmp_path, cells), [])["v"].kind == kind


TARGETS = [
    (["yes", "no", "yes"], "class", ("no", "yes")),
    (["3", "10", "3"], "class", ("3", "10")),
    ([str(i) for i in range(20)], "class", tuple(map(str, range(20)))),
    ([str(i) for i in range(21)], "number", None),
    (["1.5", "2.5"], "number", None),
    ([f"free text {i}" for i in range(1001)], "class", None),
]


@pytest.mark.parametrize(("cells", "kind", "choices"), TARGETS)
def test_text_and_few_integers_are_classes_and_the_rest_numbers(tmp_path, cells, kind, choices):
    schema = infer_schema(write(tmp_path, cells), ["v"])
    assert (schema.target_kind("v"), schema["v"].choices) == (kind, choices)


def test_roles_follow_the_fields_named(tmp_path):
    path = tmp_path / "any.csv"
    path.write_text("a,b,c,d,e\n1,2,3,4,\n")
    roles = {c.name: c.role for c in infer_schema(path, ["d"], ["b"], id_field="a", group_field="c").columns}
    assert roles == {"a": "id", "b": "input", "c": "group", "d": "target", "e": "hidden"}
    assert {c.role for c in infer_schema(path, ["d"]).columns} == {"input", "target"}
    assert [c.name for c in infer_schema(path, ["d"]).columns if c.nullable] == ["e"]
    assert not infer_schema(path, ["e"])["e"].nullable, "a target is never allowed to be missing"


def test_unknown_and_doubled_fields_are_refused_with_the_list_of_columns(tmp_path):
    path = write(tmp_path, ["1"])
    with pytest.raises(UserError, match="no column 'w'; the columns are: row, v"):
        infer_schema(path, ["w"])
    with pytest.raises(UserError, match="'v' is asked to be two things"):
        infer_schema(path, ["v"], ["v"])


def test_a_file_without_rows_is_refused(tmp_path):
    with pytest.raises(UserError, match="no rows"):
        infer_schema(write(tmp_path, []), ["v"])


def test_damage_stops_a_strict_pass_and_is_stepped_over_by_a_tolerant_one(tmp_path):
    path = write(tmp_path, [str(i) for i in range(98)] + ["12 Mbps", "1_000", ""])
    with path.open("a") as handle:
        handle.write("\n1,2,3\n")
    with pytest.raises(UserError, match=r"any.csv:103: a blank line"):
        infer_schema(path, ["v"])
    column = infer_schema(path, ["row"], tolerance=0.03)["v"]
    assert (column.kind, column.nullable) == ("int", False)


def test_a_few_decimals_do_not_turn_integers_into_numbers_with_a_point(tmp_path):
    cells = [str(i % 3) for i in range(99)] + ["3.0"]
    column = infer_schema(write(tmp_path, cells), ["v"], tolerance=0.02)["v"]
    assert (column.kind, column.class_target, column.choices) == ("int", True, ("0", "1", "2"))
    assert infer_schema(write(tmp_path, cells), ["v"])["v"].kind == "float"


def test_a_rare_slip_of_case_or_space_is_no_word_of_its_own(tmp_path):
    path = write(tmp_path, ["urban"] * 60 + ["rural"] * 60 + ["Urban", "rural ", "hilly"])
    assert infer_schema(path, ["v"], tolerance=0.02)["v"].choices == ("hilly", "rural", "urban")
    assert infer_schema(path, ["v"])["v"].choices == ("Urban", "hilly", "rural", "rural ", "urban")
    assert infer_schema(path, ["row"], tolerance=0.02)["v"].choices == ("hilly", "rural", "urban")


def test_the_whole_file_counts_not_only_its_head(tmp_path):
    path = write(tmp_path, ["1"] * 4500 + ["x"])
    assert infer_schema(path, [])["v"].kind == "str"
