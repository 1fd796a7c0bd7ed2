"""Gradients do not depend on how a step's rows are divided: into batches, by validations, over processes."""

import csv
import shutil

import finetune_gemma_from_csv as finetune
import pytest
import torch
from linklab.models import load
from linklab.training import answer_loss
from training_runs import MODES, WEIGHTS, settings_of, unfinish, words


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
    """bitsandbytes repacks 4-bit weights in evaluation; training on them would lose gradients without an error."""
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


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("mode", [pytest.param("full", marks=pytest.mark.slow), "lora"])
def test_two_processes_train_as_one(mode, rule_table, tmp_path, start_process):
    """Two times two rows are one time four: the same losses, gradients and weights but for the order of additions.

    Seven validation rows do not part evenly. Full training continues from a checkpoint of the two, too.
    """
    command = words(rule_table, tmp_path / "one", "--mode", mode, "--validation-rows", "7", steps=10)
    assert finetune.main(command) == 0
    command[command.index(str(tmp_path / "one"))] = str(tmp_path / "two")
    command[command.index("--per-device-batch-size") + 1] = "2"

    def run_two(*more):
        port = free_port()
        runs = [start_process("one_of_two", "train", rank, port, [*command, *more]) for rank in (0, 1)]
        for process, _ in runs:
            process.join(900)  # a limit for hanging, not for slow, processes
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
    assert "10 steps of 4 rows" in first and "validation loss" not in second  # only rank 0 prints
    assert_same_as_one()
    if mode == "full":
        shutil.rmtree(tmp_path / "two" / "checkpoints" / "checkpoint-10")
        unfinish(tmp_path / "two")
        assert "continuing from" in run_two("--resume", "auto")[0]
        assert_same_as_one()
