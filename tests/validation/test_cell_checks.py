"""Every kind of damaged cell and row gets its code, and the fast path agrees with the exact one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linklab.links.links import LINK_SCHEMA
from linklab.tables.cells import to_binary
from linklab.tables.schema import Column, Schema
from linklab.validation.cell_checks import CODES, check_cell, describe_cell, looks_like_mojibake
from linklab.validation.column_checks import check_column, check_exactly
from linklab.validation.profile import Numbers
from linklab.validation.row_checks import find_broken_rules

INT = Column("n", "input", "int", unit="m", low=-50, high=20000)
FLOAT = Column("x", "input", "float", low=-90, high=90, decimals=2)
WORD = Column("w", "input", "str", choices=("urban", "rural", "New York"))
TEXT = Column("t", "group", "str")
INTS = Column("li", "input", "list_int", low=0, high=6000)
FLOATS = Column("lf", "hidden", "list_float", low=-200, high=200, decimals=1)
WORDS = Column("lw", "input", "list_str", choices=("a", "b"))
CLASS = Column("c", "target", "int", choices=("20", "40"), class_target=True)
EMPTY_OK = Column("e", "input", "float", nullable=True)

CELLS = [
    (INT, "5180", ""), (INT, "-3", ""), (INT, "0", ""), (INT, "20000", ""),
    (INT, "", "missing_value"), (INT, "  ", "blank_text"), (INT, "\u3000", "blank_text"),
    (INT, " 5", "outer_space"), (INT, "5\u00a0", "outer_space"), (INT, "5\t", "outer_space"),
    (INT, "1_000", "number_format"), (INT, "５１８０", "number_format"), (INT, "007", "number_format"),
    (INT, "+5", "number_format"), (INT, "1e3", "number_format"), (INT, "1,5", "number_format"),
    (INT, "1,000", "number_format"), (INT, "1 000", "number_format"), (INT, "0x10", "number_format"),
    (INT, "-0", "number_format"), (INT, "5.", "number_format"), (INT, "٣", "number_format"),
    (INT, "5.0", "not_an_integer"), (INT, "5.5", "not_an_integer"),
    (INT, "NaN", "not_a_value"), (INT, "null", "not_a_value"), (INT, "-inf", "not_a_value"),
    (INT, "N/A", "not_a_value"), (INT, "12 m", "not_a_number"), (INT, "5-6", "not_a_number"),
    (INT, "--5", "not_a_number"), (INT, "x", "not_a_number"),
    (INT, "20001", "out_of_range"), (INT, "-51", "out_of_range"), (INT, "9" * 400, "out_of_range"),
    (INT, "5\x00", "nul_byte"), (INT, "5\udcff", "bad_utf8"), (INT, "5\n6", "not_a_number"), (INT, "²", "not_a_number"),
    (FLOAT, "1.25", ""), (FLOAT, "-0.0", ""), (FLOAT, "7", ""), (FLOAT, "1.250", "too_many_decimals"),
    (FLOAT, ".5", "number_format"), (FLOAT, "5.", "number_format"), (FLOAT, "1.2.3", "not_a_number"),
    (FLOAT, "1e-5", "number_format"), (FLOAT, "00.5", "number_format"), (FLOAT, "90.01", "out_of_range"),
    (FLOAT, "Infinity", "not_a_value"),
    (WORD, "urban", ""), (WORD, "Urban", "spelling_variant"), (WORD, "new  york", "spelling_variant"),
    (WORD, "hills", "unknown_value"), (WORD, "urban ", "outer_space"), (WORD, "ur\x01ban", "control_character"),
    (TEXT, "S000001", ""), (TEXT, "Zürich, Beyoğlu, 北京", ""), (TEXT, "a\nb", "control_character"),
    (TEXT, "CafÃ©", "mojibake"), (TEXT, "d\u00e2\u20ac\u2122ici", "mojibake"), (TEXT, "a\ufffdb", "mojibake"),
    (TEXT, "\ufeffS1", "control_character"), (TEXT, "a\x85b", "control_character"), (TEXT, "nan", ""),
    (INTS, "[5180,5200]", ""), (INTS, "[0]", ""), (INTS, "[]", "empty_list"), (INTS, "", "missing_value"),
    (INTS, "[5180,5200", "not_a_list"), (INTS, "5180", "not_a_list"), (INTS, "[", "not_a_list"),
    (INTS, "[5180, 5200]", "outer_space"), (INTS, "[1,,2]", "not_a_list"), (INTS, "[1,]", "not_a_list"),
    (INTS, "[1.0,2]", "not_an_integer"), (INTS, "[NaN,1]", "not_a_value"), (INTS, "[1,null]", "not_a_value"),
    (INTS, "[1_0]", "number_format"), (INTS, "[01]", "number_format"), (INTS, "[5,6001]", "out_of_range"),
    (INTS, '["5"]', "not_a_number"), (INTS, "[[5]]", "not_a_number"), (INTS, "[true]", "not_a_number"),
    (FLOATS, "[1.5,-2,3.0]", ""), (FLOATS, "[1.55]", "too_many_decimals"), (FLOATS, "[1e2]", "number_format"),
    (FLOATS, "[NaN]", "not_a_value"), (FLOATS, "[-Infinity]", "not_a_value"), (FLOATS, "[200.1]", "out_of_range"),
    (WORDS, '["a","b"]', ""), (WORDS, '["a","c"]', "unknown_value"), (WORDS, '["a",1]', "not_a_list"),
    (WORDS, "[a]", "not_a_list"),
    (CLASS, "40", ""), (CLASS, "60", "unknown_value"), (CLASS, "", "missing_value"),
    (EMPTY_OK, "", ""), (EMPTY_OK, " ", "blank_text"), (EMPTY_OK, "3.123456789012", ""),
]  # fmt: skip


@pytest.mark.parametrize(("column", "text", "code"), CELLS)
def test_each_cell_gets_its_code(column, text, code):
    verdict = check_cell(column, text)
    assert verdict.code == code
    assert (verdict.value is None) == bool(code or not text)
    assert not code or (code in CODES and verdict.expected)


@pytest.mark.parametrize("text", ["1e-5", "+2.5", ".5", "3."])
def test_an_inferred_schema_accepts_numbers_in_other_spellings(text):
    assert check_cell(FLOAT, text, lenient=True).value == float(text)
    assert check_cell(FLOATS, f"[1, {text}]", lenient=True).value == [1, float(text)]
    assert check_cell(FLOAT, "1_0", lenient=True).code == check_cell(FLOAT, "٣", lenient=True).code == "number_format"
    assert check_cell(TEXT, "two\nlines", lenient=True).value == "two\nlines"


def test_expected_texts_contain_kind_range_unit_and_choices():
    assert describe_cell(INT) == "a whole number from -50 to 20000 m"
    assert describe_cell(FLOATS) == "a JSON list of numbers from -200 to 200, at most 1 decimals"
    assert describe_cell(WORD) == "one of urban, rural, New York"


@pytest.mark.parametrize("word", ["São Paulo", "Ångström", "Île-de-France", "naïve", "ÑANDÚ", "Ελλάδα", "ÉÈ", "日本"])
def test_text_of_many_languages_is_no_mojibake_until_it_is_decoded_wrongly(word):
    assert not looks_like_mojibake(word)
    assert looks_like_mojibake(word.encode().decode("latin-1"))


PARTS = st.sampled_from(
    ["5", "0", "-", "+", ".", ",", "[", "]", "e", " ", "_", "１", "é", "Ã©", "\t", "\x00", "NaN", "urban", '"a"', "\n"]
)
COLUMNS = st.sampled_from([INT, FLOAT, WORD, TEXT, INTS, FLOATS, WORDS, CLASS, EMPTY_OK])
NUMBERS = st.integers(-300, 30000).map(str) | st.decimals(-300, 300, places=3).map(str)
LISTS = st.lists(NUMBERS, max_size=4).map(lambda parts: f"[{','.join(parts)}]")
GOOD = st.sampled_from([text for _, text, _ in CELLS])


@settings(max_examples=250, deadline=None)
@given(
    column=COLUMNS,
    lenient=st.booleans(),
    texts=st.lists(st.lists(PARTS, max_size=5).map("".join) | NUMBERS | LISTS | GOOD, min_size=1, max_size=12),
)
def test_the_fast_path_agrees_with_the_exact_one_cell_by_cell(column, lenient, texts):
    fast, fast_failed = check_column(column, to_binary(texts), lenient=lenient)
    exact, exact_failed = check_exactly(column, to_binary(texts), lenient=lenient)
    assert fast_failed == exact_failed
    assert fast_failed == [
        (row, v) for row, v in enumerate(check_cell(column, text, lenient=lenient) for text in texts) if v.code
    ]
    assert fast.ok.tolist() == exact.ok.tolist() and fast.n_missing == exact.n_missing
    for name in ("values", "offsets"):
        a, b = getattr(fast, name), getattr(exact, name)
        assert (a is None and b is None) or np.array_equal(a, b)


def test_figures_of_two_parts_add_up_to_those_of_the_whole():
    values = np.random.default_rng(3).normal(1e6, 3, 1000)
    both, whole = Numbers.of(values[:150]) + Numbers.of(values[150:]), Numbers.of(values)
    for name in ("n", "low", "high", "mean", "square_sum"):
        assert getattr(both, name) == pytest.approx(getattr(whole, name), rel=1e-9)
    assert whole.to_dict()["std"] == pytest.approx(values.std(ddof=1), rel=1e-4)
    assert (Numbers() + whole).mean == pytest.approx(whole.mean) and (whole + Numbers()).n == 1000


ROW = {
    "scenario_id": "L00000001", "site_id": "S000000001", "regulatory_domain": "FCC", "environment_type": "urban",
    "area_density": "high", "radio_standard": "ac", "channel_bandwidth_mhz": "80", "link_distance_m": "1000",
    "antenna_gain_dbi": "23", "tx_power_dbm": "25", "radar_events_per_day": "0.5", "fresnel_clear_pct": "60",
    "obstruction_type": "none", "rain_mm_h": "0.0", "weather_condition": "clear",
    "available_channels_mhz": "[5210,5530,5775]", "rssi_dbm": "[-60,-66,-45]", "noise_dbm": "[-88,-90,-80]",
    "busy_pct": "[5,0,40]", "recommended_channel_mhz": "5530", "expected_throughput_mbps": "501",
    "lat_a": "33.890000", "lon_a": "35.500000", "lat_b": "33.898993", "lon_b": "35.500000", "interferer_count": "12",
    "true_noise_dbm": "[-88.20,-90.10,-79.50]", "true_busy_pct": "[5.00,0.00,41.20]", "sinr_db": "[28.40,24.10,34.80]",
    "channel_throughput_mbps": "[480.250,500.700,300.100]", "acceptable_channels_mhz": "[5210,5530]",
    "second_best_gap_pct": "4.08", "mcs_index": "6", "availability_pct": "100.0000",
}  # fmt: skip

DAMAGE = [
    ({}, []),
    ({"busy_pct": "[5,0]"}, [("busy_pct", "list_length")]),
    ({"channel_throughput_mbps": "[480.250,500.700]"}, [("channel_throughput_mbps", "list_length")]),
    ({"recommended_channel_mhz": "5690"}, [("recommended_channel_mhz", "target_not_candidate")]),
    ({"recommended_channel_mhz": "5775"}, [("recommended_channel_mhz", "target_mismatch")]),
    ({"expected_throughput_mbps": "500"}, [("expected_throughput_mbps", "target_mismatch")]),
    ({"channel_bandwidth_mhz": "60"}, [("channel_bandwidth_mhz", "unknown_value")]),
    ({"channel_bandwidth_mhz": "40"}, [("available_channels_mhz", "illegal_channel")]),
    ({"regulatory_domain": "ETSI"}, [("available_channels_mhz", "illegal_channel")]),
    ({"link_distance_m": "1003"}, [("link_distance_m", "distance_mismatch")]),
    ({"link_distance_m": "1001"}, []),
    ({"lat_b": "33.888993"}, [("link_distance_m", "distance_mismatch")]),
    ({"acceptable_channels_mhz": "[5530]"}, [("acceptable_channels_mhz", "target_mismatch")]),
    ({"acceptable_channels_mhz": "[5530,5775]"}, [("acceptable_channels_mhz", "target_mismatch")]),
    ({"second_best_gap_pct": "4.20"}, [("second_best_gap_pct", "target_mismatch")]),
    ({"rssi_dbm": "[-60,-45,-66]"}, [("rssi_dbm", "signal_mismatch")]),
    ({"rssi_dbm": "[-63,-69,-48]"}, []),  # one calibration offset for the whole row is what a radio shows
    (
        {"available_channels_mhz": "[5775,5530,5210]"},
        [("available_channels_mhz", "candidate_order"), ("acceptable_channels_mhz", "target_mismatch")],
    ),
    (
        {"available_channels_mhz": "[5210,5530,5530]"},
        [("available_channels_mhz", "candidate_order"), ("recommended_channel_mhz", "target_mismatch")],
    ),
]  # fmt: skip


def faults(rows, schema=LINK_SCHEMA, fast=True):
    table = {}
    for column in schema.columns:
        check = check_column if fast else check_exactly
        table[column.name], found = check(column, to_binary(row[column.name] for row in rows), lenient=False)
        assert not found, found
    return sorted(
        (int(row), f.column, f.code) for f in find_broken_rules(table, schema) for row in f.rows if f.expected(row)
    )


@pytest.mark.parametrize(("change", "expected"), DAMAGE)
@pytest.mark.parametrize("fast", [True, False])
def test_columns_of_a_link_that_contradict_each_other_are_reported(change, expected, fast):
    rows = [ROW, ROW | change, ROW]
    assert faults(rows, fast=fast) == sorted((1, column, code) for column, code in expected)


def test_answers_of_any_schema_are_checked_against_their_candidates_and_utilities():
    schema = Schema(
        (
            Column("options", "input", "list_str"),
            Column("worth", "hidden", "list_float", aligned_with="options"),
            Column("pick", "target", "str", class_target=True, choices_from="options"),
        )
    )
    good = {"options": '["x","y"]', "worth": "[1,2]", "pick": "y"}
    assert faults([good, good | {"pick": "z"}, good | {"worth": "[1]"}], schema) == [
        (1, "pick", "target_not_candidate"),
        (2, "worth", "list_length"),
    ]


def test_link_rules_do_not_run_if_the_columns_mean_something_else():
    names = ("lat_a", "lon_a", "lat_b", "lon_b", "link_distance_m")
    schema = Schema(tuple(Column(name, "input", "float") for name in names))
    row = {"lat_a": "1", "lon_a": "1", "lat_b": "1", "lon_b": "1", "link_distance_m": "500"}
    assert faults([row], schema) == []
