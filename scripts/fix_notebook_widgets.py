#!/usr/bin/env python3
"""Fix what stops a notebook from rendering on GitHub and in nbconvert, and leave every other byte as it is.

*.ipynb -> the same files; `-` reads stdin and writes stdout, as a git filter
    python scripts/fix_notebook_widgets.py notebooks

Widget models without `state` (Colab wrote them so) stop nbconvert with KeyError 'state', a view without `model_id` with
KeyError 'model_id'; nbformat calls such notebooks valid. --widgets says what happens to the models:
  keep     they stay, beside an empty `state` (the form Colab writes today): every viewer shows the text of the outputs
  text     the same, and views with text beside them go, so that text is shown where Jupyter saved working widgets, too
  remove   all widget metadata goes
--repair also fixes what nbformat 4 refuses ("Invalid Notebook"): keys that are missing, superfluous or null.
Exit code: 0 nothing to do, 1 a notebook was fixed (with --check or --report: would be), 2 one could not be read or
written. A notebook from stdin that was fixed is not a failure: 0.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from linklab import cli
from linklab.notebooks.fixing import Outcome, UnreadableNotebook, decode, fix
from linklab.notebooks.replacing import replace_bytes
from linklab.notebooks.search import find_notebooks
from linklab.notebooks.widgets import TREATMENTS

STDIN = Path("-")


@dataclass(frozen=True)
class Settings:
    """Which notebooks are fixed, and what is done to each."""

    paths: tuple[Path, ...]
    widgets: str
    repair: bool
    check: bool
    report: bool

    @property
    def write(self) -> bool:
        """Whether anything is written."""
        return not self.check and (self.repair or not self.report)


def fix_file(path: Path, settings: Settings) -> Outcome:
    """Fix one notebook in place, or from stdin to stdout; raise UserError when it cannot be read."""
    name = "<stdin>" if path == STDIN else str(path)
    data = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
    try:
        text = decode(data)
    except UnreadableNotebook as error:
        raise cli.UserError(f"{name}{error.at}: {error}") from error
    outcome = fix(text, widgets=settings.widgets, repair=settings.repair)
    if path == STDIN:
        if settings.write:
            sys.stdout.buffer.write(outcome.text.encode("utf-8"))
            sys.stdout.buffer.flush()
    elif outcome.fixed and settings.write:
        replace_bytes(path.resolve(), outcome.text.encode("utf-8"))  # a link stays a link
    return outcome


def say_outcome(path: Path, outcome: Outcome, settings: Settings) -> None:
    """Print a line for each problem: with --report for every one, without it for those fixed now."""
    name = "<stdin>" if path == STDIN else path
    done = "fixed" if settings.write else "would fix"
    lines = [(said.line, f"{done}: {said.problem}: {said.fix}") for said in outcome.fixed]
    if settings.report:
        lines += [(said.line, f"{said.problem} (--repair: {said.fix})") for said in outcome.repairable]
    if settings.report or settings.repair:
        lines += [(said.line, f"not fixed: {said.problem}: {said.fix}") for said in outcome.unfixed]
    for line, what in sorted(lines):
        cli.say(f"{name}:{line}: {what}")


def build_parser() -> argparse.ArgumentParser:
    """Return the script's options."""
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("Input")
    group.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH",
        help="notebook, folder to search for *.ipynb, or - for stdin to stdout",
    )  # fmt: skip
    group = parser.add_argument_group("What is fixed")
    group.add_argument("--widgets", choices=TREATMENTS, default="keep", help="what happens to widget models")
    group.add_argument("--repair", action="store_true", help="also fix what nbformat 4 refuses, where nothing is lost")
    group = parser.add_argument_group("Output")
    group.add_argument("--check", action="store_true", help="say what would be fixed and write nothing")
    group.add_argument(
        "--report", action="store_true",
        help="name every problem by line, also what only --repair fixes, or what cannot be fixed without loss; "
        "writes nothing unless --repair is given",
    )  # fmt: skip
    return parser


def find_all(paths: Sequence[Path]) -> tuple[list[Path], int]:
    """Return the notebooks in these files and folders, and how many could not be read (each is named)."""
    notebooks: list[Path] = []
    n_failed = 0
    for path in paths:
        try:
            notebooks += find_notebooks(path)
        except OSError as error:
            n_failed += 1
            cli.say(f"error: {error.filename}: {(error.strerror or str(error)).lower()}")
    return notebooks, n_failed


def run(args: argparse.Namespace) -> int:
    """Fix every notebook named, and return the exit code."""
    settings = cli.read_settings(Settings, args)
    n_fixed = n_with_problems = 0
    notebooks, n_failed = find_all(settings.paths)
    for notebook in notebooks:
        try:
            outcome = fix_file(notebook, settings)
        except (cli.UserError, OSError) as error:
            n_failed += 1
            reason = f"{notebook}: {(error.strerror or '').lower()}" if isinstance(error, OSError) else error
            cli.say(f"error: {reason}")
            continue
        n_fixed += bool(outcome.fixed)
        n_with_problems += bool(outcome.repairable or outcome.unfixed)
        say_outcome(notebook, outcome, settings)
    notes = f", {n_failed} failed" if n_failed else ""
    if n_with_problems:
        notes += f", {n_with_problems} with problems left{'' if settings.report else ' (--report names them)'}"
    cli.say(f"{n_fixed} of {len(notebooks)} notebooks {'' if settings.write else 'would be '}fixed{notes}")
    if n_failed:
        return 2
    if settings.paths == (STDIN,) and settings.write:
        return 0
    return int(n_fixed > 0 or (n_with_problems > 0 and (settings.report or settings.repair)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
