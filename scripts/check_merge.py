"""Run everything that must be green before a merge, and print a table with a line for each gate.

this repository -> a table; exit code 0 when every gate is green, 1 when one is red

    python scripts/check_merge.py

`--only GATE` runs some gates. What a red gate printed is shown, with `--live` what all print while they run; nothing in
the repository is changed.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from linklab import cli
from linklab.notebooks.search import find_notebooks

ROOT = Path(__file__).resolve().parents[1]
LINES_SHOWN = 60  # of a failing command's output


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which gates are run, and whether their output is shown."""

    only: tuple[str, ...] | None  # None: all
    live: bool


class Gate(NamedTuple):
    """One thing that must hold, and the Python commands that check it; `{scratch}` is a temporary folder."""

    name: str
    shows: str
    commands: tuple[str, ...]


GATES = (
    Gate("lint", "ruff and mypy find nothing, and ruff would format nothing differently",
         ("-m ruff check .", "-m ruff format --check .", "-m mypy")),
    Gate("tests", "the default tests pass",
         ("-m pytest -n auto",)),
    Gate("smoke", "50 rows are generated, sound, and become conversations",
         ("scripts/generate_synthetic_smoke.py --out-dir {scratch}/data",
          "scripts/validate_dataset.py {scratch}/data/links.csv --report {scratch}/report.json",
          "scripts/convert_csv_to_jsonl.py --csv {scratch}/data/links.csv --out-dir {scratch}/jsonl")),
    Gate("notebooks", "every notebook, in any folder, is valid, holds no outputs, and renders",
         ("scripts/fix_notebook_widgets.py --report {notebooks}",
          "-m nbstripout --verify --keep-id {notebooks}",
          "-m pytest -n 0 tests/project/test_notebook.py -k valid_holds_no_outputs",
          "-m nbconvert --log-level ERROR --to html --output-dir {scratch} {notebooks}")),
    Gate("notebook run", "it runs from top to bottom on the tiny model",
         ("-m pytest -n 0 -m slow tests/project/test_notebook.py -k runs_from_top_to_bottom",)),
    Gate("hooks", "pre-commit passes on every file",
         ("-m pytest -n 0 -m slow tests/project/test_precommit.py -k this_repository_passes",)),
    Gate("documents", "README and docs name every script, and every command in them is one the scripts accept",
         ("-m pytest -n 0 tests/project/test_contracts.py",)),
    Gate("artifacts", "every file a stage writes is explained in the documents",
         ("-m pytest -n 0 tests/scripts/test_run_demo.py -k every_file_a_stage_writes",)),
)  # fmt: skip


class Result(NamedTuple):
    """The result of a gate: `failed` is the command that failed, None if all passed."""

    gate: Gate
    failed: str | None
    seconds: float


def fill_words(command: str, scratch: Path) -> list[str]:
    """Return a gate's command as words; `{notebooks}` becomes every notebook except those in runs/."""
    found = (path.relative_to(ROOT) for path in find_notebooks(ROOT))
    notebooks = [str(path) for path in found if path.parts[0] != "runs"]
    words: list[str] = []
    for word in command.split():
        words += notebooks if word == "{notebooks}" else [word.replace("{scratch}", str(scratch))]
    return words


def run_gate(gate: Gate, live: bool) -> Result:
    """Run a gate's commands until one fails; show the output of that one, or with `live` of all while they run."""
    started = time.monotonic()
    env = os.environ if live else {**os.environ, "NO_COLOR": "1"}
    with tempfile.TemporaryDirectory(prefix="check_merge.") as scratch:
        for command in gate.commands:
            done = subprocess.run(
                [sys.executable, *fill_words(command, Path(scratch))],
                cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=None if live else subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace", check=False,
            )  # fmt: skip
            if done.returncode:
                cli.say(f"\n$ python {command}\n" + "\n".join((done.stdout or "").splitlines()[-LINES_SHOWN:]))
                return Result(gate, f"{command} (exit code {done.returncode})", time.monotonic() - started)
    return Result(gate, None, time.monotonic() - started)


def write_table(results: list[Result]) -> str:
    """Return the results as a markdown table, and a last line that says how many gates are red."""
    rows = [("gate", "", "time", "what it shows")]
    for gate, failed, seconds in results:
        shows = f"NOT: {gate.shows}; failed: python {failed}" if failed else gate.shows
        rows.append((gate.name, "RED" if failed else "green", cli.format_seconds(seconds), shows))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["| " + " | ".join([*map(str.ljust, row[:3], widths), row[3]]) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|---|")
    red = [r.gate.name for r in results if r.failed]
    lines.append(f"\n{len(results)} gates, {len(red)} red" + (f": {', '.join(red)}" if red else ""))
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("Gates")
    group.add_argument(
        "--only", nargs="+", metavar="GATE", choices=[gate.name for gate in GATES],
        help="run these alone: " + ", ".join(f"'{gate.name}'" for gate in GATES),
    )  # fmt: skip
    group.add_argument("--live", action="store_true", help="show what the commands print while they run")
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the gates in the order of the list, the cheap ones first, and print the table."""
    settings = cli.read_settings(Settings, args)
    results = []
    for gate in GATES:
        if settings.only and gate.name not in settings.only:
            continue
        cli.say(f"{gate.name}: {gate.shows} ...")
        results.append(run_gate(gate, settings.live))
    print(write_table(results))
    return int(any(result.failed for result in results))


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
