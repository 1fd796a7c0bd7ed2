"""run_demo.py: each stage reads earlier ones, is skipped when done, and runs again when one of its inputs changed."""

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import run_demo
from linklab.manifest import read_manifest

SMALL = ["--base-model", "tiny", "--max-rows", "24", "--test-rows", "8"]
NAMES = [
    "data", "validation", "jsonl", "baselines", "baselines_fit", "base", "finetune", "tuned", "tuned_fit", "tuned_free",
    "report",
]  # fmt: skip


def run_here(commands):
    """Return a replacement for run_demo.call that runs the script in this process and records its command."""

    def call(command):
        commands.append(command[1:])
        script = importlib.import_module(Path(command[1]).stem)
        return script.main(command[2:])

    return call


def scripts_of(commands):
    return [Path(command[0]).stem for command in commands]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A finished demo: (its folder, the commands it ran)."""
    out, commands = tmp_path_factory.mktemp("demo") / "out", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_demo, "call", run_here(commands))
        assert run_demo.main([*SMALL, "--out-dir", str(out)]) == 0
    return out, commands


def test_every_stage_reads_only_what_is_there_before_it(tmp_path):
    """Every path in a stage's command, inside the demo's folder, is its own output or that of an earlier stage."""
    for model in ("tiny", "embedded", "google/gemma-3-270m-it"):
        made: list[str] = []
        stages = run_demo.plan_stages(model, 1000, 400, 1, tmp_path)
        assert [stage.name for stage in stages] == NAMES
        for stage in stages:
            own = str(tmp_path / stage.name)
            assert str(stage.manifest).startswith(own)
            for word in stage.words:
                if word.startswith(str(tmp_path)):
                    assert any(word == path or word.startswith(f"{path}/") for path in [own, *made]), (stage.name, word)
            made.append(own)
            parser = importlib.import_module(Path(stage.script).stem).build_parser()
            parser.parse_args(stage.words)  # exits if the script does not accept the command


@pytest.mark.parametrize("rows, test_rows", [(1000, 400), (24, 8), (4000, 100), (10, 1000)])
def test_enough_rows_are_generated_for_training_and_for_testing(tmp_path, rows, test_rows):
    data = run_demo.plan_stages("tiny", rows, test_rows, 1, tmp_path)[0]
    samples = int(data.words[data.words.index("--n-samples") + 1])
    assert samples * 0.8 >= rows and samples * 0.1 >= test_rows


def test_the_demo_runs_its_stages_in_order_and_ends_with_the_report_and_the_verdict(demo, monkeypatch, capfd):
    out, commands = demo
    assert len(commands) == len(NAMES)
    assert all((out / name).is_dir() for name in NAMES)
    assert (out / "report" / "report.html").stat().st_size > 0
    verdict = read_manifest(out / "report")["extra"]["verdict"]
    for part in (
        "tuned model",
        "base model",
        "best baseline",
        "ceiling",
        "%",
        "[",
        "Did training help?",
        "What next?",
        "know different things?",
    ):
        assert part in verdict
    monkeypatch.setattr(run_demo, "call", run_here(again := []))
    assert run_demo.main([*SMALL, "--out-dir", str(out)]) == 0
    told = capfd.readouterr()
    assert told.out.splitlines() == [f"report: {out}/report/report.html", *verdict.splitlines()]
    assert again == [] and told.err.count("already done") == len(NAMES)  # and a second run does nothing


def explained_files(script):
    """The names in backticks in a script's section of docs/files.md."""
    text = (Path(run_demo.__file__).parents[1] / "docs" / "files.md").read_text()
    section = text.split(f"## {script}\n")[1].split("\n## ")[0]
    return {
        name
        for line in section.splitlines()
        if line.startswith("|")
        for name in re.findall("`([^`]+)`", line.split("|")[1])
    }


def test_the_times_of_the_whole_demo_and_of_each_stage_are_printed(tmp_path, monkeypatch, capsys):
    clock = iter(range(0, 10_000, 10))  # every call is ten seconds later
    monkeypatch.setattr(run_demo.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(run_demo, "call", lambda command: 0)
    monkeypatch.setattr(run_demo, "read_manifest", lambda path: {"extra": {"verdict": ""}})
    assert run_demo.main([*SMALL, "--out-dir", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert "all 11 stages done in 3 min 50 s" in said  # 11 stages, 2 calls each, and one at the end
    assert said.count(": 10 s\n") == 11


def test_every_file_a_stage_writes_is_explained_in_the_documents(demo):
    out, _ = demo
    for stage in run_demo.plan_stages("tiny", 24, 8, 1, out):
        explained, seen = explained_files(stage.script), set()
        for path in stage.manifest.parent.rglob("*"):
            if path.is_file():
                first, *rest = path.relative_to(stage.manifest.parent).parts
                name = "BASELINE/" if rest and stage.script == "run_baselines.py" else f"{first}/" if rest else first
                name = re.sub("recommended_channel_mhz|expected_throughput_mbps", "TARGET", name)
                seen.add(re.sub("^(train|validation|test)(?=-0)", "SPLIT", name))
        assert seen <= explained, f"docs/files.md does not explain what {stage.script} writes: {seen - explained}"
        missing = (
            explained
            - seen
            - {"merged/", "exports/PROGRAM/", ".next/", "general_questions.json"}
            - ({"reliability_TARGET.png"} if "--free" in stage.words else set())
        )
        assert not missing, f"{stage.script} writes no {missing}"


@pytest.fixture
def changeable_demo(demo, tmp_path):
    """The demo's folder, restored afterwards (manifests name paths, so a copy elsewhere would be stale)."""
    shutil.copytree(demo[0], tmp_path / "kept")
    yield demo[0]
    shutil.rmtree(demo[0])
    shutil.copytree(tmp_path / "kept", demo[0])


def bytes_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_another_option_is_refused_and_with_force_repeats_only_the_stages_that_depend_on_it(
    changeable_demo, monkeypatch, capfd
):
    """With one training row less, the data and the untrained model's scores stay; the other stages run again."""
    monkeypatch.setattr(run_demo, "call", run_here(commands := []))
    before = bytes_of(changeable_demo)
    assert run_demo.main([*SMALL, "--max-rows", "23", "--out-dir", str(changeable_demo)]) == 2
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and "stage baselines is finished, and would be made again (its command changed)" in said[0]
    assert "choose another --out-dir, or pass --force" in said[0]
    assert commands == [] and bytes_of(changeable_demo) == before  # nothing was touched
    assert run_demo.main([*SMALL, "--max-rows", "23", "--force", "--out-dir", str(changeable_demo)]) == 0
    again = ["run_baselines", "run_baselines", "finetune_gemma_from_csv", *["evaluate_model"] * 3, "compare_results"]
    assert scripts_of(commands) == again
    assert all("--force" in command for command in commands)


def test_an_edited_file_is_named_and_stays(changeable_demo, monkeypatch, capfd):
    monkeypatch.setattr(run_demo, "call", run_here(commands := []))
    metrics = changeable_demo / "base" / "metrics.json"
    metrics.write_text(edited := metrics.read_text().replace("0", "1", 1))
    for force, said in (([], "metrics.json changed"), (["--force"], "'metrics.json', which was changed after")):
        assert run_demo.main([*SMALL, "--out-dir", str(changeable_demo), *force]) == 2
        assert said in capfd.readouterr().err
    assert metrics.read_text() == edited and scripts_of(commands) == ["evaluate_model"]


def test_a_lost_file_runs_again_with_force_the_stage_that_made_it_and_those_that_read_it(changeable_demo, monkeypatch):
    monkeypatch.setattr(run_demo, "call", run_here(commands := []))
    (changeable_demo / "base" / "metrics.json").unlink()
    assert run_demo.main([*SMALL, "--out-dir", str(changeable_demo)]) == 2
    assert run_demo.main([*SMALL, "--force", "--out-dir", str(changeable_demo)]) == 0
    assert scripts_of(commands) == ["evaluate_model", "compare_results"]  # the first one's output holds its time
    assert all("--force" in command for command in commands)


@pytest.mark.parametrize("fails_at, code", [("validate_dataset", 1), ("finetune_gemma_from_csv", 143)])
def test_a_failing_stage_stops_the_demo_with_its_exit_code(demo, tmp_path, monkeypatch, capfd, fails_at, code):
    commands = []

    def call(command):
        commands.append(command[1:])
        return code if Path(command[1]).stem == fails_at else 0

    monkeypatch.setattr(run_demo, "call", call)
    assert run_demo.main([*SMALL, "--out-dir", str(tmp_path / "out")]) == code
    assert scripts_of(commands)[-1] == fails_at and scripts_of(commands).count(fails_at) == 1
    told = capfd.readouterr().err
    assert f"ended with exit code {code}" in told
    for command in commands:  # each was printed before it ran
        assert f"$ python {command[0]} {command[1]}" in told


def script(tmp_path, text):
    path = tmp_path / "stage.py"
    path.write_text(text)
    return path


def test_a_stage_is_called_with_its_words_and_its_exit_code_is_returned(tmp_path):
    path = script(tmp_path, "import sys; sys.exit(int(sys.argv[1]))")
    for code in (0, 1, 2, 130):
        assert run_demo.call([sys.executable, str(path), str(code)]) == code
    killed = script(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert run_demo.call([sys.executable, str(killed)]) == 128 + signal.SIGKILL


STAGE = """
import os, pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
def stop(number, frame):
    (here / "stopped").write_text(str(number))
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
(here / "pid").write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel ends orphans on Linux alone")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_demo_that_is_killed_or_stopped_ends_its_stage_too(tmp_path, number):
    stage = script(tmp_path, STAGE)
    code = f"import run_demo, sys; sys.exit(run_demo.call([sys.executable, {str(stage)!r}, {str(tmp_path)!r}]))"
    path = os.pathsep.join([str(Path(run_demo.__file__).parent), os.environ.get("PYTHONPATH", "")])
    demo = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path})
    try:
        wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        pid = int((tmp_path / "pid").read_text())
        demo.send_signal(number)
        assert demo.wait(30) == (-signal.SIGKILL if number == signal.SIGKILL else 128 + signal.SIGTERM)
        wait_for(lambda: (tmp_path / "stopped").exists())
        assert (tmp_path / "stopped").read_text() == str(int(signal.SIGTERM))
        wait_for(lambda: not runs(pid))
    finally:
        demo.kill()


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel ends orphans on Linux alone")
def test_a_demo_killed_during_training_continues_from_the_last_checkpoint(tmp_path):
    """Real processes: after SIGKILL to the demo its training ends, and the next demo continues from the checkpoint."""
    out = tmp_path / "out"
    command = [sys.executable, run_demo.__file__, "--base-model", "tiny", "--max-rows", "400", "--test-rows", "20",
               "--out-dir", str(out)]  # fmt: skip
    checkpoints = out / "finetune" / "checkpoints"
    demo = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(checkpoints.glob("checkpoint-*/complete.json")), 300)
    children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
    demo.kill()
    demo.communicate()
    assert len(children) == 1
    wait_for(lambda: not runs(int(children[0])))
    assert not (out / "finetune" / "manifest.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    before = int(re.findall(r"\[(\d+)/\d+\] finetune:", done.stderr)[0]) - 1
    assert "continuing from" in done.stderr and done.stderr.count("already done") == before > 0
    assert (out / "report" / "report.html").exists()
