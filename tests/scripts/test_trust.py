"""Hashes are checked, not only written: a changed file is named, training rows are never test rows, figures agree."""

import csv
import json
import shutil
from pathlib import Path

import compare_results
import convert_csv_to_jsonl
import evaluate_model
import finetune_gemma_from_csv
import predict
import pytest
from linklab.manifest import stale_reason, write_manifest
from linklab.tasks.splits import split_of
from linklab.tasks.training_record import read_record
from metrics.test_comparison import make_examples
from metrics.test_comparison import write_run as write_scores

TARGET = ["--target-field", "kind"]


def change(path, old=None, new=None):
    """Change a file: swap one text for another, or flip one bit in its middle."""
    content = bytearray(path.read_bytes())
    if old is None:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        assert old.encode() in content
        path.write_bytes(bytes(content).replace(old.encode(), new.encode(), 1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, rule_table):
    """A table, its conversations (jsonl/), and a tiny adapter trained on them for one step (run/)."""
    place = tmp_path_factory.mktemp("trust")
    shutil.copy(rule_table, place / "animals.csv")
    csv_path = str(place / "animals.csv")
    assert convert_csv_to_jsonl.main(["--csv", csv_path, *TARGET, "--out-dir", str(place / "jsonl")]) == 0
    words = ["--data", str(place / "jsonl"), "--base-model", "tiny", "--max-steps", "1", "--report-to", "none"]
    assert finetune_gemma_from_csv.main([*words, "--max-rows", "200", "--out-dir", str(place / "run")]) == 0
    return place


@pytest.fixture
def place(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "place"))


def evaluate(place, *words, data="jsonl", model="run/model"):
    source = ["--csv", str(place / "animals.csv")] if data is None else ["--data", str(place / data)]
    out = ["--out-dir", str(place / "evaluation"), "--max-rows", "8"]
    return evaluate_model.main(["--model", str(place / model), *source, *out, *words])


CHANGED = {  # the file, and how it is changed: the script that reads it must name it
    "a label in a test shard": ("jsonl/test-00000-of-00001.jsonl", '"content":"insect"', '"content":"mammal"'),
    "the task": ("jsonl/task.json", "animal", "animaL"),
    "the adapter's weights": ("run/model/adapter_model.safetensors", None, None),
    "the model's task": ("run/model/task.json", "animal:", "Animal:"),
    "the model's tokenizer": ("run/model/tokenizer_config.json", "{", "{ "),
    "the record": ("run/model/training_record.json", '"sha256": "', '"sha256": "0'),
    "the rows seen": ("run/model/training_rows.bin", None, None),
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_changed_file_is_named_where_it_is_read(place, capfd, what):
    name, old, new = CHANGED[what]
    change(place / name, old, new)
    assert evaluate(place) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and str(place / name) in line and "since" in line
    assert not (place / "evaluation").exists()
    if name.startswith("run/"):
        new = ["--csv", str(place / "animals.csv"), "--max-rows", "3", "--out", str(place / "answers.csv")]
        assert predict.main(["--model", str(place / "run" / "model"), *new]) == 2
        assert str(place / name) in capfd.readouterr().err.splitlines()[-1]


def test_a_changed_shard_is_not_trained_on_and_makes_a_finished_training_stale(place, monkeypatch, capfd):
    shard = place / "jsonl" / "train-00000-of-00001.jsonl"
    argv = json.loads((place / "run" / "manifest.json").read_text())["argv"]
    manifest = place / "run" / "manifest.json"
    value = json.loads(manifest.read_text())
    for entry in value["inputs"]:  # the copy has another path than the manifest names
        entry["path"] = str(place / Path(entry["path"]).relative_to(Path(argv[argv.index("--data") + 1]).parent))
    manifest.write_text(json.dumps(value))
    assert stale_reason(manifest, script="finetune_gemma_from_csv.py", argv=argv) is None
    change(shard, '"content":"insect"', '"content":"mammal"')
    assert f"{shard} changed" in stale_reason(manifest, script="finetune_gemma_from_csv.py", argv=argv)
    words = ["--data", str(place / "jsonl"), "--base-model", "tiny", "--out-dir", str(place / "new")]
    assert finetune_gemma_from_csv.main(words) == 2
    assert f"{shard} changed since" in capfd.readouterr().err and not (place / "new").exists()


def test_a_readme_may_be_edited(place):
    for name in ("jsonl/README.md", "run/model/README.md"):
        with open(place / name, "a") as handle:
            handle.write("my notes\n")
    assert evaluate(place) == 0


def groups_trained_on(place):
    shard = (place / "jsonl" / "train-00000-of-00001.jsonl").read_text().splitlines()
    return {json.loads(line)["group"] for line in shard}


def test_rows_split_with_another_seed_are_refused_as_training_rows_and_counted_on_request(place, capfd):
    """Another --split-seed would score rows the model has seen; the hashes of their groups show how many."""
    assert evaluate(place, "--split-seed", "3", data=None) == 2
    assert "--split-seed 3: the model was trained with --split-seed 0" in capfd.readouterr().err
    other = ["--csv", str(place / "animals.csv"), *TARGET, "--split-seed", "3", "--out-dir", str(place / "other")]
    assert convert_csv_to_jsonl.main(other) == 0
    assert evaluate(place, data="other") == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert "were training rows, or share their group with one; score unseen rows, or pass --allow-training-rows" in line
    assert evaluate(place, "--allow-training-rows", data="other") == 0
    metrics = json.loads((place / "evaluation" / "metrics.json").read_text())
    with open(place / "evaluation" / "row_scores.csv", newline="") as handle:
        asked = [line["group"] for line in csv.DictReader(handle)]
    assert all(split_of(group, 3) == "test" for group in asked)
    seen = sum(group in groups_trained_on(place) for group in asked)
    told = f"{seen} of {len(asked)} rows were training rows, or share their group with one"
    assert seen > 0 and metrics["warnings"] == [told]
    assert f"**Warning:** {told}." in (place / "evaluation" / "report.md").read_text()


def test_unseen_rows_are_scored_without_a_message(place, capfd):
    for data in ("jsonl", None):  # for the CSV, split and targets come from the model: no option is needed
        assert evaluate(place, "--force", data=data) == 0
        assert json.loads((place / "evaluation" / "metrics.json").read_text())["warnings"] == []
        assert "warning" not in capfd.readouterr().err


def test_the_record_holds_the_hash_of_every_group_trained_on_and_of_no_other(place):
    record = read_record(place / "run" / "model")
    task = json.loads((place / "run" / "model" / "task.json").read_text())
    assert task["split"] == {"seed": 0, "fractions": [0.8, 0.1, 0.1]}
    assert (place / "run" / "model" / "training_rows.bin").stat().st_size == 8 * len(record.seen)
    assert 0 < len(record.seen) <= 200 + len(groups_trained_on(place))


PROMPTS = {"another template": ["--prompt-template", "other.txt"], "another target": ["--target-field", "animal"]}


@pytest.mark.parametrize("what", PROMPTS)
def test_another_prompt_is_refused_and_shown_in_the_report_if_allowed(place, monkeypatch, capfd, what):
    monkeypatch.chdir(place)
    Path("other.txt").write_text("What is a {animal} with {code}?" if what == "another template" else "{animal}")
    assert evaluate(place, *PROMPTS[what], data=None) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert "--allow-other-prompt" in line
    if what == "another template":
        assert evaluate(place, *PROMPTS[what], "--allow-other-prompt", data=None) == 0
        told = "asks with another prompt than the model was trained with"
        assert json.loads((place / "evaluation" / "metrics.json").read_text())["warnings"] == [told]
        assert told in (place / "evaluation" / "report.md").read_text()


def test_converted_rows_with_another_prompt_are_refused(place, capfd):
    (place / "other.txt").write_text("What is a {animal} with {code}?")
    words = ["--csv", str(place / "animals.csv"), *TARGET, "--prompt-template", str(place / "other.txt")]
    assert convert_csv_to_jsonl.main([*words, "--out-dir", str(place / "other")]) == 0
    assert evaluate(place, data="other") == 2
    assert "asks with another prompt than the model was trained with" in capfd.readouterr().err


def test_an_adapter_is_not_loaded_on_weights_it_was_not_trained_on(place, tmp_path, capfd):
    """Random weights of the same shape would load, and be scored as the tuned model."""
    from linklab.models import load

    moved = Path(shutil.copytree(load.resolve("tiny"), tmp_path / "moved"))
    assert evaluate(place, "--base-model", str(moved)) == 0  # the same weights at another place
    change(moved / "model.safetensors")
    assert evaluate(place, "--force", "--base-model", str(moved)) == 2
    assert "was trained on other weights than those of" in capfd.readouterr().err.splitlines()[-1]


# Edited figures


@pytest.fixture
def runs(tmp_path):
    examples = make_examples()
    for name, right in (("tuned", range(48)), ("trees", range(10, 40))):
        write_scores(tmp_path / "runs" / name, examples, right, "tuned" if name == "tuned" else "baseline")
    sign(tmp_path / "runs" / "tuned")
    sign(tmp_path / "runs" / "trees")
    return tmp_path / "runs"


def sign(folder):
    """Write the manifest of a run, as the script that scored it does."""
    outputs = {path: None for path in sorted(folder.iterdir()) if path.name != "manifest.json"}
    write_manifest(folder, script="evaluate_model.py", argv=[], seed=None, inputs={}, outputs=outputs)


def edit_metrics(folder):
    value = json.loads((folder / "metrics.json").read_text())
    value["metrics"]["channel/accuracy"]["value"] = 0.99
    (folder / "metrics.json").write_text(json.dumps(value))


def edit_rows(change):
    """Return an edit of row_scores.csv that replaces cells of each row by those of `change(row)`."""

    def edit(folder):
        with open(folder / "row_scores.csv", newline="") as handle:
            rows = [row | change(row) for row in csv.DictReader(handle)]
        with open(folder / "row_scores.csv", "w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    return edit


def swap_predictions(folder):
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    ids = [json.loads(line)["id"] for line in lines]
    swapped = [json.loads(line) | {"id": name} for line, name in zip(lines, reversed(ids), strict=True)]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in swapped))


ROWS, ANSWERS = "row_scores.csv", "predictions.jsonl"
EDITS = {
    "metrics.json says 99 %": (edit_metrics, "metrics.json", "'channel/accuracy' is 0.99"),
    "every row right": (edit_rows(lambda row: {"channel/accuracy": "1"}), ROWS, "does not match its answer"),
    "answers replaced": (
        edit_rows(lambda row: {"channel/accuracy": "1", "channel/answer": row["channel/true"]}), ANSWERS,
        "but row_scores.csv has",
    ),
    "ids replaced": (
        edit_rows(lambda row: {"id": f"x{row['id']}"}), ROWS, "the ids are not those of metrics.json",
    ),
    "predictions swapped": (swap_predictions, ANSWERS, "but row_scores.csv has"),
}  # fmt: skip


@pytest.mark.parametrize("signed", [False, True], ids=["the manifest is the old one", "the manifest is made anew"])
@pytest.mark.parametrize("what", EDITS)
def test_edited_figures_are_named_and_not_compared(runs, tmp_path, capfd, what, signed):
    edit, name, said = EDITS[what]
    words = [str(runs), "--require-better-than", "trees", "--out-dir", str(tmp_path / "report")]
    edit(runs / "tuned")
    if signed:
        sign(runs / "tuned")
    assert compare_results.main(words) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    if signed:
        assert str(runs / "tuned" / name) in line and said in line
    else:
        assert str(runs / "tuned") in line and "changed since the run was scored" in line
    assert not (tmp_path / "report").exists()


def test_runs_that_agree_with_themselves_are_compared(runs, tmp_path, capfd):
    assert compare_results.main([str(runs), "--out-dir", str(tmp_path / "report")]) == 0
    (runs / "trees" / "manifest.json").unlink()
    assert compare_results.main([str(runs), "--out-dir", str(tmp_path / "another")]) == 2
    assert "no manifest.json lists these files" in capfd.readouterr().err
