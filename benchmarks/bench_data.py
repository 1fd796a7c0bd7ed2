"""Measure time and memory of generate, validate and convert as a user runs them, and profile where the time goes.

nothing -> benchmarks/results/data.md

    python benchmarks/bench_data.py

Every figure is for a whole process, imports and files included, at two sizes. Validation and pandas.read_csv alternate
on the same file. Memory is the largest sum of the proportional shares (PSS) of a script and its children, sampled ten
times per second. The profiles are of one process that does all the work. Takes about six minutes and 4 GB of disk.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import os
import platform
import pstats
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import bench
import psutil
from linklab import cli, files

SEED = 1
PANDAS = (
    "import sys, time, pandas; t = time.perf_counter(); pandas.read_csv(sys.argv[1]); print(time.perf_counter() - t)"
)
ONE_EACH = "convert --ask row"  # one conversation per row, as the goal assumes; the default is one per choice
TARGETS = {"generate": 40_000, "validate": 100_000, ONE_EACH: 40_000}  # rows per second
MOST_MB, MOST_GROWTH = 250, 0.20
LOOK_EVERY_S = 0.1


class Run(NamedTuple):
    """Time, memory and output of one process with its children."""

    seconds: float
    cpu_s: float
    peak_mb: float
    said: str


def run_process(*words) -> Run:
    """Run a command and measure it; raises UserError with its last line if it fails."""
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *map(str, words)], stdout=output, stderr=subprocess.STDOUT)
        peak, over = [0.0], threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peak, over))
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        over.set()
        watcher.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read().decode().strip()
    if status:
        raise cli.UserError(f"{words[0]} ended with {process.returncode}: {(said.splitlines() or [''])[-1]}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, peak[0], said)


def _watch(pid: int, peak: list[float], over: threading.Event) -> None:
    while not over.wait(LOOK_EVERY_S):
        peak[0] = max(peak[0], _share_mb(pid))


def _share_mb(pid: int) -> float:
    """Return the memory (PSS) of a process and its descendants in MB; shared pages count in proportion."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # it has just ended
                total += one.memory_full_info().pss
    return total / 1e6


def measure(folder: Path, n_rows: int, repeats: int) -> dict[str, list[Run]]:
    """Run every script on `n_rows` rows, `repeats` times in turn; returns the runs by name."""
    runs = defaultdict(list)
    scripts, data = bench.SCRIPTS, folder / "data"
    links = data / "links.csv"
    for _ in range(repeats):
        words = ["--n-samples", n_rows, "--seed", SEED, "--out-dir", data, "--force"]
        runs["generate"].append(run_process(scripts / "generate_synthetic_large.py", *words))
        report = ["--report", folder / "report.json", "--violations", folder / "violations.csv", "--force"]
        runs["validate"].append(run_process(scripts / "validate_dataset.py", links, *report))
        runs["pandas"].append(run_process("-c", PANDAS, links))
        for name in (ONE_EACH, "convert"):
            words = ["--csv", links, "--out-dir", folder / "jsonl", "--force", *name.split()[1:]]
            runs[name].append(run_process(scripts / "convert_csv_to_jsonl.py", *words))
        cli.say(f"{n_rows:,} rows: " + ", ".join(f"{name} {run[-1].seconds:.1f} s" for name, run in runs.items()))
    return dict(runs)


# --- profiles ---------------------------------------------------------------------------------------------------------


def profile(folder: Path, n_rows: int) -> dict[str, pstats.Stats]:
    """Return the profiles of the three scripts, each in one process."""
    import convert_csv_to_jsonl
    import generate_synthetic_large
    import validate_dataset
    from linklab.validation import validator

    validator.N_PROCESSES = 1  # in this process only: the timed runs are separate processes
    links, alone = f"{folder}/profiled/links.csv", ["--workers", "1", "--out-dir"]
    words = ["--n-samples", str(n_rows), "--seed", str(SEED), *alone, f"{folder}/profiled"]
    return {
        "generate": _profile(generate_synthetic_large.main, words),
        "validate": _profile(validate_dataset.main, [links]),
        "convert": _profile(convert_csv_to_jsonl.main, ["--csv", links, *alone, f"{folder}/converted"]),
    }


def _profile(main, words: list[str]) -> pstats.Stats:
    profiler = cProfile.Profile()
    code = profiler.runcall(main, words)
    assert code == 0, (words, code)
    return pstats.Stats(profiler)


def hottest(stats: pstats.Stats, n: int) -> list[tuple[str, float]]:
    """Return the functions with the largest own time, and their share of the whole."""
    whole = stats.total_tt
    ordered = sorted(stats.stats.items(), key=lambda item: -item[1][2])
    return [(_name(where), own / whole) for where, (_, _, own, _, _) in ordered[:n]]


def _name(where: tuple[str, int, str]) -> str:
    path, _, function = where
    if path == "~":
        return function.strip("<>").replace("built-in method ", "").replace("method ", "")
    parts = Path(path).parts
    known = parts.index("linklab") if "linklab" in parts else len(parts) - 1
    return f"{'/'.join(parts[known:])} {function}"


# --- the page ---------------------------------------------------------------------------------------------------------


def middle(runs: list[Run], what: str) -> float:
    return statistics.median(getattr(run, what) for run in runs)


def verdicts(small: dict, large: dict, sizes: list[int]) -> list[str]:
    """Return a table row per claim: the goal, the measured value, whether it holds."""
    n = sizes[-1]
    lines = ["| claim | measured | |", "|---|---|---|"]

    def claim(words: str, seen: str, holds: bool) -> None:
        lines.append(f"| {words} | {seen} | {'holds' if holds else '**fails**'} |")

    for name, target in TARGETS.items():
        speed = n / middle(large[name], "seconds")
        claim(f"{name}: at least {target:,} rows/s at {n:,} rows", f"{speed:,.0f}", speed >= target)
    for name in (*TARGETS, "convert"):
        peaks = [middle(runs[name], "peak_mb") for runs in (small, large)]
        growth = peaks[1] / peaks[0] - 1
        words = f"{name}: memory under {MOST_MB} MB, within {MOST_GROWTH:.0%} from {sizes[0]:,} to {n:,} rows"
        seen = f"{peaks[0]:.0f} and {peaks[1]:.0f} MB ({growth:+.0%})"
        claim(words, seen, max(peaks) < MOST_MB and abs(growth) <= MOST_GROWTH)
    return lines


def page(args, machine: str, small: dict, large: dict, conversations: int, profiles: dict) -> list[str]:
    lines = [
        "# Speed and memory of the data scripts",
        "",
        f"Machine: {machine}. Python {platform.python_version()}. Made by `python benchmarks/bench_data.py`; "
        f"the standard preset, seed {SEED}; medians of {args.repeats} runs at {args.rows[0]:,} rows, "
        f"one run at {args.rows[1]:,}.",
        "",
        "Whole processes, imports and files included. Memory: largest sum of the proportional shares (PSS) of a script "
        "and its children.",
        "",
        *verdicts(small, large, args.rows),
        "",
        "| script | rows | seconds | rows/s | processor seconds | memory, MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for size, runs in zip(args.rows, (small, large), strict=True):
        for name, of_name in runs.items():
            seconds, cpu_s, peak = (middle(of_name, what) for what in ("seconds", "cpu_s", "peak_mb"))
            shown = "pandas.read_csv" if name == "pandas" else name
            lines.append(f"| {shown} | {size:,} | {seconds:.2f} | {size / seconds:,.0f} | {cpu_s:.2f} | {peak:.0f} |")
    more = args.rows[1] - args.rows[0]
    lines += [
        "",
        f"By default a row becomes a conversation per choice: {conversations / args.rows[1]:.2f} on average here, so "
        f"that convert writes {conversations / middle(large['convert'], 'seconds'):,.0f} conversations/s at "
        f"{args.rows[1]:,} rows.",
        "",
        "Per additional row, without start and end:",
        "",
        "| script | rows/s | processor µs per row |",
        "|---|---:|---:|",
    ]
    for name in small:
        seconds, cpu_s = (middle(large[name], what) - middle(small[name], what) for what in ("seconds", "cpu_s"))
        lines.append(f"| {name} | {more / seconds:,.0f} | {1e6 * cpu_s / more:.1f} |")
    lines += [
        "",
        f"## Where the time goes ({args.profile_rows:,} rows, one process, own time of the hottest functions)",
    ]
    for name, stats in profiles.items():
        lines += ["", f"{name}:", "", "| function | share |", "|---|---:|"]
        lines += [f"| `{function}` | {share:.1%} |" for function, share in hottest(stats, 12)]
    return lines


def two_sizes(text: str) -> list[int]:
    """Argparse type: `100000,2000000` -> [100000, 2000000]."""
    sizes = [cli.positive_int(part) for part in cli.comma_list(text)]
    if len(sizes) != 2 or sizes[0] >= sizes[1]:
        raise argparse.ArgumentTypeError(f"'{text}': two numbers of rows, the smaller first")
    return sizes


def build_parser() -> argparse.ArgumentParser:
    parser = bench.make_parser(__doc__, "data.md")
    parser.add_argument("--rows", type=two_sizes, default="100000,2000000", metavar="SMALL,LARGE", help="set sizes")
    parser.add_argument("--repeats", type=cli.positive_int, default=3, help="runs at the smaller size")
    parser.add_argument("--profile-rows", type=cli.positive_int, default=40_000, help="rows of the profiles")
    return parser


def run(args: argparse.Namespace) -> None:
    files.check_out_file(args.out, force=True)
    if not Path("/proc/self/smaps_rollup").exists():
        raise cli.UserError("memory is read from /proc/PID/smaps_rollup, which only Linux has; run this on Linux")
    with tempfile.TemporaryDirectory(prefix="linklab-bench-") as name:
        folder = Path(name)
        profiles = profile(folder, args.profile_rows)
        small, large = (measure(folder, n, r) for n, r in zip(args.rows, (args.repeats, 1), strict=True))
        conversations = sum(path.read_bytes().count(b"\n") for path in (folder / "jsonl").glob("*.jsonl"))
    bench.write_page(args.out, page(args, bench.describe_machine(), small, large, conversations, profiles))


if __name__ == "__main__":
    raise SystemExit(bench.start(build_parser(), run))
