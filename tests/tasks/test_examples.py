"""Examples: a row becomes prompt, answer and legal choices, on a side no copy of it leaves."""

import csv
import itertools
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linklab.cli import UserError
from linklab.links.links import LINK_SCHEMA
from linklab.tables.csv_stream import iter_rows
from linklab.tasks import examples
from linklab.tasks.examples import ExampleMaker, iter_examples, read_examples
from linklab.tasks.task import make_task

CELLS = {
    "scenario_id": "L00000001", "site_id": "S000000001", "regulatory_domain": "FCC", "environment_type": "urban",
    "area_density": "low", "radio_standard": "ax", "channel_bandwidth_mhz": "80", "link_distance_m": "1200",
    "antenna_gain_dbi": "23", "tx_power_dbm": "25", "radar_events_per_day": "0.5", "fresnel_clear_pct": "80",
    "obstruction_type": "none", "rain_mm_h": "0.0", "weather_condition": "clear",
    "available_channels_mhz": "[5210,5530,5775]", "rssi_dbm": "[-60,-61,-52]", "noise_dbm": "[-91,-90,-88]",
    "busy_pct": "[3,0,40]", "recommended_channel_mhz": "5775", "expected_throughput_mbps": "594",
    "channel_throughput_mbps": "[100.000,99.500,1200.250]",
}  # fmt: skip


def write_rows(path, rows, names=None):
    names = names or list(rows[0])
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, names, lineterminator="\n", restval="0")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def links(tmp_path):
    """Return a function that writes a links.csv with one row for each set of changed cells."""

    def write(*changes):
        return write_rows(tmp_path / "links.csv", [CELLS | change for change in changes], LINK_SCHEMA.names)

    return write


def colors(n, seed=0):
    """Rows of any other CSV: a class, a number, and a name for each row."""
    chance = random.Random(seed)
    return [
        {"name": f"n{i}", "color": chance.choice(["red", "blue", "green"]), "size": str(i), "weight": f"{i * 1.5}",
         "label": chance.choice(["yes", "no"])}
        for i in range(n)
    ]  # fmt: skip


def test_a_link_row_becomes_prompt_answer_choices_and_their_worth(links):
    path = links({})
    (example,) = iter_examples(path, make_task(path))
    assert example.id == "L00000001" and example.group == "S000000001"
    assert example.prompt.splitlines()[1:] == ["5210 -60 -91 3", "5530 -61 -90 0", "5775 -52 -88 40"]
    assert example.answer == "5775 594"
    assert example.target == {"recommended_channel_mhz": "5775", "expected_throughput_mbps": "594"}
    assert example.choices == {"recommended_channel_mhz": ["5210", "5530", "5775"]}
    assert example.values == {"recommended_channel_mhz": [100.0, 99.5, 1200.25]}
    assert example.row["fresnel_clear_pct"] == "80"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recommended_channel_mhz": ""}, "column 'recommended_channel_mhz' is empty"),
        ({"expected_throughput_mbps": "  "}, "column 'expected_throughput_mbps' is empty"),
        (
            {"recommended_channel_mhz": " ", "available_channels_mhz": '[" ","5530","5775"]'},
            "column 'recommended_channel_mhz' is empty",
        ),
        ({"expected_throughput_mbps": "NA"}, "column 'expected_throughput_mbps' = 'NA' is no number"),
        ({"recommended_channel_mhz": "5180"}, "'5180' is not among 'available_channels_mhz'"),
        ({"channel_throughput_mbps": "[1.0,2.0]"}, "has 2 values for 3 choices"),
        ({"noise_dbm": "[-91,-90]"}, "differ in length"),
        ({"noise_dbm": "-91"}, "column 'noise_dbm' = '-91': a JSON list"),
        ({"available_channels_mhz": "[5210,NaN]"}, "column 'available_channels_mhz'"),
    ],
)
def test_a_row_that_cannot_serve_is_named_by_file_line_and_column(links, change, said):
    path = links({}, {}, change)
    with pytest.raises(UserError) as error:
        list(iter_examples(path, make_task(path)))
    assert str(error.value).startswith(f"{path}:4: ") and said in str(error.value)
    with pytest.raises((UserError, ValueError)):
        columns_of(path, make_task(path))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"channel_throughput_mbps": "[100.000,0.0,1200.250]"},
        {"channel_throughput_mbps": "[100,0,-0]"},
        {"channel_throughput_mbps": "[0.00001,0.5,1.50]"},
        {"channel_throughput_mbps": "[12345678901234567.8,0.5,1.50]"},
        {"channel_throughput_mbps": "[1e5, 0.00001, 123456789012345678.5]"},
        {"available_channels_mhz": '["5210","a,b","5775"]'},
        {"scenario_id": "é", "site_id": "7"},
    ],
)
def test_rows_made_column_by_column_are_those_made_one_by_one(links, change):
    path = links({}, change, {"site_id": "S000000123"})
    assert_same(path, make_task(path))


def test_other_columns_are_made_column_by_column_too(tmp_path):
    path = write_rows(tmp_path / "a.csv", colors(50))
    for targets in (["label"], ["weight"], ["color", "size"]):
        for how in ({}, {"group_field": "color"}, {"seed": 3}):
            assert_same(path, make_task(path, targets), **how)
    assert_same(path, make_task(path, ["label"], id_field="name"))


def columns_of(path, task, **how):
    return ExampleMaker(task, **how).make_columns([cells for _, cells in iter_rows(path)], 1)


def assert_same(path, task, **how):
    columns, rows = columns_of(path, task, **how), list(iter_examples(path, task, **how))
    assert list(columns.ids) == [e.id for e in rows] and list(columns.groups) == [e.group for e in rows]
    assert columns.splits == [e.split for e in rows]
    assert columns.prompts == [e.prompt for e in rows] and columns.answers == [e.answer for e in rows]
    assert [list(texts) for texts in zip(*columns.targets, strict=True)] == [list(e.target.values()) for e in rows]
    for target, choices in zip((t.name for t in task.targets if t.choices_from), columns.choices, strict=True):
        assert choices == [e.choices[target] for e in rows]
    for target, texts in zip((t.name for t in task.targets if t.utility), columns.values, strict=True):
        assert texts == [json.dumps(e.values[target], separators=(",", ":")) for e in rows]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.decimals(-9_999_999_999, 9_999_999_999, places=4) | st.floats(-1e30, 1e30), min_size=1)))
def test_floats_are_written_as_json_writes_them(lists):
    for decimals in (None, 4, 3, 2, 1):
        texts = [[str(x) if decimals is None else f"{x:.{decimals}f}" for x in numbers] for numbers in lists]
        cells = [f"[{','.join(numbers)}]" for numbers in texts]
        expected = [json.dumps(list(map(float, numbers)), separators=(",", ":")) for numbers in texts]
        assert examples.write_floats("x", cells) == expected


def test_rows_of_one_site_are_on_one_side(links):
    sites = [f"S{i:09d}" for i in range(200)]
    path = links(*({"site_id": site, "link_distance_m": str(200 + i)} for i, site in enumerate(sites * 3)))
    sides = {}
    for example in iter_examples(path, make_task(path)):
        sides.setdefault(example.group, set()).add(example.split)
    assert set(sides) == set(sites) and all(len(found) == 1 for found in sides.values())
    assert set.union(*sides.values()) == {"train", "validation", "test"}


def test_identical_prompts_are_on_one_side_even_where_their_answers_or_hidden_cells_differ(tmp_path):
    # Repeated measurements: a model that saw one of them in training knows the others' question.
    rows = [row | {"label": label, "weight": weight} for row in colors(300)
            for label, weight in (("yes", "1.5"), ("no", "1.5"), ("no", "2.5"))]  # fmt: skip
    path = write_rows(tmp_path / "a.csv", rows)
    (tmp_path / "t.txt").write_text("{color} {size}")
    sides = {}
    for example in iter_examples(path, make_task(path, ["label"], tmp_path / "t.txt")):
        sides.setdefault(example.prompt, set()).add(example.split)
    assert len(sides) == 300 and all(len(found) == 1 for found in sides.values())


def test_other_words_around_the_same_columns_move_no_row(tmp_path):
    path = write_rows(tmp_path / "a.csv", colors(200))
    sides = []
    for text in ("{color} {size}", "a {size} m box\nof {color}?"):
        (tmp_path / "t.txt").write_text(text)
        sides.append([e.split for e in iter_examples(path, make_task(path, ["label"], tmp_path / "t.txt"))])
    assert sides[0] == sides[1]


def test_group_field_keeps_equal_cells_together(tmp_path):
    path = write_rows(tmp_path / "a.csv", colors(300))
    task = make_task(path, ["label"])
    sides = {(e.row["color"], e.split) for e in iter_examples(path, task, group_field="color")}
    assert len(sides) == 3
    with pytest.raises(UserError, match="no column 'colour'; the columns are: name, color"):
        list(iter_examples(path, task, group_field="colour"))


def test_the_side_of_a_row_depends_on_neither_its_place_nor_its_neighbours(tmp_path):
    rows = colors(300)
    task = make_task(write_rows(tmp_path / "a.csv", rows), ["label"], id_field="name")
    expected = {e.id: (e.split, e.group) for e in iter_examples(tmp_path / "a.csv", task)}
    random.Random(1).shuffle(rows)
    for some in (rows, rows[:50], rows[::-1] + colors(310)[300:]):
        path = write_rows(tmp_path / "b.csv", some)
        found = {e.id: (e.split, e.group) for e in iter_examples(path, task)}
        assert all(found[row["name"]] == expected[row["name"]] for row in some if row["name"] in expected)


def test_rows_are_named_by_their_number_where_no_column_names_them(tmp_path):
    path = write_rows(tmp_path / "a.csv", colors(3))
    assert [e.id for e in iter_examples(path, make_task(path, ["label"]))] == ["row-1", "row-2", "row-3"]
    assert [e.id for e in iter_examples(path, make_task(path, ["label"], id_field="name"))] == ["n0", "n1", "n2"]


def test_subsets_are_nested_the_same_in_any_order_of_the_file_and_no_prefix_of_it(tmp_path):
    rows = colors(400)
    task = make_task(write_rows(tmp_path / "a.csv", rows), ["label"], id_field="name")
    whole = [e.id for e in read_examples(tmp_path / "a.csv", task, "train")]
    write_rows(tmp_path / "b.csv", rows[::-1])
    for n in (1, 10, 100, 10_000):
        for path in (tmp_path / "a.csv", tmp_path / "b.csv"):
            assert [e.id for e in read_examples(path, task, "train", n)] == whole[:n]
    assert whole != sorted(whole, key=lambda name: int(name[1:]))


def test_copies_weigh_in_training_and_count_once_elsewhere(tmp_path):
    rows = colors(200)
    path = write_rows(tmp_path / "a.csv", [row for row in rows for _ in range(3)])
    task = make_task(path, ["label"], id_field="name")
    by_split = {split: read_examples(path, task, split) for split in ("train", "validation", "test")}
    for split, found in by_split.items():
        ids = [e.id for e in found]
        assert len(ids) == len(set(ids)) * (3 if split == "train" else 1)
    assert len({e.id for e in itertools.chain(*by_split.values())}) == 200


def test_a_split_without_rows_is_an_error_that_names_it(tmp_path):
    path = write_rows(tmp_path / "a.csv", colors(3))
    task = make_task(path, ["label"])
    empty = {"train", "validation", "test"} - {e.split for e in iter_examples(path, task)}
    for split in empty:
        with pytest.raises(UserError, match=f"no rows in the {split} split"):
            read_examples(path, task, split)
    assert empty


@pytest.mark.parametrize("n", [0, 1, 7, 50, None])
def test_the_lowest_ranked_of_a_stream_are_those_of_the_sorted_whole(tmp_path, n):
    path = write_rows(tmp_path / "a.csv", colors(50))
    stream = list(iter_examples(path, make_task(path, ["label"], id_field="name")))
    ranked = sorted(stream, key=lambda e: examples.rank_key(e.id))
    assert [e.id for e in examples.lowest_ranked(iter(stream), n)] == [e.id for e in ranked[:n]]


def test_spaced_and_plain_lists_are_the_same_row(links):
    path = links({}, {name: json.dumps(json.loads(text)) for name, text in CELLS.items() if text.startswith("[")})
    one, other = iter_examples(path, make_task(path))
    assert (one.prompt, one.choices) == (other.prompt, other.choices)


def test_one_word_among_numbers_leaves_the_target_a_number_and_is_named(tmp_path):
    rows = colors(40) + [colors(1)[0] | {"weight": "NA"}]
    path = write_rows(tmp_path / "a.csv", rows)
    task = make_task(path, ["weight"])
    assert task.targets[0].kind == "number"
    with pytest.raises(UserError, match=r"a.csv:42: column 'weight' = 'NA' is no number"):
        list(iter_examples(path, task))
