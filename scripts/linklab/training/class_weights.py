"""`--class-weights balanced`: rows of rare classes count for more in the loss, so that every class counts alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from linklab.cli import UserError, say
from linklab.tasks.examples import Example
from linklab.tasks.task import Task
from linklab.training.answer_loss import EncodedExamples

SHOWN = 8  # classes named in the line that says the weights


def weigh(train: EncodedExamples, validation: EncodedExamples, rows: Sequence[Example], judged: Sequence[Example],
          task: Task) -> dict[str, float]:  # fmt: skip
    """Give every encoded row its class's weight, in training and in validation; returns the weights.

    The class is that of the first target. A validation row of a class that no training row has weighs as one of the
    rarest. Raises a UserError where the answer does not begin with a class.
    """
    target = task.targets[0]
    if target.kind != "class" or task.ask == "choices":
        why = "--ask choices asks for numbers" if task.ask == "choices" else f"'{target.name}' is a {target.kind}"
        raise UserError(f"--class-weights balanced needs a class as first target; {why}; leave it out")
    weights = balanced_weights([row.target[target.name] for row in rows])
    for encoded, examples in ((train, rows), (validation, judged)):
        for item, row in zip(encoded.items, examples, strict=True):
            item["weight"] = weights.get(row.target[target.name], max(weights.values()))
    shown = sorted(weights.items(), key=lambda pair: -pair[1])
    more = f", and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    say("class weights: " + ", ".join(f"{name} {weight:.3g}" for name, weight in shown[:SHOWN]) + more)
    return weights


def balanced_weights(classes: Sequence[str]) -> dict[str, float]:
    """Return rows / (classes * rows of the class), whose mean over the rows is 1: ["a", "a", "a", "b"] -> .67, 2."""
    counts = Counter(classes)
    return {name: len(classes) / (len(counts) * n) for name, n in counts.items()}
