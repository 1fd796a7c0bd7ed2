"""One scorer for models and baselines: predictions and examples in, every metric with its 95 % interval out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from linklab import files
from linklab.cli import UserError
from linklab.metrics import intervals
from linklab.metrics.metric_table import METRICS, TARGET_UNIT, find_metric, occurring_labels
from linklab.metrics.predictions import FILE as PREDICTIONS_FILE
from linklab.metrics.predictions import Prediction, write_predictions
from linklab.metrics.row_scores import INVALID, TOP_K, JudgedRows, hash_rows, judge_rows

if TYPE_CHECKING:
    from linklab.tasks.examples import Example
    from linklab.tasks.task import Task

ROLES = ("tuned", "base", "blend", "baseline", "formula", "ceiling")
METRICS_FILE, ROWS_FILE, SAMPLES_FILE = "metrics.json", "row_scores.csv", "samples.json"
COST = ("seconds", "rows_per_second", "parameters", "peak_memory_mb")
SAMPLES = 3  # prompts shown in the report


def score(
    examples: Sequence[Example],
    predictions: Mapping[str, Prediction],
    task: Task | None,
    *,
    model: str = "",
    role: str = "baseline",
    targets: Sequence[str] | None = None,
    cost: Mapping | None = None,
    description: str = "",
    asked: Mapping | None = None,
    top_k: int = TOP_K,
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
    judged: Sequence[JudgedRows] | None = None,
    warnings: Sequence[str] = (),
) -> dict:
    """Return the metrics.json value of one predictor on these examples; METRICS describes each metric.

    `targets` are the targets that the predictor answers (default: all of the task); the others are left out, not
    counted as invalid. `resamples=0` leaves out the bootstrap intervals (null). `judged` is the result of `judge` for
    the same rows, if the caller has it; otherwise `task` is needed. Every report of these figures must show `warnings`;
    `asked` is how a model was asked (model, free, rank_by), None for other predictors.
    """
    assert role in ROLES, role
    if not judged:
        assert task is not None, "the targets to judge"
        judged = judge(examples, predictions, task, targets, top_k)
    clusters = intervals.number_clusters([example.group for example in examples])
    invalid = np.any([rows.columns["invalid_share"] > 0 for rows in judged], axis=0)
    metrics = {}
    for rows in judged:
        for name, entry in score_target(rows, clusters, resamples, seed).items():
            metrics[f"{rows.target}/{name}"] = entry
    return {
        "model": model,
        "role": role,
        "description": description,
        "asked": None if asked is None else dict(asked),
        "split": examples[0].split,
        "targets": [rows.target for rows in judged],
        "n": {"expected": len(examples), "answered": int((~invalid).sum()), "invalid": int(invalid.sum())},
        "groups": int(clusters.max()) + 1,
        "metrics": metrics,
        "hashes": hash_rows(examples),
        "cost": dict.fromkeys(COST) | dict(cost or {}),
        "warnings": list(warnings),
    }


def judge(
    examples: Sequence[Example],
    predictions: Mapping[str, Prediction],
    task: Task,
    targets: Sequence[str] | None = None,
    top_k: int = TOP_K,
) -> list[JudgedRows]:
    """Judge every row for each target in `targets`, in the task's order."""
    if not examples:
        raise UserError("no rows to score: the split is empty")
    wanted = [target for target in task.targets if targets is None or target.name in targets]
    if not wanted:
        raise UserError(f"none of {list(targets or [])} is a target; the targets are {[t.name for t in task.targets]}")
    return [judge_rows(examples, predictions, target, top_k) for target in wanted]


def score_target(rows: JudgedRows, clusters: np.ndarray, resamples: int, seed: int) -> dict[str, dict]:
    """Return value and interval of each metric of one target."""
    statistics = {name: intervals.mean_statistic(column) for name, column in rows.columns.items()}
    for metric in METRICS.values():
        if rows.kind in metric.kinds and metric.statistic and (statistic := metric.statistic(rows)):
            statistics[metric.name] = statistic
    every_row_once = np.ones((1, len(rows.truth)))
    values = {name: float(statistic(every_row_once)[0]) for name, statistic in statistics.items()}
    shares = [name for name in statistics if find_metric(name).is_share]
    ends = {name: intervals.share_interval(rows.columns[name], clusters) for name in shares}
    if resamples:
        resampled = {name: statistic for name, statistic in statistics.items() if name not in shares}
        ends |= intervals.bootstrap(resampled, clusters, resamples=resamples, seed=seed)
    order = list(METRICS)
    entries = {}
    for name in sorted(values, key=lambda name: order.index(name) if name in METRICS else len(order)):
        metric = find_metric(name)
        low, high = (None if end is None or math.isnan(end) else end for end in ends.get(name, (None, None)))
        entries[name] = {
            "value": values[name],
            "low": low,
            "high": high,
            "unit": rows.unit if metric.unit == TARGET_UNIT else "",
            "higher_is_better": metric.higher_is_better,
            "n": len(rows.truth),
        }
    return entries


def per_class(rows: JudgedRows) -> list[dict]:
    """Return precision, recall, F1, rows and answers of each class that occurs, from scikit-learn."""
    from sklearn.metrics import precision_recall_fscore_support

    labels = occurring_labels(rows)
    precision, recall, f1, support = precision_recall_fscore_support(
        rows.truth, rows.answers, labels=labels, zero_division=0
    )
    answered = [rows.answers.count(label) for label in labels]
    return [
        {"class": label, "precision": p, "recall": r, "f1": f, "rows": int(s), "answers": a}
        for label, p, r, f, s, a in zip(labels, precision, recall, f1, support, answered, strict=True)
    ]


def write_run(
    folder: str | Path,
    examples: Sequence[Example],
    predictions: Mapping[str, Prediction],
    task: Task,
    *,
    judged: Sequence[JudgedRows] | None = None,
    **options: Any,
) -> dict:
    """Write the files of one predictor that later stages need, and return its metrics.

    Writes predictions.jsonl, metrics.json, row_scores.csv (id, group, every per-row value, for paired comparisons),
    per_class_TARGET.csv and samples.json (the first rows by id, not selected). `options` are those of `score`.
    """
    folder = Path(folder)
    if judged is None:
        judged = judge(examples, predictions, task, options.get("targets"), options.get("top_k", TOP_K))
    result = score(examples, predictions, task, judged=judged, **options)
    write_predictions(folder / PREDICTIONS_FILE, (predictions[example.id] for example in examples))
    write_row_scores(folder / ROWS_FILE, examples, judged)
    for rows in judged:
        if rows.kind == "class":
            _write_csv(folder / f"per_class_{rows.target}.csv", per_class(rows))
    shown = sorted(examples, key=lambda example: example.id)[:SAMPLES]
    samples = [
        {"id": e.id, "prompt": e.prompt, "answer": e.answer, "target": e.target}
        # with --ask choices, each of the prompt's last lines belongs to a choice, in this order
        | ({"choices": [question.choice for question in e.questions]} if e.questions[0].choice is not None else {})
        for e in shown
    ]
    files.write_json(folder / SAMPLES_FILE, {"template": task.template.text, "samples": samples})
    files.write_json(folder / METRICS_FILE, result)
    return result


def write_row_scores(path: Path, examples: Sequence[Example], judged: Sequence[JudgedRows]) -> None:
    """Write a line per row: id, group, and per target truth, answer, the worth of each choice, and every score."""
    table = [{"id": example.id, "group": example.group} for example in examples]
    for rows in judged:
        columns = {"true": rows.truth, "answer": ["" if _is_missing(answer) else answer for answer in rows.answers]}
        if rows.confidences is not None:
            columns["confidence"] = rows.confidences.tolist()
        if "regret" in rows.columns:
            worths = (zip(e.choices[rows.target], e.values[rows.target], strict=True) for e in examples)
            columns["worth"] = [json.dumps(dict(worth)) for worth in worths]  # {"5775": 594.0, "5530": 431.0}
        for name, column in (columns | {name: column.tolist() for name, column in rows.columns.items()}).items():
            for line, value in zip(table, column, strict=True):
                line[f"{rows.target}/{name}"] = f"{value:.12g}" if isinstance(value, float) else value
    _write_csv(path, table)


def _is_missing(answer: str | float) -> bool:
    return answer == INVALID or (isinstance(answer, float) and math.isnan(answer))


def _write_csv(path: Path, table: list[dict]) -> None:
    with files.atomic_write(path) as handle:
        writer = files.SheetWriter(handle)
        writer.writerow(table[0])
        for row in table:
            writer.writerow(row.values())
