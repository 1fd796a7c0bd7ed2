"""Try training settings and say which are best, and which matter.

CSV or JSONL folder -> DIR/study-XXXXXXXX/{trials.csv, summary.md, importances.png, settings.png, trials/,
manifest.json}

    python scripts/run_sweep.py --data runs/jsonl --base-model embedded --space learning_rate=log:1e-4:1e-3 epochs=1,2

Start the command in several terminals, or with `--storage URL` of one database on several machines: they share the
trials. A killed worker's trial is taken up again, finished ones are skipped, and another setting is another study. What
stands after a lone `--` goes to finetune_gemma_from_csv.py as it is. Exit code 1: a trial failed; trials.csv says why.
"""

from __future__ import annotations

from pathlib import Path

from linklab import cli, files
from linklab.cli import UserError, say
from linklab.manifest import write_manifest

METRICS = {"class": ("accuracy",), "number": ("mae", "rmse")}  # what --metric may name, by a target's kind


def build_parser():
    from linklab.studies import options
    from linklab.studies.search_space import parse_axis

    parser = cli.make_parser(__doc__)
    data = options.add_data_options(parser)
    data.add_argument(
        "--max-rows",
        type=cli.positive_int,
        metavar="N",
        help="train on at most N rows, the same in every script; all when left out",
    )
    data.add_argument(
        "--validation-rows", type=cli.positive_int, default=100, metavar="N", help="rows that trials are judged on"
    )
    search = parser.add_argument_group("Search")
    search.add_argument(
        "--space", type=parse_axis, nargs="+", required=True, metavar="NAME=VALUES",
        help="settings to try: NAME=A,B,C a list, NAME=LOW:HIGH a range, NAME=log:LOW:HIGH by its logarithm; names are "
        "finetune's options, like learning_rate, lora_rank, per_device_batch_size, epochs, lr_schedule",
    )  # fmt: skip
    search.add_argument(
        "--sampler", choices=("random", "grid", "tpe"), default="random", help="how settings are chosen"
    )
    search.add_argument("--trials", type=cli.positive_int, metavar="N", help="settings to try (default: 12; grid: all)")
    search.add_argument(
        "--metric", default="loss", metavar="NAME", help="loss, or TARGET/accuracy, TARGET/mae on the validation rows"
    )
    search.add_argument(
        "--no-prune", dest="prune", action="store_false",
        help="let hopeless runs go on; with --metric loss a run is stopped whose loss is above the others' median",
    )  # fmt: skip
    output = parser.add_argument_group("Output")
    output.add_argument("--out-dir", default="runs/sweep", metavar="DIR", help="folder for the studies")
    output.add_argument(
        "--storage", metavar="URL", help="database that several machines share, like postgresql://… "
        "(unset: a journal file in the study's folder, for processes that share it)",
    )  # fmt: skip
    output.add_argument("--retry-failed", action="store_true", help="try trials again that failed")
    options.add_training_options(parser)
    again = parser.add_argument_group("Reproducibility")
    again.add_argument(
        "--seed", type=cli.seed_number, default=1, metavar="N", help="seed of the search and of training"
    )
    return parser


def run(args) -> int:
    from linklab.studies.folder import check_study_dir, fingerprint_data, open_study

    check(args)
    out_dir = check_study_dir(args.out_dir)
    from linklab.studies import runs, sweep
    from linklab.studies.trials import Trials

    settings = sweep.choose_settings(args.sampler, args.space, args.trials, args.seed)
    study = {
        "study": "sweep", "base_model": args.base_model, "mode": args.mode, "training": args.training,
        "rows": args.max_rows, "validation_rows": args.validation_rows, "metric": args.metric, "sampler": args.sampler,
        "space": [axis.text for axis in args.space], "seed": args.seed, "prune": args.prune,
    } | fingerprint_data(args)  # fmt: skip
    folder = open_study(out_dir, study)
    trials = Trials(
        folder, folder.name, args.space, settings, url=args.storage,
        lower_is_better=sweep.lower_is_better(args.metric), tpe=args.sampler == "tpe", prune=args.prune, seed=args.seed,
    )  # fmt: skip
    if args.retry_failed and (again := trials.retry_failed()):
        say(f"{again} failed trials are tried again")
    try:
        sweep.work(args, trials)
    except runs.Stopped as stop:
        say("stopped; run the same command again to go on")
        return stop.code
    write_results(args, folder, trials)
    results = trials.results()
    failed = [trial for trial in results if "error" in trial.user_attrs]
    if failed:
        say(f"error: {len(failed)} of {len(results)} trials failed (first: {failed[0].user_attrs['error']}); "
            f"--retry-failed tries them again")  # fmt: skip
    say(f"wrote {folder}: trials.csv, summary.md")
    if best := sweep.best_of(results, args.metric):
        print(sweep.best_command(args, {axis.name: best.params[axis.name] for axis in args.space}))
    return 1 if failed else 0


def check(args) -> None:
    """Raise a UserError for what no trial could use."""
    from linklab.studies.options import check_training_words
    from linklab.tasks.source import open_source
    from linklab.training.options import flag_of

    names = [axis.name for axis in args.space]
    if len(set(names)) < len(names):
        raise UserError("--space: a setting stands there twice")
    if {"epochs", "max_steps"} <= set(names):
        raise UserError("--space: epochs and max_steps both say how long a training is; choose one")
    check_training_words(args.training, ("--validation-rows", *map(flag_of, names)))
    task, read = open_source(args)
    known = [f"{target.name}/{name}" for target in task.targets for name in METRICS[target.kind]]
    if args.metric not in ("loss", *known):
        raise UserError(f"--metric {args.metric}: there are: loss, {', '.join(known)}")
    read("train", 1)
    read("validation", 1)


def write_results(args, folder: Path, trials) -> None:
    """Write trials.csv, summary.md, plots and the manifest; one process at a time."""
    from linklab.locks import hold
    from linklab.reports.plots import write_png
    from linklab.studies import plots, sweep
    from linklab.tasks.source import source_files

    shares = sweep.find_importances(trials)
    results = [trial for trial in trials.results() if trial and len(trial.params) == len(args.space) and trial.values]
    with hold(folder / ".results"):
        sweep.write_csv(folder / "trials.csv", trials, args.metric)
        files.write_text(folder / "summary.md", sweep.write_summary(args, trials, shares), force=True)
        outputs = ["study.json", "trials.csv", "summary.md"]
        if shares:
            n = sum(trial.state.name == "COMPLETE" for trial in results)
            write_png(folder / "importances.png", plots.importances(shares, n), force=True)
            outputs.append("importances.png")
        else:
            (folder / "importances.png").unlink(missing_ok=True)
        if results:
            lines = [
                {"at": [axis.position(trial.params[axis.name]) for axis in args.space], "value": trial.value,
                 "pruned": trial.state.name == "PRUNED"} for trial in results
            ]  # fmt: skip
            axes = [{"name": axis.name, "ticks": axis.ticks()} for axis in args.space]
            label = "validation loss" if args.metric == "loss" else args.metric
            png = plots.parallel_coordinates(axes, lines, label, lower_is_better=sweep.lower_is_better(args.metric))
            write_png(folder / "settings.png", png, force=True)
            outputs.append("settings.png")
        write_manifest(
            folder, script=__file__, argv=args.argv, seed=args.seed, inputs=source_files(args),
            outputs={folder / name: None for name in outputs}, extra={"trials": len(trials.settings)},
        )  # fmt: skip


def main(argv=None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
