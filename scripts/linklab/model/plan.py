"""What a training will do and what it will cost, said before it starts."""

from __future__ import annotations

import time

from linklab import cli
from linklab.cli import say
from linklab.model import training


def report(args, trainer, train, validation, settings, steps: int) -> None:
    """Say what will be trained on what; with --dry-run also what it will cost."""
    import statistics

    lengths = sorted(train.lengths)
    trained, everything = training.count_parameters(trainer.model)
    say(f"rows: {len(train):,} training, {len(validation):,} validation; tokens a row: median "
        f"{statistics.median(lengths):.0f}, 95 % {lengths[int(0.95 * (len(lengths) - 1))]}, longest {lengths[-1]}; "
        f"answers: {train.answer_tokens / len(train):.1f} tokens")  # fmt: skip
    say(f"{settings.mode}: {trained:,} of {everything:,} parameters trained, learning rate {settings.learning_rate:g}, "
        f"{steps:,} steps of {settings.batch_size * settings.accumulation} rows; "
        f"checkpoint every {args.save_steps}")  # fmt: skip
    if not args.dry_run:
        return
    seconds, tokens = measure_step(trainer, train)
    per_epoch = sum(lengths) / tokens * seconds
    total = per_epoch * steps * settings.batch_size * settings.accumulation / len(train)
    optimizer_mb = trained * 8 / 2**20
    disk_mb = (
        trained * 12 * max(2, args.save_total_limit) + (everything * 4 if args.mode == "full" else trained * 4)
    ) / 2**20
    say(
        f"one batch of the longest rows: {seconds:.2f} s for {tokens:,} tokens; "
        f"the whole run: about {cli.format_seconds(total)}"
    )
    say(f"memory: about {training.peak_memory_mb() + optimizer_mb:,.0f} MB at the peak; disk: about {disk_mb:,.0f} MB")
    say("dry run: stopped before training")


def measure_step(trainer, train) -> tuple[float, float]:
    """Return (seconds, tokens) of one optimizer step on the longest rows, leaving the weights as they were.

    Two passes are run and the second is timed: the first one also pays for allocation.
    """
    import torch

    longest = sorted(range(len(train)), key=lambda i: -train.lengths[i])[: trainer.args.per_device_train_batch_size]
    batch = trainer._prepare_inputs(trainer.data_collator([train[i] for i in longest]))
    model = trainer.accelerator.prepare(trainer.model)
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        loss = trainer.compute_loss(model, dict(batch))
        trainer.accelerator.backward(loss)
        model.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return seconds, batch["input_ids"].numel()
