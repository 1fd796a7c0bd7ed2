"""After a kill between any two file changes, the same command runs again and gives the right result."""

import importlib
import os
import sys
from pathlib import Path

import pytest
from linklab.aside import is_left_over
from linklab.manifest import find_changed, read_manifest
from moments import restore, states_during

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from attacked_scripts import COMMANDS, damage_notebooks, prepare, prepare_place  # noqa: E402

QUICK = ["generate, drive", "validate", "convert", "survey"]
SLOW = ["generate", "smoke", "baselines", "finetune", "finetune, drive", "evaluate", "compare", "predict",
        "notebooks"]  # fmt: skip
# One writes for fifteen seconds, some to a Hub, some in processes of their own (tests/scripts/test_run_sweep.py).
KILLED_ONLY = {"export", "push", "generate, Hub", "curve", "sweep", "demo"}


def test_every_script_that_is_attacked_is_tried_here_too():
    assert {*QUICK, *SLOW} == COMMANDS.keys() - KILLED_ONLY


class Attacked:
    """A script in its own folder; `run(n)` makes its n-th result there, in this process."""

    def __init__(self, name, folder, monkeypatch):
        self.command, self.inputs, self.place = COMMANDS[name], folder, folder / "place"
        self.main = importlib.import_module(self.command.script.removesuffix(".py")).main
        prepare(self.inputs, [name])
        self.place.mkdir()
        prepare_place(self.place, self.command)
        monkeypatch.chdir(self.place)
        self.foreign = {name: (self.place / name).read_bytes() for name in self.command.foreign}

    def words(self, n):
        return [str(self.inputs / word) if word.startswith("in/") else word for word in self.command.argv(n)[1:]]

    def run(self, n):
        code = self.main(self.words(n))
        assert code in (0, 1)

    def assert_whole(self):
        """Every result is complete, and no file of the user is lost."""
        for path in self.place.rglob("*manifest.json"):
            if not any(part.startswith(".") for part in path.relative_to(self.place).parts):
                name = str(path.relative_to(self.place))
                assert name in self.foreign or find_changed(read_manifest(path)["outputs"], path.parent) is None
        assert {name: (self.place / name).read_bytes() for name in self.foreign} == self.foreign
        assert not self.command.check or not self.command.check(self.place, None)

    def left_overs(self):
        return [path for path in self.place.rglob("*") if is_left_over(path.name)]


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_the_next_run_succeeds_after_a_kill_at_any_moment(name, tmp_path, monkeypatch, capfd):
    attacked = Attacked(name, tmp_path, monkeypatch)
    for n in (3, 4):  # the first run, and one that replaces its result
        states = states_during(attacked.place, lambda n=n: attacked.run(n))
        whole = {path for path in attacked.place.rglob("*") if not is_left_over(path.name)}
        assert len(states) > 3 or not attacked.command.stays
        for state in states:
            restore(attacked.place, state)
            os.chdir(attacked.place)
            attacked.run(n)
            attacked.assert_whole()
            assert {path for path in attacked.place.rglob("*") if not is_left_over(path.name)} == whole
            assert not [path for path in attacked.left_overs() if not path.parent.name.startswith("checkpoint-")]
        damage_notebooks(attacked.place)
