"""The Colab notebook: its commands parse, its helpers stop and resume, and it runs from top to bottom in a kernel."""

from __future__ import annotations

import ast
import html
import importlib
import json
import os
import random
import re
import shlex
import shutil
import sys
import types
import zipfile
from itertools import pairwise
from pathlib import Path

import fix_notebook_widgets
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from linklab.notebooks.search import find_notebooks

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "gemma_wifi_colab.ipynb"
SETTINGS = ["MODE", "BASE_MODEL", "TARGET", "N_SAMPLES", "N_EPOCHS", "BATCH_SIZE", "OUT_DIR", "USE_DRIVE", "REPOSITORY"]
SMALL = {"BASE_MODEL": "tiny", "N_SAMPLES": 150, "OUT_DIR": "runs/test", "DEMO_ROWS": 120, "DEMO_TEST_ROWS": 20}
STAGES = {  # cell -> (its script, the folder in OUT_DIR that it makes)
    "demo": ("run_demo.py", "demo_tiny"),
    "generate": ("generate_synthetic_large.py", "data"),
    "validate": ("validate_dataset.py", "validation"),
    "convert": ("convert_csv_to_jsonl.py", "jsonl"),
    "baselines": ("run_baselines.py", "baselines"),
    "before": ("evaluate_model.py", "scores/base"),
    "train": ("finetune_gemma_from_csv.py", "lora"),
    "after": ("evaluate_model.py", "scores/lora"),
    "compare": ("compare_results.py", "report"),
    "ask": ("predict.py", "answer.csv"),
    "hub": ("push_to_hub.py", "pushed"),
}
SKIPPED = {"generate", "validate", "convert", "baselines", "before", "train", "after", "compare"}


def read_notebook(**settings) -> nbformat.NotebookNode:
    """Return the notebook with some of its form fields set."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        for name, value in settings.items():
            cell.source = re.sub(rf"^{name} = .*?(?=  # @param)", f"{name} = {value!r}", cell.source, flags=re.M)
    return notebook


def code_cells(notebook) -> dict[str, str]:
    return {cell.id: cell.source for cell in notebook.cells if cell.cell_type == "code"}


def as_python(source: str) -> str:
    """Return a cell as IPython runs it: `!line` becomes a shell call."""
    return TransformerManager().transform_cell(source)


class Shell:
    """Replaces IPython: records the commands that a cell would run, and ends each with `exit_code`."""

    def __init__(self, names: dict) -> None:
        self.names, self.commands, self.exit_code = names, [], 0
        names["get_ipython"] = lambda: self

    def system(self, command: str) -> None:
        self.commands.append(command.format_map(self.names))
        self.names["_exit_code"] = self.exit_code

    def run(self, cell: str, source: str | None = None) -> None:
        source = code_cells(read_notebook(**SMALL))[cell] if source is None else source
        exec(compile(as_python(source), cell, "exec"), self.names)


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """A shell in a folder like Colab's first one: no repository here or above."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("PATH", "PYTHONUNBUFFERED", "HF_TOKEN", "GIT_TERMINAL_PROMPT"):
        monkeypatch.setenv(name, "")  # no nvidia-smi, whatever the machine
    shell = Shell({})
    shell.run("settings")
    return shell


def in_colab(monkeypatch, **modules) -> None:
    """Make google.colab importable with these attributes."""
    colab = types.ModuleType("google.colab")
    for name, value in modules.items():
        setattr(colab, name, value)
    monkeypatch.setitem(sys.modules, "google.colab", colab)


def make_repository(folder: Path) -> Path:
    (folder / "scripts" / "linklab").mkdir(parents=True)
    return folder


def test_every_notebook_is_valid_holds_no_outputs_and_no_widgets():
    found = [path for path in find_notebooks(ROOT) if path.relative_to(ROOT).parts[0] != "runs"]
    assert NOTEBOOK in found
    for path in found:
        text = path.read_text(encoding="utf-8")
        nbformat.validate(json.loads(text))
        notebook = nbformat.reads(text, as_version=4)
        for cell in notebook.cells:
            assert not cell.get("outputs") and cell.get("execution_count") is None, (path, cell.id)
        assert fix_notebook_widgets.main(["--report", str(path)]) == 0
        assert "widgets" not in notebook.metadata


def test_the_first_code_cell_is_the_form_with_every_setting():
    source = next(iter(code_cells(nbformat.read(NOTEBOOK, as_version=4)).values()))
    assert re.findall(r"^(\w+) = .*  # @param", source, flags=re.M) == SETTINGS


def shell_lines(source: str) -> list[tuple[str, str]]:
    """Return each `!` line of a cell, with its continuation lines, and the line that follows it."""
    lines = re.sub(r" \\\n *", " ", source).splitlines() + [""]
    return [(line.strip(), after.strip()) for line, after in pairwise(lines) if line.strip().startswith("!")]


def test_every_script_is_called_in_a_line_to_copy_and_followed_by_a_check_of_its_exit_code():
    called = {}
    for cell, source in code_cells(nbformat.read(NOTEBOOK, as_version=4)).items():
        for line, after in shell_lines(source):
            if line.startswith("!python "):
                assert after == "check(_exit_code)", f"{cell}: {line}"
            if found := re.match(r"!python scripts/(\w+\.py) ", line):
                called[cell] = found[1]
    assert called == {cell: script for cell, (script, _) in STAGES.items()}


@pytest.mark.parametrize("target", ["both", "recommended_channel_mhz", "expected_throughput_mbps"])
@pytest.mark.parametrize("mode", ["lora", "qlora", "full"])
def test_every_command_of_the_notebook_is_one_the_scripts_accept(mode, target):
    fields = SMALL | {"MODE": mode, "TARGET": target}
    names = {"CSV": "a b.csv", "TARGETS": "x,y", "DRY_RUN": "--dry-run", "ONE_ROW": "one row.csv"}
    names |= {"KEEP_ON_DRIVE": '--drive-dir "on drive"', "GENERATED": '--stage "a/data"', "HUB_NAME": "me/model"}
    for source in code_cells(read_notebook(**fields)).values():
        names |= {name: ast.literal_eval(value) for name, value in re.findall(r"^(\w+) = (.*)  # @param", source, re.M)
                  if name not in names}  # fmt: skip
        for line, _ in shell_lines(source):
            if found := re.match(r"!python scripts/(\w+)\.py (.*)", line):
                words = shlex.split(found[2].format_map(names))
                importlib.import_module(found[1]).build_parser().parse_args(words)


def test_a_check_passes_success_and_stops_at_anything_else(shell):
    make_repository(Path.cwd())
    shell.run("setup")
    shell.names["check"](0)
    for code in (1, 2, 130, -9):
        with pytest.raises(RuntimeError, match="the lines above say why"):
            shell.names["check"](code)


def test_set_up_uses_the_repository_the_notebook_lies_in(shell, tmp_path, monkeypatch):
    make_repository(tmp_path)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    shell.run("setup")
    assert Path.cwd() == tmp_path and shell.commands == []


def test_colab_clones_the_repository_once_and_installs_only_what_it_lacks(shell, tmp_path, monkeypatch):
    in_colab(monkeypatch)
    shell.names["REPOSITORY"] = "https://example.org/toolkit"
    system = shell.system

    def clone(command: str) -> None:
        system(command)
        if "git clone" in command:
            make_repository(Path("repository"))

    shell.system = clone
    for _ in range(2):  # again after a restart
        monkeypatch.chdir(tmp_path)
        shell.run("setup")
        assert Path.cwd() == tmp_path / "repository"
    install = "python -m pip install --quiet -r requirements-colab.txt"
    assert shell.commands == ['git clone --quiet --depth 1 "https://example.org/toolkit" repository', install, install]
    lacking = [re.split("[>=]", line)[0] for line in (ROOT / "requirements-colab.txt").read_text().splitlines()]
    brought = (ROOT / "requirements-colab-base.txt").read_text()
    assert not [name for name in lacking if name and name[0] != "#" and f"\n{name}" in brought]


@pytest.mark.parametrize("beside", [True, False], ids=["beside the notebook", "chosen"])
def test_where_the_clone_fails_a_zip_of_the_repository_is_taken(shell, tmp_path, monkeypatch, beside):
    make_repository(tmp_path / "zipped" / "toolkit-main")
    (tmp_path / "zipped" / "toolkit-main" / "scripts" / "linklab" / "cli.py").touch()
    name = "repository" if beside else "toolkit-main"
    shutil.make_archive(str(tmp_path / name), "zip", tmp_path / "zipped", "toolkit-main")
    shutil.rmtree(tmp_path / "zipped")
    in_colab(monkeypatch, files=types.SimpleNamespace(upload=lambda: {"toolkit-main.zip": b""}))
    shell.run("setup")
    assert Path.cwd() == tmp_path / "repository" and Path("scripts/linklab/cli.py").exists()
    assert not [command for command in shell.commands if "git" in command], "OWNER is no address to clone"


def test_without_any_repository_the_setting_is_named(shell):
    with pytest.raises(RuntimeError, match="fill in the setting REPOSITORY"):
        shell.run("setup")


class SecretNotFoundError(Exception):
    pass


@pytest.mark.parametrize(
    "found", ["hf_abc", None, SecretNotFoundError("HF_TOKEN"), PermissionError("no access"), TimeoutError("VS Code")],
    ids=repr,
)  # fmt: skip
def test_in_colab_the_token_cell_survives_whatever_the_secrets_do(shell, monkeypatch, capfd, found):
    def get(name):
        if isinstance(found, Exception):
            raise found
        return found

    make_repository(Path.cwd())
    in_colab(monkeypatch, userdata=types.SimpleNamespace(get=get))
    monkeypatch.setenv("HF_TOKEN", "before")
    shell.run("setup")
    shell.run("accounts")
    printed = "".join(capfd.readouterr())
    assert os.environ["HF_TOKEN"] == ("hf_abc" if found == "hf_abc" else "before")
    assert ("token: found" if found == "hf_abc" else "token: none") in printed and "hf_abc" not in printed


def test_a_colab_without_secrets_at_all_has_no_token(shell, monkeypatch, capfd):
    make_repository(Path.cwd())
    in_colab(monkeypatch)
    shell.run("setup")
    shell.run("accounts")
    assert "token: none (ImportError)" in capfd.readouterr().out


def test_with_drive_results_are_kept_and_come_back_and_training_mirrors_its_checkpoints(shell, monkeypatch, tmp_path):
    make_repository(Path.cwd())
    mounted = []
    in_colab(monkeypatch, drive=types.SimpleNamespace(mount=mounted.append))
    shell.names["USE_DRIVE"] = True
    shell.run("setup")
    source = code_cells(read_notebook(**SMALL))["accounts"].replace("/content/drive/MyDrive", f"{tmp_path}/drive")
    shell.run("accounts", source)
    assert mounted == ["/content/drive"]
    assert shell.names["KEEP_ON_DRIVE"] == f'--drive-dir "{tmp_path}/drive/runs/test/checkpoints/lora"'
    out = Path("runs/test")
    for name in ("lora/checkpoints/checkpoint-9/big", "lora/model/weights", "data/links.csv"):
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text(name)
    shell.names["keep"]()
    shell.names["keep"]()  # again, over what is there
    shutil.rmtree("runs")
    shell.run("accounts", source)
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["links.csv", "weights"]


def test_your_own_table_takes_the_place_of_generated_links(shell):
    make_repository(Path.cwd())
    shell.run("setup")
    shell.run("own")
    assert shell.names["CSV"] == "runs/test/data/links.csv"
    own = code_cells(read_notebook(**SMALL, OWN_CSV="mine.csv", OWN_TARGET="price"))["own"]
    shell.run("own", own)
    shell.run("generate")
    assert (shell.names["CSV"], shell.names["TARGETS"], shell.commands) == ("mine.csv", "price", [])
    shell.run("own")  # and back
    assert "recommended_channel_mhz" in shell.names["TARGETS"]
    with pytest.raises(RuntimeError, match="OWN_TARGET is empty"):
        shell.run("own", own.replace("'price'", "''"))


def test_the_hub_is_used_only_if_a_name_is_given_and_by_default_without_sending(shell):
    make_repository(Path.cwd())
    shell.run("setup")
    shell.run("hub")
    assert shell.commands == []
    shell.run("hub", code_cells(read_notebook(**SMALL, HUB_NAME="me/model"))["hub"])
    assert '--repo "me/model"' in shell.commands[0] and "--dry-run" in shell.commands[0]


def test_only_the_answer_is_marked_as_counted_in_the_loss(shell, monkeypatch, tmp_path):
    import convert_csv_to_jsonl
    import generate_synthetic_smoke

    make_repository(Path.cwd())
    shell.run("setup")
    generate_synthetic_smoke.main(["--out-dir", "runs/test/data"])
    convert_csv_to_jsonl.main(["--csv", "runs/test/data/links.csv", "--out-dir", "runs/test/jsonl", "--workers", "1"])
    shown = []
    shell.names["display"] = shown.append
    shell.run("tokens")
    marked = "".join(re.findall(r"<mark>(.*?)</mark>", shown[0].data, flags=re.S))
    lines = next(Path("runs/test/jsonl").glob("train-*.jsonl")).read_text().splitlines()
    answers = [json.loads(line)["messages"][-1]["content"] for line in lines]
    assert html.unescape(marked).removesuffix("<end_of_turn>").strip() in answers
    assert "MHz" not in marked and len(marked) < len(shown[0].data) / 4


def copy_repository(folder: Path) -> Path:
    """Copy the files the notebook needs, so that runs and broken scripts stay out of this repository."""
    for name in ("scripts", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def execute(repository: Path, **settings) -> tuple[nbformat.NotebookNode, str | None]:
    """Run the notebook in a kernel; return the executed notebook, and the error that stopped it, if any."""
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
    """The output of each cell, as text."""
    return {cell.id: str(cell.get("outputs")) for cell in notebook.cells}


def break_script(repository: Path, script: str, folder: str = "") -> None:
    """Make a script fail if its arguments name `folder`; with other arguments it works as before."""
    path = repository / "scripts" / script
    true = path.with_suffix(".true")
    shutil.copy(path, true)
    path.write_text(
        f"import sys\nif {folder!r} in ' '.join(sys.argv):\n    print('broken on purpose')\n    raise SystemExit(7)\n"
        f"exec(compile(open({str(true)!r}).read(), __file__, 'exec'))\n"
    )


def check_stops_at(repository: Path, stage: str) -> None:
    notebook, error = execute(repository, HUB_NAME="me/model" if stage == "hub" else "")
    cells = list(code_cells(notebook))
    assert error and "exit code 7" in error and "broken on purpose" in error, error
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
    assert "Ceiling of these rows" in shown["generate"]
    assert "--- assistant" in shown["convert"]
    assert "boosting" in shown["baselines"]
    assert "image/png" in shown["train"] and "image/png" in shown["after"]
    assert "text/html" in shown["compare"]
    assert "<mark>" in shown["tokens"] and "count in the loss" in shown["tokens"]
    assert "GiB" in shown["cost"] and "min" in shown["cost"]
    assert "recommended_channel_mhz" in shown["ask"]
    with zipfile.ZipFile(repository / f"{SMALL['OUT_DIR']}.zip") as archive:
        names = archive.namelist()
    assert {"test/report/report.html", "test/lora/model/adapter_config.json"} <= set(names)
    assert not [name for name in names if "checkpoint" in name]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = [o.text for o in outputs if o.get("name") == "stderr" and "IProgress" not in o.text]  # tqdm's, no ipywidgets
    assert not said and not [output for output in outputs if output.output_type == "error"]
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
def test_the_notebook_runs_on_a_table_of_your_own(tmp_path):
    repository = copy_repository(tmp_path)
    rng = random.Random(1)
    rows = [(size := rng.randint(20, 200), rng.choice("ABC"), "dear" if size > 120 else "cheap") for _ in range(300)]
    lines = ["size_m2,district,price", *(",".join(map(str, row)) for row in rows)]
    (repository / "flats.csv").write_text("\n".join(lines) + "\n")
    notebook, error = execute(repository, OWN_CSV="flats.csv", OWN_TARGET="price")
    assert error is None, error
    shown = shown_by(notebook)
    assert "learns price from flats.csv" in shown["own"] and "300 rows" in shown["validate"]
    assert not (repository / SMALL["OUT_DIR"] / "data").exists()


@pytest.mark.slow
def test_a_second_run_skips_every_finished_stage(finished):
    notebook, error = execute(finished[0])
    assert error is None
    for cell in notebook.cells:
        if cell.id in SKIPPED:
            assert "already finished; nothing to do" in str(cell.outputs), cell.id


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_forced_to_fail_stops_the_run_there(finished, stage):
    """The stages before it are finished and skipped; its own script is broken and its output removed."""
    repository, _ = finished
    script, folder = STAGES[stage]
    made, aside = repository / SMALL["OUT_DIR"] / folder, repository / "aside"
    saved = (repository / "scripts" / script).read_text()
    if made.exists():
        made.rename(aside)
    # one script scores before and after training: it breaks only for this stage
    break_script(repository, script, folder if script == "evaluate_model.py" else "")
    try:
        check_stops_at(repository, stage)
    finally:
        (repository / "scripts" / script).write_text(saved)
        if aside.exists():
            aside.rename(made)


LOSES_THE_MACHINE = """
import os, runpy, signal, sys
from pathlib import Path
from linklab.training import checkpoints
true = checkpoints.mark_complete
def mark_and_die(*args):
    true(*args)
    kernel = os.getpid()
    while b"ipykernel" not in Path(f"/proc/{kernel}/cmdline").read_bytes():
        kernel = int(Path(f"/proc/{kernel}/stat").read_text().rpartition(")")[2].split()[1])  # its parent
    os.kill(kernel, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
checkpoints.mark_complete = mark_and_die
runpy.run_path(__file__.replace(".py", "_true.py"), run_name="__main__")
"""


@pytest.mark.slow
def test_after_a_lost_kernel_run_all_continues_from_the_last_checkpoint(finished):
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
