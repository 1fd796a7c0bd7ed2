"""Helpers for tests of training: a short training's command line, its outputs, and the loss by definition."""

import contextlib
import csv
import shutil
import signal

import finetune_gemma_from_csv as finetune
import torch
from linklab import files
from linklab.manifest import MANIFEST
from linklab.training import options

WEIGHTS = {"full": "model.safetensors", "lora": "adapter_model.safetensors", "qlora": "adapter_model.safetensors"}


PROMPT = "animal: eel\ncode: 512"


def words(table, out, *more, steps=4, save=2):
    return ["--csv", str(table), "--target-field", "kind", "--base-model", "tiny", "--out-dir", str(out),
            "--max-rows", "32", "--validation-rows", "8", "--per-device-batch-size", "4",
            "--gradient-accumulation-steps", "1", "--learning-rate", "3e-3",
            "--max-steps", str(steps), "--save-steps", str(save), *more]  # fmt: skip


def settings_of(words):
    return options.read_settings(finetune.build_parser().parse_args(words))


def tree(folder):
    """Every file below a folder with its hash."""
    return {str(p.relative_to(folder)): files.sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def validation_losses(out):
    with open(out / "trainer_log.csv") as handle:
        return {row["step"]: float(row["validation_loss"]) for row in csv.DictReader(handle) if row["validation_loss"]}


MODES = ["full", "lora", "qlora"]


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@contextlib.contextmanager
def stopping_before(training, monkeypatch, step, stop=lambda: signal.raise_signal(signal.SIGTERM)):
    """Send SIGTERM, or call `stop`, during this step."""
    from transformers import TrainerCallback

    plain = training.make_callbacks

    class StopHere(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == step - 1:
                stop()

    with monkeypatch.context() as patch:
        patch.setattr(training, "make_callbacks", lambda steps, options: [*plain(steps, options), StopHere()])
        yield


def add_adapter(model, **options):
    """Return the model with an adapter of rank 4 that is not zero."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    options = {"r": 4, "target_modules": "all-linear"} | options
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return adapted


def answer_losses(model, ids, n_prompt):
    """The definition: minus the log-probability of each token after the prompt, from all logits of one row."""
    ids = torch.tensor([ids])
    scores = torch.log_softmax(model(input_ids=ids).logits[0, :-1].double(), dim=-1)
    return -scores[torch.arange(ids.shape[1] - 1), ids[0, 1:]][n_prompt - 1 :]


def assert_same_gradients(model, other):
    assert any(parameter.grad is not None for parameter in model.parameters())
    for (name, parameter), second in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (parameter.grad is None) == (second.grad is None), name
        if second.grad is not None:
            torch.testing.assert_close(second.grad, parameter.grad, atol=1e-5, rtol=1e-3, msg=name)


def unfinish(out):
    """Make a finished run look like one killed after its last checkpoint."""
    for name in ("model", "metrics.json", "trainer_log.csv", "loss.png", "README.md", MANIFEST):
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
