"""The promises between README, scripts and rooms: what is documented exists, and what exists is documented."""

import ast
import re
import shlex
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
ROOMS = sorted((ROOT / "scripts" / "linklab").rglob("*.py"))
DOCUMENTS = [ROOT / "README.md", ROOT / "environment.md", *sorted((ROOT / "docs").rglob("*.md"))]
HEAVY = ("torch", "transformers", "datasets", "peft", "pandas", "matplotlib")


def load(path: Path):
    spec = util.spec_from_file_location(f"contract_{path.stem}", path)
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Names of the modules a file imports."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def commands() -> list[tuple[str, str]]:
    """Every `python scripts/…` line of the documents' code blocks."""
    found = []
    for document in DOCUMENTS:
        fenced = False
        for line in document.read_text().replace("\\\n", " ").splitlines():
            if line.startswith("```"):
                fenced = not fenced
            elif fenced and (match := re.match(r"(?:\$ )?(?:\.venv/bin/)?python3? (scripts/.*)", line.strip())):
                found.append((document.name, match[1]))
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_the_readme_lists_every_script(path):
    assert f"| `{path.name}` |" in (ROOT / "README.md").read_text()


def test_the_readme_lists_no_script_that_is_gone():
    named = set(re.findall(r"\| `(\w+\.py)` \|", (ROOT / "README.md").read_text()))
    assert named == {path.name for path in SCRIPTS}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_option_has_help(path):
    for action in load(path).build_parser()._actions:
        assert action.help, f"{path.name}: {action.option_strings or action.dest} has no help"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_imports_a_script(path):
    stems = {other.stem for other in SCRIPTS}
    assert not {name.split(".")[0] for name in imports(path)} & stems


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_help_answers_where_the_heavy_packages_cannot_be_imported(path):
    blocker = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r})); "
    run = f"import runpy; sys.path.insert(0, {str(path.parent)!r}); sys.argv = [{str(path)!r}, '--help']; "
    run += f"runpy.run_path({str(path)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", blocker + run], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_help_opens_with_the_scripts_own_first_sentence(path):
    module = load(path)
    assert module.__doc__.strip().splitlines()[0] in module.build_parser().format_help()


def test_there_are_commands_to_check():
    assert len(commands()) >= 8


@pytest.mark.parametrize(("document", "command"), commands())
def test_every_documented_command_parses_against_the_real_parser(document, command):
    script, *words = shlex.split(command)
    path = ROOT / script
    assert path.exists(), f"{document} names {script}"
    load(path).build_parser().parse_args(words)  # exits, and so fails, on a word the parser does not know


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: str(path.relative_to(ROOT / "scripts" / "linklab")))
def test_rooms_import_in_one_direction(path):
    room = path.relative_to(ROOT / "scripts" / "linklab").parts[0]
    names = imports(path)
    for name in names:
        if name.split(".")[0] in {"torch", "transformers", "peft", "accelerate", "bitsandbytes"}:
            assert room == "model", f"only linklab/model may import {name}"
        assert name.split(".")[0] not in {script.stem for script in SCRIPTS}
    own = {name.split(".")[1] for name in names if name.startswith("linklab.") and name.count(".")}
    if room == "radio":
        assert own <= {"radio"}, "radio imports no other room"
    if room == "data":
        assert not own & {"model", "score"}, "data knows neither models nor scores"


@pytest.mark.parametrize("path", [*SCRIPTS, *ROOMS], ids=lambda path: path.name)
def test_heavy_packages_are_imported_inside_functions_only(path):
    drawing = {"matplotlib"} if path.name == "plots.py" else set()  # a room that is only entered to draw
    top = {name.split(".")[0] for name in imports(path, top_level_only=True)}
    assert not (top & {*HEAVY, "sklearn", "scipy", "accelerate", "bitsandbytes"}) - drawing


def test_the_documents_and_code_name_no_path_of_one_machine():
    for path in [*DOCUMENTS, *SCRIPTS, *ROOMS]:
        assert not re.search(r"(?<![\w.])/(?:root|home|work|Users)/", path.read_text()), path


def test_the_data_guide_names_every_column_as_the_schema_does():
    from linklab.data.links import LINK_SCHEMA

    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    for column in LINK_SCHEMA.columns:
        assert f"| `{column.name}` |" in text and column.description in text, column.name
