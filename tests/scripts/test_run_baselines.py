"""run_baselines.py on links and on any CSV: the order of the scores, the files, the errors."""

import csv
import json

import convert_csv_to_jsonl
import pytest
import run_baselines
from linklab.links.links import LINK_SCHEMA
from linklab.manifest import write_manifest
from linklab.metrics import comparison
from mixed_table import write_table

CHANNEL, RATE = "recommended_channel_mhz", "expected_throughput_mbps"


@pytest.fixture(scope="session")
def links_csv(tmp_path_factory):
    """600 generated links."""
    from linklab.links import row_writer
    from linklab.radio import labels

    text, starts = row_writer.format_rows(labels.make_block(0, 0))
    lines = row_writer.put_ids(text, starts, 1).splitlines(keepends=True)[:600]
    path = tmp_path_factory.mktemp("links") / "links.csv"
    path.write_bytes(b"".join([row_writer.HEADER, *lines]))
    return path


@pytest.fixture(scope="session")
def ladder(links_csv, tmp_path_factory):
    """Every baseline except the slowest, on the 480 or so training rows, because so few test rows vary too much."""
    out = tmp_path_factory.mktemp("ladder") / "out"
    names = "random,most_frequent,mean_throughput,frequency_by_group,least_noise,least_busy,most_snr,snr_and_busy"
    words = ["--csv", str(links_csv), "--out-dir", str(out), "--split", "train", "--preset", "standard"]
    assert run_baselines.main([*words, "--only", f"{names},formula,bayes_ceiling"]) == 0
    return out


def value(folder, name, metric):
    return json.loads((folder / name / "metrics.json").read_text())["metrics"][metric]["value"]


def test_baselines_reach_the_scores_that_the_link_model_expects(ladder):
    """Expected figures come from the link model's table; the margin is the uncertainty of 480 grouped rows."""
    expected = {"random": 0.19, "most_frequent": 0.42, "least_noise": 0.23, "most_snr": 0.54, "snr_and_busy": 0.86,
                "formula": 0.88, "bayes_ceiling": 0.88}  # fmt: skip
    for name, accuracy in expected.items():
        assert value(ladder, name, f"{CHANNEL}/accuracy") == pytest.approx(accuracy, abs=0.07), name
    assert value(ladder, "formula", f"{CHANNEL}/regret") < value(ladder, "snr_and_busy", f"{CHANNEL}/regret") < 0.03
    by_error = ("formula", "frequency_by_group", "most_frequent", "random")
    errors = [value(ladder, name, f"{RATE}/mae") for name in by_error]
    assert errors == sorted(errors)


def test_every_folder_is_a_run_on_the_same_rows(ladder):
    runs = comparison.read_runs([ladder])
    comparison.check_same_rows(runs)
    roles = {run.name: run.role for run in runs}
    assert (roles["formula"], roles["bayes_ceiling"], roles["random"]) == ("formula", "ceiling", "baseline")
    by_name = {run.name: run for run in runs}
    assert by_name["mean_throughput"].metrics["targets"] == [RATE]
    assert by_name["least_noise"].metrics["targets"] == [CHANNEL]
    assert all(run.metrics["n"]["invalid"] == 0 for run in runs)


def test_the_ceilings_probabilities_are_calibrated(ladder):
    """It knows the noise, so its mean probability is its accuracy (.889 and .883 on 10,000 rows)."""
    with open(ladder / "bayes_ceiling" / "row_scores.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    sure = sum(float(row[f"{CHANNEL}/confidence"]) for row in rows) / len(rows)
    right = sum(float(row[f"{CHANNEL}/accuracy"]) for row in rows) / len(rows)
    assert sure == pytest.approx(right, abs=0.04)


def test_summary_and_manifest_name_everything(ladder):
    with open(ladder / "summary.csv", newline="") as handle:
        lines = list(csv.DictReader(handle))
    assert {line["baseline"] for line in lines} == {path.name for path in ladder.iterdir() if path.is_dir()}
    assert lines[0]["baseline"] in ("bayes_ceiling", "formula")
    text = (ladder / "summary.md").read_text()
    assert "| least_busy | " in text and "in brackets" in text
    listed = {entry["path"] for entry in json.loads((ladder / "manifest.json").read_text())["outputs"]}
    found = {p.relative_to(ladder).as_posix() for p in ladder.rglob("*") if p.is_file()} - {"manifest.json"}
    assert listed == found


def test_hidden_columns_do_not_reach_the_rules(links_csv, tmp_path):
    """Scramble the hidden columns of the test rows: no answer may change."""
    rows = list(csv.DictReader(links_csv.read_text().splitlines()))
    hidden = {column.name for column in LINK_SCHEMA.by_role("hidden")} - {"channel_throughput_mbps"}
    for row in rows:
        for name in hidden:
            row[name] = "[0.0]" if row[name].startswith("[") else "0"
    scrambled = tmp_path / "links.csv"
    with open(scrambled, "w", newline="") as handle:
        writer = csv.DictWriter(handle, LINK_SCHEMA.names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    names = "snr_and_busy,formula,bayes_ceiling,frequency_by_group,boosting_candidates"
    for path, out in ((links_csv, tmp_path / "a"), (scrambled, tmp_path / "b")):
        words = ["--csv", str(path), "--out-dir", str(out), "--only", names, "--max-train-rows", "150"]
        assert run_baselines.main(words) == 0
    for name in names.split(","):
        answers = [(tmp_path / side / name / "predictions.jsonl").read_bytes() for side in "ab"]
        assert answers[0] == answers[1], name


def test_any_csv_works_and_the_same_seed_gives_the_same_bytes(tmp_path):
    table = write_table(tmp_path / "table.csv")
    words = ["--csv", str(table), "--target-field", "kind,price", "--max-rows", "15", "--max-train-rows", "200"]
    for out in ("a", "b"):
        assert run_baselines.main([*words, "--group-by", "colour", "--out-dir", str(tmp_path / out)]) == 0
    names = sorted(path.name for path in (tmp_path / "a").iterdir() if path.is_dir())
    assert names == ["boosting_flat", "frequency_by_group", "mean", "most_frequent", "random"]
    for name in names:
        lines = (tmp_path / "a" / name / "predictions.jsonl").read_bytes()
        assert lines == (tmp_path / "b" / name / "predictions.jsonl").read_bytes()
        assert lines.count(b"\n") == 15
    assert value(tmp_path / "a", "boosting_flat", "price/mae") < value(tmp_path / "a", "mean", "price/mae") / 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target-field", "kinds"], "no column 'kinds'"),
        (
            ["--target-field", "kind", "--group-by", "price,kind"],
            "--group-by kind: a target column the prompt does not show",
        ),
        (["--target-field", "kind", "--only", "formula"], "no such baseline for this task; available: random"),
        (["--target-field", "kind", "--only", "mean"], "--only mean"),
    ],
)
def test_an_impossible_command_is_one_clear_line(tmp_path, capsys, words, said):
    table = write_table(tmp_path / "table.csv")
    assert run_baselines.main(["--csv", str(table), "--out-dir", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [[], ["--ask", "row"]])  # choice by choice and whole rows
def test_conversations_give_the_same_answers_as_the_csv_they_came_from(links_csv, tmp_path, options):
    jsonl, names = tmp_path / "jsonl", "snr_and_busy,formula,boosting_candidates,boosting_pointwise,most_frequent"
    assert convert_csv_to_jsonl.main(["--csv", str(links_csv), "--out-dir", str(jsonl), *options]) == 0
    words = ["--only", names, "--max-rows", "40", "--max-train-rows", "150", "--out-dir"]
    assert run_baselines.main(["--data", str(jsonl), *words, str(tmp_path / "a")]) == 0
    assert run_baselines.main(["--csv", str(links_csv), *options, *words, str(tmp_path / "b")]) == 0
    for name in names.split(","):
        answers = [(tmp_path / side / name / "predictions.jsonl").read_bytes() for side in "ab"]
        assert answers[0] == answers[1], name
    runs = comparison.read_runs([tmp_path / "a" / "formula", tmp_path / "b" / "snr_and_busy"])
    comparison.check_same_rows(runs)


def test_conversations_of_any_csv_need_no_option_again(tmp_path, capsys):
    table, jsonl = write_table(tmp_path / "table.csv"), tmp_path / "jsonl"
    options = ["--target-field", "kind,price", "--split-seed", "3"]
    assert convert_csv_to_jsonl.main(["--csv", str(table), *options, "--out-dir", str(jsonl)]) == 0
    assert run_baselines.main(["--data", str(jsonl), "--out-dir", str(tmp_path / "a")]) == 0
    assert run_baselines.main(["--csv", str(table), *options, "--out-dir", str(tmp_path / "b")]) == 0
    for name in ("boosting_flat", "most_frequent", "mean"):
        answers = [(tmp_path / side / name / "predictions.jsonl").read_bytes() for side in "ab"]
        assert answers[0] == answers[1], name
    words = ["--data", str(jsonl), "--target-field", "kind", "--out-dir", str(tmp_path / "c")]
    assert run_baselines.main(words) == 2
    assert "--target-field applies only to --csv" in capsys.readouterr().err
    (jsonl / "cells.csv").unlink()
    assert run_baselines.main(["--data", str(jsonl), "--out-dir", str(tmp_path / "c")]) == 2
    assert "cells.csv: no such file" in capsys.readouterr().err


def test_the_noise_of_generated_links_is_known_to_their_conversations(links_csv, tmp_path):
    (tmp_path / "links.csv").write_bytes(links_csv.read_bytes())
    write_manifest(tmp_path, script="x.py", argv=[], seed=1, inputs={}, outputs={}, extra={"preset": "hard"})
    convert_csv_to_jsonl.main(["--csv", str(tmp_path / "links.csv"), "--out-dir", str(tmp_path / "jsonl")])
    words = ["--data", str(tmp_path / "jsonl"), "--only", "random", "--out-dir", str(tmp_path / "out")]
    assert run_baselines.main(words) == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["extra"]["preset"] == "hard"
