"""Typing mistakes of a user: each gives one line on stderr that says what to do, and exit code 2."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import generate_synthetic_smoke
import linklab
import pytest

SCRIPTS = Path(generate_synthetic_smoke.__file__).parent
# run_demo starts the others and shows their lines; the rest need the standard library only.
NOT_TRIED = {"fix_notebook_widgets", "push_to_hub", "check_merge", "import_survey", "run_demo"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A typical folder of a user: links, a table, a spreadsheet."""
    folder = tmp_path_factory.mktemp("desk")
    assert generate_synthetic_smoke.main(["--out-dir", str(folder / "data")]) == 0
    (folder / "table.csv").write_text("size,label\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(40)))
    (folder / "book.xlsx").write_bytes(b"PK\x03\x04" + bytes(200))
    return folder


OUT, TABLE = "--out-dir out", "--csv table.csv --target-field label"
# Typing mistakes; files and folders that are missing, broken or in use are in test_bad_input.py.
SLIPS = [
    ("a space in a path", "convert_csv_to_jsonl", f"--csv my table.csv {OUT}", "unrecognized arguments: table.csv"),
    ("a misspelt option", "convert_csv_to_jsonl", f"--cvs table.csv {OUT}", "--csv"),
    ("an option of another script", "predict", "--csv table.csv --model m --out o.csv --maxrows 3", "--max-rows"),
    ("a misspelt choice", "finetune_gemma_from_csv", f"--csv table.csv --mode lorra {OUT}", "'lorra' (choose from"),
    ("a number in words", "run_baselines", f"--csv table.csv --max-rows ten {OUT}", "'ten' is not a whole number"),
    ("no value", "run_baselines", f"{OUT} --csv", "argument --csv: expected one argument"),
    ("no output", "convert_csv_to_jsonl", "--csv table.csv", "the following arguments are required: --out-dir"),
    ("a spreadsheet", "convert_csv_to_jsonl", f"--csv book.xlsx {OUT}", "book.xlsx"),
    ("another case", "convert_csv_to_jsonl", f"--csv Table.csv {OUT}", "no such file; did you mean table.csv?"),
    ("a folder that is not there", "convert_csv_to_jsonl", f"--csv runs/x.csv {OUT}", "the folder runs does not exist"),
    ("a long dash", "convert_csv_to_jsonl", f"–csv table.csv {OUT}",
     "begins with a long dash, copied from formatted text; type --csv"),
    ("curly quotes", "convert_csv_to_jsonl", f"--csv “table.csv” {OUT}", 'type straight quotes: "table.csv"'),
    ("underscores", "predict", "--csv table.csv --model m --out o.csv --max_rows 3", "did you mean --max-rows instead"),
    ("a far option", "convert_csv_to_jsonl", f"--csv table.csv {OUT} --epochs 3", "arguments: --epochs 3 ("),
    ("no rows", "run_baselines", f"--csv table.csv --max-rows 0 {OUT}",
     "argument --max-rows: 0 is out of range; expected a whole number of at least 1"),
    ("a thousands comma", "generate_synthetic_large", f"--n-samples 4,000 {OUT}", "'4,000' is not a whole number"),
    ("a misspelt model", "finetune_gemma_from_csv", f"{TABLE} --base-model embeded {OUT}", "did you mean embedded?"),
    ("a misspelt model to score", "evaluate_model", f"{TABLE} --model ./modle {OUT}", "./modle: no such model folder"),
    ("a misspelt model for a demo", "run_demo", "--base-model embeded --out-dir out", "did you mean embedded?"),
    ("a misspelt model for a curve", "run_learning_curve", f"{TABLE} --base-model embeded --sizes 8 {OUT}",
     "did you mean embedded?"),
    ("a misspelt model for a sweep", "run_sweep", f"{TABLE} --base-model embeded --space epochs=1,2 {OUT}",
     "did you mean embedded?"),
    ("a misspelt command", "linklab.__main__", "validat table.csv", "did you mean validate?"),
]  # fmt: skip


@pytest.mark.parametrize(("slip", "module", "words", "said"), SLIPS, ids=[slip[0] for slip in SLIPS])
def test_a_typing_mistake_is_one_line_that_names_it(desk, tmp_path, monkeypatch, capsys, slip, module, words, said):
    monkeypatch.chdir(desk)
    before = sorted(desk.rglob("*"))
    assert importlib.import_module(module).main(words.split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ") and said in lines[-1]
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert sorted(desk.rglob("*")) == before


@pytest.mark.parametrize(("module", "words"), [
    ("finetune_gemma_from_csv", f"{TABLE} {OUT}"),  # the default base model is on the Hub
    ("evaluate_model", f"{TABLE} --model google/gemma-3-270m-it {OUT}"),
    ("run_demo", "--base-model google/gemma-3-270m-it --out-dir out"),
])  # fmt: skip
def test_without_a_network_a_model_of_the_hub_is_one_line_before_any_work(desk, tmp_path, monkeypatch, capsys, module,
                                                                          words):  # fmt: skip
    from huggingface_hub import constants
    from linklab.models import base_names

    nowhere = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    base_names.require_on_hub.cache_clear()
    monkeypatch.chdir(desk)
    before = sorted(desk.rglob("*"))
    assert importlib.import_module(module).main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: google/gemma-3-270m-it: no such folder here, and the Hub cannot be reached (http")
    assert sorted(desk.rglob("*")) == before


ARGUMENTS = {
    "compare_results": "run --out-dir out",
    "convert_csv_to_jsonl": "--csv data/links.csv --out-dir out",
    "evaluate_model": "--model tiny --csv data/links.csv --out-dir out",
    "export_model": "--model data --out-dir out",
    "finetune_gemma_from_csv": "--csv data/links.csv --base-model tiny --out-dir out",
    "generate_synthetic_large": "--n-samples 5 --out-dir out",
    "generate_synthetic_smoke": "--out-dir out",
    "predict": "--csv data/links.csv --model data --out out.csv",
    "run_baselines": "--csv data/links.csv --out-dir out",
    "run_learning_curve": "--csv data/links.csv --sizes 10 --out-dir out",
    "run_sweep": "--csv data/links.csv --space epochs=1,2 --out-dir out",
    "validate_dataset": "data/links.csv",
}


@pytest.mark.parametrize("script", sorted(ARGUMENTS))
def test_outside_the_environment_every_script_says_so_in_one_line(desk, script):
    """`-S` hides site-packages, so the requirements are missing."""
    command = [sys.executable, "-S", str(SCRIPTS / f"{script}.py"), *ARGUMENTS[script].split()]
    done = subprocess.run(command, cwd=desk, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search(r"the package '\w+' is not installed for .*requirements\.txt|no such folder|no task\.json", last)


def test_every_script_is_tried_outside_the_environment_or_named_as_not():
    others = {path.stem for path in SCRIPTS.glob("*.py")} - ARGUMENTS.keys()
    assert others == NOT_TRIED


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.name)
def test_every_script_can_be_read_by_an_older_python_up_to_the_line_that_names_it(path):
    ast.parse(path.read_text(), feature_version=(3, 8))
    ast.parse(Path(linklab.__file__).read_text(), feature_version=(3, 8))


def test_an_older_python_is_named_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 10, 12, "final", 0))
    with pytest.raises(SystemExit) as stopped:
        exec(compile(Path(linklab.__file__).read_text(), "linklab", "exec"), {})
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: Python 3.11 or later is needed, this is 3.10 (")
    assert ".venv/bin/python" in error
