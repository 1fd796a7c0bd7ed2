"""`--class-weights balanced`: rows of rare classes get a higher weight in the loss, so that all classes count alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from linklab.cli import UserError, say
from linklab.tasks.examples import Example
from linklab.tasks.task import Task
from linklab.training.answer_loss import EncodedExamples

SHOWN = 8  # most classes in the printed line of weights


def weigh(train: EncodedExamples, validation: EncodedExamples, rows: Sequence[Example], judged: Sequence[Example],
          task: Task) -> dict[str, float]:  # fmt: skip
    """Give every encoded row the weight of its class, in training and validation; returns the weights.

    The class is that of the first target. A validation row whose class has no training row gets the largest weight.
    Raises a UserError if the first target is not a class.
    """
    target = task.targets[0]
    require_class_first(task, "--class-weights balanced")
    weights = balanced_weights([row.target[target.name] for row in rows])
    for encoded, examples in ((train, rows), (validation, judged)):
        for item, row in zip(encoded.items, examples, strict=True):
            item["weight"] = weights.get(row.target[target.name], max(weights.values()))
    shown = sorted(weights.items(), key=lambda pair: -pair[1])
    more = f", and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    say("class weights: " + ", ".join(f"{name} {weight:.3g}" for name, weight in shown[:SHOWN]) + more)
    return weights


def require_class_first(task: Task, option: str) -> None:
    """Raise a UserError that names `option` if the answer does not begin with a class."""
    target = task.targets[0]
    if target.kind != "class" or task.ask == "choices":
        why = "--ask choices asks for numbers" if task.ask == "choices" else f"'{target.name}' is a {target.kind}"
        raise UserError(f"{option} needs a class as first target; {why}; leave it out")


def balanced_weights(classes: Sequence[str]) -> dict[str, float]:
    """Return rows / (classes * rows of the class), with mean 1 over the rows: ["a", "a", "a", "b"] -> .67, 2."""
    counts = Counter(classes)
    return {name: len(classes) / (len(counts) * n) for name, n in counts.items()}
