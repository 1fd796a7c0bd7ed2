"""--answer-format json from the table to the answers: given once, then stored in the folder and the model."""

import csv
import json

import convert_csv_to_jsonl
import evaluate_model
import finetune_gemma_from_csv
import predict
import pytest
import run_baselines


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A table with a class, a number and an input, its folder with JSON answers, and a model trained for one step."""
    folder = tmp_path_factory.mktemp("json")
    rows = [f"{('fir', 'red oak')[i % 3 == 0]},{i % 40}.5,s{i % 30}" for i in range(90)]
    (folder / "trees.csv").write_text("\n".join(["kind,height,side", *rows]) + "\n")
    words = ["--target-field", "kind,height", "--answer-format", "json"]
    data = ["--data", str(folder / "set")]
    assert (
        convert_csv_to_jsonl.main(["--csv", str(folder / "trees.csv"), *words, "--out-dir", str(folder / "set")]) == 0
    )
    short = ["--max-steps", "1", "--validation-rows", "2", "--base-model", "tiny"]
    assert finetune_gemma_from_csv.main([*data, *short, "--out-dir", str(folder / "run")]) == 0
    return folder


def test_the_folder_holds_json_answers_and_so_do_the_models_predictions(trained, tmp_path):
    card = (trained / "set" / "README.md").read_text()
    assert "the answer holds `kind` (class), `height` (number) as a JSON object" in card
    for path in (trained / "set").glob("train-*.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            answer = json.loads(line["messages"][1]["content"])
            assert answer == {"kind": line["target"]["kind"], "height": float(line["target"]["height"])}
    asked = ["--model", str(trained / "run" / "model"), "--data", str(trained / "set"), "--max-rows", "4"]
    assert evaluate_model.main([*asked, "--out-dir", str(tmp_path / "exact")]) == 0
    found = [json.loads(line) for line in (tmp_path / "exact" / "predictions.jsonl").read_text().splitlines()]
    for one in found:
        value = json.loads(one["raw_text"])
        assert value["kind"] in ("fir", "red oak") and isinstance(value["height"], int | float)
        assert one["answer"] == {"kind": value["kind"], "height": one["answer"]["height"]} and one["error"] is None
        assert float(one["answer"]["height"]) == value["height"]
    free = [*asked, "--free", "--max-new-tokens", "4", "--out-dir", str(tmp_path / "free")]
    assert evaluate_model.main(free) == 0
    written = [json.loads(line) for line in (tmp_path / "free" / "predictions.jsonl").read_text().splitlines()]
    assert [one["error"] for one in written] == ["not a JSON object"] * len(found)  # it has learnt nothing
    assert run_baselines.main(["--data", str(trained / "set"), "--out-dir", str(tmp_path / "rules")]) == 0
    rule = (tmp_path / "rules" / "most_frequent" / "predictions.jsonl").read_text().splitlines()[0]
    assert json.loads(json.loads(rule)["raw_text"])["kind"] == "fir"


def test_later_scripts_take_the_answer_format_from_the_model_and_refuse_another(trained, tmp_path, capsys):
    csv_file, model = str(trained / "trees.csv"), str(trained / "run" / "model")
    assert predict.main(["--model", model, "--csv", csv_file, "--max-rows", "2", "--out", str(tmp_path / "a.csv")]) == 0
    answers = list(csv.DictReader((tmp_path / "a.csv").open(newline="")))
    assert [row["error"] for row in answers] == ["", ""] and all(row["kind"] in ("fir", "red oak") for row in answers)
    assert all(float(row["height"]) == float(row["height"]) for row in answers)
    asked = ["--model", model, "--csv", csv_file, "--max-rows", "2"]
    assert evaluate_model.main([*asked, "--out-dir", str(tmp_path / "same")]) == 0
    capsys.readouterr()
    assert evaluate_model.main([*asked, "--answer-format", "plain", "--out-dir", str(tmp_path / "other")]) == 2
    said = capsys.readouterr().err
    assert "asks with --answer-format plain, but the model was trained with --answer-format json" in said
