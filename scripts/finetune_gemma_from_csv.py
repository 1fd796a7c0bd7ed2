"""Fine-tune Gemma 3 270M on a CSV or on converted conversations, with the loss on the answer only.

CSV or JSONL folder -> DIR/model (adapter or whole model, tokenizer, model card), metrics.json, trainer_log.csv,
loss.png, README.md, tensorboard/, manifest.json

    python scripts/finetune_gemma_from_csv.py --data runs/jsonl --base-model embedded --out-dir runs/lora

Stop it with Ctrl-C or lose the machine: the same command with `--resume auto` continues from the last whole checkpoint.
Several GPUs or machines: accelerate launch scripts/finetune_gemma_from_csv.py ... (docs/settings.md, which also gives
the source of each default).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linklab import cli, manifest
from linklab.cli import UserError, say
from linklab.manifest import MANIFEST, stale_reason
from linklab.training import options, out_dir
from linklab.training.options import TrainingSettings

if TYPE_CHECKING:
    from linklab.tasks.examples import Example
    from linklab.tasks.source import Reader
    from linklab.tasks.task import Task
    from linklab.training.answer_loss import EncodedExamples


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    groups = {name: parser.add_argument_group(name) for name in ("Input", "Output", "Model", "Training")}
    cli.add_source_options(groups["Input"])
    cli.add_base_model_option(groups["Model"])
    options.add_options(parser, groups)
    manifest.add_skip_finished_option(groups["Output"])
    return parser


@dataclasses.dataclass(frozen=True)
class Rows:
    """What is trained and judged on."""

    task: Task
    train: list[Example]
    validation: list[Example]
    identity: dict  # number of training rows and hashes of prompts and labels
    inputs: dict  # of the manifest
    seen: dict | None  # what the training rows held, for predict.py to compare new rows with


def run(args: argparse.Namespace) -> int:
    import tempfile

    from linklab.models import base_names
    from linklab.tasks.source import Source, open_source, say_table, source_files

    settings = options.read_settings(args)
    folder = Path(settings.out_dir)
    source = Source.from_args(args)
    reads = [*source.paths(), settings.base_model]
    owner: dict[str, Any] = {"script": __file__, "force": settings.force, "resume": settings.resume, "reads": reads}
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":  # accelerate drops it in silence on CPUs
        raise UserError("FSDP is not supported: its shards are not merged here; launch without FSDP: "
                        "270M parameters with their optimizer take 5 GB and fit a GPU whole")  # fmt: skip
    if settings.merge and settings.mode == "full":
        say(f"--merge: --mode full trains the whole model; {folder / 'model'} is complete, and no merged/ is written")
    if settings.resume == "auto" and not settings.force:
        out_dir.recover(folder)
        if stale_reason(folder / MANIFEST, script=__file__, argv=list(settings.argv)) is None:
            say(f"{folder}: already finished; nothing to do")
            return 0
    first = cli.process_rank() == 0  # of several processes, one looks after the folders
    if not settings.dry_run and first:
        out_dir.check(folder, **owner)
    base_names.require_model(settings.base_model)
    task, read = open_source(source)
    rows = read_rows(settings, task, read, source_files(source))
    settings = settings.fit_rows(len(rows.train), sum(len(row.answered) for row in rows.train))
    say_table(task)
    if settings.dry_run:  # leaves nothing behind
        with tempfile.TemporaryDirectory() as scratch:
            return train_model(settings, Path(scratch), rows)
    if not first:
        return train_model(settings, out_dir.work_folder(folder), rows)
    with out_dir.opened(folder, **owner) as work:
        if settings.drive_dir:
            from linklab.training import checkpoint_mirror

            checkpoint_mirror.prepare(Path(settings.drive_dir), force=settings.force, resume=settings.resume)
        return train_model(settings, work, rows)


def train_model(settings: TrainingSettings, folder: Path, rows: Rows) -> int:
    """Build, train in `folder`, and write the results to `--out-dir`; returns the exit code."""
    from linklab.models import load
    from linklab.models.base_weights import describe_weights
    from linklab.training import (
        adapters,
        class_weights,
        cost_estimate,
        results,
        safeguards,
        training,
        validation_scores,
    )

    with load.quiet_transformers():
        settings = adapters.adopt_settings(settings)
        precision = load.choose_precision(settings.precision, load.root_model(settings.base_model))
        say(f"precision: {precision.name} on {load.device_name()}, {precision.reason}")
        if precision.name == "fp16":
            say("warning: Gemma 3's activations exceed float16's 65,504; training stops at the first non-finite loss")
        tokenizer = load.load_tokenizer(settings.base_model)
        train = encode(rows.train, tokenizer, settings.max_length, "training", settings.batch_of)
        validation = encode(rows.validation, tokenizer, settings.max_length, "validation")
        steps = training.total_steps(len(train), settings, training.world_size())
        settings = settings.prepare(precision=precision.name, steps=steps)
        judged = validation_scores.mark_judged(validation, rows.validation, rows.task, tokenizer)
        if settings.best_by == "accuracy" and not judged:
            first = rows.task.targets[0]
            raise UserError(f"--best-by accuracy needs a class as first target; '{first.name}' is a {first.kind}")
        if settings.class_weights == "balanced":
            class_weights.weigh(train, validation, rows.train, rows.validation, rows.task)
        model = training.build_model(settings)
        load.fit_threads(training.count_parameters(model)[1])
        processes = {"processes": training.world_size()} if training.world_size() > 1 else {}
        base = describe_weights(load.resolve(load.root_model(settings.base_model)))
        below = describe_weights(load.resolve(settings.base_model)) if load.is_adapter(settings.base_model) else []
        identity = rows.identity | {"base_weights": sorted(entry["sha256"] for entry in [*base, *below])}
        fingerprint = settings.deciding() | identity | processes
        trainer = training.make_trainer(model, tokenizer, train, validation, settings, fingerprint, folder)
        cost_estimate.report(train, validation, settings, steps, trainer.model)
        if settings.dry_run:
            with safeguards.explained_failures(settings):
                cost_estimate.report_cost(trainer, train, validation, settings, steps, precision.reason, folder)
            return 0
        with trainer.accelerator.main_process_first():  # it removes torn ones and fetches; the others find them so
            checkpoint = out_dir.choose_start(
                Path(settings.out_dir), folder, force=settings.force, resume=settings.resume,
                drive=Path(settings.drive_dir) if settings.drive_dir else None, fingerprint=fingerprint,
                first=trainer.is_world_process_zero(),
            )  # fmt: skip
        with safeguards.explained_failures(settings):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if stopped := training.received_signal(trainer):
            say(f"stopped at step {trainer.state.global_step}; continue with the same command and --resume auto")
            return 128 + stopped
        if trainer.is_world_process_zero():
            results.finish(
                settings, folder, rows.task, trainer, tokenizer, fingerprint, len(train), inputs=rows.inputs,
                seen=rows.seen, train=rows.train, base=base, script=__file__,
            )  # fmt: skip
    return 0


def read_rows(settings: TrainingSettings, task: Task, read: Reader, inputs: dict) -> Rows:
    """Return the rows to train and judge on."""
    from linklab.metrics.row_scores import hash_rows
    from linklab.tasks.input_checks import describe_inputs

    train = read("train", settings.max_rows)
    validation = read("validation", settings.validation_rows or min(100, max(40, len(train) // 10)))
    if settings.dry_run:
        say(f"rows in all: {len(read('train', None)):,} training, {len(read('validation', None)):,} validation, "
            f"{len(read('test', None)):,} test (never seen in training)")  # fmt: skip
    hashes = hash_rows(train)
    identity = {"rows": len(train), "prompts": hashes["prompts"], "labels": hashes["labels"]}
    identity |= {"answer_format": task.answer_format} if task.answer_format != "plain" else {}
    identity["validation"] = hash_rows(validation)["labels"]  # they decide which weights are the best
    seen = describe_inputs(train, task) if train[0].row else None
    return Rows(task, train, validation, identity, inputs, seen)


def encode(
    examples: list[Example], tokenizer: Any, max_length: int, name: str, batch_of: str = "rows"
) -> EncodedExamples:
    """Tokenise once; rows above the length are an error that names them."""
    from linklab.training.answer_loss import EncodedExamples

    encoded = EncodedExamples(examples, tokenizer, max_length, batch_of=batch_of)
    if encoded.too_long:
        raise UserError(
            f"{len(encoded.too_long)} of {len(examples)} {name} rows have more than --max-length {max_length} tokens "
            f"(first: {encoded.too_long[0]}; longest: {encoded.longest}); raise it, shorten the template or "
            f"use --drop-columns"
        )
    return encoded


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), manifest.skip_finished(run, __file__), argv)


if __name__ == "__main__":
    raise SystemExit(main())
