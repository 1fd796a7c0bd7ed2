"""Templates: what a prompt shows is what the cells say, and a template that asks for more is refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linklab.cli import UserError
from linklab.links.links import LINK_SCHEMA
from linklab.tables.schema import Column, Schema
from linklab.tasks.templates import LINK_TEMPLATE, Template, default_template, read_list, read_template

SCHEMA = Schema(
    (
        Column("id", "id", "str"),
        Column("color", "input", "str"),
        Column("size", "input", "float"),
        Column("channels", "input", "list_int"),
        Column("levels", "input", "list_float", aligned_with="channels"),
        Column("answer", "target", "str"),
        Column("secret", "hidden", "float"),
    )
)
ROW = {
    "id": "r1",
    "color": "red",
    "size": "1.50",
    "channels": "[36,40]",
    "levels": "[-61,-70.5]",
    "answer": "yes",
    "secret": "9",
}


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("{color}", "red"),
        ("a {color} box of {size} m", "a red box of 1.50 m"),
        ("{color}{color}\n\nend", "redred\n\nend"),
        ("{channels} {levels}", "36 -61\n40 -70.5"),
        ("{size}:\n{channels} {color} {levels} dBm\nend", "1.50:\n36 red -61 dBm\n40 red -70.5 dBm\nend"),
        ("100 % %s %(color)s {color}", "100 % %s %(color)s red"),
        ("\\n \\1 \\g<0> {color}", "\\n \\1 \\g<0> red"),
    ],
)
def test_a_prompt_is_the_template_with_the_cells_in_it(text, prompt):
    template = Template(text, SCHEMA)
    assert template.render(ROW) == prompt


def test_rows_with_an_empty_list_have_no_line_for_it():
    template = Template("{color}\n{channels}\nend", SCHEMA)
    assert template.render(ROW | {"channels": "[]"}) == "red\nend"


@pytest.mark.parametrize(
    "cell", ["{size}", "{secret}", "{", "%s", "\\1", "a\nb", "a\u2028b", "🙂", '"', "", " x ", "2020-01-01", "007"]
)
def test_a_cell_stands_in_the_prompt_as_it_is(cell):
    assert Template("<{color}> {size}", SCHEMA).render({**ROW, "color": cell}) == f"<{cell}> 1.50"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "{answer}",
            "'{answer}': 'answer' is not an input column; the input columns are: color, size, channels, levels",
        ),
        ("{color} {secret}", "'{secret}': 'secret' is not an input column"),
        ("{id}", "'{id}': 'id' is not an input column"),
        ("fine {color}\n{Color}", "prompt template line 2: '{Color}'"),
        ("{}", "'{}' is not an input column, nor + - * / of input columns and numbers; the input columns are: color"),
        ("{color!r}", "'{color!r}' is not an input column"),
        ("{color.__class__}", "is not an input column"),
        ("{color", "a brace without its partner in '{color'"),
        ("color} {color}", "a brace without its partner"),
        ("{color}}", "a brace without its partner"),
        ("no column", "names no column"),
        ("", "is empty"),
        (" \n\t", "is empty"),
    ],
)
def test_a_template_that_asks_for_anything_else_is_refused(text, said):
    with pytest.raises(UserError) as error:
        Template(text, SCHEMA)
    assert said in str(error.value)


def test_columns_are_those_shown_each_once():
    assert Template("{size} {color}\n{channels} {size}", SCHEMA).columns == ["size", "color", "channels"]


def test_lists_of_different_length_on_one_line_are_refused():
    with pytest.raises(UserError, match="differ in length"):
        Template("{channels} {levels}", SCHEMA).render({**ROW, "levels": "[-61]"})


@pytest.mark.parametrize(
    ("cell", "elements"),
    [
        ("[5180,-61.5]", ["5180", "-61.5"]),
        ("[]", []),
        ("[ 1 , 2.50 ]", ["1", "2.50"]),
        ("[1e5,0,-0,1.000]", ["1e5", "0", "-0", "1.000"]),
        ('["a","b c","\\u2028",""]', ["a", "b c", "\u2028", ""]),
        ('["a,b","]"]', ["a,b", "]"]),
        ("[100000000000000000000.10]", ["100000000000000000000.10"]),
    ],
)
def test_list_elements_are_texts_as_they_are_written(cell, elements):
    assert read_list("x", cell) == elements


@pytest.mark.parametrize(
    "cell",
    [
        "",
        "5",
        '"a"',
        "{}",
        "[1",
        "1,2",
        "[1,]",
        "[,1]",
        "[01]",
        "(1)",
        "21]",
        "[12",
        "[+1]",
        "[.5]",
        "[1.]",
        "[1_0]",
        "[٣]",
        "[NaN]",
        "[Infinity]",
        "[null]",
        "[true]",
        "[[1]]",
        "[1] ]",
        "[1,2]\n[3]",
        "[-]",
        "[" * 100_000,
    ],
)
def test_a_cell_that_is_no_list_is_refused_by_name(cell):
    with pytest.raises(UserError, match="column 'noise_dbm' = .*a JSON list of numbers or texts is expected"):
        read_list("noise_dbm", cell)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False)), st.booleans())
def test_any_list_of_numbers_keeps_each_numbers_text(numbers, spaced):
    cell = json.dumps(numbers, separators=(", ", ": ") if spaced else (",", ":"))
    assert read_list("x", cell) == [json.dumps(number) for number in numbers]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text()), st.booleans())
def test_any_list_of_texts_comes_back_as_it_was(texts, ascii_only):
    assert read_list("x", json.dumps(texts, ensure_ascii=ascii_only)) == texts


def test_the_default_template_shows_every_visible_column_and_no_other():
    template = Template(default_template(SCHEMA), SCHEMA)
    assert template.columns == ["color", "size", "channels", "levels"]
    assert template.render(ROW) == "color: red\nsize: 1.50\nchannels: 36\nchannels: 40\nlevels: -61\nlevels: -70.5"


def test_the_link_prompt_shows_every_candidate_with_what_was_measured_on_it_and_nothing_hidden():
    template = Template(LINK_TEMPLATE, LINK_SCHEMA)
    row = dict.fromkeys(LINK_SCHEMA.names, "?") | {
        "regulatory_domain": "FCC",
        "radio_standard": "ax",
        "channel_bandwidth_mhz": "80",
        "link_distance_m": "1200",
        "tx_power_dbm": "25",
        "antenna_gain_dbi": "23",
        "radar_events_per_day": "0.5",
        "available_channels_mhz": "[5210,5775]",
        "rssi_dbm": "[-60,-52]",
        "noise_dbm": "[-91,-88]",
        "busy_pct": "[3,40]",
    }
    assert template.render(row) == ("FCC ax 80 MHz 1200 m 25 dBm 23 dBi radar 0.5\n5210 -60 -91 3\n5775 -52 -88 40")
    hidden = {column.name for column in LINK_SCHEMA.columns if column.role != "input"}
    assert not hidden & set(template.columns)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"{a}\n", "{a}"),
        (b"{a}", "{a}"),
        (b"{a}\n\n", "{a}\n"),
        (b"{a}\r\n{b}\r\n", "{a}\n{b}"),
        (b"\xef\xbb\xbf{a}\n", "{a}"),
        ("größe {a}\u2028".encode(), "größe {a}\u2028"),
    ],
)
def test_a_template_file_is_its_text_without_the_last_line_end(tmp_path, data, text):
    path = tmp_path / "template.txt"
    path.write_bytes(data)
    assert read_template(path) == text


def test_a_template_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "template.txt"
    path.write_bytes(b"{a} \xff")
    with pytest.raises(UserError, match=r"template.txt: not UTF-8 at byte 4"):
        read_template(path)
