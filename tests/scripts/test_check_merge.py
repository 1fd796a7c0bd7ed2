"""check_merge.py: a table and an exit code; and for each gate a canary that must turn it red."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import check_merge
import pytest
from check_merge import Gate

ROOT = Path(__file__).parents[2]
FINE, FAILS = "-c pass", "-c print('why');raise(SystemExit(3))"


@pytest.fixture
def gates(monkeypatch):
    """A function that replaces the gates."""
    return lambda *gates: monkeypatch.setattr(check_merge, "GATES", gates)


def test_green_gates_give_a_table_and_exit_code_0(gates, capsys):
    gates(Gate("one", "one holds", (FINE, FINE)), Gate("two", "two holds", (FINE,)))
    assert check_merge.main([]) == 0
    table = capsys.readouterr().out
    assert re.search(r"\| one +\| green +\| \d+ s +\| one holds \|\n\| two +\| green", table)
    assert "2 gates, 0 red\n" in table


def test_a_red_gate_is_named_with_its_command_and_output_and_the_others_still_run(gates, capsys):
    gates(Gate("one", "one holds", (FINE, FAILS)), Gate("two", "two holds", (FINE,)))
    assert check_merge.main([]) == 1
    told = capsys.readouterr()
    assert "| one  | RED" in told.out and "NOT: one holds" in told.out and "(exit code 3)" in told.out
    assert "| two  | green" in told.out and "2 gates, 1 red: one\n" in told.out
    assert "\nwhy\n" in told.err


def test_with_live_a_gate_prints_while_it_runs(gates, capfd):
    gates(Gate("one", "one holds", (FAILS,)))
    assert check_merge.main(["--live"]) == 1
    out, shown = capfd.readouterr()
    assert out.startswith("why\n") and "exit code 3" in out
    assert "\nwhy\n" not in shown


def test_a_command_after_a_failing_one_is_not_run(gates, tmp_path):
    gates(Gate("one", "", (FAILS, f"-c open('{tmp_path}/made','w')")))
    assert check_merge.main([]) == 1
    assert not (tmp_path / "made").exists()


def test_only_the_gates_asked_for_run(gates, capsys):
    gates(Gate("one", "", (FAILS,)), Gate("two", "", (FINE,)))
    assert check_merge.main(["--only", "two"]) == 0
    assert check_merge.main(["--only", "two", "one"]) == 1
    assert check_merge.main(["--only", "three"]) == 2
    assert "invalid choice: 'three'" in capsys.readouterr().err


def test_every_gate_has_a_canary():
    assert {gate for gate, _, _ in CANARIES} == {gate.name for gate in check_merge.GATES}


def put(name: str, text: str):
    """Return a function that breaks a copy of the repository: it writes a file with this text."""

    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    return write


def replace(name: str, old: str, new: str):
    """Return a function that breaks a copy of the repository: it replaces one text in a file."""

    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text, f"{name} no longer holds {old!r}: the canary breaks nothing"
        (folder / name).write_text(text.replace(old, new))

    return change


def break_one_test_of_few(folder: Path) -> None:
    """Break a formula, and keep only the tests that guard it, so that the canary takes seconds."""
    for path in (folder / "tests").rglob("test_*.py"):
        if path.name != "test_channels.py":
            path.unlink()
    replace("scripts/linklab/radio/channels.py", "5000 + 5 *", "5000 + 6 *")(folder)


STATE = "application/vnd.jupyter.widget-state+json"
FLAT = f'{{"widgets": {{"{STATE}": {{"m": {{}}}}}}}}'
PRINTED = {"output_type": "stream", "name": "stdout", "text": "1"}


def other_notebook(metadata: str, outputs: list | None = ()) -> str:
    """Return a notebook of one cell; with `outputs` None the key is missing, which nbformat refuses."""
    cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "source": "1"}
    cells = [cell | ({} if outputs is None else {"outputs": list(outputs)})]
    return json.dumps({"cells": cells, "metadata": json.loads(metadata), "nbformat": 4, "nbformat_minor": 4})


NOTEBOOK = "notebooks/gemma_wifi_colab.ipynb"
RAISES = "raise SystemExit(7)\n"
CANARIES = [  # gate, what is broken, function that breaks it
    ("lint", "an import nobody uses", put("scripts/linklab/unused.py", "import os\n")),
    ("lint", "a line laid out otherwise", put("scripts/linklab/unused.py", "a = [1,2]\n")),
    ("tests", "a formula", break_one_test_of_few),
    ("smoke", "a generator that fails", put("scripts/generate_synthetic_smoke.py", RAISES)),
    ("smoke", "data outside their ranges",
     replace("scripts/generate_synthetic_smoke.py", "raise SystemExit(main())",
             "import sys\n    code = main()\n    path = sys.argv[sys.argv.index('--out-dir') + 1] + '/links.csv'\n"
             "    text = open(path).read()\n    open(path, 'w').write(text.replace('FCC', 'FFC'))\n"
             "    raise SystemExit(code)")),
    ("notebooks", "broken widgets",
     replace(NOTEBOOK, '"accelerator"', f'"widgets": {{"{STATE}": {{"m": {{}}}}}}, "accelerator"')),
    ("notebooks", "an output",
     replace(NOTEBOOK, '"outputs": []', '"outputs": [{"output_type": "stream", "name": "stdout", "text": "1"}]')),
    ("notebooks", "widget models without state, in another folder", put("docs/deep/w.ipynb", other_notebook(FLAT))),
    ("notebooks", "outputs, in another folder", put("docs/deep/o.ipynb", other_notebook("{}", [PRINTED]))),
    ("notebooks", "what nbformat refuses, in another folder", put("docs/N.IPYNB", other_notebook("{}", None))),
    ("notebooks", "a notebook of zero bytes", put("docs/empty.ipynb", "")),
    ("notebooks", "a cell that is none", replace(NOTEBOOK, '"cell_type": "markdown"', '"cell_type": "prose"')),
    ("notebook run", "a stage that fails", put("scripts/run_baselines.py", RAISES)),
    ("hooks", "a private key", put("docs/key.pem", "-----BEGIN RSA PRIVATE" + " KEY-----\n")),
    ("hooks", "a large file", put("docs/data.csv", "1,2,3\n" * 100_000)),
    ("documents", "an option no script has", replace("README.md", "--seed 1 --out-dir runs/data", "--sede 1")),
    ("documents", "a script nobody explains", put("scripts/new.py", '"""New."""\n')),
    ("documents", "a link to nowhere", replace("docs/training.md", "](results/", "](result/")),
    ("documents", "an error no code says", replace("docs/troubleshooting.md", "out of memory; …", "no memory; …")),
    ("artifacts", "a file nobody explains", replace("docs/files.md", "`trainer_log.csv`", "`log.csv`")),
]  # fmt: skip


def copy_repository(folder: Path) -> Path:
    """Copy every file that git would take into a new repository, with a link to this environment."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    (folder / ".git" / "info" / "exclude").write_text(".venv\n")  # .gitignore names a folder, and this is a link
    return folder


def check(folder: Path, gate: str) -> subprocess.CompletedProcess:
    """Run one gate of a copy, as from a new shell."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "GIT_", "COV_"))}
    command = [sys.executable, "scripts/check_merge.py", "--only", gate]
    return subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize(("gate", "what", "breaks"), CANARIES, ids=[f"{gate}: {what}" for gate, what, _ in CANARIES])
def test_a_canary_turns_its_gate_red(tmp_path, gate, what, breaks):
    copy = copy_repository(tmp_path / "copy")
    breaks(copy)
    done = check(copy, gate)
    assert done.returncode == 1, done.stdout + done.stderr[-3000:]
    assert re.search(rf"^\| {gate} +\| RED ", done.stdout, flags=re.M), done.stdout
    assert f"1 gates, 1 red: {gate}" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("gate", [gate.name for gate in check_merge.GATES if gate.name != "tests"])
def test_each_gate_is_green_without_its_canary(tmp_path, gate):
    """All gates except the tests themselves, which take minutes: `make check` runs them."""
    done = check(copy_repository(tmp_path / "copy"), gate)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
