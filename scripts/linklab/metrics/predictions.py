"""predictions.jsonl: one answer per row, without the truth; a file that does not match the rows is rejected."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from linklab import files
from linklab.cli import UserError

FILE = "predictions.jsonl"
_KEYS = {"id", "raw_text", "answer", "error", "choices"}


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One predictor's answer to one row.

    `answer` maps a target to its text, or None if no answer could be read. `choices` ranks a class target's legal
    answers, best first, each with its natural-log probability, or None if the predictor has no probabilities.
    """

    id: str
    raw_text: str = ""
    answer: dict[str, str | None] | None = None
    error: str | None = None
    choices: dict[str, list[tuple[str, float | None]]] = dataclasses.field(default_factory=dict)


def read_predictions(path: str | Path, expected_ids: Iterable[str]) -> dict[str, Prediction]:
    """Read predictions, in the order of `expected_ids`.

    Raises UserError with file and line for bad JSON, a wrong shape, a duplicate or unknown id, and with the first
    missing id and their count: a predictor cannot skip rows that are hard.
    """
    path = files.require_file(path)
    expected = list(expected_ids)
    known = set(expected)
    found: dict[str, tuple[Prediction, int]] = {}
    with open(path, "rb") as handle:  # bytes, so that a line that is not UTF-8 still has its number
        for number, line in enumerate(handle, start=1):
            try:
                prediction = parse_prediction(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{number}: not UTF-8 at byte {error.start}") from error
            except ValueError as error:
                raise UserError(f"{path}:{number}: {error}") from error
            if prediction.id in found:
                raise UserError(f"{path}:{number}: id '{prediction.id}' is already on line {found[prediction.id][1]}")
            if prediction.id not in known:
                raise UserError(
                    f"{path}:{number}: id '{prediction.id}' is not among the {len(expected)} rows to score; "
                    f"use the same data, --split and --max-rows as for the predictions"
                )
            found[prediction.id] = (prediction, number)
    missing = [name for name in expected if name not in found]
    if missing:
        raise UserError(
            f"{path}: no prediction for id '{missing[0]}' ({len(missing)} of {len(expected)} rows are missing); "
            f'write a line with "answer": null for a row without an answer'
        )
    return {name: found[name][0] for name in expected}


def parse_prediction(line: str) -> Prediction:
    """Return one line's prediction; ValueError says what is wrong with it."""
    try:
        value = files.parse_json(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at column {error.colno} ({error.msg})") from error
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is expected, found {type(value).__name__}")
    strange = sorted(value.keys() - _KEYS)
    if strange:
        raise ValueError(f"unknown key '{strange[0]}'; a prediction has {', '.join(sorted(_KEYS))}")
    if not isinstance(value.get("id"), str) or not value["id"]:
        raise ValueError("'id' must be a text")
    answer, choices = value.get("answer"), value.get("choices") or {}
    if answer is not None and not (
        isinstance(answer, dict) and all(text is None or isinstance(text, str) for text in answer.values())
    ):
        raise ValueError("'answer' must be null or map each target to a text or null (numbers are texts: \"594\")")
    if not isinstance(choices, dict):
        raise ValueError("'choices' must map a target to [[text, log-probability], …]")
    return Prediction(
        id=value["id"],
        raw_text=_text_or_none(value, "raw_text") or "",
        answer=answer,
        error=_text_or_none(value, "error"),
        choices={target: _parse_ranking(target, ranking) for target, ranking in choices.items()},
    )


def _text_or_none(value: dict, key: str) -> str | None:
    text = value.get(key)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"'{key}' must be a text or null")
    return text


def _parse_ranking(target: str, ranking: object) -> list[tuple[str, float | None]]:
    """Check one target's ranking: distinct texts, log-probabilities at most 0, best first."""
    where = f"choices of '{target}'"
    if not isinstance(ranking, list):
        raise ValueError(f"{where} must be [[text, log-probability], …]")
    pairs = [_parse_pair(where, pair) for pair in ranking]
    texts = [text for text, _ in pairs]
    if len(set(texts)) < len(texts):
        raise ValueError(f"{where}: a text is ranked twice")
    scores = [score for _, score in pairs if score is not None]
    if scores and len(scores) < len(pairs):
        raise ValueError(f"{where}: some have a log-probability and some have null")
    _check_scores(where, scores)
    return pairs


def _parse_pair(where: str, pair: object) -> tuple[str, float | None]:
    if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
        raise ValueError(f"{where}: {json.dumps(pair)} is not [text, log-probability]")
    text, score = pair
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise ValueError(f"{where}: log-probability {json.dumps(score)} is neither a number nor null")
    return text, None if score is None else float(score)


def _check_scores(where: str, scores: Sequence[float]) -> None:
    """Raise a ValueError for scores that cannot be the log-probabilities of distinct texts, best first."""
    if any(not math.isfinite(score) or score > 1e-6 for score in scores):
        raise ValueError(f"{where}: a natural-log probability must be finite and at most 0")
    if any(later > earlier + 1e-9 for earlier, later in zip(scores, scores[1:], strict=False)):
        raise ValueError(f"{where}: must be ranked best first")
    if sum(math.exp(score) for score in scores) > 1.001:
        raise ValueError(f"{where}: the probabilities sum to more than 1")


def write_predictions(path: str | Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions as JSONL, atomically."""
    with files.atomic_write(path) as handle:
        for prediction in predictions:
            value = dataclasses.asdict(prediction)
            value["choices"] = {
                target: [[text, score if score is None else round(score, 6)] for text, score in ranking]
                for target, ranking in prediction.choices.items()
            }
            handle.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
