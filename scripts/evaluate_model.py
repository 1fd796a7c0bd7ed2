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
    """Which rows are scored, who answers them, and what is written."""

    source: Source
    split: str
    max_rows: int | None
    allow_training_rows: bool
    allow_other_prompt: bool
    asking: AskSettings  # the model, and how it is asked
    predictions: str | None  # a file of answers, instead of a model
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


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers to the rows, who gave them, and how."""

    by_id: dict[str, Prediction]
    name: str  # what tables call the model or baseline
    role: str
    asked: dict | None = None  # how the model was asked; None if the answers come from a file
    cost: dict = dataclasses.field(default_factory=dict)
    general: dict | None = None  # the answers to --general-questions


def run(args: argparse.Namespace) -> None:
    from linklab.inference import row_answers
    from linklab.models import base_names
    from linklab.tasks.source import Source, open_source, read_trained_task

    asking, source = row_answers.AskSettings.from_args(args), Source.from_args(args)
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
    if asking.model:
        row_answers.check_rank_by(asking.rank_by, task, free=asking.free)
    examples = read(settings.split, settings.max_rows)
    warnings = find_warnings(settings, task, trained, examples)
    answers = collect_answers(settings, task, examples)
    with staged_folder(settings.out_dir, script=__file__, force=settings.force, reads=reads) as folder:
        result = write_results(folder, settings, task, examples, answers, warnings)
    shown = "; ".join(f"{key} {entry['value']:.3g}" for key, entry in result["metrics"].items()
                      if key.split("/")[-1] in ("accuracy", "regret", "mae", "token_f1", "exact_match"))  # fmt: skip
    say(f"wrote {settings.out_dir}: {answers.name} on {len(examples):,} {settings.split} rows: {shown}")


def find_warnings(settings: Settings, task: Task, trained: Task | None, examples: list[Example]) -> list[str]:
    """Return warnings for the report: another prompt than in training, and rows that may be training rows.

    Raises a UserError for training rows without --allow-training-rows.
    """
    from linklab.tasks.source import find_difference
    from linklab.tasks.training_record import check_unseen

    model = settings.asking.model
    if not model or not trained:
        return []
    difference = find_difference(task, trained)
    may_be_seen = settings.allow_training_rows or settings.split == "train"
    return [*([difference] if difference else []), *check_unseen(model, examples, may_be_seen=may_be_seen)]


def collect_answers(settings: Settings, task: Task, examples: list[Example]) -> Answers:
    """Return the answers of --predictions, or ask the model."""
    from linklab.inference import row_answers
    from linklab.metrics.predictions import Prediction, read_predictions

    if settings.predictions:
        answers = read_predictions(settings.predictions, [example.id for example in examples])
        return Answers(answers, settings.name or Path(settings.predictions).parent.name, settings.role or "baseline")
    model = settings.asking.model
    assert model, "one of the two is required"
    given, cost, general = row_answers.ask_model(settings.asking, task, examples)
    return Answers(
        {answer["id"]: Prediction(**answer) for answer in given},
        settings.name or describe_model(model, settings.asking.free), settings.role or role_of(model),
        row_answers.asked_settings(settings.asking, task), cost, general,
    )  # fmt: skip


def write_results(
    folder: Path, settings: Settings, task: Task, examples: list[Example], answers: Answers, warnings: list[str]
) -> dict:
    """Score the answers, write every file of the folder, its manifest last, and return what metrics.json holds."""
    from linklab.inference.row_answers import how_asked
    from linklab.metrics import general, metrics
    from linklab.reports import plots, summary
    from linklab.tasks.source import source_files

    judged = metrics.judge(examples, answers.by_id, task, top_k=settings.top_k)
    result = metrics.write_run(
        folder, examples, answers.by_id, task, model=answers.name, role=answers.role, cost=answers.cost,
        top_k=settings.top_k, judged=judged, description=how_asked(answers.asked) if answers.asked else "",
        asked=answers.asked, warnings=warnings,
    )  # fmt: skip
    if answers.general:
        files.write_json(folder / general.FILE, answers.general)
    files.write_text(folder / "report.md", summary.describe_run(result, plots.write_target_plots(folder, judged)))
    inputs, model = source_files(settings.source), settings.asking.model
    if settings.predictions:
        inputs[settings.predictions] = len(examples)
    elif model and Path(model).is_dir():
        inputs[model] = None
    write_manifest(
        folder, script=__file__, argv=settings.argv, seed=None, inputs=inputs,
        outputs=dict.fromkeys(sorted(folder.iterdir())), extra={"n": result["n"], "cost": answers.cost},
    )  # fmt: skip
    return result


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
