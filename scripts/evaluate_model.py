"""Score a model, or existing predictions, on unseen rows.

model (or predictions.jsonl) + CSV or JSONL folder -> predictions.jsonl, metrics.json, row_scores.csv, plots, report.md

    python scripts/evaluate_model.py --model runs/lora/model --data runs/jsonl --out-dir runs/evaluation

A model chooses among the legal answers of each row, whose probabilities are exact; `--free` lets it write any text.
The same command with `--model embedded` scores the base model before any training.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linklab import cli, files, manifest
from linklab.cli import UserError, say
from linklab.manifest import check_out_dir, staged_folder, write_manifest

if TYPE_CHECKING:
    from linklab.inference.row_answers import AskSettings
    from linklab.metrics.predictions import Prediction
    from linklab.metrics.row_scores import JudgedRows
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
    from linklab.inference.row_answers import AskSettings, check_rank_by
    from linklab.metrics import general, metrics
    from linklab.models import base_names
    from linklab.tasks.source import Source, open_source, read_trained_task, source_files

    asking, source = AskSettings.from_args(args), Source.from_args(args)
    settings = cli.read_settings(Settings, args, asking=asking, source=source)
    models = [name for name in (asking.model, asking.base_model) if name]
    reads = [*source.paths(), settings.predictions, *models]
    check_out_dir(settings.out_dir, script=__file__, force=settings.force, reads=reads)
    if settings.predictions:
        check_no_model_options(asking)
    for model in models:
        base_names.require_model(model)
    trained = read_trained_task(asking.model) if asking.model else None
    task, read = open_source(
        source, trained, allow_other_prompt=settings.allow_other_prompt, allow_other_split=settings.allow_training_rows
    )
    asked = None
    if asking.model:
        check_rank_by(asking.rank_by, task, free=asking.free)
        asked = asked_settings(asking, task)
    examples = read(settings.split, settings.max_rows)
    may_be_seen = settings.allow_training_rows or settings.split == "train"
    warnings = check_against_training(asking.model, task, trained, examples, may_be_seen=may_be_seen)
    name, role = name_answers(settings)
    predictions, cost, asked_generally = collect_answers(settings, task, examples)
    judged = metrics.judge(examples, predictions, task, top_k=settings.top_k)
    with staged_folder(settings.out_dir, script=__file__, force=settings.force, reads=reads) as folder:
        result = metrics.write_run(
            folder, examples, predictions, task, model=name, role=role, cost=cost, top_k=settings.top_k, judged=judged,
            description=how_asked(asked) if asked else "", asked=asked, warnings=warnings,
        )  # fmt: skip
        if asked_generally:
            files.write_json(folder / general.FILE, asked_generally)
        draw_plots(folder, judged)
        files.write_text(
            folder / "report.md", write_summary(result, sorted(path.name for path in folder.glob("*.png")))
        )
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


def check_against_training(
    model: str | None, task: Task, trained: Task | None, examples: list[Example], *, may_be_seen: bool
) -> list[str]:
    """Return what a reader must know of rows the model was trained on, and of a prompt it was not trained with.

    Raises a UserError for training rows that were not asked for explicitly.
    """
    from linklab.tasks.source import find_difference
    from linklab.tasks.training_record import count_seen, read_record

    if model is None or trained is None:
        return []
    warnings = [difference] if (difference := find_difference(task, trained)) else []
    record = read_record(model)
    if record is None:
        say(f"{model}: no training_record.json, so nothing shows that these rows are unseen")
        return [*warnings, "nothing shows that these rows were not training rows"]
    if seen := count_seen(record, examples):
        warning = f"{seen:,} of {len(examples):,} rows were training rows, or share their group with one"
        if not may_be_seen:
            raise UserError(f"{model}: {warning}; score unseen rows, or pass --allow-training-rows, and the report "
                            f"will say so")  # fmt: skip
        say(f"warning: {warning}")
        warnings.append(warning)
    return warnings


def check_no_model_options(asking: AskSettings) -> None:
    """Raise a UserError for an option that says how a model is asked, where none is."""
    for name, value in vars(asking).items():
        if value:
            option = f"--{value}" if name == "precision" else f"--{name.replace('_', '-')}"
            raise UserError(f"{option}: cannot be combined with --predictions, which are answers already; leave it out")


def ask_model(asking: AskSettings, task: Task, examples: list[Example]) -> tuple[list[dict], dict, dict | None]:
    """Return (a prediction of every example, what it cost, what it answered to general questions if it was asked)."""
    from linklab.inference import row_answers
    from linklab.metrics import general
    from linklab.models import load
    from linklab.training.training import count_parameters, peak_memory_mb

    with load.quiet_transformers():
        scorer = row_answers.load_scorer(asking)
        started = time.monotonic()
        progress = cli.Progress("ask", len(examples))
        if asking.free:
            answers = row_answers.answer_freely(
                scorer, examples, task, max_new_tokens=asking.max_new_tokens, progress=progress.at
            )
        else:
            answers = row_answers.answer_exactly(
                scorer, examples, task, numbers=asking.numbers, rank_by=asking.rank_by or "written",
                max_new_tokens=asking.max_new_tokens, progress=progress.at,
            )  # fmt: skip
        seconds = time.monotonic() - started
        asked_generally = general.judge(*row_answers.answer_general(scorer)) if asking.general_questions else None
    cost = {
        "seconds": round(seconds, 2), "rows_per_second": round(len(examples) / seconds, 2),
        "parameters": count_parameters(scorer.model)[1], "peak_memory_mb": round(peak_memory_mb(), 1),
    }  # fmt: skip
    return answers, cost, asked_generally


def model_mark(name: str) -> str:
    """Return 16 hex digits that are equal for equal models: results name no path of this machine."""
    where = os.path.realpath(name) if os.path.exists(name) else name
    return hashlib.sha256(where.encode()).hexdigest()[:16]


def asked_settings(asking: AskSettings, task: Task) -> dict[str, str | bool | None]:
    """Return what metrics.json says of how the model was asked; `rank_by` is None where no class was ranked by it."""
    from linklab.inference.row_answers import is_ranked, is_written

    assert asking.model, "there is a model to ask"
    rank_by = (asking.rank_by or "written") if is_ranked(task, asking.free) else None
    return {"model": model_mark(asking.model), "free": asking.free or is_written(task), "rank_by": rank_by}


def how_asked(asked: Mapping[str, Any]) -> str:
    """Return how a model's answers come about, for tables."""
    if asked["free"]:
        return "free greedy writing"
    ways = {"written": ", ranked by what the model would write", "summed": ", ranked by summed probability", None: ""}
    return "restricted to the legal answers" + ways[asked["rank_by"]]


def role_of(model: str) -> str:
    """Return "tuned" for a folder finetune wrote, "base" for anything else."""
    return "tuned" if (Path(model) / "task.json").exists() else "base"


def describe_model(model: str, free: bool) -> str:
    """Return a short name for tables: runs/lora/model -> lora."""
    path = Path(model)
    name = (path.parent.name if path.name in ("model", "merged") else path.name) if path.is_dir() else model
    return f"{name} (free)" if free else name


def draw_plots(folder: Path, judged: Iterable[JudgedRows]) -> None:
    """Draw what each target's kind calls for."""
    from linklab.reports import plots

    for rows in judged:
        for name, picture in plots.draw_target(rows, rows.target, rows.target).items():
            plots.write_png(folder / f"{name}_{rows.target}.png", picture)


def write_summary(result: dict, pictures: list[str]) -> str:
    """Return the experiment's scores as a markdown table, and its plots."""
    from linklab.reports.markdown import escape, table

    n, rows = result["n"], []
    for key, entry in result["metrics"].items():
        value, low, high = ("–" if entry[end] is None else f"{entry[end]:.4g}" for end in ("value", "low", "high"))
        better = "higher" if entry["higher_is_better"] else "lower"
        rows.append((key, value, f"{low} to {high}", entry["unit"], better))
    warnings = [line for text in result.get("warnings", ()) for line in (f"**Warning:** {escape(text)}.", "")]
    return "\n".join([
        f"# {escape(result['model'])} on the {result['split']} split", "",
        f"{n['expected']} rows, {n['answered']} answered, {n['invalid']} invalid (they count as wrong).", "", *warnings,
        *table(("metric", "value", "95 % interval", "unit", "better"), rows, "lllll"), "",
        *(f"![{name}]({name})\n" for name in pictures),
    ])  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), manifest.skip_finished(run, __file__), argv)


if __name__ == "__main__":
    raise SystemExit(main())
