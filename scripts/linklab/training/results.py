"""Write the results of a finished training: model, scores, log, plot, card, and the manifest last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from linklab import cli, files
from linklab.cli import say
from linklab.manifest import describe_files, write_manifest
from linklab.models import license, load, save
from linklab.reports import markdown, plots
from linklab.tasks.examples import Example
from linklab.tasks.input_checks import INPUTS_FILE
from linklab.tasks.jsonl import TASK_FILE
from linklab.tasks.task import Task
from linklab.tasks.training_record import read_record, write_record
from linklab.training import out_dir, training
from linklab.training.options import TrainingSettings

UNSEEN_LATER = "Scores on unseen rows, with intervals, come from `evaluate_model.py`."


def finish(
    settings: TrainingSettings, work: Path, task: Task, trainer: Any, tokenizer: Any, fingerprint: dict, n_items: int,
    *, inputs: dict, seen: dict | None, train: list[Example], base: list[dict], script: str,
) -> None:  # fmt: skip
    """Write the model, its scores, log, plot and card, and the manifest last; all appear in `--out-dir` together.

    The training ran in `work`, in batches of `n_items` rows or questions in all. `inputs` are the manifest's; `seen`
    describes the cells of the training rows (`input_checks.describe_inputs`); `train` are these rows and `base` the
    base model's weight files, both for the record in the model folder.
    """
    from linklab.training.answer_trainer import write_log

    n_rows = fingerprint["rows"]
    seconds = trainer.training_seconds()
    best = best_validation(trainer.state)
    trained, everything = training.count_parameters(trainer.model)
    scores = {
        "model": settings.base_model, "mode": settings.mode, "rows": n_rows, "steps": trainer.state.global_step,
        "best_by": settings.best_by, "best_step": best.get("step"), "best_validation_loss": best.get("eval_loss"),
        "validation_accuracy": best.get("eval_accuracy"), "seconds": round(seconds, 1),
        "peak_memory_mb": round(training.peak_memory_mb(), 1), "trained_parameters": trained, "parameters": everything,
        "items": n_items, "settings": settings.deciding(), "license": license.license_of(settings.base_model),
        "hashes": {name: fingerprint[name] for name in ("prompts", "labels")},
    }  # fmt: skip
    sources = describe_files(inputs)
    card = write_card(scores, task, sources)
    folder = Path(settings.out_dir)
    before = read_record(settings.base_model) if Path(settings.base_model).is_dir() else None
    with out_dir.results(folder, work, script=script) as made:
        write_log(made / "trainer_log.csv", trainer.state.log_history)
        save.save_model(trainer.model, tokenizer, made / "model", settings.base_model)
        add_documents(made / "model", task, card, seen)
        write_record(made / "model", train, base, before=before)
        if settings.merge and settings.mode != "full":
            save.merge_adapter(made / "model", made / "merged", settings.merge_dtype)
            add_documents(made / "merged", task, write_card(scores, task, sources, merged=True), seen)
            write_record(made / "merged", train, base, before=before)
        files.write_json(made / "metrics.json", scores)
        plots.write_png(made / "loss.png", plots.loss_curve(plots.read_trainer_log(made / "trainer_log.csv")))
        files.write_text(made / "README.md", card)
        write_manifest(
            made, script=script, argv=list(settings.argv), seed=settings.seed, inputs=inputs,
            outputs=dict.fromkeys(sorted(made.iterdir())),
            extra={name: scores[name] for name in ("rows", "steps", "best_validation_loss", "seconds",
                                                   "peak_memory_mb")},
        )  # fmt: skip
    say(f"wrote {folder / 'model'}: {settings.mode}, {n_rows:,} rows, {trainer.state.global_step:,} steps in "
        f"{cli.format_seconds(seconds)}, validation loss {best.get('eval_loss', float('nan')):.4f} "
        f"at step {best.get('step')}")  # fmt: skip


def best_validation(state: Any) -> dict:
    """Return the log entry of the best step, whose weights are saved as the model; {} without any validation."""
    entries = [entry for entry in state.log_history if "eval_loss" in entry and entry["step"] == state.best_global_step]
    return entries[-1] if entries else {}


def add_documents(made: Path, task: Task, card: str, seen: dict | None) -> None:
    """Write the files that accompany a model: its task, a description of its training rows, its card."""
    files.write_json(made / TASK_FILE, task.to_dict())
    if seen:
        files.write_json(made / INPUTS_FILE, seen)
    files.write_text(made / "README.md", card)


def write_card(
    scores: dict, task: Any, inputs: list[dict], *, merged: bool = False, unseen: str = UNSEEN_LATER,
    measured: dict | None = None,
) -> str:  # fmt: skip
    """Return the model card: targets, data, scores, code to load the model, settings, license.

    `scores` is the training's metrics.json, `inputs` the entries of its manifest. `unseen` is a text about scores on
    unseen rows, `measured` the metrics.json of an evaluation on them.
    """
    import huggingface_hub

    chosen = [(name, str(value)) for name, value in scores["settings"].items()]
    settings = "\n".join(markdown.table(("setting", "value"), chosen, "ll"))
    hashed = [(Path(entry["path"]).name, entry["sha256"]) for entry in inputs]
    hashed += [(f"the {scores['rows']:,} prompts", scores["hashes"]["prompts"]),
               ("their answers", scores["hashes"]["labels"])]  # fmt: skip
    data = "\n".join(markdown.table(("file", "SHA-256"), hashed, "ll"))
    targets = ", ".join(markdown.code(t.name) for t in task.targets)
    base = load.hub_name(scores["model"]) or load.root_model(scores["model"])
    library = "transformers" if merged or scores["mode"] == "full" else "peft"
    validated = [f"validation loss {scores['best_validation_loss']:.4f}"] if scores["best_validation_loss"] else []
    if scores["validation_accuracy"] is not None:
        validated.append(f"right class written for {100 * scores['validation_accuracy']:.1f} % of the validation rows")
    name = f"{base.rstrip('/').split('/')[-1]} fine-tuned ({scores['mode']})"
    results = _evaluation_results(scores, measured)
    head = huggingface_hub.ModelCardData(
        license=scores["license"], base_model=base, library_name=library, pipeline_tag="text-generation",
        tags=["linklab", scores["mode"], "answer-only-loss"], model_name=name if results else None,
        eval_results=results or None,
    )  # fmt: skip
    return (
        f"---\n{head.to_yaml()}\n---\n\n"
        f"# {markdown.escape(base)}, fine-tuned ({scores['mode']}) to answer {targets}\n\n"
        f"{scores['rows']:,} rows, {scores['steps']:,} steps, {scores['seconds']:,.0f} s, "
        f"{scores['peak_memory_mb']:,.0f} MB at the peak.\n\n"
        f"## Scores\n\nThe weights are those of step {scores['best_step']}, the best by validation "
        f"{scores['best_by']}: {', '.join(validated) or 'none was computed'}. {unseen}\n\n"
        f"## Use\n\n```python\n{_loading_code(library)}\n```\n\n"
        f"## Prompt\n\nAs the user's turn of the chat template:\n\n{markdown.fence(task.template.text)}\n\n"
        f"## Data\n\n{data}\n\n"
        f"## Settings\n\n{settings}\n\n"
        f"## Terms\n\n{license.terms(scores['license'], base)}\n"
    )


def _evaluation_results(scores: dict, measured: dict | None) -> list[Any]:
    """Return the card's model-index: the metrics on unseen rows with their intervals, else the validation loss."""
    from huggingface_hub import EvalResult

    common = {"task_type": "text-generation", "dataset_type": "linklab"}
    if measured is None:
        loss = scores["best_validation_loss"]
        return [] if loss is None else [EvalResult(
            **common, dataset_name="validation rows", metric_type="loss", metric_value=round(loss, 4),
        )]  # fmt: skip
    return [
        EvalResult(
            **common, dataset_name=f"{measured['n']['expected']} unseen rows", dataset_split=measured["split"],
            metric_type=name.rsplit("/", 1)[1], metric_name=name, metric_value=entry["value"],
            metric_args={"interval_95": [entry["low"], entry["high"]]},
        )
        for name, entry in measured["metrics"].items() if entry["value"] is not None
    ]  # fmt: skip


def _loading_code(library: str) -> str:
    """Return five lines of code that load the model from its folder and print its answer."""
    kind, module = ("AutoPeftModelForCausalLM", "peft") if library == "peft" else ("AutoModelForCausalLM", library)
    return (
        f"from {module} import {kind}; from transformers import AutoTokenizer, GenerationConfig\n"
        f'model, tokenizer = {kind}.from_pretrained("."), AutoTokenizer.from_pretrained(".")\n'
        'turns = [{"role": "user", "content": "the prompt below, filled in"}]\n'
        'ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", '
        'return_dict=True)["input_ids"]\n'
        'print(tokenizer.decode(model.generate(input_ids=ids, generation_config=GenerationConfig.from_pretrained("."), '
        "max_new_tokens=40)[0, ids.shape[1]:]))"
    )
