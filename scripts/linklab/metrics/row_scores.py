"""Scores of each row: right or wrong, error, confidence. Every mean metric is the mean of one of these columns."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from linklab.cli import UserError
from linklab.metrics.predictions import Prediction
from linklab.tables.schema import read_number

if TYPE_CHECKING:
    from linklab.tasks.examples import Example
    from linklab.tasks.task import Target

TOP_K = 3
NEAR_BEST = 0.05  # an answer within 5 % of the best utility is as good in practice: the gap is below measurement noise
INVALID = "(no legal answer)"  # replaces an answer that cannot be used; no class has this name
SMALLEST_PROBABILITY = float(np.finfo(float).eps)  # as in scikit-learn's log_loss: a confident miss stays finite


@dataclasses.dataclass
class JudgedRows:
    """One target's rows, in the order of the examples.

    `columns` maps a metric to its value on each row. `answers` holds texts (class, text) or numbers (number), INVALID
    or NaN for an invalid one. `confidences` are the probabilities of the answers, None if the predictor has none.
    """

    target: str
    kind: str
    unit: str
    truth: list[Any]
    answers: list[Any]
    columns: dict[str, np.ndarray]
    confidences: np.ndarray | None = None


def answer_of(prediction: Prediction, target: str) -> str | None:
    """Return the answer's text for one target, or None."""
    return None if prediction.answer is None else prediction.answer.get(target)


def judge_rows(
    examples: Sequence[Example], predictions: Mapping[str, Prediction], target: Target, top_k: int = TOP_K
) -> JudgedRows:
    """Judge every row for one target, by the target's kind."""
    if target.kind == "class":
        return judge_class(examples, predictions, target, top_k)
    judge = judge_text if target.kind == "text" else judge_number
    return judge(examples, predictions, target)


def judge_class(
    examples: Sequence[Example], predictions: Mapping[str, Prediction], target: Target, top_k: int = TOP_K
) -> JudgedRows:
    """Judge a class target. An answer outside the row's legal choices is invalid: wrong, regret 1, confidence 1."""
    name = target.name
    given = [predictions[example.id] for example in examples]
    truth = [example.target[name] for example in examples]
    answers = [_legal(answer_of(p, name), e.choices.get(name)) for p, e in zip(given, examples, strict=True)]
    invalid = np.array([answer == INVALID for answer in answers])
    right = np.array([answer == true for answer, true in zip(answers, truth, strict=True)])
    columns = {"accuracy": right.astype(float), "invalid_share": invalid.astype(float)}

    rankings = [prediction.choices.get(name, []) for prediction in given]
    if any(rankings) and any(len(example.choices.get(name, ())) > top_k for example in examples):  # else all are hits
        hits = [true in [text for text, _ in ranking[:top_k]] for true, ranking in zip(truth, rankings, strict=True)]
        columns[f"top{top_k}_accuracy"] = (np.array(hits) & ~invalid).astype(float)
    confidences = None
    probabilities = [{t: math.exp(s) for t, s in ranking if s is not None} for ranking in rankings]
    if any(probabilities):
        of_truth = np.array([p.get(true, 0.0) for p, true in zip(probabilities, truth, strict=True)])
        of_truth[invalid] = 0.0
        columns["log_loss"] = -np.log(np.clip(of_truth, SMALLEST_PROBABILITY, 1.0))
        # An answer without a probability counts with confidence 1.
        confidences = np.array([p.get(answer, 1.0) for p, answer in zip(probabilities, answers, strict=True)])
        confidences = np.minimum(confidences, 1.0)
    if all(name in example.values for example in examples):
        columns |= _judge_utility(examples, answers, name)
    return JudgedRows(name, "class", "", truth, answers, columns, confidences)


def _legal(text: str | None, choices: Sequence[str] | None) -> str:
    if text is None or text == "" or (choices is not None and text not in choices):
        return INVALID
    return text


def _judge_utility(examples: Sequence[Example], answers: Sequence[str], name: str) -> dict[str, np.ndarray]:
    """Return regret, (best - chosen) / best, and whether the chosen utility is within 5 % of the best."""
    regret = np.ones(len(answers))
    near = np.zeros(len(answers))
    for i, (example, answer) in enumerate(zip(examples, answers, strict=True)):
        utility = dict(zip(example.choices[name], example.values[name], strict=True))
        best = max(utility.values())
        if not best > 0:
            raise UserError(f"row '{example.id}': the best utility of '{name}' is {best}; regret needs more than 0")
        if answer != INVALID:
            regret[i] = (best - utility[answer]) / best
            near[i] = utility[answer] >= (1 - NEAR_BEST) * best
    return {"regret": regret, "within_5pct": near}


def judge_number(examples: Sequence[Example], predictions: Mapping[str, Prediction], target: Target) -> JudgedRows:
    """Judge a number target. An invalid answer has the error of the answer 0 and is never within a tolerance."""
    name = target.name
    truth = np.array([read_number(example.target[name]) for example in examples])
    if np.isnan(truth).any():
        example = examples[int(np.isnan(truth).argmax())]
        raise UserError(f"row '{example.id}': the target '{name}' = {example.target[name]!r} is not a number")
    answers = np.array([read_number(answer_of(predictions[example.id], name)) for example in examples])
    invalid = np.isnan(answers)
    errors = np.abs(np.where(invalid, 0.0, answers) - truth)
    columns = {"mae": errors, "invalid_share": invalid.astype(float)}
    if (truth != 0).all():  # a share of zero is not defined
        columns["mape"] = errors / np.abs(truth)
    for percent in (5, 10):
        columns[f"within_{percent}pct"] = ((errors <= percent / 100 * np.abs(truth)) & ~invalid).astype(float)
    return JudgedRows(name, "number", target.unit, truth.tolist(), answers.tolist(), columns)


def judge_text(examples: Sequence[Example], predictions: Mapping[str, Prediction], target: Target) -> JudgedRows:
    """Judge a text target: exact, exact once normalised, words in common, and characters in common (chrF).

    Outer white space never counts. An empty answer is invalid, and scores 0 everywhere.
    """
    truth = [example.target[target.name].strip() for example in examples]
    given = [(answer_of(predictions[example.id], target.name) or "").strip() for example in examples]

    def column(compare: Callable[[str, str], float]) -> np.ndarray:
        return np.array([compare(answer, true) if answer else 0.0 for answer, true in zip(given, truth, strict=True)])

    columns = {
        "exact_match": column(lambda answer, true: float(answer == true)),
        "normalised_match": column(lambda answer, true: float(normalise(answer) == normalise(true))),
        "token_f1": column(token_f1),
        "chrf": column(_chrf()),
        "invalid_share": np.array([float(not answer) for answer in given]),
    }
    return JudgedRows(target.name, "text", "", truth, [answer or INVALID for answer in given], columns)


def normalise(text: str) -> str:
    """Return a text without case, punctuation and extra white space: "The  Cat!" -> "the cat".

    A text of only punctuation is not changed.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(" " if unicodedata.category(c)[0] == "P" else c for c in folded).split()
    return " ".join(words) or text


def token_f1(answer: str, true: str) -> float:
    """Return the F1 of the words two normalised texts share (as SQuAD counts them): ("a b", "b c") -> 0.5."""
    given, wanted = normalise(answer).split(), normalise(true).split()
    shared = (Counter(given) & Counter(wanted)).total()
    return 2 * shared / (len(given) + len(wanted)) if shared else 0.0


def _chrf() -> Callable[[str, str], float]:
    """Return sacrebleu's sentence-level chrF (Popović 2015; 6-grams, beta 2) as a share of 1."""
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    return lambda answer, true: metric.sentence_score(answer, [true]).score / 100


def hash_rows(examples: Sequence[Example]) -> dict[str, str]:
    """Return hashes of ids, prompts and labels, in id order: two runs must have the same to be compared."""
    ordered = sorted(examples, key=lambda example: example.id)
    return {
        "data": hash_ids([example.id for example in ordered]),
        "prompts": _hash_lines([[example.id, example.prompt] for example in ordered]),
        "labels": _hash_lines([[example.id, dict(sorted(example.target.items()))] for example in ordered]),
    }


def hash_ids(ids: Sequence[str]) -> str:
    """Return the hash of a run's ids, in any order: `hashes.data` of metrics.json."""
    return _hash_lines(sorted(ids))


def _hash_lines(rows: Sequence) -> str:
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()
