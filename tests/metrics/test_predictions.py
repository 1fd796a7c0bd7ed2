"""predictions.jsonl: which files are rejected, where the error points, and a round trip without changes."""

import json

import pytest
from linklab.cli import UserError
from linklab.metrics.predictions import Prediction, read_predictions, write_predictions

GOOD = {"id": "a", "raw_text": "36 5", "answer": {"channel": "36", "rate": "5"}, "error": None,
        "choices": {"channel": [["36", -0.1], ["40", -2.5]]}}  # fmt: skip


def write_lines(path, *lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_a_round_trip_keeps_every_field_and_the_order_asked_for(tmp_path):
    given = [
        Prediction("a", "36", {"channel": "36"}, None, {"channel": [("36", -0.3), ("40", -1.5)]}),
        Prediction("b", "löst", None, "no legal channel in the answer"),
        Prediction("c", "44", {"channel": None}, None, {"channel": [("44", None), ("36", None)]}),
    ]
    write_predictions(tmp_path / "p.jsonl", given)
    assert read_predictions(tmp_path / "p.jsonl", ["c", "a", "b"]) == {"c": given[2], "a": given[0], "b": given[1]}
    assert list(read_predictions(tmp_path / "p.jsonl", ["c", "a", "b"])) == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("second_line", "said"),
    [
        (GOOD, "id 'a' is already on line 1"),
        (GOOD | {"id": "zzz"}, "id 'zzz' is not among the 2 rows"),
        ('{"id": "b", ', "not JSON at column"),
        ("", "not JSON"),
        ('{"id": "b", "choices": {"channel": [["36", NaN]]}}', "NaN is not a JSON number"),
        ("[1, 2]", "a JSON object is expected, found list"),
        (GOOD | {"id": 7}, "'id' must be a text"),
        (GOOD | {"id": "b", "target": "36"}, "unknown key 'target'"),
        (GOOD | {"id": "b", "answer": "36"}, "'answer' must be null or map"),
        (GOOD | {"id": "b", "answer": {"channel": 36}}, "numbers are texts"),
        (GOOD | {"id": "b", "answer": {"channel": {"a": 1}}}, "must be null or map"),
        (GOOD | {"id": "b", "raw_text": 36}, "'raw_text' must be a text"),
        (GOOD | {"id": "b", "choices": [["36", -1]]}, "'choices' must map"),
        (GOOD | {"id": "b", "choices": {"channel": ["36"]}}, "is not [text, log-probability]"),
        (GOOD | {"id": "b", "choices": {"channel": [["36", -1], ["36", -2]]}}, "ranked twice"),
        (GOOD | {"id": "b", "choices": {"channel": [["36", -2], ["40", -1]]}}, "best first"),
        (GOOD | {"id": "b", "choices": {"channel": [["36", 0.5]]}}, "at most 0"),
        (GOOD | {"id": "b", "choices": {"channel": [["36", -0.1], ["40", None]]}}, "some have null"),
        (GOOD | {"id": "b", "choices": {"channel": [["36", -0.1], ["40", -0.1]]}}, "sum to more than 1"),
        (GOOD | {"id": "b", "choices": {"channel": [["36", True]]}}, "neither a number nor null"),
    ],
)
def test_a_bad_line_is_rejected_by_file_and_line(tmp_path, second_line, said):
    path = write_lines(tmp_path / "p.jsonl", GOOD, second_line)
    with pytest.raises(UserError) as caught:
        read_predictions(path, ["a", "b"])
    assert str(caught.value).startswith(f"{path}:2: ")
    assert said in str(caught.value)


def test_missing_ids_are_counted_and_the_first_is_named(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", GOOD)
    with pytest.raises(UserError, match=r"no prediction for id 'b' \(2 of 3 rows are missing\)"):
        read_predictions(path, ["a", "b", "c"])


def test_bytes_that_are_not_text_are_one_clear_error(tmp_path):
    (tmp_path / "p.jsonl").write_bytes(b"\xff\xfe{}\n")
    with pytest.raises(UserError, match=":1: not UTF-8 at byte 0"):
        read_predictions(tmp_path / "p.jsonl", ["a"])
