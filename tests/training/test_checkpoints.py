"""A checkpoint is complete or skipped, and is continued only with the same data, model and settings."""

import re

import pytest
from linklab.cli import UserError
from linklab.training import checkpoints

SETTINGS = {"mode": "lora", "base_model": "tiny", "learning_rate": 5e-4, "epochs": 1.0, "labels": "ab12", "rows": 40}


def make_checkpoint(folder, step, settings=SETTINGS):
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    checkpoints.announce(folder, step)
    for name in ("model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"):
        (made / name).write_bytes(f"{name} at {step}".encode() * 50)
    checkpoints.mark_complete(made, settings)
    return made


def flip_byte(folder):
    path = folder / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


TEARS = {
    "a file is missing": lambda folder: (folder / "rng_state.pth").unlink(),
    "one bit flipped": flip_byte,
    "a file is cut short": cut_short,
    "a file is empty": lambda folder: (folder / "trainer_state.json").write_bytes(b""),
    "the mark was not written": lambda folder: (folder / checkpoints.COMPLETE).unlink(),
    "the mark is empty": lambda folder: (folder / checkpoints.COMPLETE).write_bytes(b""),
    "the mark is half written": lambda folder: (folder / checkpoints.COMPLETE).write_text('{"settings": {'),
    "the mark is something else": lambda folder: (folder / checkpoints.COMPLETE).write_text("{}"),
    "the mark is no text": lambda folder: (folder / checkpoints.COMPLETE).write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("tear", TEARS.values(), ids=TEARS.keys())
def test_a_torn_checkpoint_is_left_out_and_the_whole_one_before_it_is_found(tmp_path, tear):
    whole = make_checkpoint(tmp_path, 9)
    torn = make_checkpoint(tmp_path, 10)
    assert checkpoints.find_last_complete(tmp_path) == (torn, [])
    tear(torn)
    assert not checkpoints.is_complete(torn)
    assert checkpoints.find_last_complete(tmp_path) == (whole, [torn])
    assert checkpoints.choose(tmp_path, "auto", SETTINGS) == whole
    assert whole.exists() and not torn.exists()  # the next checkpoint of that step must not mix with it


def test_checkpoints_are_ordered_by_step_and_other_folders_are_not_checkpoints(tmp_path):
    for step in (1000, 20, 300):
        make_checkpoint(tmp_path, step)
    for name in ("checkpoint-best", "checkpoint-", "tmp-checkpoint-5000", "runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-9999").write_text("a file, not a folder")
    assert checkpoints.find_last_complete(tmp_path) == (tmp_path / "checkpoint-1000", [])
    assert checkpoints.steps_of(tmp_path / "checkpoint-300") == 300


def test_without_any_checkpoint_there_is_none(tmp_path):
    assert checkpoints.find_last_complete(tmp_path) == (None, [])
    assert checkpoints.find_last_complete(tmp_path / "not_there") == (None, [])
    torn = make_checkpoint(tmp_path, 5)
    cut_short(torn)
    assert checkpoints.find_last_complete(tmp_path) == (None, [torn])


@pytest.mark.parametrize("name, other", [
    ("labels", "cd34"), ("base_model", "embedded"), ("learning_rate", 1e-3), ("mode", "full"),
    ("epochs", 2.0), ("rows", 41),
])  # fmt: skip
def test_a_checkpoint_of_other_data_model_or_settings_is_refused_and_the_difference_named(tmp_path, name, other):
    made = make_checkpoint(tmp_path, 5)
    checkpoints.refuse_other_settings(made, dict(SETTINGS))
    with pytest.raises(
        UserError, match=re.escape(f"was trained with {name} = {SETTINGS[name]!r}, now it is {other!r}")
    ):
        checkpoints.refuse_other_settings(made, SETTINGS | {name: other})


def test_a_setting_only_one_side_knows_is_a_difference(tmp_path):
    made = make_checkpoint(tmp_path, 5)
    with pytest.raises(UserError, match="dropout"):
        checkpoints.refuse_other_settings(made, SETTINGS | {"dropout": 0.1})
    with pytest.raises(UserError, match="rows"):
        checkpoints.refuse_other_settings(made, {k: v for k, v in SETTINGS.items() if k != "rows"})
