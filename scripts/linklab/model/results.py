"""What a finished training leaves: the model, its scores, log, plot and card, and the manifest last."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from linklab import cli, files
from linklab.cli import say
from linklab.data.jsonl import TASK_FILE
from linklab.data.source import source_files
from linklab.model import training
from linklab.score import plots


def finish(
    args, folder: Path, task, trainer, tokenizer, settings, fingerprint, seconds: float, n_rows: int, *, script: str
) -> None:
    """Write the model, its scores, log, plot and card, and the manifest last."""
    for name in ("model", "merged"):  # left by a run that was killed while it finished; the checkpoint has it all
        shutil.rmtree(folder / name, ignore_errors=True)
    with files.staged_folder(folder / "model") as made:
        trainer.model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        files.write_json(made / TASK_FILE, task.to_dict())
    if args.merge and args.mode != "full":
        with files.staged_folder(folder / "merged") as made:
            merge(folder / "model", made, args)
            files.write_json(made / TASK_FILE, task.to_dict())
    history = trainer.state.log_history
    training.write_log(folder / "trainer_log.csv", history)
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    trained, everything = training.count_parameters(trainer.model)
    scores = {
        "model": args.base_model, "mode": args.mode, "rows": n_rows, "steps": trainer.state.global_step,
        "best_validation_loss": min(losses, default=None), "seconds": round(seconds, 1),
        "peak_memory_mb": round(training.peak_memory_mb(), 1), "trained_parameters": trained, "parameters": everything,
        "settings": dataclasses.asdict(settings),
        "hashes": {name: fingerprint[name] for name in ("prompts", "labels")},
    }  # fmt: skip
    files.write_json(folder / "metrics.json", scores, force=True)
    plots.write_png(
        folder / "loss.png", plots.loss_curve(plots.read_trainer_log(folder / "trainer_log.csv")), force=True
    )
    files.write_text(folder / "README.md", write_card(scores, task), force=True)
    outputs = ["model", "metrics.json", "trainer_log.csv", "loss.png", "README.md"] + (["merged"] if args.merge else [])
    files.write_manifest(
        folder, script=script, argv=args.argv, seed=args.seed, inputs=source_files(args),
        outputs={folder / name: None for name in outputs if (folder / name).exists()},
        extra={name: scores[name] for name in ("rows", "steps", "best_validation_loss", "seconds", "peak_memory_mb")},
    )  # fmt: skip
    say(f"wrote {folder / 'model'}: {args.mode}, {n_rows:,} rows, {trainer.state.global_step:,} steps in "
        f"{cli.format_seconds(seconds)}, best validation loss {min(losses, default=float('nan')):.4f}")  # fmt: skip


def merge(adapter: Path, made: Path, args) -> None:
    """Write the adapter added into its base model, which any program loads without PEFT."""
    from linklab.model.load import load_trained

    model, tokenizer = load_trained(adapter, base_model=args.base_model)
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)


def write_card(scores: dict, task) -> str:
    """Return the model card."""
    settings = "\n".join(f"| {name} | {value} |" for name, value in scores["settings"].items())
    targets = ", ".join(f"`{t.name}`" for t in task.targets)
    return (
        f"---\nlicense: gemma\nbase_model: {scores['model']}\npipeline_tag: text-generation\n---\n\n"
        f"# {scores['model']}, fine-tuned ({scores['mode']}) to answer {targets}\n\n"
        f"{scores['rows']:,} rows, {scores['steps']:,} steps, {scores['seconds']:,.0f} s; best validation loss "
        f"{scores['best_validation_loss']}. Scores on unseen rows come from `evaluate_model.py`.\n\n"
        f"Use is governed by the Gemma Terms of Use (https://ai.google.dev/gemma/terms).\n\n"
        f"## Prompt\n\n```text\n{task.template.text}\n```\n\n"
        f"## Settings\n\n| setting | value |\n|---|---|\n{settings}\n"
        f"| prompts sha256 | {scores['hashes']['prompts']} |\n"
    )
