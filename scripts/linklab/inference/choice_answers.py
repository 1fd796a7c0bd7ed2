"""Rows with one question per choice: the worth of each choice, its probability to be the best, the row's answer.

The prompts about one row's choices begin with the same tokens. The model reads these once; then each choice continues
from a copy of their cached keys and values, in one batch with the choices of other rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from linklab.cli import UserError
from linklab.inference import number_distributions
from linklab.inference.choice_scorer import ChoiceScorer, PromptCache
from linklab.models.chat import encode_prompt
from linklab.models.tries import count_shared
from linklab.tables.schema import Column, read_number
from linklab.tasks.examples import Example
from linklab.tasks.task import Task

NUMBER_TOKENS = 16  # about how many tokens are read to score one choice's number; used to size batches
# Improbable beginnings of a number are not followed, so smaller probabilities than this are not known.
SMALLEST_CHANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class RowScores:
    """A model's scores of one row's choices; arrays are (choices,), in the row's order.

    `expected` and `median` are in the unit of the worth (Mbit/s for links), NaN if the model could write no legal
    number. `chances`, the probability of each choice to be the best, sum to 1; None if numbers were written greedily.
    """

    choices: list[str]
    expected: np.ndarray
    median: np.ndarray
    chances: np.ndarray | None

    @property
    def ranking(self) -> list[int]:
        """Indices of the choices, highest expected worth first; ties in the order of their texts."""
        worth = np.nan_to_num(self.expected, nan=-math.inf)
        return sorted(range(len(self.choices)), key=lambda i: (-worth[i], self.choices[i]))


def score_rows(
    scorer: ChoiceScorer, examples: Sequence[Example], task: Task, *, numbers: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[RowScores]:  # fmt: skip
    """Return the scores of every example's choices, from the exact distribution of each choice's number.

    With `numbers` "greedy" the worth of a choice is the number that greedy writing gives. Raises a UserError for a row
    without a question about each of its choices.
    """
    column, unit = task.answer_column, task.answer_unit
    found: dict[int, RowScores] = {}
    for batch, cache, owners in _read_questions(scorer, examples, task):
        no_tokens: list[list[int]] = [[] for _ in owners]
        found_numbers = number_distributions.distributions(
            scorer, cache, no_tokens, "", no_tokens, column, greedy=numbers == "greedy"
        )
        for i in batch:
            own = [row for row, owner in zip(found_numbers, owners, strict=True) if owner == i]
            found[i] = _score_row(examples[i].choices[task.choice_target.name], own, unit, numbers != "greedy")
        if progress:
            progress(len(found))
    return [found[i] for i in range(len(examples))]


def _score_row(choices: list[str], given: list[dict[str, float]], unit: float, with_chances: bool) -> RowScores:
    expected = [sum(float(text) * p for text, p in row.items()) * unit if row else math.nan for row in given]
    median = [float(number_distributions.weighted_median(row)) * unit if row else math.nan for row in given]
    chances = best_chances([{float(text): p for text, p in row.items()} for row in given]) if with_chances else None
    return RowScores(choices, np.array(expected), np.array(median), chances)


def best_chances(distributions: Sequence[Mapping[float, float]]) -> np.ndarray:
    """Return the probability of each of several independent numbers to be the largest, (numbers,); ties are shared.

    P(i is the largest) = sum over v of p_i(v) * integral over u in 0..1 of prod over j != i of (F_j(v) + u p_j(v)),
    where F_j(v) is the probability below v. The integral over u shares ties evenly; its integrand is a polynomial in u,
    which Gauss-Legendre quadrature integrates exactly. A number without values is never the largest.
    """
    values = [-math.inf, *sorted({value for row in distributions for value in row})]  # -inf: numbers without values
    p = np.array([[row.get(value, 0.0) for value in values] for row in distributions])  # (numbers, values)
    p[~p.any(axis=1), 0] = 1.0
    below = np.cumsum(p, axis=1) - p
    nodes, weights = np.polynomial.legendre.leggauss(len(p) // 2 + 1)
    at = below[:, :, None] + p[:, :, None] * (nodes + 1) / 2  # (numbers, values, nodes)
    ones = np.ones_like(at[:1])
    before = np.cumprod(np.concatenate([ones, at[:-1]]), axis=0)  # product of the other rows, without a division
    after = np.cumprod(np.concatenate([ones, at[:0:-1]]), axis=0)[::-1]
    chances = np.einsum("iv,ivq,q->i", p, before * after, weights / 2)
    return chances / chances.sum()


def make_non_increasing(chances: np.ndarray) -> np.ndarray:
    """Return `chances` averaged over neighbours where they rise, so that they never do; none is below SMALLEST_CHANCE.

    In a ranking by expected worth, a choice with a less certain worth may have a higher probability to be the best than
    the choice above it. Predictions must list probabilities in falling order, so the two get their mean.
    """
    blocks: list[tuple[float, int]] = []  # (sum, size)
    for chance in np.maximum(chances, SMALLEST_CHANCE):
        blocks.append((chance, 1))
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] < blocks[-1][0] / blocks[-1][1]:
            (total, size), (more, n) = blocks[-2:]
            blocks[-2:] = [(total + more, size + n)]
    levelled = np.array([total / size for total, size in blocks for _ in range(size)])
    return levelled / levelled.sum()


def to_prediction(example: Example, scores: RowScores, task: Task) -> dict:
    """Return the predictions.jsonl value of a row: the choice with the highest expected worth, and its median worth."""
    ranking = scores.ranking
    best = ranking[0]
    if math.isnan(scores.expected[best]):
        return _unanswered(example, "no legal number could be written about any choice")
    target = task.choice_target
    if scores.chances is None:
        ranked = [[scores.choices[i], None] for i in ranking]
    else:
        chances = np.log(make_non_increasing(scores.chances[ranking])).tolist()
        ranked = [[scores.choices[i], chance] for i, chance in zip(ranking, chances, strict=True)]
    answer = answer_texts(task, scores.choices[best], scores.median[best])
    return {
        "id": example.id, "raw_text": task.write_answer(answer), "answer": answer, "error": None,
        "choices": {target.name: ranked},
    }  # fmt: skip


def answer_texts(task: Task, choice: str, worth: float) -> dict[str, str]:
    """Return the text of each target: the choice, and its worth in the format and range of the worth's column."""
    answer = {task.choice_target.name: choice}
    if task.worth_target is not None:
        answer[task.worth_target.name] = write_number(worth, task.schema[task.worth_target.name])
    return {target.name: answer[target.name] for target in task.targets}


def write_number(value: float, column: Column) -> str:
    """Return a number in the format of a column's cells, clipped to the column's range."""
    low, high = (limit if limit is not None else value for limit in (column.low, column.high))
    value = min(max(value, low), high)
    return f"{value:.{0 if column.kind == 'int' else column.decimals or 0}f}"


def write_rows(
    scorer: ChoiceScorer, examples: Sequence[Example], task: Task, *, max_new_tokens: int = 8,
    progress: Callable[[int], None] | None = None,
) -> list[dict]:  # fmt: skip
    """Return a prediction of every example from what the model writes freely about each choice.

    The answer is the choice with the largest number; ties are broken by the order of the choices' texts.
    """
    found: dict[int, dict] = {}
    for batch, cache, owners in _read_questions(scorer, examples, task):
        written = scorer.write_after(cache, max_new_tokens=max_new_tokens)
        for i in batch:
            texts = [text.strip() for text, owner in zip(written, owners, strict=True) if owner == i]
            found[i] = _read_written(examples[i], texts, task)
        if progress:
            progress(len(found))
    return [found[i] for i in range(len(examples))]


def _read_written(example: Example, texts: list[str], task: Task) -> dict:
    choices = example.choices[task.choice_target.name]
    raw = "\n".join(f"{choice}: {text}" for choice, text in zip(choices, texts, strict=True))
    worths = np.array([read_number(text) for text in texts])
    scores = RowScores(choices, worths * task.answer_unit, worths, None)
    best = scores.ranking[0]
    if math.isnan(worths[best]):
        return _unanswered(example, "no number was written about any choice", raw)
    answer = answer_texts(task, choices[best], scores.expected[best])
    return {"id": example.id, "raw_text": raw, "answer": answer, "error": None, "choices": {}}


def _unanswered(example: Example, why: str, raw: str = "") -> dict:
    return {"id": example.id, "raw_text": raw, "answer": None, "error": why, "choices": {}}


def _read_questions(
    scorer: ChoiceScorer, examples: Sequence[Example], task: Task
) -> Iterator[tuple[list[int], PromptCache, list[int]]]:
    """Let the model read every question; yields per batch (its examples, cache of its questions, example of each)."""
    asked = []
    for example in examples:
        choices = example.choices[task.choice_target.name]
        if [question.choice for question in example.questions] != choices:
            raise UserError(
                f"row '{example.id}': only {len(example.questions)} of its {len(choices)} choices have a question: a "
                f"folder of conversations holds only choices with a known value; give the table with --csv"
            )
        asked.append([encode_prompt(scorer.tokenizer, question.prompt) for question in example.questions])
    shared = [count_shared(prompts) for prompts in asked]
    sizes = [
        start + sum(len(prompt) - start + NUMBER_TOKENS for prompt in prompts)
        for start, prompts in zip(shared, asked, strict=True)
    ]
    for batch in scorer.batches(sizes):
        headers = PromptCache(len(batch))
        if any(shared[i] for i in batch):
            scorer.read(headers, [asked[i][0][: shared[i]] for i in batch])
        places = [at for at, i in enumerate(batch) for _ in asked[i]]
        cache = headers.select(places)
        scorer.read(cache, [prompt[shared[i] :] for i in batch for prompt in asked[i]])
        yield batch, cache, [batch[at] for at in places]
