"""The promises between README, scripts and rooms: what is documented exists, and what exists is documented."""

import ast
import dataclasses
import functools
import json
import re
import shlex
import subprocess
import sys
from importlib import util
from pathlib import Path

import check_merge
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from linklab import __main__ as linklab_command
from linklab import cli

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
ROOMS = sorted((ROOT / "scripts" / "linklab").rglob("*.py"))
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "environment.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
HEAVY = ("torch", "transformers", "datasets", "peft", "pandas", "matplotlib")


def load(path: Path):
    spec = util.spec_from_file_location(f"contract_{path.stem}", path)
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module by name
    spec.loader.exec_module(module)
    return module


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    """Every node of a file's syntax tree, the root first."""
    return list(ast.walk(ast.parse(path.read_text())))


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Names of the modules that a file imports."""
    found = set()
    for node in nodes_of(path)[0].body if top_level_only else nodes_of(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def fenced_blocks(document: Path, language: str) -> list[list[str]]:
    """The lines of every code block of a language."""
    blocks, inside = [], None
    for line in document.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            if inside is None and line == f"```{language}":
                inside = []
                blocks.append(inside)
            else:
                inside = None if inside is not None or line == "```" else []
        elif inside is not None:
            inside.append(line)
    return blocks


def commands() -> list[tuple[str, str]]:
    """Every command in the documents' code blocks, without comments."""
    found = []
    for document in DOCUMENTS:
        lines = [line for block in fenced_blocks(document, "bash") for line in block]
        lines += [
            line for block in fenced_blocks(document, "") for line in block if re.match(r"(\$ |python|make)", line)
        ]
        for line in lines:
            words = re.sub(r"(^|\s)#\s.*", "", line).removeprefix("$ ").strip()
            found += [(str(document.relative_to(ROOT)), words)] if words else []
    return found


def named_in_text() -> list[tuple[str, str]]:
    """Every `make …` in a sentence."""
    return [
        (str(document.relative_to(ROOT)), command)
        for document in DOCUMENTS
        for command in re.findall(r"`(make [^`…]+)`", document.read_text())
    ]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_the_readme_lists_every_script(path):
    assert f"| `{path.name}` |" in (ROOT / "README.md").read_text()


def test_the_readme_lists_only_existing_scripts():
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
    heavy = HEAVY if path.name == "import_survey.py" else (*HEAVY, "numpy")  # its options are columns of links.csv
    blocker = f"import sys; sys.modules.update(dict.fromkeys({heavy!r})); "
    run = f"import runpy; sys.path.insert(0, {str(path.parent)!r}); sys.argv = [{str(path)!r}, '--help']; "
    run += f"runpy.run_path({str(path)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", blocker + run], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_help_opens_with_the_scripts_own_first_sentence(path):
    module = load(path)
    first = module.__doc__.strip().partition("\n\n")[0]
    assert " ".join(first.split()) in " ".join(module.build_parser().format_help().split())


@pytest.mark.parametrize("name", ["BRANCH_TASKS.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_the_files_that_the_plan_names_exist(name):
    named = re.findall(r"`((?:scripts|tests|docs|benchmarks|notebooks)/[\w./-]+)`", (ROOT / name).read_text())
    assert named or name == "CHANGELOG.md"
    assert not [path for path in named if not (ROOT / path).exists()]


def test_there_are_commands_to_check():
    assert len(commands()) >= 40
    assert {document for document, _ in commands()} >= {"README.md", "environment.md", "docs/quickstart.md"}


# Commands that are not our scripts: a pattern, and a file that each needs.
OTHERS = {
    r"python3 -m venv \.venv": "Makefile",
    r"(\.venv/bin/)?python -m pip install( --extra-index-url \S+)? -r requirements\.txt": "requirements.txt",
    r"python -m pip install \.": "pyproject.toml",
    r"linklab --help": "scripts/linklab/__main__.py",
    r"\.venv/bin/pre-commit install": ".pre-commit-config.yaml",
    r"source \.venv/bin/activate": "Makefile",
    r"perl -pi -e 's\|OWNER/REPOSITORY\|.*' README\.md notebooks/gemma_wifi_colab\.ipynb": "README.md",
}


@pytest.mark.parametrize(("document", "command"), sorted({*commands(), *named_in_text()}))
def test_every_documented_command_is_one_that_works_here(document, command):
    """Our commands are parsed by their real parsers, make's are not run, the rest are matched by name."""
    launcher = r"(?:(?:\.venv/bin/)?python3?|(?:accelerate launch|torchrun)(?: --\w+(?: [\w.]+)?)*)"
    if found := re.fullmatch(launcher + r"\s+((?:scripts|benchmarks)/\w+\.py)(.*)", command):
        assert (ROOT / found[1]).exists(), f"{document} names {found[1]}"
        load(ROOT / found[1]).build_parser().parse_args(shlex.split(found[2]))  # exits on an unknown option
    elif (found := re.fullmatch(r"linklab ([\w-]+) (.*)", command)) and found[1] in linklab_command.COMMANDS:
        script = ROOT / "scripts" / f"{linklab_command.COMMANDS[found[1]]}.py"
        load(script).build_parser().parse_args(shlex.split(found[2]))
    elif command.startswith("make "):
        done = subprocess.run(["make", "-n", *shlex.split(command)[1:], "PYTHON=true"], cwd=ROOT, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        makefile = (ROOT / "Makefile").read_text()
        for name in re.findall(r"([A-Z]+)=", command):  # make accepts any name silently
            assert f"$({name})" in makefile, f"{document}: the Makefile knows no {name}"
    else:
        needs = [path for pattern, path in OTHERS.items() if re.fullmatch(pattern, command)]
        assert needs, f"{document}: nothing checks `{command}`"
        assert (ROOT / needs[0]).exists()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_inside_the_repository_leads_somewhere(document):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", document.read_text()):
        path = document.parent / target if target else document
        assert path.exists(), f"{document.name} links to {target}"
        headings = re.findall(r"^#+ (.+)", path.read_text(), flags=re.M) if anchor else []
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}  # as GitHub does
        assert not anchor or anchor in anchors, f"{document.name} links to {target}#{anchor}"


def test_every_document_can_be_reached_from_the_readme():
    readme = (ROOT / "README.md").read_text()
    for document in DOCUMENTS[1:]:
        if document.parent.name != "results":
            assert f"]({document.relative_to(ROOT)})" in readme, f"README.md does not link {document.name}"


@functools.cache
def spoken_lines() -> frozenset[str]:
    """Every text in the scripts, rooms, notebook and Makefile, with … for an inserted name or number."""
    notebook = json.loads((ROOT / "notebooks" / "gemma_wifi_colab.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    said = {re.sub(r"\$\(\w+\)", "…", line) for line in (ROOT / "Makefile").read_text().splitlines()}
    cells = [TransformerManager().transform_cell(cell) for cell in cells]  # `!line` becomes a call
    for nodes in [*map(nodes_of, [*SCRIPTS, *ROOMS]), *(ast.walk(ast.parse(cell)) for cell in cells)]:
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                said.add("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
    return frozenset(said | {(ROOT / ".pre-commit-config.yaml").read_text()})


def test_every_error_in_the_troubleshooting_page_is_in_the_code():
    """Each of our lines must occur in the code; `…` in the page matches any inserted text."""
    others = {"KeyError: 'state'", "KeyError: 'model_id'"}  # nbconvert's words
    spoken = spoken_lines()
    lines = [line for block in fenced_blocks(ROOT / "docs" / "troubleshooting.md", "text") for line in block]
    assert len(lines) >= 25
    for line in lines:
        line = re.sub(r"^RuntimeError: |\.{5,}Failed$", "", line)
        pattern = ".*".join(re.escape(part) for part in line.split("…"))
        assert line in others or any(re.search(pattern, text) for text in spoken), f"no code says: {line}"


def test_every_test_named_in_the_reliability_page_exists():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text()))
    text = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 40 and not named - set(re.findall(r"^def (test_\w+)\(", text, flags=re.M))


def test_every_message_in_the_messages_page_is_in_the_code():
    spoken = spoken_lines()
    rows = re.findall(r"^\| .+ \| (.+) \|$", (ROOT / "docs" / "messages.md").read_text(), flags=re.M)[1:]
    said = [message for message in rows if not message.startswith("(")]  # "(read as it is)" is not a message
    assert len(rows) >= 30 and len(said) >= 28
    for message in said:
        pattern = ".*".join(re.escape(part) for part in message.split("…"))
        assert any(re.search(pattern, text) for text in spoken), f"no code says: {message}"


def test_ci_runs_what_is_here_with_actions_pinned_by_commit():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    pins = re.findall(r"uses: \S+@(.*)", text)
    assert pins and all(re.fullmatch(r"[0-9a-f]{40} # v[\d.]+", pin) for pin in pins), pins
    assert re.findall(r"run: (.*)", text) == ["bash .ci/run", "make canaries"]
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    made = [shlex.split(line, comments=True) for line in lines if line.startswith("make ")]
    gates = next(shlex.split(word.removeprefix("GATES=")) for words in made for word in words if "GATES=" in word)
    missed = {gate.name for gate in check_merge.GATES} - {*gates, "lint", "tests", "documents"}  # make lint, make test
    assert not missed and [words[1] for words in made] == ["lint", "test", "check", "demo"]
    for command in [*made, ["make", "check"], ["make", "canaries"]]:
        done = subprocess.run(["make", "-n", *command[1:], "PYTHON=true"], cwd=ROOT, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()


# A room may import only rooms of earlier levels, not rooms of its own level.
LEVELS = (
    {"config_file"}, {"cli", "aside", "radio"}, {"notebooks", "locks", "parallel", "hub"}, {"files"}, {"manifest"},
    {"tables", "pipeline"}, {"links"}, {"tasks", "validation"}, {"metrics"}, {"reports", "models"}, {"training"},
    {"inference"}, {"baselines"}, {"studies"}, {"publish"}, {"__main__"},
)  # fmt: skip
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: str(path.relative_to(ROOT / "scripts" / "linklab")))
def test_rooms_import_in_one_direction(path):
    room = path.relative_to(ROOT / "scripts" / "linklab").parts[0].removesuffix(".py")
    names = imports(path)
    for name in names:
        if name.split(".")[0] in {"torch", "transformers", "peft", "accelerate", "bitsandbytes"}:
            assert room in {"models", "training", "inference"}, f"{room} may not import {name}"
        assert name.split(".")[0] not in {script.stem for script in SCRIPTS}
    rooms = {name.split(".")[1] for name in names if name.startswith("linklab.")} - {room, "__version__"}
    for other in rooms:
        assert LEVEL_OF[other] < LEVEL_OF[room], f"{room} may not import {other}"


@pytest.mark.parametrize("path", [*SCRIPTS, *ROOMS], ids=lambda path: path.name)
def test_heavy_packages_are_imported_inside_functions_only(path):
    # modules that are themselves imported inside functions only: one draws plots, one is a transformers Trainer
    entered_late = {"plots.py": {"matplotlib"}, "answer_trainer.py": {"torch", "transformers"}}.get(path.name, set())
    top = {name.split(".")[0] for name in imports(path, top_level_only=True)}
    assert not (top & {*HEAVY, "sklearn", "scipy", "accelerate", "bitsandbytes"}) - entered_late
    for other in imports(path, top_level_only=True):
        assert not other.endswith(".answer_trainer"), f"{path.name} may import {other} inside functions only"


def test_documents_and_code_contain_no_path_of_one_machine():
    for path in [*DOCUMENTS, *SCRIPTS, *ROOMS]:
        assert not re.search(r"(?<![\w.])/(?:root|home|work|Users)/", path.read_text()), path


def test_the_data_guide_names_every_column_as_the_schema_does():
    from linklab.links.links import LINK_SCHEMA

    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    for column in LINK_SCHEMA.columns:
        assert f"| `{column.name}` |" in text and column.description in text, column.name


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: str(path.relative_to(ROOT / "scripts" / "linklab")))
def test_link_columns_are_named_in_the_rooms_of_links_and_radio_alone(path):
    from linklab.links.links import LINK_SCHEMA

    if path.relative_to(ROOT / "scripts" / "linklab").parts[0] not in ("links", "radio"):
        assert not re.findall(rf"\b(?:{'|'.join(LINK_SCHEMA.names)})\b", path.read_text()), path


# Where options become settings: nothing else in the rooms takes an argparse.Namespace.
MAKES_SETTINGS = {"from_args", "read_settings", "skip_finished", "run_unless_finished"}


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: str(path.relative_to(ROOT / "scripts" / "linklab")))
def test_no_function_of_a_room_takes_the_parsed_arguments(path):
    if path.name == "cli.py":
        return
    for node in nodes_of(path):
        if isinstance(node, ast.FunctionDef) and node.name not in MAKES_SETTINGS:
            taken = [ast.unparse(arg.annotation) for arg in node.args.args + node.args.kwonlyargs if arg.annotation]
            assert not [name for name in taken if "Namespace" in name], f"{path.name}: {node.name}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_reads_the_parsed_arguments_in_makers_of_settings_only(path):
    """`run(args)` passes them to a function that returns settings; no other line of a script reads them."""
    handed: set[ast.AST] = set()
    for node in nodes_of(path):
        called = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
        if called in MAKES_SETTINGS or (isinstance(node, ast.FunctionDef) and node.name in MAKES_SETTINGS):
            handed |= set(ast.walk(node))
    seen = [n for n in nodes_of(path) if isinstance(n, ast.Name) and n.id == "args" and n not in handed]
    assert not seen, f"{path.name}: args on lines {', '.join(str(node.lineno) for node in seen)}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_option_of_a_script_is_a_field_of_settings(path):
    """An option without a field would be accepted silently and have no effect."""
    from linklab.inference.row_answers import AskSettings
    from linklab.links import field_rows
    from linklab.studies.options import CurveSettings, SweepSettings
    from linklab.tasks.source import Source
    from linklab.training.options import TrainingSettings

    script = load(path)
    shared = {"finetune_gemma_from_csv": TrainingSettings, "run_learning_curve": CurveSettings,
              "run_sweep": SweepSettings}  # fmt: skip
    settings = getattr(script, "Settings", None) or shared[path.stem]
    held = {field.name for kind in (settings, Source, AskSettings) for field in dataclasses.fields(kind)}
    held |= {name.removeprefix("--").replace("-", "_") for name, _ in cli.TABLE_OPTIONS}
    held |= {column.name for column in field_rows.link_options().values()} if path.stem == "import_survey" else set()
    options = {action.dest for action in script.build_parser()._actions}
    assert options - held == {"help", "version", "debug", "config"} | options & {"skip_finished"}


def test_no_function_is_more_complex_than_radon_grade_c():
    from radon.complexity import cc_visit

    for path in [*SCRIPTS, *ROOMS]:
        for block in cc_visit(path.read_text()):
            for one in (block, *getattr(block, "methods", ()), *getattr(block, "closures", ())):
                assert one.complexity <= 20, f"{path.name}: {one.name} has complexity {one.complexity}; split it"
