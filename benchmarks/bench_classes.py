"""Measure the cost of evaluating a target with many classes, with and without the scorer's bounds on memory.

a generated table -> benchmarks/results/classes.md

    python benchmarks/bench_classes.py

Scoring walks the trie of all classes at once, so without bounds memory grows with the square of their tokens: 701
classes took 2.3 GB for two rows. The scorer bounds the size of the attention and the number of states that the head is
applied to at once. Each measurement runs in a new process; runs with and without bounds alternate.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import bench
from linklab import cli

SYLLABLES = ("ba", "co", "du", "fe", "gi", "lo", "mu", "na", "pe", "ri", "so", "tu")
LIMIT_MB = 1000
MEASURE = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[1])
import evaluate_model
from linklab.inference import choice_scorer
if sys.argv[2] == "unbounded":
    choice_scorer.ATTENTION_CELLS = choice_scorer.HEAD_ROWS = 10**15
used = time.process_time()
assert evaluate_model.main(sys.argv[3:]) == 0
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print("FOUND " + json.dumps({"mb": peak, "seconds": time.process_time() - used}))
"""


def write_table(path: Path, classes: int) -> None:
    """Write rows whose target has `classes` different names of three to five syllables, four rows each."""
    names = []
    for i in range(classes):
        digits = [i % 12, i // 12 % 12, i // 144 % 12, (i * 7) % 12, (i * 5) % 12]
        names.append("".join(SYLLABLES[digit] for digit in digits[: 3 + i % 3]))
    assert len(set(names)) == classes, "names must differ"
    rows = [f"{(i * 37) % 1000},{i % 13},{names[i % classes]}" for i in range(4 * classes)]
    path.write_text("\n".join(["x,z,who", *rows]) + "\n", encoding="utf-8")


def run(args: argparse.Namespace) -> int:
    rows = []
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="bench-classes-") as scratch:
        folder = Path(scratch)
        write_table(folder / "names.csv", args.classes)
        for n_rows in args.rows:
            words = ["--model", args.model, "--csv", str(folder / "names.csv"), "--target-field", "who"]
            words += ["--max-rows", str(n_rows)]
            words += ["--out-dir", f"{folder}/out", "--force"]
            found: dict[str, list[dict[str, float]]] = {"bounded": [], "unbounded": []}
            for _ in range(args.repeats):
                for way, made in found.items():
                    made.append(bench.run_code(MEASURE, str(bench.SCRIPTS), way, *words))
            mb, seconds = (
                [statistics.median(one[name] for one in found[way]) for way in found] for name in ("mb", "seconds")
            )
            worst = max(worst, *(one["mb"] for one in found["bounded"]))
            rows.append([f"{n_rows}", f"{mb[0]:,.0f}", f"{mb[1]:,.0f}", f"{seconds[0]:.2f}", f"{seconds[1]:.2f}"])
            cli.say(" | ".join(rows[-1]))
    heads = ("rows", "peak memory, MB", "without bounds, MB", "processor seconds", "without bounds, s")
    bench.write_page(args.out, [
        "# The cost of evaluating many classes", "",
        f"`python benchmarks/bench_classes.py`: {args.model}, {args.classes} classes, median of {args.repeats} "
        f"processes each, alternating, on {bench.describe_machine()}, beside other work.", "",
        *bench.table(heads, rows, left=0), "",
        f"Highest peak with the bounds: {worst:,.0f} MB (wanted: under {LIMIT_MB:,}).",
    ])  # fmt: skip
    return 0 if worst < LIMIT_MB else 1


def build_parser() -> argparse.ArgumentParser:
    parser = bench.make_parser(__doc__, "classes.md")
    parser.add_argument("--model", default="tiny", metavar="NAME", help="tiny, embedded or a folder")
    parser.add_argument("--classes", type=cli.positive_int, default=701, metavar="N", help="different names")
    parser.add_argument("--rows", type=cli.positive_int, nargs="+", default=[2, 60], metavar="N", help="rows scored")
    parser.add_argument("--repeats", type=cli.positive_int, default=3, metavar="N", help="processes per measurement")
    return parser


if __name__ == "__main__":
    raise SystemExit(bench.start(build_parser(), run))
