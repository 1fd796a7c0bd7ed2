"""--skip-finished: a finished command does nothing, as its manifest shows; a changed option or file makes it run."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

LINKS = "data/links.csv"
VALIDATE = f"{LINKS} --report check/report.json"
COMMANDS = [  # in the order of a project
    ("generate_synthetic_smoke", "--seed 1 --out-dir data"),
    ("generate_synthetic_large", "--n-samples 300 --seed 1 --workers 1 --out-dir large"),
    ("validate_dataset", VALIDATE),
    ("convert_csv_to_jsonl", f"--csv {LINKS} --workers 1 --out-dir jsonl"),
    ("run_baselines", "--csv large/links.csv --only random,most_frequent --out-dir baselines"),
    ("compare_results", "baselines --out-dir report"),
]
OF_A_MODEL = [
    ("finetune_gemma_from_csv", "--data jsonl --base-model tiny --mode full --max-steps 2 --out-dir tuned"),
    ("evaluate_model", "--model tuned/model --data jsonl --max-rows 2 --out-dir scores"),
]


def call(script: str, words: str) -> int:
    return importlib.import_module(script).main(words.split())


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder in which each command has run once."""
    folder = tmp_path_factory.mktemp("project")
    before = Path.cwd()
    os.chdir(folder)
    for script, words in COMMANDS:
        assert call(script, f"{words} --skip-finished") == 0, script  # it runs, because nothing is there yet
    os.chdir(before)
    return folder


@pytest.fixture
def inside(project, monkeypatch):
    monkeypatch.chdir(project)
    return project


@pytest.mark.parametrize(("script", "words"), COMMANDS, ids=lambda value: value.split()[0])
def test_a_finished_command_does_nothing_again(inside, capsys, script, words):
    before = stamps(inside)
    assert call(script, f"{words} --skip-finished") == 0
    assert call(script, f"{words} --skip-finished --force") == 0
    assert stamps(inside) == before
    assert capsys.readouterr().err.count("already finished; nothing to do") == 2


@pytest.mark.slow
def test_a_finished_training_and_evaluation_do_nothing_again(inside, capsys):
    for _ in range(2):
        for script, words in OF_A_MODEL:
            assert call(script, f"{words} --skip-finished") == 0
    assert capsys.readouterr().err.count("already finished; nothing to do") == 2


def test_other_options_make_it_run_again(inside, capsys):
    words = "--seed 2 --out-dir data --skip-finished"
    assert call("generate_synthetic_smoke", words) == 2, "what is there is replaced with --force only"
    assert "its command changed" in capsys.readouterr().err
    assert call("generate_synthetic_smoke", "--seed 3 --out-dir other --skip-finished") == 0
    assert call("generate_synthetic_smoke", "--seed 4 --out-dir other --skip-finished --force") == 0
    assert '"4"' in Path("other/manifest.json").read_text()


def test_a_changed_input_makes_it_run_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call("generate_synthetic_smoke", "--seed 1 --out-dir data")
    assert call("validate_dataset", f"{VALIDATE} --skip-finished") == 0
    old = Path(LINKS).read_text()
    Path(LINKS).write_text(old.replace(old.splitlines()[1], old.splitlines()[1] + ",1"))
    capsys.readouterr()
    for _ in range(2):  # a check that failed is never finished
        assert call("validate_dataset", f"{VALIDATE} --skip-finished --force") == 1
    said = capsys.readouterr().err
    assert f"{LINKS} changed" in said and "its check failed" in said


def test_a_validation_that_writes_nothing_cannot_be_skipped(inside, capsys):
    assert call("validate_dataset", f"{LINKS} --skip-finished") == 2
    assert "--skip-finished needs --report or --violations" in capsys.readouterr().err
