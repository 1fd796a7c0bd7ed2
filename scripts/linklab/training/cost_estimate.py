"""The dry run: what a training will do, and its time, memory and disk, measured before it starts."""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from linklab import cli, files
from linklab.cli import say
from linklab.training import checkpoints, options, training
from linklab.training.answer_loss import EncodedExamples
from linklab.training.options import TrainingSettings

TIMED_STEPS = 2
PROBE_BYTES = 64 * 2**20  # written and hashed to measure how fast this disk stores a checkpoint
TOKENIZER_BYTES = 35 * 2**20  # size of Gemma's tokenizer files


@dataclasses.dataclass(frozen=True)
class Cost:
    """Measurements on real steps of the trainer that would run."""

    seconds_per_token: float  # training, with the optimizer step
    evaluation_seconds_per_token: float
    bytes_per_second: float  # writing and hashing a checkpoint
    peak_mb: float
    step_s: float
    tokens: int  # tokens of one step


def report(
    train: EncodedExamples, validation: EncodedExamples, settings: TrainingSettings, steps: int, model: Any
) -> None:
    """Print the number of rows, their tokens, the trained parameters and the steps."""
    lengths = sorted(train.lengths)
    trained, everything = training.count_parameters(model)
    step_rows = settings.per_device_batch_size * settings.gradient_accumulation_steps * training.world_size()
    unit = "questions" if len(train) > train.n_rows else "rows"
    counted = "" if unit == "rows" else f" ({len(train):,} questions)"
    say(f"rows: {train.n_rows:,} training{counted}, {len(validation):,} validation; tokens per {unit[:-1]}: median "
        f"{statistics.median(lengths):.0f}, 95 % {lengths[int(0.95 * (len(lengths) - 1))]}, longest {lengths[-1]}; "
        f"answers: {train.answer_tokens / len(train):.1f} tokens; above --max-length {settings.max_length}: "
        f"none (longer rows are rejected, never truncated)")  # fmt: skip
    say(f"{settings.mode}: {trained:,} of {everything:,} parameters trained, learning rate {settings.learning_rate:g}, "
        f"{steps:,} steps of {step_rows} {unit}; checkpoint every {settings.save_steps}")  # fmt: skip


def report_cost(
    trainer: Any, train: EncodedExamples, validation: EncodedExamples, settings: TrainingSettings, steps: int,
    why_precision: str, folder: Path,
) -> None:  # fmt: skip
    """Measure steps, then print the options set and chosen, and the run's time, memory and disk."""
    cost = measure(trainer, train, validation, folder)
    evaluations = len({*range(settings.eval_steps, steps + 1, settings.eval_steps), steps})
    saves = len({*range(settings.save_steps, steps + 1, settings.save_steps), steps})
    trained, everything = training.count_parameters(trainer.model)
    checkpoint_bytes = trained * 12  # float32 weights and AdamW's two moments
    row_tokens = sum(train.lengths) / len(train)
    parts = {
        "steps": steps
        * settings.per_device_batch_size
        * settings.gradient_accumulation_steps
        * row_tokens
        * cost.seconds_per_token,
        "validation": evaluations * sum(validation.lengths) * cost.evaluation_seconds_per_token,
        "checkpoints": saves * checkpoint_bytes / cost.bytes_per_second * (2 if settings.drive_dir else 1),
    }
    kept = min(saves, max(2, settings.save_total_limit) + 1)  # the best one may be older than the limit keeps
    model_bytes = trained * 4 + TOKENIZER_BYTES + (everything * 4 if settings.merge and settings.mode != "full" else 0)
    total_mb = memory_mb()
    say("set: " + (" ".join(settings.argv) or "nothing"))
    why = {"precision": why_precision, "learning_rate": f"usual for {settings.mode}",
           "warmup_fraction": f"{round(steps * settings.warmup_fraction)} steps"}  # fmt: skip
    say("chosen: " + ", ".join(options.chosen_lines(settings, why)))
    say(f"measured: a step of {cost.tokens:,} tokens takes {cost.step_s:.2f} s")
    say(f"time: about {cli.format_seconds(sum(parts.values()))} ("
        + ", ".join(f"{name} {cli.format_seconds(seconds)}" for name, seconds in parts.items()) + ")")  # fmt: skip
    say(f"memory: about {cost.peak_mb:,.0f} MB at the peak, of {total_mb:,.0f} MB")
    say(f"disk: about {(kept * checkpoint_bytes + model_bytes) / 2**20:,.0f} MB ({kept} checkpoints of "
        f"{checkpoint_bytes / 2**20:,.0f} MB, the model {model_bytes / 2**20:,.0f} MB)"
        + (f"; {kept * checkpoint_bytes / 2**20:,.0f} MB in {settings.drive_dir}" if settings.drive_dir else "")
    )  # fmt: skip
    say("dry run: stopped before training")


def measure(trainer: Any, train: EncodedExamples, validation: EncodedExamples, folder: Path) -> Cost:
    """Run and time some steps of the training, with its rows and its optimizer.

    The first step is the one with the most tokens in the first epoch: it shows the peak memory and includes one-time
    work. It and the second step, the first that can reuse freed memory, are not timed. The steps change the model; a
    dry run discards it.
    """
    batch_size, accumulation = trainer.args.per_device_train_batch_size, trainer.args.gradient_accumulation_steps
    step_rows = batch_size * accumulation
    take_step = prepare_steps(trainer, train)
    order = list(trainer._get_train_sampler())
    take_step(heaviest_step(order, train.lengths, batch_size, step_rows, padded=trainer.args.device.type == "cuda"))
    take_step(order[:step_rows])
    rows = order[: TIMED_STEPS * step_rows] or order
    seconds = timed(lambda: [take_step(rows[at : at + step_rows]) for at in range(0, len(rows), step_rows)])
    n_steps = -(-len(rows) // step_rows)
    tokens = sum(train.lengths[i] for i in rows)
    held = sorted(range(len(validation)), key=lambda i: -validation.lengths[i])
    held = held[: trainer.args.per_device_eval_batch_size]
    held_seconds = timed(lambda: evaluate(trainer, [validation[i] for i in held]))
    rate = PROBE_BYTES / timed(lambda: probe_disk(folder))
    return Cost(seconds / tokens, held_seconds / sum(validation.lengths[i] for i in held), rate,
                training.peak_memory_mb(), seconds / n_steps, tokens // n_steps)  # fmt: skip


def heaviest_step(order: list[int], lengths: Sequence[int], batch_size: int, step_rows: int, padded: bool) -> list[int]:
    """Return the rows of the step with the largest batch in tokens, counted with padding if `padded`."""

    def batch_tokens(rows: list[int]) -> int:
        row_tokens = [lengths[i] for i in rows]
        return len(rows) * max(row_tokens) if padded else sum(row_tokens)

    def step_tokens(rows: list[int]) -> int:
        return max(batch_tokens(rows[at : at + batch_size]) for at in range(0, len(rows), batch_size))

    return max((order[at : at + step_rows] for at in range(0, len(order), step_rows)), key=step_tokens)


def prepare_steps(trainer: Any, train: EncodedExamples) -> Callable[[list[int]], None]:
    """Return a function that takes one optimizer step on the given rows, like the Trainer's own loop."""
    import torch

    trainer.create_optimizer_and_scheduler(num_training_steps=1000)
    model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    batch_size = trainer.args.per_device_train_batch_size
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps

    def take_step(rows: list[int]) -> None:
        batches = [
            trainer.data_collator([train[i] for i in rows[at : at + batch_size]])
            for at in range(0, len(rows), batch_size)
        ]
        n_items = trainer._get_num_items_in_batch(batches, trainer.args.device)
        for batch in batches:
            trainer.training_step(model, batch, n_items)
        trainer.accelerator.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
        optimizer.step()
        model.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return take_step


def evaluate(trainer: Any, items: list[dict]) -> None:
    """Compute the validation loss of one batch."""
    import torch

    trainer.model.eval()
    trainer.n_right = torch.zeros((), dtype=torch.long, device=trainer.args.device)
    trainer.prediction_step(trainer.model, trainer.data_collator(items), True)[0].item()


def probe_disk(folder: Path) -> None:
    """Write and hash a file of PROBE_BYTES, like a checkpoint."""
    path = folder / f".{checkpoints.PREFIX}probe"
    path.write_bytes(os.urandom(PROBE_BYTES // 64) * 64)
    files.sha256_file(path)
    path.unlink()


def timed(run: Callable[[], object]) -> float:
    """Return the duration of a call in seconds."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def memory_mb() -> float:
    """Return the total memory of the GPU, or of the machine if it has no GPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory / 2**20
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
