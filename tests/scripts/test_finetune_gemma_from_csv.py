"""finetune_gemma_from_csv.py: every mode trains and saves a complete model; a wrong command is a one-line error."""

import functools
import json
import os

import finetune_gemma_from_csv as finetune
import pytest
import torch
from linklab import files
from linklab.manifest import read_manifest
from linklab.models import load
from linklab.training import results, safeguards
from rule_table import train_on_rule
from training_runs import MODES, PROMPT, WEIGHTS, settings_of, words


@pytest.fixture(scope="module")
def trained(rule_table, tmp_path_factory):
    """A function mode -> (folder, answers of the model just before it was saved); it trains each mode once."""
    plain_finish = results.finish

    @functools.cache
    def train(mode):
        said = {}

        def finish(settings, folder, task, trainer, tokenizer, *rest, **named):
            model = trainer.model.eval()
            ids = tokenizer.apply_chat_template(
                [{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )["input_ids"]
            with torch.inference_mode():
                said["logits"] = model(input_ids=ids).logits.clone()
                said["written"] = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False)[
                    0, ids.shape[1] :
                ].tolist()
            plain_finish(settings, folder, task, trainer, tokenizer, *rest, **named)

        out = tmp_path_factory.mktemp("trained") / mode
        results.finish = finish
        try:
            merge = [] if mode == "full" else ["--merge"]
            assert finetune.main(words(rule_table, out, "--mode", mode, *merge, steps=6)) == 0
        finally:
            results.finish = plain_finish
        return out, said

    return train


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_trains_and_its_model_says_the_same_in_a_fresh_process(mode, trained, start_process, tmp_path):
    folder, said = trained(mode)
    losses = json.loads((folder / "metrics.json").read_text())
    untrained = load.load_model("tiny").eval()
    ids = torch.tensor([load.load_tokenizer("tiny")("x")["input_ids"]])
    process, log = start_process(
        "plain_reload", "reload_and_answer", str(folder / "model"), mode, PROMPT, str(tmp_path / "a")
    )
    process.join(120)
    assert process.exitcode == 0, log.read_text()[-2000:]
    again = torch.load(tmp_path / "a")
    torch.testing.assert_close(again["logits"], said["logits"], atol=1e-5, rtol=1e-5)
    assert again["written"] == said["written"]
    assert again["tied"]
    assert losses["mode"] == mode and losses["steps"] == 6
    with torch.inference_mode():  # and training changed it
        before = untrained(input_ids=torch.tensor(again["ids"])).logits
        assert (before - again["logits"]).abs().max() > 0.05
        assert ids.shape[0] == 1


@pytest.mark.parametrize("mode", ["lora", "qlora"])
def test_a_merged_model_is_complete_and_answers_like_base_and_adapter(mode, trained, start_process, tmp_path):
    folder, said = trained(mode)
    assert not (folder / "merged" / "adapter_config.json").exists()
    process, log = start_process(
        "plain_reload", "reload_and_answer", str(folder / "merged"), "full", PROMPT, str(tmp_path / "a")
    )
    process.join(120)
    assert process.exitcode == 0, log.read_text()[-2000:]
    again = torch.load(tmp_path / "a")
    if mode == "qlora":  # the adapter is added into the base model before NF4 rounding
        from peft import AutoPeftModelForCausalLM

        whole = AutoPeftModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
        with torch.inference_mode():
            expected = whole(input_ids=torch.tensor(again["ids"])).logits
    else:
        expected = said["logits"]
    torch.testing.assert_close(again["logits"], expected, atol=1e-4, rtol=1e-4)
    assert again["tied"]
    assert files.read_json(folder / "merged" / "task.json") == files.read_json(folder / "model" / "task.json")


def test_a_run_leaves_every_file_a_reader_expects_and_its_manifest_lists_them(trained):
    folder, _ = trained("lora")
    manifest = read_manifest(folder)
    listed = {entry["path"] for entry in manifest["outputs"]}
    names = ["adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "task.json", "inputs.json"]
    expected = [f"model/{name}" for name in names] + ["metrics.json", "trainer_log.csv", "loss.png", "README.md"]
    mask = os.umask(0)
    os.umask(mask)
    for name in [*expected, "merged/model.safetensors"]:
        assert name in listed
        assert (folder / name).stat().st_mode & 0o777 == 0o666 & ~mask, name  # safetensors makes its files private
        assert (folder / name).stat().st_size > 0
    assert "chat_template" in "".join(name for name in listed if name.startswith("model/"))
    assert (folder / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    log = (folder / "trainer_log.csv").read_text().splitlines()
    assert log[0].startswith("step,epoch,train_loss,validation_loss")
    assert [line.split(",")[0] for line in log[1:]] == ["1", "2", "3", "4", "5", "6"]
    for column in (3, -1):  # validation loss and accuracy
        assert [bool(line.split(",")[column]) for line in log[1:]] == [False, True, False, True, False, True]
    (events,) = (folder / "tensorboard").iterdir()
    assert f"tensorboard/{events.name}" in listed
    assert all(name in events.read_bytes() for name in (b"train/loss", b"eval/loss", b"eval/accuracy"))
    scores = json.loads((folder / "metrics.json").read_text())
    for card in (folder / "README.md", folder / "model" / "README.md", folder / "merged" / "README.md"):
        text = card.read_text()
        for part in ("license: gemma", "subject to the Gemma Terms of Use", "animal: {animal}",
                     "| learning_rate | 0.003 |", f"validation loss {scores['best_validation_loss']:.4f}",
                     f"step {scores['best_step']}",
                     scores["hashes"]["prompts"], scores["hashes"]["labels"],
                     manifest["inputs"][0]["sha256"]):  # fmt: skip
            assert part in text, f"{card}: {part}"


def test_a_csv_and_its_conversations_train_the_same_weights(rule_table, tmp_path):
    import convert_csv_to_jsonl

    jsonl = tmp_path / "jsonl"
    assert convert_csv_to_jsonl.main(["--csv", str(rule_table), "--target-field", "kind", "--out-dir", str(jsonl)]) == 0
    assert finetune.main(words(rule_table, tmp_path / "a", steps=2)) == 0
    command = words(rule_table, tmp_path / "b", steps=2)
    del command[2:4]  # the folder records its target
    command[:2] = ["--data", str(jsonl)]
    assert finetune.main(command) == 0
    first, second = (files.sha256_file(tmp_path / name / "model" / WEIGHTS["lora"]) for name in "ab")
    assert first == second
    assert finetune.main([*words(rule_table, tmp_path / "c", steps=2), "--seed", "1"]) == 0
    assert files.sha256_file(tmp_path / "c" / "model" / WEIGHTS["lora"]) != first


def test_a_dry_run_prints_the_plan_and_writes_nothing(rule_table, tmp_path, capfd, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "torch"))  # torch creates it at the first use
    monkeypatch.chdir(scratch)
    assert finetune.main(words(rule_table, tmp_path / "out", "--dry-run", "--mode", "full")) == 0
    assert not (tmp_path / "out").exists() and list(scratch.iterdir()) == []
    told = capfd.readouterr().err
    for part in ("rows in all: 319 training, 44 validation, 37 test", "precision: fp32",
                 "rows: 32 training, 8 validation", "tokens per row: median 37, 95 % 37, longest 37",
                 "above --max-length 512: none", "276,192 of 276,192 parameters trained", "4 steps of 4 rows",
                 "set: --csv", "chosen: --lora-rank 16", "--fp32 (the tiny model", "--warmup-fraction 0.05 (0 steps)",
                 "--eval-steps 2, ", "a step of 146 tokens",
                 "time: about", ", validation ", ", checkpoints ", "MB at the peak, of",
                 "(2 checkpoints of 3 MB, the model 36 MB)", "stopped before training"):  # fmt: skip
        assert part in told


def test_float16_is_used_on_demand_only_and_with_a_warning(rule_table, tmp_path, capfd):
    assert finetune.main(words(rule_table, tmp_path / "out", "--dry-run", "--fp16")) == 0
    assert "warning: Gemma 3's activations exceed float16's 65,504" in capfd.readouterr().err
    assert finetune.main(words(rule_table, tmp_path / "out", "--dry-run")) == 0
    assert "exceed float16" not in capfd.readouterr().err


def test_the_tiny_model_learns_the_rule(taught_rule):
    assert taught_rule["accuracy"] >= 0.95


def test_the_tiny_model_learns_nothing_from_shuffled_labels(tmp_path):
    """Guards the test above: without the rule, the same training must fail it."""
    assert train_on_rule(tmp_path, shuffled=True)["accuracy"] < 0.7


REFUSED = [
    (["--max-length", "30"], "32 of 32 training rows have more than --max-length 30 tokens (first: "),
    (["--per-device-batch-size", "64"], "32 training rows for a batch of 64"),
    (["--save-steps", "3", "--eval-steps", "2"], "--save-steps 3 is not a multiple of --eval-steps 2"),
    (["--lora-targets", "nothing_proj"], "--lora-targets nothing_proj"),
    (["--base-model", "./nowhere"], "./nowhere: no such model folder"),
    (["--target-field", "colour"], "no column 'colour'; the columns are: animal, code, kind"),
    (["--csv", "nowhere.csv"], "nowhere.csv: no such file"),
    (["--seed", "-1"], "--seed"),
    (["--resume", "nowhere"], "nowhere: incomplete checkpoint"),
]


@pytest.mark.parametrize("wrong, said", REFUSED, ids=[" ".join(wrong) for wrong, _ in REFUSED])
def test_an_impossible_training_is_one_clear_line_and_exit_code_2(rule_table, tmp_path, capfd, wrong, said):
    out = tmp_path / "out"
    assert finetune.main([*words(rule_table, out), *wrong]) == 2
    told = capfd.readouterr().err
    assert said in told and "Traceback" not in told
    assert not (out / "model").exists()


def test_fsdp_is_refused_before_anything_is_loaded_also_if_accelerate_would_ignore_it(
    rule_table, tmp_path, capfd, monkeypatch
):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # what `accelerate launch --use_fsdp` sets
    assert finetune.main(words(rule_table, tmp_path / "out")) == 2
    assert "launch without FSDP" in capfd.readouterr().err and not (tmp_path / "out").exists()


def test_out_of_memory_says_what_to_lower_and_by_how_much():
    settings = settings_of(
        ["--csv", "a", "--out-dir", "b", "--per-device-batch-size", "8", "--gradient-accumulation-steps", "2"]
    )
    lower = "--per-device-batch-size 4 --gradient-accumulation-steps 4,"
    with pytest.raises(finetune.UserError, match=lower), safeguards.explained_failures(settings):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    least = ["--csv", "a", "--out-dir", "b", "--per-device-batch-size", "1", "--gradient-checkpointing"]
    for more, lower in (["--mode", "full"], "use --mode lora;"), ([], "use shorter rows and --max-length 256;"):
        settings = settings_of([*least, *more])
        with pytest.raises(finetune.UserError, match=lower), safeguards.explained_failures(settings):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
    with pytest.raises(finetune.UserError, match="no space left on the disk"), safeguards.explained_failures(settings):
        raise OSError(28, "No space left on device")
