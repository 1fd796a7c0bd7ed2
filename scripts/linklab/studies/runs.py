"""One run of a study: a few stages in a folder with a log. A failure is recorded, and the study continues."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from linklab import cli, files, pipeline
from linklab.cli import say
from linklab.locks import claim
from linklab.manifest import MANIFEST
from linklab.pipeline import Stage
from linklab.studies.options import StudySettings

LOG, ERROR, CLAIM, TIME = "log.txt", "error.json", ".claim", "time.json"


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """Stages that run one after the other in one folder; the time they take is estimated from `rows` and `kind`."""

    name: str
    folder: Path
    stages: tuple[Stage, ...]
    rows: int = 0
    kind: str = "model"

    def error(self) -> str | None:
        """Return why the run failed, or None."""
        path = self.folder / ERROR
        return files.read_json(path)["error"] if path.exists() else None

    def is_done(self) -> bool:
        """Say whether the manifest of every stage shows that it is finished."""
        return self.seconds() is not None and all(pipeline.stale_reason(stage) is None for stage in self.stages)

    def seconds(self) -> float | None:
        """Return the duration of the run in seconds; None until it has finished once."""
        path = self.folder / TIME
        return files.read_json(path)["seconds"] if path.exists() else None


def plan_training(
    study: StudySettings, folder: Path, name: str, own: Sequence[str], scored: Sequence[str] | None, rows: int = 0,
    shown: str = "",
) -> StudyRun:  # fmt: skip
    """Return a run that trains with the words `own`, then scores the rows that the words `scored` select (None: none).

    `shown` is the name of the scores, by default `name`.
    """
    words = study.training_words(*own, "--out-dir", f"{folder}/finetune", "--resume", "auto")
    stages = [Stage("finetune", "training", "finetune_gemma_from_csv.py", words, folder / "finetune" / MANIFEST)]
    if scored is not None:
        words = ["--model", f"{folder}/finetune/model", *study.source.words(), *scored]
        words += ["--out-dir", f"{folder}/evaluation", "--name", shown or name]
        stages.append(Stage("evaluation", "scoring", "evaluate_model.py", words, folder / "evaluation" / MANIFEST))
    return StudyRun(name, folder, tuple(stages), rows)


class Stopped(Exception):
    """The run was stopped by a signal, so the study stops too; `code` is the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def attempt(run: StudyRun, handle: int, watch: Callable[[], bool] | None = None) -> bool:
    """Run the stages that are not finished; returns True if all are, and writes error.json if one fails.

    `handle` is the open lock file of the run, which its processes keep open. Raises Stopped if a process was stopped by
    a signal, unless `watch` asked for it.
    """
    started = time.monotonic()
    stopped_by_watch = False

    def should_stop() -> bool:
        nonlocal stopped_by_watch
        stopped_by_watch = watch is not None and watch()
        return stopped_by_watch

    run.folder.mkdir(parents=True, exist_ok=True)
    for place in (run.folder, run.folder / "finetune"):
        files.remove_all_left_overs(place)
    for stage in run.stages:
        if pipeline.stale_reason(stage) is None:
            continue
        command = pipeline.command_of(stage)
        with open(run.folder / LOG, "a", encoding="utf-8") as log:
            print(cli.mask_secrets(f"$ python {' '.join(command)}"), file=log, flush=True)
            begins = log.tell()
            code = pipeline.call(
                [sys.executable, *command], log=log, hold=[handle], watch=should_stop if watch else None
            )
        if stopped_by_watch:
            return False
        if code in pipeline.STOPPED:
            raise Stopped(code)
        unfinished = None if code else pipeline.stale_reason(stage)
        if code or unfinished:
            said = explain(run.folder / LOG, begins, code) if code else f"exit code 0, but not finished ({unfinished})"
            error = {"stage": stage.name, "code": code, "error": said}
            files.write_json(run.folder / ERROR, error, force=True)
            return False
        if stage.name == "finetune":  # no longer needed; with --mode full they are five times the model's size
            files.remove_folder(run.folder / "finetune" / "checkpoints")
    took = max((run.seconds() or 0.0) + time.monotonic() - started, _training_seconds(run))
    files.write_json(run.folder / TIME, {"seconds": round(took, 2)}, force=True)
    return True


def _training_seconds(run: StudyRun) -> float:
    """Return the seconds of the training, including those before an earlier process was killed; 0 if unknown."""
    path = run.folder / "finetune" / "metrics.json"
    return files.read_json(path).get("seconds", 0.0) if path.exists() else 0.0


def explain(log: Path, begins: int, code: int) -> str:
    """Return a failed process's exit code and its error line, else its last line."""
    with open(log, encoding="utf-8", errors="replace") as handle:
        handle.seek(begins)
        lines = [line.strip() for line in handle if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "no output")
    killed = f" (killed by signal {code - 128}; out of memory?)" if code > 128 else ""
    return f"exit code {code}{killed}: {said.removeprefix('error: ')}"


def make_all(
    runs: Sequence[StudyRun], describe_result: Callable[[StudyRun], str], retry_failed: bool = False
) -> list[StudyRun]:
    """Do every run that is not finished; returns those that failed. Several processes may share the work.

    A run of another process is left to it, and continued here if that process ends without finishing it.
    `describe_result` returns a finished run's result for the progress line.
    """
    open_runs, failed, waited = list(runs), [], False
    retry = {run.name for run in runs if retry_failed and run.error()}
    while open_runs:
        busy = []
        for run in open_runs:
            made = _make_if_free(run, retry)
            if made is None:
                busy.append(run)
                continue
            if run.error():
                failed.append(run)
            if made:
                todo = [other for other in open_runs if not (other.seconds() or other.error())]
                _say_progress(run, runs, todo, describe_result)
        if busy and len(busy) == len(open_runs):
            if not waited:
                say(f"waiting for {len(busy)} runs of other processes")
                waited = True
            time.sleep(0.5)
        open_runs = busy
    return failed


def _make_if_free(run: StudyRun, retry: set[str]) -> bool | None:
    """Do a run unless it is finished, or failed and not in `retry`; returns whether it ran, None if others hold it."""
    with claim(run.folder / CLAIM) as handle:
        if handle is None:
            return None
        if run.error() and run.name in retry:
            (run.folder / ERROR).unlink()
            retry.remove(run.name)
        if run.error() is not None or run.is_done():
            return False
        say(f"{run.name}: started")
        attempt(run, handle)
        return True


def _say_progress(
    run: StudyRun, runs: Sequence[StudyRun], todo: Sequence[StudyRun], describe_result: Callable[[StudyRun], str]
) -> None:
    said = f"failed: {run.error()}" if run.error() else describe_result(run)
    seconds = run.seconds()
    took = f" in {cli.format_seconds(seconds)}" if seconds else ""
    left = cli.format_seconds(seconds_left([r for r in runs if r.seconds()], todo))
    say(f"[{len(runs) - len(todo)}/{len(runs)}] {run.name}: {said}{took}; about {left} left")


def seconds_left(done: Iterable[StudyRun], todo: Iterable[StudyRun]) -> float:
    """Return the estimated seconds of the runs in `todo`: a line through rows and seconds of finished runs per kind."""
    import numpy as np

    total, done = 0.0, list(done)
    for run in todo:
        like = [other for other in done if other.kind == run.kind]
        if not like:
            continue
        rows, seconds = [other.rows for other in like], [other.seconds() or 0.0 for other in like]
        if len(set(rows)) > 1:
            slope, start = np.polyfit(rows, seconds, 1)
            total += max(float(start + slope * run.rows), min(seconds))
        else:
            total += sum(seconds) / len(seconds) * max(1.0, run.rows / rows[0])
    return total
