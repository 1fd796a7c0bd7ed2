"""The Colab notebook: its commands parse, its helpers stop and resume, and it runs from top to bottom in a kernel."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import sys
import time
import types
from pathlib import Path

import fix_notebook_widgets
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "gemma_wifi_colab.ipynb"
SETTINGS = ["MODE", "BASE_MODEL", "TARGET", "N_SAMPLES", "N_EPOCHS", "BATCH_SIZE", "OUT_DIR", "USE_DRIVE", "REPOSITORY"]
SMALL = {"BASE_MODEL": "tiny", "N_SAMPLES": 150, "OUT_DIR": "runs/test", "DEMO_ROWS": 120, "DEMO_TEST_ROWS": 20}
STAGES = {  # cell -> (its script, the folder below OUT_DIR that it makes)
    "demo": ("run_demo.py", "demo_tiny"),
    "generate": ("generate_synthetic_large.py", "data"),
    "validate": ("validate_dataset.py", "validation"),
    "convert": ("convert_csv_to_jsonl.py", "jsonl"),
    "baselines": ("run_baselines.py", "baselines"),
    "before": ("evaluate_model.py", "scores/base"),
    "train": ("finetune_gemma_from_csv.py", "lora"),
    "after": ("evaluate_model.py", "scores/lora"),
    "compare": ("compare_results.py", "report"),
}


def read_notebook(**settings) -> nbformat.NotebookNode:
    """Return the notebook with some of its form fields set."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        for name, value in settings.items():
            cell.source = re.sub(rf"^{name} = .*?(?=  # @param)", f"{name} = {value!r}", cell.source, flags=re.M)
    return notebook


def code_cells(notebook) -> dict[str, str]:
    return {cell.id: cell.source for cell in notebook.cells if cell.cell_type == "code"}


@pytest.fixture
def set_up(tmp_path, monkeypatch):
    """What the notebook's first two cells define, working in an empty copy of the repository's layout."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "linklab").symlink_to(ROOT / "scripts" / "linklab")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    monkeypatch.setenv("PATH", "")  # no nvidia-smi, whatever the machine
    names: dict = {}
    cells = code_cells(read_notebook(**SMALL))
    for cell in ("settings", "setup"):
        exec(compile(cells[cell], cell, "exec"), names)
    return names


def test_the_notebook_is_valid_holds_no_outputs_and_no_widgets():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None, cell.id
    assert fix_notebook_widgets.main(["--check", str(NOTEBOOK)]) == 0
    assert "widgets" not in notebook.metadata


def test_the_first_code_cell_is_the_form_with_every_setting():
    source = next(iter(code_cells(nbformat.read(NOTEBOOK, as_version=4)).values()))
    assert re.findall(r"^(\w+) = .*  # @param", source, flags=re.M) == SETTINGS


@pytest.mark.parametrize("target", ["both", "recommended_channel_mhz", "expected_throughput_mbps"])
@pytest.mark.parametrize("mode", ["lora", "qlora", "full"])
def test_every_command_of_the_notebook_is_one_the_scripts_accept(set_up, mode, target):
    commands = []
    set_up |= {"stage": lambda folder, script, *words, **kwargs: commands.append((script, *words))}
    set_up |= {"run": lambda python, path, *words: commands.append((Path(path).name, *words))}
    for name, source in code_cells(read_notebook(**SMALL, MODE=mode, TARGET=target)).items():
        body = ast.parse(source).body
        calls = [i for i, node in enumerate(body) if isinstance(node, ast.Expr) and _called(node) in ("stage", "run")]
        if name == "settings" or calls:  # what follows the call only shows its files
            exec(compile(ast.Module(body[: calls[-1] + 1] if calls else body, []), name, "exec"), set_up)
    assert [script for script, *_ in commands] == [script for script, _ in STAGES.values()]
    for script, *words in commands:
        parser = importlib.import_module(Path(script).stem).build_parser()
        parser.parse_args([str(word) for word in words])


def _called(node: ast.Expr) -> str:
    return getattr(getattr(node.value, "func", None), "id", "")


def test_run_shows_the_output_and_raises_where_the_command_fails(set_up, capfd):
    set_up["run"](sys.executable, "-c", "print('fine')")
    with pytest.raises(RuntimeError, match="exit code 3"):
        set_up["run"](sys.executable, "-c", "print('why', flush=True); raise SystemExit(3)")
    printed = capfd.readouterr().out
    assert "fine\n" in printed and "why\n" in printed


def test_the_stop_button_ends_the_command_too(set_up):
    def stop():
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        set_up["run"](sys.executable, "-c", "import time; print(flush=True); time.sleep(60)", meanwhile=stop)
    assert time.monotonic() - started < 10


@pytest.fixture
def in_colab(set_up, tmp_path, monkeypatch):
    """The set-up's names in a folder as Colab starts in: no repository here or above."""
    (tmp_path / "content").mkdir()
    (tmp_path / "scripts" / "linklab").unlink()
    monkeypatch.chdir(tmp_path / "content")
    return set_up


def test_colab_clones_the_repository_once_and_finds_it_again_after_a_restart(in_colab, tmp_path):
    commands = []

    def clone(*words):
        commands.append([str(word) for word in words])
        (words[-1] / "scripts" / "linklab").mkdir(parents=True)

    in_colab |= {"run": clone, "REPOSITORY": "https://example.org/toolkit"}
    assert in_colab["find_repository"]() == tmp_path / "content" / "repository"
    assert in_colab["find_repository"]() == tmp_path / "content" / "repository"
    assert len(commands) == 1 and commands[0][:2] == ["git", "clone"] and "https://example.org/toolkit" in commands[0]


def test_an_address_that_was_never_filled_in_is_named_before_git_asks_for_a_password(in_colab):
    with pytest.raises(RuntimeError, match="REPOSITORY is not filled in"):
        in_colab["find_repository"]()


MAKES_A_FOLDER = """
import sys
from pathlib import Path
from linklab import files
from linklab.manifest import write_manifest
folder = Path(sys.argv[1])
(folder / "checkpoints").mkdir(parents=True)
(folder / "checkpoints" / "big").touch()
(folder / "made.txt").write_text("made")
outputs = {folder / "made.txt": None}
write_manifest(folder, script=__file__, argv=sys.argv[1:], seed=None, inputs={}, outputs=outputs)
"""


def test_a_finished_stage_is_skipped_and_comes_back_from_drive_after_a_lost_machine(set_up, tmp_path, capfd):
    (tmp_path / "scripts" / "make.py").write_text(MAKES_A_FOLDER)
    drive, made = tmp_path / "drive", Path("runs/test/a")
    set_up["DRIVE"] = drive
    set_up["stage"]("a", "make.py", made)
    assert "not run yet" in capfd.readouterr().out
    assert sorted(path.name for path in (drive / "a").iterdir()) == ["made.txt", "manifest.json"]
    set_up["stage"]("a", "make.py", made)
    assert "finished already" in capfd.readouterr().out
    shutil.rmtree("runs")
    set_up["stage"]("a", "make.py", made)
    printed = capfd.readouterr().out
    assert "brought back from Drive" in printed and "finished already" in printed
    assert (made / "made.txt").read_text() == "made"


def test_a_copy_that_differs_is_an_error_and_leaves_the_old_copy(set_up, tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "target"
    for folder, text in ((source, "new"), (target, "old")):
        folder.mkdir()
        (folder / "f").write_text(text)
    true_copy = shutil.copytree

    def lossy(source, new, **kwargs):
        true_copy(source, new, **kwargs)
        (new / "f").write_text("n")

    monkeypatch.setattr(shutil, "copytree", lossy)
    with pytest.raises(RuntimeError, match="differs"):
        set_up["copy_folder"](source, target)
    assert (target / "f").read_text() == "old"


def test_set_up_in_colab_installs_every_pin_but_keeps_its_torch(set_up, tmp_path, monkeypatch):
    (tmp_path / "requirements.txt").write_text("torch==0.1\ntorchmetrics==1.0\nnumpy==2.4.6\n")
    monkeypatch.setattr(set_up["importlib"].metadata, "version", lambda name: {"torch": "2.9.0+cu126"}[name])
    commands = []
    set_up["run"] = lambda *words: commands.append(words)
    set_up["install_requirements"]()
    assert commands[0][-1].read_text().split() == ["torch==2.9.0+cu126", "torchmetrics==1.0", "numpy==2.4.6"]


@pytest.mark.parametrize("secret", ["hf_abc", None])
def test_in_colab_the_token_reaches_the_scripts_and_is_never_printed(set_up, monkeypatch, capfd, secret):
    class SecretNotFoundError(Exception):
        pass

    def get(name):
        if secret is None:
            raise SecretNotFoundError(name)
        return secret

    mounted = []
    colab = types.ModuleType("google.colab")
    colab.drive = types.SimpleNamespace(mount=mounted.append)
    colab.userdata = types.SimpleNamespace(
        get=get, SecretNotFoundError=SecretNotFoundError, NotebookAccessError=PermissionError
    )
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setenv("HF_TOKEN", "before")
    set_up |= {"IN_COLAB": True, "USE_DRIVE": True}
    exec(compile(code_cells(read_notebook())["accounts"], "accounts", "exec"), set_up)
    assert os.environ["HF_TOKEN"] == (secret or "before")
    assert mounted == ["/content/drive"] and set_up["DRIVE"] == Path("/content/drive/MyDrive/runs/test")
    printed = "".join(capfd.readouterr())
    assert "token: found" in printed if secret else "token: none" in printed
    assert "hf_abc" not in printed


def test_the_newest_whole_checkpoint_is_kept_on_drive_and_no_other(set_up, tmp_path):
    source = code_cells(read_notebook())["train"]
    exec(source[: source.index("stage(")], set_up)
    made, kept = Path("runs/test/lora/checkpoints"), tmp_path / "drive" / "lora" / "checkpoints"
    for age_s, name, whole in ((20, "checkpoint-9", True), (10, "checkpoint-10", True), (0, "checkpoint-11", False)):
        (made / name).mkdir(parents=True)
        if whole:
            (made / name / "complete.json").touch()
            os.utime(made / name / "complete.json", (time.time() - age_s,) * 2)
    (kept / "checkpoint-8").mkdir(parents=True)
    set_up |= {"DRIVE": tmp_path / "drive"}
    set_up["keep_checkpoint"]()
    assert [path.name for path in kept.iterdir()] == ["checkpoint-8"], "five minutes have not passed"
    set_up["copied_at"] -= 301
    set_up["keep_checkpoint"]()
    assert [path.name for path in kept.iterdir()] == ["checkpoint-10"]


def copy_repository(folder: Path) -> Path:
    """Copy what the notebook needs, so that runs and broken scripts stay out of this repository."""
    for name in ("scripts", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.txt", folder)
    return folder


def execute(repository: Path, **settings) -> tuple[nbformat.NotebookNode, str | None]:
    """Run the notebook in a kernel; return it as it stands at the end, and the error it stopped with, if any."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = read_notebook(**SMALL | settings)
    client = NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(repository / "notebooks")}})
    try:
        client.execute()
    except CellExecutionError as error:
        return notebook, str(error)
    return notebook, None


def executed_cells(notebook) -> list[str]:
    return [cell.id for cell in notebook.cells if cell.cell_type == "code" and cell.execution_count]


def shown_by(notebook) -> dict[str, str]:
    """What each cell shows, as text."""
    return {cell.id: str(cell.get("outputs")) for cell in notebook.cells}


def break_script(repository: Path, script: str) -> None:
    (repository / "scripts" / script).write_text("print('broken on purpose')\nraise SystemExit(7)\n")


def check_stops_at(repository: Path, stage: str) -> None:
    notebook, error = execute(repository)
    cells = list(code_cells(notebook))
    assert error and "exit code 7" in error, error
    assert executed_cells(notebook) == cells[: cells.index(stage) + 1]


def test_a_failing_first_stage_stops_the_run(tmp_path):
    repository = copy_repository(tmp_path)
    break_script(repository, STAGES["demo"][0])
    check_stops_at(repository, "demo")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A copy of the repository in which the notebook has run from top to bottom on the tiny model."""
    repository = copy_repository(tmp_path_factory.mktemp("finished"))
    notebook, error = execute(repository)
    assert error is None, error
    return repository, notebook


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom_and_shows_its_results(finished):
    from nbconvert import HTMLExporter

    repository, notebook = finished
    assert executed_cells(notebook) == list(code_cells(notebook))
    shown = shown_by(notebook)
    assert "Bayes ceiling" in shown["generate"]
    assert "--- assistant" in shown["convert"]
    assert "boosting" in shown["baselines"]
    assert "image/png" in shown["train"] and "image/png" in shown["after"]
    assert "text/html" in shown["compare"]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    html, _ = HTMLExporter().from_notebook_node(notebook)
    (repository / "executed.html").write_text(html)


@pytest.mark.slow
def test_the_notebook_runs_on_the_real_weights_and_training_pays(tmp_path):
    """About 170 training rows and 40 test rows: a few minutes on a CPU. Look at executed.html in pytest's folder."""
    from nbconvert import HTMLExporter

    repository = copy_repository(tmp_path)
    notebook, error = execute(repository, BASE_MODEL="embedded", N_SAMPLES=420, N_EPOCHS=0.5)
    html, _ = HTMLExporter().from_notebook_node(notebook)
    (repository / "executed.html").write_text(html)
    assert error is None, error
    assert executed_cells(notebook) == list(code_cells(notebook))
    scores = repository / SMALL["OUT_DIR"] / "scores"
    before, after = (json.loads((scores / run / "metrics.json").read_text())["metrics"] for run in ("base", "lora"))
    metric = "expected_throughput_mbps/mae"
    assert after[metric]["value"] < before[metric]["value"], "training taught nothing"


@pytest.mark.slow
def test_a_second_run_skips_every_finished_stage(finished):
    notebook, error = execute(finished[0])
    assert error is None
    for cell in notebook.cells:
        if cell.id in STAGES and cell.id != "demo":
            assert "finished already" in str(cell.outputs), cell.id


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_forced_to_fail_stops_the_run_there(finished, stage):
    """The stages before it are finished and skipped; its own script is broken and its output gone."""
    repository, _ = finished
    script, folder = STAGES[stage]
    made, aside = repository / SMALL["OUT_DIR"] / folder, repository / "aside"
    saved = (repository / "scripts" / script).read_text()
    made.rename(aside)
    break_script(repository, script)
    try:
        check_stops_at(repository, stage)
    finally:
        (repository / "scripts" / script).write_text(saved)
        aside.rename(made)


LOSES_THE_MACHINE = """
import os, runpy, signal, sys
from linklab.training import checkpoints
true = checkpoints.mark_complete
def mark_and_die(*args):
    true(*args)
    os.kill(os.getppid(), signal.SIGKILL)  # the notebook's kernel
    os.kill(os.getpid(), signal.SIGKILL)
checkpoints.mark_complete = mark_and_die
runpy.run_path(__file__.replace(".py", "_true.py"), run_name="__main__")
"""


@pytest.mark.slow
def test_after_a_lost_kernel_run_all_goes_on_from_the_last_checkpoint(finished):
    from nbclient.exceptions import DeadKernelError

    repository, _ = finished
    out, script = repository / SMALL["OUT_DIR"], repository / "scripts" / STAGES["train"][0]
    true = script.rename(script.with_name(script.name.replace(".py", "_true.py")))
    shutil.move(out / "lora", repository / "lora_before")
    script.write_text(LOSES_THE_MACHINE)
    try:
        with pytest.raises(DeadKernelError):
            execute(repository)
        assert list((out / "lora" / "checkpoints").glob("*/complete.json")), "nothing to go on from"
        true.replace(script)
        notebook, error = execute(repository)
        assert error is None, error
        assert re.search(r"continuing from .*checkpoint-\d+", shown_by(notebook)["train"])
    finally:
        if true.exists():
            true.replace(script)
