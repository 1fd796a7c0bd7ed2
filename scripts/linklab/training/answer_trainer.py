"""Hugging Face's Trainer with our loss, row order, validation and checkpoints that continue exactly.

Imports torch and transformers, so it is imported inside functions only. Several of the Trainer's private methods are
overridden; tests/training/test_answer_trainer.py fails where a new version of transformers has others.
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
LOG_FIELDS = ("step", *LOGGED)  # of trainer_log.csv, and what the Trainer calls each
LOSS_WINDOW = "loss_window.json"  # in a checkpoint: the losses summed since the last logged one, the seconds so far


class AnswerTrainer(Trainer):
    """Trains on encoded rows and judges itself on others; its checkpoints continue where they stopped, exactly."""

    def __init__(
        self, *, settings: TrainingSettings, validation: EncodedExamples, fingerprint: dict, folder: Path, **kwargs: Any
    ) -> None:
        """Checkpoints are marked with `fingerprint`; the log is written to `folder`; the rest is the Trainer's own."""
        self.settings, self.validation, self.fingerprint, self.folder = settings, validation, fingerprint, folder
        self.continued: Path | None = None  # the checkpoint this training goes on from, until it has been taken up
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
        finally:  # after an error TensorBoard's thread would write on, into a folder that is gone
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
        elif self.continued and self.continued.name == best.name:
            state.best_model_checkpoint = str(self.continued)
        else:
            say(f"{best}: the best checkpoint so far is missing; the best of the remaining run is kept")
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def prediction_step(self, model: Any, inputs: dict, prediction_loss_only: bool, ignore_keys: Any = None) -> tuple:
        """Weigh a batch by its answer tokens: the validation loss is that of the rows, not of the batches."""
        inputs = self._prepare_inputs(inputs)
        judged = inputs.pop("judged", None)
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**inputs, num_items_in_batch=1)  # the sum over the answers' tokens
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
        """Keep the weights of a new best at once, whether or not a checkpoint is due: they would be gone later."""
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
    """Write trainer_log.csv: a line for each step that logged a training or a validation loss."""
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
