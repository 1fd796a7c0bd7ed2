"""Fine-tuning: builds the model and the Trainer with our loss, row order, checkpoints and progress lines."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from linklab import cli
from linklab.cli import say
from linklab.models import architecture
from linklab.models.load import device_name
from linklab.training import adapters, answer_loss, fused_gemma, safeguards, validation_scores
from linklab.training.answer_loss import EncodedExamples
from linklab.training.options import TrainingSettings

# AdamW averages squared gradients over about 100 steps here, not torch's 1,000: a run has 50 to 500 steps, and a longer
# average follows growing gradients too late (the validation loss was unstable: .95 -> 1.46 -> .83).
ADAM_BETA2 = 0.99


def build_model(settings: TrainingSettings) -> Any:
    """Return the model ready to train: all weights, LoRA adapters, or LoRA adapters on NF4-quantized weights.

    Trained weights are float32 in every mode; frozen weights have the type of the matrix products.
    """
    import torch

    from linklab.models.load import keep_freed_memory, load_model, load_trained

    keep_freed_memory()
    torch.manual_seed(settings.seed)  # adapters start from random numbers
    assert settings.precision, "chosen before the model is built"
    compute = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.precision]
    frozen = torch.float32 if settings.mode == "full" else compute
    if settings.mode == "full":
        model, _ = load_trained(settings.base_model, dtype=frozen)  # an adapter is merged
    else:
        model = load_model(settings.base_model, dtype=frozen, quantize_4bit=settings.mode == "qlora")
    for module in model.modules():
        # In evaluation bitsandbytes repacks 4-bit weights for CPUs with AVX512-BF16 and never restores them: the
        # training after it would use a product without a gradient.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    architecture.text_config(model).use_cache = False
    answer_loss.use_answer_only_loss(model)
    if frozen == torch.bfloat16:
        # The residual stream stays float32 while autocast multiplies in bfloat16: Gemma's activations grow so large
        # that with 8 bits of mantissa a layer's contribution would be lost in rounding.
        model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.float())
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if settings.mode == "full":
        adapters.freeze_outside_decoder(model)
        return model
    adapted = adapters.add_adapters(model, settings)
    fused_gemma.fuse(adapted)
    return adapted


def count_parameters(model: Any) -> tuple[int, int]:
    """Return the numbers of (trained, all) parameters; a byte of 4-bit weights counts as two."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() * (2 if p.__class__.__name__ == "Params4bit" else 1) for p in model.parameters())
    return trained, everything


def make_trainer(
    model: Any, tokenizer: Any, train: EncodedExamples, validation: EncodedExamples, settings: TrainingSettings,
    fingerprint: dict, folder: Path,
) -> Any:  # fmt: skip
    """Return a Trainer that writes checkpoints with `fingerprint` below `folder`/checkpoints."""
    import torch
    from transformers import PrinterCallback, TrainingArguments

    from linklab.training.answer_trainer import AnswerTrainer

    steps = total_steps(len(train), settings, world_size())
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.per_device_batch_size,
        per_device_eval_batch_size=settings.per_device_batch_size * (1 if len(train) > train.n_rows else 2),  # in rows
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_schedule,
        warmup_steps=round(steps * settings.warmup_fraction),
        weight_decay=settings.weight_decay,
        adam_beta2=ADAM_BETA2,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        use_cpu=device_name() == "cpu",
        eval_strategy="steps",
        eval_steps=settings.eval_steps,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=max(2, settings.save_total_limit),  # while one is written, another must be complete
        load_best_model_at_end=True,
        metric_for_best_model=settings.best_by,
        greater_is_better=settings.best_by == "accuracy",
        logging_steps=max(1, min(10, steps // 20)),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],  # our logger is added below: it writes beside the other results
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,  # every trained weight is used in every step
        prediction_loss_only=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=settings.seed,
        data_seed=settings.seed,
        restore_callback_states_from_checkpoint=False,
    )
    safeguards.use_one_gpu(arguments)
    safeguards.use_plain_cpu(arguments)

    # No processing_class: it would save the tokenizer, 33 MB, in every checkpoint.
    trainer = AnswerTrainer(
        settings=settings, validation=validation, fingerprint=fingerprint, folder=folder,
        model=model, args=arguments, train_dataset=train,
        eval_dataset=validation_scores.EvenRows(validation, arguments.world_size * arguments.per_device_eval_batch_size)
        if arguments.world_size > 1 else validation,
        data_collator=validation_scores.HeldOutCollator(tokenizer.pad_token_id),
        callbacks=make_callbacks(steps, settings),
    )  # fmt: skip
    if settings.report_to != "none":
        trainer.add_callback(safeguards.report_callback(settings.report_to, folder))
    trainer.model_accepts_loss_kwargs = True  # the answer-only forward divides by the answer tokens of the whole step
    trainer.remove_callback(PrinterCallback)
    return trainer


def world_size() -> int:
    """Return how many processes train together (`accelerate launch`, torchrun)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def total_steps(n_rows: int, settings: TrainingSettings, processes: int = 1) -> int:
    """Return the optimizer steps of a run."""
    if settings.max_steps > 0:
        return settings.max_steps
    batches = math.ceil(math.ceil(n_rows / settings.per_device_batch_size) / processes)
    return max(1, math.ceil(math.ceil(batches / settings.gradient_accumulation_steps) * settings.epochs))


def make_callbacks(steps: int, settings: TrainingSettings) -> list:
    """Return the callbacks: finite numbers, progress lines, stop on a signal, early stopping."""
    from transformers import EarlyStoppingCallback, TrainerCallback

    class Progress(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar = cli.Progress("train", steps, unit="steps", every_s=15)
            self.first, self.note = state.global_step, ""

        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
            logs = logs or {}
            if "loss" in logs:
                self.note = f"loss {float(logs['loss']):.3f}"
            if "eval_loss" in logs:
                accuracy = f", accuracy {100 * logs['eval_accuracy']:.1f} %" if "eval_accuracy" in logs else ""
                say(f"step {state.global_step} of {steps}: validation loss {logs['eval_loss']:.4f}{accuracy}")

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            done = state.global_step - self.first
            now = time.monotonic()
            if done and now - self.bar.last >= self.bar.every_s:
                left = (now - self.bar.started) / done * (steps - state.global_step)
                self.bar.last = now
                say(f"train: step {state.global_step:,} of {steps:,}, {cli.format_seconds(left)} left  {self.note}")

    class StopOnSignal(TrainerCallback):
        """Finish the step, write a checkpoint, then leave with 128 + signal."""

        received: int = 0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            def note(number: int, frame: object) -> None:
                if self.received == number == signal.SIGINT:
                    raise KeyboardInterrupt  # a second Ctrl-C stops at once
                self.received = number
                say(f"{signal.Signals(number).name}: finishing this step and writing a checkpoint")

            self.before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if args.world_size > 1:  # all processes must stop at the same step, or some would wait forever
                self.received = int(agree_on_largest(self.received, args.device))
            if self.received:  # a validation that is due still runs: the continued run would miss it
                control.should_save = control.should_training_stop = True

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for number, handler in self.before.items():
                signal.signal(number, handler)

    made = [safeguards.finite_numbers_callback(settings), Progress(), StopOnSignal()]
    if settings.patience:
        made.append(EarlyStoppingCallback(settings.patience))
    return made


def agree_on_largest(number: int, device: Any) -> int:
    """Return the largest `number` of all processes."""
    import torch

    held = torch.tensor(number, device=device)
    torch.distributed.all_reduce(held, torch.distributed.ReduceOp.MAX)
    return held.item()


def received_signal(trainer: Any) -> int:
    """Return the signal that stopped a training, or 0."""
    return next((c.received for c in trainer.callback_handler.callbacks if hasattr(c, "received")), 0)


def peak_memory_mb() -> float:
    """Return this process's peak memory in MB: GPU memory, or resident memory without a GPU."""
    import resource

    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    units = 2**20 if sys.platform == "darwin" else 2**10  # bytes on macOS, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units
