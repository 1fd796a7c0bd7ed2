"""Rows with a class and a number, like those of read_examples(), for tests of scores and comparisons."""

import types

from linklab.tasks.examples import Example
from linklab.tasks.task import Target

TARGETS = [Target("channel", "class", utility="worth"), Target("rate", "number", "Mbit/s")]
TASK = types.SimpleNamespace(targets=TARGETS, schema=None, template=types.SimpleNamespace(text="row {number}"))


def make_row(name, target, choices=(), worth=(), *, group=None, split="test"):
    """Return a row with one question; its `choices` are channels, and `worth` holds the worth of each."""
    choices, values = {"channel": list(choices)}, {"channel": list(worth)}
    return Example(name, group or name, split, f"row {name}", " ".join(target.values()), target, choices, values, {})
