"""Gemma's turn format, and where in it the answer starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from linklab.cli import UserError

# The format Gemma 3 was tuned on (https://ai.google.dev/gemma/docs/core/prompt-structure), as a chat template: the base
# model comes without one.
GEMMA_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
END_OF_TURN = "<end_of_turn>"


def ensure_chat_template(tokenizer) -> bool:
    """Give a Gemma tokenizer without chat template Gemma's; returns whether it was added.

    Raises a UserError for any other tokenizer without one: guessing a format would train a model nobody can call.
    """
    if tokenizer.chat_template:
        return False
    if END_OF_TURN not in tokenizer.get_vocab():
        raise UserError(
            "the tokenizer has no chat template and is not Gemma's; choose an instruction-tuned --base-model"
        )
    tokenizer.chat_template = GEMMA_CHAT_TEMPLATE
    return True


def encode_prompt(tokenizer: Any, prompt: str, history: Sequence[tuple[str, str]] = ()) -> list[int]:
    """Return the tokens up to where the model starts to answer; `history` holds (role, text) of earlier turns."""
    turns = [{"role": role, "content": text} for role, text in (*history, ("user", prompt))]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_answer(tokenizer, answer: str) -> list[int]:
    """Return the tokens the model should write: the answer and the end of its turn."""
    return tokenizer(answer, add_special_tokens=False)["input_ids"] + [end_token(tokenizer)]


def end_token(tokenizer) -> int:
    """Return the token that ends an answer."""
    token = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    return token if token not in (None, tokenizer.unk_token_id) else tokenizer.eos_token_id
