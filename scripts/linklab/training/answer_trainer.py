"""Hugging Face's Trainer with our loss, row order, validation, and checkpoints that continue exactly.

Import this module inside functions only: it imports torch and transformers. It overrides private methods of the
Trainer; tests/training/test_answer_trainer.py fails if a new version of transformers changes them.
"""

from __future__ import annotations

import contextlib
import csv
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import EarlyStoppingCallback, Trainer

from linklab import files
from linklab.cli import say
from linklab.training import answer_loss, checkpoint_mirror, checkpoints, validation_scores

if TYPE_CHECKING:
    from linklab.training.answer_loss import EncodedExamples
    from linklab.training.options import TrainingSettings

LOGGED = {"epoch": "epoch", "train_loss": "loss", "validation_loss": "eval_loss", "learning_rate": "learning_rate",
          "grad_norm": "grad_norm", "validation_accuracy": "eval_accuracy"}  # fmt: skip
LOG_FIELDS = ("step", *LOGGED)  # columns of trainer_log.csv; LOGGED maps them to the Trainer's names
LOSS_WINDOW = "loss_window.json"  # in a checkpoint: the sum of losses since the last log entry, the seconds so far


class AnswerTrainer(Trainer):
    """Trains on encoded rows and validates on others; a training continued from a checkpoint gives the same result."""

    def __init__(
        self, *, settings: TrainingSettings, validation: EncodedExamples, fingerprint: dict, folder: Path, **kwargs: Any
    ) -> None:
        """`fingerprint` is stored in every checkpoint; the log goes to `folder`; `kwargs` are the Trainer's own."""
        self.settings, self.validation, self.fingerprint, self.folder = settings, validation, fingerprint, folder
        self.continued: Path | None = None  # the checkpoint to continue from, until its state is restored
        self.started, self.seconds_before = time.monotonic(), 0.0
        super().__init__(**kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> answer_loss.StepSampler:
        each = self.settings.per_device_batch_size * self.settings.gradient_accumulation_steps
        return answer_loss.StepSampler(self.train_dataset.lengths, each * self.args.world_size, self.settings.seed)

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        self.continued = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        self.started, self.seconds_before = time.monotonic(), 0.0
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        finally:  # after an error TensorBoard's thread would continue to write into a removed folder
            for callback in self.callback_handler.callbacks:
                if writer := getattr(callback, "tb_writer", None):
                    with contextlib.suppress(OSError):
                        writer.close()
                    callback.tb_writer = None

    def _run_epoch(self, **kwargs: Any) -> None:
        if self.continued:
            self._restore_loss_window(files.read_json(self.continued / LOSS_WINDOW))
            self._restore_best_checkpoint()
            self._restore_patience()
            self.continued = None
        if self.state.global_step >= self.state.max_steps:  # already finished; the Trainer would add a step
            self.control.should_training_stop = True
        if not self.control.should_training_stop:
            super()._run_epoch(**kwargs)

    def _restore_loss_window(self, window: dict) -> None:
        """Restore the sum of losses since the last log entry, which the Trainer does not save, and the seconds."""
        self._tr_loss += window["loss_sum"]
        self._globalstep_last_logged = window["since_step"]
        self.seconds_before = window["seconds"]

    def training_seconds(self) -> float:
        """Return the duration of this training so far, including the time before it was continued."""
        return self.seconds_before + time.monotonic() - self.started

    def _restore_patience(self) -> None:
        """Restore the count of validations without improvement; the Trainer resets it."""
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):
                saved = self.state.stateful_callbacks["EarlyStoppingCallback"]["attributes"]
                callback.early_stopping_patience_counter = saved["early_stopping_patience_counter"]
                if callback.early_stopping_patience_counter >= callback.early_stopping_patience:
                    self.control.should_training_stop = True

    def _restore_best_checkpoint(self) -> None:
        """Find the best checkpoint in the current folder: the folder may have moved since it was saved."""
        state = self.state
        if state.best_global_step is None:
            return
        best = Path(self.args.output_dir) / f"{checkpoints.PREFIX}{state.best_global_step}"
        if best == self.continued or checkpoints.is_complete(best):
            state.best_model_checkpoint = str(best)
        elif self.continued and self.continued.name == best.name:
            state.best_model_checkpoint = str(self.continued)
        else:
            say(f"{best}: the best checkpoint so far is missing; the best of the remaining steps will be used")
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def prediction_step(self, model: Any, inputs: dict, prediction_loss_only: bool, ignore_keys: Any = None) -> tuple:
        """Scale a batch's loss by its answer tokens: the validation loss is the mean over rows, not over batches."""
        inputs = self._prepare_inputs(inputs)
        judged = inputs.pop("judged", None)
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**inputs, num_items_in_batch=1)  # the sum over answer tokens
        if judged is not None:
            self.n_right += validation_scores.count_right(output.logits, inputs["labels"], judged)
        mean_tokens = self.validation.answer_tokens / len(self.eval_dataset)
        return output.loss.detach() / (len(inputs["labels"]) * mean_tokens), None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        self.n_right = torch.zeros((), dtype=torch.long, device=self.args.device)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if "judged" in self.validation[0]:
            n_right = self.accelerator.gather(self.n_right).sum().item()
            output.metrics[f"{metric_key_prefix}_accuracy"] = n_right / len(self.validation)
        return output

    def _determine_best_metric(self, metrics: dict, trial: Any) -> bool:
        """Save a checkpoint at every new best value, even if none is due: the weights would be lost later."""
        found = super()._determine_best_metric(metrics, trial)
        self.control.should_save |= found
        return found

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.args.should_save:
            checkpoints.announce(Path(self.args.output_dir), self.state.global_step)
        super()._save_checkpoint(model, trial)
        loss_sum = self.accelerator.gather(self._tr_loss).mean().item()
        if self.args.should_save:
            made = Path(self.args.output_dir) / f"{checkpoints.PREFIX}{self.state.global_step}"
            window = {"loss_sum": loss_sum, "since_step": self._globalstep_last_logged,
                      "seconds": self.training_seconds()}  # fmt: skip
            files.write_json(made / LOSS_WINDOW, window, force=True)
            checkpoints.mark_complete(made, self.fingerprint)
            write_log(self.folder / "trainer_log.csv", self.state.log_history)
            if self.settings.drive_dir:
                checkpoint_mirror.mirror(made.parent, Path(self.settings.drive_dir))


def write_log(path: Path, history: list[dict]) -> None:
    """Write trainer_log.csv: a line for each step with a training or validation loss."""
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
