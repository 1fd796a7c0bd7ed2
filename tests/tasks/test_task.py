"""The task: its target columns, how an answer is written, and how it is read."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linklab.cli import UserError
from linklab.links.links import LINK_CHOICES_TEMPLATE, LINK_SCHEMA, LINK_TEMPLATE
from linklab.tables.schema import Column, Schema
from linklab.tasks.task import Target, Task, make_task
from linklab.tasks.templates import Template

CHANNEL, RATE = "recommended_channel_mhz", "expected_throughput_mbps"


def write_csv(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def links(tmp_path):
    return write_csv(tmp_path / "links.csv", ",".join(LINK_SCHEMA.names) + "\n")


@pytest.fixture
def boxes(tmp_path):
    rows = [f"{color},{size},{size * 2}.5,box {color}" for size in range(1, 31) for color in ("red", "blue")]
    return write_csv(tmp_path / "boxes.csv", "color,size,weight,label\n" + "\n".join(rows) + "\n")


def make(*targets):
    schema = Schema((Column("x", "input", "str"), *(Column(t.name, "target", "str") for t in targets)))
    return Task(schema, targets, Template("{x}", schema))


def test_a_links_csv_asks_for_both_targets_with_the_rows_own_channels(links):
    task = make_task(links)
    assert [(t.name, t.kind, t.unit) for t in task.targets] == [(CHANNEL, "class", "MHz"), (RATE, "number", "Mbit/s")]
    assert task.targets[0].choices_from == "available_channels_mhz"
    assert task.targets[0].utility == "channel_throughput_mbps"
    assert (task.ask, task.template.text) == ("choices", LINK_CHOICES_TEMPLATE)
    assert make_task(links, ask="row").template.text == LINK_TEMPLATE
    assert task.write_answer({RATE: "594", CHANNEL: "5775"}) == "5775 594"


def test_answers_come_in_the_order_of_target_field(links):
    task = make_task(links, [RATE, CHANNEL])
    assert task.write_answer({CHANNEL: "5775", RATE: "594"}) == "594 5775"


def test_the_target_left_out_is_not_shown_in_its_place(links, tmp_path):
    template = write_csv(tmp_path / "t.txt", "{link_distance_m} {expected_throughput_mbps}")
    with pytest.raises(UserError, match="'expected_throughput_mbps' is not an input column"):
        make_task(links, [CHANNEL], template)


def test_any_csv_gets_classes_from_texts_and_numbers_from_numbers(boxes):
    task = make_task(boxes, ["label", "weight"])
    assert task.targets == (Target("label", "class", choices=("box blue", "box red")), Target("weight", "number"))
    assert task.template.columns == ["color", "size"]


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (None, "not a links.csv, so --target-field is needed; the columns are: color, size, weight, label"),
        (["colour"], "no column 'colour'; the columns are: color, size, weight, label"),
        (["color", "size", "weight", "label"], "no input column is left"),
    ],
)
def test_unusable_targets_of_a_csv_are_rejected_by_name(boxes, targets, said):
    with pytest.raises(UserError) as error:
        make_task(boxes, targets)
    assert said in str(error.value) and str(boxes) in str(error.value)


def test_an_id_or_group_column_of_links_cannot_be_the_answer(links):
    with pytest.raises(UserError, match="column 'site_id' is group; --target-field takes a target or an input column"):
        make_task(links, ["site_id"])


def test_a_class_with_line_ends_cannot_share_an_answer(tmp_path):
    path = write_csv(tmp_path / "a.csv", 'x,y,z\n1,"a\nb",3.5\n2,c,4.5\n3,c,5.5\n')
    with pytest.raises(UserError, match="column 'y' holds line ends"):
        make_task(path, ["y", "z"])
    assert make_task(path, ["y"]).read_answer("a\nb", {"y": ["a\nb", "c"]}) == ({"y": "a\nb"}, None)


def test_a_group_column_is_not_shown_and_a_repeated_id_is_rejected(boxes):
    task = make_task(boxes, ["label"], group_field="size")
    assert task.template.columns == ["color", "weight"]
    with pytest.raises(UserError, match="30 ids name several different rows .* use --group-field size"):
        make_task(boxes, ["label"], id_field="size")


A_CLASS, A_NUMBER = Target("c", "class", choices=("5180", "5775")), Target("n", "number")


@pytest.mark.parametrize(
    ("text", "answer", "problem"),
    [
        ("5775 594", {"c": "5775", "n": "594"}, None),
        (" 5775 594\n", {"c": "5775", "n": "594"}, None),
        ("5775 -1.25e-07", {"c": "5775", "n": "-1.25e-07"}, None),
        ("5200 594", {"c": None, "n": "594"}, "c: '5200' is not a legal choice"),
        ("5775 fast", {"c": "5775", "n": None}, "n: 'fast' is not a number"),
        ("5775", {"c": "5775", "n": None}, "n: '' is not a number"),
        ("", {"c": None, "n": None}, "c: '' is not a legal choice; n: '' is not a number"),
        ("5775 594 5", {"c": None, "n": None}, "3 parts where 2 are expected"),
        ("5775  594", {"c": None, "n": None}, "n: '' is not a number; 3 parts where 2 are expected"),
        ("05775 594", {"c": None, "n": "594"}, "c: '05775' is not a legal choice"),
    ],
)
def test_a_written_answer_is_read_part_by_part(text, answer, problem):
    task = make(A_CLASS, A_NUMBER)
    assert task.read_answer(text, {"c": A_CLASS.choices}) == (answer, problem)


@pytest.mark.parametrize("text", ["nan", "inf", "1_000", "٣", "0x1", "5,4", "594 Mbit/s", "--1", "1e", ".", "007"])
def test_a_text_that_is_not_a_number_is_not_an_answer(text):
    assert make(A_NUMBER).read_answer(text, {}) == ({"n": None}, f"n: {text!r} is not a number")


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), min_size=1).filter(str.strip)


@settings(max_examples=200, deadline=None)
@given(st.lists(words, min_size=1, max_size=5, unique=True), st.data())
def test_every_legal_answer_is_read_back_as_it_was_written(choices, data):
    chosen = data.draw(st.sampled_from(choices))
    task = make(Target("c", "class", choices=tuple(choices)))
    assert task.read_answer(task.write_answer({"c": chosen}), {"c": choices}) == ({"c": chosen}, None)


@settings(max_examples=200, deadline=None)
@given(st.lists(words.map(str.strip), min_size=1, max_size=5, unique=True), st.data())
def test_two_targets_are_separated_even_if_a_class_holds_spaces(choices, data):
    chosen, number = data.draw(st.sampled_from(choices)), str(data.draw(st.integers() | st.floats(-1e9, 1e9)))
    task = make(Target("c", "class", choices=tuple(choices)), A_NUMBER)
    target = {"c": chosen, "n": number}
    assert task.read_answer(task.write_answer(target), {"c": choices}) == (target, None)


def test_a_task_is_unchanged_after_a_round_trip_through_json(boxes, links, tmp_path):
    template = write_csv(tmp_path / "t.txt", "a {size}\n{color}")
    for task in (
        make_task(links),
        make_task(links, ask="row"),
        make_task(boxes, ["label", "weight"], template, id_field=None),
    ):
        again = Task.from_dict(json.loads(json.dumps(task.to_dict())))
        assert (again.ask, again.answer_unit) == (task.ask, task.answer_unit)
        assert again.targets == task.targets and again.schema == task.schema
        assert again.template.text == task.template.text and again.form == task.form


@pytest.mark.parametrize("lost", ["targets", "template", "schema"])
def test_a_task_that_lacks_a_part_is_rejected(boxes, lost):
    value = make_task(boxes, ["label"]).to_dict()
    del value[lost]
    with pytest.raises(UserError, match=lost):
        Task.from_dict(value)
