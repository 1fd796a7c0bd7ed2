"""Examples: a row becomes prompt, answer and legal choices; all copies of a row are on one side of the split."""

import csv
import itertools
import json
import random

import pytest
from linklab.cli import UserError
from linklab.links.links import FIELD_SCHEMA, LINK_SCHEMA
from linklab.tables.table import TableOptions, open_table
from linklab.tasks import examples
from linklab.tasks.examples import Question, iter_examples, read_examples
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
    (example,) = iter_examples(path, make_task(path, ask="row"))
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
        ({"expected_throughput_mbps": "NA"}, "column 'expected_throughput_mbps' = 'NA' is not a number"),
        ({"recommended_channel_mhz": "5180"}, "'5180' is not among 'available_channels_mhz'"),
        ({"channel_throughput_mbps": "[1.0,2.0]"}, "has 2 values for 3 choices"),
        ({"noise_dbm": "[-91,-90]"}, "differ in length"),
        ({"noise_dbm": "-91"}, "column 'noise_dbm' = '-91': a JSON list"),
        ({"available_channels_mhz": "[5210,NaN]"}, "column 'available_channels_mhz'"),
    ],
)
def test_an_unusable_row_is_reported_by_file_line_and_column(links, change, said):
    path = links({}, {}, change)
    with pytest.raises(UserError) as error:
        list(iter_examples(path, make_task(path)))
    assert str(error.value).startswith(f"{path}:4: ") and said in str(error.value)


def test_with_ask_choices_a_row_has_one_question_per_candidate_after_one_header(links):
    path = links({})
    task = make_task(path, ask="choices")
    (example,) = iter_examples(path, task)
    header = "FCC ax 80\n"
    assert example.questions == (
        Question("5210", header + "31 3", "10"),
        Question("5530", header + "29 0", "10"),
        Question("5775", header + "36 40", "120"),
    )
    assert example.answered == example.questions
    assert example.prompt == header + "31 3\n29 0\n36 40"
    assert (example.answer, task.answer_unit) == ("5775 594", 10)  # of the whole row, as with --ask row
    (row,) = iter_examples(path, make_task(path, ask="row"))
    assert (example.target, example.choices, example.values) == (row.target, row.choices, row.values)
    assert row.questions == (Question(None, row.prompt, row.answer),)


def test_field_data_teach_the_channel_in_use_and_ask_about_every_channel(links, tmp_path):
    names = FIELD_SCHEMA.names
    path = write_rows(tmp_path / "field.csv", [{name: CELLS[name] for name in names}], names)
    task = make_task(path, ask="choices")
    (example,) = iter_examples(path, task)
    assert [(q.choice, q.answer) for q in example.questions] == [("5210", None), ("5530", None), ("5775", "59")]
    assert [q.choice for q in example.answered] == ["5775"] and example.values == {}


def test_the_worth_of_a_choice_is_written_in_the_answer_unit(links):
    path = links({"channel_throughput_mbps": "[4.9,0.000,2402.000]"})
    task = make_task(path, ask="choices")
    (example,) = iter_examples(path, task)
    assert [q.answer for q in example.questions] == ["0", "0", "240"]
    assert (task.answer_column.low, task.answer_column.high, task.answer_column.kind) == (0, 241, "int")


@pytest.mark.parametrize(
    ("targets", "template", "said"),
    [
        (["expected_throughput_mbps"], None, "rows must have their own choices"),
        (["recommended_channel_mhz", "link_distance_m"], None, "'link_distance_m' is not the worth of a choice of"),
        (None, "{available_channels_mhz} {rssi_dbm}\n{link_distance_m} m", "the last line of the prompt template"),
        (None, "{link_distance_m} m", "the last line of the prompt template"),
    ],
)
def test_targets_that_cannot_be_asked_by_choice_are_rejected(links, tmp_path, targets, template, said):
    file = tmp_path / "t.txt"
    file.write_text(template or "")
    with pytest.raises(UserError, match="--ask choices: ") as error:
        make_task(links({}), targets, file if template else None, ask="choices")
    assert said in str(error.value) and "--ask row" in str(error.value)


def test_rows_of_one_site_are_on_one_side(links):
    sites = [f"S{i:09d}" for i in range(200)]
    path = links(*({"site_id": site, "link_distance_m": str(200 + i)} for i, site in enumerate(sites * 3)))
    sides = {}
    for example in iter_examples(path, make_task(path)):
        sides.setdefault(example.group, set()).add(example.split)
    assert set(sides) == set(sites) and all(len(found) == 1 for found in sides.values())
    assert set.union(*sides.values()) == {"train", "validation", "test"}


def test_identical_prompts_are_on_one_side_even_if_their_answers_or_hidden_cells_differ(tmp_path):
    # Repeated measurements: a model that saw one of them in training knows the others' question.
    rows = [row | {"label": label, "weight": weight} for row in colors(300)
            for label, weight in (("yes", "1.5"), ("no", "1.5"), ("no", "2.5"))]  # fmt: skip
    path = write_rows(tmp_path / "a.csv", rows)
    (tmp_path / "t.txt").write_text("{color} {size}")
    sides = {}
    for example in iter_examples(path, make_task(path, ["label"], tmp_path / "t.txt")):
        sides.setdefault(example.prompt, set()).add(example.split)
    assert len(sides) == 300 and all(len(found) == 1 for found in sides.values())


def test_another_template_with_the_same_columns_moves_no_row(tmp_path):
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


def test_the_side_of_a_row_depends_on_neither_its_position_nor_its_neighbours(tmp_path):
    rows = colors(300)
    task = make_task(write_rows(tmp_path / "a.csv", rows), ["label"], id_field="name")
    expected = {e.id: (e.split, e.group) for e in iter_examples(tmp_path / "a.csv", task)}
    random.Random(1).shuffle(rows)
    for some in (rows, rows[:50], rows[::-1] + colors(310)[300:]):
        path = write_rows(tmp_path / "b.csv", some)
        found = {e.id: (e.split, e.group) for e in iter_examples(path, task)}
        assert all(found[row["name"]] == expected[row["name"]] for row in some if row["name"] in expected)


def test_rows_without_an_id_column_are_named_by_their_number(tmp_path):
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


def test_copies_are_kept_in_training_and_count_once_elsewhere(tmp_path):
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


def test_one_word_among_numbers_leaves_the_target_a_number_and_is_reported(tmp_path):
    rows = colors(40) + [colors(1)[0] | {"weight": "NA"}]
    path = write_rows(tmp_path / "a.csv", rows)
    with pytest.raises(UserError, match=r"a.csv:42: column 'weight' is missing \('NA'\) in 1 of 41 rows"):
        make_task(path, ["weight"])
    table = open_table(path, TableOptions(target_fields=("weight",), drop_missing_target=True))
    task = make_task(table)
    assert task.targets[0].kind == "number"
    assert len(list(iter_examples(table, task))) == 40
