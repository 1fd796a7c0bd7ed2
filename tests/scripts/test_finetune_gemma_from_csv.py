"""finetune_gemma_from_csv.py: what is trained is saved, a stop loses nothing, nothing is overwritten unasked."""

import contextlib
import csv
import functools
import gc
import json
import os
import random
import shutil
import signal
import time

import finetune_gemma_from_csv as finetune
import pytest
import torch
from conftest import train_on_rule
from linklab import files, locks
from linklab.manifest import MANIFEST, NEW, find_changed, read_manifest
from linklab.models import load
from linklab.training import answer_loss, cost_estimate, options, results

WEIGHTS = {"full": "model.safetensors", "lora": "adapter_model.safetensors", "qlora": "adapter_model.safetensors"}
PROMPT = "animal: eel\ncode: 512"


@pytest.fixture(scope="module", autouse=True)
def imported_things_are_not_garbage(rule_table, tmp_path_factory, plots_drawn_once):
    """Every training collects garbage, a third of a second over all that torch imports, and finds nothing."""
    assert finetune.main(words(rule_table, tmp_path_factory.mktemp("first") / "out", steps=1, save=1)) == 0
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


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


@pytest.fixture(scope="module")
def trained(rule_table, tmp_path_factory):
    """Train a mode once; returns a function mode -> (folder, what the model said just before it was saved)."""
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


def validation_losses(out):
    with open(out / "trainer_log.csv") as handle:
        return {row["step"]: float(row["validation_loss"]) for row in csv.DictReader(handle) if row["validation_loss"]}


MODES = ["full", "lora", "qlora"]


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
def test_a_merged_model_is_whole_and_says_what_base_and_adapter_say(mode, trained, start_process, tmp_path):
    folder, said = trained(mode)
    assert not (folder / "merged" / "adapter_config.json").exists()
    process, log = start_process(
        "plain_reload", "reload_and_answer", str(folder / "merged"), "full", PROMPT, str(tmp_path / "a")
    )
    process.join(120)
    assert process.exitcode == 0, log.read_text()[-2000:]
    again = torch.load(tmp_path / "a")
    if mode == "qlora":  # the adapter is added into the base as it was before NF4 rounded it
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
    for name in [*expected, "merged/model.safetensors"]:
        assert name in listed
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


def test_the_validation_loss_is_the_mean_over_answer_tokens(rule_table, tmp_path):
    """`insect` has more tokens than `fish`: the mean of three batches' means would be another number."""
    from linklab.tasks import examples
    from linklab.tasks.task import make_task

    out = tmp_path / "out"
    command = words(rule_table, out, "--mode", "full", "--validation-rows", "20", steps=2, save=1)
    assert finetune.main(command) == 0
    tokenizer = load.load_tokenizer(str(out / "model"))
    rows = examples.read_examples(rule_table, make_task(rule_table, ["kind"]), "validation", 20)
    assert len({row.answer for row in rows}) > 1
    logged = validation_losses(out)
    for step in ("1", "2"):
        model = load.load_model(str(out / "checkpoints" / f"checkpoint-{step}")).eval()
        losses = []
        for item in answer_loss.EncodedExamples(rows, tokenizer, 512).items:
            ids = torch.tensor([item["input_ids"]])
            with torch.inference_mode():
                scores = torch.log_softmax(model(input_ids=ids).logits[0, :-1].double(), dim=-1)
            losses += scores[torch.arange(ids.shape[1] - 1), ids[0, 1:]][item["answers"][0][0] - 1 :].neg().tolist()
        assert logged[step] == pytest.approx(sum(losses) / len(losses), abs=1e-5)


@pytest.fixture
def worse_after_step_5(monkeypatch):
    """Make validation losses after step 5 worse than they are, so that the last weights are not the best ones."""
    from linklab.training import training

    plain = training.make_trainer

    def make_trainer(*parts):
        trainer = plain(*parts)
        step = trainer.prediction_step

        def prediction_step(*args, **kwargs):
            loss, *rest = step(*args, **kwargs)
            return loss + 9 * (trainer.state.global_step > 5), *rest

        trainer.prediction_step = prediction_step
        return trainer

    monkeypatch.setattr(training, "make_trainer", make_trainer)


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_weights_saved_are_those_of_the_best_validation_loss(rule_table, tmp_path, worse_after_step_5):
    out = tmp_path / "out"
    assert finetune.main(words(rule_table, out, "--mode", "full", steps=8, save=1)) == 0
    losses = {int(step): loss for step, loss in validation_losses(out).items()}
    best = min(losses, key=losses.get)
    assert best <= 5 and losses[8] > 9
    saved = weights_of(out / "model")
    assert same(saved, weights_of(out / "checkpoints" / f"checkpoint-{best}"))
    assert not same(saved, weights_of(out / "checkpoints" / "checkpoint-8"))
    assert json.loads((out / "metrics.json").read_text())["best_validation_loss"] == pytest.approx(
        losses[best], rel=1e-5
    )


def test_the_best_weights_are_kept_when_no_checkpoint_is_due(rule_table, tmp_path, worse_after_step_5):
    out = tmp_path / "out"
    assert finetune.main([*words(rule_table, out, "--mode", "full", steps=8, save=8), "--eval-steps", "1"]) == 0
    losses = {int(step): loss for step, loss in validation_losses(out).items()}
    best = min(losses, key=losses.get)
    assert best <= 5
    assert same(weights_of(out / "model"), weights_of(out / "checkpoints" / f"checkpoint-{best}"))
    scores = json.loads((out / "metrics.json").read_text())
    assert scores["best_validation_loss"] == pytest.approx(losses[best], rel=1e-5) and scores["best_step"] == best


def test_the_last_weights_are_judged_too(rule_table, tmp_path):
    out = tmp_path / "out"
    assert finetune.main(words(rule_table, out, steps=5, save=2)) == 0
    assert list(validation_losses(out)) == ["2", "4", "5"]
    assert json.loads((out / "metrics.json").read_text())["best_step"] == 5  # losses fall


def test_the_best_weights_may_be_chosen_by_accuracy(rule_table, tmp_path, monkeypatch, capfd):
    """Losses fall to the end, and accuracy is made to be best in the middle; patience goes by it too."""
    from linklab.training import validation_scores

    rights = iter([1, 5, 5, 4])
    monkeypatch.setattr(validation_scores, "count_right", lambda logits, labels, judged: torch.tensor(next(rights)))
    command = words(
        rule_table, tmp_path / "out", "--mode", "full", "--best-by", "accuracy", "--patience", "2", steps=12
    )
    assert finetune.main(command) == 0
    scores = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (scores["best_step"], scores["validation_accuracy"], scores["steps"]) == (4, 5 / 8, 8)
    losses = validation_losses(tmp_path / "out")
    assert scores["best_validation_loss"] == pytest.approx(losses["4"], rel=1e-5) and losses["4"] > losses["8"]
    weights = weights_of(tmp_path / "out" / "model")
    assert same(weights, weights_of(tmp_path / "out" / "checkpoints" / "checkpoint-4"))
    assert "accuracy 62.5 %" in capfd.readouterr().err


def test_accuracy_cannot_choose_where_the_answer_is_a_number(small_links, tmp_path, capfd):
    command = words(small_links / "links.csv", tmp_path / "out", "--best-by", "accuracy")
    command[command.index("kind")] = "expected_throughput_mbps"
    assert finetune.main(command) == 2
    told = capfd.readouterr().err
    assert "--best-by accuracy needs a class as first target; 'expected_throughput_mbps' is a number" in told


@pytest.mark.parametrize("best_is_gone", [False, True])
def test_the_best_checkpoint_is_found_where_the_folder_was_moved_to_and_missed_aloud(
    rule_table, tmp_path, worse_after_step_5, monkeypatch, capfd, best_is_gone
):
    from linklab.training import training

    command = words(rule_table, tmp_path / "before", "--mode", "full", steps=8, save=1)
    with stopping_before(training, monkeypatch, 7):
        assert finetune.main(command) == 128 + signal.SIGTERM
    losses = {int(step): loss for step, loss in validation_losses(tmp_path / "before").items()}
    best = min(losses, key=losses.get)
    assert best <= 5
    out = (tmp_path / "before").rename(tmp_path / "after")
    if best_is_gone:
        shutil.rmtree(out / "checkpoints" / f"checkpoint-{best}")
    command[command.index(str(tmp_path / "before"))] = str(out)
    assert finetune.main([*command, "--resume", "auto"]) == 0
    told = "the best checkpoint so far is not there any more" in capfd.readouterr().err
    assert told == best_is_gone
    kept = 8 if best_is_gone else best  # losses fall, so the last of those to come is the best of them
    assert same(weights_of(out / "model"), weights_of(out / "checkpoints" / f"checkpoint-{kept}"))


def test_one_row_accumulated_eight_times_trains_as_a_batch_of_eight(rule_table, tmp_path):
    from safetensors.torch import load_file

    logs, weights = [], []
    for name, batch, accumulation in (("a", "8", "1"), ("b", "1", "8")):
        out = tmp_path / name
        how = ["--mode", "full", "--per-device-batch-size", batch, "--gradient-accumulation-steps", accumulation]
        assert finetune.main([*words(rule_table, out, steps=3, save=3), *how]) == 0
        log = [line.split(",") for line in (out / "trainer_log.csv").read_text().splitlines()[1:]]
        logs.append([float(cell) for line in log for cell in (line[2], line[5])])  # training loss, gradient norm
        weights.append(load_file(out / "model" / "model.safetensors"))
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=2e-4, rtol=0, msg=name)


@pytest.mark.parametrize("mode", MODES)
def test_a_validation_loss_in_between_does_not_change_the_gradients_that_follow(mode):
    """bitsandbytes repacks 4-bit weights in evaluation; training on them afterwards would lose gradients in silence."""
    from linklab.training import training

    asked = ["--csv", "a", "--out-dir", "b", "--base-model", "tiny", "--mode", mode]
    with load.quiet_transformers():
        model = training.build_model(settings_of(asked).prepare(precision="fp32", steps=10))
    numbers = torch.Generator().manual_seed(0)
    ids = torch.randint(6, 200, (2, 20), generator=numbers)
    labels = ids.masked_fill(torch.arange(20) < 12, answer_loss.IGNORED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02, generator=numbers)

    def gradients():
        model.train().zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    before = gradients()
    model.eval()
    with torch.inference_mode():
        model(input_ids=ids, labels=labels)
    after = gradients()
    assert before.keys() == after.keys()
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_a_csv_and_its_conversations_train_the_same_weights(rule_table, tmp_path):
    import convert_csv_to_jsonl

    jsonl = tmp_path / "jsonl"
    assert convert_csv_to_jsonl.main(["--csv", str(rule_table), "--target-field", "kind", "--out-dir", str(jsonl)]) == 0
    assert finetune.main(words(rule_table, tmp_path / "a", steps=2)) == 0
    command = words(rule_table, tmp_path / "b", steps=2)
    del command[2:4]  # the folder knows its target
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
    monkeypatch.chdir(scratch)
    assert finetune.main(words(rule_table, tmp_path / "out", "--dry-run", "--mode", "full")) == 0
    assert not (tmp_path / "out").exists() and list(scratch.iterdir()) == []
    told = capfd.readouterr().err
    for part in ("rows in all: 319 training, 44 validation, 37 test", "precision: fp32",
                 "rows: 32 training, 8 validation", "tokens a row: median 37, 95 % 37, longest 37",
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
    assert "warning" not in capfd.readouterr().err


def test_the_tiny_model_learns_the_rule(taught_rule):
    assert taught_rule["accuracy"] >= 0.95


def test_it_learns_nothing_from_shuffled_labels(tmp_path):
    """The guard of the test above: with the rule broken the same training must fail it."""
    assert train_on_rule(tmp_path, shuffled=True)["accuracy"] < 0.7


# Several processes


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("mode", [pytest.param("full", marks=pytest.mark.slow), "lora"])
def test_two_processes_train_as_one(mode, rule_table, tmp_path, start_process):
    """Two times two rows are one time four: the same losses, gradients and weights but for the order of additions.

    Seven validation rows do not part evenly. The run continues from a checkpoint of the two, too.
    """
    command = words(rule_table, tmp_path / "one", "--mode", mode, "--validation-rows", "7", steps=10)
    assert finetune.main(command) == 0
    command[command.index(str(tmp_path / "one"))] = str(tmp_path / "two")
    command[command.index("--per-device-batch-size") + 1] = "2"

    def run_two(*more):
        port = free_port()
        runs = [start_process("one_of_two", "train", rank, port, [*command, *more]) for rank in (0, 1)]
        for process, _ in runs:
            process.join(900)  # what hangs, not what is slow
        for process, log in runs:
            assert process.exitcode == 0, log.read_text()[-2000:]
        return [log.read_text() for _, log in runs]

    def assert_same_as_one():
        logs = [(tmp_path / name / "trainer_log.csv").read_text().splitlines() for name in ("one", "two")]
        one, two = (list(csv.DictReader(log)) for log in logs)
        assert len(one) == 10
        for first, second in zip(one, two, strict=True):
            for field in first.keys() - {"grad_norm"}:
                assert first[field] == second[field] or float(first[field]) == pytest.approx(
                    float(second[field]), abs=2e-4
                ), f"step {first['step']}: {field}"
            assert float(first["grad_norm"]) == pytest.approx(float(second["grad_norm"]), rel=1e-2)
        file = WEIGHTS[mode]
        one, two = (load_file(tmp_path / name / "model" / file) for name in ("one", "two"))
        for name in one:
            torch.testing.assert_close(one[name], two[name], atol=2e-3, rtol=0, msg=name)

    from safetensors.torch import load_file

    first, second = run_two()
    assert "10 steps of 4 rows" in first and "validation loss" not in second  # one of them speaks
    assert_same_as_one()
    if mode == "lora":
        shutil.rmtree(tmp_path / "two" / "checkpoints" / "checkpoint-10")
        unfinish(tmp_path / "two")
        assert "continuing from" in run_two("--resume", "auto")[0]
        assert_same_as_one()


# Stopping and continuing


STOPPABLE = ["--mode", "lora", "--lora-dropout", "0.1"]  # dropout: the random state must be continued too
STEPS = 24  # three passes over 32 rows, so that runs also stop and continue inside the second and third


@pytest.fixture(scope="module")
def uninterrupted(rule_table, tmp_path_factory, start_process):
    """A run nobody stopped: (its folder, the seconds it took)."""
    out = tmp_path_factory.mktemp("whole") / "out"
    started = time.monotonic()
    process, log = start_process(
        "finetune_gemma_from_csv", "main", words(rule_table, out, *STOPPABLE, steps=STEPS, save=3)
    )
    process.join(900)  # what hangs, not what is slow
    assert process.exitcode == 0, log.read_text()[-2000:]
    return out, time.monotonic() - started


def assert_same_result(out, expected):
    """Weights, and every logged loss, bit by bit."""
    assert (out / "trainer_log.csv").read_text() == (expected / "trainer_log.csv").read_text()
    assert files.sha256_file(out / "model" / WEIGHTS["lora"]) == files.sha256_file(expected / "model" / WEIGHTS["lora"])


def wait_for(condition, process, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)


def test_sigterm_writes_a_checkpoint_and_the_run_that_continues_ends_the_same(
    rule_table, tmp_path, start_process, uninterrupted
):
    """The folder is moved in between, as when a drive is mounted elsewhere."""
    first, out = tmp_path / "first", tmp_path / "moved"
    process, log = start_process(
        "finetune_gemma_from_csv", "main", words(rule_table, first, *STOPPABLE, steps=STEPS, save=3)
    )
    wait_for(lambda: (first / "checkpoints" / "checkpoint-6").exists(), process)
    process.terminate()
    process.join(60)
    told = log.read_text()
    assert process.exitcode == 128 + signal.SIGTERM, told[-2000:]
    assert "SIGTERM: finishing this step and writing a checkpoint" in told and "--resume auto" in told
    from linklab.training import checkpoints

    newest, torn = checkpoints.find_last_whole(first / "checkpoints")
    assert newest is not None and torn == [] and 6 <= checkpoints.steps_of(newest) < STEPS
    assert f"stopped at step {checkpoints.steps_of(newest)};" in told
    assert not (first / MANIFEST).exists()
    first.rename(out)
    made = out / "checkpoints" / newest.name
    window = files.read_json(made / "loss_window.json") | {"seconds": 5000.0}  # as if it had taken so long until here
    files.write_json(made / "loss_window.json", window, force=True)
    checkpoints.mark_complete(made, files.read_json(made / checkpoints.COMPLETE)["settings"])
    assert finetune.main(words(rule_table, out, *STOPPABLE, "--resume", "auto", steps=STEPS, save=3)) == 0
    assert_same_result(out, uninterrupted[0])
    assert files.read_json(out / "metrics.json")["seconds"] > 5000


@contextlib.contextmanager
def stopping_before(training, monkeypatch, step):
    """Let SIGTERM come while this step is computed."""
    from transformers import TrainerCallback

    plain = training.make_callbacks

    class StopHere(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == step - 1:
                signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(training, "make_callbacks", lambda steps, options: [*plain(steps, options), StopHere()])
        yield


@pytest.mark.parametrize("stop_at", [5, 6])
def test_a_stop_on_a_validation_step_or_beside_one_loses_no_logged_loss(
    rule_table, tmp_path, uninterrupted, stop_at, monkeypatch
):
    """Step 6 takes a validation loss; step 5 does not."""
    from linklab.training import training

    command = words(rule_table, tmp_path / "out", *STOPPABLE, steps=STEPS, save=3)
    with stopping_before(training, monkeypatch, stop_at):
        assert finetune.main(command) == 128 + signal.SIGTERM
    assert finetune.main([*command, "--resume", "auto"]) == 0
    assert_same_result(tmp_path / "out", uninterrupted[0])


def test_a_stop_between_two_logged_losses_loses_nothing_of_the_second(rule_table, tmp_path, monkeypatch):
    """Forty steps log every second one; the stop at step 15 falls between two."""
    from linklab.training import training

    command = words(rule_table, tmp_path / "a", steps=40, save=20)
    assert finetune.main(command) == 0
    steps = [line.split(",")[0] for line in (tmp_path / "a" / "trainer_log.csv").read_text().splitlines()[1:]]
    assert steps == [str(step) for step in range(2, 41, 2)]
    command[command.index(str(tmp_path / "a"))] = str(tmp_path / "b")
    with stopping_before(training, monkeypatch, 15):
        assert finetune.main(command) == 128 + signal.SIGTERM
    assert finetune.main([*command, "--resume", "auto"]) == 0
    assert_same_result(tmp_path / "b", tmp_path / "a")


def unfinish(out):
    """Leave what a run has left that was killed after its last checkpoint."""
    for name in ("model", "metrics.json", "trainer_log.csv", "loss.png", "README.md", MANIFEST):
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def kill_and_continue(rule_table, out, start_process, moments):
    """Kill a run at each of these seconds after its start, continue it each time, and at last let it finish."""
    command = words(rule_table, out, *STOPPABLE, "--resume", "auto", steps=STEPS, save=3)
    reached = []
    for moment in moments:
        process, _ = start_process("finetune_gemma_from_csv", "main", command)
        process.join(moment)
        process.kill()
        process.join(60)
        reached.append(len(list((out / "checkpoints").glob("*"))) if (out / "checkpoints").exists() else 0)
    process, log = start_process("finetune_gemma_from_csv", "main", command)
    process.join(900)  # what hangs, not what is slow
    assert process.exitcode == 0, log.read_text()[-2000:]
    return reached


def test_a_run_killed_at_random_moments_ends_the_same(rule_table, tmp_path, start_process, uninterrupted):
    whole, seconds = uninterrupted
    rng = random.Random(4)
    moments = [rng.uniform(0.5, 1.0) * seconds for _ in range(2)]
    kill_and_continue(rule_table, tmp_path / "out", start_process, moments)
    assert_same_result(tmp_path / "out", whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_run_killed_at_one_of_twenty_random_moments_ends_the_same(
    rule_table, tmp_path, start_process, uninterrupted, seed
):
    whole, seconds = uninterrupted
    kill_and_continue(rule_table, tmp_path / "out", start_process, [random.Random(seed).uniform(0, 1) * seconds])
    assert_same_result(tmp_path / "out", whole)


def test_a_torn_checkpoint_is_named_left_out_and_the_one_before_continued(rule_table, tmp_path, uninterrupted, capfd):
    out = tmp_path / "out"
    shutil.copytree(uninterrupted[0], out)
    unfinish(out)
    newest = max((out / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    content = bytearray((newest / "optimizer.pt").read_bytes())
    content[100] ^= 1
    (newest / "optimizer.pt").write_bytes(content)
    assert finetune.main(words(rule_table, out, *STOPPABLE, "--resume", "auto", steps=STEPS, save=3)) == 0
    told = capfd.readouterr().err
    assert f"{newest}: incomplete checkpoint" in told and "continuing from" in told
    assert_same_result(out, uninterrupted[0])


def test_a_run_whose_machine_is_gone_continues_from_its_drive(rule_table, tmp_path, uninterrupted, monkeypatch, capfd):
    from linklab.training import checkpoints, training

    drive, out = tmp_path / "drive", tmp_path / "out"
    command = words(rule_table, out, *STOPPABLE, "--drive-dir", str(drive), "--resume", "auto", steps=STEPS, save=3)
    with stopping_before(training, monkeypatch, 8):
        assert finetune.main(command) == 128 + signal.SIGTERM
    there = {path.name: tree(path) for path in checkpoints.list_all(drive)}
    assert there == {path.name: tree(path) for path in checkpoints.list_all(out / "checkpoints")}
    assert list(there) == ["checkpoint-6", "checkpoint-8"]
    shutil.rmtree(out)
    assert finetune.main(command) == 0
    assert "bringing checkpoint-8 back from" in capfd.readouterr().err
    assert_same_result(out, uninterrupted[0])
    assert [path.name for path in checkpoints.list_all(drive)] == ["checkpoint-21", "checkpoint-24"]
    command.remove("--resume")
    command.remove("auto")
    command[command.index(str(out))] = str(tmp_path / "another")
    assert finetune.main(command) == 2
    assert f"{drive}: holds checkpoints of a training already" in capfd.readouterr().err


@pytest.mark.parametrize("room", [200_000, 400_000])  # none for the adapter, none for the optimizer
def test_a_full_disk_is_named_and_the_run_continues_where_there_is_room_again(
    rule_table, tmp_path, uninterrupted, monkeypatch, capfd, room
):
    """No file may grow beyond `room` bytes from step 7 on: what a write meets is what it meets on a full disk."""
    import resource

    from linklab.training import checkpoints, training
    from transformers import TrainerCallback

    plain, before = training.make_callbacks, resource.getrlimit(resource.RLIMIT_FSIZE)

    class FillDisk(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 7:
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))

    out = tmp_path / "out"
    command = words(rule_table, out, *STOPPABLE, "--report-to", "none", steps=STEPS, save=3)
    with monkeypatch.context() as patch:
        patch.setattr(training, "make_callbacks", lambda steps, options: [*plain(steps, options), FillDisk()])
        try:
            code = finetune.main(command)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    told = capfd.readouterr().err
    assert code == 2, told
    assert "no space left on the disk; free some or choose another --out-dir, then run again with --resume auto" in told
    newest, torn = checkpoints.find_last_whole(out / "checkpoints")
    assert newest.name == "checkpoint-6" and [path.name for path in torn] == ["checkpoint-9"]
    assert finetune.main([*command, "--resume", "auto"]) == 0
    assert_same_result(out, uninterrupted[0])


def test_a_finished_run_is_not_run_again(rule_table, tmp_path, capfd):
    command = words(rule_table, tmp_path / "out", "--resume", "auto", steps=1, save=1)
    assert finetune.main(command) == 0
    before = tree(tmp_path / "out")
    assert finetune.main(command) == 0
    assert "finished already; nothing to do" in capfd.readouterr().err
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("steps", [6, 8])
def test_a_run_killed_after_its_last_step_adds_none_when_it_is_continued(rule_table, tmp_path, steps):
    """Six steps end inside the first pass over the rows, eight at its end. The rate never falls: a step would show."""
    command = words(
        rule_table, tmp_path / "out", "--mode", "full", "--lr-schedule", "constant_with_warmup", steps=steps
    )
    assert finetune.main(command) == 0
    log = (tmp_path / "out" / "trainer_log.csv").read_text()
    weights = files.sha256_file(tmp_path / "out" / "model" / WEIGHTS["full"])
    unfinish(tmp_path / "out")
    assert finetune.main([*command, "--resume", "auto"]) == 0
    assert (tmp_path / "out" / "trainer_log.csv").read_text() == log
    assert files.sha256_file(tmp_path / "out" / "model" / WEIGHTS["full"]) == weights
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["steps"] == steps


def test_patience_is_counted_over_a_stop(rule_table, tmp_path, monkeypatch):
    """A learning rate too small to better the loss that is logged: patience ends the run, stopped before or not."""
    from linklab.training import training

    rate = ["--mode", "full", "--learning-rate", "1e-30", "--patience", "3"]
    command = words(rule_table, tmp_path / "a", *rate, steps=12, save=1)
    assert finetune.main(command) == 0
    assert len(validation_losses(tmp_path / "a")) == 4  # the first, and three that were no better
    command[command.index(str(tmp_path / "a"))] = str(tmp_path / "b")
    with stopping_before(training, monkeypatch, 3):
        assert finetune.main(command) == 128 + signal.SIGTERM
    assert finetune.main([*command, "--resume", "auto"]) == 0
    unfinish(tmp_path / "b")
    assert finetune.main([*command, "--resume", "auto"]) == 0  # and it stays ended
    assert (tmp_path / "a" / "trainer_log.csv").read_text() == (tmp_path / "b" / "trainer_log.csv").read_text()


@pytest.mark.parametrize("difference, named", [
    (["--learning-rate", "1e-3"], "learning_rate = 0.003, and now it is 0.001"),
    (["--lora-rank", "8"], "lora_rank = 16, and now it is 8"),
    (["--seed", "5"], "seed = 0, and now it is 5"),
    (["--max-rows", "31"], "labels = "),
    (["--best-by", "accuracy"], "best_by = 'loss', and now it is 'accuracy'"),
])  # fmt: skip
def test_a_checkpoint_is_not_continued_with_something_else(
    rule_table, tmp_path, uninterrupted, capfd, difference, named
):
    out = tmp_path / "out"
    shutil.copytree(uninterrupted[0], out)
    before = tree(out)
    command = words(rule_table, out, *STOPPABLE, "--resume", "auto", steps=STEPS, save=3)
    assert finetune.main([*command, *difference]) == 2
    told = capfd.readouterr().err
    assert named in told and "start afresh with --force" in told
    assert {name: value for name, value in tree(out).items() if name != ".lock"} == {
        name: value for name, value in before.items() if name != ".lock"
    }


def test_a_second_training_in_one_folder_is_refused_while_the_first_one_runs(rule_table, tmp_path, monkeypatch, capfd):
    out = tmp_path / "out"
    out.mkdir()
    plain = locks.locked_folder
    monkeypatch.setattr(locks, "locked_folder", functools.partial(plain, wait_s=0.1))
    with plain(out):
        assert finetune.main(words(rule_table, out)) == 2
    assert "another run is writing here" in capfd.readouterr().err
    assert [path.name for path in out.iterdir()] == [".lock"]
    assert finetune.main(words(rule_table, out, steps=1, save=1)) == 0  # the lock went with its holder


def test_an_earlier_training_is_replaced_with_force_only_and_strange_files_never(rule_table, tmp_path, capfd):
    out = tmp_path / "out"
    assert finetune.main(words(rule_table, out, steps=2, save=1)) == 0
    assert finetune.main(words(rule_table, out)) == 2
    assert "holds a training already" in capfd.readouterr().err
    (out / "thesis.txt").write_text("three years")
    for more in ([], ["--force"], ["--resume", "auto"]):
        assert finetune.main(words(rule_table, out, *more)) == 2
        assert "holds 'thesis.txt', which finetune_gemma_from_csv.py did not write" in capfd.readouterr().err
    assert (out / "thesis.txt").read_text() == "three years"
    (out / "thesis.txt").unlink()
    assert finetune.main(words(rule_table, out, "--force", steps=1, save=1)) == 0
    assert json.loads((out / "metrics.json").read_text())["steps"] == 1
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["checkpoint-1", "written.json"]
    assert not (out / ".next").exists()


HELD = {
    "README.md": lambda out: (out / "README.md").write_text("my notes"),
    "model/weights": lambda out: ((out / "model").mkdir(), (out / "model" / "weights").write_text("mine")),
    "checkpoints/checkpoint-500": lambda out: (out / "checkpoints" / "checkpoint-500").mkdir(parents=True),
    "checkpoints": lambda out: (out / "checkpoints").symlink_to(out.parent),
    "tensorboard/log": lambda out: ((out / "tensorboard").mkdir(), (out / "tensorboard" / "log").write_text("mine")),
}


@pytest.mark.parametrize("more", [["--force"], ["--resume", "auto"], ["--force", "--resume", "auto"]])
@pytest.mark.parametrize("name", HELD)
def test_what_a_person_keeps_under_a_trainings_names_is_named_and_stays(rule_table, tmp_path, capfd, name, more):
    out = tmp_path / "out"
    out.mkdir()
    HELD[name](out)
    before = sorted(path for path in tmp_path.rglob("*"))
    assert finetune.main(words(rule_table, out, *more)) == 2
    assert f"holds '{name}', which finetune_gemma_from_csv.py did not write" in capfd.readouterr().err
    assert sorted(path for path in tmp_path.rglob("*") if path.name != ".lock") == before


@pytest.fixture(scope="module")
def finished(rule_table, tmp_path_factory, plots_drawn_once):
    """A finished training of two steps."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert finetune.main(words(rule_table, out, steps=2, save=1)) == 0
    return out


def result_of(out):
    """Return the bytes of a finished training's results; fails where its manifest does not hold."""
    value = read_manifest(out)
    assert find_changed(value["outputs"], out) is None
    return {entry["path"]: entry["sha256"] for entry in value["outputs"]}


@pytest.mark.parametrize("wrong", [["--base-model", "./misspelt"], ["--max-length", "30"], ["--lora-targets", "none"]])
def test_a_forced_training_that_cannot_begin_leaves_the_finished_one(rule_table, tmp_path, finished, wrong):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before = tree(out)
    assert finetune.main([*words(rule_table, out, "--force", steps=2, save=1), *wrong]) == 2
    assert tree(out) == before


def test_a_forced_training_runs_beside_the_finished_one_and_is_continued_there(
    rule_table, tmp_path, finished, monkeypatch, capfd
):
    from linklab.training import training

    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before = result_of(out)
    command = words(rule_table, out, "--seed", "7", steps=6, save=2)
    with stopping_before(training, monkeypatch, 5):
        assert finetune.main([*command, "--force"]) == 128 + signal.SIGTERM
    assert result_of(out) == before and (out / ".next" / "checkpoints").exists()
    assert finetune.main([*command, "--resume", "auto"]) == 0
    assert "continuing from" in capfd.readouterr().err
    assert result_of(out) != before and not (out / ".next").exists()
    assert json.loads((out / "metrics.json").read_text())["steps"] == 6
    assert sorted(path.name for path in (out / "checkpoints").glob("checkpoint-*"))[-1] == "checkpoint-6"
    assert finetune.main([*command, "--resume", "auto"]) == 0
    assert "finished already" in capfd.readouterr().err


def test_a_forced_training_with_resume_begins_anew_where_the_interrupted_one_had_other_settings(
    rule_table, tmp_path, finished, capfd
):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    command = words(rule_table, out, "--seed", "8", "--force", "--resume", "auto", steps=1, save=1)
    assert finetune.main(command) == 0
    assert "continuing from" not in capfd.readouterr().err
    assert read_manifest(out)["seed"] == 8


def test_a_lost_model_is_made_again_from_the_last_checkpoint(rule_table, tmp_path, finished, capfd):
    out = tmp_path / "out"
    command = words(rule_table, out, "--resume", "auto", steps=2, save=1)
    assert finetune.main(command) == 0
    before = result_of(out)
    shutil.rmtree(out / "model")
    assert finetune.main(command) == 0
    assert "continuing from" in capfd.readouterr().err
    assert result_of(out)["model/adapter_model.safetensors"] == before["model/adapter_model.safetensors"]


def test_an_edited_result_is_its_authors(rule_table, tmp_path, finished, capfd):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "README.md").write_text("what I found out")
    before = tree(out)
    for more in (["--force"], ["--resume", "auto"]):
        assert finetune.main(words(rule_table, out, *more, steps=1, save=1)) == 2
        assert "holds 'README.md', which was changed after finetune_gemma_from_csv.py wrote" in capfd.readouterr().err
    assert {k: v for k, v in tree(out).items() if k != ".lock"} == {k: v for k, v in before.items() if k != ".lock"}


class Killed(BaseException):
    """Ends the process's work at once, as a kill would."""


@pytest.mark.parametrize("at", range(0, 24, 3))
def test_killed_while_it_takes_its_place_a_training_is_whole_after_the_next_run(
    rule_table, tmp_path, finished, monkeypatch, at
):
    """Each rename is one step; after any of them the old result or the new one is there when the next run is done."""
    from linklab.training import out_dir

    out, steps = tmp_path / "out", []
    shutil.copytree(finished, out)
    command = words(rule_table, out, "--seed", "9", "--resume", "auto", steps=1, save=1)
    real, plain = {"replace": os.replace, "rename": os.rename}, out_dir.replace_content

    def counted(name):
        def move(source, target):
            if len(steps) == at:
                raise Killed
            steps.append(name)
            real[name](source, target)

        return move

    def replace_content(folder, stage):
        for name in real:
            monkeypatch.setattr(os, name, counted(name))
        plain(folder, stage)

    monkeypatch.setattr(out_dir, "replace_content", replace_content)
    with contextlib.suppress(Killed):
        finetune.main([*command, "--force"])
    for name, function in real.items():
        monkeypatch.setattr(os, name, function)
    monkeypatch.setattr(out_dir, "replace_content", plain)
    shutil.rmtree(out / NEW, ignore_errors=True)
    assert finetune.main(command) == 0
    assert read_manifest(out)["seed"] == 9 and result_of(out)
    assert not [path.name for path in out.iterdir() if path.name.startswith(".") and path.name != ".lock"]


REFUSED = [
    (["--max-length", "30"], "32 of 32 training rows have more than --max-length 30 tokens (first: "),
    (["--per-device-batch-size", "64"], "32 training rows for a batch of 64"),
    (["--save-steps", "3", "--eval-steps", "2"], "--save-steps 3 is not a multiple of --eval-steps 2"),
    (["--lora-targets", "nothing_proj"], "--lora-targets nothing_proj"),
    (["--base-model", "./nowhere"], "./nowhere: no such model folder"),
    (["--target-field", "colour"], "no column 'colour'; the columns are: animal, code, kind"),
    (["--csv", "nowhere.csv"], "nowhere.csv: no such file"),
    (["--seed", "-1"], "--seed"),
    (["--resume", "nowhere"], "nowhere: no whole checkpoint"),
]


@pytest.mark.parametrize("wrong, said", REFUSED, ids=[" ".join(wrong) for wrong, _ in REFUSED])
def test_what_cannot_be_trained_is_one_clear_line_and_exit_code_2(rule_table, tmp_path, capfd, wrong, said):
    out = tmp_path / "out"
    assert finetune.main([*words(rule_table, out), *wrong]) == 2
    told = capfd.readouterr().err
    assert said in told and "Traceback" not in told
    assert not (out / "model").exists()


def test_fsdp_is_refused_before_anything_is_loaded_also_where_accelerate_would_drop_it(
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
    with pytest.raises(finetune.UserError, match=lower), finetune.explained_failures(settings):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    least = ["--csv", "a", "--out-dir", "b", "--per-device-batch-size", "1", "--gradient-checkpointing"]
    for more, lower in (["--mode", "full"], "use --mode lora;"), ([], "use shorter rows and --max-length 256;"):
        settings = settings_of([*least, *more])
        with pytest.raises(finetune.UserError, match=lower), finetune.explained_failures(settings):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
    with pytest.raises(finetune.UserError, match="no space left on the disk"), finetune.explained_failures(settings):
        raise OSError(28, "No space left on device")


def test_the_plan_measures_memory_on_the_step_with_the_heaviest_batch():
    """Two batches of two rows a step; the last step may be short. A GPU pads a batch to its longest row."""
    lengths = [5, 4, 4, 4, 9, 1, 10, 0, 3, 3]
    order = [0, 1, 2, 3, 6, 7, 4, 0, 8, 9]
    assert cost_estimate.heaviest_step(order, lengths, 2, 4, padded=False) == [6, 7, 4, 0]
    assert cost_estimate.heaviest_step([0, 1, 2, 3, 8, 9], lengths, 2, 4, padded=False) == [0, 1, 2, 3]
    assert cost_estimate.heaviest_step([8, 9, 6], lengths, 2, 2, padded=False) == [6]
    lengths[2] = lengths[3] = 8  # 16 tokens beside 10: with padding 20
    assert cost_estimate.heaviest_step([*order[:4], 6, 7, 8, 9], lengths, 2, 4, padded=False) == [0, 1, 2, 3]
    assert cost_estimate.heaviest_step([*order[:4], 6, 7, 8, 9], lengths, 2, 4, padded=True) == [6, 7, 8, 9]
