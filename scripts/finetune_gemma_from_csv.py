"""Fine-tune Gemma 3 270M on a CSV or on converted conversations, with the loss on the answer only.

CSV or JSONL folder -> DIR/model (adapter or whole model, tokenizer, model card), metrics.json, trainer_log.csv,
loss.png, README.md, tensorboard/, manifest.json

    python scripts/finetune_gemma_from_csv.py --data runs/jsonl --base-model embedded --out-dir runs/lora

Stop it with Ctrl-C or lose the machine: the same command with `--resume auto` continues from the last whole checkpoint.
Several GPUs or machines: accelerate launch scripts/finetune_gemma_from_csv.py ... (docs/settings.md, which also gives
the source of each default).
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

from linklab import cli, files, locks
from linklab.cli import UserError, say
from linklab.manifest import MANIFEST, stale_reason

OWN = ("checkpoints", "model", "merged", "metrics.json", "trainer_log.csv", "loss.png", "README.md", "tensorboard",
       MANIFEST)  # fmt: skip

# What a full disk is called by the system and safetensors, and by torch.save, which passes no reason on
NO_SPACE = ("No space left", "File too large", "Disk quota", "inline_container.cc", "iostream error")


def build_parser():
    parser = cli.make_parser(__doc__)
    data = parser.add_argument_group("Input")
    cli.add_source_options(data)
    data.add_argument(
        "--max-rows",
        type=cli.positive_int,
        metavar="N",
        help="train on at most N rows, the same in every script; all when left out",
    )
    data.add_argument(
        "--validation-rows",
        type=cli.positive_int,
        metavar="N",
        help="validation rows the validation loss is taken on (default: a tenth of the training rows, from 40 to 100)",
    )
    output = parser.add_argument_group("Output")
    output.add_argument("--out-dir", required=True, metavar="DIR", help="folder for the model and its records")
    output.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="auto|DIR",
        help="continue from the last whole checkpoint in --out-dir or --drive-dir, or from this one; "
        "starts afresh when there is none",
    )
    output.add_argument(
        "--drive-dir",
        metavar="DIR",
        help="also keep a verified copy of each checkpoint here, on a disk that outlives the machine (a mounted Drive)",
    )
    output.add_argument("--force", action="store_true", help="replace what an earlier run wrote to --out-dir")
    output.add_argument(
        "--merge", action="store_true", help="also write the adapter merged into its base, to DIR/merged"
    )
    output.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, time a step, print what the run will do and cost, and stop before training",
    )
    model = parser.add_argument_group("Model")
    cli.add_base_model_option(model)
    model.add_argument(
        "--mode",
        choices=("full", "lora", "qlora"),
        default="lora",
        help="what is trained: every weight, adapters on all linear layers, or adapters on a base held in 4 bits (NF4)",
    )
    model.add_argument("--lora-rank", type=cli.positive_int, default=16, metavar="N", help="rank of the adapters")
    model.add_argument(
        "--lora-alpha",
        type=cli.positive_int,
        default=32,
        metavar="N",
        help="scale of the adapters; twice the rank is usual",
    )
    model.add_argument("--lora-dropout", type=float, default=0.0, metavar="P", help="dropout in the adapters, 0..1")
    model.add_argument("--lora-targets", default="all-linear", metavar="NAME[,NAME]", help="layers that get adapters")
    train = parser.add_argument_group("Training")
    length = train.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=cli.positive_float, default=1.0, metavar="X", help="passes over the rows")
    length.add_argument("--max-steps", type=cli.positive_int, metavar="N", help="optimizer steps, instead of --epochs")
    train.add_argument(
        "--per-device-batch-size", type=cli.positive_int, default=8, metavar="N", help="rows a device takes at once"
    )
    train.add_argument(
        "--gradient-accumulation-steps", type=cli.positive_int, default=1, metavar="N", help="batches an optimizer step"
    )
    train.add_argument(
        "--learning-rate",
        type=cli.positive_float,
        metavar="X",
        help="peak learning rate (default: 5e-4 for lora and qlora, 5e-5 for full: adapters need about ten times as "
        "much, see docs/settings.md)",
    )
    train.add_argument(
        "--lr-schedule",
        choices=("cosine", "linear", "constant_with_warmup"),
        default="cosine",
        help="how the learning rate falls",
    )
    train.add_argument(
        "--warmup-fraction", type=float, default=0.05, metavar="P", help="share of the steps over which it rises first"
    )
    train.add_argument("--weight-decay", type=float, default=0.0, metavar="X", help="AdamW weight decay")
    train.add_argument(
        "--max-length",
        type=cli.positive_int,
        default=512,
        metavar="N",
        help="most tokens a row may have; a longer one is an error, for a cut answer teaches nonsense",
    )
    cli.add_precision_options(train, float16=True)
    train.add_argument("--gradient-checkpointing", action="store_true", help="less memory, about a third more time")
    train.add_argument(
        "--eval-steps",
        type=cli.positive_int,
        metavar="N",
        help="steps between validation losses (default: the save steps)",
    )
    train.add_argument(
        "--save-steps",
        type=cli.positive_int,
        metavar="N",
        help="steps between checkpoints (default: a tenth of the run)",
    )
    train.add_argument(
        "--save-total-limit",
        type=cli.positive_int,
        default=2,
        metavar="N",
        help="checkpoints kept; never fewer than 2, so that one is always whole",
    )
    train.add_argument(
        "--patience",
        type=int,
        default=0,
        metavar="N",
        help="stop after N validations in a row without a better one (see --best-by); 0: never",
    )
    train.add_argument(
        "--best-by",
        choices=("loss", "accuracy"),
        default="loss",
        help="which weights are delivered: those of the lowest validation loss, or those that would write the right "
        "class for most validation rows",
    )
    train.add_argument(
        "--report-to",
        choices=("tensorboard", "none"),
        default="tensorboard",
        help="where the log goes beside trainer_log.csv: TensorBoard's files in DIR/tensorboard",
    )
    again = parser.add_argument_group("Reproducibility")
    again.add_argument("--seed", type=cli.seed_number, default=0, metavar="N", help="seeds adapters and row order")
    return parser


def run(args) -> int:
    import tempfile

    folder = Path(args.out_dir)
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":  # accelerate drops it in silence on CPUs
        raise UserError("FSDP splits the model, and its parts are not put together here; launch without FSDP: "
                        "270M parameters with their optimizer take 5 GB and fit a GPU whole")  # fmt: skip
    if args.resume == "auto" and not args.force:
        if stale_reason(folder / MANIFEST, script=__file__, argv=args.argv) is None:
            say(f"{folder}: finished already; nothing to do")
            return 0
    first = cli.process_rank() == 0  # of several processes, one looks after the folders
    if not args.dry_run and first:
        check_out_dir(folder, force=args.force, resume=args.resume)
    task, train, validation, source = read_rows(args)
    if args.dry_run:  # leaves nothing behind
        with tempfile.TemporaryDirectory() as scratch:
            return train_model(args, Path(scratch), task, train, validation, source)
    if not first:
        return train_model(args, folder, task, train, validation, source)
    files.require_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locks.locked_folder(folder):
        prepare_out_dir(folder, force=args.force, resume=args.resume)
        if args.drive_dir:
            from linklab.training import checkpoint_mirror

            checkpoint_mirror.prepare(Path(args.drive_dir), force=args.force, resume=args.resume)
        return train_model(args, folder, task, train, validation, source)


def train_model(args, folder: Path, task, train_examples, validation_examples, source: dict) -> int:
    """Build, train, and write everything below `folder`; returns the exit code."""
    from linklab.models import load
    from linklab.training import checkpoint_mirror, checkpoints, cost_estimate, results, training, validation_scores

    with load.quiet_transformers():
        precision = load.choose_precision(args.precision, args.base_model)
        settings = make_settings(args, precision.name)
        say(f"precision: {precision.name} on {load.device_name()}, {precision.reason}")
        if precision.name == "fp16":
            say("warning: Gemma 3's activations exceed float16's 65,504; stops at the first loss that is no number")
        tokenizer = load.load_tokenizer(args.base_model)
        train = encode(train_examples, tokenizer, args.max_length, "training")
        validation = encode(validation_examples, tokenizer, args.max_length, "validation")
        judged = validation_scores.mark_judged(validation, validation_examples, task, tokenizer)
        if args.best_by == "accuracy" and not judged:
            raise UserError(f"--best-by accuracy needs a class as first target; '{task.targets[0].name}' is a number")
        model = training.build_model(settings)
        load.fit_threads(training.count_parameters(model)[1])
        steps = training.total_steps(len(train), settings, training.world_size())
        choose_intervals(args, steps)
        fingerprint = dataclasses.asdict(settings) | source | unusual(args)
        trainer = training.make_trainer(model, tokenizer, train, validation, settings, fingerprint, folder, args)
        cost_estimate.report(args, train, validation, settings, steps, trainer.model)
        if args.dry_run:
            with explained_failures(args):
                cost_estimate.report_cost(args, trainer, train, validation, settings, steps, precision.reason, folder)
            return 0
        with trainer.accelerator.main_process_first():  # it removes torn ones and fetches; the others find them so
            if args.drive_dir and args.resume == "auto":
                checkpoint_mirror.fetch(Path(args.drive_dir), folder / "checkpoints", fingerprint)
            checkpoint = checkpoints.choose(folder / "checkpoints", args.resume, fingerprint)
        with explained_failures(args):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if stopped := training.received_signal(trainer):
            say(f"stopped at step {trainer.state.global_step}; continue with the same command and --resume auto")
            return 128 + stopped
        if trainer.is_world_process_zero():
            results.finish(args, folder, task, trainer, tokenizer, settings, fingerprint, len(train), script=__file__)
    return 0


def unusual(args) -> dict:
    """Return what else a checkpoint must not be continued without; nothing for one process and the lowest loss."""
    from linklab.training.training import world_size

    found = {"processes": world_size()} if world_size() > 1 else {}
    return found | ({"best_by": args.best_by} if args.best_by != "loss" else {})


def choose_intervals(args, steps: int) -> None:
    """Fill in the steps between checkpoints and between validation losses."""
    if args.save_steps is None:
        args.save_steps = max(1, min(200, round(steps / 10)))
    args.eval_steps = args.eval_steps or args.save_steps
    if args.save_steps % args.eval_steps:
        raise UserError(f"--save-steps {args.save_steps} is no multiple of --eval-steps {args.eval_steps}")


def read_rows(args):
    """Return (task, training examples, validation examples, what identifies the data)."""
    from linklab.metrics.row_scores import hash_rows
    from linklab.tasks.source import open_source

    task, read = open_source(args)
    train = read("train", args.max_rows)
    validation = read("validation", args.validation_rows or min(100, max(40, len(train) // 10)))
    if len(train) < args.per_device_batch_size:
        raise UserError(f"{len(train)} training rows for a batch of {args.per_device_batch_size}: "
                        f"get more rows or lower --per-device-batch-size")  # fmt: skip
    if args.dry_run:
        say(f"rows in all: {len(read('train', None)):,} training, {len(read('validation', None)):,} validation, "
            f"{len(read('test', None)):,} test (never seen in training)")  # fmt: skip
    hashes = hash_rows(train)
    return task, train, validation, {"rows": len(train), "prompts": hashes["prompts"], "labels": hashes["labels"]}


def check_out_dir(folder: Path, *, force: bool, resume: str | None) -> list[str]:
    """Return the names in the folder; raise a UserError when training may not write there."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; --out-dir needs a folder")
    found = [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.exists() else []
    strange = [name for name in found if name not in OWN]
    if strange:
        raise UserError(f"{folder}: holds '{strange[0]}', which no training wrote; choose another --out-dir")
    if found and not force and resume is None:
        raise UserError(
            f"{folder}: holds a training already; continue it with --resume auto or replace it with --force"
        )
    return found


def lower_memory(args) -> str:
    """Return what to lower, by how much, so that the same rows train in less memory."""
    batch, accumulation = args.per_device_batch_size, args.gradient_accumulation_steps
    ways = []
    if batch > 1:
        ways.append(f"--per-device-batch-size {batch // 2} --gradient-accumulation-steps {accumulation * 2}")
    if not args.gradient_checkpointing:
        ways.append("--gradient-checkpointing")
    if args.mode == "full":
        ways.append("--mode lora")
    return "use " + ", then ".join(ways or [f"shorter rows and --max-length {args.max_length // 2}"])


def prepare_out_dir(folder: Path, *, force: bool, resume: str | None) -> None:
    """Refuse a folder with other things in it; with force remove what an earlier training wrote there."""
    found = check_out_dir(folder, force=force, resume=resume)
    for name in found if force else ():
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def make_settings(args, precision: str):
    """Return the settings that decide the result."""
    from linklab.training.training import LEARNING_RATES, Settings

    return Settings(
        mode=args.mode, base_model=args.base_model, epochs=args.epochs, max_steps=args.max_steps or -1,
        batch_size=args.per_device_batch_size, accumulation=args.gradient_accumulation_steps,
        learning_rate=args.learning_rate or LEARNING_RATES[args.mode], schedule=args.lr_schedule,
        warmup_fraction=args.warmup_fraction, weight_decay=args.weight_decay, max_length=args.max_length,
        precision=precision, gradient_checkpointing=args.gradient_checkpointing, lora_rank=args.lora_rank,
        lora_alpha=args.lora_alpha, lora_dropout=args.lora_dropout, lora_targets=args.lora_targets, seed=args.seed,
    )  # fmt: skip


def encode(examples, tokenizer, max_length: int, name: str):
    """Tokenise once; rows above the length are an error that names them."""
    from linklab.training.answer_loss import EncodedExamples

    encoded = EncodedExamples(examples, tokenizer, max_length)
    if encoded.too_long:
        raise UserError(
            f"{len(encoded.too_long)} of {len(encoded)} {name} rows have more than --max-length {max_length} tokens "
            f"(first: {encoded.too_long[0]}; longest: {max(encoded.lengths)}); raise it or shorten the template"
        )
    return encoded


class explained_failures:
    """Turn out-of-memory and a full disk into one line that says what to lower."""

    def __init__(self, args) -> None:
        self.args = args

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, trace) -> None:
        if error is None or isinstance(error, UserError):
            return
        text = str(error)
        if "out of memory" in text or "can't allocate memory" in text or isinstance(error, MemoryError):
            raise UserError(f"out of memory; {lower_memory(self.args)}; checkpoints so far are kept") from error
        if any(said in text for said in NO_SPACE):
            raise UserError(
                f"{self.args.out_dir}: no space left on the disk; free some or choose another --out-dir, "
                f"then run again with --resume auto"
            ) from error


def main(argv=None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
