"""Copies on a drive: complete and verified before old ones are removed, copied back on a new machine."""

import contextlib
import shutil

import pytest
from linklab.cli import UserError
from linklab.training import checkpoint_mirror, checkpoints
from test_checkpoints import SETTINGS, cut_short, flip_byte, make_checkpoint


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != checkpoints.WRITTEN)


@pytest.fixture
def places(tmp_path):
    local, remote = tmp_path / "checkpoints", tmp_path / "drive"
    remote.mkdir()
    return local, remote


def test_the_drive_holds_the_checkpoints_the_machine_holds(places):
    local, remote = places
    for step in (2, 4):
        made = make_checkpoint(local, step)
    (made / "shards").mkdir()
    (made / "shards" / "0.bin").write_bytes(b"of several machines")
    checkpoints.mark_complete(made, SETTINGS)
    checkpoint_mirror.mirror(local, remote)
    assert names(remote) == ["checkpoint-2", "checkpoint-4"]
    assert all(checkpoints.is_complete(path) for path in checkpoints.list_all(remote))
    (remote / "checkpoint-4" / "shards" / "0.bin").write_bytes(b"of other machines")
    assert not checkpoints.is_complete(remote / "checkpoint-4")  # files in folders are hashed too
    shutil.rmtree(local / "checkpoint-2")
    make_checkpoint(local, 6)
    (local / "checkpoint-8").mkdir()  # not complete yet
    (remote / "notes.txt").write_text("mine")
    checkpoint_mirror.mirror(local, remote)
    assert names(remote) == ["checkpoint-4", "checkpoint-6", "notes.txt"]


def test_a_copy_of_this_training_that_is_not_the_checkpoint_any_more_is_made_again(places):
    local, remote = places
    make_checkpoint(local, 2)
    shutil.copytree(local / "checkpoint-2", remote / "checkpoint-2")
    (remote / "checkpoint-2" / "optimizer.pt").write_bytes(b"of an earlier attempt")
    checkpoints.mark_complete(remote / "checkpoint-2", SETTINGS)
    checkpoint_mirror.mirror(local, remote)
    assert names(remote) == ["checkpoint-2"]
    assert (remote / "checkpoint-2" / "optimizer.pt").read_bytes() == (
        local / "checkpoint-2" / "optimizer.pt"
    ).read_bytes()


def make_unmarked(folder, step):
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"months of work")


OTHERS = SETTINGS | {"labels": "cd34"}
KEPT = {  # content of the drive: (how to make it, the error without --force, with --force)
    "no training's": (lambda folder: make_unmarked(folder, 500), "json is missing", "json is missing"),
    "another training's": (
        lambda folder: make_checkpoint(folder, 500, OTHERS), "was trained with labels = 'cd34'", None,
    ),
    "another's, edited": (
        lambda folder: flip_byte(make_checkpoint(folder, 500, OTHERS)),
        "was trained with labels = 'cd34'", "was changed after it was copied",
    ),
    "this training's": (lambda folder: make_checkpoint(folder, 500), None, None),
}  # fmt: skip


@pytest.mark.parametrize("what", KEPT)
def test_what_another_keeps_on_the_drive_is_never_removed(places, what):
    local, remote = places
    put, without_force, with_force = KEPT[what]
    put(remote)
    for force, said in ((False, without_force), (True, with_force)):
        with pytest.raises(UserError, match=said) if said else contextlib.nullcontext():
            checkpoint_mirror.refuse_foreign(remote, SETTINGS, force=force)
    make_checkpoint(local, 2)
    checkpoint_mirror.mirror(local, remote)  # files that appeared after the start
    assert names(remote) == (["checkpoint-2"] if what == "this training's" else ["checkpoint-2", "checkpoint-500"])
    shutil.rmtree(local / "checkpoint-2")
    make_checkpoint(local, 500)
    if what in ("no training's", "another training's"):
        (remote / checkpoints.WRITTEN).unlink(missing_ok=True)
        before = (remote / "checkpoint-500" / "model.safetensors").read_bytes()
        with pytest.raises(UserError, match="not a checkpoint of this training"):
            checkpoint_mirror.mirror(local, remote)
        assert (remote / "checkpoint-500" / "model.safetensors").read_bytes() == before


def test_of_what_kills_left_on_the_drive_only_copies_of_checkpoints_are_removed(places):
    _, remote = places
    (remote / ".checkpoint-2.linklab-abcd1234.tmp").mkdir()
    theirs = [".report.manifest.json.linklab-abcd1234.tmp", ".checkpoint-2.backup.tmp"]
    for name in theirs:
        (remote / name).write_text("another script's")
    checkpoint_mirror.prepare(remote, force=False, resume=None)
    assert sorted(path.name for path in remote.iterdir()) == sorted(theirs)


def test_a_copy_with_wrong_bytes_is_refused_and_the_old_ones_stay(places, monkeypatch):
    local, remote = places
    make_checkpoint(local, 2)
    checkpoint_mirror.mirror(local, remote)
    shutil.rmtree(local / "checkpoint-2")
    made = make_checkpoint(local, 4)
    plain = shutil.copytree

    def copy_badly(source, target, **how):
        plain(source, target, **how)
        flip_byte(target)

    monkeypatch.setattr(shutil, "copytree", copy_badly)
    with pytest.raises(UserError, match="the copy differs from .* is complete"):
        checkpoint_mirror.mirror(local, remote)
    assert names(remote) == ["checkpoint-2"] and checkpoints.is_complete(remote / "checkpoint-2")
    assert checkpoints.is_complete(made)


def test_a_full_drive_is_named_and_loses_nothing(places, monkeypatch):
    local, remote = places
    make_checkpoint(local, 2)
    checkpoint_mirror.mirror(local, remote)
    made = make_checkpoint(local, 4)

    def no_space(source, target, **how):
        (target / "optimizer.pt").write_bytes(b"half")
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copytree", no_space)
    with pytest.raises(UserError, match="cannot copy checkpoint-4 there .*No space left.*--resume auto"):
        checkpoint_mirror.mirror(local, remote)
    assert names(remote) == ["checkpoint-2"] and checkpoints.is_complete(made)


def test_what_is_later_on_the_drive_is_brought_back_with_the_best_one(places):
    local, remote = places
    for step in (2, 4, 6):
        make_checkpoint(remote, step)
    cut_short(remote / "checkpoint-6")
    checkpoint_mirror.fetch(remote, local, SETTINGS)
    assert checkpoints.find_last_complete(local) == (local / "checkpoint-4", [])
    assert names(local) == ["checkpoint-2", "checkpoint-4"]
    make_checkpoint(local, 5)
    shutil.rmtree(local / "checkpoint-4")
    checkpoint_mirror.fetch(remote, local, SETTINGS)  # the machine is ahead
    assert names(local) == ["checkpoint-2", "checkpoint-5"]


@pytest.mark.parametrize("here", [None, 8])
def test_a_drive_of_another_run_is_refused(places, here):
    local, remote = places
    make_checkpoint(remote, 4, SETTINGS | {"labels": "cd34"})
    if here:
        make_checkpoint(local, here)
    with pytest.raises(UserError, match="was trained with labels = 'cd34'"):
        checkpoint_mirror.fetch(remote, local, SETTINGS)
    assert names(remote) == ["checkpoint-4"]


def test_a_drive_with_checkpoints_is_used_with_resume_or_force_only(places):
    _, remote = places
    make_checkpoint(remote, 4)
    (remote / ".checkpoint-6.linklab-abcdefgh.tmp").mkdir()  # a kill left it
    (remote / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="already holds checkpoints of a training"):
        checkpoint_mirror.prepare(remote, force=False, resume=None)
    checkpoint_mirror.prepare(remote, force=False, resume="auto")
    assert names(remote) == ["checkpoint-4", "notes.txt"]
    checkpoint_mirror.prepare(remote, force=True, resume=None)
    assert names(remote) == ["checkpoint-4", "notes.txt"]  # replaced checkpoints are removed only after all checks
    checkpoint_mirror.clear(remote)
    assert names(remote) == ["notes.txt"]
    with pytest.raises(UserError, match="is a file"):
        checkpoint_mirror.prepare(remote / "notes.txt", force=False, resume=None)
    checkpoint_mirror.prepare(remote / "new" / "folder", force=False, resume=None)
    assert (remote / "new" / "folder").is_dir()
