"""Fine-tuning: Hugging Face's Trainer with our answer-only loss, row order, whole checkpoints and plain progress."""

from __future__ import annotations

import csv
import math
import os
import signal
import sys
import time
from pathlib import Path

from linklab import cli, files
from linklab.cli import say
from linklab.models import architecture
from linklab.models.load import device_name
from linklab.training import (
    adapters,
    answer_loss,
    checkpoint_mirror,
    checkpoints,
    fused_gemma,
    safeguards,
    validation_scores,
)
from linklab.training.options import TrainingSettings

LOGGED = {"epoch": "epoch", "train_loss": "loss", "validation_loss": "eval_loss", "learning_rate": "learning_rate",
          "grad_norm": "grad_norm", "validation_accuracy": "eval_accuracy"}  # fmt: skip
LOG_FIELDS = ("step", *LOGGED)  # of trainer_log.csv, and what the Trainer calls each
LOSS_WINDOW = "loss_window.json"  # in a checkpoint: the losses summed since the last logged one, the seconds so far
# AdamW's memory of squared gradients, 100 steps instead of torch's 1,000: a run here has 50 to 500 steps, and a memory
# longer than the run meets the gradients' growth too late (validation loss swung .95 -> 1.46 -> .83).
ADAM_BETA2 = 0.99


def build_model(settings: TrainingSettings):
    """Return the model ready to train: whole, with LoRA adapters, or NF4-quantized with LoRA adapters.

    Trained weights are float32 in every mode; the frozen ones of LoRA are bfloat16 where products are.
    """
    import torch

    from linklab.models.load import keep_freed_memory, load_model, load_trained

    keep_freed_memory()
    torch.manual_seed(settings.seed)  # adapters start from random numbers
    compute = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.precision]
    frozen = torch.float32 if settings.mode == "full" else compute
    if settings.mode == "full":
        model, _ = load_trained(settings.base_model, dtype=frozen)  # an adapter is merged
    else:
        model = load_model(settings.base_model, dtype=frozen, quantize_4bit=settings.mode == "qlora")
    for module in model.modules():
        # In evaluation bitsandbytes repacks 4-bit weights for CPUs with AVX512-BF16 and leaves them so: the training
        # after it would run on a product without a gradient.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    architecture.text_config(model).use_cache = False
    answer_loss.use_answer_only_loss(model)
    if frozen == torch.bfloat16:
        # The residual stream stays float32 while autocast multiplies in bfloat16: Gemma's activations grow so large
        # that 8 bits of mantissa would round away what a layer adds.
        model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.float())
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if settings.mode == "full":
        adapters.freeze_outside_decoder(model)
        return model
    adapted = adapters.add_adapters(model, settings)
    fused_gemma.fuse(adapted)
    return adapted


def count_parameters(model) -> tuple[int, int]:
    """Return (trained, all) parameters; a 4-bit weight counts as the numbers it stands for."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() * (2 if p.__class__.__name__ == "Params4bit" else 1) for p in model.parameters())
    return trained, everything


def make_trainer(model, tokenizer, train, validation, settings: TrainingSettings, fingerprint: dict, folder: Path):
    """Return a Trainer that writes complete checkpoints below `folder`/checkpoints, marked with `fingerprint`."""
    import torch
    from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

    steps = total_steps(len(train), settings, world_size())
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.per_device_batch_size,
        per_device_eval_batch_size=settings.per_device_batch_size * 2,
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
        save_total_limit=max(2, settings.save_total_limit),  # while one is being written, another must be whole
        load_best_model_at_end=True,
        metric_for_best_model=settings.best_by,
        greater_is_better=settings.best_by == "accuracy",
        logging_steps=max(1, min(10, steps // 20)),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],  # ours is added below: it writes beside the other results
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,  # every trained weight is used in every step
        prediction_loss_only=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=settings.seed,
        data_seed=settings.seed,
        restore_callback_states_from_checkpoint=False,
    )
    safeguards.use_one_gpu(arguments)

    class AnswerTrainer(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            step_rows = settings.per_device_batch_size * settings.gradient_accumulation_steps * self.args.world_size
            return answer_loss.StepSampler(train.lengths, step_rows, settings.seed)

        def train(self, resume_from_checkpoint=None, **kwargs):
            self.continued = Path(resume_from_checkpoint) if resume_from_checkpoint else None
            self.started, self.seconds_before = time.monotonic(), 0.0
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

        def _run_epoch(self, **kwargs):
            if self.continued:
                self._restore_loss_window(files.read_json(self.continued / LOSS_WINDOW))
                self._restore_best_checkpoint()
                self._restore_patience()
                self.continued = None
            if self.state.global_step >= self.state.max_steps:  # continued at the end; the Trainer would add a step
                self.control.should_training_stop = True
            if not self.control.should_training_stop:
                super()._run_epoch(**kwargs)

        def _restore_loss_window(self, window: dict) -> None:
            """Take up the losses added since the last logged one, which the Trainer forgets, and the seconds."""
            self._tr_loss += window["loss_sum"]
            self._globalstep_last_logged = window["since_step"]
            self.seconds_before = window["seconds"]

        def training_seconds(self) -> float:
            """Return how long this training took so far, with what it took before it was continued."""
            return self.seconds_before + time.monotonic() - self.started

        def _restore_patience(self) -> None:
            """Take up the count of validation losses that were no better; the Trainer begins it anew."""
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, EarlyStoppingCallback):
                    saved = self.state.stateful_callbacks["EarlyStoppingCallback"]["attributes"]
                    callback.early_stopping_patience_counter = saved["early_stopping_patience_counter"]
                    if callback.early_stopping_patience_counter >= callback.early_stopping_patience:
                        self.control.should_training_stop = True

        def _restore_best_checkpoint(self) -> None:
            """Look for the best checkpoint beside the others: the folder may have moved, or be another one."""
            state = self.state
            if state.best_global_step is None:
                return
            best = Path(self.args.output_dir) / f"{checkpoints.PREFIX}{state.best_global_step}"
            if best == self.continued or checkpoints.is_whole(best):
                state.best_model_checkpoint = str(best)
            elif self.continued.name == best.name:
                state.best_model_checkpoint = str(self.continued)
            else:
                say(f"{best}: the best checkpoint so far is not there any more; the best of those to come is kept")
                state.best_metric = state.best_global_step = state.best_model_checkpoint = None

        def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
            """Weigh a batch by its answer tokens: the validation loss is that of the rows, not of the batches."""
            inputs = self._prepare_inputs(inputs)
            judged = inputs.pop("judged", None)
            with torch.no_grad(), self.compute_loss_context_manager():
                output = model(**inputs, num_items_in_batch=1)  # the sum over the answers' tokens
            if judged is not None:
                self.n_right += validation_scores.count_right(output.logits, inputs["labels"], judged)
            mean_tokens = validation.answer_tokens / len(self.eval_dataset)
            return output.loss.detach() / (len(inputs["labels"]) * mean_tokens), None, None

        def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
            self.n_right = torch.zeros((), dtype=torch.long, device=self.args.device)
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
            if "judged" in validation[0]:
                n_right = self.accelerator.gather(self.n_right).sum().item()
                output.metrics[f"{metric_key_prefix}_accuracy"] = n_right / len(validation)
            return output

        def _determine_best_metric(self, metrics, trial):
            """Keep the weights of a new best at once, whether or not a checkpoint is due: they would be gone later."""
            found = super()._determine_best_metric(metrics, trial)
            self.control.should_save |= found
            return found

        def _save_checkpoint(self, model, trial):
            if self.args.should_save:
                checkpoints.announce(Path(self.args.output_dir), self.state.global_step)
            super()._save_checkpoint(model, trial)
            loss_sum = self.accelerator.gather(self._tr_loss).mean().item()
            if self.args.should_save:
                made = Path(self.args.output_dir) / f"{checkpoints.PREFIX}{self.state.global_step}"
                window = {"loss_sum": loss_sum, "since_step": self._globalstep_last_logged,
                          "seconds": self.training_seconds()}  # fmt: skip
                files.write_json(made / LOSS_WINDOW, window, force=True)
                checkpoints.mark_complete(made, fingerprint)
                write_log(folder / "trainer_log.csv", self.state.log_history)
                if settings.drive_dir:
                    checkpoint_mirror.mirror(made.parent, Path(settings.drive_dir))

    # No processing_class: it would put the tokenizer's 33 MB into every checkpoint.
    trainer = AnswerTrainer(
        model=model, args=arguments, train_dataset=train,
        eval_dataset=validation_scores.EvenRows(validation, arguments.world_size * arguments.per_device_eval_batch_size)
        if arguments.world_size > 1 else validation,
        data_collator=validation_scores.HeldOutCollator(tokenizer.pad_token_id),
        callbacks=make_callbacks(steps, settings),
    )  # fmt: skip
    if settings.report_to != "none":
        trainer.add_callback(safeguards.report_callback(settings.report_to, folder))
    trainer.model_accepts_loss_kwargs = True  # the answer-only forward divides by the answer tokens of the whole step
    from transformers import PrinterCallback

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
        def on_train_begin(self, args, state, control, **kwargs):
            self.bar = cli.Progress("train", steps, unit="steps", every_s=15)
            self.first, self.note = state.global_step, ""

        def on_log(self, args, state, control, logs=None, **kwargs):
            logs = logs or {}
            if "loss" in logs:
                self.note = f"loss {float(logs['loss']):.3f}"
            if "eval_loss" in logs:
                accuracy = f", accuracy {100 * logs['eval_accuracy']:.1f} %" if "eval_accuracy" in logs else ""
                say(f"step {state.global_step} of {steps}: validation loss {logs['eval_loss']:.4f}{accuracy}")

        def on_step_end(self, args, state, control, **kwargs):
            done = state.global_step - self.first
            now = time.monotonic()
            if done and now - self.bar.last >= self.bar.every_s:
                left = (now - self.bar.started) / done * (steps - state.global_step)
                self.bar.last = now
                say(f"train: step {state.global_step:,} of {steps:,}, {cli.format_seconds(left)} left  {self.note}")

    class StopOnSignal(TrainerCallback):
        """Finish the step, write a checkpoint, then leave with 128 + signal."""

        received = 0

        def on_train_begin(self, args, state, control, **kwargs):
            def note(number, frame):
                if self.received == number == signal.SIGINT:
                    raise KeyboardInterrupt  # the second Ctrl-C does not wait
                self.received = number
                say(f"{signal.Signals(number).name}: finishing this step and writing a checkpoint")

            self.before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}

        def on_step_end(self, args, state, control, **kwargs):
            if args.world_size > 1:  # all stop at one step, or those that go on would wait for the others for ever
                self.received = int(agree_on_largest(self.received, args.device))
            if self.received:  # a validation loss that is due is still taken: the run that continues would lack it
                control.should_save = control.should_training_stop = True

        def on_train_end(self, args, state, control, **kwargs):
            for number, handler in self.before.items():
                signal.signal(number, handler)

    made = [safeguards.finite_numbers_callback(settings), Progress(), StopOnSignal()]
    if settings.patience:
        made.append(EarlyStoppingCallback(settings.patience))
    return made


def agree_on_largest(number: int, device) -> int:
    """Return the largest of the numbers that all processes hold."""
    import torch

    held = torch.tensor(number, device=device)
    torch.distributed.all_reduce(held, torch.distributed.ReduceOp.MAX)
    return held.item()


def received_signal(trainer) -> int:
    """Return the signal that stopped a training, or 0."""
    return next((c.received for c in trainer.callback_handler.callbacks if hasattr(c, "received")), 0)


def write_log(path: Path, history: list[dict]) -> None:
    """Write trainer_log.csv: one line a step that logged a training or a validation loss."""
    lines: dict[int, dict] = {}
    for entry in history:
        line = lines.setdefault(entry["step"], dict.fromkeys(LOG_FIELDS, "") | {"step": entry["step"]})
        for field, key in LOGGED.items():
            if key in entry:
                line[field] = f"{float(entry[key]):.6g}"
    with files.atomic_write(path, force=True) as handle:
        writer = csv.DictWriter(handle, LOG_FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(line for line in lines.values() if line["train_loss"] or line["validation_loss"])


def peak_memory_mb() -> float:
    """Return the most memory this process has held: the GPU's where there is one, else resident memory."""
    import resource

    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    units = 2**20 if sys.platform == "darwin" else 2**10  # bytes on macOS, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units
