"""Blends: weights equal independent fits, use only validation rows, and gain only if there is something to gain."""

import json

import numpy as np
import pytest
from linklab.cli import UserError
from linklab.metrics import blend, comparison, metrics
from linklab.metrics.predictions import Prediction
from linklab.reports import tables
from linklab.reports.verdict import make_verdict
from scored_rows import TASK, make_row
from sklearn.linear_model import LogisticRegression

NAMES = ["36", "40", "44", "48"]
PRIMARY = "channel/accuracy"


def make_examples(split, n=300, seed=0, prefix=""):
    rng = np.random.default_rng([seed, len(split)])
    rows = []
    for i in range(n):
        worth = rng.permutation([40.0, 60.0, 80.0, 100.0])
        target = {"channel": NAMES[int(worth.argmax())], "rate": str(int(rng.integers(50, 500)))}
        rows.append(make_row(f"{prefix}{split}{i:03d}", target, NAMES, worth.tolist(), split=split))
    return rows


def guess(examples, seed, *, skill=1.5, noise=20.0, sure=True):
    """Make predictions with independent evidence for the true choice, and an independent error of the number."""
    rng = np.random.default_rng(seed)
    predictions = {}
    for example in examples:
        scores = rng.normal(size=4) + skill * np.array([name == example.target["channel"] for name in NAMES])
        logs = scores - np.log(np.exp(scores).sum())
        ranking = [(NAMES[i], float(logs[i]) if sure else None) for i in np.argsort(-logs)]
        rate = float(example.target["rate"]) + noise * rng.normal()
        answer = {"channel": ranking[0][0], "rate": f"{rate:.1f}"}
        predictions[example.id] = Prediction(example.id, "", answer, None, {"channel": ranking})
    return predictions


def write(folder, examples, predictions, role, model=None):
    metrics.write_run(folder, examples, predictions, TASK, model=model or folder.name, role=role, resamples=20)


def write_pair(place, split, seeds, **other):
    """Write runs of a tuned model and of trees; these seeds decide what each of them knows."""
    examples = make_examples(split, **other)
    for name, role, seed in (("tuned", "tuned", seeds[0]), ("trees", "baseline", seeds[1])):
        write(place / split / name, examples, guess(examples, seed), role)
    return comparison.read_runs([place / split])


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The test runs and the validation runs of two predictors with independent evidence."""
    place = tmp_path_factory.mktemp("pair")
    return write_pair(place, "test", (1, 2)), write_pair(place, "validation", (3, 4))


def blended(tmp_path, test, validation, folder="blend"):
    model = comparison.find_run(test, "tuned")
    return blend.make_blend(tmp_path / folder, test, validation, model, PRIMARY)


def say(found, test):
    runs = [*test, found.run]
    trees = comparison.find_run(test, "trees")
    differences = comparison.compare_to(runs, trees)
    made = make_verdict(tables.Experiment("", runs, PRIMARY, trees, differences, found.model, found))
    return next(answer for question, answer in made.answers if "know different things" in question)


def test_weights_are_those_of_a_logistic_regression_if_rows_have_two_choices():
    """With two choices the probability of the first is the logistic function of the weighted differences."""
    rng = np.random.default_rng(1)
    gaps = rng.normal(size=(400, 2)) * [1.0, 2.0]
    first = rng.random(400) < 1 / (1 + np.exp(-(gaps @ [1.3, 0.4])))
    scores = [np.array([gap, [0.0, 0.0]]) for gap in gaps]
    judge = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(gaps, first)
    assert blend.fit_weights(scores, np.where(first, 0, 1).tolist()) == pytest.approx(judge.coef_[0], abs=2e-3)


def test_weights_have_the_least_log_loss_of_a_grid_if_rows_have_several_choices():
    rng = np.random.default_rng(2)
    scores, truths = [], []
    for _ in range(150):
        of_row = rng.normal(size=(int(rng.integers(2, 6)), 2))
        chances = np.exp(of_row @ [0.9, 0.5])
        truths.append(int(rng.choice(len(of_row), p=chances / chances.sum())))
        scores.append(of_row)

    def loss(weights):
        terms = [s[t] @ weights - np.log(np.exp(s @ weights).sum()) for s, t in zip(scores, truths, strict=True)]
        return -np.mean(terms)

    grid = [np.array([a, b]) for a in np.linspace(0, 2, 21) for b in np.linspace(0, 2, 21)]
    fitted = np.array(blend.fit_weights(scores, truths))
    best = min(grid, key=loss)
    assert fitted == pytest.approx(best, abs=0.1)
    assert loss(fitted) <= loss(best)


def test_a_predictor_that_misleads_gets_no_weight_and_one_that_never_errs_a_finite_one():
    rng = np.random.default_rng(3)
    truths = [int(rng.integers(3)) for _ in range(50)]
    right = np.eye(3)
    scores = [np.column_stack([right[truth], -right[truth]]) for truth in truths]
    assert blend.fit_weights(scores, truths) == pytest.approx((blend.MAX_WEIGHT, 0.0), abs=1e-6)


@pytest.mark.parametrize("noise", [(10.0, 10.0), (5.0, 30.0), (30.0, 0.01)])
def test_the_share_of_two_numbers_has_the_least_absolute_error_of_a_grid(noise):
    rng = np.random.default_rng(4)
    truth = rng.normal(size=101) * 100
    first, second = (truth + scale * rng.normal(size=101) for scale in noise)

    def error(share):
        return np.abs(truth - second - share * (first - second)).mean()

    grid = np.linspace(0, 1, 2001)
    best = min(grid, key=error)
    found = blend.fit_share(first, second, truth)
    assert error(found) <= error(best) + 1e-12 and found == pytest.approx(best, abs=1e-3)
    assert blend.fit_share(first, first, truth) == 0.5


def test_two_predictors_that_know_different_things_are_better_together(tmp_path, pair):
    test, validation = pair
    found = blended(tmp_path, test, validation)
    assert found.run.name == "tuned + trees" and found.run.role == "blend" and found.validation_rows == 300
    for metric in ("channel/accuracy", "channel/regret", "channel/log_loss", "rate/mae"):
        for alone in test:
            assert comparison.is_better(metric, found.run.value(metric) - alone.value(metric)), (metric, alone.name)
    answer = say(found, test)
    better = comparison.best_run(test, PRIMARY).name
    other = "trees" if better == "tuned" else "tuned"
    assert answer.startswith(f"Yes: adding {other} to {better} gains ")
    assert f"it knows something that {better} does not. Weights fitted on 300 validation rows." in answer


def test_two_predictors_that_say_the_same_add_nothing_to_each_other(tmp_path):
    test, validation = write_pair(tmp_path, "test", (1, 1)), write_pair(tmp_path, "validation", (3, 3))
    found = blended(tmp_path, test, validation)
    assert found.run.value(PRIMARY) == test[0].value(PRIMARY)
    assert found.run.value("rate/mae") == pytest.approx(test[0].value("rate/mae"))
    assert say(found, test).startswith(
        "Not shown: adding tuned to trees adds nothing that this sample can show (difference 0.0 points"
    )


def test_weights_come_only_from_validation_rows(tmp_path, pair):
    """Test rows with shuffled answers get the same weights as those with the true answers."""
    test, validation = pair
    examples = make_examples("test")
    dealt = np.random.default_rng(0).permutation(len(examples))
    for name, role, seed in (("tuned", "tuned", 1), ("trees", "baseline", 2)):
        given = list(guess(examples, seed).values())
        moved = [Prediction(e.id, "", given[i].answer, None, given[i].choices)
                 for e, i in zip(examples, dealt, strict=True)]  # fmt: skip
        write(tmp_path / "dealt" / name, examples, {p.id: p for p in moved}, role)
    found = blended(tmp_path, test, validation)
    other = blended(tmp_path, comparison.read_runs([tmp_path / "dealt"]), validation, "other")
    assert other.weights == found.weights
    assert other.run.value(PRIMARY) < found.run.value(PRIMARY) - 0.2


def test_a_blend_has_the_scores_of_its_predictions(tmp_path, pair):
    """Accuracy, regret and error are computed again from predictions.jsonl and the rows."""
    found = blended(tmp_path, *pair)
    lines = [json.loads(line) for line in (tmp_path / "blend" / "predictions.jsonl").read_text().splitlines()]
    answers = {line["id"]: line["answer"] for line in lines}
    examples = make_examples("test")
    channels = [answers[e.id]["channel"] for e in examples]
    assert found.run.value(PRIMARY) == np.mean(
        [c == e.target["channel"] for c, e in zip(channels, examples, strict=True)]
    )
    regret = [1 - e.values["channel"][NAMES.index(c)] / 100 for c, e in zip(channels, examples, strict=True)]
    assert found.run.value("channel/regret") == pytest.approx(np.mean(regret))
    errors = [abs(float(answers[e.id]["rate"]) - float(e.target["rate"])) for e in examples]
    assert found.run.value("rate/mae") == pytest.approx(np.mean(errors))
    weights = found.weights["channel"]
    scores = [{text: p for text, p in of[examples[0].id].choices["channel"]}
              for of in (guess(examples, 1), guess(examples, 2))]  # fmt: skip
    logs = np.array([weights[0] * scores[0][name] + weights[1] * scores[1][name] for name in NAMES])
    chances = np.exp(logs) / np.exp(logs).sum()
    assert dict(lines[0]["choices"]["channel"]) == pytest.approx(
        dict(zip(NAMES, np.log(chances), strict=True)), abs=1e-3
    )


def test_the_baseline_is_the_best_with_probabilities_on_the_validation_rows(tmp_path, pair):
    """The better of two baselines on validation rows is taken, although the other is better on the test rows."""
    test, validation = pair
    for split, skill in (("test", 4.0), ("validation", 0.5)):
        examples = make_examples(split)
        write(tmp_path / "more" / split / "lucky", examples, guess(examples, 5, skill=skill), "baseline")
        write(tmp_path / "more" / split / "unsure", examples, guess(examples, 6, skill=4, sure=False), "baseline")
    test = [*test, *comparison.read_runs([tmp_path / "more" / "test"])]
    validation = [*validation, *comparison.read_runs([tmp_path / "more" / "validation"])]
    assert blended(tmp_path, test, validation).rival.name == "trees"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("test split", "rows of the test split; --validation-runs takes runs scored with --split validation"),
        ("tested rows", "id 'test000' is also among the test rows"),
        ("no model", "expected 1 run labelled 'tuned' like run 'tuned', found 0"),
        ("no baseline", r"none of the baselines with 'channel/log_loss' \(trees\) is among them"),
        ("no candidate", "needs a tuned model among the runs"),
        ("free", "run 'tuned' has no 'channel/log_loss'"),
    ],
)
def test_runs_that_cannot_be_blended_are_rejected(tmp_path, pair, change, said):
    test, validation = pair
    model = comparison.find_run(test, "tuned")
    if change == "test split":
        validation = write_pair(tmp_path / "other", "test", (3, 4), prefix="other")
    elif change == "tested rows":
        validation = [run for run in write_pair(tmp_path / "same", "test", (3, 4))]
        for run in validation:
            run.metrics["split"] = "validation"
    elif change in ("no model", "no baseline"):
        left_out = "tuned" if change == "no model" else "trees"
        validation = [run for run in validation if run.name != left_out]
    elif change == "no candidate":
        model = None
    else:
        examples = make_examples("test")
        write(tmp_path / "free" / "tuned", examples, guess(examples, 1, sure=False), "tuned")
        model = comparison.read_run(tmp_path / "free" / "tuned")
    with pytest.raises(UserError, match=said):
        blend.make_blend(tmp_path / "blend", test, validation, model, PRIMARY)
    assert not (tmp_path / "blend").exists()
