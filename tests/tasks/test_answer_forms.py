"""Answers as JSON: every JSON reader can read them, each part is legal, and errors are named when they are read."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linklab.cli import UserError
from linklab.tables.schema import Column, Schema
from linklab.tasks.task import Target, Task, make_task
from linklab.tasks.templates import Template

CLASSES = ("5180", "5775", 'a "b"')
TARGETS = (Target("c", "class", choices=CLASSES), Target("n", "number"), Target("free text", "text"))


def make(*targets):
    schema = Schema((Column("x", "input", "str"), *(Column(t.name, "target", "str") for t in targets)))
    return Task(schema, targets, Template("{x}", schema), answer_format="json")


TASK = make(*TARGETS)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(CLASSES),
    st.integers(-(10**12), 10**12) | st.floats(-1e9, 1e9),
    st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip).map(str.strip),
)
def test_an_answer_is_what_json_dumps_writes_and_is_read_back(chosen, number, text):
    target = {"c": chosen, "n": repr(number), "free text": text}
    written = TASK.write_answer(target)
    assert json.loads(written) == {"c": chosen, "n": number, "free text": text}
    assert written == json.dumps(json.loads(written), ensure_ascii=False)
    assert TASK.read_answer(written, {"c": CLASSES}) == (target, None)
    starts = [TASK.write_answer(target, n) for n in range(4)]
    assert starts == sorted(starts, key=len) and starts[-1] == written
    assert all(written.startswith(start) for start in starts)


@pytest.mark.parametrize(
    ("number", "written"),
    [("594", "594"), ("-3.50", "-3.50"), ("1e-7", "1e-7"), (".5", "0.5"), ("+3", "3"), ("2.", "2"), ("", "null")],
)
def test_a_number_is_written_in_json_spelling(number, written):
    assert make(TARGETS[1]).write_answer({"n": number}) == f'{{"n": {written}}}'


ALL = {"c": "5775", "n": "594", "free text": "yes"}
WHOLE_WRONG = dict.fromkeys(ALL)


@pytest.mark.parametrize(
    ("text", "answer", "problem"),
    [
        ('{"c": "5775", "n": 594, "free text": "yes"}', ALL, None),
        (' {"free text":"yes","n":"594","c":5775}\n', ALL, None),  # another order, and other quotes
        ('{"c": "5200", "n": 594, "free text": "yes"}', ALL | {"c": None}, "c: '5200' is not a legal choice"),
        ('{"c": "5775", "n": null, "free text": "yes"}', ALL | {"n": None}, "n: '' is not a number"),
        ('{"c": "5775", "n": NaN, "free text": "yes"}', ALL | {"n": None}, "n: '' is not a number"),
        ('{"c": "5775", "n": true, "free text": ["yes"]}', {"c": "5775", "n": None, "free text": None},
         "n: '' is not a number; free text: '' is empty"),
        ('{"c": "5775"}', {"c": "5775", "n": None, "free text": None},
         "n: '' is not a number; free text: '' is empty"),
        ('{"c": "5775", "c": "5180", "n": 1, "free text": "a"}', WHOLE_WRONG, "key 'c' twice"),
        ('{"c": "5775", "n": 1, "free text": "a", "why": "b"}', WHOLE_WRONG, "key 'why' is not a target"),
        ('{"c": "5775", "n": 594', WHOLE_WRONG, "not a JSON object"),
        ('["5775"]', WHOLE_WRONG, "not a JSON object"),
        ("5775 594", WHOLE_WRONG, "not a JSON object"),
        ("[" * 100_000, WHOLE_WRONG, "not a JSON object"),
        ("", WHOLE_WRONG, "not a JSON object"),
    ],
)  # fmt: skip
def test_an_answer_of_a_model_is_read_key_by_key(text, answer, problem):
    assert TASK.read_answer(text, {"c": CLASSES}) == (answer, problem)


def test_a_task_stores_its_answer_format_and_an_unknown_one_is_rejected():
    value = TASK.to_dict()
    again = Task.from_dict(json.loads(json.dumps(value)))
    assert again.answer_format == "json" and again.form == TASK.form
    with pytest.raises(UserError, match="'answer_format' = 'xml'; expected plain or json"):
        Task.from_dict(value | {"answer_format": "xml"})


def test_several_targets_may_hold_line_ends_and_free_text_only_in_json(tmp_path):
    path = tmp_path / "t.csv"
    kinds = ("a", '"b\nc"')
    path.write_text("x,kind,why\n" + "".join(f"{i},{kinds[i % 2]},because {i}\n" for i in range(40)))
    with pytest.raises(UserError, match="column 'kind' holds line ends, .* use --answer-format json"):
        make_task(path, ["kind", "x"])
    task = make_task(path, ["kind", "x"], answer_format="json")
    answer = task.write_answer({"kind": "b\nc", "x": "7"})
    assert answer == '{"kind": "b\\nc", "x": 7}'
    assert task.read_answer(answer, {"kind": ["a", "b\nc"]}) == ({"kind": "b\nc", "x": "7"}, None)
