"""Checks and clear errors for training: numbers that are not finite, several GPUs, memory, disk, loggers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from linklab.cli import UserError, say
from linklab.training.options import TrainingSettings

INSTALL = {  # --report-to NAME -> packages to install
    "azure_ml": "azureml-core azureml-mlflow", "clearml": "clearml", "codecarbon": "codecarbon", "comet_ml": "comet_ml",
    "dagshub": "dagshub", "dvclive": "dvclive", "flyte": "flytekit", "kubeflow": "kubeflow", "mlflow": "mlflow",
    "neptune": "neptune", "swanlab": "swanlab", "tensorboard": "tensorboard==2.21.0", "trackio": "trackio",
    "wandb": "wandb",
}  # fmt: skip
# Texts in the errors of a full disk: from the system, safetensors, and torch.save, which does not name the reason
NO_SPACE = ("No space left", "File too large", "Disk quota", "inline_container.cc", "iostream error")


def finite_numbers_callback(settings: TrainingSettings) -> Any:
    """Return a callback that stops a training before a gradient that is not finite changes the weights.

    So no checkpoint holds such weights. A loss that is not finite always has such a gradient. In float16 such gradients
    are normal at first (the scaler skips these steps and lowers its scale), so there the logged loss is checked.
    """
    from transformers import TrainerCallback

    class FiniteNumbers(TrainerCallback):
        def on_pre_optimizer_step(
            self, args: Any, state: Any, control: Any, model: Any = None, **others: Any
        ) -> None:  # fmt: skip
            import torch

            if settings.precision == "fp16":
                return
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
                raise UserError(explain(settings, state.global_step + 1))

        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **others: Any) -> None:
            for name in ("loss", "eval_loss"):
                if not math.isfinite(float((logs or {}).get(name, 0.0))):
                    raise UserError(explain(settings, state.global_step))

    return FiniteNumbers()


def explain(settings: TrainingSettings, step: int) -> str:
    """Return the error message for a loss that is not finite, with advice that depends on the precision."""
    lower = f"lower --learning-rate (it is {settings.learning_rate:g}; try {settings.learning_rate / 5:.2g})"
    advice = {
        "fp16": f"float16 ends at 65,504 and Gemma 3 exceeds that: train with --bf16 or --fp32, or {lower}",
        "bf16": f"{lower}, or train with --fp32",
    }.get(settings.precision or "", f"{lower} or raise --warmup-fraction")
    return (f"the loss is no longer a finite number at step {step}; {advice}; earlier checkpoints are not affected: "
            f"start again with --force")  # fmt: skip


def use_one_gpu(arguments: Any) -> None:
    """Keep a single process on one of several GPUs: DataParallel would bypass the answer-only loss."""
    if arguments.n_gpu > 1:
        n = arguments.n_gpu
        arguments._n_gpu = 1
        say(f"{n} GPUs are visible and one process uses one, {arguments.device}; for all of them: accelerate launch "
            f"--multi_gpu --num_processes {n} scripts/finetune_gemma_from_csv.py ... (docs/settings.md)")  # fmt: skip


def use_plain_cpu(arguments: Any) -> None:
    """Name the CPU `cpu` in each of several processes: transformers 5.15 (Colab) names it `cpu:0` when it loads a
    checkpoint's optimizer state, and torch.load does not know that device.
    """
    import torch

    if arguments.device.type == "cpu":
        arguments.__dict__["_setup_devices"] = torch.device("cpu")  # what the cached property `device` returns


def report_callback(name: str, folder: Path) -> Any:
    """Return the callback that sends the log to `--report-to NAME`; TensorBoard writes to `folder`/tensorboard.

    Raises a UserError with the pip command if the package is missing.
    """
    from transformers.integrations import INTEGRATION_TO_CALLBACK

    try:
        made = INTEGRATION_TO_CALLBACK[name]()
    except (RuntimeError, ImportError) as error:
        raise UserError(f"--report-to {name} needs a package: pip install {INSTALL[name]}, or choose --report-to none "
                        f"({str(error).splitlines()[0][:120]})") from error  # fmt: skip
    if name == "tensorboard":
        made.logging_dir = str(folder / "tensorboard")
    return made


def lower_memory(settings: TrainingSettings) -> str:
    """Return advice with options that let the same rows train in less memory."""
    batch, accumulation = settings.per_device_batch_size, settings.gradient_accumulation_steps
    ways = []
    if batch > 1:
        ways.append(f"--per-device-batch-size {batch // 2} --gradient-accumulation-steps {accumulation * 2}")
    if not settings.gradient_checkpointing:
        ways.append("--gradient-checkpointing")
    if settings.mode == "full":
        ways.append("--mode lora")
    return "use " + ", then ".join(ways or [f"shorter rows and --max-length {settings.max_length // 2}"])


@contextlib.contextmanager
def explained_failures(settings: TrainingSettings) -> Iterator[None]:
    """Turn out-of-memory and full-disk errors into one line that says what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = str(error)
        if "out of memory" in text or "can't allocate memory" in text or isinstance(error, MemoryError):
            raise UserError(f"out of memory; {lower_memory(settings)}; checkpoints so far are kept") from error
        if any(said in text for said in NO_SPACE):
            raise UserError(
                f"{settings.out_dir}: no space left on the disk; free some space or choose another --out-dir, "
                f"then run again with --resume auto"
            ) from error
        raise
