"""Fine-tune Gemma 3 270M on a CSV or on converted conversations, with the loss on the answer only.

CSV or JSONL folder -> DIR/model (adapter or whole model, tokenizer, model card), metrics.json, trainer_log.csv,
loss.png, README.md, tensorboard/, manifest.json

    python scripts/finetune_gemma_from_csv.py --data runs/jsonl --base-model embedded --out-dir runs/lora

After Ctrl-C or a lost machine the same command with `--resume auto` continues from the last complete checkpoint.
Several GPUs or machines: accelerate launch scripts/finetune_gemma_from_csv.py ... (docs/settings.md, which also gives
the source of each default).
"""

from __future__ import annotations

import argparse
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
    from linklab.models.load import Precision
    from linklab.training.training_rows import Rows


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    groups = {name: parser.add_argument_group(name) for name in ("Input", "Output", "Model", "Training")}
    cli.add_source_options(groups["Input"])
    cli.add_base_model_option(groups["Model"])
    options.add_options(parser, groups)
    manifest.add_skip_finished_option(groups["Output"])
    return parser


def run(args: argparse.Namespace) -> int:
    import tempfile

    from linklab.models import base_names
    from linklab.tasks.source import Source, open_source, say_table, source_files
    from linklab.training import training_rows

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
    first = cli.process_rank() == 0  # only the first process creates and removes folders
    if not settings.dry_run and first:
        out_dir.check(folder, **owner)
    base_names.require_model(settings.base_model)
    task, read = open_source(source)
    rows = training_rows.read_rows(settings, task, read, source_files(source))
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
    from linklab.training import adapters, cost_estimate, results, safeguards, training, training_rows

    with load.quiet_transformers():
        settings = adapters.adopt_settings(settings)
        precision = choose_precision(settings)
        tokenizer = load.load_tokenizer(settings.base_model)
        train, validation = training_rows.encode_rows(settings, rows, tokenizer)
        steps = training.total_steps(len(train), settings, training.world_size())
        settings = settings.prepare(precision=precision.name, steps=steps)
        model = training.build_model(settings)
        load.fit_threads(training.count_parameters(model)[1])
        base = describe_weights(load.resolve(load.root_model(settings.base_model)))
        fingerprint = training_rows.make_fingerprint(settings, rows, base)
        trainer = training.make_trainer(model, tokenizer, train, validation, settings, fingerprint, folder)
        cost_estimate.report(train, validation, settings, steps, trainer.model)
        if settings.dry_run:
            with safeguards.explained_failures(settings):
                cost_estimate.report_cost(trainer, train, validation, settings, steps, precision.reason, folder)
            return 0
        with trainer.accelerator.main_process_first():  # it removes and fetches checkpoints, the others wait
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


def choose_precision(settings: TrainingSettings) -> Precision:
    """Return the precision to train in, and say why."""
    from linklab.models import load

    precision = load.choose_precision(settings.precision, load.root_model(settings.base_model))
    say(f"precision: {precision.name} on {load.device_name()}, {precision.reason}")
    if precision.name == "fp16":
        say("warning: Gemma 3's activations exceed float16's 65,504; training stops at the first non-finite loss")
    return precision


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), manifest.skip_finished(run, __file__), argv)


if __name__ == "__main__":
    raise SystemExit(main())
