"""Measure the cost of checks: seconds that finetune and evaluate spend on hashes and on the record of training rows.

nothing -> a table on stdout: script, total processor seconds, those of the checks, by kind

    python benchmarks/bench_checking.py --rows 100000

Both scripts run in this process on generated links and a tiny model: finetune for one step, evaluate on all training
rows until the model is asked. Every call of a check is timed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import bench
from linklab import cli, files, manifest
from linklab.inference import row_answers
from linklab.models import base_weights, load
from linklab.tasks import training_record
from linklab.training import results

CHECKS = {  # the function that is timed, and every module that calls it
    "hashes": (files.sha256_file, (files, manifest)),
    "record written": (training_record.write_record, (training_record, results)),
    "rows looked up in the record": (training_record.count_seen, (training_record,)),
}


def time_checks(seconds: Counter[str]) -> None:
    """Time every check; a check inside another one counts once."""
    inside = []

    def clocked(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            started = time.process_time()
            inside.append(name)
            try:
                return plain(*args, **options)
            finally:
                inside.pop()
                if not inside:
                    seconds[name] += time.process_time() - started

        return call

    for name, (plain, places) in CHECKS.items():
        for place in places:
            setattr(place, plain.__name__, clocked(name, plain))


def stop(*_: object) -> NoReturn:
    """End the script before it asks the model."""
    raise cli.UserError("stopped before the model is asked")


def measure(
    script: str, main: Callable[[list[str]], int], words: list[str], seconds: Counter[str], code: int = 0
) -> None:
    """Run a script, check its exit code, and print its row of the table."""
    seconds.clear()
    started = time.process_time()
    assert main(words) == code, script
    total = time.process_time() - started
    parts = ", ".join(f"{name} {spent:.2f}" for name, spent in seconds.items())
    print(f"| {script} | {total:.1f} | {sum(seconds.values()):.2f} | {parts} |", flush=True)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = bench.make_parser(__doc__)
    parser.add_argument("--rows", type=cli.positive_int, default=100_000, metavar="N", help="rows to generate")
    parser.add_argument("--data", metavar="DIR", help="existing conversations (default: generate them)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the costs."""
    import convert_csv_to_jsonl
    import evaluate_model
    import finetune_gemma_from_csv

    with tempfile.TemporaryDirectory() as scratch:
        data = args.data or f"{scratch}/jsonl"
        if not args.data:
            links = bench.make_links(Path(scratch) / "links", args.rows)
            assert convert_csv_to_jsonl.main(["--csv", str(links), "--out-dir", data]) == 0
        print("| script | total | checks | which |\n|---|---:|---:|---|", flush=True)
        seconds: Counter[str] = Counter()
        time_checks(seconds)
        train = ["--data", data, "--base-model", "tiny", "--max-steps", "1", "--out-dir", f"{scratch}/run"]
        train += ["--validation-rows", "8", "--report-to", "none"]
        measure("finetune_gemma_from_csv.py", finetune_gemma_from_csv.main, train, seconds)
        judged = ["--data", data, "--model", f"{scratch}/run/model", "--out-dir", f"{scratch}/evaluation"]
        judged += ["--split", "train", "--allow-training-rows"]  # the split with the most rows to look up
        row_answers.ask_model = stop  # type: ignore[assignment]
        measure("evaluate_model.py, until the model is asked", evaluate_model.main, judged, seconds, code=2)
        seconds.clear()
        base_weights.describe_weights(load.resolve("embedded"))
        print(f"| weights of the embedded model, where they are trained or an adapter is loaded on them | | "
              f"{seconds['hashes']:.2f} | hashes |")  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(bench.start(build_parser(), run))
