"""Chat formats: Gemma's template, the tokens before an answer, and the tokens that end it."""

from __future__ import annotations

import contextlib
import functools
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

from linklab.cli import UserError

# Google's template of gemma-3-it (https://ai.google.dev/gemma/docs/core/prompt-structure); the base model has none.
# A system message goes in front of the first user message. The `generation` marks enclose the assistant's tokens:
# TRL's assistant_only_loss and transformers' return_assistant_tokens_mask need them.
GEMMA_CHAT_TEMPLATE = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = '' -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- macro text_of(content) -%}
    {%- if content is string -%}
        {{ content | trim }}
    {%- elif content is iterable -%}
        {%- for item in content -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception('Invalid content type') }}
    {%- endif -%}
{%- endmacro -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif -%}
    {%- if message['role'] == 'assistant' -%}
        {{ '<start_of_turn>model\n' + (first_user_prefix if loop.first else '') }}
        {%- generation -%}
            {{ text_of(message['content']) + '<end_of_turn>' }}
        {%- endgeneration -%}
    {%- else -%}
        {{ '<start_of_turn>' + message['role'] + '\n' + (first_user_prefix if loop.first else '') }}
        {{- text_of(message['content']) + '<end_of_turn>' }}
    {%- endif -%}
    {{ '\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
"""
END_OF_TURN = "<end_of_turn>"
_ANSWER = "ANSWER"  # a placeholder answer, to find the tokens that end a turn
# Templates of Llama 3, SmolLM3 and others print today's date. Here they print the default date of Llama's template.
TEMPLATE_DATE = date(2024, 7, 26)
TEMPLATE_S = 10.0  # a template takes milliseconds; one that loops forever comes from a model not to be trusted


@contextlib.contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raise a UserError if the block takes more processor time; has no effect on Windows and outside the main thread.

    Processor time and not wall-clock time: on a busy machine a good template may wait for seconds.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise UserError(f"{what} did not end within {seconds:.0f} s of processor time; do not use this "
                        f"model")  # fmt: skip

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def ensure_chat_template(tokenizer: Any) -> bool:
    """Give a Gemma tokenizer its chat template if it has none, and fix the date that templates print.

    Returns whether a template was added. Raises a UserError for any other tokenizer without a template: with a guessed
    format the trained model could not be used.
    """
    if template := tokenizer.chat_template:  # a text, or several by name
        named = isinstance(template, dict)
        tokenizer.chat_template = (
            {name: with_fixed_date(text) for name, text in template.items()} if named else with_fixed_date(template)
        )
        return False
    if END_OF_TURN not in tokenizer.get_vocab():
        raise UserError(
            "the tokenizer has no chat template and is not Gemma's; choose an instruction-tuned --base-model"
        )
    tokenizer.chat_template = GEMMA_CHAT_TEMPLATE
    return True


def with_fixed_date(template: str) -> str:
    """Return a chat template that prints TEMPLATE_DATE instead of today's date.

    Otherwise a prompt would change from day to day, and differ from the training prompts. The template is saved with
    the model, so every program prints the same date.
    """
    return re.sub(
        r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""", lambda found: f'"{TEMPLATE_DATE.strftime(found[2])}"', template
    )


def without_generation_marks(template: str) -> str:
    """Return a chat template without its `generation` marks, which plain Jinja and llama.cpp do not know."""
    return re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "{#- -#}", template)


def encode_prompt(tokenizer: Any, prompt: str, history: Sequence[tuple[str, str]] = ()) -> list[int]:
    """Return the tokens before the model's answer; `history` holds (role, text) of earlier turns."""
    turns = [{"role": role, "content": text} for role, text in (*history, ("user", prompt))]
    with time_limit(TEMPLATE_S, "the tokenizer's chat template"):
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_answer(tokenizer: Any, answer: str) -> list[int]:
    """Return the tokens the model should write: the answer and the end-of-turn token."""
    return tokenizer(answer, add_special_tokens=False)["input_ids"] + [end_token(tokenizer)]


def end_token(tokenizer: Any) -> int:
    """Return the token that ends an answer: the chat template writes it after the assistant's text.

    <end_of_turn> for Gemma, <|im_end|> for Qwen and SmolLM, <|eot_id|> for Llama 3, <|end|> for Phi, </s> for Mistral.
    """
    return _end_token(tokenizer, tokenizer.chat_template)


@functools.lru_cache(maxsize=8)
def _end_token(tokenizer: Any, template: Any) -> int:
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _ANSWER}]
    tail = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(_ANSWER)[2]
    behind = tokenizer(tail, add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return next((token for token in behind if token in special), tokenizer.eos_token_id)


def stop_tokens(tokenizer: Any) -> list[int]:
    """Return all tokens that stop generation, sorted: the tokenizer's end of text and the end of a turn."""
    return sorted({end_token(tokenizer), tokenizer.eos_token_id} - {None})
