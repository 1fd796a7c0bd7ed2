"""A sweep: one training per setting, monitored while it runs, and the summary of all trials."""

from __future__ import annotations

import csv
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from linklab import cli, files
from linklab.cli import UserError, say
from linklab.manifest import NEW
from linklab.metrics.metric_table import find_metric
from linklab.reports import markdown
from linklab.studies import runs
from linklab.studies.options import SweepSettings
from linklab.studies.runs import StudyRun
from linklab.studies.search_space import Axis, count_settings, draw_distinct, grid, write_words
from linklab.studies.trials import HEARTBEAT_S, Trials, result_of
from linklab.training import checkpoints
from linklab.training.options import write_value

LOSS = "loss"
STATES = {
    TrialState.COMPLETE: "complete", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running", TrialState.WAITING: "waiting",
}  # fmt: skip
PART = 10  # trials are compared at every 10 % of their steps


def choose_settings(sampler: str, axes: Sequence[Axis], trials: int | None, seed: int) -> list[dict]:
    """Return a setting per place: from a grid, random, or {} if TPE chooses it when the trial starts."""
    if sampler == "grid":
        ranges = [axis.text for axis in axes if not axis.choices]
        if ranges:
            raise UserError(f"--space {ranges[0]}: a grid needs a list, NAME=A,B,C; or choose --sampler random")
        found = grid(axes)
        if trials not in (None, len(found)):
            raise UserError(f"--trials {trials}: the grid has {len(found)} settings; leave it out, or try some of "
                            f"them with --sampler random")  # fmt: skip
        return found
    wanted = trials or 12
    available = count_settings(axes)
    if wanted > available:
        raise UserError(
            f"--trials {wanted}: the space has only {available:.0f} settings; --sampler grid tries them all"
        )
    if sampler == "tpe":
        return [{} for _ in range(wanted)]
    drawn = draw_distinct(axes, seed)
    return [next(drawn) for _ in range(wanted)]


def lower_is_better(metric: str) -> bool:
    """Say whether lower values of the metric are better."""
    return metric == LOSS or not find_metric(metric).higher_is_better


def trial_words(study: SweepSettings, settings: dict) -> list[str]:
    """Return a trial's words for its training, without those common to the study."""
    rows = ["--max-rows", str(study.max_rows)] if study.max_rows else []
    return [*write_words(settings), *rows, "--validation-rows", str(study.validation_rows), "--seed", str(study.seed)]


def read_value(run: StudyRun, metric: str) -> float:
    """Return the metric's value of a finished run."""
    if metric == LOSS:
        return files.read_json(run.folder / "finetune" / "metrics.json")["best_validation_loss"]
    return files.read_json(run.folder / "evaluation" / "metrics.json")["metrics"][metric]["value"]


def validation_losses(training: Path) -> dict[int, float]:
    """Return a training's validation losses by its progress in percent: {10: .93, 20: .71}, every 10 %.

    Runs of different lengths are compared at the same progress, because their learning rates fall with it.
    """
    found_any = [p for p in checkpoints.list_all(training / "checkpoints") if (p / checkpoints.COMPLETE).exists()]
    if not found_any or not (training / "trainer_log.csv").exists():
        return {}
    length = checkpoints.read_settings(found_any[-1])
    done, end = ("step", length["max_steps"]) if length["max_steps"] else ("epoch", length["epochs"])
    found: dict[int, float] = {}
    with open(training / "trainer_log.csv", encoding="utf-8", newline="") as handle:
        for line in csv.DictReader(handle):
            if line["validation_loss"]:
                share = float(line[done]) / end
                found.setdefault(int(100 * share / PART + 1e-6) * PART, float(line["validation_loss"]))
    return found


class Watch:
    """Monitors a running training: reports validation losses, sends heartbeats, decides when to stop it early."""

    def __init__(self, trials: Trials, trial: Trial, run: StudyRun, *, prune: bool) -> None:
        self.trials, self.trial, self.run, self.prune = trials, trial, run, prune
        self.reported: set[int] = set()
        self.beaten = time.monotonic()
        self.stopped_early = self.lost = False

    def __call__(self) -> bool:
        try:
            if time.monotonic() - self.beaten > HEARTBEAT_S:
                self.beaten = time.monotonic()
                self.lost = not self.trials.beat(self.trial)
            losses = validation_losses(self.run.folder / "finetune")
            for percent in sorted(losses.keys() - self.reported):
                self.reported.add(percent)
                self.trial.report(losses[percent], percent)
                # At 100 % the run is almost finished: stopping it saves nothing.
                self.stopped_early = self.stopped_early or (self.prune and percent < 100 and self.trial.should_prune())
        except optuna.exceptions.UpdateFinishedTrialError:
            self.lost = True
        return self.stopped_early or self.lost


def work(study: SweepSettings, trials: Trials) -> None:
    """Take and run trials until every place has a result or an error; raises runs.Stopped after a signal."""
    waited = False
    while True:
        with trials.take() as taken:
            if taken is not None:
                make_trial(study, trials, *taken)
                waited = False
                continue
        if trials.is_finished():
            return
        if not waited:
            say("waiting for trials of other processes")
            waited = True
        time.sleep(0.5)


def make_trial(study: SweepSettings, trials: Trials, trial: Trial, place: int, handle: int) -> None:
    """Train with a trial's setting and record the result or the error."""
    settings = {axis.name: trial.params[axis.name] for axis in trials.axes}
    scored = None if study.metric == LOSS else ["--split", "validation", "--max-rows", str(study.validation_rows)]
    words = trial_words(study, settings)
    run = runs.plan_training(study, trials.place_folder(place), f"trial {place}", words, scored)
    say(f"trial {place}: {' '.join(f'{name}={write_value(value)}' for name, value in settings.items())}")
    if trial.user_attrs.get("retry"):
        (run.folder / runs.ERROR).unlink(missing_ok=True)
    # Pruning compares validation losses, so it works only if the sweep minimizes the loss.
    watch = Watch(trials, trial, run, prune=study.prune and study.metric == LOSS)
    done = run.error() is None and runs.attempt(run, handle, watch)
    if watch.lost:
        say(f"trial {place}: another process took it over because this one sent no heartbeat for too long")
        return
    if done:
        kept = trials.finish(trial, value=read_value(run, study.metric), seconds=run.seconds())
    else:
        kept = trials.finish(trial, error=run.error())
        for name in ("checkpoints", NEW):  # NEW: results that were being written when the trial was stopped early
            files.remove_folder(run.folder / "finetune" / name)
    if not kept:
        say(f"trial {place}: another process took it over; the other result counts")
        return
    report_progress(study, trials, place)


def report_progress(study: SweepSettings, trials: Trials, place: int) -> None:
    """Print a trial's result, the best so far, and the time left."""
    results = trials.results()
    trial, over = results[place], [other for other in results if other]
    assert trial is not None  # its result has just been recorded
    said = {
        TrialState.COMPLETE: lambda: f"{study.metric} {trial.value:.4g}",
        TrialState.PRUNED: lambda: f"stopped early at {trial.last_step} %, loss {trial.value:.4g}",
        TrialState.FAIL: lambda: f"failed: {trial.user_attrs['error']}",
    }[trial.state]()
    best = best_of(results, study.metric)
    shown = f"; best {best.value:.4g} (trial {best.user_attrs['place']})" if best else ""
    took = [(other.datetime_complete - other.datetime_start).total_seconds() for other in over if other.datetime_start]
    todo = len(results) - len(over)
    # This process, and those that run another trial now.
    workers = 1 + sum(any(t.state == TrialState.RUNNING for t in found) for found in trials.by_place())
    left = todo / max(min(workers, todo), 1) * sum(took) / max(len(took), 1)
    say(f"[{len(over)}/{len(results)}] trial {place}: {said}{shown}; about {cli.format_seconds(left)} left")


def best_of(results: Sequence[FrozenTrial | None], metric: str) -> FrozenTrial | None:
    """Return the complete trial with the best value, None if there is none."""
    done = [trial for trial in results if trial and trial.state == TrialState.COMPLETE]
    return (min if lower_is_better(metric) else max)(done, key=lambda trial: trial.value, default=None)


def list_cells(trials: Trials, metric: str) -> Iterator[Sequence[object]]:
    """Yield trials.csv: one line per place, in order."""
    names = [axis.name for axis in trials.axes]
    yield ["trial", "state", metric, *names, "seconds", "attempts", "error"]
    for place, found in enumerate(trials.by_place()):
        own = [trial for trial in found if "twin" not in trial.user_attrs]
        trial = result_of(found) or (own[-1] if own else None)
        if trial is None:
            continue
        value = f"{trial.value:.6g}" if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) else ""
        cells = [write_value(trial.params[name]) if name in trial.params else "" for name in names]
        attempts = sum(other.state != TrialState.WAITING for other in own)
        facts = [trial.user_attrs.get("seconds", ""), attempts, trial.user_attrs.get("error", "")]
        yield [place, STATES[trial.state], value, *cells, *facts]


def needed_trials(axes: Sequence[Axis]) -> int:
    """Return how many complete trials are needed to say which setting matters; with fewer, chance decides."""
    return 4 * len(axes)


def find_importances(trials: Trials) -> dict[str, float]:
    """Return each setting's share of the variation of results; {} with too few trials."""
    results = [trial for trial in trials.results() if trial and trial.state == TrialState.COMPLETE]
    if len(results) < needed_trials(trials.axes) or len({trial.value for trial in results}) < 2:
        return {}
    complete = optuna.create_study(direction=trials.study.direction)
    complete.add_trials(results)  # without those of killed workers and those stopped early
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.importance.get_param_importances(
            complete, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )


def best_command(study: SweepSettings, settings: dict) -> str:
    """Return the command line of a training with these settings."""
    words = study.training_words(*trial_words(study, settings), "--out-dir", "runs/best")
    return f"python scripts/finetune_gemma_from_csv.py {shlex.join(words)}"


def write_summary(study: SweepSettings, trials: Trials, shares: dict[str, float]) -> str:
    """Return the sweep in markdown: best setting and its command, all trials, importances, failed trials."""
    results = trials.results()
    count = {name: sum(t is not None and STATES[t.state] == name for t in results) for name in STATES.values()}
    best = best_of(results, study.metric)
    rows = f"{study.max_rows:,} rows" if study.max_rows else "all rows"
    judge = "validation loss" if study.metric == LOSS else markdown.escape(study.metric)
    lines = [
        "# Sweep", "",
        f"{markdown.code(study.describe())}, {rows}, seed {study.seed}; "
        f"{study.sampler}, {len(results)} trials: {count['complete']} complete, {count['stopped early']} stopped "
        f"early, {count['failed']} failed. Ranked by {judge} on "
        f"at most {study.validation_rows} validation rows; test rows were not used.", "",
    ]  # fmt: skip
    if best:
        command = best_command(study, {axis.name: best.params[axis.name] for axis in trials.axes})
        lines += [
            f"Best: trial {best.user_attrs['place']}, {markdown.escape(study.metric)} {best.value:.4g}.",
            "",
            markdown.fence(command, "bash"),
            "",
        ]
    names = [axis.name for axis in trials.axes]
    lines += _trial_table(results, names, study.metric)
    if shares:
        parts = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        said = f"What explains the variation (fANOVA over {count['complete']} complete trials, so roughly): {parts}."
    else:
        said = (
            f"Too few trials to say which setting matters: {len(names)} settings need {needed_trials(trials.axes)} "
            f"complete trials with different losses, {count['complete']} are complete (--no-prune, or more --trials)."
        )
    lines += [said, "", "Each setting has one seed: the order of the first few may be chance.", ""]
    failed = [(place, trial) for place, trial in enumerate(results) if trial and trial.state == TrialState.FAIL]
    if failed:
        errors = (f"- trial {place}: {markdown.escape(trial.user_attrs['error'])}" for place, trial in failed)
        lines += ["## Failed", "", *errors, ""]
    return "\n".join(lines)


def _trial_table(results: Sequence[FrozenTrial | None], names: Sequence[str], metric: str) -> list[str]:
    """Return a markdown table of the trials with a value, the best complete ones first."""
    rows = []
    shown = [trial for trial in results if trial and trial.state != TrialState.FAIL]
    shown.sort(key=lambda t: (t.state != TrialState.COMPLETE, t.value if lower_is_better(metric) else -t.value))
    for trial in shown:
        took = cli.format_seconds(trial.user_attrs["seconds"]) if "seconds" in trial.user_attrs else "–"
        note = f"stopped at {trial.last_step} %" if trial.state == TrialState.PRUNED else ""
        cells = [write_value(trial.params[name]) for name in names]
        rows.append([str(trial.user_attrs["place"]), f"{trial.value:.4g}", *cells, took, note])
    head = ["trial", metric, *names, "took", ""]
    return [*markdown.table(head, rows, "rr" + "r" * len(names) + "rl"), ""]
