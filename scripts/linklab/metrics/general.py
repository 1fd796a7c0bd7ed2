"""Twelve general questions: how much does a model still know after training on one task?"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from linklab import files

FILE = "general_questions.json"  # beside a run's metrics.json
# Each question with its right answers; the loss is that of the first one.
QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("What is the capital of France? Answer with one word.", ("Paris",)),
    ("What is the capital of Japan? Answer with one word.", ("Tokyo",)),
    ("How many days has a week? Answer with a number.", ("7", "seven")),
    ("What is 2 + 3? Answer with a number.", ("5", "five")),
    ("Which planet is closest to the sun? Answer with one word.", ("Mercury",)),
    ("What is the opposite of hot? Answer with one word.", ("cold", "cool")),
    ("Who wrote Romeo and Juliet? Answer with a name.", ("William Shakespeare", "Shakespeare")),
    ("Which gas do plants take from the air? Answer with its name.", ("carbon dioxide", "CO2")),
    ("What color is a clear sky by day? Answer with one word.", ("blue",)),
    ("What is the largest ocean on Earth? Answer with one word.", ("Pacific",)),
    ("What is frozen water called? Answer with one word.", ("ice",)),
    ("Translate to Spanish: thank you. Answer with one word.", ("gracias",)),
)


def judge(written: Sequence[str], losses: Sequence[float]) -> dict[str, Any]:
    """Return the content of FILE: how many of QUESTIONS were answered right, the mean loss, an entry per question.

    `written` are the answers; one is right if its first line contains a right answer as a whole word. `losses` are
    those of the right answers, in nats per token.
    """
    lines = [
        {"question": question, "expected": right[0], "answer": text.strip(), "right": _is_right(text, right),
         "loss": round(loss, 4)}
        for (question, right), text, loss in zip(QUESTIONS, written, losses, strict=True)
    ]  # fmt: skip
    return {"right": sum(line["right"] for line in lines), "n": len(lines), "loss": round(statistics.mean(losses), 4),
            "questions": lines}  # fmt: skip


def _is_right(text: str, right: Sequence[str]) -> bool:
    first = (text.strip().splitlines() or [""])[0]
    return any(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", first, re.IGNORECASE) for answer in right)


def read(folder: Path) -> dict[str, Any] | None:
    """Return the result of `judge` for a run's model, None if the model was not asked."""
    path = folder / FILE
    return files.read_json(path) if path.exists() else None
