"""compare_results.py as a user calls it: files, last lines, exit codes, refusals."""

import json
from html import unescape

import compare_results
import pytest
from linklab.manifest import write_manifest
from metrics.test_blend import write_pair
from metrics.test_comparison import make_examples, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, examples = tmp_path_factory.mktemp("runs"), make_examples()
    write_run(folder / "tuned", examples, range(48), "tuned", off=5)
    write_run(folder / "baselines" / "trees", examples, range(10, 40), off=20)
    write_run(folder / "baselines" / "rule", examples, range(12))
    write_run(folder / "other" / "elsewhere", make_examples(40), range(12))
    for place in ("tuned", "baselines", "other"):
        outputs = dict.fromkeys(sorted((folder / place).iterdir()))
        write_manifest(folder / place, script="run_baselines.py", argv=[], seed=0, inputs={}, outputs=outputs)
    return folder


def compare(folder, out, *words):
    runs = [str(folder / "tuned"), str(folder / "baselines")]
    return compare_results.main([*runs, *words, "--out-dir", str(out)])


def test_it_writes_the_report_and_ends_with_its_path_and_the_verdict(folder, tmp_path, capsys):
    stage = tmp_path / "train"
    stage.mkdir()
    (stage / "trainer_log.csv").write_text("step,train_loss\n1,2.0\n2,1.0\n")
    manifest = {"script": "finetune_gemma_from_csv.py", "argv": ["--mode", "lora"], "inputs": [], "outputs": []}
    (stage / "manifest.json").write_text(json.dumps(manifest))
    out = tmp_path / "out"
    assert compare(folder, out, "--stage", str(stage), "--title", "An experiment") == 0
    path, scores, *answers = capsys.readouterr().out.splitlines()
    assert path == f"report: {out / 'report.html'}"
    assert scores.startswith("channel accuracy on n = 60 unseen rows")
    assert [line.split("?")[0] for line in answers] == [
        "Did training help", "Is it better than what it has to beat", "What next"
    ]  # fmt: skip
    assert "Yes: better than trees by 30.0 points" in answers[1]
    assert {p.name for p in out.iterdir()} == {
        "comparison.csv", "comparison.md", "report.md", "report.html", "plots", "manifest.json"
    }  # fmt: skip
    assert (out / "plots" / "loss.png").exists()
    html = (out / "report.html").read_text()
    assert scores in unescape(html) and "An experiment" in html
    assert "python scripts/finetune_gemma_from_csv.py --mode lora" in html
    assert "python scripts/compare_results.py" in html
    listed = {entry["path"] for entry in json.loads((out / "manifest.json").read_text())["outputs"]}
    assert listed == {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} - {"manifest.json"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--require-better-than", "trees"], 0, "gate passed: tuned against trees"),
        (["--require-better-than", "tuned", "--candidate", "trees"], 1, "gate FAILED: trees against tuned"),
        (["--require-better-than", "nobody"], 2, "no run called 'nobody'; the runs are: tuned, rule, trees"),
        (["--candidate", "nobody"], 2, "no run called 'nobody'"),
        (["--require-better-than", "tuned"], 2, "the candidate itself"),
    ],
)
def test_the_gate_and_names_decide_the_exit_code(folder, tmp_path, capsys, words, code, said):
    assert compare(folder, tmp_path / "out", *words) == code
    assert said in capsys.readouterr().err
    assert (tmp_path / "out").exists() == (code != 2)


def test_validation_runs_make_a_row_of_model_and_baseline_and_a_sentence(tmp_path, capsys):
    """The blend is in every table, and its folder is a run that compares like any other."""
    places = []
    for split, seeds in (("test", (1, 2)), ("validation", (3, 4))):
        write_pair(tmp_path, split, seeds, n=60)
        places.append(tmp_path / split)
        outputs = dict.fromkeys(sorted(path for path in places[-1].rglob("*") if path.is_file()))
        write_manifest(places[-1], script="run_baselines.py", argv=[split], seed=0, inputs={}, outputs=outputs)
    test, validation = map(str, places)
    out = tmp_path / "out"
    assert compare_results.main([test, "--validation-runs", validation, "--out-dir", str(out)]) == 0
    said = capsys.readouterr().out
    assert "Do tuned and trees know different things?" in said and "Weights fitted on 60 validation rows." in said
    for name in ("report.md", "report.html", "comparison.md", "comparison.csv"):
        assert "tuned + trees" in (out / name).read_text(), name
    manifest = json.loads((out / "manifest.json").read_text())
    assert "blend/predictions.jsonl" in {entry["path"] for entry in manifest["outputs"]}
    assert any("validation" in entry["path"] for entry in manifest["inputs"])
    assert compare_results.main([test, str(out / "blend"), "--out-dir", str(tmp_path / "again")]) == 0
    (places[1] / "tuned" / "predictions.jsonl").write_text("")
    assert compare_results.main([test, "--validation-runs", validation, "--out-dir", str(tmp_path / "third")]) == 2
    assert "predictions.jsonl changed since the run was scored" in capsys.readouterr().err


def test_runs_on_other_rows_are_refused_and_nothing_is_written(folder, tmp_path, capsys):
    assert compare(folder, tmp_path / "out", str(folder / "other")) == 2
    assert "have different rows" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
