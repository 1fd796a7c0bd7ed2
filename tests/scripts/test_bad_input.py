"""Bad input to any script: one clear line that names the fault, exit code 2 or 1, and nothing overwritten."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import convert_csv_to_jsonl
import pytest
from linklab.links import data_set
from linklab.links.row_stream import Recipe
from linklab.manifest import write_manifest
from linklab.metrics.row_scores import hash_ids

SCRIPTS = sorted(path.stem for path in Path(convert_csv_to_jsonl.__file__).parent.glob("*.py"))
HEAVY = ("torch", "transformers", "datasets", "peft", "trl", "bitsandbytes")

OUT = "--out-dir out"
LINK = (
    "--signal-dbm -60 --regulatory-domain FCC --radio-standard ac --channel-bandwidth-mhz 80 --link-distance-m 900 "
    "--antenna-gain-dbi 19 --tx-power-dbm 25"
)
LINKS = "--csv links.csv"
HUB = "--repo me/it --license cc-by-4.0 --dry-run"
METRICS = {
    "model": "m",
    "role": "baseline",
    "split": "test",
    "n": {"expected": 1, "answered": 1, "invalid": 0},
    "targets": ["y"],
    "hashes": {"data": hash_ids(["r"]), "prompts": "p", "labels": "l"},
    "metrics": {"y/accuracy": {"value": 1.0, "low": 1.0, "high": 1.0, "unit": "", "higher_is_better": True, "n": 1}},
}
NOTEBOOK = {"cells": [], "metadata": {"widgets": {}}, "nbformat": 4, "nbformat_minor": 5}

# Every script x kind of bad input: (script, fault, arguments, part of the error line). `file` is a regular file: not
# even root can make a folder in it, nor in /proc.
COMMON_CSV = [
    ("missing file", "--csv gone.csv", "gone.csv: no such file"),
    ("missing folder", "--csv gone/links.csv", "gone/links.csv: no such file"),
    ("a folder for a file", "--csv jsonl", "jsonl: is a folder"),
    ("empty file", "--csv empty.csv", "empty.csv: the file is empty"),
    ("wrong header", "--csv boxes.csv",
     "boxes.csv: not a links.csv, so --target-field is needed; the columns are: size"),
    ("doubled header", "--csv doubled.csv --target-field b", "doubled.csv:1: column 'a' appears in the header 2 times"),
    ("only a header", "--csv header.csv --target-field label", "header.csv: no rows below the header"),
    ("binary file", "--csv set.zip", "set.zip:1: the file is compressed"),
    ("not UTF-8", "--csv latin.csv --target-field label", "latin.csv:2: bytes that are not UTF-8"),
    ("ragged row", "--csv ragged.csv --target-field label", "ragged.csv:3: 1 cells; the header has 2"),
    ("unknown column", f"{LINKS} --target-field speed", "no column 'speed'; the columns are: scenario_id"),
    ("unknown template column", f"{LINKS} --prompt-template bad.txt", "'{speed}': 'speed' is not an input column"),
    ("missing template", f"{LINKS} --prompt-template gone.txt", "gone.txt: no such file"),
    ("empty template", f"{LINKS} --prompt-template empty.csv", "empty.csv: the file is empty"),
]  # fmt: skip
COMMON_OUT = [
    ("unwritable folder", "--out-dir file/set", "file"),
    ("unwritable folder", "--out-dir /proc/nobody/set", "/proc/nobody"),
    ("a file for a folder", "--out-dir file", "file: is a file"),
    ("existing output", "--out-dir old", "old: holds"),
    ("existing output of somebody else", "--out-dir old --force", "old: holds 'notes.txt', which"),
]


# All scripts read tables and make folders with the same functions: one script gets the whole lists, the others a part.
# What already exists at the place of an output folder is tested for each script in test_ownership.py.
SOME_CSV = [c for c in COMMON_CSV if c[0] in ("missing file", "wrong header", "ragged row", "missing template")]


def both(script, cases, words=""):
    return [(script, what, f"{case} {words}".strip(), said) for what, case, said in cases]


CASES = [
    *both("convert_csv_to_jsonl", COMMON_CSV, OUT),
    *both("convert_csv_to_jsonl", COMMON_OUT, LINKS),
    ("convert_csv_to_jsonl", "not UTF-8", f"{LINKS} {OUT} --system-prompt latin.csv", "latin.csv: not UTF-8 at byte"),
    ("import_survey", "not UTF-8", f"--survey latin.csv {LINK} --out new.csv", "latin.csv: not UTF-8 at byte 15"),
    ("convert_csv_to_jsonl", "unknown column", f"{LINKS} {OUT} --group-field town", "no column 'town'"),
    *both("run_baselines", SOME_CSV, OUT),
    ("run_baselines", "unknown column", f"{LINKS} {OUT} --group-by town", "no column 'town'"),
    ("run_baselines", "unknown baseline", f"{LINKS} {OUT} --only luck", "luck"),
    *both("finetune_gemma_from_csv", SOME_CSV, f"{OUT} --base-model tiny"),
    ("finetune_gemma_from_csv", "missing folder", f"--data gone {OUT} --base-model tiny", "gone: no such folder"),
    ("finetune_gemma_from_csv", "wrong folder", f"--data old {OUT} --base-model tiny", "old: no task.json here"),
    ("finetune_gemma_from_csv", "a table for conversations", f"--data links.csv {OUT} --base-model tiny",
     "links.csv:1: not JSON"),
    ("finetune_gemma_from_csv", "empty task", f"--data broken {OUT} --base-model tiny",
     "broken/manifest.json: the file is empty"),
    *both("evaluate_model", SOME_CSV, f"{OUT} --model tiny"),
    ("evaluate_model", "missing folder", f"--model tiny --data gone {OUT}", "gone: no such folder"),
    ("evaluate_model", "wrong folder", f"--model tiny --data old {OUT}", "old: no task.json here"),
    ("evaluate_model", "missing file", f"--predictions gone.jsonl --data jsonl {OUT}", "gone.jsonl: no such file"),
    ("evaluate_model", "empty file", f"--predictions empty.csv --data jsonl {OUT}", "empty.csv: the file is empty"),
    ("evaluate_model", "wrong file", f"--predictions links.csv --data jsonl {OUT}", "links.csv:1: not JSON"),
    ("evaluate_model", "foreign ids", f"--predictions foreign.jsonl --data jsonl {OUT}", "foreign.jsonl:1: id 'x'"),
    ("predict", "missing file", "--csv gone.csv --model model --out new.csv", "gone.csv: no such file"),
    ("predict", "empty file", "--csv empty.csv --model model --out new.csv", "empty.csv: the file is empty"),
    ("predict", "wrong header", "--csv boxes.csv --model model --out new.csv",
     "boxes.csv:1: no column 'regulatory_domain'"),
    ("predict", "only a header", "--csv linkheader.csv --model model --out new.csv",
     "linkheader.csv: no rows below the header"),
    ("predict", "missing model", f"{LINKS} --model gone --out new.csv", "gone"),
    ("predict", "wrong model folder", f"{LINKS} --model old --out new.csv", "old: not a fine-tuned model folder"),
    ("predict", "unwritable folder", f"{LINKS} --model model --out file/new.csv", "file"),
    ("predict", "existing output", f"{LINKS} --model model --out old.json", "old.json: already exists"),
    ("predict", "a folder for a file", f"{LINKS} --model model --out old", "old: "),
    ("generate_synthetic_smoke", "no rows", f"{OUT} --n-samples 0", "--n-samples: 0 is out of range"),
    ("generate_synthetic_large", "unknown column", f"{OUT} --stratify-by town", "no column 'town'"),
    ("generate_synthetic_large", "wrong column", f"{OUT} --stratify-by noise_dbm",
     "--stratify-by noise_dbm: choose from"),
    ("generate_synthetic_large", "no column", f"{OUT} --balance oversample", "needs --stratify-by"),
    ("export_model", "missing folder", f"--model gone {OUT}", "gone: no such folder"),
    ("export_model", "existing output", "--model model --out-dir old", "old: holds"),
    ("import_survey", "missing file", f"--survey gone.txt {LINK} --out new.csv", "gone.txt: no such file"),
    ("import_survey", "existing output", f"--survey links.csv {LINK} --out old.json", "old.json: already exists"),
    ("import_survey", "wrong file", f"--survey links.csv {LINK} --out new.csv", "not a survey this script knows"),
    ("validate_dataset", "missing file", "gone.csv", "gone.csv: no such file"),
    ("validate_dataset", "empty file", "empty.csv", "empty.csv: the file is empty"),
    ("validate_dataset", "binary file", "set.zip", "set.zip:1: the file is compressed"),
    ("validate_dataset", "unknown column", "links.csv --schema infer --target-field speed", "no column 'speed'"),
    ("validate_dataset", "unknown column", "links.csv --split-field town", "no column 'town'"),
    ("validate_dataset", "missing schema", "links.csv --schema gone.json", "gone.json: no such file"),
    ("validate_dataset", "wrong schema", "links.csv --schema old.json", "no columns; expected"),
    ("validate_dataset", "missing other file", "links.csv --against gone.csv --report new.json",
     "gone.csv: no such file"),
    ("validate_dataset", "unwritable folder", "links.csv --report file/new.json", "file"),
    ("validate_dataset", "unwritable folder", "links.csv --violations file/new.csv", "file"),
    ("validate_dataset", "existing output", "links.csv --report old.json", "old.json: already exists"),
    ("validate_dataset", "existing output", "links.csv --violations old.json", "old.json: already exists"),
    ("validate_dataset", "output over input", "links.csv --report links.csv --force", "links.csv: is given twice"),
    ("compare_results", "missing folder", f"gone {OUT}", "gone: no such folder"),
    ("compare_results", "a file for a folder", f"links.csv {OUT}", "links.csv: no such folder"),
    ("compare_results", "wrong folder", f"jsonl {OUT}", "jsonl: holds no metrics.json"),
    ("compare_results", "empty file", f"broken {OUT}", "metrics.json: the file is empty"),
    ("compare_results", "wrong file", f"wrongrun {OUT}", "metrics.json: not a metrics file of this toolkit"),
    ("compare_results", "missing scores", f"halfrun {OUT}", "row_scores.csv: no such file"),
    ("compare_results", "unknown run", f"run {OUT} --reference best", "no run called 'best'; the runs are: run"),
    ("compare_results", "missing stage", f"run {OUT} --stage gone", "gone"),
    ("push_to_hub", "missing folder", f"gone {HUB}", "gone/manifest.json: no such file"),
    ("push_to_hub", "a file for a folder", f"links.csv {HUB}", "links.csv/manifest.json: no such file"),
    ("push_to_hub", "wrong folder", f"old {HUB}", "old/manifest.json: no such file"),
    ("push_to_hub", "empty file", f"broken {HUB}", "broken/manifest.json: the file is empty"),
    ("push_to_hub", "wrong file", f"wrongrun {HUB}", "wrongrun/manifest.json: not a manifest of this toolkit"),
    ("push_to_hub", "missing evaluation", f"jsonl {HUB} --evaluation gone", "gone/manifest.json: no such file"),
    ("push_to_hub", "evaluation of data", f"jsonl {HUB} --evaluation jsonl", "jsonl: is not a training"),
    ("fix_notebook_widgets", "missing file", "gone.ipynb", "gone.ipynb"),
    ("fix_notebook_widgets", "empty file", "empty.csv", "empty.csv"),
    ("fix_notebook_widgets", "wrong file", "links.csv", "links.csv:1:1: not JSON"),
    *both("run_learning_curve", SOME_CSV, f"{OUT} --sizes 20 --test-rows 5 --base-model tiny"),
    *both("run_learning_curve", COMMON_OUT[3:4], f"{LINKS} --sizes 20 --test-rows 5 --base-model tiny"),
    ("run_learning_curve", "wrong folder", f"--data old {OUT} --sizes 20", "old: no task.json here"),
    *both("run_sweep", SOME_CSV, f"{OUT} --base-model tiny --space epochs=1:2"),
    *both("run_sweep", COMMON_OUT[3:4], f"{LINKS} --base-model tiny --space epochs=1:2"),
    ("run_sweep", "wrong folder", f"--data old {OUT} --space epochs=1:2", "old: no task.json here"),
    ("run_demo", "unwritable folder", "--base-model tiny --max-rows 20 --out-dir file/set", "file"),
    ("run_demo", "unwritable folder", "--base-model tiny --max-rows 20 --out-dir /proc/nobody/set", "/proc/nobody"),
    ("run_demo", "a file for a folder", "--base-model tiny --max-rows 20 --out-dir file", "file"),
]  # fmt: skip


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with good and bad files of every kind."""
    place = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_set, "HARDNESS_ROWS", 20)
        patch.chdir(place)
        data_set.write_set("set", script="x", argv=[], recipe=Recipe(1), n_rows=120, chunk_rows=120, workers=1)
        shutil.copy("set/links.csv", "links.csv")
        shutil.move("set/links.zip", "set.zip")
        shutil.rmtree("set")
        assert convert_csv_to_jsonl.main(["--csv", "links.csv", "--out-dir", "jsonl"]) == 0
    texts = {
        "empty.csv": "",
        "boxes.csv": "size,label\n1,a\n2,b\n",
        "doubled.csv": "a,a,b\n1,2,3\n",
        "header.csv": "size,label\n",
        "ragged.csv": "size,label\n1,a\n2\n",
        "bad.txt": "{link_distance_m} {speed}",
        "file": "a file",
        "old.json": "{}",
        "linkheader.csv": (place / "links.csv").read_text().split("\n")[0] + "\n",
        "old/notes.txt": "mine",
        "broken/task.json": "",
        "broken/metrics.json": "",
        "broken/manifest.json": "",
        "wrongrun/metrics.json": "{}",
        "wrongrun/manifest.json": "{}",
        "run/metrics.json": json.dumps(METRICS),
        "run/row_scores.csv": "id,group,y/true,y/answer,y/accuracy,y/invalid_share\nr,g,a,a,1,0\n",
        "run/predictions.jsonl": '{"id": "r", "answer": {"y": "a"}}\n',
        "halfrun/metrics.json": json.dumps(METRICS),
        "foreign.jsonl": '{"id": "x", "answer": null}\n',
        "model/task.json": (place / "jsonl" / "task.json").read_text(),
        "good.ipynb": json.dumps(NOTEBOOK),
    }
    for name, text in texts.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text)
    outputs = {place / "run" / name: None for name in ("metrics.json", "row_scores.csv", "predictions.jsonl")}
    write_manifest(place / "run", script="evaluate_model.py", argv=[], seed=None, inputs={}, outputs=outputs)
    (place / "latin.csv").write_bytes("size,label\n1,größe\n2,b\n".encode("latin-1"))
    return place, contents(place)


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [pytest.param(script, words, said, id=f"{script}: {what}: {words}") for script, what, words, said in CASES],
)
def test_bad_input_is_one_line_and_nothing_is_touched(prepared, monkeypatch, capfd, script, words, said):
    place, before = prepared
    monkeypatch.chdir(place)
    for name in HEAVY:  # the fault is found before a model is loaded, in a tenth of a second instead of ten
        monkeypatch.setitem(sys.modules, name, None)
    capfd.readouterr()
    code = importlib.import_module(script).main(words.split())
    captured = capfd.readouterr()
    lines = captured.err.splitlines()
    assert code in (1, 2), captured.err
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and said in errors[0], captured.err
    if script != "fix_notebook_widgets":  # it continues with the next notebook, and prints a summary at the end
        assert len(lines) == 1, captured.err
    assert not captured.out
    assert contents(place) == before


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_is_in_the_table_and_refuses_to_run_without_its_input(script, capsys):
    if script == "check_merge":  # reads only this repository: an unknown argument is refused
        assert importlib.import_module(script).main(["--only", "nothing"]) == 2
        assert "nothing" in capsys.readouterr().err.splitlines()[-1]
        return
    assert script in {case[0] for case in CASES}
    if script != "run_demo":  # it needs no input
        assert importlib.import_module(script).main([]) == 2
        assert "required" in capsys.readouterr().err.splitlines()[-1]
