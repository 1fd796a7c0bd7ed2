"""README and quickstart: every command runs in the order of the page, on the tiny model and fewer rows."""

import csv
import importlib
import json
import random
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import save_results
from test_contracts import ROOT, fenced_blocks

# Replacements in a documented command, so that it takes seconds.
SMALLER = {"--base-model embedded": "--base-model tiny", "--model embedded": "--model tiny",
           "--n-samples 5500": "--n-samples 250", "--n-samples 2000": "--n-samples 250",
           "--max-rows 400": "--max-rows 20", "--max-rows 200": "--max-rows 20"}  # fmt: skip


def write_table(path: Path, n: int) -> None:
    """Write a user's own table: the price depends on size and street; several rows per customer."""
    rng = random.Random(1)
    with open(path, "w", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["customer", "street", "size_m2", "price"])
        for number in range(n):
            street, size = rng.choice(["oak", "elm", "ash"]), rng.randrange(20, 200)
            writer.writerow([f"c{number // 3}", street, size, size * (2 + len(street)) + rng.randrange(90)])


def script_blocks(document: str) -> list[str]:
    """The code blocks of a document that call scripts."""
    blocks = ["\n".join(lines) for lines in fenced_blocks(ROOT / document, "bash")]
    return [block for block in blocks if block.startswith("python scripts/")]


def test_there_are_blocks_to_follow():
    assert len(script_blocks("README.md")) == 2 and len(script_blocks("docs/quickstart.md")) == 4


@pytest.mark.slow
@pytest.mark.parametrize("document", ["README.md", "docs/quickstart.md"])
def test_the_commands_of_a_document_run_in_their_order(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "mine.csv", 300)
    write_table(tmp_path / "new.csv", 5)
    text = "\n".join(script_blocks(document))
    for said, smaller in SMALLER.items():
        text = re.sub(re.escape(said) + r"\b", smaller, text)
    for command in text.splitlines():
        _, script, *words = shlex.split(command, comments=True)
        toy_is_refused = script.endswith("push_to_hub.py") and "gemma" in words  # the tiny model is not published
        assert importlib.import_module(Path(script).stem).main(words) == int(toy_is_refused), command


def test_the_address_is_filled_in_everywhere_by_the_documented_command(tmp_path):
    (command,) = [line for block in fenced_blocks(ROOT / "README.md", "bash") for line in block if "perl" in line]
    *_, readme, notebook = shlex.split(command)
    for name in (readme, notebook):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    subprocess.run(shlex.split(command), cwd=tmp_path, check=True)
    for name in (readme, notebook):
        assert "OWNER/REPOSITORY" not in (tmp_path / name).read_text()
        assert "your-name/your-repository" in (tmp_path / name).read_text()
    left = [path for path in ROOT.glob("docs/*.md") if "OWNER/REPOSITORY" in path.read_text()]
    assert not left and "OWNER/REPOSITORY" not in (ROOT / "environment.md").read_text()


def test_the_result_pages_are_made_from_the_saved_figures(tmp_path):
    """Figures are changed by saving a demo (benchmarks/save_results.py), never in a page by hand."""
    shutil.copytree(ROOT / "docs" / "results", tmp_path / "docs" / "results")
    shutil.copy(ROOT / "README.md", tmp_path)
    assert save_results.write_pages(tmp_path) == []
    shown = [figures for path in (ROOT / "docs" / "results").glob("*.json")
             if (figures := json.loads(path.read_text()))["in_readme"]]  # fmt: skip
    assert len(shown) == 1
    for name in re.findall(r"\]\(([\w.-]+\.png)\)", (ROOT / "docs" / "results" / "README.md").read_text()):
        assert (ROOT / "docs" / "results" / name).exists()
