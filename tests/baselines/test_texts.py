"""Text columns and dates: detecting free text, what TF-IDF adds to categories, and baselines for free-text targets."""

import math
import types

import numpy as np
import pytest
from linklab.baselines import dates, registry, texts
from linklab.baselines.problem import Problem
from linklab.metrics import metrics
from linklab.tables.schema import Column, Schema
from linklab.tasks.examples import Example
from linklab.tasks.task import Target, Task
from linklab.tasks.templates import Template

NOUNS = ["sun", "rain", "wind", "stone", "river", "cloud", "moss", "field"]


def make_problem(rows, columns, target, *, n_test=80, choices=()):
    """Return a problem: the last `n_test` rows are to be answered; `rows` hold cells by column, with the target."""
    schema = Schema(tuple(columns) + (Column(target.name, "target", "str", class_target=target.kind == "class"),))
    template = Template("\n".join(f"{c.name}: {{{c.name}}}" for c in columns), schema)
    examples = [
        Example(f"r{i}", f"r{i}", "test", template.render(row), row[target.name], {target.name: row[target.name]},
                {target.name: list(choices)} if choices else {}, {}, row)
        for i, row in enumerate(rows)
    ]  # fmt: skip
    return Problem(examples[:-n_test], examples[-n_test:], Task(schema, (target,), template))


def score(problem, name):
    predictions, _ = registry.predict(problem, registry.BASELINES[name])
    found = metrics.score(problem.test, predictions, problem.task, resamples=0)["metrics"]
    return {key.split("/")[1]: entry["value"] for key, entry in found.items()}


def notes(rng, n):
    """Sentences, each with a number: one of eight words tells the subject of a note."""
    rows = []
    for _ in range(n):
        words = [str(rng.choice(NOUNS)) for _ in range(7)]
        kind, size = str(rng.choice(["bird", "fish"])), rng.normal()
        words.insert(int(rng.integers(0, 8)), {"bird": "wing", "fish": "fin"}[kind])
        rows.append({"note": " ".join(words), "size": f"{size:.2f}", "kind": kind})
    return rows


@pytest.fixture(scope="module")
def mixed():
    """A class that neither the text nor the number determines alone."""
    rows = notes(np.random.default_rng(0), 480)
    for row in rows:
        row["label"] = f"{'large' if float(row['size']) > 0 else 'small'} {row['kind']}"
    columns = [Column("note", "input", "str"), Column("size", "input", "float")]
    labels = sorted({row["label"] for row in rows})
    return make_problem(rows, columns, Target("label", "class", choices=tuple(labels)), choices=labels)


def test_words_and_numbers_together_answer_what_neither_can_alone(mixed):
    accuracy = {name: score(mixed, name)["accuracy"] for name in ("boosting_flat", "text_tfidf", "boosting_text")}
    assert accuracy["boosting_text"] > 0.95
    assert accuracy["text_tfidf"] < 0.75 and accuracy["boosting_flat"] < 0.75
    predictions, _ = registry.predict(mixed, registry.BASELINES["boosting_text"])
    for prediction in predictions.values():
        assert sum(math.exp(p) for _, p in prediction.choices["label"]) == pytest.approx(1)


def test_a_number_is_read_from_words_and_other_columns():
    rows = notes(np.random.default_rng(1), 480)
    for row in rows:
        row["price"] = f"{100 * (row['kind'] == 'bird') + 10 * float(row['size']):.1f}"
    columns = [Column("note", "input", "str"), Column("size", "input", "float")]
    problem = make_problem(rows, columns, Target("price", "number"))
    errors = {name: score(problem, name)["mae"] for name in ("boosting_flat", "text_tfidf", "boosting_text")}
    assert errors["boosting_text"] < 0.6 * min(errors["text_tfidf"], errors["boosting_flat"])


def test_text_baselines_are_offered_if_there_is_text(mixed):
    assert {"text_tfidf", "boosting_text"} <= registry.available(mixed).keys()
    rows = notes(np.random.default_rng(2), 300)
    alone = make_problem(rows, [Column("note", "input", "str")], Target("kind", "class"), choices=["bird", "fish"])
    assert "text_tfidf" in registry.available(alone) and "boosting_text" not in registry.available(alone)
    plain = make_problem(rows, [Column("size", "input", "float")], Target("kind", "class"), choices=["bird", "fish"])
    assert not {"text_tfidf", "boosting_text"} & registry.available(plain).keys()


def test_a_class_that_occurs_once_and_a_single_class_raise_no_error(mixed):
    rows = notes(np.random.default_rng(3), 200)
    rows[5]["kind"] = "whale"
    columns = [Column("note", "input", "str"), Column("size", "input", "float")]
    choices = ["bird", "fish", "whale"]
    once = make_problem(rows, columns, Target("kind", "class"), choices=choices)
    assert score(once, "boosting_text")["accuracy"] > 0.9
    same = make_problem([row | {"kind": "fish"} for row in rows], columns, Target("kind", "class"), choices=choices)
    for name in ("text_tfidf", "boosting_text"):
        assert score(same, name)["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("cells", "is_text"),
    [
        ([f"note number {i} of many" for i in range(50)], True),
        ([f"Smith, Mr. {i} John" for i in range(50)], True),
        (["a long sentence of the same kind", "another one"] * 50, False),  # two categories
        ([f"SN-{i}" for i in range(50)], False),  # codes
        ([f"2020-01-{1 + i % 28:02d} 10:{i % 60:02d}" for i in range(60)], False),  # dates
        ([""] * 50, False),
    ],
)
def test_sentences_are_distinguished_from_categories_codes_and_dates(cells, is_text):
    assert texts.is_free_text(cells) is is_text


@pytest.mark.parametrize(
    ("cells", "first"),
    [
        (["2020-01-31", "2021-02-28"], (2020, 1, 4, 0)),  # a Friday
        (["31.01.2020", "01.02.2020"], (2020, 1, 4, 0)),
        (["01/02/2020", "01/31/2020"], (2020, 1, 3, 0)),  # month first, unless that cannot be
        (["01/02/2020", "31/01/2020"], (2020, 2, 5, 0)),
        (["Jan 1 2000", "Feb 1 2000"], (2000, 1, 5, 0)),
        (["2020-01-01T10:30:00Z", "2020-01-02T11:00:00Z"], (2020, 1, 2, 10)),
        (["Mar 2010", "Apr 2010"], (2010, 3, 0, 0)),
    ],
)
def test_dates_become_year_month_weekday_and_hour(cells, first):
    found = dates.read_dates([*cells, "soon"], dates.find_date_format(cells))
    assert tuple(found[0, 1:]) == first
    assert np.isnan(found[-1]).all()


@pytest.mark.parametrize("cells", [["A-1", "B 2"], ["12 apples", "13 pears"], ["2020-13-45"], ["", " "], ["3.1415926"]])
def test_a_cell_that_is_not_a_date_stays_text(cells):
    assert dates.find_date_format(cells) is None


def test_trees_learn_more_from_a_date_than_from_a_category():
    """Weekends: every date occurs once, so as a category it tells nothing about the next date."""
    days = np.datetime64("2020-01-01") + np.random.default_rng(4).permutation(600)
    rows = [{"day": str(day), "open": "no" if np.is_busday(day) == 0 else "yes"} for day in days]
    problem = make_problem(rows, [Column("day", "input", "str")], Target("open", "class"), choices=["no", "yes"])
    assert score(problem, "boosting_flat")["accuracy"] == 1.0


def test_free_text_targets_have_baselines_too():
    rows = [{"question": f"what is {a} plus {b}", "answer": f"{a} plus {b} makes {a + b}"} for a in range(12)
            for b in range(12)]  # fmt: skip
    np.random.default_rng(5).shuffle(rows)
    rows += [{"question": "zzz", "answer": "nobody knows"}]
    problem = make_problem(rows, [Column("question", "input", "str")], Target("answer", "text"), n_test=30)
    assert set(registry.available(problem)) == {"random", "most_frequent", "nearest_row"}
    nearest, frequent = score(problem, "nearest_row"), score(problem, "most_frequent")
    assert nearest["token_f1"] > frequent["token_f1"]
    predictions, _ = registry.predict(problem, registry.BASELINES["nearest_row"])
    known = {example.answer for example in problem.train}
    assert {p.answer["answer"] for p in predictions.values()} <= known
    for example in problem.test[:-1]:
        a = example.row["question"].split()[2]
        assert a in predictions[example.id].answer["answer"]


def test_no_text_baseline_reads_the_answers_of_the_rows_it_answers(mixed):
    before = {name: registry.predict(mixed, registry.BASELINES[name]) for name in ("text_tfidf", "boosting_text")}
    hidden = [
        types.SimpleNamespace(**{**vars(e), "target": {"label": "?"}, "row": e.row | {"label": "?"}})
        for e in mixed.test
    ]
    blind = Problem(mixed.train, hidden, mixed.task)
    for name, given in before.items():
        assert registry.predict(blind, registry.BASELINES[name]) == given
