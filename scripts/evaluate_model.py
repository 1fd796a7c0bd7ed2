"""Score a model, or existing predictions, on unseen rows.

model (or predictions.jsonl) + CSV or JSONL folder -> predictions.jsonl, metrics.json, row_scores.csv, plots, report.md

    python scripts/evaluate_model.py --model runs/lora/model --data runs/jsonl --out-dir runs/evaluation

A model chooses among the legal answers of each row, whose probabilities are exact; `--free` lets it write any text.
The same command with `--model embedded` scores the base model before any training.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from linklab import cli, files, manifest
from linklab.cli import say
from linklab.manifest import check_out_dir, staged_folder, write_manifest

if TYPE_CHECKING:
    from linklab.inference.row_answers import AskSettings
    from linklab.metrics.predictions import Prediction
    from linklab.tasks.examples import Example
    from linklab.tasks.source import Source
    from linklab.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which rows are scored, whose answers to them, and what is written."""

    source: Source
    split: str
    max_rows: int | None
    allow_training_rows: bool
    allow_other_prompt: bool
    asking: AskSettings  # the model, and how it is asked
    predictions: str | None  # answers of a file, instead of a model's
    out_dir: str
    name: str | None
    role: str | None
    top_k: int
    force: bool
    argv: tuple[str, ...]


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    data = parser.add_argument_group("Input")
    judged = data.add_mutually_exclusive_group(required=True)
    judged.add_argument("--model", metavar="NAME", help="folder finetune wrote, Hub id, `embedded` or `tiny`")
    judged.add_argument("--predictions", metavar="FILE", help="predictions.jsonl of any origin")
    cli.add_source_options(data)
    data.add_argument("--split", choices=("train", "validation", "test"), default="test", help="the rows to score")
    cli.add_max_rows_option(data, "score at most N rows")
    data.add_argument(
        "--allow-training-rows", action="store_true",
        help="score rows although the model was trained on them; the report says so",
    )  # fmt: skip
    data.add_argument(
        "--allow-other-prompt", action="store_true",
        help="ask with another prompt, or for other targets, than the model was trained with; the report says so",
    )  # fmt: skip
    output = parser.add_argument_group("Output")
    output.add_argument("--out-dir", required=True, metavar="DIR", help="folder to make")
    output.add_argument("--name", metavar="TEXT", help="what tables call it (default: the model's name)")
    output.add_argument(
        "--role",
        choices=("tuned", "base", "baseline"),
        help="tuned, base or baseline (default: tuned for a trained folder, else base)",
    )
    output.add_argument("--force", action="store_true", help="replace what an earlier run wrote to --out-dir")
    manifest.add_skip_finished_option(output)
    model = parser.add_argument_group("Model")
    chosen = cli.add_asking_options(model)
    chosen.add_argument(
        "--free", action="store_true", help="free greedy writing; an answer that is not legal is invalid"
    )
    model.add_argument(
        "--general-questions", action="store_true",
        help="also ask a dozen general questions, so that the report shows what training made the model forget",
    )  # fmt: skip
    model.add_argument("--top-k", type=cli.positive_int, default=3, metavar="K", help="k of the top-k accuracy")
    return parser


def run(args: argparse.Namespace) -> None:
    from linklab.inference import row_answers
    from linklab.inference.row_answers import AskSettings
    from linklab.metrics import general, metrics
    from linklab.models import base_names
    from linklab.tasks.source import Source, find_difference, open_source, read_trained_task, source_files
    from linklab.tasks.training_record import check_unseen

    asking, source = AskSettings.from_args(args), Source.from_args(args)
    settings = cli.read_settings(Settings, args, asking=asking, source=source)
    models = [name for name in (asking.model, asking.base_model) if name]
    reads = [*source.paths(), settings.predictions, *models]
    check_out_dir(settings.out_dir, script=__file__, force=settings.force, reads=reads)
    if settings.predictions:
        row_answers.check_no_model_options(asking)
    for model in models:
        base_names.require_model(model)
    trained = read_trained_task(asking.model) if asking.model else None
    task, read = open_source(
        source, trained, allow_other_prompt=settings.allow_other_prompt, allow_other_split=settings.allow_training_rows
    )
    asked = None
    if asking.model:
        row_answers.check_rank_by(asking.rank_by, task, free=asking.free)
        asked = row_answers.asked_settings(asking, task)
    examples = read(settings.split, settings.max_rows)
    warnings = []
    if asking.model and trained:
        warnings += [difference] if (difference := find_difference(task, trained)) else []
        may_be_seen = settings.allow_training_rows or settings.split == "train"
        warnings += check_unseen(asking.model, examples, may_be_seen=may_be_seen)
    name, role = name_answers(settings)
    predictions, cost, asked_generally = collect_answers(settings, task, examples)
    judged = metrics.judge(examples, predictions, task, top_k=settings.top_k)

    from linklab.reports import plots, summary  # Matplotlib: not before the rows are known to be sound

    with staged_folder(settings.out_dir, script=__file__, force=settings.force, reads=reads) as folder:
        result = metrics.write_run(
            folder, examples, predictions, task, model=name, role=role, cost=cost, top_k=settings.top_k, judged=judged,
            description=row_answers.how_asked(asked) if asked else "", asked=asked, warnings=warnings,
        )  # fmt: skip
        if asked_generally:
            files.write_json(folder / general.FILE, asked_generally)
        pictures = plots.write_target_plots(folder, judged)
        files.write_text(folder / "report.md", summary.describe_run(result, pictures))
        inputs = source_files(source) | answered_from(settings.predictions, asking.model, len(examples))
        write_manifest(
            folder, script=__file__, argv=settings.argv, seed=None, inputs=inputs,
            outputs={path: None for path in sorted(folder.iterdir())}, extra={"n": result["n"], "cost": cost},
        )  # fmt: skip
    shown = "; ".join(f"{key} {entry['value']:.3g}" for key, entry in result["metrics"].items()
                      if key.split("/")[-1] in ("accuracy", "regret", "mae", "token_f1", "exact_match"))  # fmt: skip
    say(f"wrote {settings.out_dir}: {name} on {len(examples):,} {settings.split} rows: {shown}")


def name_answers(settings: Settings) -> tuple[str, str]:
    """Return what tables call those who answered, and their role."""
    if settings.predictions:
        return settings.name or Path(settings.predictions).parent.name, settings.role or "baseline"
    assert settings.asking.model, "one of the two is required"
    name = settings.name or describe_model(settings.asking.model, settings.asking.free)
    return name, settings.role or role_of(settings.asking.model)


def collect_answers(
    settings: Settings, task: Task, examples: list[Example]
) -> tuple[dict[str, Prediction], dict, dict | None]:
    """Return the answers of --predictions, or a model's, by id; what they cost, and general answers as `ask_model`."""
    from linklab.inference.row_answers import ask_model
    from linklab.metrics.predictions import Prediction, read_predictions

    if settings.predictions:
        return read_predictions(settings.predictions, [example.id for example in examples]), {}, None
    answers, cost, asked_generally = ask_model(settings.asking, task, examples)
    return {answer["id"]: Prediction(**answer) for answer in answers}, cost, asked_generally


def answered_from(predictions: str | None, model: str | None, n_rows: int) -> dict[str, int | None]:
    """Return what the answers were read from, or made with, as inputs of a manifest: {path: rows}."""
    if predictions:
        return {predictions: n_rows}
    return {model: None} if model and Path(model).is_dir() else {}


def role_of(model: str) -> str:
    """Return "tuned" for a folder finetune wrote, "base" for anything else."""
    return "tuned" if (Path(model) / "task.json").exists() else "base"


def describe_model(model: str, free: bool) -> str:
    """Return a short name for tables: runs/lora/model -> lora."""
    path = Path(model)
    name = (path.parent.name if path.name in ("model", "merged") else path.name) if path.is_dir() else model
    return f"{name} (free)" if free else name


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), manifest.skip_finished(run, __file__), argv)


if __name__ == "__main__":
    raise SystemExit(main())
