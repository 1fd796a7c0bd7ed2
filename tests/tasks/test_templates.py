"""Templates: a prompt shows the cells unchanged or computed, and any other template is rejected."""

import decimal
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linklab.cli import UserError
from linklab.links.links import LINK_SCHEMA, LINK_TEMPLATE
from linklab.tables.schema import Column, Schema
from linklab.tasks.templates import Template, default_template, read_list, read_template

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
def test_a_cell_is_in_the_prompt_unchanged(cell):
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
        ("{color", "an unmatched brace in '{color'"),
        ("color} {color}", "an unmatched brace"),
        ("{color}}", "an unmatched brace"),
        ("no column", "names no column"),
        ("", "is empty"),
        (" \n\t", "is empty"),
    ],
)
def test_a_template_with_anything_else_is_rejected(text, said):
    with pytest.raises(UserError) as error:
        Template(text, SCHEMA)
    assert said in str(error.value)


NUMBERS = Schema(
    (
        Column("word", "input", "str"),
        Column("a", "input", "int"),
        Column("b", "input", "float"),
        Column("net size", "input", "float"),
        Column("at 5:30", "input", "float"),
        Column("{x}", "input", "int"),
        Column("rssi", "input", "list_int"),
        Column("noise", "input", "list_float", aligned_with="rssi"),
        Column("tags", "input", "list_str", aligned_with="rssi"),
        Column("y", "target", "int"),
    )
)
CELLS = {
    "word": "red", "a": "7", "b": "0.1", "net size": "-2.5", "at 5:30": "12.345", "{x}": "3", "rssi": "[-60,-52]",
    "noise": "[-91,-88.5]", "tags": '["u","v"]', "y": "1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("{a + b}", "7.1"),
        ("{b+b+b}", "0.3"),  # not 0.30000000000000004
        ("{a - 2 * 3}", "1"),
        ("{(a - 2) * 3}", "15"),
        ("{-a}", "-7"),
        ("{a / 2}", "3.5"),
        ("{14 / a}", "2"),
        ("{a / 3:.2f}", "2.33"),
        ("{a / 3:.0f}", "2"),
        ("{b - 0.3:.0f}", "0"),  # not -0
        ("{b:.0%}", "10%"),
        ("{b:.2f}", "0.10"),
        ("{at 5:30}", "12.345"),
        ("{at 5:30:.1f}", "12.3"),
        ('{"net size" * 2}', "-5"),
        ('{ a * "at 5:30" :.1f}', "86.4"),
        ('{"{x}"} {"{x}" + 1}', "3 4"),
        ("{{a}} {a} {{{a}}}", "{a} 7 {7}"),
        ("{rssi - noise}", "31\n36.5"),
        ("{rssi - noise:.0f} {word}", "31 red\n36 red"),
        ("{tags} {rssi - a} {a * 2} {b}", "u -67 14 0.1\nv -59 14 0.1"),
    ],
)
def test_a_field_may_compute(text, prompt):
    assert Template(text, NUMBERS).render(CELLS) == prompt


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "ok {a}\n{a - c}",
            "prompt template line 2: '{a - c}': 'c' is not an input column; the input columns are: word",
        ),
        ("{a - y}", "'y' is not an input column"),
        ("{word * 2}", "'{word * 2}': column 'word' holds text; arithmetic needs numbers"),
        ("{tags + 1}", "column 'tags' holds text"),
        ("{a ** 2}", "'{a ** 2}' is not an input column, nor + - * / of input columns and numbers"),
        ("{a // 2}", "nor + - * /"),
        ("{abs(a)}", "nor + - * /"),
        ("{a.real}", "nor + - * /"),
        ("{rssi[0]}", "nor + - * /"),
        ("{a if b else 1}", "nor + - * /"),
        ("{__import__('os')}", "nor + - * /"),
        ("{a < b}", "nor + - * /"),
        ("{a + True}", "nor + - * /"),
        ("{a + 1j}", "nor + - * /"),
        ("{a +}", "nor + - * /"),
        ("{1 + 2}", "nor + - * /"),
        ("{a:d}", "nor + - * /"),
        ("{a:>9}", "nor + - * /"),
        ("{word:.0f}", "column 'word' holds text"),
        ("{" + "(" * 500 + "a" + ")" * 500 + "}", "nor + - * /"),
        ("{a}}", "an unmatched brace in '{a}}'; write {{ or }} for a literal brace"),
    ],
)
def test_a_field_computes_with_nothing_but_numbers_and_the_four_operations(text, said):
    with pytest.raises(UserError) as error:
        Template(text, NUMBERS)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"a": ""}, "column 'a' = '': a number is expected for '{a / b}'"),
        ({"a": "NA"}, "column 'a' = 'NA': a number is expected"),
        ({"b": "0"}, "'{a / b}': division by zero, with a = 7, b = 0"),
        ({"a": "1e300", "b": "1e-300"}, "the result is too large"),
    ],
)
def test_a_cell_that_arithmetic_cannot_use_is_reported(cells, said):
    with pytest.raises(UserError) as error:
        Template("{a / b}", NUMBERS).render(CELLS | cells)
    assert said in str(error.value)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-120, 0), st.decimals(-120, 0, places=2)), min_size=1, max_size=9))
def test_differences_of_aligned_lists_are_exact(pairs):
    cells = {"rssi": json.dumps([a for a, _ in pairs]), "noise": f"[{','.join(str(b) for _, b in pairs)}]"}
    shown = Template("{rssi - noise}", NUMBERS).render(CELLS | cells).split("\n")
    assert [decimal.Decimal(text) for text in shown] == [a - b for a, b in pairs]


def test_a_template_can_be_sent_to_a_worker():
    template = pickle.loads(pickle.dumps(Template("{rssi - noise} {a}", NUMBERS)))
    assert template.render(CELLS) == "31 7\n36.5 7"


@pytest.mark.parametrize("name", ["{x}", "a}", "{{", 'say "x"', "%s", "100 %", "a:b", "a - b", " "])
def test_the_default_template_takes_any_column_name(name):
    schema = Schema((Column(name, "input", "str"), Column("y", "target", "int")))
    assert Template(default_template(schema), schema).render({name: "cell"}) == f"{name}: cell"


def test_columns_lists_each_shown_column_once():
    assert Template("{a - b} {word} {b}", NUMBERS).columns == ["a", "b", "word"]
    assert Template("{size} {color}\n{channels} {size}", SCHEMA).columns == ["size", "color", "channels"]


def test_lists_of_different_length_on_one_line_are_rejected():
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
def test_a_cell_that_is_not_a_list_is_rejected_by_name(cell):
    with pytest.raises(UserError, match="column 'noise_dbm' = .*a JSON list of numbers or texts is expected"):
        read_list("noise_dbm", cell)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False)), st.booleans())
def test_any_list_of_numbers_keeps_each_numbers_text(numbers, spaced):
    cell = json.dumps(numbers, separators=(", ", ": ") if spaced else (",", ":"))
    assert read_list("x", cell) == [json.dumps(number) for number in numbers]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text()), st.booleans())
def test_any_list_of_texts_is_read_back_unchanged(texts, ascii_only):
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


def test_a_template_file_that_is_not_utf8_is_rejected(tmp_path):
    path = tmp_path / "template.txt"
    path.write_bytes(b"{a} \xff")
    with pytest.raises(UserError, match=r"template.txt: not UTF-8 at byte 4"):
        read_template(path)
