"""Compare the time and memory that `finetune_gemma_from_csv.py --dry-run` predicts with those of the run, per mode.

generated links -> benchmarks/results/plan.md

    python benchmarks/bench_plan.py

The dry run and the real run are separate processes with the same options. Memory must be predicted within 20 %, time
(from the first step to the delivered weights, validation and checkpoints included) within 30 %.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench
from linklab import cli, files
from linklab.manifest import commit, versions

SCRIPT = bench.SCRIPTS / "finetune_gemma_from_csv.py"
ALLOWED = {"memory": 0.20, "time": 0.30}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = bench.make_parser(__doc__)
    parser.add_argument("--model", default="embedded", help="embedded, tiny, a folder or a Hub id")
    parser.add_argument("--modes", type=cli.comma_list, default=["full", "lora", "qlora"], help="full, lora, qlora")
    parser.add_argument("--steps", type=cli.positive_int, default=12, metavar="N", help="steps of the real run")
    parser.add_argument("--validation-rows", type=cli.positive_int, default=24, metavar="N", help="validation rows")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="number type of matrix products")
    parser.add_argument("--out", metavar="FILE", help="(default: benchmarks/results/plan.md; none for tiny)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Plan and run each mode; print and save the table."""
    rows, missed = [], []
    with tempfile.TemporaryDirectory() as scratch:
        bench.make_links(Path(scratch) / "data", max(200, 12 * args.steps))
        for mode in args.modes:
            plan, done = plan_and_run(args, mode, Path(scratch))
            for what, unit in (("time", "s"), ("memory", "MB")):
                off = plan[what] / done[what] - 1
                if abs(off) > ALLOWED[what]:
                    missed.append(f"{mode} {what}")
                rows.append((mode, f"{what}, {unit}", f"{plan[what]:,.0f}", f"{done[what]:,.0f}", f"{off:+.1%}"))
                cli.say(" | ".join(rows[-1]))
    lines = write_page(args, rows, missed)
    print(*lines, sep="\n")
    if args.out or args.model != "tiny":
        bench.write_page(Path(args.out or bench.RESULTS / "plan.md"), lines)
    return 1 if missed else 0


def plan_and_run(args: argparse.Namespace, mode: str, scratch: Path) -> tuple[dict, dict]:
    """Return predicted and measured seconds and MB of one mode."""
    out = scratch / mode
    words = [sys.executable, str(SCRIPT), "--csv", str(scratch / "data" / "links.csv"), "--base-model", args.model,
             "--mode", mode, f"--{args.precision}", "--max-steps", str(args.steps),
             "--validation-rows", str(args.validation_rows), "--save-steps", str(max(1, args.steps // 2)),
             "--out-dir", str(out)]  # fmt: skip
    told = call([*words, "--dry-run"])
    seconds = re.search(r"^time: about (.*?) \(", told, re.MULTILINE)
    memory = re.search(r"^memory: about ([\d,]+) MB", told, re.MULTILINE)
    plan = {"time": read_seconds(seconds[1]), "memory": float(memory[1].replace(",", ""))}
    call(words)
    scores = files.read_json(out / "metrics.json")
    return plan, {"time": scores["seconds"], "memory": scores["peak_memory_mb"]}


def call(words: list[str]) -> str:
    """Run a command; returns its output."""
    started = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise cli.UserError(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
    cli.say(f"{words[words.index('--mode') + 1]}{' --dry-run' * ('--dry-run' in words)}: "
            f"{time.monotonic() - started:.0f} s in all")  # fmt: skip
    return done.stderr


def read_seconds(text: str) -> float:
    """Return the seconds in a text of `cli.format_seconds`: `1 min 5 s` -> 65."""
    units = {"h": 3600, "min": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+) (h|min|s)\b", text))


def write_page(args: argparse.Namespace, rows: list[tuple[str, ...]], missed: list[str]) -> list[str]:
    """Return the results page as lines."""
    found = versions()
    named = ", ".join(f"{name} {found[name]}" for name in ("torch", "transformers", "peft", "bitsandbytes"))
    verdict = f"Outside: {', '.join(missed)}." if missed else "All within."
    return [
        "# Predicted by --dry-run, and measured", "",
        f"`{' '.join(['python benchmarks/bench_plan.py', *args.argv])}`", "",
        f"{bench.describe_machine()}; Python {platform.python_version()}, {named}; commit {commit()}; "
        f"OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'unset')}.", "",
        f"`--base-model {args.model}`, {args.precision}, {args.steps} steps of 8 rows, {args.validation_rows} "
        f"validation rows, two validations and two checkpoints. Time is that of training, validation and checkpoints; "
        f"memory is the peak of the process (on a GPU: of the GPU).", "",
        *bench.table(("mode", "", "predicted", "measured", "difference"), rows, left=2), "",
        f"Allowed: memory 20 %, time 30 %. {verdict}", "",
    ]  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(bench.start(build_parser(), run))
