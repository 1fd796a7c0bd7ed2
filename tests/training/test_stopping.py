"""A training that was stopped, killed or out of disk space continues and gives the same result."""

import json
import random
import shutil
import signal
import time

import finetune_gemma_from_csv as finetune
import pytest
from linklab import files
from linklab.manifest import MANIFEST
from linklab.training import checkpoint_mirror, checkpoints, out_dir
from moments import restore, states_during
from training_runs import WEIGHTS, stopping_before, tree, unfinish, validation_losses, words

# Dropout: the random state must be continued too. Three passes of four steps: runs also stop and continue inside the
# second and third.
STOPPABLE = ["--mode", "lora", "--lora-dropout", "0.1", "--max-rows", "16"]
STEPS = 12


@pytest.fixture(scope="module")
def uninterrupted(rule_table, tmp_path_factory, start_process):
    """An uninterrupted run: (its folder, its seconds)."""
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
    newest, torn = checkpoints.find_last_complete(first / "checkpoints")
    assert newest is not None and torn == [] and 6 <= checkpoints.steps_of(newest) < STEPS
    assert f"stopped at step {checkpoints.steps_of(newest)};" in told
    assert not (first / MANIFEST).exists()
    first.rename(out)
    made = out / "checkpoints" / newest.name
    window = files.read_json(made / "loss_window.json") | {"seconds": 5000.0}  # as if it had taken this long so far
    files.write_json(made / "loss_window.json", window, force=True)
    checkpoints.mark_complete(made, files.read_json(made / checkpoints.COMPLETE)["settings"])
    assert finetune.main(words(rule_table, out, *STOPPABLE, "--resume", "auto", steps=STEPS, save=3)) == 0
    assert_same_result(out, uninterrupted[0])
    assert files.read_json(out / "metrics.json")["seconds"] > 5000


@pytest.mark.parametrize("stop_at", [5, 6])
def test_a_stop_on_a_validation_step_or_beside_one_loses_no_logged_loss(
    rule_table, tmp_path, uninterrupted, stop_at, monkeypatch
):
    """Step 6 has a validation; step 5 has none."""
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


def test_files_left_by_a_kill_at_any_moment_are_recognized_as_the_trainings_own(rule_table, tmp_path):
    """In its folder, and among the copies of its checkpoints; tests/project/test_every_moment.py continues each."""
    place = tmp_path / "place"
    place.mkdir()
    out, drive = place / "out", place / "drive"
    command = words(rule_table, out, "--drive-dir", str(drive), steps=4, save=1)
    states = states_during(place, lambda: finetune.main(command))
    settings = checkpoints.read_settings(out / "checkpoints" / "checkpoint-4")
    assert len(states) > 100
    for state in states:
        restore(place, state)
        for force in (True, False):
            out_dir.check(out, script="finetune_gemma_from_csv.py", force=force, resume="auto")
            checkpoint_mirror.refuse_foreign(drive, settings, force=force)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_run_killed_at_one_of_twenty_random_moments_ends_the_same(
    rule_table, tmp_path, start_process, uninterrupted, seed
):
    whole, seconds = uninterrupted
    kill_and_continue(rule_table, tmp_path / "out", start_process, [random.Random(seed).uniform(0, 1) * seconds])
    assert_same_result(tmp_path / "out", whole)


def test_an_incomplete_checkpoint_is_named_and_skipped_and_the_one_before_continued(
    rule_table, tmp_path, uninterrupted, capfd
):
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
    assert "copying checkpoint-8 back from" in capfd.readouterr().err
    assert_same_result(out, uninterrupted[0])
    assert [path.name for path in checkpoints.list_all(drive)] == ["checkpoint-9", "checkpoint-12"]
    command.remove("--resume")
    command.remove("auto")
    command[command.index(str(out))] = str(tmp_path / "another")
    assert finetune.main(command) == 2
    assert f"{drive}: already holds checkpoints of a training" in capfd.readouterr().err


# None for the adapter; none for the optimizer.
@pytest.mark.parametrize("room", [200_000, pytest.param(400_000, marks=pytest.mark.slow)])
def test_a_full_disk_is_reported_and_the_run_continues_after_space_is_freed(
    rule_table, tmp_path, uninterrupted, monkeypatch, capfd, room
):
    """No file may grow beyond `room` bytes from step 7 on: writes fail as on a full disk."""
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
    assert (
        "no space left on the disk; free some space or choose another --out-dir, then run again with --resume auto"
        in told
    )
    newest, torn = checkpoints.find_last_complete(out / "checkpoints")
    assert newest.name == "checkpoint-6" and [path.name for path in torn] == ["checkpoint-9"]
    assert finetune.main([*command, "--resume", "auto"]) == 0
    assert_same_result(out, uninterrupted[0])


def test_a_finished_run_is_not_run_again(rule_table, tmp_path, capfd):
    command = words(rule_table, tmp_path / "out", "--resume", "auto", steps=1, save=1)
    assert finetune.main(command) == 0
    before = tree(tmp_path / "out")
    assert finetune.main(command) == 0
    assert "already finished; nothing to do" in capfd.readouterr().err
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("steps", [6, 8])
def test_a_run_killed_after_its_last_step_adds_none_when_it_is_continued(rule_table, tmp_path, steps):
    """Six steps end in the first epoch, eight at its end. The rate never falls: another step would show."""
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
    assert len(validation_losses(tmp_path / "a")) == 4  # the first, and three without improvement
    command[command.index(str(tmp_path / "a"))] = str(tmp_path / "b")
    with stopping_before(training, monkeypatch, 3):
        assert finetune.main(command) == 128 + signal.SIGTERM
    assert finetune.main([*command, "--resume", "auto"]) == 0
    unfinish(tmp_path / "b")
    assert finetune.main([*command, "--resume", "auto"]) == 0  # it stays finished
    assert (tmp_path / "a" / "trainer_log.csv").read_text() == (tmp_path / "b" / "trainer_log.csv").read_text()


@pytest.mark.parametrize("difference, named", [
    (["--learning-rate", "1e-3"], "learning_rate = 0.003, now it is 0.001"),
    (["--lora-rank", "8"], "lora_rank = 16, now it is 8"),
    (["--seed", "5"], "seed = 0, now it is 5"),
    (["--max-rows", "15"], "labels = "),
    (["--best-by", "accuracy"], "best_by = 'loss', now it is 'accuracy'"),
])  # fmt: skip
def test_a_checkpoint_is_not_continued_with_other_data_or_settings(
    rule_table, tmp_path, uninterrupted, capfd, difference, named
):
    out = tmp_path / "out"
    shutil.copytree(uninterrupted[0], out)
    before = tree(out)
    command = words(rule_table, out, *STOPPABLE, "--resume", "auto", steps=STEPS, save=3)
    assert finetune.main([*command, *difference]) == 2
    told = capfd.readouterr().err
    assert named in told and "start over with --force" in told
    assert {name: value for name, value in tree(out).items() if name != ".lock"} == {
        name: value for name, value in before.items() if name != ".lock"
    }
