"""Copies on a drive: whole and verified before the old ones go, brought back when the machine is gone."""

import shutil

import pytest
from linklab.cli import UserError
from linklab.training import checkpoint_mirror, checkpoints
from test_checkpoints import SETTINGS, cut_short, flip_byte, make_checkpoint


def names(folder):
    return sorted(path.name for path in folder.iterdir())


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
    assert all(checkpoints.is_whole(path) for path in remote.iterdir())
    (remote / "checkpoint-4" / "shards" / "0.bin").write_bytes(b"of other machines")
    assert not checkpoints.is_whole(remote / "checkpoint-4")  # files in folders are hashed too
    shutil.rmtree(local / "checkpoint-2")
    make_checkpoint(local, 6)
    (local / "checkpoint-8").mkdir()  # not complete yet
    (remote / "notes.txt").write_text("mine")
    checkpoint_mirror.mirror(local, remote)
    assert names(remote) == ["checkpoint-4", "checkpoint-6", "notes.txt"]


def test_a_copy_that_is_torn_or_of_another_run_is_made_again(places):
    local, remote = places
    make_checkpoint(local, 2)
    shutil.copytree(local / "checkpoint-2", remote / "checkpoint-2")
    (remote / "checkpoint-2" / checkpoints.COMPLETE).unlink()
    checkpoint_mirror.mirror(local, remote)
    assert checkpoints.is_whole(remote / "checkpoint-2")


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
    with pytest.raises(UserError, match="the copy is not what was copied"):
        checkpoint_mirror.mirror(local, remote)
    assert names(remote) == ["checkpoint-2"] and checkpoints.is_whole(remote / "checkpoint-2")
    assert checkpoints.is_whole(made)


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
    assert names(remote) == ["checkpoint-2"] and checkpoints.is_whole(made)


def test_what_is_later_on_the_drive_is_brought_back_with_the_best_one(places):
    local, remote = places
    for step in (2, 4, 6):
        make_checkpoint(remote, step)
    cut_short(remote / "checkpoint-6")
    checkpoint_mirror.fetch(remote, local, SETTINGS)
    assert checkpoints.find_last_whole(local) == (local / "checkpoint-4", [])
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
    with pytest.raises(UserError, match="was made with labels = 'cd34'"):
        checkpoint_mirror.fetch(remote, local, SETTINGS)
    assert names(remote) == ["checkpoint-4"]


def test_a_drive_with_checkpoints_is_used_with_resume_or_force_only(places):
    _, remote = places
    make_checkpoint(remote, 4)
    (remote / ".checkpoint-6.abc.123.tmp").mkdir()  # a kill left it
    (remote / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds checkpoints of a training already"):
        checkpoint_mirror.prepare(remote, force=False, resume=None)
    checkpoint_mirror.prepare(remote, force=False, resume="auto")
    assert names(remote) == ["checkpoint-4", "notes.txt"]
    checkpoint_mirror.prepare(remote, force=True, resume=None)
    assert names(remote) == ["notes.txt"]
    with pytest.raises(UserError, match="is a file"):
        checkpoint_mirror.prepare(remote / "notes.txt", force=False, resume=None)
    checkpoint_mirror.prepare(remote / "new" / "folder", force=False, resume=None)
    assert (remote / "new" / "folder").is_dir()
