"""Check that converted rows are short enough for a base model, before training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from linklab import cli
from linklab.models import load
from linklab.tasks.jsonl import read_lines
from linklab.training.answer_loss import encode_question


def check_lengths(shards: Sequence[Path], base_model: str, max_length: int) -> None:
    """Raise CheckFailed if a conversation has more than `max_length` tokens of the base model's tokenizer."""
    tokenizer = load.load_tokenizer(base_model)
    lines = too_long = longest = 0
    first = ""
    for path in shards:
        for value, question in read_lines(path):
            length = sum(map(len, encode_question(tokenizer, question)))
            lines, longest = lines + 1, max(longest, length)
            if length > max_length:
                too_long, first = too_long + 1, first or value["id"]
    if too_long:
        raise cli.CheckFailed(
            f"{too_long:,} of {lines:,} conversations have more than --max-length {max_length} tokens of {base_model} "
            f"(first: {first}; longest: {longest}); raise --max-length here and in training, shorten the template "
            f"or use --drop-columns"
        )
    cli.say(f"tokens of {base_model}: at most {longest} per conversation, {max_length} allowed")
