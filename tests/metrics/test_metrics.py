"""Every metric equals scikit-learn's or a plain count, on fuzzed rows with ties, absent classes and invalid answers."""

import csv
import json
import math

import numpy as np
import pytest
import sklearn
from linklab.cli import UserError
from linklab.metrics import metric_table, metrics, row_scores
from linklab.metrics.predictions import Prediction
from scored_rows import TASK, make_row
from sklearn import metrics as oracle

LEGAL = ["36", "40", "100", "149", "5775"]


def example(name, channel, rate, legal=LEGAL, worth=None, group=None):
    worth = worth or [100.0 - 10 * i for i in range(len(legal))]
    return make_row(name, {"channel": channel, "rate": rate}, legal, worth, group=group)


def fuzzed_case(rng):
    """Rows without some classes in the truth; answers with ties in probability, illegal texts and empty ones."""
    n = int(rng.integers(1, 30))
    usual = rng.choice(LEGAL, size=int(rng.integers(1, 6)), replace=False)
    constant = rng.random() < 0.2
    examples, predictions = [], {}
    for i in range(n):
        legal = sorted(rng.choice(LEGAL, size=int(rng.integers(2, 6)), replace=False))
        true = str(rng.choice([c for c in legal if c in usual] or legal))
        rate = "250" if constant else "0" if rng.random() < 0.02 else str(int(rng.integers(1, 900)))
        worth = (rng.integers(1, 50, len(legal)) * 1.0).tolist()
        examples.append(example(f"r{i}", true, rate, legal, worth))
        weights = rng.integers(1, 4, len(legal)).astype(float)  # small integers: ties
        order = np.argsort(-weights, kind="stable")
        ranking = [(legal[j], math.log(weights[j] / weights.sum())) for j in order]
        answer = {"channel": ranking[0][0], "rate": str(int(rng.integers(0, 900)))}
        if rng.random() < 0.1:
            answer["channel"] = rng.choice(["9999", "", "36 MHz"])
        if rng.random() < 0.1:
            answer["rate"] = rng.choice(["nan", "fast", "594 Mbit/s", "1e999", "١٢"])
        answer = None if rng.random() < 0.05 else answer
        predictions[f"r{i}"] = Prediction(f"r{i}", "", answer, None, {"channel": ranking})
    return examples, predictions


def read_answers(examples, predictions):
    """Read the answers with code that differs from the code under test."""
    channels, rates = [], []
    for e in examples:
        answer = predictions[e.id].answer or {}
        channel, rate = answer.get("channel"), answer.get("rate")
        channels.append(channel if channel in e.choices["channel"] else "INVALID")
        rates.append(int(rate) if rate and rate.isascii() and rate.isdigit() else None)
    return channels, rates


@pytest.mark.parametrize("cases", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_metric_equals_scikit_learns_on_fuzzed_cases(cases):
    rng = np.random.default_rng(0)
    with sklearn.config_context(skip_parameter_validation=True):
        for _ in range(cases):
            examples, predictions = fuzzed_case(rng)
            got = metrics.score(examples, predictions, TASK, resamples=0)["metrics"]
            expected = expected_metrics(examples, predictions)
            assert got.keys() == expected.keys()
            for name, value in expected.items():
                assert got[name]["value"] == pytest.approx(value, rel=1e-12, abs=1e-12), name
            check_per_class(examples, predictions)


def check_per_class(examples, predictions):
    """Precision, recall and F1 of each class against plain counts, and against scikit-learn's report."""
    answered, _ = read_answers(examples, predictions)
    true = [e.target["channel"] for e in examples]
    lines = metrics.per_class(metrics.judge(examples, predictions, TASK)[0])
    assert [line["class"] for line in lines] == sorted({*true, *answered} - {"INVALID"}, key=int)
    theirs = oracle.classification_report(true, answered, output_dict=True, zero_division=0)
    for line in lines:
        label, hits = line["class"], sum(t == a == line["class"] for t, a in zip(true, answered, strict=True))
        said, occurs = answered.count(label), true.count(label)
        assert (line["rows"], line["answers"]) == (occurs, said)
        precision, recall = hits / said if said else 0.0, hits / occurs if occurs else 0.0
        f1 = 2 * hits / (said + occurs)
        assert (line["precision"], line["recall"], line["f1"]) == pytest.approx((precision, recall, f1), abs=1e-12)
        own = theirs[label]
        assert (precision, recall, f1) == pytest.approx((own["precision"], own["recall"], own["f1-score"]), abs=1e-12)


def expected_metrics(examples, predictions):
    channels, rates = read_answers(examples, predictions)
    true = [e.target["channel"] for e in examples]
    n, valid = len(true), [c != "INVALID" for c in channels]
    seen = sorted({*true, *channels} - {"INVALID"})
    rankings = [dict(predictions[e.id].choices["channel"]) for e in examples]
    chances = np.exp([[ranking.get(c, -math.inf) for c in LEGAL] for ranking in rankings])
    best = [max(e.values["channel"]) for e in examples]
    worth = [dict(zip(e.choices["channel"], e.values["channel"], strict=True)) for e in examples]
    regret = [(b - w[c]) / b if ok else 1.0 for b, w, c, ok in zip(best, worth, channels, valid, strict=True)]
    of_truth = np.where(valid, chances[range(n), [LEGAL.index(t) for t in true]], np.finfo(float).eps)
    sure = np.array([chances[i, LEGAL.index(c)] if c in LEGAL else 1.0 for i, c in enumerate(channels)])
    hits = np.array(true) == np.array(channels)
    gaps = [abs((hits[b] - sure[b]).sum()) for k in range(10) if (b := (sure > k / 10) & (sure <= (k + 1) / 10)).any()]
    top3 = [t in [c for c, _ in predictions[e.id].choices["channel"][:3]] for t, e in zip(true, examples, strict=True)]
    found = {
        "accuracy": oracle.accuracy_score(true, channels),
        "macro_f1": oracle.f1_score(true, channels, labels=seen, average="macro", zero_division=0),
        "regret": np.mean(regret),
        "within_5pct": np.mean([r <= 0.05 for r in regret]),
        "invalid_share": 1 - np.mean(valid),
        "log_loss": -np.mean(np.log(of_truth)),
        "ece": sum(gaps) / n,
    }
    if any(len(e.choices["channel"]) > 3 for e in examples):  # else every truth is among the first three
        found["top3_accuracy"] = np.mean(np.array(top3) & valid)
    found = {f"channel/{name}": value for name, value in found.items()}
    rate, answered = [float(e.target["rate"]) for e in examples], [0.0 if r is None else float(r) for r in rates]
    near = np.array([[abs(t - a) <= p * t for p in (0.05, 0.1)] for t, a in zip(rate, answered, strict=True)])
    near &= np.array([r is not None for r in rates])[:, None]
    number = {
        "mae": oracle.mean_absolute_error(rate, answered),
        "rmse": oracle.root_mean_squared_error(rate, answered),
        "median_ae": oracle.median_absolute_error(rate, answered),
        "within_5pct": near[:, 0].mean(),
        "within_10pct": near[:, 1].mean(),
        "invalid_share": np.mean([r is None for r in rates]),
    }
    if 0.0 not in rate:
        number["mape"] = oracle.mean_absolute_percentage_error(rate, answered)
    if n > 1:
        number["r2"] = oracle.r2_score(rate, answered)
    return found | {f"rate/{name}": value for name, value in number.items()}


def test_log_loss_is_scikit_learns():
    rng = np.random.default_rng(1)
    chances = rng.dirichlet(np.ones(5), size=50)
    true = rng.choice(LEGAL, 50)
    examples = [example(f"r{i}", str(true[i]), "1") for i in range(50)]
    rankings = [sorted(zip(LEGAL, np.log(chances[i]).tolist(), strict=True), key=lambda p: -p[1]) for i in range(50)]
    predictions = {
        f"r{i}": Prediction(f"r{i}", "", {"channel": r[0][0], "rate": "1"}, None, {"channel": r})
        for i, r in enumerate(rankings)
    }
    got = metrics.score(examples, predictions, TASK, resamples=0)["metrics"]["channel/log_loss"]["value"]
    order = np.argsort(LEGAL)
    assert got == pytest.approx(oracle.log_loss(true, chances[:, order], labels=sorted(LEGAL)), abs=1e-12)


def test_resampled_statistics_equal_scikit_learns_on_the_rows_drawn():
    """Statistics of resample counts equal scikit-learn's on rows that are repeated that often."""
    rng = np.random.default_rng(2)
    for _ in range(60):
        examples, predictions = fuzzed_case(rng)
        n = len(examples)
        drawn = np.sort(rng.integers(0, n, n))
        counts = np.bincount(drawn, minlength=n)[None, :].astype(float)
        channel, rate = metrics.judge(examples, predictions, TASK)
        true, answered = np.array(channel.truth)[drawn], np.array(channel.answers)[drawn]
        seen = sorted({*true.tolist(), *answered.tolist()} - {row_scores.INVALID})
        expected = oracle.f1_score(true, answered, labels=seen, average="macro", zero_division=0)
        assert metric_table.macro_f1(channel)(counts)[0] == pytest.approx(expected, abs=1e-12)
        truth, answers = np.array(rate.truth)[drawn], np.nan_to_num(np.array(rate.answers))[drawn]
        statistics = {name: metric_table.METRICS[name].statistic(rate) for name in ("rmse", "median_ae", "r2")}
        expected = oracle.root_mean_squared_error(truth, answers)
        assert statistics["rmse"](counts)[0] == pytest.approx(expected, rel=1e-12)
        assert statistics["median_ae"](counts)[0] == pytest.approx(oracle.median_absolute_error(truth, answers))
        if n > 1:
            assert statistics["r2"](counts)[0] == pytest.approx(oracle.r2_score(truth, answers), rel=1e-9, abs=1e-9)


def perfect(examples):
    return {e.id: Prediction(e.id, e.answer, dict(e.target), None, {}) for e in examples}


def test_an_invalid_answer_stays_in_the_denominator():
    examples = [example(f"r{i}", "36", "200") for i in range(4)]
    predictions = perfect(examples)
    predictions["r0"] = Prediction("r0", "no idea", None, "unreadable")
    predictions["r1"] = Prediction("r1", "37 200", {"channel": "37", "rate": "200"})
    result = metrics.score(examples, predictions, TASK)
    assert result["n"] == {"expected": 4, "answered": 2, "invalid": 2}
    values = {name: entry["value"] for name, entry in result["metrics"].items()}
    assert values["channel/accuracy"] == 0.5
    assert values["channel/regret"] == 0.5
    assert values["channel/invalid_share"] == 0.5
    assert values["rate/invalid_share"] == 0.25
    assert values["rate/mae"] == 50.0
    assert values["rate/within_10pct"] == 0.75


def test_an_invalid_number_never_counts_as_near_even_when_the_truth_is_zero():
    examples = [example("r0", "36", "0"), example("r1", "36", "10")]
    predictions = perfect(examples) | {"r0": Prediction("r0", "", {"channel": "36", "rate": "none"})}
    assert metrics.score(examples, predictions, TASK)["metrics"]["rate/within_10pct"]["value"] == 0.5


def test_a_target_that_is_not_answered_is_left_out_and_not_invalid():
    examples = [example("r0", "36", "10"), example("r1", "36", "20")]
    predictions = {e.id: Prediction(e.id, "36", {"channel": "36"}) for e in examples}
    result = metrics.score(examples, predictions, TASK, targets=["channel"])
    assert result["n"]["invalid"] == 0
    assert result["targets"] == ["channel"]
    assert all(name.startswith("channel/") for name in result["metrics"])
    assert metrics.score(examples, predictions, TASK)["n"]["invalid"] == 2


def test_without_probabilities_there_is_no_log_loss_and_without_a_ranking_no_top_k():
    examples = [example("r0", "36", "10"), example("r1", "40", "20")]
    ranked = {
        e.id: Prediction(e.id, "", {"channel": "36", "rate": "1"}, None, {"channel": [("36", None), ("40", None)]})
        for e in examples
    }
    with_ranking = metrics.score(examples, ranked, TASK, top_k=2)["metrics"]
    assert "channel/top5_accuracy" not in metrics.score(examples, ranked, TASK, top_k=5)["metrics"]  # five choices
    assert with_ranking["channel/top2_accuracy"]["value"] == 1.0
    assert "channel/log_loss" not in with_ranking and "channel/ece" not in with_ranking
    assert not any("top" in name for name in metrics.score(examples, perfect(examples), TASK)["metrics"])


def test_intervals_hold_their_values_and_every_entry_says_its_unit_and_direction():
    rng = np.random.default_rng(3)
    examples, predictions = [], {}
    while len(examples) < 200:
        more, answers = fuzzed_case(rng)
        for e in more:
            prediction = answers[e.id]
            e.id = e.group = f"x{len(examples)}"
            e.target["rate"] = str(int(e.target["rate"]) + 1)  # no zero, so that MAPE exists
            predictions[e.id] = Prediction(e.id, "", prediction.answer, None, prediction.choices)
            examples.append(e)
    result = metrics.score(examples, predictions, TASK)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    for name, entry in result["metrics"].items():
        assert entry["low"] <= entry["value"] <= entry["high"] or name == "channel/ece", name  # ECE is biased upwards
        assert entry["n"] == len(examples)
    assert result["metrics"]["rate/mae"]["unit"] == "Mbit/s"
    assert result["metrics"]["channel/regret"]["higher_is_better"] is False
    assert result["metrics"]["channel/top3_accuracy"]["higher_is_better"] is True
    assert metrics.score(examples, predictions, TASK) == result


def test_rows_of_one_group_widen_the_intervals():
    worth = {"36": [9.0, 3.0, 2.0, 1.0, 1.0], "40": [3.0, 9.0, 2.0, 1.0, 1.0]}
    best = ["36" if i % 8 < 4 else "40" for i in range(80)]
    alone = [example(f"r{i}", best[i], "100", worth=worth[best[i]]) for i in range(80)]
    grouped = [example(f"r{i}", best[i], "100", worth=worth[best[i]], group=f"g{i // 4}") for i in range(80)]
    predictions = {e.id: Prediction(e.id, "", {"channel": "36", "rate": "100"}) for e in alone}
    first, second = (metrics.score(rows_, predictions, TASK) for rows_ in (alone, grouped))
    assert (first["groups"], second["groups"]) == (80, 20)
    for name in ("channel/accuracy", "channel/regret"):
        width = [r["metrics"][name]["high"] - r["metrics"][name]["low"] for r in (first, second)]
        assert width[1] > 1.5 * width[0]


def test_hashes_change_with_ids_prompts_and_labels_each_and_not_with_the_order():
    base = [example("a", "36", "1"), example("b", "40", "2")]
    assert row_scores.hash_rows(base) == row_scores.hash_rows(base[::-1])

    def changed(other):
        return {part for part, text in row_scores.hash_rows(other).items() if text != row_scores.hash_rows(base)[part]}

    assert changed([base[0], example("c", "40", "2")]) == {"data", "prompts", "labels"}
    assert changed([base[0], example("b", "40", "3")]) == {"labels"}
    reworded = example("b", "40", "2")
    reworded.prompt = "another"
    assert changed([base[0], reworded]) == {"prompts"}


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        ([], "no rows to score"),
        ([example("a", "36", "fast")], "row 'a': the target 'rate' = 'fast' is not a number"),
        ([example("a", "36", "1", worth=[0.0] * 5)], "row 'a': the best utility"),
    ],
)
def test_rows_that_cannot_be_scored_are_one_clear_error(examples, said):
    with pytest.raises(UserError, match=said):
        metrics.score(examples, perfect(examples), TASK)


@pytest.mark.parametrize(
    ("text", "value"),
    [("594", 594.0), ("-3.5", -3.5), ("1e3", 1000.0), (".5", 0.5), ("5.", 5.0), ("nan", None), ("inf", None),
     ("1e999", None), ("1_000", None), ("007", None), ("", None), (None, None), (" 5", None), ("0x10", None),
     ("١٢", None)],
)  # fmt: skip
def test_read_number_takes_plain_finite_numbers_only(text, value):
    assert row_scores.read_number(text) == value if value is not None else math.isnan(row_scores.read_number(text))


def test_write_run_writes_rows_whose_means_are_the_metrics(tmp_path):
    examples, predictions = fuzzed_case(np.random.default_rng(5))
    result = metrics.write_run(tmp_path / "run", examples, predictions, TASK, model="m", role="tuned")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == result
    with open(tmp_path / "run" / "row_scores.csv", newline="") as handle:
        table = list(csv.DictReader(handle))
    assert [line["id"] for line in table] == [e.id for e in examples]
    for name in ("channel/accuracy", "channel/regret", "channel/log_loss", "rate/mae", "rate/within_10pct"):
        mean = np.mean([float(line[name]) for line in table])
        assert mean == pytest.approx(result["metrics"][name]["value"], rel=1e-10)
    with open(tmp_path / "run" / "per_class_channel.csv", newline="") as handle:
        per_class = list(csv.DictReader(handle))
    assert sum(int(line["rows"]) for line in per_class) == len(examples)
    assert result["metrics"]["channel/macro_f1"]["value"] == pytest.approx(np.mean([float(r["f1"]) for r in per_class]))
    samples = json.loads((tmp_path / "run" / "samples.json").read_text())["samples"]
    assert [s["id"] for s in samples] == sorted(e.id for e in examples)[:3]


@pytest.mark.parametrize("n", range(2, 21))
def test_a_confidence_keeps_its_bin_when_it_is_written_and_read_again(n):
    exact, logged = 1 / n, float(np.exp(np.log(1 / n)))
    read = float(f"{logged:.12g}")
    assert len(set(metric_table.confidence_bins(np.array([exact, logged, read])).tolist())) == 1
