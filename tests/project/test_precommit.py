"""Real pre-commit in temporary repositories: the fixer installed from this repository, and our own hooks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import linklab
import pytest
import virtualenv.seed.wheels.embed
import yaml
from scripts.test_check_merge import copy_repository

ROOT = Path(__file__).parents[2]
STATE = "application/vnd.jupyter.widget-state+json"
FLAT = json.dumps({"cells": [], "metadata": {"widgets": {STATE: {"m": {}}}}, "nbformat": 4, "nbformat_minor": 4}) + "\n"
FIXED = FLAT.replace('{"m": {}}', '{"m": {}, "state": {}}')
PRE_COMMIT = [sys.executable, "-m", "pre_commit"]


@pytest.fixture
def env(tmp_path) -> dict[str, str]:
    """An environment without the user's git settings, git's own variables, or access to the internet."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "PRE_COMMIT", "SKIP"))}
    names = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    walls = dict.fromkeys(("http_proxy", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9") | {"PIP_NO_INDEX": "1"}
    # pip builds the package with setuptools: from the wheel virtualenv brings, not from an index
    wheels = Path(virtualenv.seed.wheels.embed.__file__).parent
    walls |= {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(wheels)}
    own = {"HOME": str(tmp_path), "PRE_COMMIT_HOME": str(tmp_path / "cache"), "GIT_CONFIG_NOSYSTEM": "1"}
    return kept | names | walls | own


def call(env: dict[str, str], folder: Path, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def make_repository(env: dict[str, str], folder: Path) -> None:
    """Make `folder` a git repository with one commit of all its files."""
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "--allow-empty", "-m", "start"]):
        done = call(env, folder, "git", *command)
        assert done.returncode == 0, done.stdout


def copy_package(folder: Path) -> None:
    """Copy the files that pip needs to install this repository, and those that define the hook for others."""
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", ".pre-commit-hooks.yaml"):
        shutil.copy(ROOT / name, folder / name)


def read_documented_config() -> str:
    """Return the `.pre-commit-config.yaml` that README shows."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    (shown,) = (block for block in blocks if "repos:" in block)
    return shown


@pytest.mark.slow  # real pre-commit is in the default suite below, and in the hooks gate
@pytest.mark.parametrize("by", ["commit", "tag"])
def test_another_repository_installs_the_fixer_as_documented_and_its_commit_is_refused_until_fixed(tmp_path, env, by):
    ours, theirs = tmp_path / "toolkit", tmp_path / "theirs"
    copy_package(ours)
    make_repository(env, ours)
    revision = call(env, ours, "git", "rev-parse", "HEAD").stdout.strip()
    theirs.mkdir()
    config = read_documented_config().replace("https://github.com/OWNER/REPOSITORY", str(ours))
    tag = f"v{linklab.__version__}"
    if by == "tag":
        assert call(env, ours, "git", "tag", "-a", tag, "-m", "Release").returncode == 0
    else:
        assert tag in config
        config = config.replace(tag, revision)
    (theirs / ".pre-commit-config.yaml").write_text(config)
    make_repository(env, theirs)
    assert call(env, theirs, *PRE_COMMIT, "install").returncode == 0

    notebook = theirs / "colab.ipynb"
    notebook.write_text(FLAT)
    call(env, theirs, "git", "add", ".")
    refused = call(env, theirs, "git", "commit", "-m", "notebook")
    assert refused.returncode != 0
    assert "colab.ipynb:1: fixed: 1 widget model without 'state': kept" in refused.stdout
    assert notebook.read_text() == FIXED
    assert call(env, theirs, "git", "log", "--oneline").stdout.count("\n") == 1, "the broken notebook was committed"

    call(env, theirs, "git", "add", ".")
    passed = call(env, theirs, "git", "commit", "-m", "notebook")
    assert passed.returncode == 0, passed.stdout
    assert "warning" not in (refused.stdout + passed.stdout).lower()
    assert call(env, theirs, "git", "show", "HEAD:colab.ipynb").stdout == FIXED

    (python,) = (tmp_path / "cache").glob("repo*/py_env-*/bin/python")
    listed = json.loads(call(env, theirs, str(python), "-m", "pip", "list", "--format=json").stdout)
    assert {package["name"] for package in listed} - {"pip", "setuptools", "wheel"} == {"linklab-toolkit"}


def test_the_readme_shows_the_whole_configuration_for_the_hook():
    shown = yaml.safe_load(read_documented_config())
    offered = {hook["id"] for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
    (repository,) = shown["repos"]
    assert {hook["id"] for hook in repository["hooks"]} <= offered
    assert repository["rev"] == f"v{linklab.__version__}"


def run_own_hooks(env: dict[str, str], folder: Path) -> tuple[dict[str, str], str]:
    """Commit everything and run every hook of our own configuration: {hook: Passed or Failed}, the output.

    Committed first, as in CI: the check for large files looks only at files that are being added.
    """
    call(env, folder, "git", "add", ".")
    call(env, folder, "git", "commit", "-q", "-m", "canaries")
    printed = call(env, folder, *PRE_COMMIT, "run", "--all-files", "--color=never").stdout
    lines = [line.rsplit(".", 1) for line in printed.splitlines() if line.endswith((".Passed", ".Failed"))]
    return {name.rstrip("."): verdict for name, verdict in lines}, printed


def test_each_of_our_own_hooks_fails_for_its_canary_and_passes_without_it(tmp_path, env):
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in (".pre-commit-config.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / "scripts").symlink_to(ROOT / "scripts")  # the hooks run these scripts, and do not check them here
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / ".gitignore").write_text(".venv\n.ruff_cache\n")
    make_repository(env, folder)
    output = {"output_type": "stream", "name": "stdout", "text": "1"}
    cell = {"cell_type": "code", "execution_count": 1, "metadata": {}, "outputs": [output], "source": "1"}
    shown = json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4})
    canaries = {
        "fix notebook widgets": ("flat.ipynb", FLAT),
        "notebooks without outputs (clear all outputs and save)": ("shown.ipynb", shown),
        "ruff": ("unused.py", "import os\n"),
        "no file above 500 kB": ("data.csv", "1,2,3\n" * 100_000),
        "no private key": ("key.pem", "-----BEGIN RSA PRIVATE" + " KEY-----\n"),
    }
    for name, text in canaries.values():
        (folder / name).write_text(text)
    verdicts, printed = run_own_hooks(env, folder)
    assert verdicts == dict.fromkeys(canaries, "Failed"), printed
    assert (folder / "shown.ipynb").read_text() == shown, "a notebook with outputs is refused, not changed"
    for name, _ in canaries.values():
        (folder / name).unlink()
    (folder / "flat.ipynb").write_text(FLAT.replace(f'{{"widgets": {{"{STATE}": {{"m": {{}}}}}}}}', "{}"))
    verdicts, printed = run_own_hooks(env, folder)
    assert verdicts == dict.fromkeys(canaries, "Passed"), printed


@pytest.mark.slow
def test_this_repository_passes_its_own_hooks(tmp_path, env):
    """On a copy of all files that git would take, so that the test fixes nothing in this repository."""
    folder = copy_repository(tmp_path / "copy")
    make_repository(env, folder)
    verdicts, printed = run_own_hooks(env, folder)
    assert set(verdicts.values()) == {"Passed"}, printed
