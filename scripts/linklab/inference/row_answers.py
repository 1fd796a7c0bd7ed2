"""Predictions of a model for rows: restricted to legal answers, or written freely."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from linklab import cli
from linklab.cli import UserError, say
from linklab.inference import choice_answers, number_distributions
from linklab.inference.choice_scorer import ANY_NEXT, ChoiceScorer, PromptCache
from linklab.metrics import general
from linklab.models.chat import encode_answer, encode_prompt
from linklab.models.tries import log_sum, needs_end, written_scores
from linklab.tasks.examples import Example
from linklab.tasks.task import Task

TEXT_TOKENS, ANSWER_TOKENS = 256, 32  # most tokens written for a text target, for any other answer
GENERAL_TOKENS = 16  # most tokens written for a general question, which asks for one word


@dataclasses.dataclass(frozen=True)
class AskSettings:
    """The options of `cli.add_asking_options`: which model answers, and how. None: chosen from model and task."""

    model: str | None  # None: answers are read from a file
    base_model: str | None = None
    precision: str | None = None
    batch_tokens: int | None = None
    max_new_tokens: int | None = None
    numbers: str | None = None  # "median" or "greedy"
    rank_by: str | None = None  # "written" or "summed"
    free: bool = False
    general_questions: bool = False

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> AskSettings:
        """Return the options of a script that called `cli.add_asking_options`."""
        return cli.read_settings(cls, args)


def check_no_model_options(asking: AskSettings) -> None:
    """Raise a UserError for an option about the model if answers are read from --predictions."""
    for name, value in vars(asking).items():
        if value:
            option = f"--{value}" if name == "precision" else f"--{name.replace('_', '-')}"
            raise UserError(f"{option}: cannot be combined with --predictions, which holds the answers; leave it out")


def ask_model(asking: AskSettings, task: Task, examples: list[Example]) -> tuple[list[dict], dict, dict | None]:
    """Return (a prediction of every example, cost, results on general questions or None)."""
    from linklab.models import load
    from linklab.training.training import count_parameters, peak_memory_mb

    with load.quiet_transformers():
        scorer = load_scorer(asking)
        started = time.monotonic()
        progress = cli.Progress("ask", len(examples))
        if asking.free:
            answers = answer_freely(scorer, examples, task, max_new_tokens=asking.max_new_tokens, progress=progress.at)
        else:
            answers = answer_exactly(
                scorer, examples, task, numbers=asking.numbers, rank_by=asking.rank_by or "written",
                max_new_tokens=asking.max_new_tokens, progress=progress.at,
            )  # fmt: skip
        seconds = time.monotonic() - started
        general_results = general.judge(*answer_general(scorer)) if asking.general_questions else None
    cost = {
        "seconds": round(seconds, 2), "rows_per_second": round(len(examples) / seconds, 2),
        "parameters": count_parameters(scorer.model)[1], "peak_memory_mb": round(peak_memory_mb(), 1),
    }  # fmt: skip
    return answers, cost, general_results


def load_scorer(settings: AskSettings) -> ChoiceScorer:
    """Load a trained folder or any `--base-model` name, and print its precision and device."""
    import torch

    from linklab.models import load
    from linklab.training.training import count_parameters

    assert settings.model, "there is a model to ask"
    chosen = load.choose_precision(settings.precision, settings.model)
    say(f"loading {settings.model}: {chosen.name} on {load.device_name()}, {chosen.reason}")
    dtype = torch.bfloat16 if chosen.name == "bf16" else torch.float32
    load.keep_freed_memory()
    model, tokenizer = load.load_trained(settings.model, base_model=settings.base_model, dtype=dtype)
    load.fit_threads(count_parameters(model)[1])
    return ChoiceScorer(model, tokenizer, batch_tokens=settings.batch_tokens)


def answer_exactly(
    scorer: ChoiceScorer, examples: Sequence[Example], task: Task, *, numbers: str | None = None,
    rank_by: str = "written", max_new_tokens: int | None = None, progress: Callable[[int], None] | None = None,
) -> list[dict]:  # fmt: skip
    """Return a prediction (see predictions.jsonl) of every example, restricted to legal answers.

    A class target gets the most probable of the row's legal choices, with the probability of each: that of writing it
    token by token when only legal tokens are allowed. With `rank_by` "summed" it is that of writing it among all texts,
    divided by the sum over the legal ones, which favours short choices if the model is unsure. A number target gets the
    median of the numbers that may follow the targets before it, or with `numbers` "greedy" the number made of the most
    probable legal token at each step. `choice_answers` answers a task with one question per choice. A text target
    cannot be restricted: `answer_freely` writes the answer, with at most `max_new_tokens`.
    """
    if is_written(task):
        return answer_freely(scorer, examples, task, max_new_tokens=max_new_tokens, progress=progress)
    if task.ask == "choices":
        scores = choice_answers.score_rows(scorer, examples, task, numbers=numbers, progress=progress)
        return [choice_answers.to_prediction(*pair, task) for pair in zip(examples, scores, strict=True)]
    prompts = [encode_prompt(scorer.tokenizer, example.prompt) for example in examples]
    found: list[dict] = [{}] * len(examples)
    done = 0
    sizes = [max(len(prompt), scorer.count_trie_tokens(e)) for prompt, e in zip(prompts, examples, strict=True)]
    for batch in scorer.batches(sizes):
        cache = PromptCache(len(batch))
        scorer.read(cache, [prompts[i] for i in batch])
        rows = [examples[i] for i in batch]
        form = task.form
        raw = [form.head] * len(rows)
        starts = [scorer.tokens(form.head) for _ in rows]
        rankings: list[dict] = [{} for _ in rows]
        for position, target in enumerate(task.targets):
            before, behind = form.before(position), form.after(position)
            next_tokens = [scorer.next_tokens(task, position, row) for row in rows]
            if target.kind == "class":
                texts = _rank_choices(scorer, cache, rows, task, position, starts, next_tokens, rankings, rank_by)
            else:
                column, greedy = task.schema[target.name], numbers == "greedy"
                given = number_distributions.distributions(
                    scorer, cache, starts, before, next_tokens, column, greedy=greedy
                )
                texts = [number_distributions.weighted_median(row) for row in given]
            for r, text in enumerate(texts):
                written = before + form.value(text, target.kind) + behind
                raw[r] += written
                starts[r] = starts[r] + scorer.tokens(written)
        for r, i in enumerate(batch):
            found[i] = finish_prediction(rows[r], raw[r], rankings[r], task)
        done += len(batch)
        if progress:
            progress(done)
    return found


def _rank_choices(
    scorer: ChoiceScorer, cache: PromptCache, rows: Sequence[Example], task: Task, position: int,
    starts: list[list[int]], next_tokens: Sequence[Sequence[int]], rankings: list[dict], rank_by: str,
) -> list[str]:  # fmt: skip
    """Rank the legal choices of the target at `position` for every row, and return the best choice of each row.

    A choice of the last target is scored with the end of the turn. If one choice is a prefix of another (1 and 10), all
    are scored with the token after them: any of the row's `next_tokens`.
    """
    form, target = task.form, task.targets[position]
    before, behind = form.before(position), form.after(position)
    choices = []
    for row in rows:
        answers = [scorer.tokens(before + form.value(text, "class") + behind) for text in row.choices[target.name]]
        if position + 1 == len(task.targets):
            answers = [[*answer, scorer.end] for answer in answers]
        elif needs_end(answers):
            answers = [[*answer, ANY_NEXT] for answer in answers]
        choices.append(answers)
    best = []
    if rank_by == "summed":
        scores = scorer.score_choices(cache, starts, choices, next_tokens)
    else:
        tokens = scorer.score_tokens(cache, starts, choices, next_tokens)
        scores = [written_scores(*pair) for pair in zip(choices, tokens, strict=True)]
    for row, ranking, log_p in zip(rows, rankings, scores, strict=True):
        normal = log_sum(log_p)
        ranked = sorted(zip(row.choices[target.name], log_p, strict=True), key=lambda pair: -pair[1])
        ranking[target.name] = [[name, value - normal] for name, value in ranked]
        best.append(ranked[0][0])
    return best


def asked_settings(asking: AskSettings, task: Task) -> dict[str, str | bool | None]:
    """Return the `asked` entry of metrics.json; its `rank_by` is None if no class was ranked."""
    assert asking.model, "there is a model to ask"
    rank_by = (asking.rank_by or "written") if is_ranked(task, asking.free) else None
    return {"model": hash_model_name(asking.model), "free": asking.free or is_written(task), "rank_by": rank_by}


def hash_model_name(name: str) -> str:
    """Return 16 hex digits that identify a model, because results must not contain paths of this machine."""
    where = os.path.realpath(name) if os.path.exists(name) else name
    return hashlib.sha256(where.encode()).hexdigest()[:16]


def how_asked(asked: Mapping[str, Any]) -> str:
    """Return a description of how the answers were made, for tables."""
    if asked["free"]:
        return "free greedy writing"
    ways = {"written": ", ranked by what the model would write", "summed": ", ranked by summed probability", None: ""}
    return "restricted to the legal answers" + ways[asked["rank_by"]]


def is_written(task: Task) -> bool:
    """Say whether a task has a text target, whose answer can only be written freely."""
    return any(target.kind == "text" for target in task.targets)


def is_ranked(task: Task, free: bool = False) -> bool:
    """Say whether classes are ranked by their probability: restricted to legal answers, one question per row."""
    return not free and not is_written(task) and task.ask == "row" and any(t.kind == "class" for t in task.targets)


def check_rank_by(rank_by: str | None, task: Task, *, free: bool = False) -> None:
    """Raise a UserError for --rank-by if no class is ranked by its probability."""
    if rank_by is not None and not is_ranked(task, free):
        why = "--free ranks no choices" if free else "no class target is ranked by its probability here"
        if task.ask == "choices" and not free:
            why = "with one question per choice (--ask choices) choices are ranked by their expected number"
        raise UserError(f"--rank-by: {why}; leave it out")


def answer_freely(
    scorer: ChoiceScorer, examples: Sequence[Example], task: Task, *, max_new_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[dict]:  # fmt: skip
    """Return a prediction of every example from what the model writes without restrictions.

    It writes at most `max_new_tokens` (default: 256 for a text target, else 32). In a conversation of several turns it
    writes the last answer, after the true earlier turns.
    """
    if task.ask == "choices":
        return choice_answers.write_rows(scorer, examples, task, progress=progress)
    last = [example.questions[-1] for example in examples]
    prompts = [encode_prompt(scorer.tokenizer, question.prompt, question.history) for question in last]
    most = max_new_tokens or (TEXT_TOKENS if is_written(task) else ANSWER_TOKENS)
    if not max_new_tokens and task.answer_format == "json":  # the keys take tokens too
        most += len(scorer.tokens(task.write_answer({target.name: "" for target in task.targets})))
    raw = scorer.write(prompts, max_new_tokens=most, progress=progress)
    return [finish_prediction(example, text, {}, task) for example, text in zip(examples, raw, strict=True)]


def answer_general(scorer: ChoiceScorer) -> tuple[list[str], list[float]]:
    """Return, for each of `metrics.general.QUESTIONS`, (the answer written freely, the loss of its first right answer).

    A loss is in nats per token; the end-of-turn token counts as one.
    """
    prompts = [encode_prompt(scorer.tokenizer, question) for question, _ in general.QUESTIONS]
    answers = [encode_answer(scorer.tokenizer, right[0]) for _, right in general.QUESTIONS]
    cache = PromptCache(len(prompts))
    scorer.read(cache, prompts)
    scores = scorer.score_choices(cache, [[]] * len(prompts), [[answer] for answer in answers])
    losses = [-score / len(answer) for (score,), answer in zip(scores, answers, strict=True)]
    return scorer.write(prompts, max_new_tokens=GENERAL_TOKENS), losses


def finish_prediction(example: Example, raw: str, ranking: dict, task: Task) -> dict:
    """Return the predictions.jsonl value of one answer text."""
    answer, error = task.read_answer(raw, example.choices)
    return {
        "id": example.id, "raw_text": raw, "answer": answer if any(v is not None for v in answer.values()) else None,
        "error": error, "choices": ranking,
    }  # fmt: skip
