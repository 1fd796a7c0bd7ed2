"""evaluate_model.py: answers of a model and of a file are scored alike; every row is answered exactly once."""

import json

import evaluate_model
import pytest
from linklab.inference import row_answers
from linklab.tasks.examples import read_examples
from linklab.tasks.task import make_task


def evaluate(folder, *more):
    """Score on the 40 or so test rows; returns (exit code, metrics or None)."""
    code = evaluate_model.main([*more, "--target-field", "kind", "--out-dir", str(folder)])
    path = folder / "metrics.json"
    return code, json.loads(path.read_text()) if path.exists() else None


@pytest.fixture
def data(taught_rule):
    return ["--csv", str(taught_rule["table"])]


@pytest.fixture
def lines(taught_rule):
    return (taught_rule["evaluation"] / "predictions.jsonl").read_text().splitlines()


def test_a_model_and_the_predictions_it_wrote_get_the_same_metrics(taught_rule, data, tmp_path):
    written = taught_rule["evaluation"] / "predictions.jsonl"
    code, again = evaluate(tmp_path / "again", "--predictions", str(written), *data)
    assert code == 0
    first = json.loads((taught_rule["evaluation"] / "metrics.json").read_text())
    assert again["metrics"].keys() == first["metrics"].keys()
    for name, entry in first["metrics"].items():
        # Log-probabilities are written with six decimals.
        assert again["metrics"][name] == pytest.approx(entry, abs=1e-5), name
    assert (again["n"], again["hashes"], again["split"]) == (first["n"], first["hashes"], "test")


def test_metrics_are_those_counted_by_hand_from_the_predictions(taught_rule, lines):
    import csv

    with open(taught_rule["table"]) as handle:
        truth = {f"row-{number}": row["kind"] for number, row in enumerate(csv.DictReader(handle), start=1)}
    answers = {value["id"]: value["answer"]["kind"] for value in map(json.loads, lines)}
    metrics = json.loads((taught_rule["evaluation"] / "metrics.json").read_text())
    assert metrics["n"] == {"expected": len(answers), "answered": len(answers), "invalid": 0} and len(answers) > 20
    right = sum(truth[name] == answer for name, answer in answers.items())
    assert metrics["metrics"]["kind/accuracy"]["value"] == pytest.approx(right / len(answers))


def test_predictions_contain_no_true_answer_and_rank_every_legal_answer(lines):
    for line in lines:
        value = json.loads(line)
        assert value.keys() == {"id", "raw_text", "answer", "error", "choices"}
        assert {text for text, _ in value["choices"]["kind"]} == {"fish", "insect", "mammal"}
        assert value["answer"]["kind"] == value["choices"]["kind"][0][0] == value["raw_text"]


def test_a_trained_folder_is_tuned_a_base_model_is_base_and_other_predictions_are_a_baseline(
    taught_rule, data, tmp_path
):
    roles = {
        ("--model", str(taught_rule["model"])): ("run", "tuned"),
        ("--model", "tiny"): ("tiny", "base"),
        ("--predictions", str(taught_rule["evaluation"] / "predictions.jsonl")): ("evaluation", "baseline"),
    }
    for i, (judged, (name, role)) in enumerate(roles.items()):
        code, found = evaluate(tmp_path / str(i), *judged, *data, "--max-rows", "6")
        if judged[0] == "--predictions":  # predictions answer every test row, not only six
            assert (code, found) == (2, None)
            code, found = evaluate(tmp_path / str(i), *judged, *data)
        assert code == 0
        assert (found["model"], found["role"]) == (name, role)
    code, found = evaluate(
        tmp_path / "asked", "--model", "tiny", *data, "--role", "tuned", "--name", "mine", "--max-rows", "6"
    )
    assert (code, found["model"], found["role"]) == (0, "mine", "tuned")


def test_a_merged_folder_is_tuned_too(tmp_path):
    """The roles of a comparison must not depend on how a model was saved."""
    import finetune_gemma_from_csv
    from rule_table import write_rule_table

    table = write_rule_table(tmp_path / "animals.csv", n=60)
    command = ["--csv", str(table), "--target-field", "kind", "--base-model", "tiny", "--max-steps", "1", "--merge"]
    assert finetune_gemma_from_csv.main([*command, "--out-dir", str(tmp_path / "run")]) == 0
    for kind in ("model", "merged"):
        assert evaluate_model.role_of(str(tmp_path / "run" / kind)) == "tuned"
        assert evaluate_model.describe_model(str(tmp_path / "run" / kind), False) == "run"


def test_a_trained_model_beats_the_untrained_one_and_free_writing_has_no_ranking(taught_rule, data, tmp_path):
    _, base = evaluate(tmp_path / "base", "--model", "tiny", *data)
    code, free = evaluate(tmp_path / "free", "--model", str(taught_rule["model"]), "--free", *data)
    assert code == 0
    held = json.loads((taught_rule["evaluation"] / "metrics.json").read_text())
    assert base["metrics"]["kind/accuracy"]["value"] < 0.7 < held["metrics"]["kind/accuracy"]["value"]
    # It has learnt to write: its free answers equal the restricted ones, but have no probabilities.
    assert free["metrics"]["kind/accuracy"]["value"] >= 0.9
    assert "kind/log_loss" in held["metrics"] and "kind/log_loss" not in free["metrics"]
    assert free["model"] == "run (free)"


def test_how_classes_were_ranked_is_recorded(data, tmp_path):
    few = [*data, "--max-rows", "6"]
    for words, rank_by in ([], "written"), (["--rank-by", "summed"], "summed"):
        code, found = evaluate(tmp_path / rank_by, "--model", "tiny", *few, *words)
        assert code == 0
        assert found["asked"] == {"model": row_answers.hash_model_name("tiny"), "free": False, "rank_by": rank_by}
        assert {"written": "what the model would write", "summed": "summed probability"}[rank_by] in found[
            "description"
        ]


def test_an_untrained_model_that_writes_freely_is_invalid_and_stays_in_the_denominator(taught_rule, data, tmp_path):
    code, found = evaluate(tmp_path / "free", "--model", "tiny", "--free", *data, "--max-rows", "5")
    assert code == 0
    assert found["n"] == {"expected": 5, "answered": 0, "invalid": 5}
    assert found["metrics"]["kind/accuracy"]["value"] == 0 and found["metrics"]["kind/accuracy"]["n"] == 5
    assert found["metrics"]["kind/invalid_share"]["value"] == 1


@pytest.mark.parametrize(
    "words, said",
    [
        (["--model", "tiny", "--free", "--numbers", "median"], "not allowed with argument"),
        (["--model", "tiny", "--free", "--numbers", "greedy"], "not allowed with argument"),
        (["--predictions", "p.jsonl", "--free"], "--free: cannot be combined with --predictions"),
        (["--predictions", "p.jsonl", "--numbers", "greedy"], "--numbers: cannot be combined with --predictions"),
        (["--predictions", "p.jsonl", "--batch-tokens", "9"], "--batch-tokens: cannot be combined with --predictions"),
        (["--model", "tiny", "--free", "--rank-by", "written"], "--rank-by: --free ranks no choices; leave it out"),
        (["--predictions", "p.jsonl", "--general-questions"], "--general-questions: cannot be combined"),
        (["--predictions", "p.jsonl", "--bf16"], "--bf16: cannot be combined with --predictions"),
    ],
)
def test_an_option_without_effect_is_refused(data, tmp_path, capfd, words, said):
    code, _ = evaluate(tmp_path / "out", *words, *data)
    assert code == 2 and said in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("written", ['"nan"', '"inf"', '"fast"', '"12 EUR"', '""', "null"])
def test_an_answer_that_is_not_a_number_counts_as_invalid(tmp_path, written):
    """NaN must never reach a mean, and skipping a hard row must never help: it is scored as the answer 0."""
    table = tmp_path / "prices.csv"
    table.write_text("colour,price\n" + "".join(f"c{i},{100 + i % 90}.5\n" for i in range(300)))
    given = tmp_path / "given" / "predictions.jsonl"
    words = ["--csv", str(table), "--target-field", "price", "--predictions", str(given)]
    given.parent.mkdir()
    ids = [f"row-{n}" for n in range(1, 301)]
    names = [e.id for e in read_examples(table, make_task(table, ["price"]), "test")]
    assert len(names) > 10 and set(names) < set(ids)
    truth = {name: 100.5 + (ids.index(name)) % 90 for name in names}
    lines = [json.dumps({"id": name, "answer": {"price": f"{truth[name]}"}}) for name in names]
    lines[0] = f'{{"id": "{names[0]}", "answer": {{"price": {written}}}}}'
    given.write_text("\n".join(lines) + "\n")
    code = evaluate_model.main([*words, "--out-dir", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    n = len(names)
    assert (code, found["n"]) == (0, {"expected": n, "answered": n - 1, "invalid": 1})
    assert found["metrics"]["price/mae"]["value"] == pytest.approx(truth[names[0]] / n)
    assert found["metrics"]["price/within_5pct"]["value"] == pytest.approx(1 - 1 / n)


def test_the_csv_and_its_conversations_are_the_same_rows_to_judge(taught_rule, tmp_path):
    import convert_csv_to_jsonl

    table, jsonl = str(taught_rule["table"]), tmp_path / "jsonl"
    assert convert_csv_to_jsonl.main(["--csv", table, "--target-field", "kind", "--out-dir", str(jsonl)]) == 0
    written = str(taught_rule["evaluation"] / "predictions.jsonl")
    assert evaluate_model.main(["--predictions", written, "--data", str(jsonl), "--out-dir", str(tmp_path / "b")]) == 0
    first = json.loads((taught_rule["evaluation"] / "metrics.json").read_text())
    assert json.loads((tmp_path / "b" / "metrics.json").read_text())["hashes"] == first["hashes"]


def test_every_file_a_reader_expects_is_there(taught_rule):
    names = {path.name for path in taught_rule["evaluation"].iterdir()}
    assert {"predictions.jsonl", "metrics.json", "row_scores.csv", "manifest.json"} < names
    assert {"confusion_kind.png", "reliability_kind.png", "report.md"} < names
    manifest = json.loads((taught_rule["evaluation"] / "manifest.json").read_text())
    assert {entry["path"] for entry in manifest["outputs"]} == names - {"manifest.json"}
    report = (taught_rule["evaluation"] / "report.md").read_text()
    assert "| kind/accuracy |" in report and "![reliability_kind.png](reliability_kind.png)" in report
