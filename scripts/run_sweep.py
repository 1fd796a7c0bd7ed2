"""Try training settings and say which are best, and which matter.

CSV or JSONL folder -> DIR/study-XXXXXXXX/{trials.csv, summary.md, importances.png, settings.png, trials/,
manifest.json}

    python scripts/run_sweep.py --data runs/jsonl --base-model embedded --space learning_rate=log:1e-4:1e-3 epochs=1,2

Start the command in several terminals, or with `--storage URL` of one database on several machines: they share the
trials. A killed worker's trial is resumed, finished trials are skipped, and other settings are another study. Options
after a lone `--` are passed to finetune_gemma_from_csv.py unchanged. Exit code 1: a trial failed; trials.csv says why.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from linklab import cli
from linklab.cli import UserError, say

if TYPE_CHECKING:
    from linklab.studies.options import SweepSettings
    from linklab.studies.trials import Trials

RESULTS = ("trials.csv", "summary.md", "importances.png", "settings.png")
STORAGE = "LINKLAB_STORAGE"  # environment variable with its URL: a password does not belong in a command line
METRICS = {"class": ("accuracy",), "number": ("mae", "rmse")}  # legal values of --metric by kind of target


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    from linklab.studies import options
    from linklab.studies.search_space import parse_axis

    parser = cli.make_parser(__doc__)
    data = parser.add_argument_group("Input")
    cli.add_source_options(data)
    cli.add_max_rows_option(data, "train on at most N rows")
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
        help="do not stop poor trials early (with --metric loss a trial is stopped when its loss is above the median)",
    )  # fmt: skip
    output = parser.add_argument_group("Output")
    output.add_argument("--out-dir", default="runs/sweep", metavar="DIR", help="folder for the studies")
    output.add_argument(
        "--storage", metavar="URL", default=os.environ.get(STORAGE) or None,
        help="database that several machines share, like postgresql://… (default: "
        f"${STORAGE}, else a journal file in the study's folder, for processes that share it)",
    )  # fmt: skip
    output.add_argument("--retry-failed", action="store_true", help="repeat the trials that failed")
    options.add_training_options(parser)
    again = parser.add_argument_group("Reproducibility")
    again.add_argument(
        "--seed", type=cli.seed_number, default=1, metavar="N", help="seed of the search and of training"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Make the missing trials, then write the results of all and print the best command."""
    from linklab.models import base_names
    from linklab.studies.folder import check_study_dir, open_study
    from linklab.studies.options import SweepSettings
    from linklab.tasks.source import Source

    study = cli.read_settings(SweepSettings, args, source=Source.from_args(args))
    base_names.require_model(study.base_model, ask_hub=False)
    check(study)
    check_study_dir(study.out_dir)
    from linklab.studies import runs, sweep
    from linklab.studies.trials import Trials

    tried = sweep.choose_settings(study.sampler, study.space, study.trials, study.seed)
    deciding = {
        "study": "sweep", "rows": study.max_rows, "validation_rows": study.validation_rows, "metric": study.metric,
        "sampler": study.sampler, "space": [axis.text for axis in study.space], "seed": study.seed,
        "prune": study.prune,
    }  # fmt: skip
    folder = open_study(study, deciding, RESULTS, script=__file__)
    trials = Trials(
        folder, folder.name, study.space, tried, url=study.storage, tpe=study.sampler == "tpe",
        lower_is_better=sweep.lower_is_better(study.metric), prune=study.prune, seed=study.seed,
    )  # fmt: skip
    if study.retry_failed and (again := trials.retry_failed()):
        say(f"repeating {again} failed trials")
    try:
        sweep.work(study, trials)
    except runs.Stopped as stop:
        say("stopped; run the same command again to continue")
        return stop.code
    write_results(study, folder, trials)
    results = trials.results()
    failed = [trial for trial in results if trial and "error" in trial.user_attrs]
    if failed:
        say(f"error: {len(failed)} of {len(results)} trials failed (first: {failed[0].user_attrs['error']}); "
            f"--retry-failed tries them again")  # fmt: skip
    say(f"wrote {folder}: trials.csv, summary.md")
    if best := sweep.best_of(results, study.metric):
        print(sweep.best_command(study, {axis.name: best.params[axis.name] for axis in study.space}))
    return 1 if failed else 0


def check(study: SweepSettings) -> None:
    """Raise a UserError for options that no trial could use."""
    from linklab.studies.options import check_training_arguments
    from linklab.tasks.source import open_source
    from linklab.training.options import flag_of

    names = [axis.name for axis in study.space]
    if len(set(names)) < len(names):
        raise UserError("--space: a setting is named twice")
    if {"epochs", "max_steps"} <= set(names):
        raise UserError("--space: epochs and max_steps both say how long a training is; choose one")
    check_training_arguments(study.training, ("--validation-rows", *map(flag_of, names)))
    task, read = open_source(study.source)
    known = [f"{target.name}/{name}" for target in task.targets for name in METRICS.get(target.kind, ())]
    if study.metric not in ("loss", *known):
        raise UserError(f"--metric {study.metric}: there are: loss, {', '.join(known)}")
    read("train", 1)
    read("validation", 1)


def write_results(study: SweepSettings, folder: Path, trials: Trials) -> None:
    """Write trials.csv, summary.md, plots and the manifest; one process at a time."""
    from linklab.studies import plots, sweep
    from linklab.studies.folder import write_results as write_study

    shares = sweep.find_importances(trials)
    axes = trials.axes
    results = [trial for trial in trials.results() if trial and len(trial.params) == len(axes) and trial.values]
    images = {}
    if shares:
        n = sum(trial.state.name == "COMPLETE" for trial in results)
        images["importances.png"] = plots.importances(shares, n)
    if results:
        lines = [
            {"at": [axis.position(trial.params[axis.name]) for axis in axes], "value": trial.value,
             "pruned": trial.state.name == "PRUNED"} for trial in results
        ]  # fmt: skip
        drawn = [{"name": axis.name, "ticks": axis.ticks()} for axis in axes]
        label = "validation loss" if study.metric == "loss" else study.metric
        lower = sweep.lower_is_better(study.metric)
        images["settings.png"] = plots.parallel_coordinates(drawn, lines, label, lower_is_better=lower)
    write_study(
        folder, study, RESULTS, ("trials.csv", sweep.list_cells(trials, study.metric)),
        lambda: sweep.write_summary(study, trials, shares), images,
        script=__file__, seed=study.seed, extra={"trials": len(trials.settings)},
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
