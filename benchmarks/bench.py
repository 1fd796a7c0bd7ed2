"""What the benchmarks share: the toolkit on the path, the machine in words, pages of markdown, links, child processes.

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

FOUND = "FOUND "  # begins the line in which a child process says what it found, as JSON


def make_parser(doc: str | None, page: str = "") -> argparse.ArgumentParser:
    """Return a parser with the docstring as description, and --out where the benchmark writes a page of RESULTS."""
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
    """Return a markdown table as lines, the first `left` columns to the left and the others to the right."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * left + "---:|" * (len(head) - left)]
    return lines + [f"| {' | '.join(cells)} |" for cells in rows]


def write_page(path: Path, lines: Sequence[str]) -> None:
    """Write a page and say so."""
    files.write_text(path, "\n".join(lines).rstrip() + "\n", force=True)
    print(f"wrote {path}")


def make_links(folder: Path, rows: int, seed: int = 1) -> Path:
    """Generate links below a folder; return their table."""
    import generate_synthetic_large

    if generate_synthetic_large.main(["--n-samples", str(rows), "--seed", str(seed), "--out-dir", str(folder)]):
        raise cli.UserError("the links could not be generated")
    return folder / "links.csv"


def run_code(code: str, *words: str, python: str = sys.executable, **how: Any) -> dict[str, Any]:
    """Run code in a process of its own and return the JSON it prints behind FOUND; a UserError with its last words."""
    done = subprocess.run([python, "-c", code, *words], capture_output=True, text=True, check=False, **how)
    said = [line for line in done.stdout.splitlines() if line.startswith(FOUND)]
    if not said:
        raise cli.UserError(f"a child process failed: {done.stderr[-2000:]}")
    return dict(json.loads(said[-1].removeprefix(FOUND)))


def start(parser: argparse.ArgumentParser, run: Any) -> int:
    """Run a benchmark's command line and return its exit code."""
    return cli.main(parser, run, None)
