"""Estimate the cost of a study before it starts, from short runs of the real scripts."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from linklab import files, pipeline
from linklab.cli import UserError
from linklab.manifest import MANIFEST
from linklab.pipeline import Stage
from linklab.studies.options import CurveSettings
from linklab.studies.runs import explain
from linklab.training.options import choose_epochs

PROBE_STEPS = (1, 5)  # the first step includes warm-up; the difference is four normal steps
PROBE_ROWS = 32  # rows to time the scoring


@dataclasses.dataclass(frozen=True)
class RunCost:
    """Seconds of each part of a run."""

    start: float  # processes, imports, loading and saving the model, for training and scoring together
    step: float  # one optimizer step
    checkpoint: float  # one validation loss and one checkpoint
    row: float  # scoring one test row
    batch: int  # items per step: rows or questions
    device_batch: int
    items_per_row: float
    epochs: float | None  # None: training chooses them from its number of rows
    max_steps: int | None
    save_steps: int | None
    memory_mb: float

    def steps(self, rows: int) -> int:
        """Return the optimizer steps of a training on these rows."""
        if self.max_steps:
            return self.max_steps
        items = rows * self.items_per_row
        batches = math.ceil(math.ceil(items / self.device_batch) / (self.batch // self.device_batch))
        return max(1, math.ceil(batches * (self.epochs or choose_epochs(items))))

    def seconds(self, rows: int, test_rows: int) -> float:
        """Return the seconds for training on `rows` rows and scoring `test_rows` rows."""
        steps = self.steps(rows)
        every = self.save_steps or max(1, min(200, round(steps / 10)))
        return self.start + steps * self.step + math.ceil(steps / every) * self.checkpoint + test_rows * self.row


def split_length_options(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options that decide the length of a training, and the other words."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--epochs", type=float)
    for name in ("--max-steps", "--save-steps", "--eval-steps", "--patience"):
        parser.add_argument(name, type=int)
    return parser.parse_known_args(list(words))


def measure(settings: CurveSettings, rows: int, scratch: Path) -> RunCost:
    """Train a few steps on `rows` rows and score a few test rows, below `scratch`; raises a UserError if that fails."""
    length, words = split_length_options(settings.training)
    probe = dataclasses.replace(settings, training=tuple(words))
    took, trained = [], []
    for steps in PROBE_STEPS:
        out = scratch / f"steps-{steps}"
        own = ["--max-rows", str(rows), "--max-steps", str(steps), "--save-steps", str(steps), "--out-dir", str(out)]
        took.append(_run(scratch, "finetune_gemma_from_csv.py", probe.training_words(*own), out))
        trained.append(files.read_json(out / "metrics.json"))
    ask = ["--model", f"{out}/model", *settings.source.words(), "--max-rows", str(min(PROBE_ROWS, settings.test_rows))]
    asked = _run(scratch, "evaluate_model.py", [*ask, "--out-dir", str(scratch / "asked")], scratch / "asked")
    scored = files.read_json(scratch / "asked" / "metrics.json")
    few, many = (entry["seconds"] for entry in trained)
    step = max(many - few, 0.0) / (PROBE_STEPS[1] - PROBE_STEPS[0])
    trained_with = trained[0]["settings"]
    return RunCost(
        start=took[0] - few + asked - scored["cost"]["seconds"], step=step, checkpoint=max(few - step, 0.0),
        row=scored["cost"]["seconds"] / scored["n"]["expected"],
        batch=trained_with["per_device_batch_size"] * trained_with["gradient_accumulation_steps"],
        device_batch=trained_with["per_device_batch_size"], items_per_row=trained[0]["items"] / trained[0]["rows"],
        epochs=length.epochs, max_steps=length.max_steps, save_steps=length.save_steps,
        memory_mb=max(entry["peak_memory_mb"] for entry in trained),
    )  # fmt: skip


def measure_baselines(words: list[str], names: list[str], sizes: list[int], test_rows: int, scratch: Path) -> dict:
    """Return the seconds of the baselines at each size: measured at the smallest and largest, else interpolated."""
    import numpy as np

    found = {}
    for rows in sorted({min(sizes), max(sizes)}):
        out = scratch / f"baselines-{rows}"
        ask = [*words, "--only", ",".join(names), "--max-rows", str(test_rows), "--max-train-rows", str(rows)]
        found[rows] = _run(scratch, "run_baselines.py", [*ask, "--out-dir", str(out)], out)
    return dict(zip(sizes, np.interp(sizes, list(found), list(found.values())).tolist(), strict=True))


def _run(scratch: Path, script: str, words: list[str], out: Path) -> float:
    """Run a script to time it; returns its seconds."""
    started = time.monotonic()
    command = pipeline.command_of(Stage(script, "", script, words, out / MANIFEST))
    with open(scratch / "log.txt", "a", encoding="utf-8") as log:
        begins = log.tell()
        code = pipeline.call([sys.executable, *command], log=log)
    if code:
        raise UserError(f"{script}: {explain(scratch / 'log.txt', begins, code)}")
    return time.monotonic() - started
