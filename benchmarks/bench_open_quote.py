"""Measure how soon each script reports a quote left open in line 2 of a large file, and whether memory stays flat.

nothing -> a table on stdout: script, file size, seconds until the report, total seconds, peak memory, exit code

    python benchmarks/bench_open_quote.py --mb 40 1000

The file is a table of three columns; its second line opens a quote that nothing closes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench
from linklab import cli

WORDS = {
    "validate_dataset.py": "big.csv --report r.json --force",
    "convert_csv_to_jsonl.py": "--csv big.csv --target-field label --out-dir out",
    "run_baselines.py": "--csv big.csv --target-field label --out-dir out",
    "finetune_gemma_from_csv.py": "--csv big.csv --target-field label --base-model tiny --out-dir out",
    "evaluate_model.py": "--csv big.csv --target-field label --model tiny --out-dir out",
    "predict.py": "--csv big.csv --model model --out answers.csv",
    "run_learning_curve.py": "--csv big.csv --target-field label --base-model tiny --sizes 20 --out-dir study",
    "run_sweep.py": "--csv big.csv --target-field label --base-model tiny --space epochs=1,2 --out-dir study",
}


def write_table(path: Path, mb: int) -> None:
    """Write `mb` million bytes: line 2 opens a quote."""
    words = b"some words as people write them into a table " * 20
    lines = b"".join(b"%d,%s,%s\n" % (n, words, b"ab"[n % 2 :][:1]) for n in range(2_000))
    with open(path, "wb") as handle:
        handle.write(b'size,note,label\n1,"open,a\n')
        while handle.tell() < mb * 1_000_000:
            handle.write(lines)


def write_model(folder: Path, place: Path) -> None:
    """Create what predict.py reads before it reads rows: a model folder with the task of a small valid table."""
    (place / "small.csv").write_text("size,note,label\n" + "".join(f"{n},word {n},{'ab'[n % 2]}\n" for n in range(60)))
    command = [sys.executable, str(bench.SCRIPTS / "convert_csv_to_jsonl.py"), "--csv", "small.csv"]
    command += ["--target-field", "label", "--out-dir", "small"]
    subprocess.run(command, cwd=place, check=True, capture_output=True)
    folder.mkdir()
    (folder / "task.json").write_bytes((place / "small" / "task.json").read_bytes())


def measure(script: str, place: Path) -> dict:
    """Run a script and return its message about the quote and when it came, seconds, peak memory (MB) and exit code."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, str(bench.SCRIPTS / script), *WORDS[script].split()],
        cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None  # it is a pipe
    named_s, said = None, ""
    for line in process.stderr:
        if named_s is None and "quote" in line and ":2: " in line:
            named_s, said = time.monotonic() - started, line.strip()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {"named_s": named_s, "said": said, "seconds": time.monotonic() - started,
            "processor_s": usage.ru_utime + usage.ru_stime, "mb": usage.ru_maxrss / 1024,
            "code": process.returncode}  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = bench.make_parser(__doc__)
    parser.add_argument("--mb", type=cli.positive_int, nargs="+", default=[40, 1000], help="sizes of the file, in MB")
    parser.add_argument("--only", nargs="+", choices=WORDS, default=list(WORDS), metavar="SCRIPT", help="scripts")
    return parser


def run(args: argparse.Namespace) -> int:
    """Print a line per size and script; exit code 1 if a script does not report the quote."""
    print("| script | file, MB | reported after, s | processor, s | total, s | peak memory, MB | exit code |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    missed = 0
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        write_model(place / "model", place)
        for mb in args.mb:
            write_table(place / "big.csv", mb)
            for script in args.only:
                found = measure(script, place)
                missed += found["named_s"] is None
                named = "never" if found["named_s"] is None else f"{found['named_s']:.1f}"
                cells = [script, f"{mb:,}", named, f"{found['processor_s']:.1f}", f"{found['seconds']:.1f}",
                         f"{found['mb']:.0f}", str(found["code"])]  # fmt: skip
                print(f"| {' | '.join(cells)} |", flush=True)
                print(json.dumps(found["said"][:160]), file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(bench.start(build_parser(), run))
