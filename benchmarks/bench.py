"""Shared by the benchmarks: import path, description of the machine, markdown pages, generated links, child processes.

Import it before linklab: it puts scripts/ on the path.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS, RESULTS = ROOT / "scripts", ROOT / "benchmarks" / "results"
sys.path.insert(0, str(SCRIPTS))

from linklab import cli, files  # noqa: E402

FOUND = "FOUND "  # prefix of the line in which a child process prints its results as JSON


def make_parser(doc: str | None, page: str = "") -> argparse.ArgumentParser:
    """Return a parser with the docstring as description, and --out if the benchmark writes a page of RESULTS."""
    parser = cli.make_parser(doc)
    if page:
        parser.add_argument("--out", type=Path, default=RESULTS / page, metavar="FILE", help="page to write")
    return parser


def describe_machine() -> str:
    """Return the processor, its cores and the memory, as the system names them."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*:\s*(.*)", text)
    amx = " with AMX" if "amx_bf16" in text else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name[1] if name else platform.processor()}{amx}, {os.cpu_count()} cores, {memory:.0f} GiB, no GPU"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Return a markdown table as lines; the first `left` columns are left-aligned, the others right-aligned."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * left + "---:|" * (len(head) - left)]
    return lines + [f"| {' | '.join(cells)} |" for cells in rows]


def write_page(path: Path, lines: Sequence[str]) -> None:
    """Write a page and print its path."""
    files.write_text(path, "\n".join(lines).rstrip() + "\n", force=True)
    print(f"wrote {path}")


def make_links(folder: Path, rows: int, seed: int = 1) -> Path:
    """Generate links in a folder; return the path of links.csv."""
    import generate_synthetic_large

    if generate_synthetic_large.main(["--n-samples", str(rows), "--seed", str(seed), "--out-dir", str(folder)]):
        raise cli.UserError("the links could not be generated")
    return folder / "links.csv"


def run_code(code: str, *words: str, python: str = sys.executable, **how: Any) -> dict[str, Any]:
    """Run code in a new process and return the JSON it prints after FOUND; raises UserError with its last output."""
    done = subprocess.run([python, "-c", code, *words], capture_output=True, text=True, check=False, **how)
    said = [line for line in done.stdout.splitlines() if line.startswith(FOUND)]
    if not said:
        raise cli.UserError(f"a child process failed: {done.stderr[-2000:]}")
    return dict(json.loads(said[-1].removeprefix(FOUND)))


def start(parser: argparse.ArgumentParser, run: Any) -> int:
    """Run a benchmark's command line and return its exit code."""
    return cli.main(parser, run, None)
