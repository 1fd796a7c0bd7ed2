"""Measure how a model gets better with more training rows, and say how many more a goal would need.

CSV or JSONL folder -> DIR/study-XXXXXXXX/{curve.csv, summary.md, curve_TARGET_METRIC.png, points/, manifest.json}

    python scripts/run_learning_curve.py --csv runs/data/links.csv --base-model embedded --sizes 100 200 400 --seeds 1 2

Run the command again, or in a second terminal at the same time: finished runs are skipped, a run that was killed goes
on from its last checkpoint, and another setting is another study. `--dry-run` says first what it will cost. What stands
after a lone `--` goes to finetune_gemma_from_csv.py as it is. Exit code 1: a run failed; curve.csv says why.
"""

from __future__ import annotations

from pathlib import Path

from linklab import cli, files
from linklab.cli import UserError, say
from linklab.manifest import write_manifest


def build_parser():
    from linklab.studies import options

    parser = cli.make_parser(__doc__)
    data = options.add_data_options(parser)
    data.add_argument(
        "--sizes", type=cli.positive_int, nargs="+", required=True, metavar="N", help="training rows of the points"
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
    output.add_argument("--no-baselines", action="store_true", help="leave the baselines at the same sizes out")
    output.add_argument("--retry-failed", action="store_true", help="try runs again that failed")
    output.add_argument("--dry-run", action="store_true", help="time a few steps, price the study, and stop")
    options.add_training_options(parser)
    again = parser.add_argument_group("Reproducibility")
    again.add_argument(
        "--seeds",
        type=cli.seed_number,
        nargs="+",
        default=[1, 2, 3],
        metavar="N",
        help="training seeds of every size",
    )
    return parser


def run(args) -> int:
    from linklab.studies import learning_curve, runs
    from linklab.studies.folder import check_study_dir, fingerprint_data, open_study

    n_test = check(args)
    out_dir = check_study_dir(args.out_dir)
    baselines = "--no-baselines" if args.no_baselines else learning_curve.choose_baselines(args)
    missing = baselines if isinstance(baselines, str) else ""
    if args.dry_run:
        return price(args, n_test, None if missing else baselines)
    settings = {
        "study": "learning curve", "base_model": args.base_model, "mode": args.mode, "training": args.training,
        "test_rows": args.test_rows,
    } | fingerprint_data(args)  # fmt: skip
    folder = open_study(out_dir, settings)
    if missing:
        say(f"baselines are left out: {missing}")
    planned = learning_curve.plan(args, folder, None if missing else baselines)
    try:
        failed = runs.make_all(planned, tell, args.retry_failed)
    except runs.Stopped as stop:
        say("stopped; run the same command again to go on")
        return stop.code
    points = learning_curve.read_points(planned)
    curves = learning_curve.make_curves(points)
    write_results(args, folder, planned, points, curves, missing)
    for found in curves:
        first, last = (f"{found.show(found.means[k])} at {found.sizes[k]:,} rows" for k in (0, -1))
        say(f"{found.metric}: {first}, {last}")
    if failed:
        say(f"error: {len(failed)} of {len(planned)} runs failed (first: {failed[0].name}: {failed[0].error()}); "
            f"--retry-failed tries them again")  # fmt: skip
    say(f"wrote {folder}: curve.csv, summary.md")
    return 1 if failed else 0


def check(args) -> int:
    """Raise a UserError for what no run could use; returns the test rows there are."""
    from linklab.studies.options import check_training_words
    from linklab.tasks.source import open_source

    for name in ("sizes", "seeds"):
        if len(set(getattr(args, name))) < len(getattr(args, name)):
            raise UserError(f"--{name}: a number stands there twice")
    check_training_words(args.training)
    _, read = open_source(args)
    train, test = len(read("train", max(args.sizes))), len(read("test", args.test_rows))
    if train < max(args.sizes):
        raise UserError(f"--sizes {max(args.sizes)}: there are only {train:,} training rows")
    if test < args.test_rows:
        raise UserError(f"--test-rows {args.test_rows}: there are only {test:,} test rows")
    return test


def tell(run) -> str:
    """Return a finished run's figures for the progress line."""
    from linklab.metrics import comparison
    from linklab.reports import summary

    if run.kind == "baselines":
        return f"{len(comparison.read_runs([run.folder / 'baselines']))} baselines"
    return summary.describe(files.read_json(run.folder / "evaluation" / "metrics.json"))


def write_results(args, folder: Path, planned, points, curves, missing: str) -> None:
    """Write curve.csv, plots, summary.md and the manifest; one process at a time."""
    from linklab.locks import hold
    from linklab.reports.plots import write_png
    from linklab.studies import learning_curve, plots
    from linklab.tasks.source import source_files

    with hold(folder / ".results"):
        learning_curve.write_csv(folder / "curve.csv", planned, points, curves)
        n_test = points[0].run.n if points else 0
        files.write_text(
            folder / "summary.md", learning_curve.write_summary(args, planned, curves, n_test, missing), force=True
        )
        outputs = ["study.json", "curve.csv", "summary.md"]
        for found in curves:
            outputs.append(f"curve_{found.metric.replace('/', '_')}.png")
            write_png(folder / outputs[-1], plots.learning_curve(found), force=True)
        write_manifest(
            folder, script=__file__, argv=args.argv, seed=None, inputs=source_files(args),
            outputs={folder / name: None for name in outputs}, extra={"runs": len(planned), "points": len(points)},
        )  # fmt: skip


def price(args, n_test: int, baselines) -> int:
    """Say what the study will cost, from a few steps on the largest size; leaves nothing behind."""
    import tempfile

    from linklab.studies import study_cost

    with tempfile.TemporaryDirectory() as scratch:
        say(
            f"timing {study_cost.PROBE_STEPS[0]} and {study_cost.PROBE_STEPS[1]} training steps, "
            f"and {study_cost.PROBE_ROWS} answers"
        )
        found = study_cost.measure(args, max(args.sizes), Path(scratch))
        beside = dict.fromkeys(args.sizes, 0.0)
        if baselines:
            beside = study_cost.measure_baselines(*baselines, sorted(args.sizes), n_test, Path(scratch))
    total = 0.0
    for rows in sorted(args.sizes):
        each = found.seconds(rows, n_test)
        total += each * len(args.seeds) + beside[rows]
        say(f"{rows:,} rows: {len(args.seeds)} x {cli.format_seconds(each)} ({found.steps(rows):,} steps of "
            f"{found.step:.2f} s), baselines {cli.format_seconds(beside[rows])}")  # fmt: skip
    say(f"the whole study: {len(args.sizes) * len(args.seeds)} models, about {cli.format_seconds(total)} one after the "
        f"other; about {found.memory_mb:,.0f} MB of memory a run")  # fmt: skip
    say("dry run: stopped before the study")
    return 0


def main(argv=None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
