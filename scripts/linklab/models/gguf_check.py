"""Check that llama.cpp gives the same answers from a GGUF file as the model it was written from."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from linklab import cli
from linklab.cli import CheckFailed, UserError, say
from linklab.models.chat import end_token
from linklab.parallel import usable_cores

ANSWER_TOKENS = 40
EQUAL_SHARE = 0.95  # float16 rounds: if two tokens are equally likely, a greedy answer may change


def require_llama_cpp() -> None:
    """Raise a UserError if llama.cpp is not installed."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise UserError("--check needs llama.cpp; run: pip install xllamacpp==2026.10.11549, or leave --check out")


def compare_answers(path: Path, model: Any, tokenizer: Any, prompts: Sequence[str]) -> None:
    """Compare greedy answers of llama.cpp and the model to every prompt; raises CheckFailed if too few are equal."""
    equal, progress = 0, cli.Progress("check", len(prompts), unit="prompts")
    ask = open_llama_cpp(path)
    for done, prompt in enumerate(prompts, start=1):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        expected, found = write_greedily(model, tokenizer, text), ask(text.removeprefix(tokenizer.bos_token))
        equal += expected == found
        if expected != found:
            say(f"prompt {done}: the model answers {expected!r}, the file {found!r}")
        progress.at(done)
    say(f"check: {equal} of {len(prompts)} answers equal")
    if equal < EQUAL_SHARE * len(prompts):
        raise CheckFailed(f"{path}: {equal} of {len(prompts)} answers equal the model's; at least 95 % are expected")


def write_greedily(model: Any, tokenizer: Any, text: str) -> str:
    """Return what the model writes greedily after `text`, without the end-of-turn token."""
    import torch

    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        output = model.generate(
            **inputs, do_sample=False, max_new_tokens=ANSWER_TOKENS,
            eos_token_id=[tokenizer.eos_token_id, end_token(tokenizer)], pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def open_llama_cpp(path: Path) -> Callable[[str], str]:
    """Return a function that lets llama.cpp continue a text greedily."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 2048, 1, False, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = usable_cores()
    server = xllamacpp.Server(params)

    def ask(text: str) -> str:
        answer = server.handle_completions({"prompt": text, "temperature": 0, "max_tokens": ANSWER_TOKENS})
        return answer["choices"][0]["text"].strip()

    return ask
