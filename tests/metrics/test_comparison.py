"""Comparisons: only on the same rows, with the right test for the data, a reference and a gate."""

import csv

import convert_csv_to_jsonl
import evaluate_model
import numpy as np
import pytest
import run_baselines
from linklab.cli import UserError
from linklab.manifest import write_manifest
from linklab.metrics import comparison, intervals, metrics
from linklab.metrics.predictions import Prediction
from linklab.reports import tables
from linklab.reports.verdict import make_verdict
from scored_rows import TASK, make_row


def make_examples(n=60, rows_per_group=1):
    rng = np.random.default_rng(0)
    return [
        make_row(f"r{i:03d}", {"channel": "36", "rate": str(int(rng.integers(50, 500)))}, ["36", "40"], [10.0, 6.0],
                 group=f"g{i // rows_per_group}")
        for i in range(n)
    ]  # fmt: skip


def write_run(folder, examples, right, role="baseline", off=10, targets=None, **more):
    """Write a run that is right on the rows with numbers in `right`, and off by `off` Mbit/s on all rows."""
    predictions = {
        e.id: Prediction(
            e.id, "", {"channel": "36" if i in right else "40", "rate": str(int(e.target["rate"]) + off)}
        )
        for i, e in enumerate(examples)
    }  # fmt: skip
    options = {"model": folder.name, "role": role, "targets": targets, "resamples": 50, **more}
    metrics.write_run(folder, examples, predictions, TASK, **options)
    return folder


@pytest.fixture
def runs(tmp_path):
    examples = make_examples()
    write_run(tmp_path / "tuned", examples, range(48), "tuned", off=5)
    write_run(tmp_path / "trees", examples, range(10, 40), off=20)
    write_run(tmp_path / "rule", examples, range(12), targets=["channel"])
    write_run(tmp_path / "ceiling", examples, range(58), "ceiling", off=0)
    return comparison.read_runs([tmp_path])


def test_a_folder_of_runs_gives_the_runs_inside_it(runs, tmp_path):
    assert [run.name for run in runs] == ["ceiling", "rule", "trees", "tuned"]
    assert comparison.read_run(tmp_path / "tuned").columns["channel/accuracy"].sum() == 48
    assert runs[0].ids == sorted(runs[0].ids)


def test_the_reference_is_the_best_baseline_unless_named(runs):
    tuned = comparison.find_run(runs, "tuned")
    assert comparison.primary_metric(runs) == "channel/accuracy"
    assert comparison.choose_reference(runs, "channel/accuracy", None, tuned).name == "trees"
    assert comparison.choose_reference(runs, "channel/accuracy", "rule", tuned).name == "rule"
    with pytest.raises(UserError, match="no run called 'tree'; the runs are: ceiling, rule, trees, tuned"):
        comparison.choose_reference(runs, "channel/accuracy", "tree", tuned)
    with pytest.raises(UserError, match="has no 'rate/mae'"):
        comparison.choose_reference(runs, "rate/mae", "rule", tuned)


def test_a_lower_error_is_better_and_a_higher_accuracy_too(runs):
    assert comparison.best_run(runs, "rate/mae").name == "ceiling"
    assert comparison.best_run(runs, "channel/accuracy", "baseline").name == "trees"
    assert comparison.best_run(runs, "rate/rmse", "formula") is None


def test_runs_that_are_right_on_the_same_rows_are_not_reported_as_equal(tmp_path):
    examples = make_examples(12)
    for name in ("tuned", "trees"):
        write_run(tmp_path / name, examples, range(12), "tuned" if name == "tuned" else "baseline", off=5)
    tuned, trees = (comparison.find_run(comparison.read_runs([tmp_path]), name) for name in ("tuned", "trees"))
    found = {r.metric: r for r in comparison.compare_to([tuned, trees], trees)}
    accuracy = found["channel/accuracy"]
    limit = 1.959964**2 / (12 + 1.959964**2)  # 24 points
    assert (accuracy.difference, accuracy.p, accuracy.outcome) == (0, 1, "no difference shown")
    assert (accuracy.low, accuracy.high) == pytest.approx((-limit, limit))
    assert accuracy.detectable == pytest.approx(limit * (1.959964 + 0.841621) / 1.959964)
    assert np.isnan(found["rate/mae"].detectable)  # equal errors on every row do not show how they vary
    experiment = tables.Experiment("", [tuned, trees], "channel/accuracy", trees, list(found.values()), tuned)
    said = "(difference 0.0 points [−24.2, +24.2]; p = 1.000; 12 rows can only show 34.7 points or more)"
    assert said in str(make_verdict(experiment))


def test_differences_are_paired_and_tested(runs):
    reference = comparison.find_run(runs, "trees")
    found = {(r.run, r.metric): r for r in comparison.compare_to(runs, reference)}
    accuracy = found["tuned", "channel/accuracy"]
    assert accuracy.difference == pytest.approx(18 / 60)
    assert accuracy.discordant == (18, 0)
    assert (accuracy.test, accuracy.p) == ("McNemar", intervals.mcnemar_p(18, 0))
    assert accuracy.low < 18 / 60 < accuracy.high
    assert accuracy.outcome == "better"
    error = found["tuned", "rate/mae"]
    assert error.difference == -15 and np.isnan([error.low, error.high]).all()  # the same on every row
    assert (error.test, error.outcome) == ("sign flip", "better")
    assert found["rule", "channel/accuracy"].outcome == "worse"
    assert ("rule", "rate/mae") not in found
    assert found["ceiling", "channel/accuracy"].p is None  # not a predictor, so not in the family of tests


def test_holm_runs_over_every_test_made(runs):
    found = comparison.compare_to(runs, comparison.find_run(runs, "trees"))
    tested = [r for r in found if r.p is not None]
    assert sorted((r.run, r.metric.split("/")[1]) for r in tested) == [
        ("rule", "accuracy"), ("rule", "regret"), ("tuned", "accuracy"), ("tuned", "mae"), ("tuned", "regret")
    ]  # fmt: skip
    assert [r.p_holm for r in tested] == intervals.holm([r.p for r in tested])


def test_rows_that_share_a_group_are_tested_by_group(tmp_path):
    examples = make_examples(rows_per_group=6)
    write_run(tmp_path / "a", examples, range(60))
    write_run(tmp_path / "b", examples, range(48))
    a, b = comparison.read_runs([tmp_path])
    result = next(r for r in comparison.compare_to([a], b) if r.metric == "channel/accuracy")
    assert result.test == "sign flip"
    assert result.p == pytest.approx(0.5, abs=0.03)  # two groups of ten differ: four sign patterns, two as large
    assert result.p_mcnemar == intervals.mcnemar_p(12, 0) < 0.001  # twelve rows, counted as if they were independent


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "other"}, "different rows"),
        ({"target": {"channel": "40", "rate": "7"}}, "different true answers"),
        ({"prompt": "reworded"}, "different prompts"),
    ],
)
def test_runs_on_other_rows_are_rejected(tmp_path, change, said):
    examples = make_examples(5)
    write_run(tmp_path / "a", examples, range(5))
    for name, value in change.items():
        setattr(examples[2], name, value)
    write_run(tmp_path / "b", examples, range(5))
    runs = comparison.read_runs([tmp_path])
    with pytest.raises(UserError, match=said):
        comparison.check_same_rows(runs)
    if said == "different prompts":
        comparison.check_same_rows(runs, allow_different_prompts=True)
    else:
        with pytest.raises(UserError, match=said):
            comparison.check_same_rows(runs, allow_different_prompts=True)


def test_the_error_names_every_option_that_decides_rows_labels_and_prompts():
    """Every option of a scoring script about rows must be named, also options that are added later.

    The form of an answer changes neither its values nor the prompt, and the base model neither rows nor prompts.
    """
    told = set()
    for script in (evaluate_model, run_baselines):
        actions = script.build_parser()._option_string_actions
        shared = set(convert_csv_to_jsonl.build_parser()._option_string_actions) & set(actions)
        told |= shared - {"-h", "--help", "--version", "--debug", "--config", "--out-dir", "--force", "--skip-finished",
                          "--base-model", "--answer-format"}  # fmt: skip
    told |= {"--data", "--split", "--max-rows"}
    named = {option for _, options in comparison.DECIDED_BY.values() for option in options}
    assert told == named


def test_the_error_names_the_options_that_differ_between_the_two_runs(tmp_path):
    for name, n in (("a", 5), ("b", 4)):
        write_run(tmp_path / name, make_examples(n), range(n))
        words = ["--data", "x", f"--max-rows={n}", "--force"] if name == "a" else ["--data", "x", "--split", "test"]
        write_manifest(tmp_path / name, script="x.py", argv=words, seed=None, inputs={}, outputs={})
    runs = comparison.read_runs([tmp_path])
    with pytest.raises(UserError) as caught:
        comparison.check_same_rows(runs)
    assert "have different rows (--split: not given and test; --max-rows: 5 and not given); score" in str(caught.value)


def test_the_gate_opens_for_a_real_difference_in_the_right_direction_only(runs):
    tuned, trees = comparison.find_run(runs, "tuned"), comparison.find_run(runs, "trees")
    assert comparison.gate(tuned, trees, "channel/accuracy")[0] is True
    assert comparison.gate(trees, tuned, "channel/accuracy")[0] is False
    with pytest.raises(UserError, match="the candidate itself"):
        comparison.gate(tuned, tuned, "channel/accuracy")
    assert comparison.gate(tuned, trees, "rate/mae")[0] is True
    with pytest.raises(UserError, match="run 'rule' has no 'rate/mae'"):
        comparison.gate(tuned, comparison.find_run(runs, "rule"), "rate/mae")


def test_a_chance_difference_does_not_open_the_gate(tmp_path):
    examples = make_examples()
    write_run(tmp_path / "a", examples, range(31))
    write_run(tmp_path / "b", examples, range(2, 30))
    a, b = comparison.read_runs([tmp_path])
    passed, result = comparison.gate(a, b, "channel/accuracy")
    assert result.difference > 0
    assert passed is False


def test_two_runs_of_one_name_and_a_lost_row_are_one_clear_error(tmp_path):
    folder = write_run(tmp_path / "a", make_examples(5), range(5))
    with pytest.raises(UserError, match="two runs are called 'a'"):
        comparison.read_runs([tmp_path, folder])
    rows = (folder / "row_scores.csv").read_text().splitlines(keepends=True)
    (folder / "row_scores.csv").write_text("".join(rows[:-1]))
    with pytest.raises(UserError, match="4 rows, but metrics.json says 5"):
        comparison.read_runs([folder])


def test_comparison_csv_has_a_line_for_every_run_and_metric(runs, tmp_path):
    differences = comparison.compare_to(runs, comparison.find_run(runs, "trees"))
    lines = comparison.write_comparison(tmp_path / "comparison.csv", runs, differences)
    table = list(csv.DictReader((tmp_path / "comparison.csv").read_text().splitlines()))
    assert lines == len(table) == sum(len(run.metrics["metrics"]) for run in runs)
    line = next(line for line in table if (line["run"], line["metric"]) == ("tuned", "channel/accuracy"))
    assert float(line["value"]) == 0.8
    assert float(line["difference"]) == pytest.approx(0.3)
    assert (line["reference"], line["test"], line["verdict"]) == ("trees", "McNemar", "better")
