"""--config: options from a YAML file equal those of the command line, which overrides them."""

import json

import evaluate_model
import finetune_gemma_from_csv
import generate_synthetic_smoke
import predict
import pytest
import run_baselines
import validate_dataset
from linklab import cli, config_file

# script, the file, the command line, and the words that mean the same
SAME = [
    (finetune_gemma_from_csv,
     "csv: a.csv\nout_dir: run\nlearning-rate: 5e-4\nmerge: true\nresume: true\nforce: false\n",
     [], ["--csv", "a.csv", "--out-dir", "run", "--learning-rate", "5e-4", "--merge", "--resume"]),
    (finetune_gemma_from_csv, "csv: a.csv\nout_dir: run\nbf16: true\nepochs: 2\nresume: runs/x\n",
     ["--fp32", "--max-steps", "5"],
     ["--csv", "a.csv", "--out-dir", "run", "--resume", "runs/x", "--fp32", "--max-steps", "5"]),
    (evaluate_model, "model: tiny\ncsv: a.csv\nout-dir: e\ntop_k: 5\nmissing: ['-', '?']\n",
     ["--data", "jsonl", "--top-k=2"],
     ["--model", "tiny", "--data", "jsonl", "--out-dir", "e", "--top-k", "2", "--missing=-,?"]),
    (predict, "model: m\nset: [a=1, b=2]\nmax-rows: null\n", [], ["--model", "m", "--set", "a=1", "b=2"]),
    (run_baselines, "csv: a.csv\nout_dir: b\ntarget_field: [kind, size]\n", ["--out-dir", "c"],
     ["--csv", "a.csv", "--out-dir", "c", "--target-field", "kind,size"]),
]  # fmt: skip


def parse(script, words):
    return vars(script.build_parser().parse_args(cli.join_values(words)))


@pytest.mark.parametrize(("script", "text", "words", "same"), SAME, ids=[script.__name__ for script, *_ in SAME])
def test_a_file_gives_the_options_and_the_command_line_wins(script, text, words, same, tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text(text)
    words = [*words, "--config", str(path)]
    found = parse(script, config_file.expand(script.build_parser(), words))
    assert found == parse(script, same) | {"config": str(path)}


FAULTS = [
    ("out_dri: x\n", "'out_dri' is not an option of", "did you mean out-dir?"),
    ("config: other.yaml\n", "'config' is not an option of", ""),
    ("force: 3\n", "'force': is a switch; expected true or false, not 3", ""),
    ("n-samples: true\n", "'n-samples': only switches take true or false", ""),
    ("seed:\n  a: 1\n", "'seed': expected one value or a list of values", ""),
    ("seed: 1\n--seed: 2\n", ":2: '--seed' is given twice; keep one", ""),
    ("- a\n", "expected options, one", ""),
    ("a: [\n", ":2: not YAML", ""),
]


@pytest.mark.parametrize(("text", "said", "advice"), FAULTS, ids=[said for _, said, _ in FAULTS])
def test_an_error_in_a_config_file_is_one_line_with_its_name(text, said, advice, tmp_path, capsys):
    path = tmp_path / "options.yaml"
    path.write_text(text)
    assert generate_synthetic_smoke.main(["--config", str(path), "--out-dir", str(tmp_path / "new")]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {path}") and said in told and advice in told and told.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("words", [["--config"], ["--config", "nowhere.yaml"], ["--config=a.yaml", "--config=b.yaml"]])
def test_a_missing_config_file_is_one_line(words, capsys):
    assert validate_dataset.main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_manifest_holds_the_words_of_the_file_and_its_name(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("n_samples: 3\nseed: 1\n")
    out = tmp_path / "new"
    words = ["--config", str(path), "--out-dir", str(out), "--seed", "2"]
    assert generate_synthetic_smoke.main(words) == 0
    argv = json.loads((out / "manifest.json").read_text())["argv"]
    assert argv == ["--n-samples=3", *words]
