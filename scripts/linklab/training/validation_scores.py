"""Validation loss and accuracy of a training, equal for any number of processes.

If every token of the right answer is the most probable next token, the model would write that answer: so accuracy comes
from the logits of the loss, without writing anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from linklab.tasks.examples import Example
from linklab.tasks.task import Task
from linklab.training.answer_loss import IGNORED, AnswerCollator, EncodedExamples


def mark_judged(encoded: EncodedExamples, examples: Sequence[Example], task: Task, tokenizer: Any) -> bool:
    """Store in each encoded row how many answer tokens must be right (`judged`); returns False if none can be checked.

    These are the tokens of the classes at the start of the answer, with the separator or end after them. Numbers do not
    count: they are hardly ever written exactly, and are scored by their error later.
    """
    if task.ask == "choices":  # an answer is a number; the best choice is known only when all are ranked
        return False
    classes = 0
    while classes < len(task.targets) and task.targets[classes].kind == "class":
        classes += 1
    if not classes:
        return False
    for item, example in zip(encoded.items, examples, strict=True):
        ((start, end),) = item["answers"]
        n_answer = end - start
        if classes == len(task.targets):
            item["judged"] = n_answer
        else:
            length = len(task.write_answer(example.target, classes))
            ends = [stop for _, stop in tokenizer(example.answer, add_special_tokens=False,
                                                  return_offsets_mapping=True)["offset_mapping"]]  # fmt: skip
            item["judged"] = max(1, sum(stop <= length for stop in ends))
    return True


class HeldOutCollator(AnswerCollator):
    """Adds `judged`, (batch,), to the batches of rows that have it (`mark_judged`)."""

    def __call__(self, items: list[dict]) -> dict:
        """Return the batch of AnswerCollator, with `judged` if the rows have it."""
        import torch

        batch = super().__call__(items)
        if "judged" in items[0]:
            batch["judged"] = torch.tensor([item["judged"] for item in items])
        return batch


class EvenRows:
    """Encoded rows, filled up to a multiple of `multiple` with rows that have no answer and so do not count.

    Several processes take the same number of batches each; without the filling, some rows would count twice.
    """

    def __init__(self, encoded: EncodedExamples, multiple: int) -> None:
        self.encoded, self.n = encoded, math.ceil(len(encoded) / multiple) * multiple

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict:
        if index < len(self.encoded):
            return self.encoded[index]
        first = self.encoded[0]
        empty = {"input_ids": first["input_ids"][:1], "shared": 1, "answers": []}
        return empty | ({"judged": 0} if "judged" in first else {})


def count_right(logits: Any, labels: Any, judged: Any) -> Any:
    """Return the number of rows in which the model would write every judged answer token.

    `logits` (answer tokens, vocab), `labels` (batch, tokens), `judged` (batch,): number of answer tokens that count, 0
    for a filling row.
    """
    import torch

    wanted = labels[:, 1:] != IGNORED
    wrong = torch.zeros_like(wanted)
    wrong[wanted] = logits.argmax(-1) != labels[:, 1:][wanted]
    counted = wanted & (wanted.cumsum(1) <= judged[:, None])
    return (~(wrong & counted).any(1) & (judged > 0)).sum()
