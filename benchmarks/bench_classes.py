"""Measure what evaluating a target of many classes costs, with and without the scorer's bounds on memory.

a made table -> benchmarks/results/classes.md

    python benchmarks/bench_classes.py

Scoring walks the trie of all classes at once, so memory would grow with the square of their tokens: 701 classes took
2.3 GB for two rows. The scorer bounds attention's numbers and the states its head is applied to at once; lifting both
bounds gives the former way. Every measurement is a process of its own; the two ways take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.insert(0, str(ROOT / "benchmarks"))
from linklab import cli, files  # noqa: E402
from save_results import describe_machine  # noqa: E402

SYLLABLES = ("ba", "co", "du", "fe", "gi", "lo", "mu", "na", "pe", "ri", "so", "tu")
LIMIT_MB = 1000
MEASURE = """
import json, resource, sys, time
sys.path.insert(0, {scripts!r})
import evaluate_model
from linklab.inference import choice_scorer
if {unbounded}:
    choice_scorer.ATTENTION_CELLS = choice_scorer.HEAD_ROWS = 10**15
used = time.process_time()
assert evaluate_model.main({words!r}) == 0
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print("MEASURED", json.dumps({{"mb": peak, "seconds": time.process_time() - used}}))
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


def measure(folder: Path, words: list[str], unbounded: bool) -> dict[str, float]:
    """Return peak memory in MB and the processor's seconds of one evaluation, in a process of its own."""
    out = folder / "out"
    words = [*words, "--out-dir", str(out), "--force"]
    code = MEASURE.format(scripts=str(ROOT / "scripts"), unbounded=unbounded, words=words)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    said = [line for line in done.stdout.splitlines() if line.startswith("MEASURED ")]
    if not said:
        raise cli.UserError(f"the measurement failed: {done.stderr.strip().splitlines()[-1:]}")
    return dict(json.loads(said[0].removeprefix("MEASURED ")))


def run(args: argparse.Namespace) -> int:
    lines = [
        "# What evaluating many classes costs", "",
        f"`python benchmarks/bench_classes.py`: {args.model}, {args.classes} classes, median of {args.repeats} "
        f"processes each, in turns, on {describe_machine()}, beside other work.", "",
        "| rows | peak memory, MB | without bounds, MB | processor seconds | without bounds, s |",
        "|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="bench-classes-") as scratch:
        folder = Path(scratch)
        write_table(folder / "names.csv", args.classes)
        for rows in args.rows:
            words = ["--model", args.model, "--csv", str(folder / "names.csv"), "--target-field", "who"]
            words += ["--max-rows", str(rows)]
            found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
            for _ in range(args.repeats):
                for unbounded in (False, True):
                    found[unbounded].append(measure(folder, words, unbounded))
            mb, seconds = (
                [statistics.median(one[name] for one in found[way]) for way in (False, True)]
                for name in ("mb", "seconds")
            )
            worst = max(worst, *(one["mb"] for one in found[False]))
            lines.append(f"| {rows} | {mb[0]:,.0f} | {mb[1]:,.0f} | {seconds[0]:.2f} | {seconds[1]:.2f} |")
            cli.say(lines[-1])
    lines += ["", f"Highest peak with the bounds: {worst:,.0f} MB (wanted: under {LIMIT_MB:,}).", ""]
    files.write_text(args.out, "\n".join(lines), force=True)
    cli.say(f"wrote {args.out}")
    return 0 if worst < LIMIT_MB else 1


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; exit code 1 where the memory is above the limit."""
    parser = cli.make_parser(__doc__)
    parser.add_argument("--model", default="tiny", metavar="NAME", help="tiny, embedded or a folder")
    parser.add_argument("--classes", type=cli.positive_int, default=701, metavar="N", help="different names")
    parser.add_argument("--rows", type=cli.positive_int, nargs="+", default=[2, 60], metavar="N", help="rows scored")
    parser.add_argument("--repeats", type=cli.positive_int, default=3, metavar="N", help="processes for each way")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "classes.md", help="page to write"
    )
    return cli.main(parser, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
