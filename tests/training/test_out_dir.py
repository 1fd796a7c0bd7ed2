"""training/out_dir.py: a training replaces only its own unchanged results, and a kill loses no complete ones."""

import contextlib
import functools
import json
import os
import pickle
import shutil
import signal
import threading

import finetune_gemma_from_csv as finetune
import pytest
from linklab import locks
from linklab.cli import UserError
from linklab.manifest import NEW, find_changed, read_manifest
from linklab.training import checkpoints
from test_hostile import Planted
from test_ownership import Killed
from training_runs import stopping_before, tree, words


def test_a_second_training_in_one_folder_is_refused_while_the_first_one_runs(rule_table, tmp_path, monkeypatch, capfd):
    out = tmp_path / "out"
    out.mkdir()
    plain = locks.locked_folder
    monkeypatch.setattr(locks, "locked_folder", functools.partial(plain, wait_s=0.1))
    with plain(out):
        assert finetune.main(words(rule_table, out)) == 2
    assert "another run is writing here" in capfd.readouterr().err
    assert [path.name for path in out.iterdir()] == [".lock"]
    assert finetune.main(words(rule_table, out, steps=1, save=1)) == 0  # the lock ended with its holder


def test_an_earlier_training_is_replaced_with_force_only(rule_table, tmp_path, capfd):
    out = tmp_path / "out"
    assert finetune.main(words(rule_table, out, steps=2, save=1)) == 0
    assert finetune.main(words(rule_table, out)) == 2
    assert "already holds a training" in capfd.readouterr().err
    assert finetune.main(words(rule_table, out, "--force", steps=1, save=1)) == 0
    assert json.loads((out / "metrics.json").read_text())["steps"] == 1
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["checkpoint-1", "written.json"]
    assert not (out / ".next").exists()


HELD = {
    "thesis.txt": lambda out: (out / "thesis.txt").write_text("three years"),
    "README.md": lambda out: (out / "README.md").write_text("my notes"),
    "model/weights": lambda out: ((out / "model").mkdir(), (out / "model" / "weights").write_text("mine")),
    "checkpoints/checkpoint-500": lambda out: (out / "checkpoints" / "checkpoint-500").mkdir(parents=True),
    "checkpoints": lambda out: (out / "checkpoints").symlink_to(out.parent),
    "tensorboard/log": lambda out: ((out / "tensorboard").mkdir(), (out / "tensorboard" / "log").write_text("mine")),
}


@pytest.mark.parametrize("more", [[], ["--force"], ["--resume", "auto"], ["--force", "--resume", "auto"]])
@pytest.mark.parametrize("name", HELD)
def test_a_users_files_with_the_names_of_training_outputs_are_named_and_kept(rule_table, tmp_path, capfd, name, more):
    out = tmp_path / "out"
    out.mkdir()
    HELD[name](out)
    before = sorted(path for path in tmp_path.rglob("*"))
    assert finetune.main(words(rule_table, out, *more)) == 2
    assert f"holds '{name}', which finetune_gemma_from_csv.py did not write" in capfd.readouterr().err
    assert sorted(path for path in tmp_path.rglob("*") if path.name != ".lock") == before


@pytest.fixture(scope="module")
def finished(rule_table, tmp_path_factory):
    """A finished training of two steps."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert finetune.main(words(rule_table, out, steps=2, save=1)) == 0
    return out


def result_of(out):
    """Return the bytes of a finished training's results; fails if they differ from its manifest."""
    value = read_manifest(out)
    assert find_changed(value["outputs"], out) is None
    return {entry["path"]: entry["sha256"] for entry in value["outputs"]}


@pytest.mark.parametrize("wrong", [["--base-model", "./misspelt"], ["--max-length", "30"], ["--lora-targets", "none"]])
def test_a_forced_training_that_cannot_start_keeps_the_finished_one(rule_table, tmp_path, finished, wrong):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before = tree(out)
    assert finetune.main([*words(rule_table, out, "--force", steps=2, save=1), *wrong]) == 2
    assert tree(out) == before


@pytest.mark.parametrize("more", [["--resume", "auto"], ["--force"]])
def test_a_training_killed_before_its_first_checkpoint_starts_again(rule_table, tmp_path, monkeypatch, more):
    from linklab.training import training

    first, killed = tmp_path / "first", tmp_path / "killed"
    command = words(rule_table, first, steps=2, save=2)

    def kill():
        shutil.copytree(first, killed)
        raise UserError("the disk is gone")

    threads = set(threading.enumerate())
    with stopping_before(training, monkeypatch, 1, kill):
        assert finetune.main(command) == 2
    assert not first.exists()  # a failed run leaves nothing, its logs included
    assert set(threading.enumerate()) <= threads  # nor does TensorBoard still write into the removed folder
    left = sorted(path.relative_to(killed).parts[0] for path in killed.rglob("*") if path.is_file())
    assert left == [".lock", "checkpoints", "tensorboard"]
    command[command.index(str(first))] = str(killed)
    assert finetune.main([*command, *more]) == 0
    assert len(list((killed / "tensorboard").iterdir())) == 1


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
    assert "already finished" in capfd.readouterr().err


def test_a_forced_training_with_resume_starts_again_if_the_interrupted_one_had_other_settings(
    rule_table, tmp_path, finished, capfd
):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    command = words(rule_table, out, "--seed", "8", "--force", "--resume", "auto", steps=1, save=1)
    assert finetune.main(command) == 0
    assert "continuing from" not in capfd.readouterr().err
    assert read_manifest(out)["seed"] == 8


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_a_pickle_planted_in_a_checkpoint_is_not_run(rule_table, tmp_path, monkeypatch, capfd, interrupted, name):
    """Its complete.json is written anew, like an attacker would: hashes alone would not show it."""
    out = tmp_path / "out"
    shutil.copytree(interrupted, out)
    checkpoint = checkpoints.list_all(out / "checkpoints")[-1]
    mark = json.loads((checkpoint / checkpoints.COMPLETE).read_text())
    (checkpoint / name).write_bytes(pickle.dumps(Planted(str(tmp_path / "planted")), protocol=2))
    checkpoints.mark_complete(checkpoint, mark["settings"])
    code = finetune.main(words(rule_table, out, "--resume", "auto"))
    said = capfd.readouterr().err.splitlines()
    assert not (tmp_path / "planted").exists()
    assert code == 0 or said[-1].startswith("error: ") and not (out / "model").exists()


@pytest.fixture(scope="module")
def interrupted(rule_table, tmp_path_factory):
    """A training of four steps, stopped after the checkpoint of the second."""
    from linklab.training import training

    out = tmp_path_factory.mktemp("interrupted") / "out"
    with pytest.MonkeyPatch.context() as patch, stopping_before(training, patch, 3):
        assert finetune.main(words(rule_table, out)) == 128 + signal.SIGTERM
    return out


def test_a_missing_model_is_written_again_from_the_last_checkpoint(rule_table, tmp_path, finished, capfd):
    out = tmp_path / "out"
    command = words(rule_table, out, "--resume", "auto", steps=2, save=1)
    assert finetune.main(command) == 0
    before = result_of(out)
    shutil.rmtree(out / "model")
    assert finetune.main(command) == 0
    assert "continuing from" in capfd.readouterr().err
    assert result_of(out)["model/adapter_model.safetensors"] == before["model/adapter_model.safetensors"]


def test_an_edited_result_is_not_replaced(rule_table, tmp_path, finished, capfd):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "README.md").write_text("what I found out")
    before = tree(out)
    for more in (["--force"], ["--resume", "auto"]):
        assert finetune.main(words(rule_table, out, *more, steps=1, save=1)) == 2
        assert "holds 'README.md', which was changed after finetune_gemma_from_csv.py wrote" in capfd.readouterr().err
    assert {k: v for k, v in tree(out).items() if k != ".lock"} == {k: v for k, v in before.items() if k != ".lock"}


@pytest.mark.parametrize("at", range(0, 24, 3))
def test_a_training_killed_while_it_replaces_the_old_one_is_complete_after_the_next_run(
    rule_table, tmp_path, finished, monkeypatch, at
):
    """Each rename is one step; after a kill at any step, the next run leaves the old or the new result."""
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
