"""Measure how a model improves with more training rows, and estimate how many rows a goal needs.

CSV or JSONL folder -> DIR/study-XXXXXXXX/{curve.csv, summary.md, curve_TARGET_METRIC.png, points/, manifest.json}

    python scripts/run_learning_curve.py --csv runs/data/links.csv --base-model embedded --sizes 100 200 400 --seeds 1 2

Run the command again, or in a second terminal at the same time: finished runs are skipped, a killed run continues from
its last checkpoint, and other settings are another study. `--dry-run` estimates the cost first. Options after a lone
`--` are passed to finetune_gemma_from_csv.py unchanged. Exit code 1: a run failed; curve.csv says why.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from linklab import cli, files
from linklab.cli import UserError, say

if TYPE_CHECKING:
    from linklab.studies.options import CurveSettings
    from linklab.studies.runs import StudyRun


RESULTS = ("curve.csv", "summary.md", "curve_*.png")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    from linklab.studies import options

    parser = cli.make_parser(__doc__)
    data = parser.add_argument_group("Input")
    cli.add_source_options(data)
    data.add_argument(
        "--sizes",
        type=cli.positive_int,
        nargs="+",
        required=True,
        metavar="N",
        help="numbers of training rows, one point of the curve each",
    )
    data.add_argument(
        "--test-rows", type=cli.positive_int, default=400, metavar="N", help="unseen rows every model is scored on"
    )
    output = parser.add_argument_group("Output")
    output.add_argument("--out-dir", default="runs/curve", metavar="DIR", help="folder for the studies")
    output.add_argument(
        "--goal", type=options.parse_goal, nargs="+", default=[], metavar="METRIC=X",
        help="say how many rows this needs: accuracy=0.7, mae=60 or TARGET/accuracy=0.7",
    )  # fmt: skip
    output.add_argument("--no-baselines", action="store_true", help="do not train baselines on the same rows")
    output.add_argument("--retry-failed", action="store_true", help="repeat the runs that failed")
    output.add_argument(
        "--dry-run", action="store_true", help="time a few steps, estimate the cost of the study, and stop"
    )
    options.add_training_options(parser)
    again = parser.add_argument_group("Reproducibility")
    again.add_argument(
        "--seeds",
        type=cli.seed_number,
        nargs="+",
        default=[1, 2, 3],
        metavar="N",
        help="training seeds, each used at every size",
    )
    return parser


def read_settings(args: argparse.Namespace) -> CurveSettings:
    """Return the options as settings."""
    from linklab.studies.options import CurveSettings
    from linklab.tasks.source import Source

    return cli.read_settings(CurveSettings, args, source=Source.from_args(args), sizes=tuple(sorted(args.sizes)))


def run(args: argparse.Namespace) -> int:
    """Make the missing runs, then write the curve of all finished ones."""
    from linklab.models import base_names
    from linklab.studies import learning_curve, runs
    from linklab.studies.folder import check_study_dir, open_study

    settings = read_settings(args)
    base_names.require_model(settings.base_model, ask_hub=False)
    n_test = check(settings)
    check_study_dir(settings.out_dir)
    baselines = "--no-baselines" if settings.no_baselines else learning_curve.choose_baselines(settings.source)
    missing = baselines if isinstance(baselines, str) else ""
    beside = None if isinstance(baselines, str) else baselines
    if settings.dry_run:
        estimate_cost(settings, n_test, beside)
        return 0
    deciding = {"study": "learning curve", "test_rows": settings.test_rows}
    folder = open_study(settings, deciding, RESULTS, script=__file__)
    if missing:
        say(f"baselines are left out: {missing}")
    planned = learning_curve.plan_runs(settings, folder, beside)
    try:
        failed = runs.make_all(planned, describe_result, settings.retry_failed)
    except runs.Stopped as stop:
        say("stopped; run the same command again to continue")
        return stop.code
    write_results(settings, folder, planned, missing)
    if failed:
        say(f"error: {len(failed)} of {len(planned)} runs failed (first: {failed[0].name}: {failed[0].error()}); "
            f"--retry-failed tries them again")  # fmt: skip
    say(f"wrote {folder}: curve.csv, summary.md")
    return 1 if failed else 0


def check(settings: CurveSettings) -> int:
    """Raise a UserError for options that no run could use; return the number of test rows."""
    from linklab.studies.options import check_training_arguments
    from linklab.tasks.source import open_source

    for name, values in (("sizes", settings.sizes), ("seeds", settings.seeds)):
        if len(set(values)) < len(values):
            raise UserError(f"--{name}: duplicate value")
    check_training_arguments(settings.training)
    _, read = open_source(settings.source)
    largest = max(settings.sizes)
    train, test = len(read("train", largest)), len(read("test", settings.test_rows))
    if train < largest:
        raise UserError(f"--sizes {largest}: there are only {train:,} training rows")
    if test < settings.test_rows:
        raise UserError(f"--test-rows {settings.test_rows}: there are only {test:,} test rows")
    return test


def describe_result(run: StudyRun) -> str:
    """Return a finished run's figures for the progress line."""
    from linklab.metrics import comparison
    from linklab.reports import summary

    if run.kind == "baselines":
        return f"{len(comparison.read_runs([run.folder / 'baselines']))} baselines"
    return summary.headline(files.read_json(run.folder / "evaluation" / "metrics.json"))


def write_results(settings: CurveSettings, folder: Path, planned: list[StudyRun], missing: str) -> None:
    """Write curve.csv, plots, summary.md and the manifest, one process at a time, and print the trend."""
    from linklab.studies import learning_curve, plots
    from linklab.studies.folder import write_results as write_study

    points = learning_curve.read_points(planned)
    curves = learning_curve.make_curves(points)
    n_test = points[0].run.n if points else 0
    findings = learning_curve.find_findings(curves, settings.goal)
    images = {f"curve_{found.metric.replace('/', '_')}.png": plots.learning_curve(found) for found in curves}
    write_study(
        folder, settings, RESULTS, ("curve.csv", learning_curve.list_cells(planned, points, curves)),
        lambda: learning_curve.write_summary(settings, planned, curves, n_test, missing), images,
        script=__file__, seed=None, extra={"runs": len(planned), "points": len(points), "findings": findings},
    )  # fmt: skip
    for found in curves:
        first, last = (f"{found.show(found.means[k])} at {found.sizes[k]:,} rows" for k in (0, -1))
        say(f"{found.metric}: {first}, {last}")


def estimate_cost(settings: CurveSettings, n_test: int, baselines: tuple[list[str], list[str]] | None) -> None:
    """Say what the study will cost, from a few steps on the largest size; leaves nothing behind."""
    import tempfile

    from linklab.studies import study_cost

    sizes, seeds = settings.sizes, len(settings.seeds)
    with tempfile.TemporaryDirectory() as scratch:
        few, more = study_cost.PROBE_STEPS
        say(f"timing {few} and {more} training steps, and {study_cost.PROBE_ROWS} answers")
        found = study_cost.measure(settings, max(sizes), Path(scratch))
        beside = dict.fromkeys(sizes, 0.0)
        if baselines:
            beside = study_cost.measure_baselines(*baselines, list(sizes), n_test, Path(scratch))
    total = 0.0
    for rows in sizes:
        each = found.seconds(rows, n_test)
        total += each * seeds + beside[rows]
        say(f"{rows:,} rows: {seeds} x {cli.format_seconds(each)} ({found.steps(rows):,} steps of "
            f"{found.step:.2f} s), baselines {cli.format_seconds(beside[rows])}")  # fmt: skip
    say(f"the study in total: {len(sizes) * seeds} models, about {cli.format_seconds(total)} one by one; about "
        f"{found.memory_mb:,.0f} MB of memory per run")  # fmt: skip
    say("dry run: stopped before the study")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
