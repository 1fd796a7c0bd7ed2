"""Rows with one question per choice: shared prompt beginnings change no score, and no order changes an answer."""

import csv
import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inference.test_choice_scorer import write_by_hand
from linklab.cli import UserError
from linklab.inference import choice_answers, number_distributions, row_answers
from linklab.inference.choice_scorer import ChoiceScorer, PromptCache
from linklab.links.links import FIELD_SCHEMA
from linklab.metrics.predictions import Prediction, read_predictions, write_predictions
from linklab.models.chat import encode_prompt
from linklab.tables.schema import Column
from linklab.tasks import jsonl
from linklab.tasks.examples import read_examples
from linklab.tasks.task import make_task

CHANNEL, RATE = "recommended_channel_mhz", "expected_throughput_mbps"


@pytest.fixture(scope="module")
def task(small_links):
    return make_task(small_links / "links.csv", ask="choices")


@pytest.fixture(scope="module")
def examples(small_links, task):
    return read_examples(small_links / "links.csv", task, "test", 6)


def ask_alone(scorer, question, task):
    """The definition: the model reads each whole prompt alone, with nothing shared."""
    cache = PromptCache(1)
    scorer.read(cache, [encode_prompt(scorer.tokenizer, question.prompt)])
    (found,) = number_distributions.distributions(scorer, cache, [[]], "", [[]], task.answer_column)
    return found


def test_scores_of_shared_beginnings_are_those_of_asking_about_each_choice_alone(scorer, examples, task):
    reports = []
    found = choice_answers.score_rows(scorer, examples, task, progress=reports.append)
    assert reports[-1] == len(examples)
    for example, scores in zip(examples, found, strict=True):
        assert scores.choices == example.choices[CHANNEL]
        for question, expected, median in zip(example.questions, scores.expected, scores.median, strict=True):
            alone = ask_alone(scorer, question, task)
            worth = 10 * sum(int(text) * p for text, p in alone.items())
            assert expected == pytest.approx(worth, rel=1e-5)
            assert median == 10 * int(number_distributions.weighted_median(alone))
    assert len({round(value, 3) for scores in found for value in scores.expected}) > len(examples)  # they differ


def test_the_answer_is_the_choice_of_the_highest_expected_worth_and_its_median(scorer, examples, task, tmp_path):
    scored = choice_answers.score_rows(scorer, examples, task)
    given = row_answers.answer_exactly(scorer, examples, task)
    for example, scores, prediction in zip(examples, scored, given, strict=True):
        best = int(np.argmax(scores.expected))
        assert prediction["id"] == example.id and prediction["error"] is None
        assert prediction["answer"][CHANNEL] == example.choices[CHANNEL][best]
        assert float(prediction["answer"][RATE]) == min(max(scores.median[best], 5), 1000)
        order = [example.choices[CHANNEL].index(choice) for choice, _ in prediction["choices"][CHANNEL]]
        assert list(scores.expected[order]) == sorted(scores.expected, reverse=True)
        assert sum(math.exp(chance) for _, chance in prediction["choices"][CHANNEL]) == pytest.approx(1)
        assert task.read_answer(prediction["raw_text"], example.choices) == (prediction["answer"], None)
    write_predictions(tmp_path / "p.jsonl", [Prediction(**prediction) for prediction in given])
    assert list(read_predictions(tmp_path / "p.jsonl", [e.id for e in examples])) == [e.id for e in examples]


def test_candidates_in_another_order_get_the_same_answer(scorer, examples, task):
    turned = [
        dataclasses.replace(example, questions=example.questions[::-1],
                            choices={CHANNEL: example.choices[CHANNEL][::-1]})
        for example in examples
    ]  # fmt: skip
    for ask in (row_answers.answer_exactly, row_answers.answer_freely):
        for one, other in zip(ask(scorer, examples, task), ask(scorer, turned, task), strict=True):
            assert one["answer"] == other["answer"]
            assert [choice for choice, _ in one["choices"].get(CHANNEL, [])] == [
                choice for choice, _ in other["choices"].get(CHANNEL, [])
            ]


def test_rows_get_the_same_answer_alone_and_in_a_batch(scorer, examples, task):
    alone = ChoiceScorer(scorer.model, scorer.tokenizer, batch_tokens=1)
    for numbers in (None, "greedy"):
        one = choice_answers.score_rows(alone, examples, task, numbers=numbers)
        other = choice_answers.score_rows(scorer, examples, task, numbers=numbers)
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a.expected, b.expected, rtol=1e-5)
            assert (a.chances is None) == (numbers == "greedy")


def test_free_writing_is_greedy_writing_about_each_choice(scorer, examples, task):
    rows = examples[:3]
    for example, written in zip(rows, row_answers.answer_freely(scorer, rows, task), strict=True):
        texts = [write_by_hand(scorer.model, scorer.tokenizer, encode_prompt(scorer.tokenizer, q.prompt), 8).strip()
                 for q in example.questions]  # fmt: skip
        lines = [f"{q.choice}: {text}" for q, text in zip(example.questions, texts, strict=True)]
        assert written["raw_text"] == "\n".join(lines)


@pytest.mark.parametrize(
    ("texts", "answer"),
    [
        (["34", "7", "120"], {CHANNEL: "5775", RATE: "1000"}),
        (["34", "34", "x"], {CHANNEL: "5210", RATE: "340"}),
        (["", "-1", "five"], {CHANNEL: "5530", RATE: "5"}),
        (["", "many", "5 6"], None),
    ],
)
def test_written_numbers_are_compared_and_texts_that_are_not_numbers_lose(task, examples, texts, answer):
    choices = {CHANNEL: ["5210", "5530", "5775"]}
    row = dataclasses.replace(examples[0], choices=choices)
    given = choice_answers._read_written(row, texts, task)
    assert given["answer"] == answer
    assert given["error"] == (None if answer else "no number was written about any choice")


def chances_by_enumeration(distributions):
    """The definition, over every combination of values; equal maxima share evenly."""
    chances = np.zeros(len(distributions))
    for values in itertools.product(*(row.items() for row in distributions)):
        best = max(value for value, _ in values)
        winners = [i for i, (value, _) in enumerate(values) if value == best]
        chances[winners] += math.prod(p for _, p in values) / len(winners)
    return chances


numbers = st.dictionaries(st.integers(0, 6).map(float), st.integers(1, 9), min_size=1, max_size=4).map(
    lambda row: {value: n / sum(row.values()) for value, n in row.items()}
)


@settings(max_examples=200, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=5))
def test_the_chance_of_being_the_best_is_that_of_counting_all_combinations(distributions):
    expected = chances_by_enumeration(distributions)
    assert choice_answers.best_chances(distributions) == pytest.approx(expected, abs=1e-12)


def test_chances_of_many_choices_and_of_choices_without_numbers():
    even = choice_answers.best_chances([{0.0: 0.5, 1.0: 0.5}] * 30)
    assert even == pytest.approx([1 / 30] * 30)
    assert choice_answers.best_chances([{}, {3.0: 1.0}]) == pytest.approx([0, 1])
    assert choice_answers.best_chances([{}, {}]) == pytest.approx([0.5, 0.5])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12).filter(sum))
def test_averaged_chances_never_rise_and_sum_to_one(chances):
    given = np.array(chances) / sum(chances)
    fallen = choice_answers.make_non_increasing(given)
    assert (np.diff(fallen) <= 1e-12).all() and fallen.sum() == pytest.approx(1)
    if (np.diff(given) <= 0).all() and given.min() > choice_answers.SMALLEST_CHANCE:
        assert fallen == pytest.approx(given)


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        (340.0, Column("x", "target", "int", low=5, high=1000), "340"),
        (0.0, Column("x", "target", "int", low=5, high=1000), "5"),
        (2410.0, Column("x", "target", "int", low=5, high=1000), "1000"),
        (1.26, Column("x", "target", "float", decimals=1), "1.3"),
    ],
)
def test_a_worth_is_written_in_the_format_of_its_column(value, column, text):
    assert choice_answers.write_number(value, column) == text


def test_field_data_are_ranked_from_a_folder_as_from_the_csv(scorer, small_links, tmp_path):
    import convert_csv_to_jsonl
    from linklab.tasks.source import read_with_cells

    with open(small_links / "links.csv", newline="") as handle:
        rows = [row[: len(FIELD_SCHEMA.names)] for row in csv.reader(handle)]
    with open(tmp_path / "field.csv", "w", newline="") as handle:
        csv.writer(handle, lineterminator="\n").writerows(rows)
    words = ["--csv", str(tmp_path / "field.csv"), "--out-dir", str(tmp_path / "set")]
    assert convert_csv_to_jsonl.main(words) == 0
    field = make_task(tmp_path / "field.csv")
    from_csv = read_examples(tmp_path / "field.csv", field, "test", 2)
    from_folder = read_with_cells(tmp_path / "set", field, "test", 2)
    assert [e.prompt for e in from_folder] == [e.prompt for e in from_csv]
    given = row_answers.answer_exactly(scorer, from_csv, field)
    assert row_answers.answer_exactly(scorer, from_folder, field) == given
    with pytest.raises(UserError, match=r"row 'L\d+': only 1 of its \d+ choices have a question: .* --csv"):
        row_answers.answer_exactly(scorer, jsonl.read_examples(tmp_path / "set", "test", 2), field)


def test_evaluation_judges_whole_rows_asked_from_a_csv_or_a_folder(small_links, tmp_path):
    import convert_csv_to_jsonl
    import evaluate_model

    table = ["--csv", str(small_links / "links.csv"), "--ask", "choices"]
    assert convert_csv_to_jsonl.main([*table, "--out-dir", str(tmp_path / "set")]) == 0
    runs = []
    for name, words in (("a", table), ("b", ["--data", str(tmp_path / "set")]), ("free", [*table, "--free"])):
        words = [*words, "--model", "tiny", "--max-rows", "4", "--out-dir", str(tmp_path / name)]
        assert evaluate_model.main(words) == 0
        runs.append(json.loads((tmp_path / name / "metrics.json").read_text()))
    assert (tmp_path / "a" / "predictions.jsonl").read_bytes() == (tmp_path / "b" / "predictions.jsonl").read_bytes()
    assert runs[0]["hashes"] == runs[1]["hashes"] and runs[0]["n"]["expected"] == 4
    assert f"{CHANNEL}/regret" in runs[0]["metrics"] and f"{RATE}/mae" in runs[0]["metrics"]
