"""Free texts: each score by hand, against sacrebleu on a corpus of one text, and in a whole comparison."""

import types

import numpy as np
import pytest
import scored_rows
from linklab.cli import UserError
from linklab.metrics import comparison, metrics, row_scores
from linklab.metrics.metric_table import METRICS, find_metric
from linklab.metrics.predictions import Prediction
from linklab.tasks.task import Target
from sacrebleu import sentence_chrf

TASK = types.SimpleNamespace(targets=[Target("reply", "text")], schema=None, template=scored_rows.TASK.template)


def example(name, reply):
    return scored_rows.make_row(name, {"reply": reply})


def answered(examples, texts):
    return {e.id: Prediction(e.id, t or "", {"reply": t}) for e, t in zip(examples, texts, strict=True)}


@pytest.mark.parametrize(
    ("answer", "true", "exact", "normalised", "f1"),
    [
        ("The cat sat.", "The cat sat.", 1, 1, 1),
        (" The cat sat.\n", "The cat sat.", 1, 1, 1),  # outer white space never counts
        ("the  CAT, sat", "The cat sat.", 0, 1, 1),
        ("a cat", "the cat sat", 0, 0, 2 * 1 / (2 + 3)),
        ("cat cat cat", "cat", 0, 0, 2 * 1 / (3 + 1)),  # a word counts as often as both texts have it
        ("dog", "the cat", 0, 0, 0),
        ("ﬁne", "fine", 0, 1, 1),  # one ligature, the same word
        ("?", "!", 0, 0, 0),  # texts of only punctuation are not changed
        ("line one\nline two", "line one line two", 0, 1, 1),
        (None, "the cat", 0, 0, 0),
    ],
)
def test_each_text_score_equals_a_count_by_hand(answer, true, exact, normalised, f1):
    examples = [example("a", true)]
    (judged,) = metrics.judge(examples, answered(examples, [answer]), TASK)
    found = {name: column[0] for name, column in judged.columns.items()}
    assert (found["exact_match"], found["normalised_match"], found["token_f1"]) == pytest.approx(
        (exact, normalised, f1)
    )
    assert found["invalid_share"] == (answer is None)
    assert found["chrf"] == (0 if answer is None else pytest.approx(sentence_chrf(answer.strip(), [true]).score / 100))


def test_an_empty_answer_is_invalid_and_stays_in_the_denominator():
    examples = [example(f"r{i}", "yes, of course") for i in range(4)]
    result = metrics.score(examples, answered(examples, ["yes, of course", "", "  ", None]), TASK)
    assert result["n"] == {"expected": 4, "answered": 1, "invalid": 3}
    assert result["metrics"]["reply/exact_match"]["value"] == 0.25
    assert result["metrics"]["reply/token_f1"]["value"] == 0.25
    assert 0 < result["metrics"]["reply/exact_match"]["low"] < 0.25 < result["metrics"]["reply/exact_match"]["high"]


def test_runs_on_texts_are_compared_by_their_words(tmp_path):
    rng = np.random.default_rng(0)
    words = ["red", "green", "blue", "one", "two", "three"]
    examples = [example(f"r{i}", " ".join(rng.choice(words, 4))) for i in range(60)]
    good = [e.target["reply"] if i % 3 else e.target["reply"] + " more" for i, e in enumerate(examples)]
    poor = ["red green blue one"] * 60
    for name, texts in (("good", good), ("poor", poor)):
        metrics.write_run(tmp_path / name, examples, answered(examples, texts), TASK, model=name)
    runs = comparison.read_runs([tmp_path])
    assert comparison.primary_metric(runs) == "reply/token_f1"
    assert comparison.best_run(runs, "reply/token_f1").name == "good"
    by_metric = {d.metric: d for d in comparison.compare_to(runs, comparison.find_run(runs, "poor"))}
    assert by_metric["reply/token_f1"].outcome == by_metric["reply/exact_match"].outcome == "better"
    assert by_metric["reply/exact_match"].test == "McNemar"
    assert by_metric["reply/exact_match"].discordant[0] == 40
    assert by_metric["reply/chrf"].p is None and by_metric["reply/chrf"].low > 0


def test_a_written_answer_with_any_line_break_is_one_row_of_the_scores(tmp_path):
    examples = [example(f"r{i}", "yes") for i in range(3)]
    metrics.write_run(tmp_path / "run", examples, answered(examples, ["a\rb", "a\r\nb\n", "yes"]), TASK, model="m")
    (run,) = comparison.read_runs([tmp_path])
    assert run.texts["reply/answer"] == ["a\rb", "a\r\nb", "yes"]


def test_every_metric_that_is_written_is_in_the_table():
    examples = [example("a", "x"), example("b", "y")]
    (judged,) = metrics.judge(examples, answered(examples, ["x", "z"]), TASK)
    assert judged.columns.keys() == {name for name, metric in METRICS.items() if "text" in metric.kinds}
    assert find_metric("price/top12_accuracy").label == "top-12"
    with pytest.raises(UserError, match="unknown metric 'bleu'; the metrics are accuracy"):
        find_metric("reply/bleu")
    assert row_scores.normalise("The  Cat!") == "the cat"
