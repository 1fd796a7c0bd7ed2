"""Compare the speed of scoring in this checkout and in an earlier one, on the same rows, weights and machine.

generated links, a checkout of commit d21f244 -> benchmarks/results/scoring.md

    git worktree add ../before d21f244
    python benchmarks/bench_scoring.py --before ../before

Each checkout runs in its own process and loads the model once. The two then score alternately, with one question per
row and the same prompt. Only the processor time of scoring is measured: a busy machine changes it little.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import bench
from linklab import cli
from linklab.links.links import LINK_TEMPLATE

CHANNEL, THROUGHPUT = "recommended_channel_mhz", "expected_throughput_mbps"
TASKS = {"class": [CHANNEL], "number": [THROUGHPUT], "class and number": [CHANNEL, THROUGHPUT]}
ALLOWED = 1.05  # times the earlier seconds: two turns of one checkout differ by as much
# Reads a line {"fields": [...]} and answers with a line {"seconds": ..., "answers": [...]}, until its input ends.
WORKER = """
import json, sys, time
tree, model, precision, table, template, rows = sys.argv[1:]
sys.path.insert(0, tree + "/scripts")
try:
    from linklab.inference import row_answers as asking
    from linklab.tasks.examples import read_examples
    from linklab.tasks.task import make_task
    scorer = asking.load_scorer(asking.AskSettings(model, precision=precision or None))
    how = {"ask": "row"}
except ImportError:  # the earlier checkout, which always asks one question per row
    from linklab.data.examples import read_examples
    from linklab.data.task import make_task
    from linklab.model import answering as asking
    scorer, how = asking.load_asker(model, precision or None, None), {}
for line in sys.stdin:
    task = make_task(table, json.loads(line)["fields"], template, **how)
    examples = read_examples(table, task, "test", int(rows))
    started = time.process_time()
    found = asking.answer_exactly(scorer, examples, task)
    taken = time.process_time() - started
    print("FOUND " + json.dumps({"seconds": taken, "answers": [one["raw_text"] for one in found]}), flush=True)
"""


def build_parser() -> argparse.ArgumentParser:
    parser = bench.make_parser(__doc__, "scoring.md")
    parser.add_argument("--before", type=Path, required=True, metavar="DIR", help="checkout of the earlier commit")
    parser.add_argument("--model", default="embedded", metavar="NAME", help="embedded, tiny or a folder")
    parser.add_argument("--rows", type=cli.positive_int, default=40, metavar="N", help="rows to answer in each turn")
    parser.add_argument(
        "--rounds", type=cli.positive_int, default=3, metavar="N", help="turns of each checkout per task"
    )
    cli.add_precision_options(parser)
    return parser


def start(tree: Path, args: argparse.Namespace, table: Path, template: Path) -> subprocess.Popen:
    """Start the worker process of a checkout."""
    words = [str(tree), args.model, args.precision or "", str(table), str(template), str(args.rows)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen([sys.executable, "-c", WORKER, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            text=True, env=env)  # fmt: skip


def ask(worker: subprocess.Popen, fields: list[str]) -> dict[str, Any]:
    """Let a worker answer the rows once; returns its processor seconds and answers."""
    assert worker.stdin and worker.stdout
    print(json.dumps({"fields": fields}), file=worker.stdin, flush=True)
    for line in worker.stdout:
        if line.startswith(bench.FOUND):
            return json.loads(line.removeprefix(bench.FOUND))
    raise cli.UserError(f"scoring in a checkout ended with exit code {worker.wait()}; its last lines are above")


def run(args: argparse.Namespace) -> None:
    trees = {"before": args.before.resolve(), "now": bench.ROOT}
    commits = {
        name: subprocess.run(["git", "-C", str(tree), "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                             check=True).stdout.strip()
        for name, tree in trees.items()
    }  # fmt: skip
    seconds: dict[str, dict[str, list[float]]] = {task: {name: [] for name in trees} for task in TASKS}
    equal: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        table, template = bench.make_links(Path(folder), 10 * args.rows + 200), Path(folder) / "template.txt"
        template.write_text(LINK_TEMPLATE + "\n", encoding="utf-8")
        workers = {name: start(tree, args, table, template) for name, tree in trees.items()}
        try:
            for worker in workers.values():
                ask(worker, TASKS["class"])  # warm-up: later calls reuse what the first one builds
            for turn in range(args.rounds):
                for task, fields in TASKS.items():
                    found = {}
                    for name in trees if turn % 2 == 0 else reversed(trees):
                        found[name] = ask(workers[name], fields)
                        seconds[task][name].append(found[name]["seconds"])
                    equal[task] = sum(map(str.__eq__, found["before"]["answers"], found["now"]["answers"]))
                    taken = ", ".join(f"{name} {one['seconds']:.2f} s" for name, one in found.items())
                    cli.say(f"turn {turn + 1} of {args.rounds}, {task}: {taken}")
        finally:
            for worker in workers.values():
                worker.terminate()
                worker.wait()
    bench.write_page(args.out, describe(args, seconds, equal, commits))


def describe(
    args: argparse.Namespace, seconds: dict[str, dict[str, list[float]]], equal: dict[str, int], commits: dict[str, str]
) -> list[str]:
    """Return the result as lines of markdown."""
    lines = [
        "# Speed of scoring, before and now", "",
        f"`python benchmarks/bench_scoring.py`: {args.model}, {args.precision or 'the precision chosen'}, {args.rows} "
        f"link rows, one question per row, {args.rounds} turns of each checkout; median processor seconds of scoring.",
        f"Before: {commits['before']}; now: {commits['now']}. Machine: {bench.describe_machine()}, beside other work.",
        "",
    ]  # fmt: skip
    rows, ratios = [], []
    for task, trees in seconds.items():
        before, now = (statistics.median(trees[name]) for name in ("before", "now"))
        ratios.append(now / before)
        rows.append([task, f"{before:.2f}", f"{now:.2f}", f"{now / before:.2f}", f"{equal[task]} of {args.rows}"])
    lines += bench.table(["target", "before, s", "now, s", "now / before", "same answers"], rows)
    verdict = "holds" if max(ratios) <= ALLOWED else "falls short"
    return [
        *lines, "", f"No slower than before, within {100 * (ALLOWED - 1):.0f} %: {verdict}. Answers of the base model "
        "differ because classes are now ranked by what it would write, and numbers are read to their full length.",
    ]  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(bench.start(build_parser(), run))
