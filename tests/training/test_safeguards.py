"""Problems in training, found in time and reported in one line: numbers, GPUs, loggers, continued adapters."""

import json
import resource
import types
from importlib.util import find_spec

import evaluate_model
import finetune_gemma_from_csv as finetune
import pytest
import torch
from linklab.models import load
from linklab.training import checkpoints, options, safeguards, training
from safetensors.torch import load_file
from training_runs import settings_of, words
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK


def with_callback(monkeypatch, callback):
    plain = training.make_callbacks
    monkeypatch.setattr(training, "make_callbacks", lambda *given: [callback, *plain(*given)])


class Spoil(TrainerCallback):
    """Make a gradient infinite in step 4, and leave the loss as it is."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 3:
            next(p for p in model.parameters() if p.grad is not None).grad[0] = float("inf")


class Break(TrainerCallback):
    """Make the weights infinite before step 4, so that its loss is not a number."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 3:
            next(p for p in model.parameters() if p.requires_grad).data.fill_(float("inf"))


@pytest.mark.parametrize("spoiler", [Spoil, Break])
def test_a_number_that_is_not_finite_stops_the_run_before_the_next_checkpoint(
    spoiler, rule_table, tmp_path, monkeypatch, capfd
):
    """The loss is logged every step only in short runs; here it would be seen after the checkpoint of step 4."""
    out = tmp_path / "out"
    with_callback(monkeypatch, spoiler())
    plain = TrainingArguments.__post_init__
    monkeypatch.setattr(
        TrainingArguments, "__post_init__", lambda self: (setattr(self, "logging_steps", 50), plain(self))[1]
    )
    assert finetune.main(words(rule_table, out, "--mode", "full", steps=8)) == 2
    said = capfd.readouterr().err
    assert "the loss is no longer a finite number at step 4; lower --learning-rate" in said
    assert "--fp32" not in said and "Traceback" not in said  # it is float32 already
    kept = checkpoints.list_all(out / "checkpoints")
    assert [path.name for path in kept] == ["checkpoint-2"] and checkpoints.is_complete(kept[0])
    assert all(torch.isfinite(weight).all() for weight in load_file(kept[0] / "model.safetensors").values())
    assert not (out / "model").exists() and not (out / "manifest.json").exists()


@pytest.mark.parametrize(("precision", "advice", "never"), [
    ("fp16", "train with --bf16 or --fp32", "--warmup-fraction"), ("bf16", "or train with --fp32", "--bf16"),
    ("fp32", "raise --warmup-fraction", "--fp32"),
])  # fmt: skip
def test_the_advice_fits_the_precision(precision, advice, never):
    settings = settings_of(["--csv", "a", "--out-dir", "b", "--learning-rate", "0.01"])
    said = safeguards.explain(settings.prepare(precision=precision, steps=9), 3)
    assert advice in said and never not in said and "try 0.002" in said


def test_a_process_that_sees_two_gpus_uses_one_and_says_how_to_use_both(tmp_path, capsys):
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    arguments._n_gpu = 2  # as torch.cuda.device_count() has it on two T4
    safeguards.use_one_gpu(arguments)
    assert arguments.n_gpu == 1 and arguments.train_batch_size == 8
    said = capsys.readouterr().err
    assert said.startswith("2 GPUs are visible and one process uses one")
    assert "accelerate launch --multi_gpu --num_processes 2" in said
    safeguards.use_one_gpu(arguments)
    assert capsys.readouterr().err == ""


def test_report_to_takes_every_logger_of_transformers():
    assert set(options.choices_of("report_to")) == {*INTEGRATION_TO_CALLBACK, "none"} == {*safeguards.INSTALL, "none"}


def test_a_logger_that_is_not_installed_is_one_line_with_the_install_command(rule_table, tmp_path, capfd):
    missing = [name for name in ("wandb", "swanlab", "neptune", "clearml") if find_spec(name) is None]
    assert missing
    assert finetune.main(words(rule_table, tmp_path / "out", "--report-to", missing[0])) == 2
    said = capfd.readouterr().err
    assert f"--report-to {missing[0]} needs a package: pip install {safeguards.INSTALL[missing[0]]}" in said
    assert "Traceback" not in said and not (tmp_path / "out").exists()


def test_memory_is_counted_in_bytes_on_macos_and_in_kibibytes_elsewhere(monkeypatch):
    monkeypatch.setattr(resource, "getrusage", lambda who: types.SimpleNamespace(ru_maxrss=3 * 2**20))
    for system, megabytes in (("linux", 3 * 2**10), ("darwin", 3)):
        monkeypatch.setattr(training.sys, "platform", system)
        assert training.peak_memory_mb() == megabytes


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_training_on_an_adapters_folder_continues_the_adapter(rule_table, tmp_path, mode, capfd):
    first = ["--lora-rank", "8", "--lora-alpha", "16"]
    assert finetune.main(words(rule_table, tmp_path / "a", *first, steps=10, save=10)) == 0
    before = json.loads((tmp_path / "a" / "metrics.json").read_text())["best_validation_loss"]
    again = words(rule_table, tmp_path / "b", "--mode", mode, "--learning-rate", "1e-9", "--merge", steps=1, save=1)
    again[again.index("tiny")] = str(tmp_path / "a" / "model")
    capfd.readouterr()
    assert finetune.main(again) == 0
    after = json.loads((tmp_path / "b" / "metrics.json").read_text())
    assert after["best_validation_loss"] == pytest.approx(before, abs=1e-3)
    said = capfd.readouterr().err
    if mode == "full":
        assert "--merge: --mode full trains the whole model" in said and not (tmp_path / "b" / "merged").exists()
        return
    assert "continuing the adapter in" in said and after["settings"]["lora_rank"] == 8
    assert load.root_model(str(tmp_path / "b" / "model")) == "tiny"
    data = ["--csv", str(rule_table), "--target-field", "kind", "--max-rows", "5"]
    assert evaluate_model.main(["--model", str(tmp_path / "b" / "model"), *data, "--out-dir", str(tmp_path / "e")]) == 0
    assert finetune.main([*again, "--force", "--lora-rank", "4"]) == 2
    assert "--lora-rank 4: the adapter in" in capfd.readouterr().err


def test_an_adapter_names_its_base_model_by_its_hub_name(tmp_path):
    base = tmp_path / load.BASE_FILE
    (tmp_path / load.ADAPTER_CONFIG).write_text('{"base_model_name_or_path": "google/gemma-3-270m"}')
    base.write_text('{"base_model": "embedded", "hub_name": "google/gemma-3-270m"}')
    assert (load.root_model(str(tmp_path)), load.hub_name(str(tmp_path))) == ("embedded", "google/gemma-3-270m")
    base.write_text('{"base_model": "gone/folder/x", "hub_name": "google/gemma-3-270m"}')
    assert load.root_model(str(tmp_path)) == "google/gemma-3-270m"
    base.unlink()
    assert load.root_model(str(tmp_path)) == "google/gemma-3-270m"
    assert load.hub_name("tiny") is None and load.hub_name("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
