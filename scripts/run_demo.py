"""Run the whole pipeline with the scripts a person would call; each command is printed before it runs.

nothing -> DIR/{data,validation,jsonl,baselines,baselines_fit,base,finetune,tuned,tuned_fit,tuned_free,report}

    python scripts/run_demo.py --base-model embedded --max-rows 700

Run it again and finished stages are skipped: a stage is finished when its manifest names its command and every file it
read and wrote is as it was. An interrupted training continues from its last complete checkpoint. Other options in the
same folder are refused: name another --out-dir, or pass --force to make again what they change.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from linklab import cli
from linklab.cli import say
from linklab.manifest import MANIFEST, read_manifest
from linklab.models import base_names
from linklab.pipeline import Stage, call, command_of, stale_reason

LONG = 1000  # from this many training rows on, more unseen rows are scored
FIT_ROWS = 150  # validation rows that fit the blend of model and trees


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which model is trained on how many rows, and where everything goes."""

    base_model: str
    max_rows: int
    test_rows: int
    out_dir: Path
    force: bool
    seed: int


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.make_parser(__doc__)
    model = parser.add_argument_group("Model")
    model.add_argument(
        "--base-model", default="embedded", metavar="NAME", help="base model: embedded, tiny, folder or Hub id"
    )
    data = parser.add_argument_group("Input")
    data.add_argument("--max-rows", type=cli.positive_int, default=700, metavar="N", help="rows to train on")
    data.add_argument(
        "--test-rows",
        type=cli.positive_int,
        metavar="N",
        help=f"unseen rows every predictor is scored on (default: 200, and 400 from {LONG:,} training rows on)",
    )
    output = parser.add_argument_group("Output")
    output.add_argument("--out-dir", metavar="DIR", help="folder for all stages (default: runs/demo-MODEL-ROWS)")
    output.add_argument(
        "--force", action="store_true", help="repeat finished stages whose command or files have changed"
    )
    again = parser.add_argument_group("Reproducibility")
    again.add_argument(
        "--seed", type=cli.seed_number, default=1, metavar="N", help="seed of data, baselines and training"
    )
    return parser


def read_settings(args: argparse.Namespace) -> Settings:
    """Return the options as settings; the folder is named after the model, and larger runs are tested on more rows."""
    return cli.read_settings(
        Settings, args, test_rows=args.test_rows or (400 if args.max_rows >= LONG else 200),
        out_dir=Path(args.out_dir or f"runs/demo-{Path(args.base_model).name}-{args.max_rows}"),
    )  # fmt: skip


def training_words(model: str) -> list[str]:
    """Return the training's options. The tiny model has random weights, so all of it is trained, at a higher rate."""
    if model == "tiny":
        return ["--mode", "full", "--learning-rate", "2e-3", "--epochs", "2"]
    return ["--mode", "lora", "--validation-rows", "30"]  # 200 questions: ten looks at them cost a tenth of the time


def plan_stages(model: str, rows: int, test_rows: int, seed: int, out: Path) -> list[Stage]:
    """Return the stages in order. Enough rows are generated for both the training rows and the unseen ones."""
    # 80 % of the sites train and 10 % test; a tenth more than needed, because sites are not all of one size.
    samples = math.ceil(max(rows / 0.8, test_rows / 0.1) * 1.1)
    csv, jsonl, ask = f"{out}/data/links.csv", f"{out}/jsonl", ["--max-rows", str(test_rows)]
    fit = ["--split", "validation", "--max-rows", str(min(FIT_ROWS, test_rows))]

    def stage(name: str, shows: str, script: str, *words: object, manifest: str | None = None) -> Stage:
        return Stage(name, shows, script, [str(word) for word in words], out / (manifest or f"{name}/manifest.json"))

    def evaluate(name: str, shows: str, source: str, *words: str, rows_asked: Sequence[str] = ask) -> Stage:
        return stage(name, shows, "evaluate_model.py", "--model", source, "--data", jsonl, *rows_asked, *words,
                     "--out-dir", f"{out}/{name}")  # fmt: skip

    shown = Path(model).name
    stages = [
        stage("data", "link data", "generate_synthetic_large.py", "--n-samples", samples, "--seed", seed, "--out-dir",
              f"{out}/data"),
        stage("validation", "is the data sound?", "validate_dataset.py", csv, "--report",
              f"{out}/validation/report.json",
              "--violations", f"{out}/validation/violations.csv", manifest="validation/report.manifest.json"),
        stage("jsonl", "rows to conversations", "convert_csv_to_jsonl.py", "--csv", csv, "--out-dir", jsonl),
        stage("baselines", "what a model has to beat", "run_baselines.py", "--csv", csv, *ask, "--max-train-rows", rows,
              "--seed", seed, "--out-dir", f"{out}/baselines"),
        stage("baselines_fit", "the trees on validation rows, for a blend", "run_baselines.py", "--csv", csv,
              *fit, "--max-train-rows", rows, "--only", "boosting_candidates", "--seed", seed, "--out-dir",
              f"{out}/baselines_fit"),
        evaluate("base", "the model before training", model, "--name", f"{shown} before training"),
        stage("finetune", "training", "finetune_gemma_from_csv.py", "--data", jsonl, "--base-model", model,
              *training_words(model), "--max-rows", rows, "--seed", seed, "--out-dir", f"{out}/finetune",
              "--resume", "auto"),
        evaluate("tuned", "the model after training", f"{out}/finetune/model", "--name", f"{shown} fine-tuned"),
        evaluate("tuned_fit", "the same on validation rows", f"{out}/finetune/model", "--name", f"{shown} fine-tuned",
                 rows_asked=fit),
        evaluate("tuned_free", "the same, writing freely", f"{out}/finetune/model", "--name",
                 f"{shown} fine-tuned, free", "--free"),
    ]  # fmt: skip
    runs = [f"{out}/{name}" for name in ("baselines", "base", "tuned", "tuned_free")]
    stage_words = [word for name in ("data", "jsonl", "finetune") for word in ("--stage", f"{out}/{name}")]
    stage_words[2:2] = ["--stage", f"{out}/validation/report.manifest.json"]
    stages.append(stage("report", "how they compare", "compare_results.py", *runs, *stage_words, "--validation-runs",
                        f"{out}/baselines_fit", f"{out}/tuned_fit", "--out-dir", f"{out}/report"))  # fmt: skip
    return stages


def refuse_to_replace(out: Path, stages: list[Stage]) -> None:
    """Raise a UserError when a finished stage would have to be made again: it may have taken an hour."""
    for stage in stages:
        reason = stale_reason(stage) if stage.manifest.exists() else None
        if reason:
            raise cli.UserError(f"{out}: stage {stage.name} is finished, and would be made again ({reason}); choose "
                                f"another --out-dir, or pass --force to replace it and what depends on it")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    out = settings.out_dir
    stages = plan_stages(settings.base_model, settings.max_rows, settings.test_rows, settings.seed, out)
    if not settings.force:
        refuse_to_replace(out, stages)
    if not (out / "finetune" / MANIFEST).exists():
        base_names.require_model(settings.base_model)
    out.mkdir(parents=True, exist_ok=True)  # a place that cannot be written is named before anything runs
    started = time.monotonic()
    for number, stage in enumerate(stages, start=1):
        reason = stale_reason(stage)
        head = f"[{number}/{len(stages)}] {stage.name}: {stage.shows}"
        if reason is None:
            say(f"{head} - already done")
            continue
        command = command_of(stage)
        say(f"\n{head}{f' (again: {reason})' if stage.manifest.exists() else ''}\n$ python {shlex.join(command)}")
        stage_started = time.monotonic()
        if code := call([sys.executable, *command]):
            say(f"error: stage {stage.name} ended with exit code {code}; fix it and run this command again: "
                f"what is finished is kept")  # fmt: skip
            return code
        say(f"{stage.name}: {cli.format_seconds(time.monotonic() - stage_started)}")
    manifest = read_manifest(stages[-1].manifest)
    say(f"\nall {len(stages)} stages done in {cli.format_seconds(time.monotonic() - started)}")
    print(f"report: {out}/report/report.html", manifest["extra"]["verdict"], sep="\n")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
